"""A causal language model of Hugging Face behind the interface of this book."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reclib.language.interface import Generated, left_aligned, moved_back
from reclib.language.writing import completion_log_probs, write
from reclib.nn.sizes import check_at_least


class _Cache(NamedTuple):
    past: Any  # the model's own cache
    mask: Bool[Tensor, "batch time"]  # what of it is real
    position: Int[Tensor, "batch"]  # of the next token


class HuggingFaceLM(nn.Module):
    """An `AutoModelForCausalLM` and its tokenizer. Implements `LanguageModel`.

    For decoder-only models whose `forward` takes `position_ids` (GPT-2, Llama, Qwen and most others). It reads, samples
    and counts positions as `TinyLM` does, so that a `torch.Generator` decides every draw and padding changes nothing.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        """Wrap a model and its tokenizer.

        Raises:
            ValueError: a tokenizer that has no token for the end of a text.
        """
        super().__init__()
        if tokenizer.eos_token_id is None:
            raise ValueError("tokenizer: has no eos_token, so no answer would ever end; set tokenizer.eos_token")
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def from_pretrained(cls, name: str, **settings: Any) -> HuggingFaceLM:
        """Load a model, in eval mode.

        Args:
            name: a folder, or a name on the hub (which downloads).
            settings: for `AutoModelForCausalLM.from_pretrained`, such as `dtype` or `local_files_only`.

        Raises:
            ImportError: transformers is not installed.
        """
        try:
            library = importlib.import_module("transformers")
        except ImportError as error:
            raise ImportError("HuggingFaceLM needs transformers: pip install 'reclib[llm]', or use TinyLM") from error
        local = {key: value for key, value in settings.items() if key in ("local_files_only", "revision", "token")}
        tokenizer = library.AutoTokenizer.from_pretrained(name, **local)
        return cls(library.AutoModelForCausalLM.from_pretrained(name, **settings), tokenizer).eval()

    def with_lora(self, rank: int = 16, alpha: float = 32.0, **settings: Any) -> HuggingFaceLM:
        """Freeze the weights and put low-rank adapters beside them: W + (α / rank) B A, with B = 0 at first.

        Only A and B are trained then, so an optimiser needs little memory (LoRA; Hu et al., 2022). The model is changed
        in place; `peft` does it, and `self.model.save_pretrained(folder)` writes the adapters alone.

        Args:
            rank: rows of A.
            alpha: α.
            settings: for `peft.LoraConfig`; by default every linear layer but the output gets adapters.

        Raises:
            ImportError: peft is not installed.
            ValueError: a rank below 1.
        """
        check_at_least(1, rank=rank)
        try:
            library = importlib.import_module("peft")
        except ImportError as error:
            raise ImportError("with_lora needs peft: pip install 'reclib[llm]'") from error
        settings = {"target_modules": "all-linear", "task_type": "CAUSAL_LM", **settings}
        self.model = library.get_peft_model(self.model, library.LoraConfig(r=rank, lora_alpha=alpha, **settings))
        return self

    @property
    def end_id(self) -> int:
        """The tokenizer's eos token."""
        return int(self.tokenizer.eos_token_id)

    def encode(self, text: str) -> list[int]:
        """A text as tokens; nothing is added at either end."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int] | Int[Tensor, "tokens"]) -> str:
        """Tokens as a text, without special tokens."""
        return str(self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=True))

    def forward(
        self, ids: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time vocabulary"], Float[Tensor, "batch time dim"]]:
        """Logits of the token behind each token, and the last hidden states."""
        ids, mask, order = left_aligned(ids, mask)
        found = self.model(input_ids=ids, attention_mask=mask.long(), use_cache=False, output_hidden_states=True)
        return moved_back(found.logits, order), moved_back(found.hidden_states[-1], order)

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
        """Go on writing behind each prompt; see `write`. `stop` is the tokenizer's eos token if nothing is given."""
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

    def read(
        self, ids: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
    ) -> tuple[Float[Tensor, "batch vocabulary"], _Cache]:
        """Read left-aligned prompts once: logits of the first new token, and the cache to go on from."""
        found = self.model(input_ids=ids, attention_mask=mask.long(), use_cache=True)
        length = mask.sum(1)
        return found.logits[torch.arange(len(ids)), length - 1], _Cache(found.past_key_values, mask, length)

    def step(self, cache: _Cache, token: Int[Tensor, "batch"]) -> tuple[Float[Tensor, "batch vocabulary"], _Cache]:
        """One more token: logits of the next, and the new cache."""
        # The padding of shorter prompts stays in the cache, between prompt and answer; the mask takes it out.
        mask = torch.cat([cache.mask, torch.ones_like(cache.mask[:, :1])], dim=1)
        found = self.model(
            input_ids=token[:, None],
            attention_mask=mask.long(),
            position_ids=cache.position[:, None],
            past_key_values=cache.past,
            use_cache=True,
        )
        return found.logits[:, -1], _Cache(found.past_key_values, mask, cache.position + 1)
