"""SASRec: self-attentive sequential recommendation (Kang & McAuley, 2018).

Each position of a history attends to itself and to earlier positions; the last hidden state, times the item
embeddings, scores the next item. Sizes are the paper's, the norm stands before each sub-layer, and the loss is left
to training: the paper's one-negative BCE, or full softmax, which this book finds to matter more than the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reclib.backbones.sequence_model import SequenceModel
from reclib.nn.dropout import Dropout, dropout
from reclib.nn.sizes import check_heads


@dataclass(frozen=True)
class SASRecConfig:
    """Sizes of SASRec; the paper's values in brackets."""

    dim: int = 64  # width of items and hidden states [50]
    layers: int = 2  # blocks of attention and feed-forward [2]
    heads: int = 1  # attention heads [1]
    dropout: float = 0.2  # on embeddings and both sub-layers [0.2 MovieLens, 0.5 Amazon]
    max_len: int = 200  # longest history in one pass [200 MovieLens, 50 Amazon]

    def __post_init__(self) -> None:
        check_heads(self.dim, self.heads)


class SASRec(SequenceModel):
    """Causal transformer over item ids.

    Histories are left-aligned, so the causal mask alone keeps padding out: no real position can look right.
    """

    def __init__(self, n_items: int, config: SASRecConfig | None = None) -> None:
        config = config or SASRecConfig()
        super().__init__(n_items, config.dim, config.max_len)
        self.config = config
        self.positions = nn.Embedding(config.max_len, config.dim)
        nn.init.normal_(self.positions.weight, std=0.02)  # next to the items 0.02 √d: there, but not in the way
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(SASRecBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    def encode(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Hidden state after each item. `time` is accepted and not used."""
        x = self.embed(history) + self.positions.weight[: history.shape[1]]
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out


class SASRecBlock(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x); the feed-forward is d → d → d with ReLU as in the paper."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads, self.dropout = config.heads, config.dropout
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, dim),
            nn.ReLU(),
            Dropout(config.dropout),
            nn.Linear(dim, dim),
            Dropout(config.dropout),
        )

    def forward(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "time time"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """One block. Where `mask[i, j]` is true, position i sees position j; without a mask it sees 0 … i."""
        return self.mix(x, *self.project(x), mask)

    def project(self, x: Float[Tensor, "batch time dim"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each `[batch, heads, time, width]`."""
        batch, time, dim = x.shape
        q, k, v = (
            part.view(batch, time, self.heads, dim // self.heads).transpose(1, 2)  # batch heads time width
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        return q, k, v

    def mix(
        self,
        x: Float[Tensor, "batch time dim"],
        q: Float[Tensor, "batch heads time width"],
        k: Float[Tensor, "batch heads keys width"],
        v: Float[Tensor, "batch heads keys width"],
        mask: Bool[Tensor, "time keys"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """The rest of the block; keys and values may be more than those of x, if a mask says who sees them."""
        batch, time, dim = x.shape
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        attended = self.out(attended.transpose(1, 2).reshape(batch, time, dim))
        x = x + dropout(attended, self.dropout, self.training)
        y: Tensor = x + self.ffn(self.ffn_norm(x))
        return y
