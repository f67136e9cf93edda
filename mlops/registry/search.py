"""Lists of models and versions, in pages, and searches."""

from collections.abc import Sequence

from sqlalchemy import Connection, and_, func, or_, select

from mlops.package.manifest import MAX_INTEGER
from mlops.registry.desired import read_desired
from mlops.registry.lookup import as_version, check_label, label_key, require_model
from mlops.registry.schema import audit, model_tags, models, versions
from mlops.registry.values import Change, Model, ModelFacts, Status, Version
from tickserve.errors import RegistryArgumentError

#: Rows of one page.
PAGE = 100
_LARGEST_PAGE = 10_000


def read_model(connection: Connection, name: str) -> Model:
    """One model, or UnknownError."""
    row = require_model(connection, name)
    tags = connection.execute(select(model_tags).where(model_tags.c.model == name).order_by(model_tags.c.tag))
    newest = connection.execute(select(func.max(versions.c.version)).where(versions.c.model == name)).scalar_one()
    desired = read_desired(connection, name)
    return Model(
        name=name,
        facts=ModelFacts(
            row.strategy_type, row.universe, row.model_type, row.description, {tag.tag: tag.value for tag in tags}
        ),
        created_at=row.created_at,
        newest=newest,
        live=desired.state.named("stable") if desired else None,
    )


def search(
    connection: Connection,
    text: str = "",
    *,
    strategy_type: str | None = None,
    universe: str | None = None,
    model_type: str | None = None,
    tags: Sequence[tuple[str, str]] = (),
    after: str = "",
    limit: int = PAGE,
) -> list[Model]:
    """One page of models that match everything given, by name, from behind `after` on.

    `text` is looked for in name and description, in any case.
    """
    query = select(models.c.name).where(models.c.name > after).order_by(models.c.name).limit(_page(limit))
    if text:
        query = query.where(
            or_(models.c.name.icontains(text, autoescape=True), models.c.description.icontains(text, autoescape=True))
        )
    for column, wanted in (
        (models.c.strategy_type, strategy_type),
        (models.c.universe, universe),
        (models.c.model_type, model_type),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    for tag, value in tags:
        has_tag = and_(model_tags.c.model == models.c.name, model_tags.c.tag == tag, model_tags.c.value == value)
        query = query.where(select(model_tags.c.tag).where(has_tag).exists())
    return [read_model(connection, name) for name in connection.execute(query).scalars().all()]


def list_versions(
    connection: Connection,
    model: str,
    *,
    before: int | None = None,
    status: Status | None = None,
    limit: int = PAGE,
) -> list[Version]:
    """One page of a model's versions, newest first, from below `before` on; deleted ones only where asked for."""
    require_model(connection, model)
    query = select(versions).where(versions.c.model == model).order_by(versions.c.version.desc()).limit(_page(limit))
    query = query.where(versions.c.status == status if status else versions.c.status != Status.DELETED)
    if before is not None:
        query = query.where(versions.c.version < _within(before))
    return [as_version(row) for row in connection.execute(query)]


def list_labelled(connection: Connection, model: str, *, after: str = "", limit: int = PAGE) -> list[Version]:
    """One page of a model's versions that have a label, in the order of semantic versions, from behind `after` on."""
    require_model(connection, model)
    rows = connection.execute(select(versions).where(versions.c.model == model, versions.c.label.is_not(None)))
    found = sorted((as_version(row) for row in rows), key=lambda version: label_key(version.label or ""))
    if after:
        behind = label_key(check_label(after))
        found = [version for version in found if label_key(version.label or "") > behind]
    return found[: _page(limit)]


def history(
    connection: Connection,
    model: str | None = None,
    version: int | None = None,
    *,
    before: int | None = None,
    limit: int = PAGE,
) -> list[Change]:
    """One page of what was changed, newest first, from below sequence `before` on."""
    columns = [column for column in audit.columns if column.name not in ("body", "previous", "hash")]
    query = select(*columns).order_by(audit.c.sequence.desc()).limit(_page(limit))
    if model is not None:
        require_model(connection, model)
        query = query.where(audit.c.model == model)
    if version is not None:
        query = query.where(audit.c.version == _within(version))
    if before is not None:
        query = query.where(audit.c.sequence < _within(before))
    return [Change(*row) for row in connection.execute(query)]


def _within(number: int) -> int:
    """The number, or beyond what a database can look for the one next to all that it can hold."""
    return max(-1, min(number, MAX_INTEGER + 1))


def _page(limit: int) -> int:
    if not 1 <= limit <= _LARGEST_PAGE:
        raise RegistryArgumentError(f"a page has 1 to {_LARGEST_PAGE} rows, not {limit}", field="limit")
    return limit
