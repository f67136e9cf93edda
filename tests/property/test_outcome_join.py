"""However predictions and outcomes are cut and interleaved, the joined rows and every figure are the same."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mlops.outcomes import Lengths, outcome_figures
from mlops.outcomes.join import VersionJoin
from mlops.outcomes.ledger import Ledger
from mlops.package import Horizon
from tests.support.outcomes import DAY_NS, MODEL, START_NS, Stored, declaration, make_batch

DAYS = 30
MANIFEST = declaration()


def record(position: int, up: float, day: int, request: int) -> object:
    return make_batch(
        [[up]],
        event_time_ns=[START_NS + DAY_NS * day],
        request_id=[f"request-{request}"],
        first_position=position,
    )


PROBABILITY = st.integers(1, 19).map(lambda twentieths: twentieths / 20)
RECORDS = st.lists(st.tuples(PROBABILITY, st.integers(0, DAYS - 1), st.integers(0, 15)), min_size=5, max_size=40)
OUTCOMES = st.lists(
    st.tuples(st.floats(-0.1, 0.1), st.integers(0, DAYS - 1), st.integers(0, 15), st.booleans(), st.integers(0, 3)),
    min_size=5,
    max_size=40,
)


@settings(max_examples=60)
@given(records=RECORDS, outcomes=OUTCOMES, data=st.data())
def test_figures_do_not_depend_on_who_came_first(records: list, outcomes: list, data: st.DataObject) -> None:
    batches = [record(place, up, day, request) for place, (up, day, request) in enumerate(records)]
    stored = [
        Stored(f"o{order}", value, request_id=f"request-{request}", available_at_ns=available, order=order)
        if by_request
        else Stored(
            f"o{order}",
            value,
            model=MODEL,
            entity="SPX",
            event_time_ns=START_NS + DAY_NS * day,
            available_at_ns=available,
            order=order,
        )
        for order, (value, day, request, by_request, available) in enumerate(outcomes)
    ]
    # Records keep their order, outcomes may come in any, and they interleave as they like.
    shuffled = data.draw(st.permutations(stored))
    turns = data.draw(st.permutations([True] * len(batches) + [False] * len(stored)))
    assert join(batches, shuffled, turns) == join(batches, stored, [True] * len(batches) + [False] * len(stored))


def join(batches: list, outcomes: list, turns: list) -> object:
    ledger = Ledger()
    joined = VersionJoin(MANIFEST, ledger)
    coming, told = iter(batches), iter(outcomes)
    for is_record in turns:
        if is_record:
            joined.add(next(coming))
        else:
            joined.resolve(ledger.add(next(told)))
    rows = joined.rows("1d")
    found = outcome_figures(rows, MANIFEST, "1", Horizon(name="1d", periods=1), Lengths(window=25, rolling=(5,)))
    columns = (rows.time_ns, rows.key, rows.prediction, rows.value)
    content = [tuple(map(str, each)) for each in zip(*columns, strict=True)]
    return content, found


def test_batches_may_be_cut_anywhere() -> None:
    from mlops.prediction_log import concatenate

    batches = [record(place, 0.3 + 0.01 * place, place, place) for place in range(25)]
    outcomes = [
        Stored(f"o{day}", 0.01 * (-1) ** day, model=MODEL, entity="SPX", event_time_ns=START_NS + DAY_NS * day)
        for day in range(25)
    ]
    one = join([concatenate(batches)], outcomes, [True] + [False] * 25)
    assert one == join(batches, outcomes, [True] * 25 + [False] * 25)
    assert one == join(batches, [replace(each, order=9) for each in outcomes], [False] * 25 + [True] * 25)
