"""Training: batches of sequences and one visible loop."""

from reclib.training.batches import SequenceBatch, SequenceBatches
from reclib.training.loop import FitConfig, FitResult, fit

__all__ = ["FitConfig", "FitResult", "SequenceBatch", "SequenceBatches", "fit"]
