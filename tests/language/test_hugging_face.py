"""The wrapper: with a stand-in that is called as the library's models are, and with models of the library."""

import sys
import types
from functools import partial

import pytest
import tokenizers
import torch
import transformers
from torch import nn

from reclib.language import HuggingFaceLM, LanguageModel, Vocabulary, pad

WORDS = Vocabulary(f"w{i}" for i in range(18))
PROMPTS = [[5, 7, 2], [3], [9, 9, 4, 12, 6, 2], [11, 3, 8, 8]]


class Tokenizer:
    """The four calls of a Hugging Face tokenizer that the wrapper makes."""

    eos_token_id = WORDS.end_id

    def encode(self, text, add_special_tokens):
        return [*([] if not add_special_tokens else [0]), *WORDS.encode(text)]

    def decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return WORDS.decode(ids)


class Causal(nn.Module):
    """One layer of attention with learnt positions, called as `AutoModelForCausalLM` is."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(20, 8), nn.Embedding(40, 8)
        self.qkv = nn.Linear(8, 24)

    def forward(
        self,
        input_ids,
        attention_mask,
        position_ids=None,
        past_key_values=None,
        use_cache=False,
        output_hidden_states=False,
    ):
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1])[None]
        x = self.tokens(input_ids) + self.positions(position_ids)
        q, k, v = self.qkv(x).chunk(3, -1)
        if past_key_values is not None:
            k, v = (torch.cat(pair, 1) for pair in zip(past_key_values, (k, v), strict=True))
        causal = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(k.shape[1] - q.shape[1])
        seen = causal & attention_mask.bool()[:, None]
        x = x + (q @ k.transpose(1, 2)).masked_fill(~seen, -torch.inf).softmax(-1) @ v
        return types.SimpleNamespace(
            logits=x @ self.tokens.weight.T,
            past_key_values=(k, v) if use_cache else None,
            hidden_states=(x,) if output_hidden_states else None,
        )


def stand_in():
    return HuggingFaceLM(Causal(), Tokenizer())


def library_model(kind):
    """A model with two layers and random weights, and a tokenizer of whole words; nothing is downloaded."""
    sizes = {
        "gpt2": transformers.GPT2Config(vocab_size=20, n_positions=40, n_embd=8, n_layer=2, n_head=2),
        "llama": transformers.LlamaConfig(
            vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
        ),
        "qwen2": transformers.Qwen2Config(
            vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1,
        ),
    }  # fmt: skip
    words = tokenizers.models.WordLevel({token: i for i, token in enumerate(WORDS.tokens)}, unk_token="<pad>")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")
    return HuggingFaceLM(transformers.AutoModelForCausalLM.from_config(sizes[kind]), fast)


MODELS = {"stand-in": stand_in} | {kind: partial(library_model, kind) for kind in ("gpt2", "llama", "qwen2")}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    found = MODELS[request.param]().eval()
    with torch.no_grad():
        for weight in found.parameters():
            weight.mul_(3)
    return found


def test_it_is_a_language_model(model):
    assert isinstance(model, LanguageModel)
    assert model.encode("w3 w0") == [5, 2]
    assert model.decode(torch.tensor([5, 2, 1])) == "w3 w0"
    assert model.end_id == 1
    logits, hidden = model(torch.tensor([[5, 2]]))
    assert logits.shape == (1, 2, 20)
    assert hidden.shape == (1, 2, 8)


@pytest.mark.parametrize("left", [False, True])
def test_padded_batches_equal_recomputation_one_by_one(model, left):
    ids, mask = pad(PROMPTS, left=left)
    logits, hidden = model(ids, mask)
    written = model.generate(ids, mask, max_new=6, temperature=0, stop=[])
    for row, prompt in enumerate(PROMPTS):
        alone, alone_hidden = model(torch.tensor([prompt]))
        torch.testing.assert_close(logits[row][mask[row]], alone[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(hidden[row][mask[row]], alone_hidden[0], rtol=1e-4, atol=1e-4)
        text = list(prompt)
        for _ in range(6):
            text.append(int(model(torch.tensor([text]))[0][0, -1].argmax()))
        assert written.rows()[row] == text[len(prompt) :]


def test_draws_are_scored_as_they_were_drawn(model):
    ids, mask = pad(PROMPTS * 5, left=True)
    found = model.generate(ids, mask, max_new=8, temperature=0.8, generator=torch.Generator().manual_seed(1))
    scored = model.log_probs(ids, found.ids, mask, found.written, temperature=0.8)
    torch.testing.assert_close(scored, found.log_probs, rtol=1e-4, atol=1e-4)
    assert scored.requires_grad
    again = model.generate(ids, mask, max_new=8, temperature=0.8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found.ids, again.ids)


def test_a_saved_model_is_loaded_from_its_folder(tmp_path, monkeypatch):
    """With a stand-in for the library, so that the call itself is checked where it is not installed."""
    asked = []

    class Auto:
        @staticmethod
        def from_pretrained(name, **settings):
            asked.append((name, settings))
            return Causal() if settings.get("dtype") else Tokenizer()

    library = types.SimpleNamespace(AutoTokenizer=Auto, AutoModelForCausalLM=Auto)
    monkeypatch.setitem(sys.modules, "transformers", library)
    found = HuggingFaceLM.from_pretrained("folder", dtype=torch.float32, local_files_only=True)
    assert not found.training
    assert asked == [
        ("folder", {"local_files_only": True}),
        ("folder", {"dtype": torch.float32, "local_files_only": True}),
    ]


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"HuggingFaceLM needs transformers: pip install 'reclib\[llm\]'"):
        HuggingFaceLM.from_pretrained("folder")


def test_a_tokenizer_without_an_end_is_refused():
    endless = Tokenizer()
    endless.eos_token_id = None
    with pytest.raises(ValueError, match="has no eos_token"):
        HuggingFaceLM(Causal(), endless)


def test_a_model_of_the_library_comes_back_from_its_folder(tmp_path):
    model = library_model("qwen2").eval()
    model.model.save_pretrained(tmp_path)
    vocabulary = {"<pad>": 0, "<end>": 1, "a": 2, "b": 3, "Ġ": 4, "ab": 5}
    special = {"eos_token": "<end>", "pad_token": "<pad>", "unk_token": "<pad>"}
    transformers.Qwen2Tokenizer(vocab=vocabulary, merges=[("a", "b")], **special).save_pretrained(tmp_path)
    again = HuggingFaceLM.from_pretrained(str(tmp_path), local_files_only=True)
    assert not again.training
    assert again.encode("ab b") == [5, 4, 3]
    assert again.decode([5, 4, 3, again.end_id]) == "ab b"
    ids = torch.tensor(PROMPTS[:1])
    torch.testing.assert_close(again(ids)[0], model(ids)[0])


def test_low_rank_adapters_change_nothing_at_first_and_are_all_that_learns():
    torch.manual_seed(0)
    model = library_model("qwen2")
    with torch.no_grad():
        model.model.lm_head.weight.mul_(30)  # as drawn, its logits are so small that nothing below it could matter
    ids = torch.tensor(PROMPTS[2:3])
    logits = model(ids)[0].detach()
    model.with_lora(rank=2, alpha=4.0)
    torch.testing.assert_close(model(ids)[0], logits)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    learns = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learns, lr=0.1)
    prompt, answer = ids[:, :3], ids[:, 3:]
    losses = []
    for _ in range(20):
        loss = -model.log_probs(prompt, answer).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    for name, weight in model.named_parameters():
        assert ("lora" in name) == (not torch.equal(weight, before[name])), name
    with pytest.raises(ValueError, match="rank: must be at least 1, got 0"):
        library_model("gpt2").with_lora(rank=0)


def test_without_peft_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"with_lora needs peft: pip install 'reclib\[llm\]'"):
        stand_in().with_lora()
