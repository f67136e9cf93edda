"""Predictions meet their outcomes whichever comes first, once each, and only what was known counts."""

import numpy as np
import pytest

from mlops.outcomes.join import VersionJoin
from mlops.outcomes.ledger import Ledger, key_of
from tests.support.outcomes import DAY_NS, MODEL, START_NS, Stored, declaration, make_batch


def tell(ledger: Ledger, join: VersionJoin, outcome: Stored) -> bool:
    key = ledger.add(outcome)
    return key is not None and join.resolve(key)


def of_day(
    day: int, value: float, *, entity: str = "SPX", horizon: str = "1d", available: int = 0, order: int = 0
) -> Stored:
    return Stored(
        f"{entity}-{day}-{horizon}-{order}",
        value,
        model=MODEL,
        entity=entity,
        event_time_ns=START_NS + DAY_NS * day,
        horizon=horizon,
        available_at_ns=available,
        recorded_at_ns=available,
        order=order,
    )


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def join(ledger: Ledger) -> VersionJoin:
    return VersionJoin(declaration(), ledger)


def test_rows_are_named_by_entity_and_time_or_by_request(ledger: Ledger, join: VersionJoin) -> None:
    join.add(make_batch([[0.6], [0.7, 0.4]], entities=[("SPX",), ("A", "B")]))
    assert tell(ledger, join, of_day(0, 0.01))
    assert tell(ledger, join, Stored("by request", -0.02, request_id="request-1", row=1))
    rows = join.rows("1d")
    assert rows.entity.tolist() == ["SPX", "B"]
    assert rows.value.tolist() == [0.01, -0.02]
    np.testing.assert_allclose(rows.signal, [0.2, -0.2], atol=1e-7)
    np.testing.assert_allclose(rows.features, [[0.6, -0.6], [0.4, -0.4]], atol=1e-7)
    assert (join.joined, join.waiting) == (2, 1)


def test_an_outcome_may_come_before_its_prediction(ledger: Ledger, join: VersionJoin) -> None:
    assert not tell(ledger, join, of_day(0, 0.01))
    assert not tell(ledger, join, Stored("early", 0.02, request_id="request-1"))
    assert join.add(make_batch([[0.6], [0.7], [0.8]])) == 2
    assert join.rows("1d").value.tolist() == [0.01, 0.02]


def test_horizons_are_apart(ledger: Ledger, join: VersionJoin) -> None:
    join.add(make_batch([[0.6]]))
    tell(ledger, join, of_day(0, 0.01))
    tell(ledger, join, of_day(0, 0.05, horizon="5d"))
    assert join.rows("1d").value.tolist() == [0.01]
    assert join.rows("5d").value.tolist() == [0.05]
    assert len(join.rows("20d")) == 0


def test_the_correction_that_became_available_last_counts_in_any_order(ledger: Ledger, join: VersionJoin) -> None:
    join.add(make_batch([[0.6]]))
    tell(ledger, join, of_day(0, 0.03, available=20, order=1))
    tell(ledger, join, of_day(0, 0.01, available=10, order=2))
    assert join.rows("1d").value.tolist() == [0.03]
    tell(ledger, join, of_day(0, 0.04, available=20, order=3))
    assert join.rows("1d").value.tolist() == [0.04]


def test_a_correction_may_name_the_row_the_other_way(ledger: Ledger, join: VersionJoin) -> None:
    join.add(make_batch([[0.6]]))
    tell(ledger, join, of_day(0, 0.01, available=10))
    tell(ledger, join, Stored("correction", 0.02, request_id="request-0", available_at_ns=20))
    assert join.rows("1d").value.tolist() == [0.02]


@pytest.mark.parametrize(("as_of", "known"), [(9, []), (10, [0.01]), (29, [0.01]), (30, [0.02])])
def test_as_known_at_takes_what_was_recorded_and_available_by_then(as_of: int, known: list[float]) -> None:
    ledger = Ledger(as_of)
    join = VersionJoin(declaration(), ledger)
    join.add(make_batch([[0.6]]))
    tell(ledger, join, of_day(0, 0.01, available=10))
    correction = Stored("later", 0.02, request_id="request-0", available_at_ns=20, recorded_at_ns=30)
    tell(ledger, join, correction)
    assert join.rows("1d").value.tolist() == known


