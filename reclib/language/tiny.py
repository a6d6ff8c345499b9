"""A language model small enough to train while you read: GPT-2's blocks over a vocabulary of words.

The blocks, their equations and the cache are those of `reclib.generation.decoder_only`; only the tokens differ, words
here and codes of items there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from reclib.generation.cache import KeyValueCache
from reclib.generation.decoder_only import TOKEN_STD, DecoderBlock, DecoderOnlyConfig
from reclib.language.interface import Generated, left_aligned, moved_back
from reclib.language.vocabulary import Vocabulary
from reclib.language.writing import completion_log_probs, write
from reclib.nn.dropout import Dropout
from reclib.nn.sizes import check_at_least, check_heads


@dataclass(frozen=True)
class TinyLMConfig:
    """Sizes. With 800 words these are .93 million parameters; `TinyLMConfig(192, 6, 6)` has 2.87 million."""

    dim: int = 128  # width [the papers use models of 1.5 to 8 billion parameters; all sizes are our choice]
    layers: int = 4  # blocks
    heads: int = 4  # attention heads
    context: int = 256  # longest text, prompt and answer together, in words
    dropout: float = 0.0  # on embeddings and both sub-layers; 0, so that log-probabilities are the same in training

    def __post_init__(self) -> None:
        check_heads(self.dim, self.heads)
        check_at_least(1, layers=self.layers, context=self.context)


class TinyLM(nn.Module):
    """A decoder-only transformer with learnt positions and tied embeddings. Implements `LanguageModel`."""

    def __init__(self, vocabulary: Vocabulary, config: TinyLMConfig | None = None) -> None:
        super().__init__()
        self.vocabulary, self.config = vocabulary, config or TinyLMConfig()
        config = self.config
        self.tokens = nn.Embedding(len(vocabulary), config.dim)
        self.positions = nn.Embedding(config.context, config.dim)
        self.dropout = Dropout(config.dropout)
        block = DecoderOnlyConfig(config.dim, config.layers, config.heads, config.dropout)
        self.blocks = nn.ModuleList(DecoderBlock(block) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:  # as GPT-2: what adds to the residual path starts smaller in deeper models
                small = (2 * config.layers) ** 0.5 if name.endswith("_out.weight") else 1
                nn.init.normal_(weight, std=config.dim**-0.5 / small)  # our choice: with GPT-2's 0.02 it learns later
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        nn.init.normal_(self.tokens.weight, std=TOKEN_STD)

    @property
    def end_id(self) -> int:
        """The number of `<end>`."""
        return self.vocabulary.end_id

    def encode(self, text: str) -> list[int]:
        """See `Vocabulary.encode`."""
        return self.vocabulary.encode(text)

    def decode(self, ids: Sequence[int] | Int[Tensor, "tokens"]) -> str:
        """See `Vocabulary.decode`."""
        return self.vocabulary.decode(ids)

    def forward(
        self, ids: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time vocabulary"], Float[Tensor, "batch time dim"]]:
        """Logits of the token behind each token, and the hidden states after the last norm.

        Raises:
            ValueError: more columns than the context is long.
        """
        order = None
        if mask is not None:
            ids, _, order = left_aligned(ids, mask)
        x = self._embed(ids)
        for block in self.blocks:
            x, _, _ = block(x)
        hidden: Tensor = self.norm(x)
        if order is not None:
            hidden = moved_back(hidden, order)
        return hidden @ self.tokens.weight.T, hidden

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
        """Go on writing behind each prompt; see `write`. `stop` is `<end>` if nothing is given.

        Raises:
            ValueError: besides those of `write`, a prompt that leaves no room for `max_new` tokens.
        """
        longest = ids.shape[1] if mask is None else int(mask.sum(1).max())
        if longest + max_new - 1 > self.config.context:  # the last token is written, but not read
            raise ValueError(
                f"max_new: {max_new} behind a prompt of {longest} tokens exceeds the context of "
                f"{self.config.context}; shorten the prompt, or build the model with a longer context"
            )
        stop = [self.end_id] if stop is None else stop
        return write(self, ids, mask, max_new=max_new, temperature=temperature, stop=stop, generator=generator)

    def log_probs(
        self,
        prompt: Int[Tensor, "batch time"],
        completion: Int[Tensor, "batch new"],
        prompt_mask: Bool[Tensor, "batch time"] | None = None,
        completion_mask: Bool[Tensor, "batch new"] | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, "batch new"]:
        """Log-probability of each token of a completion; see `completion_log_probs`."""
        return completion_log_probs(self, prompt, completion, prompt_mask, completion_mask, temperature=temperature)

    # ------------------------------------------------------------------------------------------------ with a cache

    def read(
        self, ids: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch vocabulary"], KeyValueCache]:
        """Read left-aligned prompts once: logits of the first new token, and the cache to go on from."""
        x = self._embed(ids)
        keys, values = [], []
        for block in self.blocks:
            x, key, value = block(x)
            keys.append(key)
            values.append(value)
        last: Tensor = self.norm(x[torch.arange(len(x)), mask.sum(1) - 1])
        return last @ self.tokens.weight.T, KeyValueCache.of_history(keys, values, mask)

    def step(
        self, cache: KeyValueCache, token: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch vocabulary"], KeyValueCache]:
        """One more token: logits of the next, and the new cache."""
        x = self.tokens(token) + self.positions(cache.real.sum(1) + cache.written)
        x, cache = cache.step(x[:, None], self.blocks)
        logits: Tensor = self.norm(x[:, 0]) @ self.tokens.weight.T
        return logits, cache

    def _embed(self, ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time dim"]:
        if ids.shape[1] > self.config.context:
            raise ValueError(
                f"ids: {ids.shape[1]} tokens, but the context is {self.config.context}; "
                "shorten the text, or build the model with a longer context"
            )
        x: Tensor = self.dropout(self.tokens(ids) + self.positions.weight[: ids.shape[1]])
        return x

    # ------------------------------------------------------------------------------------------------------ files

    def save(self, path: str | Path) -> None:
        """Write weights, vocabulary and sizes to one file (safetensors)."""
        weights = {name: weight.detach().cpu().contiguous() for name, weight in self.state_dict().items()}
        save_file(weights, path, {"vocabulary": self.vocabulary.to_json(), "config": json.dumps(asdict(self.config))})

    @classmethod
    def load(cls, path: str | Path) -> TinyLM:
        """The model that `save` wrote, in eval mode.

        Raises:
            ValueError: a file of something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        except SafetensorError as error:
            raise ValueError(f"path: {path} cannot be read ({error}); write it with TinyLM.save") from error
        if not {"vocabulary", "config"} <= about.keys():
            raise ValueError(f"path: {path} holds no TinyLM; write it with TinyLM.save")
        model = cls(Vocabulary.from_json(about["vocabulary"]), TinyLMConfig(**json.loads(about["config"])))
        model.load_state_dict(weights)
        return model.eval()
