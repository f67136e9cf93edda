"""What the figures of trained models mean, in one paragraph, each sentence from its own figure."""

from collections.abc import Iterator, Sequence

from mlops.package import Metric
from mlops.training.fitting import TrainedModel, always_long

#: Standard errors from one half up to which an AUC says nothing.
_CHANCE = 2.0


def comment(models: Sequence[TrainedModel]) -> str:
    """Says how well the models of one data set rank days that they were not fitted on, and what to make of it.

    Parameters
    ----------
    models : sequence of TrainedModel
        At least one, all of one data set.
    """
    found = {part: _aucs(models, part) for part in ("validation", "test")}
    beyond = [
        (model, part, figure)
        for part, figures in found.items()
        for model, figure in figures.items()
        if not _is_near_chance(figure)
    ]
    sentences = [_count(models, part, figures) for part, figures in found.items()]
    if any(found.values()):
        sentences.extend(_suspicions(beyond, sum(map(len, found.values()))) if beyond else (_EXPECTED,))
    sentences.append(_yardstick(models))
    sentences.append("These models are there to be served, not traded.")
    return " ".join(sentences)


_EXPECTED = "That is what to expect: daily prices say next to nothing about the next day."


def _aucs(models: Sequence[TrainedModel], part: str) -> dict[str, Metric]:
    """The AUC of each model that has one, by kind."""
    figures = ((model.kind, model.metrics[part].get("auc")) for model in models)
    return {kind: figure for kind, figure in figures if figure is not None}


def _is_near_chance(figure: Metric) -> bool:
    # A perfect ranking has no standard error, and is the most suspicious of all.
    return abs(figure.value - 0.5) <= _CHANCE * (figure.standard_error or 0.0)


def _count(models: Sequence[TrainedModel], part: str, figures: dict[str, Metric]) -> str:
    days = f"{len(models[0].split.parts()[part])} {part} days"
    if not figures:
        return f"AUC is undefined on the {days}."
    near = sum(map(_is_near_chance, figures.values()))
    absent = len(models) - len(figures)
    return (
        f"On the {days}, {near} of {len(figures)} models have an AUC within two standard errors of 0.5"
        + (f", {absent} {'has' if absent == 1 else 'have'} none" if absent else "")
        + "."
    )


def _suspicions(beyond: Sequence[tuple[str, str, Metric]], looked_at: int) -> Iterator[str]:
    for kind, part, figure in beyond:
        side = "above" if figure.value > 0.5 else "below"
        if error := figure.standard_error:
            distance = f"{abs(figure.value - 0.5) / error:.1f} standard errors {side} 0.5"
            yield f"{kind} has {figure.value:.3f}±{error:.3f} on {part}, {distance}."
        else:
            yield f"{kind} has {figure.value:.3f} on {part}, {side} 0.5 and without a standard error."
    if any(figure.value > 0.5 for _, _, figure in beyond):
        yield (
            "Daily prices are not expected to rank days better than chance: suspect a look ahead first, then the data "
            "(stale prices, splits that are not adjusted for),"
        )
    else:
        yield "Ranking days worse than chance: suspect a change between the parts, or labels the wrong way round,"
    yield f"then luck: one figure in twenty lies that far out by chance, and {looked_at} were looked at."


def _yardstick(models: Sequence[TrainedModel]) -> str:
    """The most accurate model on test days beside the share that one side of the market gives for nothing."""
    split = models[0].split
    share = float(split.test.labels.mean())
    best = max(models, key=lambda model: model.metrics["test"]["accuracy"].value)
    figure, idle = best.metrics["test"]["accuracy"], always_long(split)["test"]["accuracy"]
    margin = figure.value - idle.value
    if margin <= 0:
        verdict = "no model is more accurate"
    elif figure.standard_error is not None and margin > _CHANCE * figure.standard_error:
        verdict = f"{best.kind} is right on {figure.value:.1%}, more than two standard errors beyond that"
    else:
        verdict = f"the most accurate model, {best.kind}, is right on {figure.value:.1%}, no clear difference"
    return (
        f"Prices rose on {share:.1%} of the test days, and knowing no more than how often they rose in training is "
        f"right on {idle.value:.1%}; {verdict}."
    )
