"""Beam search and sampling over the trie, for whole batches, with a cache of keys and values.

At level l a beam is a prefix of l codes. All of a batch's prefixes are extended by one code in a handful of tensor
operations: the model gives the log-probabilities of the next code, the trie takes out the codes that no item has.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reclib.generation.cache import KeyValueCache
from reclib.generation.trie import SemanticIdTrie
from reclib.nn.sizes import check_at_least


@runtime_checkable
class CodeModel(Protocol):
    """A model that writes codes, one after the other: `DecoderOnly` or `EncoderDecoder`."""

    def read(self, history: Int[Tensor, "batch time"]) -> tuple[Float[Tensor, "batch 1 vocabulary"], KeyValueCache]:
        """Logits of the first code, and what was computed of the history."""

    def step(
        self, cache: KeyValueCache, token: Int[Tensor, "batch beams"], parent: Int[Tensor, "batch beams"]
    ) -> tuple[Float[Tensor, "batch beams vocabulary"], KeyValueCache]:
        """Logits of the next code of each beam, and the new cache."""


class Beams(NamedTuple):
    """Generated sequences, best first (`beam_search`) or in the order of drawing (`sample`)."""

    leaf: Int[Tensor, "batch width"]  # of the trie; -1 where there are fewer sequences than asked for
    log_prob: Float[Tensor, "batch width"]  # natural logarithm; -inf where there is none


@torch.no_grad()
def beam_search(
    model: CodeModel,
    trie: SemanticIdTrie,
    history: Int[Tensor, "batch time"],
    width: int,
    *,
    exclude: Int[Tensor, "batch some"] | None = None,
) -> Beams:
    """The `width` most probable sequences that the search meets, best first.

    A sequence's log-probability is the sum over its codes of log softmax over the whole vocabulary: what the model
    says before the trie forbids anything. With `width` at least the number of sequences, nothing is pruned and the
    result is the exact ranking.

    Args:
        model: in eval mode.
        trie: of the same semantic IDs.
        history: item ids, left-aligned, 0 pads on the right.
        width: beams kept after every level.
        exclude: items that are not wanted, such as the whole history; 0 is ignored. A prefix that leads to nothing else
            is cut off at once, so that it takes no place in the beam.
    """
    check_at_least(1, width=width)
    logits, cache = model.read(history)
    batch, device = len(history), history.device
    node = torch.zeros(batch, 1, dtype=torch.long, device=device)
    score = torch.zeros(batch, 1, device=device)
    free = None if exclude is None else trie.free_items(exclude)
    for level in range(trie.levels):
        child = trie.followers(level)[node]  # [batch, beams, codes]
        total = score[..., None] + _of_level(logits.log_softmax(-1), trie, level)
        total = total.masked_fill(child < 0, -torch.inf).flatten(1)
        if free is not None:
            alive = trie.alive(level + 1, free).gather(1, child.clamp(min=0).flatten(1))
            total = total.masked_fill(~alive, -torch.inf)
        kept = min(width, trie.nodes(level + 1), total.shape[1])
        score, place = total.topk(kept, dim=1)
        parent, code = place // child.shape[2], place % child.shape[2]
        # A beam without a valid continuation stays at -inf; which node it stands on no longer matters.
        node = child.flatten(1).gather(1, place).clamp(min=0)
        if level + 1 < trie.levels:
            logits, cache = model.step(cache, trie.ids.offsets[level] + code, parent)
    return Beams(node.masked_fill(torch.isneginf(score), -1), score)


@torch.no_grad()
def sample(
    model: CodeModel,
    trie: SemanticIdTrie,
    history: Int[Tensor, "batch time"],
    n: int,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Beams:
    """Draw `n` sequences per history, with replacement, code by code, from the codes that the trie allows.

    The distribution of a code is the softmax of logits / temperature over the *allowed* codes, so every drawn sequence
    is an item's, and `log_prob` is the logarithm of the probability with which it was drawn.
    """
    check_at_least(1, n=n)
    if not temperature > 0:
        raise ValueError(f"temperature: must be positive, got {temperature}; for the best sequences use beam_search")
    logits, cache = model.read(history)
    batch, device = len(history), history.device
    node = torch.zeros(batch, n, dtype=torch.long, device=device)
    score = torch.zeros(batch, n, device=device)
    parent = torch.zeros(batch, n, dtype=torch.long, device=device)
    logits = logits.expand(-1, n, -1)
    for level in range(trie.levels):
        child = trie.followers(level)[node]
        allowed = _of_level(logits, trie, level).masked_fill(child < 0, -torch.inf)
        log_prob = (allowed / temperature).log_softmax(-1)
        code = torch.multinomial(log_prob.exp().flatten(0, 1), 1, generator=generator).view(batch, n)
        score = score + log_prob.gather(2, code[..., None])[..., 0]
        node = child.gather(2, code[..., None])[..., 0]
        if level + 1 < trie.levels:
            logits, cache = model.step(cache, trie.ids.offsets[level] + code, parent)
            parent = torch.arange(n, device=device).expand(batch, n)
    return Beams(node, score)


def _of_level(values: Float[Tensor, "batch beams vocabulary"], trie: SemanticIdTrie, level: int) -> Tensor:
    """The columns of a level's codes."""
    first = trie.ids.offsets[level]
    return values[..., first : first + trie.ids.sizes[level]]
