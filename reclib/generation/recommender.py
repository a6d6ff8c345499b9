"""Generative retrieval as a recommender: histories in, a score for every item or a ranked list out."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reclib.backbones.sequence_model import recent
from reclib.generation.decoder_only import DecoderOnly
from reclib.generation.encoder_decoder import EncoderDecoder
from reclib.generation.search import Beams, beam_search
from reclib.generation.trie import SemanticIdTrie
from reclib.nn.sizes import check_at_least
from reclib.tokenizers.semantic_ids import SemanticIds
from reclib.training.batches import SequenceBatch

UNREACHED = -1e6  # log-probability of items the beam did not reach: below all others, and still a place in the ranking


class GenerativeRecommender(nn.Module):
    """A model that writes semantic IDs, the trie that keeps them valid, and the beam that ranks.

    An item's score is the log-probability of its sequence. Colliding items have the same score, so whoever ranks
    needs a rule: `recommend` takes the smaller id first, `reclib.evaluation.evaluate` a random order fixed by a seed.
    Items that the beam does not reach share the score `UNREACHED`.
    """

    def __init__(
        self, model: DecoderOnly | EncoderDecoder, ids: SemanticIds, width: int = 50, *, skip_history: bool = False
    ) -> None:
        """Rank with a beam of `width`; with `skip_history`, `score` wastes none of it on items of the history."""
        super().__init__()
        if model.item_tokens.shape != ids.tokens.shape or not torch.equal(model.item_tokens.cpu(), ids.tokens):
            raise ValueError("ids: the model was built for other semantic IDs; give both the same")
        check_at_least(1, width=width)
        self.model, self.trie, self.width, self.skip_history = model, SemanticIdTrie(ids), width, skip_history

    def search(
        self,
        history: Int[Tensor, "batch time"],
        width: int | None = None,
        *,
        exclude: Int[Tensor, "batch some"] | None = None,
    ) -> Beams:
        """The most probable sequences after the last `max_len` items of each history."""
        history, _ = recent(history, None, self.model.max_len)
        return beam_search(self.model, self.trie, history, width or self.width, exclude=exclude)

    def score(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch items"]:
        """Log-probability of each item's sequence, `UNREACHED` outside the beam; column 0 (padding) is -inf.

        With `width` at least the number of sequences, all items are reached and the ranking is exact. `time` is unused.
        """
        found = self.search(history, exclude=history if self.skip_history else None)
        by_leaf = found.log_prob.new_full((len(history), self.trie.nodes(self.trie.levels) + 1), UNREACHED)
        by_leaf.scatter_(1, found.leaf + 1, found.log_prob.clamp(min=UNREACHED))  # column 0 collects what is missing
        scores = by_leaf[:, self.trie.leaf + 1]
        scores[:, 0] = -torch.inf
        return scores

    def recommend(
        self, history: Int[Tensor, "batch time"], k: int, *, exclude: Int[Tensor, "batch some"] | None = None
    ) -> Int[Tensor, "batch k"]:
        """The k best items of the beam, best first; 0 where it holds fewer.

        Args:
            history: item ids, left-aligned, 0 pads on the right.
            k: length of the lists.
            exclude: items not to recommend, for example the whole history; 0 is ignored.
        """
        found = self.search(history, exclude=exclude)
        extra = 0 if exclude is None else exclude.shape[1]
        items = self.trie.expand(found.leaf, k + extra)
        if exclude is not None:
            keep = (items > 0) & ~(items[:, :, None] == exclude[:, None]).any(2)
            order = (~keep).long().argsort(stable=True, dim=1)
            items = torch.where(keep, items, 0).gather(1, order)
        return items[:, :k]


def next_code_loss(recommender: GenerativeRecommender, batch: SequenceBatch) -> tuple[Tensor, int]:
    """The loss for `reclib.training.fit`: summed negative log-likelihood of a batch's codes, and their number."""
    return recommender.model.loss(batch)
