"""HSTU: hierarchical sequential transduction unit (Zhai et al., 2024).

Softmax attention says what share each event of the history gets. HSTU drops the softmax: every event contributes
SiLU(q·k + bias), on its own scale, so that intensity (how often, how recently) survives. A gate u, computed from the
position itself, replaces the feed-forward network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reclib.backbones.sequence_model import SequenceModel
from reclib.nn.dropout import Dropout
from reclib.nn.sizes import check_heads


@dataclass(frozen=True)
class HSTUConfig:
    """Sizes of HSTU; the values of the authors' MovieLens-1M configuration in brackets."""

    dim: int = 64  # width of items and hidden states [50]
    layers: int = 2  # units [2, large: 8]
    heads: int = 1  # attention heads [1, large: 2]
    dropout: float = 0.2  # on embeddings and each unit's output [0.2]
    max_len: int = 200  # longest history in one pass [200]
    position_bias: bool = True  # learned bias per distance in positions
    time_bias: bool = False  # learned bias per log-bucketed distance in time; needs time stamps
    time_buckets: int = 64  # buckets of log₂(seconds), one per doubling [authors' code: 128 of ln(seconds) / 0.301]
    alpha: float | None = None  # scale of q·k; None: 1/√(width of a head) [1; the authors' later code: 1/√width]

    def __post_init__(self) -> None:
        check_heads(self.dim, self.heads)
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"alpha: must be positive, or None for 1/√(width of a head), got {self.alpha}")


class HSTU(SequenceModel):
    """A stack of HSTU units over item embeddings."""

    def __init__(self, n_items: int, config: HSTUConfig | None = None) -> None:
        config = config or HSTUConfig()
        super().__init__(n_items, config.dim, config.max_len)
        self.config = config
        self.positions = nn.Embedding(config.max_len, config.dim)
        nn.init.normal_(self.positions.weight, std=0.02)  # next to the items 0.02 √d: there, but not in the way
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(HSTUBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    def encode(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Hidden state after each item; with `time_bias`, position t also sees when the next request comes."""
        width = history.shape[1]
        if self.config.time_bias and time is None:
            raise ValueError("time: this model has time_bias=True; pass times, or build it with time_bias=False")
        buckets = time_buckets(time, self.config.time_buckets) if self.config.time_bias and time is not None else None
        x = self.dropout(self.embed(history) + self.positions.weight[:width])
        for block in self.blocks:
            x = block(x, buckets)
        out: Tensor = self.norm(x)
        return out


class HSTUBlock(nn.Module):
    """One unit (eq. 1–3).

    u, v, q, k = split(SiLU(W₁ norm(x))) · A = SiLU(α q kᵀ + b^pos + b^time) / n, causal · y = x + W₂ (norm(A v) ⊙ u)

    n is `max_len`, a constant: dividing by the number of visible events would turn the sum back into an average and
    lose the intensity that the unit is made to keep. The paper has α = 1 and its code starts W₁ near zero. Our
    choice: α = 1/√d, as in the authors' later code, and W₁ at unit gain. With α = 1, q·k grows to several tens and
    drowns both biases (chapter 02 measures it); from near zero, the norm's ε swallows A v and training starts late.
    """

    def __init__(self, config: HSTUConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads, self.max_len = config.heads, config.max_len
        self.alpha = config.alpha or 1 / math.sqrt(dim // config.heads)
        self.norm = nn.LayerNorm(dim)
        self.uvqk = nn.Linear(dim, 4 * dim, bias=False)
        self.value_norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = Dropout(config.dropout)
        self.position_bias = nn.Parameter(torch.zeros(config.max_len)) if config.position_bias else None
        self.time_bias = nn.Embedding(config.time_buckets, 1) if config.time_bias else None
        if self.time_bias is not None:
            nn.init.zeros_(self.time_bias.weight)
        nn.init.xavier_uniform_(self.uvqk.weight)

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        buckets: Int[Tensor, "batch time time"] | None,
        mask: Bool[Tensor, "time time"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """One unit; `buckets` come from `time_buckets`.

        Where `mask[i, j]` is true, position i sees position j; without a mask it sees 0 … i.
        """
        batch, time, dim = x.shape
        u, v, q, k = F.silu(self.uvqk(self.norm(x))).chunk(4, dim=-1)
        v, q, k = (part.view(batch, time, self.heads, dim // self.heads).transpose(1, 2) for part in (v, q, k))
        logits = self.alpha * (q @ k.transpose(-1, -2))  # batch heads time time
        distance = torch.arange(time, device=x.device)[:, None] - torch.arange(time, device=x.device)
        if self.position_bias is not None:
            logits = logits + self.position_bias[distance.clamp(min=0)]
        if self.time_bias is not None:
            # take, not a call: the same numbers, but the gradient of an embedding costs ten times as much here
            logits = logits + self.time_bias.weight.take(cast(Tensor, buckets))[:, None]
        unseen = distance < 0 if mask is None else ~mask
        weights = F.silu(logits).masked_fill(unseen, 0.0) / self.max_len
        attended = (weights @ v).transpose(1, 2).reshape(batch, time, dim)
        y: Tensor = x + self.dropout(self.out(self.value_norm(attended) * u))
        return y


def time_buckets(time: Float[Tensor, "batch time_1"], n_buckets: int) -> Int[Tensor, "batch time time"]:
    """⌊log₂ max(1, Δ)⌋, cut at the last bucket; Δ = seconds from event j to the request that follows event i.

    The request's own time is known when it is served, so position i may use it: `time[:, i + 1]`.
    """
    gap = time[:, 1:, None] - time[:, None, :-1]  # request after i, event j
    return torch.log2(gap.clamp(min=1.0)).long().clamp(max=n_buckets - 1)
