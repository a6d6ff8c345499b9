"""What a memory holds, asked of a world that knows which events were accidents.

`probe` asks a frozen memory: was this event yours or somebody else's? For accidents that is pure memory, because
nothing about a user says which accident happens to them. For genuine clicks a memory of the user's interests is enough.
A memory that is a denoising bottleneck answers the second question and not the first. `attribution` asks what weight
the events of the archive have in the score of the next item.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor

from reclib.backbones import SequenceModel
from reclib.memory import SegmentModel

STEPS, LR, DECAY = 100, 1e-2, 0.1  # of the probe


@torch.no_grad()
def states(
    model: SequenceModel, history: Int[Tensor, "users time"], segment: int
) -> Float[Tensor, "users segments numbers"]:
    """What a model carries on after each complete segment: its memory, or the hidden state where it has none."""
    model.eval()
    if isinstance(model, SegmentModel):
        return torch.stack([m.flatten(1) for m in model.memories(history)], dim=1)
    return model.encode(history)[:, segment - 1 :: segment]


def probe(
    state: Float[Tensor, "users segments numbers"],
    items: Float[Tensor, "items dim"],
    history: Int[Tensor, "users time"],
    of_kind: Bool[Tensor, "users time"],
    *,
    age: int,
    segment: int,
    seed: int,
) -> float:
    """AUC of a bilinear probe for "is this event your own, or another user's of the same kind?".

    The probe is fitted on one half of the users and asked about the other. 0.5: the memory says nothing.

    Args:
        items: the model's item vectors; they stay fixed.
        of_kind: the events that are asked about.
        age: 1 asks about the segment that was read last, 2 about the one before.
    """
    users, segments, _ = state.shape
    if not 1 <= age <= segments:
        raise ValueError(f"age: {age} segments back, but there are {segments}; give 1 … {segments}")
    generator = torch.Generator().manual_seed(seed)
    asked = segments - age + 1  # memories that are old enough
    own = history[:, : asked * segment].view(users, asked, segment)
    kind = of_kind[:, : asked * segment].view(users, asked, segment)
    row, column, place = kind.nonzero(as_tuple=True)
    true = own[row, column, place]
    false = true[torch.randperm(len(true), generator=generator)]  # the same law, another user's
    memory = (state - state.mean((0, 1))) / (state.std((0, 1)) + 1e-6)
    memory = memory[:, age - 1 :]
    first_half = torch.zeros(users, dtype=torch.bool)
    first_half[torch.randperm(users, generator=generator)[: users // 2]] = True
    fit = first_half[row]
    vectors = F.normalize(items, dim=-1)
    W = torch.zeros(state.shape[2], items.shape[1], requires_grad=True)
    optimiser = torch.optim.AdamW([W], lr=LR, weight_decay=DECAY)

    def margin(rows: Bool[Tensor, "events"]) -> tuple[Tensor, Tensor]:
        answer = (memory @ W)[row[rows], column[rows]]
        return (answer * vectors[true[rows]]).sum(1), (answer * vectors[false[rows]]).sum(1)

    for _ in range(STEPS):
        yes, no = margin(fit)
        loss = F.softplus(-yes).mean() + F.softplus(no).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    with torch.no_grad():
        yes, no = margin(~fit)
    label = np.repeat([1, 0], len(yes))
    return float(roc_auc_score(label, torch.cat([yes, no]).numpy()))


def attribution(
    model: SequenceModel, history: Int[Tensor, "users time"], target: Int[Tensor, "users"]
) -> Float[Tensor, "users time"]:
    """|gradient × input|: how much each event's item vector moves the score of the target."""
    model.eval()
    seen: list[Tensor] = []

    def keep(module: torch.nn.Module, arguments: object, output: Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    hook = model.items.register_forward_hook(keep)
    try:
        last = model.encode(history)[:, -1]
    finally:
        hook.remove()
    score = (last * model.items.weight.detach()[target]).sum()
    (gradient,) = torch.autograd.grad(score, seen)
    return (gradient * seen[0]).sum(-1).abs().detach()
