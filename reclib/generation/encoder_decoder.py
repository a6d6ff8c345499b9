"""An encoder–decoder generative recommender, the shape of TIGER (Rajput et al., 2023).

The encoder reads the codes of the whole history in both directions; the decoder writes the codes of the next item
and looks at the history by cross-attention. TIGER is a T5. Ours has T5's structure with three simplifications (our
choice): learned positions, counted from the end of the history, in the place of relative biases; LayerNorm in the place
of RMSNorm; no token for the user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reclib.generation.cache import KeyValueCache, history_tokens
from reclib.generation.decoder_only import TOKEN_STD
from reclib.nn.dropout import Dropout, dropout
from reclib.nn.sizes import check_at_least, check_heads
from reclib.tokenizers.semantic_ids import SemanticIds
from reclib.training.batches import SequenceBatch


@dataclass(frozen=True)
class EncoderDecoderConfig:
    """Sizes; TIGER's in brackets."""

    dim: int = 64  # width [128; 6 heads of 64 inside attention]
    layers: int = 2  # blocks of the encoder, and again of the decoder [4]
    heads: int = 4  # attention heads [6]
    ffn: int = 256  # width of the feed-forward network [1024]
    dropout: float = 0.1  # on embeddings and all sub-layers [0.1]
    max_len: int = 50  # longest history in items [20]

    def __post_init__(self) -> None:
        check_heads(self.dim, self.heads)
        check_at_least(1, layers=self.layers, ffn=self.ffn, max_len=self.max_len)


