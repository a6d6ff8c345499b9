"""Generative retrieval by the protocol: tokenize a log's items, train a generator on the codes, rank items.

Chapters 04 and 05, `python -m reclib tokenize` and `python -m reclib train tiger` call these functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from reclib.data.interactions import Interactions, Split
from reclib.experiments.protocol import Recipe, fit_by_validation
from reclib.generation import (
    DecoderOnly,
    DecoderOnlyConfig,
    EncoderDecoder,
    EncoderDecoderConfig,
    GenerativeRecommender,
    next_code_loss,
)
from reclib.tokenizers import (
    RQVAE,
    BalancedRQKMeans,
    BalancedRQKMeansConfig,
    RQKMeans,
    RQKMeansConfig,
    RQVAEConfig,
    SemanticIds,
    SentenceEncoder,
    TfidfSvd,
    UniSID,
    UniSIDConfig,
    item_text,
)
from reclib.tokenizers.content import item_content
from reclib.training import FitResult, SequenceBatches

TOKENIZERS = ("rqkmeans", "rqvae", "balanced", "unisid")
GENERATORS = ("tiger", "tiger_decoder")


@dataclass(frozen=True)
class GenerativeRecipe(Recipe):
    """How a generator is trained and asked."""

    max_len: int = 20  # longest history; it has three to five tokens per item
    heads: int = 4
    batch_size: int = 16  # sequences
    lr: float = 3e-3  # peak
    beta2: float = 0.98  # of AdamW; codes are never rare
    valid_users: int = 1000  # beam search costs more than a matrix product
    beam: int = 20  # sequences kept at every level; items outside the beam share the last places


@dataclass(frozen=True)
class TokenizerRecipe:
    """The code budget, the same for all tokenizers of a comparison."""

    levels: int = 3
    codes: int = 256
    dim: int = 64  # of the item vectors (TF-IDF + SVD), or of UniSID's transformer
    sentence_model: str | None = None  # folder or package of a sentence-transformers model, in the place of TF-IDF


def item_vectors(log: Interactions, recipe: TokenizerRecipe, seed: int) -> Float[Tensor, "items dim"]:
    """A vector per item from its text."""
    texts = item_text(log.items)
    if recipe.sentence_model is not None:
        return _sentence_vectors(recipe.sentence_model, tuple(texts))
    return TfidfSvd(recipe.dim, seed).fit_transform([text or "unknown" for text in texts])


@lru_cache(maxsize=2)  # minutes of work that no seed changes
def _sentence_vectors(model: str, texts: tuple[str, ...]) -> Float[Tensor, "items dim"]:
    return SentenceEncoder(model).fit_transform(texts)


def tokenize(
    name: str, train: Interactions, recipe: TokenizerRecipe, seed: int, *, progress: bool = True
) -> SemanticIds:
    """Semantic IDs of all items of a log, before de-duplication.

    Args:
        name: one of `TOKENIZERS`. UniSID reads text, attributes, category paths and neighbours in the training
            histories (`reclib.tokenizers.content`), the others a vector of each item's text.
        train: the training events, `split.train`.
        seed: of vectors, codebooks and weights.
    """
    if name not in TOKENIZERS:
        raise ValueError(f"name: {name!r} is no tokenizer; choose from {', '.join(TOKENIZERS)}")
    levels, codes = recipe.levels, recipe.codes
    if name == "unisid":
        content, config = item_content(train, levels), UniSIDConfig(levels, codes, recipe.dim, seed=seed)
        return UniSID(config).fit(content, progress=progress).encode(content)
    vectors = item_vectors(train, recipe, seed)
    if name == "rqvae":
        return RQVAE(RQVAEConfig(levels, codes, seed=seed)).fit(vectors, progress=progress).encode(vectors)
    if name == "balanced":
        return BalancedRQKMeans(BalancedRQKMeansConfig(levels, codes, seed=seed)).fit(vectors).encode(vectors)
    return RQKMeans(RQKMeansConfig(levels, codes, seed=seed)).fit(vectors).encode(vectors)


def health(ids: SemanticIds) -> dict[str, float]:
    """Collisions, usage and perplexity, as every table of this book names them."""
    rows = {"collision_rate": ids.collision_rate, "share_in_collisions": ids.share_in_collisions}
    for level in range(ids.levels):
        rows |= {f"usage@{level + 1}": ids.usage(level), f"perplexity@{level + 1}": ids.perplexity(level)}
    return rows


def random_ids(n_items: int, recipe: TokenizerRecipe, seed: int) -> SemanticIds:
    """Codes that mean nothing, with the same budget: what a tokenizer has to beat."""
    drawn = torch.randint(recipe.codes, (n_items, recipe.levels), generator=torch.Generator().manual_seed(seed))
    return SemanticIds.from_codes(drawn, (recipe.codes,) * recipe.levels, "random")


def distortion(ids: SemanticIds, vectors: Float[Tensor, "items dim"]) -> dict[str, float]:
    """Share of the vectors' variance inside the groups of items with equal codes 1 … l.

    That is what remains if each item is replaced by the mean of its group; it needs no codebook, so residual chains,
    parallel heads and other people's codes compare.
    """
    total = (vectors - vectors.mean(0)).square().sum()
    shares = {}
    for level in range(1, ids.levels + 1):
        _, group = torch.unique(ids.codes[1:, :level], dim=0, return_inverse=True)
        count = torch.bincount(group)
        mean = torch.zeros(len(count), vectors.shape[1]).index_add_(0, group, vectors) / count[:, None]
        shares[f"distortion@{level}"] = float((vectors - mean[group]).square().sum() / total)
    return shares


def build_generator(name: str, ids: SemanticIds, recipe: GenerativeRecipe) -> GenerativeRecommender:
    """An untrained generator; weights are drawn from torch's global generator."""
    r = recipe
    if name == "tiger":
        sizes = EncoderDecoderConfig(r.dim, r.layers, r.heads, 4 * r.dim, r.dropout, r.max_len)
        model: DecoderOnly | EncoderDecoder = EncoderDecoder(ids, sizes)
    elif name == "tiger_decoder":
        model = DecoderOnly(ids, DecoderOnlyConfig(r.dim, r.layers, r.heads, r.dropout, r.max_len))
    else:
        raise ValueError(f"name: {name!r} is no generator; choose from {', '.join(GENERATORS)}")
    return GenerativeRecommender(model, ids, r.beam, skip_history=r.mask_history)


def train_generator(
    name: str,
    ids: SemanticIds,
    split: Split,
    recipe: GenerativeRecipe,
    seed: int,
    *,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> tuple[GenerativeRecommender, FitResult]:
    """Train a generator on semantic IDs and keep the weights that did best on validation (NDCG@10 of items).

    Args:
        name: `tiger` (encoder–decoder) or `tiger_decoder` (decoder only).
        ids: of all items of the log; give them `deduplicated`, or colliding items cannot be told apart.
        split: training events and validation cases; the test cases are not touched.
        seed: of weights, batches and dropout.
        checkpoint: see `reclib.training.fit`.

    Raises:
        ValueError: the IDs are of another number of items.
    """
    if ids.n_items != split.train.n_items:
        raise ValueError(f"ids: {ids.n_items} items, but the log has {split.train.n_items}; tokenize this log")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_generator(name, ids, recipe)
    batches = SequenceBatches(split.train, max_len=recipe.max_len, batch_size=recipe.batch_size, seed=seed)
    result = fit_by_validation(
        model, batches, next_code_loss, split, recipe, seed, checkpoint=checkpoint, progress=progress
    )
    return model, result
