"""The rest of the deployment checklist: which package it is, that bad answers are withheld, that drift can be seen."""

from mlops.package import Manifest, OutputRule, Package
from mlops.registry.gates.report import Fact, GateResult

#: Policies that keep a bad value from the caller.
_WITHHOLDING = ("reject", "fallback")
_BLOCKS = 50


def version_gate(registered: Manifest, package: Package | None, refusal: str) -> GateResult:
    """The package at hand is the one that was registered, byte for byte.

    Parameters
    ----------
    package : Package or None
        None where it could not be read.
    refusal : str
        Why it was refused; empty where there is none.
    """
    name, wanted = "version_tracked", registered.digest
    if package is None and not refusal:
        return GateResult(name, "inconclusive", "the package is not here to be checked", {"registered": wanted})
    if package is None:
        return GateResult(name, "fail", refusal, {"registered": wanted})
    facts: dict[str, Fact] = {"registered": wanted, "digest": package.digest, "files": len(package.manifest.files)}
    if package.digest != wanted:
        return GateResult(name, "fail", f"the package here is {package.digest}, {wanted} was registered", facts)
    return GateResult(name, "pass", f"digest {wanted} covers all {facts['files']} files", facts)


def output_rules_gate(manifest: Manifest) -> GateResult:
    """Every output that decides a trade has a rule that withholds bad values: seeds' `output validation enabled`.

    Those are the outputs of signal and confidence, or all where neither is defined.
    """
    mapped = {mapping.output for mapping in (manifest.signal, manifest.confidence) if mapping is not None}
    names = sorted(mapped or {spec.name for spec in manifest.outputs})
    rules: dict[str, list[OutputRule]] = {
        name: [rule for rule in manifest.output_rules if rule.output == name] for name in names
    }
    facts: dict[str, Fact] = {"outputs": len(names), "rules": sum(map(len, rules.values()))}
    bare = [name for name in names if not rules[name]]
    if bare:
        return GateResult("output_rules", "fail", f"no output rule for {', '.join(bare)}", facts)
    open_ended = [name for name in names if not any(rule.policy in _WITHHOLDING for rule in rules[name])]
    if open_ended:
        text = f"rules for {', '.join(open_ended)} only flag: the value leaves all the same"
        return GateResult("output_rules", "inconclusive", text, facts)
    return GateResult("output_rules", "pass", f"bad values of {', '.join(names)} are withheld", facts)


def monitoring_gate(package: Package | None) -> GateResult:
    """The baseline can carry a decision on drift, of inputs and of outputs."""
    name = "monitoring"
    if package is None or package.baseline is None:
        return GateResult(name, "inconclusive", "there is no verified package with a baseline")
    manifest, inputs, outputs = package.manifest, package.baseline.inputs, package.baseline.outputs
    facts: dict[str, Fact] = {"inputs": inputs.dataset, "input_blocks": len(inputs.blocks)}
    if outputs is None:
        return GateResult(name, "inconclusive", "outputs have no baseline: their drift cannot be seen", facts)
    facts |= {"outputs": outputs.dataset, "output_blocks": len(outputs.blocks)}
    trained_on = manifest.datasets[inputs.dataset]
    if manifest.datasets[outputs.dataset].fingerprint == trained_on.fingerprint:
        text = f"the baseline of outputs is from {outputs.dataset}, the rows that the model was trained on"
        return GateResult(name, "fail", text, facts)
    for what, reference in (("inputs", inputs), ("outputs", outputs)):
        if reference.order != "time" or len(reference.blocks) < _BLOCKS:
            text = (
                f"{what}: {len(reference.blocks)} blocks of {reference.order} order, {_BLOCKS} in time order are needed"
            )
            return GateResult(name, "inconclusive", text, facts, float(_BLOCKS))
    text = f"inputs from {inputs.dataset}, outputs from {outputs.dataset}, in at least {_BLOCKS} blocks over time"
    return GateResult(name, "pass", text, facts, float(_BLOCKS))
