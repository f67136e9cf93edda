"""What a model is for: strategy type, universe, model type, description and tags."""

from collections.abc import Mapping

from sqlalchemy import select

from mlops.package import Manifest
from mlops.registry.columns import check_text
from mlops.registry.journal import Write
from mlops.registry.schema import model_tags, models
from mlops.registry.values import ModelFacts

#: Tags of a manifest that say what a model is for, where the registration does not.
_FACT_TAGS = ("strategy_type", "universe", "model_type")


def ensure_model(write: Write, manifest: Manifest, facts: ModelFacts | None) -> None:
    """Makes the model where it is new, by these facts or the manifest's; a known one gets the facts that are given."""
    known = write.connection.execute(select(models.c.name).where(models.c.name == manifest.name)).one_or_none()
    if known is not None:
        if facts is not None:
            set_facts(write, manifest.name, facts)
        return
    tags = dict(manifest.tags)
    found = facts or ModelFacts(
        strategy_type=tags.get("strategy_type", ""),
        universe=tags.get("universe", ""),
        model_type=tags.get("model_type", ""),
        description=manifest.description,
        tags={tag: value for tag, value in tags.items() if tag not in _FACT_TAGS},
    )
    write.insert(
        models,
        name=manifest.name,
        strategy_type=check_text("strategy_type", found.strategy_type),
        universe=check_text("universe", found.universe),
        model_type=check_text("model_type", found.model_type or manifest.training.estimator),
        description=check_text("description", found.description),
        created_at=write.at,
    )
    set_tags(write, manifest.name, found.tags)


def set_facts(write: Write, model: str, facts: ModelFacts) -> None:
    """Replaces what a model is for, its tags included."""
    row = write.connection.execute(select(models).where(models.c.name == model)).one()
    wanted = {name: getattr(facts, name) for name in (*_FACT_TAGS, "description")}
    changes = {name: check_text(name, value) for name, value in wanted.items() if getattr(row, name) != value}
    if changes:
        write.update(models, {"name": model}, **changes)
    set_tags(write, model, facts.tags)


def set_tags(write: Write, model: str, tags: Mapping[str, str]) -> None:
    """Makes these the model's tags, and no others."""
    rows = write.connection.execute(select(model_tags).where(model_tags.c.model == model))
    known = {row.tag: row.value for row in rows}
    for tag, value in tags.items():
        check_text("tag", tag + value)
        if tag not in known:
            write.insert(model_tags, model=model, tag=tag, value=value)
        elif known[tag] != value:
            write.update(model_tags, {"model": model, "tag": tag}, value=value)
    for tag in known.keys() - tags.keys():
        write.delete(model_tags, {"model": model, "tag": tag})
