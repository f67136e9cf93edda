"""Alarms from the decision that is one until somebody has heard it, whoever is killed in between.

The row is written with the decision and removed once the alarm was told, so one may be told twice, and none never.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, and_, delete, insert, select

from mlops.registry.schema import rollout_decisions, rollout_untold, rollouts


@dataclass(frozen=True, slots=True)
class Alarm:
    """What people are to be told at once."""

    rollout: int
    model: str
    canary: int
    event: str
    reason: str
    sequence: int
    place: int = 0


def insert_untold(connection: Connection, rollout: int, sequence: int, place: int) -> None:
    """Says that a decision is an alarm."""
    connection.execute(insert(rollout_untold).values(rollout=rollout, sequence=sequence, place=place))


def read_untold(connection: Connection) -> tuple[Alarm, ...]:
    """The alarms that nobody has heard, as far as is known, the oldest first."""
    untold, made, of = rollout_untold.c, rollout_decisions.c, rollouts.c
    same = and_(untold.rollout == made.rollout, untold.sequence == made.sequence, untold.place == made.place)
    rows = connection.execute(
        select(of.rollout, of.model, of.canary, made.event, made.reason, made.sequence, made.place)
        .select_from(rollout_untold.join(rollout_decisions, same).join(rollouts, of.rollout == untold.rollout))
        .order_by(made.sequence, made.place)
    )
    return tuple(Alarm(*row) for row in rows)


def forget_told(connection: Connection, told: Iterable[Alarm]) -> None:
    """These were heard."""
    untold = rollout_untold.c
    for each in told:
        is_it = and_(untold.rollout == each.rollout, untold.sequence == each.sequence, untold.place == each.place)
        connection.execute(delete(rollout_untold).where(is_it))
