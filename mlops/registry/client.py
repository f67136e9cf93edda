"""The registry for notebooks: from a fitted estimator to a registered version, and from a version to a function."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from mlops.package import Metric, OutcomeSpec, Package, check_model
from mlops.package.datatypes import Array, numpy_dtype
from mlops.package.runtime import open_model
from mlops.registry.estimators import package_estimator
from mlops.registry.evaluation import Table
from mlops.registry.gates import GatePolicy
from mlops.registry.journal import Author, default_actor
from mlops.registry.opening import open_registry
from mlops.registry.register import Registration
from mlops.registry.registry import DEFAULT_POLICY
from mlops.registry.values import Desired, ModelFacts, RunFacts, Version
from tickserve.errors import InvalidInputError
from tickserve.home import home as default_home


class LoadedModel:
    """A verified version as a function: rows in, the model's output out, with the bits that a server answers.

    Only for models of one input. `version` says which one this is.
    """

    def __init__(self, version: Version, package: Package) -> None:
        self.version = version
        self.manifest = package.manifest
        self._run = open_model(package.model)

    def __call__(self, rows: Any) -> Array:
        """The first output for these rows.

        Parameters
        ----------
        rows : DataFrame, mapping of one row by name, or ndarray of shape (rows, n)
            Named features are put into the model's order; an array must have it already.

        Raises
        ------
        InvalidInputError
            Where features are missing or unknown, or rows are not as wide as the model's input.
        """
        [spec] = self.manifest.inputs
        array = np.ascontiguousarray(self._ordered(rows), numpy_dtype(spec.datatype))
        array = array[np.newaxis] if array.ndim == len(spec.shape) - 1 else array
        if array.shape[1:] != tuple(spec.shape[1:]) and -1 not in spec.shape[1:]:
            raise InvalidInputError(
                f"rows have shape {list(array.shape)}, the model takes {list(spec.shape)}", field=spec.name
            )
        return self._run({spec.name: array})[self.manifest.outputs[0].name]

    def _ordered(self, rows: Any) -> Any:
        names = self.manifest.feature_names
        given = rows.columns if hasattr(rows, "columns") else rows.keys() if isinstance(rows, Mapping) else None
        if given is None:
            return rows
        if set(given) != set(names) or len(list(given)) != len(names):
            missing, unknown = sorted(set(names) - set(given)), sorted(map(str, set(given) - set(names)))
            raise InvalidInputError(
                f"the features are not those of version {self.version.version} of model {self.version.model!r}; "
                f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
            )
        return [rows[name] for name in names] if isinstance(rows, Mapping) else rows[list(names)].to_numpy()


class Client:
    """A registry, and who is using it.

    Parameters
    ----------
    url, artifacts : str
        As `open_registry`; without them the registry in TICKSERVE_HOME.
    home : Path, optional
        Instead of TICKSERVE_HOME.
    actor : str, optional
        Who changes things; the login name where not given.
    """

    def __init__(self, url: str = "", artifacts: str = "", *, home: Path | None = None, actor: str = "") -> None:
        self.registry = open_registry(home or default_home(), url, artifacts)
        self._actor = actor or default_actor()

    def log_model(
        self,
        estimator: Any,
        name: str,
        X: Any,  # noqa: N803
        *,
        X_later: Any = None,  # noqa: N803
        times: Array | None = None,
        feature_names: Sequence[str] | None = None,
        metrics: Mapping[str, Mapping[str, Metric]] | None = None,
        outcomes: OutcomeSpec | None = None,
        evaluations: Mapping[str, Table] | None = None,
        facts: ModelFacts | None = None,
        run: RunFacts | None = None,
        label: str | None = None,
        description: str = "",
        reason: str = "",
    ) -> Version:
        """Packages a fitted estimator and registers it; the same again gives the same version.

        Parameters
        ----------
        estimator, X, X_later, times, feature_names, metrics, outcomes, description
            As `package_estimator`.
        evaluations : mapping
            Per-row tables by data set: what gates compare versions on.
        facts, run, label
            As `Registration`.
        """
        with tempfile.TemporaryDirectory(prefix="tickserve-package-") as folder:
            path = package_estimator(
                estimator,
                name,
                X,
                Path(folder),
                X_later=X_later,
                times=times,
                feature_names=feature_names,
                metrics=metrics,
                outcomes=outcomes,
                description=description,
            )
            registration = Registration(facts=facts, label=label, run=run, evaluations=evaluations or {})
            return self.registry.register(path, self._author(reason), registration)

    def approve(self, name: str, version: int, reason: str, *, inconclusive: bool = False) -> Version:
        """Lets a version be promoted; with `inconclusive` also where a gate cannot decide."""
        found = self.registry.approve(name, version, self._author(reason))
        if inconclusive:
            self.registry.approve_inconclusive(name, version, self._author(reason))
        return found

    def promote(self, name: str, version: int, reason: str, policy: GatePolicy = DEFAULT_POLICY) -> Desired:
        """Makes an approved version the live one, if its gates let it."""
        return self.registry.promote(name, version, self._author(reason), policy)[0]

    def load(self, name: str, reference: str | int = "live") -> LoadedModel:
        """A verified version as a function: by number, `live`, `canary`, alias or label.

        Raises
        ------
        DamagedPackageError
            Where a stored file is not the one that was registered.
        UnknownError
            Where nothing has that name.
        """
        version = self.registry.resolve(name, reference)
        package = self.registry.fetch(version)
        check_model(package)
        return LoadedModel(version, package)

    def close(self) -> None:
        """Closes every connection."""
        self.registry.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _author(self, reason: str) -> Author:
        return Author(self._actor, reason)