def test_of_several_predictions_of_one_row_the_last_counts(ledger: Ledger, join: VersionJoin) -> None:
    times = [START_NS, START_NS]
    join.add(make_batch([[0.6], [0.9]], event_time_ns=times))
    tell(ledger, join, Stored("by the first", 0.01, request_id="request-0"))
    assert join.rows("1d").prediction.tolist() == [pytest.approx(0.9)]
    join.add(make_batch([[0.1]], event_time_ns=[START_NS], first_position=7))
    assert join.rows("1d").prediction.tolist() == [pytest.approx(0.1)]
    assert join.rows("1d").value.tolist() == [0.01]


def test_a_request_without_entity_or_time_is_a_row_of_its_own(ledger: Ledger, join: VersionJoin) -> None:
    join.add(make_batch([[0.6], [0.9]], event_time_ns=[0, 0], entities=[("SPX",), ()]))
    tell(ledger, join, Stored("a", 0.01, request_id="request-0"))
    tell(ledger, join, Stored("b", 0.02, request_id="request-1"))
    rows = join.rows("1d")
    assert sorted(rows.value.tolist()) == [0.01, 0.02]
    assert set(rows.time_ns.tolist()) == {START_NS + 1000}, "when it was answered stands in for the event time"


def test_refusals_and_smoke_tests_are_nobodys_decisions(ledger: Ledger, join: VersionJoin) -> None:
    join.add(make_batch([[0.6], [0.7], [0.8]], status=[0, 9, 0], why=[1, 1, 5]))
    assert join.waiting == 1


def test_other_models_and_unknown_rows_are_not_found(ledger: Ledger, join: VersionJoin) -> None:
    join.add(make_batch([[0.6]]))
    other = Stored("other", 0.01, model="another", entity="SPX", event_time_ns=START_NS)
    assert not tell(ledger, join, other)
    assert not tell(ledger, join, of_day(0, 0.01, entity="NDX"))
    assert not tell(ledger, join, Stored("row", 0.01, request_id="request-0", row=1))
    assert join.joined == 0


def test_rows_that_wait_too_long_are_let_go_and_counted(ledger: Ledger) -> None:
    join = VersionJoin(declaration(), ledger, max_waiting=5)
    for day in range(0, 9, 3):
        join.add(
            make_batch([[0.6]] * 3, event_time_ns=[START_NS + DAY_NS * (day + i) for i in range(3)], first_position=day)
        )
    assert (join.waiting, join.let_go) == (5, 4)
    assert not tell(ledger, join, of_day(0, 0.01)), "late: the row is gone"
    assert tell(ledger, join, of_day(8, 0.01))


def test_rows_older_than_twice_the_window_are_let_go(ledger: Ledger) -> None:
    join = VersionJoin(declaration(), ledger, window=10)
    for day in range(50):
        join.add(make_batch([[0.6]], event_time_ns=[START_NS + DAY_NS * day], first_position=day))
        tell(ledger, join, of_day(day, 0.01))
    assert join.joined == 20
    assert join.rows("1d").time_ns[0] == START_NS + DAY_NS * 30
    assert ledger.bound(20, join.holds) == 30
    assert len(join.rows("1d")) == 20


def test_unknown_outcomes_are_bounded_oldest_first(ledger: Ledger, join: VersionJoin) -> None:
    join.add(make_batch([[0.6]]))
    tell(ledger, join, of_day(0, 0.01))
    for day in range(1, 11):
        tell(ledger, join, of_day(day, 0.01))
    assert ledger.bound(4, join.holds) == 7
    assert len(join.rows("1d")) == 1
    assert ledger.knows((key_of(of_day(10, 0)),))
    assert not ledger.knows((key_of(of_day(1, 0)),))


def test_inputs_cut_from_the_log_leave_gaps_in_features_only(ledger: Ledger, join: VersionJoin) -> None:
    from dataclasses import replace

    batch = make_batch([[0.6], [0.7]])
    batch = replace(batch, inputs={"features": batch.inputs["features"][1:]}, input_records=batch.input_records[1:])
    join.add(batch)
    tell(ledger, join, of_day(0, 0.01))
    tell(ledger, join, of_day(1, 0.02))
    rows = join.rows("1d")
    assert np.isnan(rows.features[0]).all()
    assert rows.features[1].tolist() == pytest.approx([0.7, -0.7])
    assert rows.value.tolist() == [0.01, 0.02]
