"""Backbones that can go on thinking: after a history is read, a vector may follow it as if it were one more item.

The interface is small (`Backbone`): `read` a history and keep what the next step needs, take one `step` with a vector
behind every prefix at once, and give the `vectors` of the items. `read` returns what `encode` returns, bit for bit.

A thought sees the items up to the place where it is thought, and the earlier thoughts of that place, and nothing else.
So one pass thinks behind every prefix of every history: for attention the thoughts of all prefixes stand in one row of
keys and a mask says whose they are; for a GRU the state after each item is all that is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reclib.backbones import HSTU, GRU4Rec, GRU4RecConfig, HSTUConfig, SASRec
from reclib.backbones.hstu import HSTUBlock
from reclib.backbones.sasrec import SASRecBlock
from reclib.generation import DecoderOnly, DecoderOnlyConfig
from reclib.generation.cache import KeyValueCache, history_tokens
from reclib.tokenizers import SemanticIds


@runtime_checkable
class Backbone(Protocol):
    """What thinking needs of a sequence model."""

    n_items: int
    dim: int
    max_len: int

    def read(self, history: Int[Tensor, "batch time"], since: int = 0) -> tuple[Float[Tensor, "batch places dim"], Any]:
        """Hidden states after the items `since`, `since` + 1, …, and the cache to go on from.

        Args:
            since: the first item behind which there will be thoughts. In serving only the last item matters.
        """

    def step(self, x: Float[Tensor, "batch places dim"], cache: Any) -> tuple[Float[Tensor, "batch places dim"], Any]:
        """Hidden states after one more input behind each of these places, and the new cache."""

    def vectors(self) -> Float[Tensor, "items dim"]:
        """One vector per item, row 0 (padding) is zero."""


@dataclass(frozen=True)
class Places:
    """The places behind which thoughts are thought: items since … since + places - 1, and the thoughts there so far."""

    since: int
    places: int
    thoughts: int = 0

    def seen(self, device: torch.device) -> Bool[Tensor, "places keys"]:
        """What a place sees: the items up to it, and its own thoughts. Keys: items, then thought by thought."""
        last = self.since + torch.arange(self.places, device=device)
        items = torch.arange(self.since + self.places, device=device) <= last[:, None]
        own = torch.eye(self.places, dtype=torch.bool, device=device)
        return torch.cat([items, own.repeat(1, self.thoughts)], dim=1)

    def distance(self, device: torch.device) -> Int[Tensor, "places keys"]:
        """Steps from each key to the newest thought; negative where a key is not seen."""
        last = self.since + torch.arange(self.places, device=device)
        to_items = last[:, None] + self.thoughts - torch.arange(self.since + self.places, device=device)
        to_own = torch.arange(self.thoughts - 1, -1, -1, device=device).repeat_interleave(self.places)
        distance = torch.cat([to_items, to_own.expand(self.places, -1)], dim=1)
        return torch.where(self.seen(device), distance, -1)


class Cache(NamedTuple):
    """Keys and values of all items and thoughts, a tensor per block, and where the thoughts belong."""

    keys: list[Float[Tensor, "batch heads keys width"]]
    values: list[Float[Tensor, "batch heads keys width"]]
    places: Places


def _check_since(since: int, width: int) -> None:
    if not 0 <= since < width:
        raise ValueError(f"since: must be one of the items 0 … {width - 1} of the history, got {since}")


# ------------------------------------------------------------------------------------------------------------- SASRec


class ThinkingSASRec(SASRec):
    """SASRec with its keys and values kept."""

    def read(
        self, history: Int[Tensor, "batch time"], since: int = 0
    ) -> tuple[Float[Tensor, "batch places dim"], Cache]:
        """See `Backbone`."""
        _check_since(since, history.shape[1])
        x = self.dropout(self.embed(history) + self.positions.weight[: history.shape[1]])
        keys, values = [], []
        for block in cast(list[SASRecBlock], list(self.blocks)):
            q, k, v = block.project(x)
            keys.append(k)
            values.append(v)
            x = block.mix(x, q, k, v)
        return self.norm(x)[:, since:], Cache(keys, values, Places(since, history.shape[1] - since))

    def step(
        self, x: Float[Tensor, "batch places dim"], cache: Cache
    ) -> tuple[Float[Tensor, "batch places dim"], Cache]:
        """See `Backbone`."""
        places = replace(cache.places, thoughts=cache.places.thoughts + 1)
        seen, keys, values = places.seen(x.device), [], []
        layers = zip(cast(list[SASRecBlock], list(self.blocks)), cache.keys, cache.values, strict=True)
        for block, old_keys, old_values in layers:
            q, k, v = block.project(x)
            keys.append(torch.cat([old_keys, k], dim=2))
            values.append(torch.cat([old_values, v], dim=2))
            x = block.mix(x, q, keys[-1], values[-1], seen)
        return self.norm(x), Cache(keys, values, places)

    def vectors(self) -> Float[Tensor, "items dim"]:
        """The item embeddings."""
        return self.items.weight


# --------------------------------------------------------------------------------------------------------------- HSTU


class ThinkingHSTU(HSTU):
    """HSTU with its keys and values kept; without time stamps, since a thought has none."""

    def __init__(self, n_items: int, config: HSTUConfig | None = None) -> None:
        super().__init__(n_items, config)
        if self.config.time_bias:
            raise ValueError("time_bias: a thought has no time stamp; build the backbone with time_bias=False")

    def read(
        self, history: Int[Tensor, "batch time"], since: int = 0
    ) -> tuple[Float[Tensor, "batch places dim"], Cache]:
        """See `Backbone`."""
        width = history.shape[1]
        _check_since(since, width)
        x = self.dropout(self.embed(history) + self.positions.weight[:width])
        distance, keys, values = Places(0, width).distance(x.device), [], []
        for block in cast(list[HSTUBlock], list(self.blocks)):
            u, v, q, k = _uvqk(block, x)
            keys.append(k)
            values.append(v)
            x = _mix(block, x, u, q, k, v, distance)
        return self.norm(x)[:, since:], Cache(keys, values, Places(since, width - since))

    def step(
        self, x: Float[Tensor, "batch places dim"], cache: Cache
    ) -> tuple[Float[Tensor, "batch places dim"], Cache]:
        """See `Backbone`."""
        places = replace(cache.places, thoughts=cache.places.thoughts + 1)
        distance, keys, values = places.distance(x.device), [], []
        layers = zip(cast(list[HSTUBlock], list(self.blocks)), cache.keys, cache.values, strict=True)
        for block, old_keys, old_values in layers:
            u, v, q, k = _uvqk(block, x)
            keys.append(torch.cat([old_keys, k], dim=2))
            values.append(torch.cat([old_values, v], dim=2))
            x = _mix(block, x, u, q, keys[-1], values[-1], distance)
        return self.norm(x), Cache(keys, values, places)

    def vectors(self) -> Float[Tensor, "items dim"]:
        """The item embeddings."""
        return self.items.weight


def _uvqk(block: HSTUBlock, x: Float[Tensor, "batch places dim"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u as it is, values, queries and keys cut into heads."""
    batch, places, _ = x.shape
    u, v, q, k = F.silu(block.uvqk(block.norm(x))).chunk(4, dim=-1)
    v, q, k = (part.view(batch, places, block.heads, -1).transpose(1, 2) for part in (v, q, k))
    return u, v, q, k