class EncoderDecoder(nn.Module):
    """Codes of a history in, codes of the next item out."""

    item_tokens: Tensor  # [items + 1, levels]

    def __init__(self, ids: SemanticIds, config: EncoderDecoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EncoderDecoderConfig()
        self.levels, self.max_len = ids.levels, config.max_len
        self.register_buffer("item_tokens", ids.tokens, persistent=False)
        self.tokens = nn.Embedding(ids.vocabulary, config.dim)  # token 0 is padding, and the start of an answer
        self.age = nn.Embedding(config.max_len * ids.levels, config.dim)  # tokens since, 0 = the last of the history
        self.place = nn.Embedding(ids.levels, config.dim)  # in the answer
        self.dropout = Dropout(config.dropout)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))
        self.encoder_norm = nn.LayerNorm(config.dim)
        self.decoder = nn.ModuleList(CrossBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        nn.init.normal_(self.tokens.weight, std=TOKEN_STD)

    @property
    def _decoder(self) -> list[CrossBlock]:
        return cast(list[CrossBlock], list(self.decoder))

    def encode(
        self, history: Int[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch tokens dim"], Bool[Tensor, "batch tokens"]]:
        """The history's codes in context, and which of them are real."""
        tokens = history_tokens(self.item_tokens, history, self.max_len)
        real = tokens > 0
        age = (real.sum(1, keepdim=True) - 1 - torch.arange(tokens.shape[1], device=tokens.device)).clamp(min=0)
        x = self.dropout(self.tokens(tokens) + self.age(age))
        for block in self.encoder:
            x = block(x, real)
        return self.encoder_norm(x), real

    def forward(
        self, history: Int[Tensor, "batch time"], answer: Int[Tensor, "batch levels"]
    ) -> Float[Tensor, "batch levels vocabulary"]:
        """Logits of each code of the answer (as tokens), given the history and the codes before it."""
        encoded, real = self.encode(history)
        written = F.pad(answer[:, :-1], (1, 0))
        x = self.dropout(self.tokens(written) + self.place.weight[: written.shape[1]])
        for block in self._decoder:
            x = block(x, *block.memorise(encoded), real)
        logits: Tensor = self.norm(x) @ self.tokens.weight.T
        return logits

    def loss(self, batch: SequenceBatch) -> tuple[Tensor, int]:
        """Summed negative log-likelihood of the codes of one target per history, and their number.

        Each pass over the data draws anew which event of a history is the target; all before it is the input (our
        choice; TIGER cuts every history at every place beforehand).
        """
        length = (batch.target > 0).sum(1)
        cut = (torch.rand(len(length), device=length.device) * length).long()  # 0 … length - 1
        history = batch.history * (torch.arange(batch.history.shape[1], device=cut.device) <= cut[:, None])
        target = self.item_tokens[batch.target.gather(1, cut[:, None])[:, 0]]
        logits = self(history[:, : int(cut.max()) + 1], target)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum"), target.numel()

    # ------------------------------------------------------------------------------------------------ generation

    def read(self, history: Int[Tensor, "batch time"]) -> tuple[Float[Tensor, "batch 1 vocabulary"], KeyValueCache]:
        """Encode histories once: logits of the first code, and the cache to go on from."""
        encoded, real = self.encode(history)
        keys, values = zip(*(block.memorise(encoded) for block in self._decoder), strict=True)
        start = torch.zeros(len(history), 1, dtype=torch.long, device=history.device)
        return self.step(KeyValueCache.of_history(list(keys), list(values), real), start, start)

    def step(
        self, cache: KeyValueCache, token: Int[Tensor, "batch beams"], parent: Int[Tensor, "batch beams"]
    ) -> tuple[Float[Tensor, "batch beams vocabulary"], KeyValueCache]:
        """Add one code to each beam; see `DecoderOnly.step`."""
        x = self.tokens(token) + self.place.weight[cache.written]
        x, cache = cache.follow(parent).step(x, self.decoder)
        logits: Tensor = self.norm(x) @ self.tokens.weight.T
        return logits, cache


class EncoderBlock(nn.Module):
    """x + attention(norm x) in both directions, then x + feed-forward(norm x)."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.attention_norm = nn.LayerNorm(config.dim)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.ffn = _feed_forward(config)

    def forward(self, x: Float[Tensor, "batch tokens dim"], real: Bool[Tensor, "batch tokens"]) -> Tensor:
        """One block; padded tokens are looked at by nobody."""
        q, k, v = (_split(part, self.heads) for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1))
        attended = self.out(_merge(F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None])))
        x = x + dropout(attended, self.dropout, self.training)
        y: Tensor = x + self.ffn(x)
        return y


class CrossBlock(nn.Module):
    """Causal attention over the answer, attention to the history, feed-forward; each added to x."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.attention_norm = nn.LayerNorm(config.dim)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.cross_norm = nn.LayerNorm(config.dim)
        self.query = nn.Linear(config.dim, config.dim)
        self.key_value = nn.Linear(config.dim, 2 * config.dim)
        self.cross_out = nn.Linear(config.dim, config.dim)
        self.ffn = _feed_forward(config)

    def memorise(self, encoded: Float[Tensor, "batch tokens dim"]) -> tuple[Tensor, Tensor]:
        """Keys and values of the history for this block."""
        keys, values = self.key_value(encoded).chunk(2, dim=-1)
        return _split(keys, self.heads), _split(values, self.heads)

    def forward(
        self,
        x: Float[Tensor, "batch levels dim"],
        keys: Float[Tensor, "batch heads tokens width"],
        values: Float[Tensor, "batch heads tokens width"],
        real: Bool[Tensor, "batch tokens"],
    ) -> Tensor:
        """All codes of an answer at once."""
        q, k, v = (_split(part, self.heads) for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1))
        attended = self.out(_merge(F.scaled_dot_product_attention(q, k, v, is_causal=True)))
        return self._rest(x + dropout(attended, self.dropout, self.training), keys, values, real)

    def step(
        self,
        x: Float[Tensor, "batch beams dim"],
        keys: Float[Tensor, "batch heads tokens width"],
        values: Float[Tensor, "batch heads tokens width"],
        real: Bool[Tensor, "batch tokens"],
        own_keys: Float[Tensor, "batch heads beams own width"],
        own_values: Float[Tensor, "batch heads beams own width"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One new code per beam, which looks at the codes of its own beam and at the history."""
        q, k, v = (_split(part, self.heads) for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1))
        own_keys = torch.cat([own_keys, k[:, :, :, None]], dim=3)
        own_values = torch.cat([own_values, v[:, :, :, None]], dim=3)
        share = ((own_keys @ q[..., None])[..., 0] / q.shape[-1] ** 0.5).softmax(-1)
        x = x + self.out(_merge((share[..., None, :] @ own_values)[..., 0, :]))
        return self._rest(x, keys, values, real), own_keys, own_values

    def _rest(self, x: Tensor, keys: Tensor, values: Tensor, real: Tensor) -> Tensor:
        q = _split(self.query(self.cross_norm(x)), self.heads)
        attended = self.cross_out(_merge(F.scaled_dot_product_attention(q, keys, values, real[:, None, None])))
        x = x + dropout(attended, self.dropout, self.training)
        y: Tensor = x + self.ffn(x)
        return y


def _feed_forward(config: EncoderDecoderConfig) -> nn.Sequential:
    """Norm, out to `ffn` units with ReLU, and back."""
    return nn.Sequential(
        nn.LayerNorm(config.dim),
        nn.Linear(config.dim, config.ffn),
        nn.ReLU(),
        Dropout(config.dropout),
        nn.Linear(config.ffn, config.dim),
        Dropout(config.dropout),
    )


def _split(x: Float[Tensor, "batch length dim"], heads: int) -> Float[Tensor, "batch heads length width"]:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _merge(x: Float[Tensor, "batch heads length width"]) -> Float[Tensor, "batch length dim"]:
    return x.transpose(1, 2).flatten(2)
