"""Language models behind one interface: a tiny one that trains on a laptop, and any of Hugging Face's."""

from reclib.language.hugging_face import HuggingFaceLM
from reclib.language.interface import Generated, LanguageModel, pad
from reclib.language.supervised import CompletionBatch, CompletionBatches, Example, completion_loss, example
from reclib.language.tiny import TinyLM, TinyLMConfig
from reclib.language.vocabulary import Vocabulary

__all__ = [
    "CompletionBatch",
    "CompletionBatches",
    "Example",
    "Generated",
    "HuggingFaceLM",
    "LanguageModel",
    "TinyLM",
    "TinyLMConfig",
    "Vocabulary",
    "completion_loss",
    "example",
    "pad",
]
