"""What came of predictions: joined with the prediction log, and figures of it with their intervals."""

from mlops.outcomes.figure import OutcomeFigure
from mlops.outcomes.figures import Lengths, outcome_figures, pnl_figures
from mlops.outcomes.joined import JoinedRows, joined_rows

__all__ = ["JoinedRows", "Lengths", "OutcomeFigure", "joined_rows", "outcome_figures", "pnl_figures"]
