"""Memories of constant size for long histories: linear attention, delta rules, test-time training, PRISM."""

from reclib.memory.deltanet import DeltaNet
from reclib.memory.deltaproduct import DeltaProduct
from reclib.memory.layers import MemoryConfig, MemoryLayer, MemoryState
from reclib.memory.linear_attention import LinearAttention
from reclib.memory.prism import Prism, PrismLinear, PrismWithoutErase, PrismWithoutGain, PrismWithoutGelu
from reclib.memory.recommender import MemoryRecommender
from reclib.memory.test_time_training import TestTimeTraining

__all__ = [
    "DeltaNet",
    "DeltaProduct",
    "LinearAttention",
    "MemoryConfig",
    "MemoryLayer",
    "MemoryRecommender",
    "MemoryState",
    "Prism",
    "PrismLinear",
    "PrismWithoutErase",
    "PrismWithoutGain",
    "PrismWithoutGelu",
    "TestTimeTraining",
]
