"""A decoder-only generative recommender: a GPT-2 over the codes of a history (Radford et al., 2019).

A history of T items is one sequence of T · L codes. The model predicts every code from those before it, so one pass
trains on all items of a history at once. Weights and equations are GPT-2's: the same numbers come out of the
`transformers` library (tested).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reclib.generation.cache import KeyValueCache, history_tokens
from reclib.nn.dropout import Dropout, dropout
from reclib.nn.sizes import check_at_least, check_heads
from reclib.tokenizers.semantic_ids import SemanticIds
from reclib.training.batches import SequenceBatch

TOKEN_STD = 0.1  # start of the code embeddings, our choice: from GPT-2's 0.02 small models learn more slowly


@dataclass(frozen=True)
class DecoderOnlyConfig:
    """Sizes; the values of GPT-2's smallest model in brackets."""

    dim: int = 64  # width [768]
    layers: int = 3  # blocks [12]
    heads: int = 4  # attention heads [12]
    dropout: float = 0.1  # on embeddings and both sub-layers [0.1]
    max_len: int = 50  # longest history in items; the sequence has L tokens for each, and L more to generate

    def __post_init__(self) -> None:
        check_heads(self.dim, self.heads)
        check_at_least(1, layers=self.layers, max_len=self.max_len)


class DecoderOnly(nn.Module):
    """Tokens in, logits of the next token out."""

    item_tokens: Tensor  # [items + 1, levels]

    def __init__(self, ids: SemanticIds, config: DecoderOnlyConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DecoderOnlyConfig()
        self.levels, self.max_len = ids.levels, config.max_len
        self.register_buffer("item_tokens", ids.tokens, persistent=False)
        self.tokens = nn.Embedding(ids.vocabulary, config.dim)
        self.positions = nn.Embedding((config.max_len + 1) * ids.levels, config.dim)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:  # as GPT-2: what adds to the residual path starts smaller in deeper models
                nn.init.normal_(weight, std=0.02 / ((2 * config.layers) ** 0.5 if name.endswith("_out.weight") else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        nn.init.normal_(self.tokens.weight, std=TOKEN_STD)

    def forward(self, tokens: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens vocabulary"]:
        """Logits of the token after each token."""
        x = self.dropout(self.tokens(tokens) + self.positions.weight[: tokens.shape[1]])
        for block in self.blocks:
            x, _, _ = block(x)
        logits: Tensor = self.norm(x) @ self.tokens.weight.T
        return logits

    def loss(self, batch: SequenceBatch) -> tuple[Tensor, int]:
        """Summed negative log-likelihood of all next codes of a batch, and their number.

        The codes of the first item of a history are input only, as everywhere in this book.
        """
        events = torch.cat([batch.history[:, :1], batch.target], dim=1)
        tokens = self.item_tokens[events].flatten(1)  # [batch, (time + 1) · levels]
        logits, target = self(tokens[:, :-1])[:, self.levels - 1 :], tokens[:, self.levels :]
        real = target > 0
        return F.cross_entropy(logits[real], target[real], reduction="sum"), int(real.sum())

    # ------------------------------------------------------------------------------------------------ generation

    def read(self, history: Int[Tensor, "batch time"]) -> tuple[Float[Tensor, "batch 1 vocabulary"], KeyValueCache]:
        """Read histories once: logits of the first code of the next item, and the cache to go on from."""
        tokens = history_tokens(self.item_tokens, history, self.max_len)
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        keys, values = [], []
        for block in self.blocks:
            x, key, value = block(x)
            keys.append(key)
            values.append(value)
        real = tokens > 0
        last = self.norm(x[torch.arange(len(x)), real.sum(1) - 1])
        return (last @ self.tokens.weight.T)[:, None], KeyValueCache.of_history(keys, values, real)

    def step(
        self, cache: KeyValueCache, token: Int[Tensor, "batch beams"], parent: Int[Tensor, "batch beams"]
    ) -> tuple[Float[Tensor, "batch beams vocabulary"], KeyValueCache]:
        """Add one code to each beam: logits of the next code, and the new cache.

        Args:
            cache: of `read`, or of the last step with its own number of beams.
            token: the code, as a token, by which each new beam is longer.
            parent: the beam of `cache` that each new beam continues.
        """
        x = self.tokens(token) + self.positions(cache.real.sum(1) + cache.written)[:, None]
        x, cache = cache.follow(parent).step(x, self.blocks)
        logits: Tensor = self.norm(x) @ self.tokens.weight.T
        return logits, cache


class DecoderBlock(nn.Module):
    """x + attention(norm x), then x + feed-forward(norm x), with a feed-forward of four times the width."""

    def __init__(self, config: DecoderOnlyConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.attention_norm = nn.LayerNorm(config.dim)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.attention_out = nn.Linear(config.dim, config.dim)
        self.ffn_norm = nn.LayerNorm(config.dim)
        self.ffn_in = nn.Linear(config.dim, 4 * config.dim)
        self.ffn_out = nn.Linear(4 * config.dim, config.dim)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> tuple[Tensor, Tensor, Tensor]:
        """The block's output, and its keys and values."""
        q, k, v = self._project(x)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self._rest(x, mixed), k, v

    def step(
        self,
        x: Float[Tensor, "batch beams dim"],
        keys: Float[Tensor, "batch heads tokens width"],
        values: Float[Tensor, "batch heads tokens width"],
        real: Bool[Tensor, "batch tokens"],
        own_keys: Float[Tensor, "batch heads beams own width"],
        own_values: Float[Tensor, "batch heads beams own width"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One new code per beam, which looks at the history and at the codes of its own beam."""
        q, k, v = self._project(x)
        own_keys = torch.cat([own_keys, k[:, :, :, None]], dim=3)
        own_values = torch.cat([own_values, v[:, :, :, None]], dim=3)
        to_history = (q @ keys.transpose(-1, -2)).masked_fill(~real[:, None, None], -torch.inf)
        to_own = (own_keys @ q[..., None])[..., 0]
        share = (torch.cat([to_history, to_own], dim=-1) / q.shape[-1] ** 0.5).softmax(-1)
        old, own = share.split([keys.shape[2], own_keys.shape[3]], dim=-1)
        mixed = old @ values + (own[..., None, :] @ own_values)[..., 0, :]
        return self._rest(x, mixed), own_keys, own_values

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        attended = self.attention_out(mixed.transpose(1, 2).reshape(x.shape))
        x = x + dropout(attended, self.dropout, self.training)
        added = self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(x)), approximate="tanh"))
        return x + dropout(added, self.dropout, self.training)
