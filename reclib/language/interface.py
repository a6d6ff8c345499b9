"""What a language model can do here, whichever it is, and how sequences of different lengths share a tensor.

Everywhere `mask` is True at tokens and False at padding. Padding may stand on the left, on the right, or between
prompt and completion: only the order of the real tokens counts, and what stands under a False is never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Generated(NamedTuple):
    """What a model wrote behind each prompt, and nothing else."""

    ids: Int[Tensor, "batch new"]  # the tokens, the stop token included; 0 behind it
    log_probs: Float[Tensor, "batch new"]  # log-probability with which each was drawn, in nats; 0 behind the stop
    written: Bool[Tensor, "batch new"]  # True at tokens that the model wrote

    def rows(self) -> list[list[int]]:
        """The written tokens of each row."""
        return [ids[real].tolist() for ids, real in zip(self.ids, self.written, strict=True)]


@runtime_checkable
class LanguageModel(Protocol):
    """`TinyLM`, `HuggingFaceLM`, or your own. Generate in eval mode: dropout makes log-probabilities random."""

    @property
    def end_id(self) -> int:
        """The token that ends a text."""

    def encode(self, text: str) -> list[int]:
        """A text as tokens; nothing is added at either end."""

    def decode(self, ids: Sequence[int] | Int[Tensor, "tokens"]) -> str:
        """Tokens as a text, without padding and end."""

    def __call__(
        self, ids: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time vocabulary"], Float[Tensor, "batch time dim"]]:
        """Logits of the token behind each token, and the hidden states they are made of; padding's mean nothing."""

    def generate(
        self,
        ids: Int[Tensor, "batch time"],
        mask: Bool[Tensor, "batch time"] | None = None,
        *,
        max_new: int,
        temperature: float = 1.0,
        stop: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Generated:
        """Go on writing behind each prompt; see `reclib.language.writing.write`."""

    def log_probs(
        self,
        prompt: Int[Tensor, "batch time"],
        completion: Int[Tensor, "batch new"],
        prompt_mask: Bool[Tensor, "batch time"] | None = None,
        completion_mask: Bool[Tensor, "batch new"] | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "batch new"]:
        """Log-probability of each token of a completion; see `reclib.language.writing.completion_log_probs`."""


def pad(
    sequences: Sequence[Sequence[int]], *, left: bool = False
) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"]]:
    """Sequences as one tensor and its mask; zeros fill up on the right, or on the left.

    Raises:
        ValueError: no sequence.
    """
    if not sequences:
        raise ValueError("sequences: is empty; give at least one")
    width = max(len(sequence) for sequence in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        place = slice(width - len(sequence), width) if left else slice(len(sequence))
        ids[row, place] = torch.tensor(sequence, dtype=torch.long)
        mask[row, place] = True
    return ids, mask


def left_aligned(
    ids: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None
) -> tuple[Int[Tensor, "batch time"], Bool[Tensor, "batch time"], Int[Tensor, "batch time"]]:
    """Tokens moved to the left, their mask, and for each column where it stood before.

    With all padding on the right a causal model never sees it, and a token's column is its position.
    """
    if mask is None:
        mask = torch.ones_like(ids, dtype=torch.bool)
    order = (~mask).long().argsort(dim=1, stable=True)
    mask = mask.gather(1, order)
    return ids.gather(1, order).masked_fill(~mask, 0), mask, order


def moved_back(
    values: Float[Tensor, "batch time width"], order: Int[Tensor, "batch time"]
) -> Float[Tensor, "batch time width"]:
    """Values per token, from the columns of `left_aligned` to where the tokens stood before."""
    return values.take_along_dim(order.argsort(dim=1)[..., None], dim=1)


def prompts_left_aligned(
    ids: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None
) -> tuple[Int[Tensor, "batch longest"], Bool[Tensor, "batch longest"]]:
    """`left_aligned`, cut to the longest row.

    Raises:
        ValueError: a row without any token.
    """
    ids, mask, _ = left_aligned(ids, mask)
    length = mask.sum(1)
    if len(length) == 0 or int(length.min()) == 0:
        raise ValueError("mask: a prompt without any token; begin with a word such as 'user', or leave the row out")
    longest = int(length.max())
    return ids[:, :longest], mask[:, :longest]
