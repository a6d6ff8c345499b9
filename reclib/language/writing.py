"""Writing and scoring, the same for every language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reclib.language.interface import Generated, prompts_left_aligned
from reclib.nn.sizes import check_at_least


@runtime_checkable
class Reader(Protocol):
    """A model that can go on from what it has read, without reading it again."""

    def read(
        self, ids: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch vocabulary"], Any]:
        """Read left-aligned prompts: logits of the first new token, and a cache."""

    def step(self, cache: Any, token: Int[Tensor, "batch"]) -> tuple[Float[Tensor, "batch vocabulary"], Any]:
        """One more token: logits of the next, and the new cache. The old cache must not be used again."""


def draw(
    logits: Float[Tensor, "batch vocabulary"], temperature: float, generator: torch.Generator | None
) -> tuple[Int[Tensor, "batch"], Float[Tensor, "batch vocabulary"]]:
    """A token per row from softmax(logits / temperature), at 0 the most probable; and all log-probabilities."""
    log_prob = (logits.float() / (temperature or 1.0)).log_softmax(-1)
    if temperature == 0:
        return log_prob.argmax(-1), log_prob
    return torch.multinomial(log_prob.exp(), 1, generator=generator)[:, 0], log_prob


@torch.no_grad()
def write(
    model: Reader,
    ids: Int[Tensor, "batch time"],
    mask: Bool[Tensor, "batch time"] | None,
    *,
    max_new: int,
    temperature: float,
    stop: Sequence[int],
    generator: torch.Generator | None,
) -> Generated:
    """Draw token after token from softmax(logits / temperature), for all prompts at once.

    Args:
        ids, mask: the prompts.
        max_new: most tokens to write; the answer is narrower if all rows stop before.
        temperature: 1 draws from the model itself. 0 takes the most probable token (the first of equals), and the
            log-probabilities are then those at temperature 1 (our choice: at 0 they would all be 0).
        stop: a row ends with the first of these tokens, which is kept.
        generator: of the draws; default: PyTorch's global one.

    Raises:
        ValueError: a prompt without a token, a negative temperature, `max_new` below 1.
    """
    check_at_least(1, max_new=max_new)
    if not temperature >= 0:
        raise ValueError(f"temperature: must be at least 0, got {temperature}")
    ids, mask = prompts_left_aligned(ids, mask)
    logits, cache = model.read(ids, mask)
    ends = torch.tensor(list(stop), dtype=torch.long, device=ids.device)
    alive = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    tokens, log_probs, written = [], [], []
    while True:
        token, log_prob = draw(logits, temperature, generator)
        tokens.append(token * alive)
        log_probs.append(log_prob.gather(1, token[:, None])[:, 0].masked_fill(~alive, 0))
        written.append(alive)
        alive = alive & ~torch.isin(token, ends)
        if len(tokens) == max_new or not alive.any():
            return Generated(torch.stack(tokens, 1), torch.stack(log_probs, 1), torch.stack(written, 1))
        logits, cache = model.step(cache, token)


def completion_log_probs(
    model: Any,
    prompt: Int[Tensor, "batch time"],
    completion: Int[Tensor, "batch new"],
    prompt_mask: Bool[Tensor, "batch time"] | None,
    completion_mask: Bool[Tensor, "batch new"] | None,
    *,
    temperature: float,
) -> Float[Tensor, "batch new"]:
    """log softmax(logits / temperature) of each token of a completion, with gradient; 0 where the mask is False.

    With the temperature of `write`, these are the log-probabilities it returned.

    Raises:
        ValueError: a prompt without a token, a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature: must be positive, got {temperature}; greedy answers are scored at 1")
    prompt, prompt_mask = prompts_left_aligned(prompt, prompt_mask)
    if completion_mask is None:
        completion_mask = torch.ones_like(completion, dtype=torch.bool)
    ids, mask = torch.cat([prompt, completion], 1), torch.cat([prompt_mask, completion_mask], 1)
    ids, mask = prompts_left_aligned(ids, mask)
    logits, _ = model(ids, mask)
    # The k-th token of the completion stands at prompt length + k, and what predicts it one place before.
    before = prompt_mask.sum(1, keepdim=True) + completion_mask.cumsum(1) - 2
    logits = logits.take_along_dim(before.clamp(min=0)[..., None], dim=1).float() / temperature
    chosen = logits.log_softmax(-1).gather(2, completion.masked_fill(~completion_mask, 0)[..., None])[..., 0]
    log_probs: Tensor = chosen.masked_fill(~completion_mask, 0)
    return log_probs
