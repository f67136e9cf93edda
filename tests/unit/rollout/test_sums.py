"""Adding windows of servers up: only what is of one window, one share and one edge is evidence."""

import pytest

from mlops.rollout.sums import Side, drop_share, sum_outputs, sum_window
from tests.support.sums import SECOND, outputs, side, window

CANARY, STABLE = Side(2, 2), Side(1, 1)
SIDES = {"canary": CANARY, "stable": STABLE, "edge_ns": 500}


def rows(reporter: str = "here", share_bp: int = 1_000, edge_ns: int = 500) -> list[object]:
    return [
        window(reporter=reporter, edge_ns=edge_ns, share_bp=10_000 - share_bp, counts=side(9)),
        window(reporter=reporter, edge_ns=edge_ns, share_bp=share_bp, version=2, role=2, counts=side(1, failures=2)),
    ]


def test_the_windows_of_all_servers_add_up() -> None:
    found = sum_window([*rows("here"), *rows("there")], **SIDES)  # type: ignore[arg-type]
    assert found is not None
    assert (found.share_bp, int(found.canary.requests[3]), int(found.stable.requests[3])) == (1_000, 2, 18)
    assert int(found.canary.failures[0]) == 4


def test_a_server_without_requests_of_the_canary_is_of_the_same_share() -> None:
    found = sum_window([*rows("here"), rows("there")[0]], **SIDES)  # type: ignore[arg-type, list-item]
    assert found is not None
    assert (found.share_bp, int(found.stable.requests[3])) == (1_000, 18)


@pytest.mark.parametrize(
    "other",
    [
        rows("there", share_bp=2_000),
        rows("there", edge_ns=0),
        [window(reporter="there", share_bp=-1, window_ns=60 * SECOND, start_ns=0)],
    ],
    ids=["share", "edge", "mixed"],
)
def test_what_is_not_of_one_share_and_edge_everywhere_is_no_evidence(other: list[object]) -> None:
    assert sum_window([*rows("here"), *other], **SIDES) is None  # type: ignore[arg-type, list-item]


def test_nothing_of_either_side_is_no_evidence() -> None:
    assert sum_window([], **SIDES) is None  # type: ignore[arg-type]
    assert sum_window([window(version=7)], **SIDES) is None  # type: ignore[arg-type]


def test_windows_of_one_reporter_that_lie_in_anothers_longer_one_add_up() -> None:
    found = sum_window([window(edge_ns=500), window(edge_ns=500, start_ns=0)], **SIDES)  # type: ignore[arg-type]
    assert found is not None
    assert found.stable.requests.sum() == 2 * window().counts.requests.sum()


def test_two_that_saw_the_same_requests_have_the_share_that_is_said() -> None:
    seen = [
        window(version=2, role=6, edge_ns=500, share_bp=10_000, counts=side(4)),
        window(version=1, role=3, edge_ns=500, share_bp=0, counts=side(4, slow=3)),
    ]
    found = sum_window(seen, canary=Side(2, 6), stable=Side(1, 3), edge_ns=500, share_bp=5_000)
    assert found is not None
    assert (found.share_bp, int(found.stable.slow[0]), int(found.canary.requests[0])) == (5_000, 3, 4)


def test_outputs_add_up_over_time_and_servers() -> None:
    found = sum_outputs([outputs(), outputs(start_ns=20 * SECOND, reporter="there"), outputs(bins=None, unbinned=768)])
    assert found is not None
    assert found.bins is not None
    assert (found.answers, found.unbinned, int(found.bins.sum()), found.window_ns) == (2304, 768, 1536, 20 * SECOND)
    assert int(found.total_ns[4]) == 3
    assert sum_outputs([]) is None


def test_outputs_on_other_bins_do_not_add_up() -> None:
    import numpy as np

    found = sum_outputs([outputs(), outputs(bins=np.ones((256, 4), np.int64)), outputs()])
    assert found is not None
    assert (found.bins, found.unbinned, found.answers) == (None, 2304, 2304)


def test_drops_are_of_all_records_that_the_logs_had_meanwhile() -> None:
    quiet = [outputs(positions=(0, 999), missed=(5, 5)), outputs(positions=(4_000, 4_999), missed=(5, 5))]
    assert drop_share(quiet) == 0.0
    lossy = [outputs(positions=(0, 999), missed=(0, 2)), outputs(positions=(1_000, 3_995), missed=(2, 4), start_ns=0)]
    assert drop_share(lossy) == pytest.approx(4 / 4_000)
    assert drop_share([*lossy, outputs(reporter="there", positions=(0, 3_999), missed=(7, 7))]) == pytest.approx(
        4 / 8_000
    )
    assert drop_share([]) == 0.0
