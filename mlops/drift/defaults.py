"""The specification that suits a package, when nobody gives one."""

from dataclasses import replace
from typing import Any

from mlops.drift.calibrate import calibrate
from mlops.drift.spec import CALENDAR_TAG, CROSS_SECTION_DAYS, TIMED_SUB_BLOCKS, DriftSpec, is_intraday
from mlops.package import Baseline, Manifest
from tickserve.errors import DataError


def default_spec(manifest: Manifest, baseline: Baseline, **changes: Any) -> DriftSpec:
    """One exchange session for an intraday model (the UTC day where it names no calendar), 250 rows for a daily one.

    A daily model of a cross-section has many rows a day, so it gets 84 days. Thresholds are calibrated: the larger of
    0.10 and 0.25, and what the budget needs with such windows. `changes` are entries of DriftSpec; thresholds among
    them are taken as they are.
    """
    if is_intraday(manifest, baseline):
        calendar = manifest.tags.get(CALENDAR_TAG, "")
        settings: dict[str, Any] = {"sub_blocks": TIMED_SUB_BLOCKS}
        settings |= {"kind": "session", "calendar": calendar} if calendar else {"kind": "time"}
    elif manifest.outcomes is not None and manifest.outcomes.kind == "cross_sectional":
        settings = {
            "kind": "time",
            "length_s": CROSS_SECTION_DAYS * 86_400,
            "sub_blocks": TIMED_SUB_BLOCKS,
            "lateness_s": 86_400.0,
        }
    else:
        settings = {"kind": "count"}
    spec = DriftSpec(**(settings | changes))
    if changes.keys() & {"thresholds", "column_thresholds"}:
        return spec
    try:
        return replace(spec, column_thresholds=calibrate(baseline, spec, shifts=()).thresholds())
    except DataError:
        # Without order nothing is decided, whatever the thresholds.
        return spec
