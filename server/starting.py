"""Whether a server that starts has what it must serve."""

from collections.abc import Sequence

from server.models import ModelRecord, Snapshot
from tickserve.errors import PackageError


def is_loaded(snapshot: Snapshot, *, where: str, required: Sequence[str], serve_rest: bool) -> bool:
    """Whether the required models answer; all of them where none is named. False while they are still loading.

    A model that goes on with what it served before the restart is there, whatever became of the version that is wanted;
    and one that serves what is wanted is, whatever became of the versions beside it.

    Raises
    ------
    PackageError
        Where desired state cannot be read, where there is no model, or where one that is required cannot be served.
        With `serve_rest` any model that answers is enough.
    """
    if snapshot.source_error and not snapshot.models:
        raise PackageError(f"models cannot be read: {snapshot.source_error}", field="models")
    if not snapshot.models:
        raise PackageError(
            f"no models in {where}; expected <model>/<version>/ with a package or a model.onnx"
            if where != "the registry"
            else "no model in the registry has a desired state; promote a version",
            field="models",
        )
    missing = sorted(set(required) - {record.name for record in snapshot.models})
    if missing and not serve_rest:
        raise PackageError(f"required_models: {where} has no {', '.join(missing)}", field="required_models")
    needed = [record for record in snapshot.models if not required or record.name in required]
    failures = [
        f"model {record.name!r}, version {change.version}: {change.error.message}"
        for record in needed
        if not _is_loading(snapshot, record) and not record.went_back and not _is_as_wanted(record)
        for change in record.failed.values()
    ]
    if failures and not serve_rest:
        raise PackageError(f"{'; '.join(failures)}. Use --serve-rest to serve the others", field="models")
    if any(record.plan is None and (_is_loading(snapshot, record) or not record.failed) for record in needed):
        return False
    if not snapshot.plan.models:
        raise PackageError(f"no model can be served: {'; '.join(failures)}", field="models")
    return True


def _is_loading(snapshot: Snapshot, record: ModelRecord) -> bool:
    return any(name == record.name for name, _ in snapshot.loading)


def _is_as_wanted(record: ModelRecord) -> bool:
    """Whether requests go where they should: pins, shadow and fallback hold nothing up."""
    if record.target is None or not record.desired.targets:
        return False
    return record.target.shares == record.desired.targets[0].shares
