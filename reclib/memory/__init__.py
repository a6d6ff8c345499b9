"""Memories of constant size for long histories: linear attention, delta rules, test-time training, PRISM, Rec2PM."""

from reclib.memory.deltanet import DeltaNet
from reclib.memory.deltaproduct import DeltaProduct
from reclib.memory.kv_memory import KVMemory, OverwriteKVMemory
from reclib.memory.layers import MemoryConfig, MemoryLayer, MemoryState
from reclib.memory.linear_attention import LinearAttention
from reclib.memory.memory_store import MemoryStore
from reclib.memory.pooled_memory import PooledMemory
from reclib.memory.prism import Prism, PrismLinear, PrismWithoutErase, PrismWithoutGain, PrismWithoutGelu
from reclib.memory.rec2pm import AppendRec2PM, OneTimeRec2PM, Rec2PM, Rec2PMLoss
from reclib.memory.recommender import MemoryRecommender
from reclib.memory.segments import SegmentConfig, SegmentModel
from reclib.memory.test_time_training import TestTimeTraining
from reclib.memory.token_memory import AppendTokenMemory, TokenMemory

__all__ = [
    "AppendRec2PM",
    "AppendTokenMemory",
    "DeltaNet",
    "DeltaProduct",
    "KVMemory",
    "LinearAttention",
    "MemoryConfig",
    "MemoryLayer",
    "MemoryRecommender",
    "MemoryState",
    "MemoryStore",
    "OneTimeRec2PM",
    "OverwriteKVMemory",
    "PooledMemory",
    "Prism",
    "PrismLinear",
    "PrismWithoutErase",
    "PrismWithoutGain",
    "PrismWithoutGelu",
    "Rec2PM",
    "Rec2PMLoss",
    "SegmentConfig",
    "SegmentModel",
    "TestTimeTraining",
    "TokenMemory",
]
