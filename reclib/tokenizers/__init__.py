"""Tokenizers: items become short sequences of codes."""

from reclib.tokenizers.balanced import BalancedRQKMeans, BalancedRQKMeansConfig
from reclib.tokenizers.encoders import SentenceEncoder, TfidfSvd, item_text
from reclib.tokenizers.rqkmeans import RQKMeans, RQKMeansConfig
from reclib.tokenizers.rqvae import RQVAE, RQVAEConfig
from reclib.tokenizers.semantic_ids import SemanticIds
from reclib.tokenizers.unisid import (
    CategoryEmbedding,
    ItemContent,
    PairEmbedding,
    PairsOnlyUniSID,
    SidOnlyUniSID,
    UniSID,
    UniSIDConfig,
    number_paths,
)

__all__ = [
    "RQVAE",
    "BalancedRQKMeans",
    "BalancedRQKMeansConfig",
    "CategoryEmbedding",
    "ItemContent",
    "PairEmbedding",
    "PairsOnlyUniSID",
    "RQKMeans",
    "RQKMeansConfig",
    "RQVAEConfig",
    "SemanticIds",
    "SentenceEncoder",
    "SidOnlyUniSID",
    "TfidfSvd",
    "UniSID",
    "UniSIDConfig",
    "item_text",
    "number_paths",
]
