"""Recommenders that think before they rank."""

from reclib.reasoning.align import ChainGRPO, ItemGRPO
from reclib.reasoning.backbones import (
    Backbone,
    ThinkingDecoder,
    ThinkingGRU4Rec,
    ThinkingHSTU,
    ThinkingSASRec,
)
from reclib.reasoning.diffureason import (
    AlignmentLoss,
    DiffuReason,
    DiffuReasonConfig,
    DiffuReasonLoss,
    PureNoiseDiffuReason,
    TeacherForcedDiffuReason,
)
from reclib.reasoning.dreamrec import DreamRec, DreamRecConfig, MendedDreamRec, dreamrec_loss
from reclib.reasoning.rearec import PRLLoss, ReaRec
from reclib.reasoning.reasoning_to_rank import ReasoningToRank, ReasoningToRankConfig
from reclib.reasoning.think import ThinkConfig, Thinker, think_loss

__all__ = [
    "AlignmentLoss",
    "Backbone",
    "ChainGRPO",
    "DiffuReason",
    "DiffuReasonConfig",
    "DiffuReasonLoss",
    "DreamRec",
    "DreamRecConfig",
    "ItemGRPO",
    "MendedDreamRec",
    "PRLLoss",
    "PureNoiseDiffuReason",
    "ReaRec",
    "ReasoningToRank",
    "ReasoningToRankConfig",
    "TeacherForcedDiffuReason",
    "ThinkConfig",
    "Thinker",
    "ThinkingDecoder",
    "ThinkingGRU4Rec",
    "ThinkingHSTU",
    "ThinkingSASRec",
    "dreamrec_loss",
    "think_loss",
]
