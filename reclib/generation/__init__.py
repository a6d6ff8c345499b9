"""Generative retrieval: a model writes the semantic ID of the next item, a trie keeps it valid."""

from reclib.generation.decoder_only import DecoderOnly, DecoderOnlyConfig
from reclib.generation.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from reclib.generation.recommender import GenerativeRecommender, next_code_loss
from reclib.generation.search import Beams, beam_search, sample
from reclib.generation.trie import SemanticIdTrie

__all__ = [
    "Beams",
    "DecoderOnly",
    "DecoderOnlyConfig",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "GenerativeRecommender",
    "SemanticIdTrie",
    "beam_search",
    "next_code_loss",
    "sample",
]