def _mix(
    block: HSTUBlock,
    x: Float[Tensor, "batch places dim"],
    u: Float[Tensor, "batch places dim"],
    q: Float[Tensor, "batch heads places width"],
    k: Float[Tensor, "batch heads keys width"],
    v: Float[Tensor, "batch heads keys width"],
    distance: Int[Tensor, "places keys"],
) -> Float[Tensor, "batch places dim"]:
    """The rest of an HSTU unit, where keys may be more than the places. A test holds it to the unit, bit for bit."""
    logits = block.alpha * (q @ k.transpose(-1, -2))
    if block.position_bias is not None:
        logits = logits + block.position_bias[distance.clamp(0, block.max_len - 1)]
    weights = F.silu(logits).masked_fill(distance < 0, 0.0) / block.max_len
    attended = (weights @ v).transpose(1, 2).reshape(x.shape)
    y: Tensor = x + block.dropout(block.out(block.value_norm(attended) * u))
    return y


# ------------------------------------------------------------------------------------------------------------ GRU4Rec


class ThinkingGRU4Rec(GRU4Rec):
    """GRU4Rec whose state after each item takes one more input. What it keeps is the state, there are no keys."""

    def __init__(self, n_items: int, config: GRU4RecConfig | None = None) -> None:
        super().__init__(n_items, config)
        if self.config.layers > 1:
            raise ValueError(
                f"layers: {self.config.layers}, but PyTorch's GRU tells the states of its top layer only; use layers=1"
            )

    def read(
        self, history: Int[Tensor, "batch time"], since: int = 0
    ) -> tuple[Float[Tensor, "batch places dim"], Tensor]:
        """See `Backbone`."""
        _check_since(since, history.shape[1])
        state, _ = self.gru(self.dropout(self.embed(history)))
        return self.out(state)[:, since:], state[:, since:]

    def step(
        self, x: Float[Tensor, "batch places dim"], cache: Float[Tensor, "batch places dim"]
    ) -> tuple[Float[Tensor, "batch places dim"], Tensor]:
        """See `Backbone`."""
        _, state = self.gru(x.flatten(0, 1)[:, None], cache.flatten(0, 1)[None].contiguous())
        state = state.view_as(x)
        return self.out(state), state

    def vectors(self) -> Float[Tensor, "items dim"]:
        """The item embeddings."""
        return self.items.weight


