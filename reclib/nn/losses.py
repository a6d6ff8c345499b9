"""Losses for next-item prediction: full softmax, sampled softmax, gBCE.

All take the hidden states of the positions that have a target (no padding), the item embeddings, and return the
**sum** over positions. The training loop divides by the number of targets of the whole batch, so that splitting a
batch over processes changes nothing.

Row 0 of the item embeddings is padding. It never counts as an item in any loss.

With some hundred negatives, the sampled losses score the whole catalogue and then pick: for the catalogues of this book
(up to some ten thousand items) one dense product is faster on a CPU than gathering k embeddings per target. With few
negatives, or millions of items, it is the other way round, and that is where sampling earns its place.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 512  # positions whose logits exist at once; 512 x 12,000 floats stay close to the CPU's cache
GATHER_COST = 64  # fetching one embedding costs about as much as scoring this many items in a dense product


def full_softmax_reference(
    hidden: Float[Tensor, "targets dim"], items: Float[Tensor, "items dim"], target: Int[Tensor, "targets"]
) -> Float[Tensor, ""]:
    """-Σ_n log softmax(h_n · E)_{y_n} over the whole catalogue, written plainly. `full_softmax` is the fast twin."""
    return F.cross_entropy(hidden @ items[1:].T, target - 1, reduction="sum")


def full_softmax(
    hidden: Float[Tensor, "targets dim"], items: Float[Tensor, "items dim"], target: Int[Tensor, "targets"]
) -> Float[Tensor, ""]:
    """Cross entropy over the whole catalogue, in chunks, with the gradient computed on the way forward.

    The logits of a batch on Amazon Beauty take 50 MB per thousand targets. Writing, reading and freeing them costs
    more than the arithmetic. Here one buffer of `CHUNK` rows is reused, and because ∂L/∂logits = softmax - onehot needs
    nothing from later layers, both gradients are ready when the forward pass ends: 2-4 times faster on a CPU.

    It can be differentiated once; for second derivatives, or under `torch.func`, use `full_softmax_reference`.

    Raises:
        ValueError: a target of 0 (padding).
    """
    _check_ids(target=target)
    hidden = hidden.to(items.dtype)  # under autocast hidden states may come in half precision
    loss: Float[Tensor, ""] = _ChunkedSoftmax.apply(hidden, items, target)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, items: Tensor, target: Tensor) -> Tensor:
        n, _ = hidden.shape
        weight = items[1:]
        grad_hidden, grad_items = torch.empty_like(hidden), torch.zeros_like(items)
        buffer = hidden.new_empty(min(CHUNK, n), len(weight))
        loss = hidden.new_zeros(())
        for i in range(0, n, CHUNK):
            h, y = hidden[i : i + CHUNK], target[i : i + CHUNK, None] - 1
            p = torch.mm(h, weight.T, out=buffer[: len(h)])
            top = p.amax(1, keepdim=True)
            own = p.gather(1, y) - top
            total = p.sub_(top).exp_().sum(1, keepdim=True)
            loss += (total.log() - own).sum()
            p.div_(total).scatter_add_(1, y, -torch.ones_like(own))  # softmax - onehot = ∂L/∂logits
            torch.mm(p, weight, out=grad_hidden[i : i + CHUNK])
            grad_items[1:].addmm_(p.T, h)
        ctx.save_for_backward(grad_hidden, grad_items)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_items = ctx.saved_tensors
        return grad_hidden * grad[0], grad_items * grad[0], None


def sampled_softmax(
    hidden: Float[Tensor, "targets dim"],
    items: Float[Tensor, "items dim"],
    target: Int[Tensor, "targets"],
    negatives: Int[Tensor, "targets k"],
) -> Float[Tensor, ""]:
    """Softmax over the target and k uniformly drawn negatives, with the log Q correction.

    A negative that equals the target is left out. Each of the m others stands for (I - 1) / m items, so
    log((I - 1) / m) is added to its logit. The expected partition function is then that of the full softmax (Bengio &
    Senécal, 2008), and with every item as a negative the loss is the full softmax.

    Raises:
        ValueError: a target or a negative of 0 (padding).
    """
    _check_ids(target=target, negatives=negatives)
    n_items = len(items) - 1
    positive = (hidden * F.embedding(target, items)).sum(1, keepdim=True)
    negative = _negative_logits(hidden, items, negatives)
    hit = negatives == target[:, None]
    stands_for = (n_items - 1) / (~hit).sum(1, keepdim=True).clamp(min=1)
    negative = (negative + stands_for.log()).masked_fill(hit, -torch.inf)
    return -F.log_softmax(torch.cat([positive, negative], dim=1), dim=1)[:, 0].sum()


def gbce(
    hidden: Float[Tensor, "targets dim"],
    items: Float[Tensor, "items dim"],
    target: Int[Tensor, "targets"],
    negatives: Int[Tensor, "targets k"],
    t: float = 0.75,
    *,
    centred: bool = False,
) -> Float[Tensor, ""]:
    """Generalised binary cross entropy of gSASRec (Petrov & Macdonald, 2023, eq. 15 and 16).

    L = -log σ(s⁺)^β - Σ_k log(1 - σ(s⁻_k)), with β = α (t (1 - 1/α) + 1/α) and sampling rate α = k / (I - 1).
    t = 0 gives β = 1: ordinary BCE with k negatives, the loss of the original SASRec at k = 1. t = 1 gives β = α, which
    undoes the overconfidence that sampling causes. Like the paper's, a negative may equal the target by chance.

    Where all items are equally likely, the optimum is σ(s) = β / (β + k): with many negatives every score has to sink
    first. If embeddings are tied, they must all share one large component for that, which also drowns the inputs, and
    a model stays on the popularity plateau for long. `centred` adds the constant log(β / k) to all scores instead. It
    changes no ranking, and nothing at all at k = 1 and t = 0. (Our choice; chapter 02 has both.)

    Args:
        t: calibration in [0, 1]; the paper's choice is 0.75 with 256 negatives.
        centred: let a score of zero mean "as likely as any other item".

    Raises:
        ValueError: t outside [0, 1], or a target or a negative of 0 (padding).
    """
    if not 0.0 <= t <= 1.0:
        raise ValueError(f"t: must lie in [0, 1], got {t}")
    _check_ids(target=target, negatives=negatives)
    alpha = negatives.shape[1] / (len(items) - 2)  # len(items) - 1 items, one of them the target
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    constant = math.log(beta / negatives.shape[1]) if centred else 0.0
    positive = (hidden * F.embedding(target, items)).sum(1) + constant
    negative = _negative_logits(hidden, items, negatives) + constant
    return -(beta * F.logsigmoid(positive).sum() + F.logsigmoid(-negative).sum())


def _negative_logits(
    hidden: Float[Tensor, "targets dim"], items: Float[Tensor, "items dim"], negatives: Int[Tensor, "targets k"]
) -> Float[Tensor, "targets k"]:
    """Scores of the drawn negatives, by whichever way moves less memory."""
    if negatives.shape[1] * GATHER_COST < len(items):
        return torch.einsum("nd,nkd->nk", hidden, F.embedding(negatives, items))
    return (hidden @ items.T).gather(1, negatives)


def _check_ids(**ids: Tensor) -> None:
    for name, values in ids.items():
        if (values == 0).any():
            raise ValueError(f"{name}: contains 0, the padding id, which is no item; select real items first")
