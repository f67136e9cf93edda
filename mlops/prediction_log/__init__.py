"""The prediction log: every record that servers gave to their taps, in one order, durable and queryable."""

from mlops.prediction_log.batch import STAGES, Batch, concatenate

__all__ = ["STAGES", "Batch", "concatenate"]