# -------------------------------------------------------------------------------------- the generator of semantic IDs


class ThinkingDecoder(nn.Module):
    """Chapter 04's decoder over semantic IDs. It reads codes, and its thoughts follow the last code of an item.

    An item's vector is the sum of the embeddings of its codes, so that u · e_i = Σ_l u · E[code_l of i]: all codes of
    an answer are written at once and only items compete. That takes the place of the beam (our choice): a beam has no
    rank for most items and would have to be searched again for every sampled intent.
    """

    def __init__(self, ids: SemanticIds, config: DecoderOnlyConfig | None = None) -> None:
        super().__init__()
        self.decoder = DecoderOnly(ids, config)
        self.n_items, self.dim, self.max_len = ids.n_items, self.decoder.config.dim, self.decoder.max_len

    def encode(
        self, history: Int[Tensor, "batch time"], time: Float[Tensor, "batch time+1"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Hidden state after the last code of each item. `time` is accepted and not used."""
        hidden, _ = self.read(history)
        return hidden

    def read(
        self, history: Int[Tensor, "batch time"], since: int = 0
    ) -> tuple[Float[Tensor, "batch places dim"], KeyValueCache]:
        """See `Backbone`. The cache has a row for each place, so that the decoder's own step serves as it is."""
        d, width = self.decoder, history.shape[1]
        _check_since(since, width)
        tokens = history_tokens(d.item_tokens, history, self.max_len)
        x = d.dropout(d.tokens(tokens) + d.positions.weight[: tokens.shape[1]])
        keys, values = [], []
        for block in d.blocks:
            x, key, value = block(x)
            keys.append(key.repeat_interleave(width - since, dim=0))
            values.append(value.repeat_interleave(width - since, dim=0))
        item = torch.arange(tokens.shape[1], device=x.device) // d.levels
        seen = item <= torch.arange(since, width, device=x.device)[:, None]
        hidden = d.norm(x)[:, d.levels - 1 :: d.levels][:, since:]
        return hidden, KeyValueCache.of_history(keys, values, seen.repeat(len(history), 1))

    def step(
        self, x: Float[Tensor, "batch places dim"], cache: KeyValueCache
    ) -> tuple[Float[Tensor, "batch places dim"], KeyValueCache]:
        """See `Backbone`."""
        y, cache = cache.step(x.flatten(0, 1)[:, None], self.decoder.blocks)
        return self.decoder.norm(y).view_as(x), cache

    def vectors(self) -> Float[Tensor, "items dim"]:
        """Sums of code embeddings."""
        tokens = self.decoder.item_tokens
        vectors: Tensor = self.decoder.tokens(tokens).sum(1) * (tokens[:, :1] > 0)
        return vectors
