r"""Supervised fine-tuning: learn the completion, read the prompt.

$$\mathcal L=-\sum_t m_t\log\pi(y_t|y_{<t},x),\qquad m_t=1\text{ at tokens of the completion, else }0$$

`completion_loss` and `CompletionBatches` are arguments of `reclib.training.fit`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from reclib.language.interface import LanguageModel, pad
from reclib.nn.sizes import check_at_least


class Example(NamedTuple):
    """One text to learn from, as tokens."""

    ids: list[int]
    learnt: list[bool]  # True at the tokens that the model should write


def example(model: LanguageModel, prompt: str, completion: str) -> Example:
    """A prompt, which is only read, and its completion, which is learnt together with the end token behind it.

    Raises:
        ValueError: an empty prompt: nothing would predict the first word of the completion.
    """
    question, answer = model.encode(prompt), [*model.encode(completion), model.end_id]
    if not question:
        raise ValueError("prompt: is empty; begin with a word such as 'user'")
    return Example(question + answer, [False] * len(question) + [True] * len(answer))


class CompletionBatch(NamedTuple):
    """Texts, padded on the right."""

    ids: Int[Tensor, "batch time"]
    mask: Bool[Tensor, "batch time"]  # no padding
    learnt: Bool[Tensor, "batch time"]  # tokens that are targets


class CompletionBatches:
    """Every example once per epoch, in an order drawn from `(seed, epoch)`."""

    def __init__(self, examples: Sequence[Example], *, batch_size: int, seed: int = 0) -> None:
        """Keep the examples.

        Args:
            examples: see `example`; or made by hand, where other tokens than a completion's are learnt.
            batch_size: texts per batch (over all processes together).
            seed: of the order.
        """
        check_at_least(1, batch_size=batch_size)
        if not examples:
            raise ValueError("examples: is empty; give at least one")
        self.examples, self.batch_size, self.seed = list(examples), batch_size, seed

    def epoch(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[CompletionBatch]:
        """The batches of one epoch; process `rank` of `world_size` gets its share of the rows of each."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.examples))
        for first in range(0, len(order), self.batch_size):
            chosen = [self.examples[i] for i in order[first : first + self.batch_size]]
            ids, mask = pad([text.ids for text in chosen])
            learnt, _ = pad([text.learnt for text in chosen])
            yield CompletionBatch(*(part[rank::world_size] for part in (ids, mask, learnt.bool())))

    def steps(self, epoch: int) -> int:
        """Batches in an epoch."""
        return -(-len(self.examples) // self.batch_size)


def completion_loss(model: Any, batch: CompletionBatch) -> tuple[Tensor, int]:
    """Summed negative log-likelihood of the learnt tokens of a batch, and their number.

    Args:
        model: a `LanguageModel`.
        batch: see `CompletionBatches`. A text's first token is never a target.
    """
    logits, _ = model(batch.ids[:, :-1], batch.mask[:, :-1])
    learnt = batch.learnt[:, 1:]
    loss = F.cross_entropy(logits[learnt].float(), batch.ids[:, 1:][learnt], reduction="sum")
    return loss, int(learnt.sum())
