"""Sequential recommenders behind one interface: `score(history, time)`, and `encode` where there are hidden states."""

from reclib.backbones.counting import ItemKNN, ItemTransitions, Popularity
from reclib.backbones.gru4rec import GRU4Rec, GRU4RecConfig
from reclib.backbones.hstu import HSTU, HSTUConfig
from reclib.backbones.sasrec import SASRec, SASRecConfig
from reclib.backbones.sequence_model import NextItemLoss, SequenceModel

__all__ = [
    "HSTU",
    "GRU4Rec",
    "GRU4RecConfig",
    "HSTUConfig",
    "ItemKNN",
    "ItemTransitions",
    "NextItemLoss",
    "Popularity",
    "SASRec",
    "SASRecConfig",
    "SequenceModel",
]
