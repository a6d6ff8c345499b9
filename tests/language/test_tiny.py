"""The tiny language model: cache against recomputation, padding against one by one, writing against scoring."""

import copy
import math

import pytest
import torch

from reclib.language import LanguageModel, TinyLM, TinyLMConfig, Vocabulary, pad

WORDS = Vocabulary(f"w{i}" for i in range(18))  # 20 tokens
PROMPTS = [[5, 7, 2], [3], [9, 9, 4, 12, 6, 2], [11, 3, 8, 8]]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    found = TinyLM(WORDS, TinyLMConfig(dim=16, layers=2, heads=2, context=24)).eval()
    with torch.no_grad():
        for weight in found.parameters():
            weight.mul_(6).add_(0.2 * torch.randn_like(weight))  # far from uniform, or no order is worth testing
    return found


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def scattered(sequences, seed):
    """Padding anywhere: left, right and between the tokens, with rubbish under it."""
    width = max(map(len, sequences)) + 3
    ids = torch.randint(0, 20, (len(sequences), width), generator=generator(seed))
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        places = torch.randperm(width, generator=generator(seed + row))[: len(sequence)].sort().values
        ids[row, places], mask[row, places] = torch.tensor(sequence), True
    return ids, mask


PADDED = {
    "right": lambda: pad(PROMPTS),
    "left": lambda: pad(PROMPTS, left=True),
    "scattered": lambda: scattered(PROMPTS, 3),
}


def test_it_is_a_language_model(model):
    assert isinstance(model, LanguageModel)
    assert model.decode(model.encode("w3 w0")) == "w3 w0"
    assert model.end_id == 1


@pytest.mark.parametrize(("config", "millions"), [(TinyLMConfig(), 0.93), (TinyLMConfig(192, 6, 6), 2.87)])
def test_sizes_are_those_of_the_sheet(config, millions):
    with torch.device("meta"):
        model = TinyLM(Vocabulary(f"w{i}" for i in range(798)), config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_shapes_and_causality(model):
    ids = torch.randint(2, 20, (3, 9), generator=generator())
    logits, hidden = model(ids)
    assert logits.shape == (3, 9, 20)
    assert hidden.shape == (3, 9, 16)
    torch.testing.assert_close(logits, hidden @ model.tokens.weight.T)
    changed = ids.clone()
    changed[:, 5:] = 2
    torch.testing.assert_close(model(changed)[0][:, :5], logits[:, :5])
    assert not torch.allclose(model(changed)[0][:, 5:], logits[:, 5:])


@pytest.mark.parametrize("how", PADDED)
def test_a_padded_batch_is_read_as_if_one_by_one(model, how):
    ids, mask = PADDED[how]()
    logits, hidden = model(ids, mask)
    for row, prompt in enumerate(PROMPTS):
        alone, alone_hidden = model(torch.tensor([prompt]))
        torch.testing.assert_close(logits[row][mask[row]], alone[0])
        torch.testing.assert_close(hidden[row][mask[row]], alone_hidden[0])


def test_gradients_do_not_depend_on_padding(model):
    model = copy.deepcopy(model).double()

    def gradient(ids, mask):
        logits, _ = model(ids, mask)
        return torch.autograd.grad(logits[mask].log_softmax(-1)[:, 4].sum(), list(model.parameters()))

    expected = gradient(*pad(PROMPTS))
    for how in ("left", "scattered"):
        for a, b in zip(gradient(*PADDED[how]()), expected, strict=True):
            torch.testing.assert_close(a, b)


# ------------------------------------------------------------------ writing


@torch.no_grad()
def by_recomputation(model, prompt, max_new, temperature=0.0, draws=None):
    """The whole text is read again for every word; greedy, or following given draws."""
    ids, log_probs = list(prompt), []
    for k in range(max_new):
        logits = model(torch.tensor([ids]))[0][0, -1]
        token = int(logits.argmax()) if draws is None else draws[k]
        log_probs.append(float((logits / (temperature or 1)).log_softmax(-1)[token]))
        ids.append(token)
        if token == model.end_id:
            break
    return ids[len(prompt) :], log_probs


@pytest.mark.parametrize("how", PADDED)
def test_greedy_with_cache_and_padding_equals_recomputation_one_by_one(model, how):
    found = model.generate(*PADDED[how](), max_new=12, temperature=0)
    for row, prompt in enumerate(PROMPTS):
        expected, log_probs = by_recomputation(model, prompt, 12)
        assert found.rows()[row] == expected
        torch.testing.assert_close(
            found.log_probs[row][found.written[row]], torch.tensor(log_probs), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_draws_are_scored_as_they_were_drawn(model, temperature):
    ids, mask = pad(PROMPTS * 4, left=True)
    stop = [1, 4, 6, 13, 15]
    found = model.generate(ids, mask, max_new=15, temperature=temperature, stop=stop, generator=generator(1))
    lengths = found.written.sum(1)
    assert lengths.min() < lengths.max()  # some stopped early
    for row, draws in enumerate(found.rows()):
        again, log_probs = by_recomputation(model, PROMPTS[row % 4], len(draws), temperature, draws)
        assert again == draws
        assert found.log_probs[row].sum().item() == pytest.approx(sum(log_probs), abs=1e-4)
    scored = model.log_probs(ids, found.ids, mask, found.written, temperature=temperature)
    torch.testing.assert_close(scored, found.log_probs, rtol=1e-4, atol=1e-5)


def test_log_probs_sum_to_one_over_all_answers_of_two_words(model):
    """Nothing is lost between the words: e^log-prob over every pair of words adds up to 1."""
    pairs = torch.cartesian_prod(torch.arange(20), torch.arange(20))
    total = model.log_probs(torch.tensor([[5, 7]]).expand(400, 2), pairs).sum(1).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-5)


def test_completions_may_be_padded_on_either_side(model):
    completions = [[4, 5], [6, 7, 8, 1], [2], [3, 3, 1]]
    expected = [
        model.log_probs(torch.tensor([p]), torch.tensor([c]))[0] for p, c in zip(PROMPTS, completions, strict=True)
    ]
    for prompt, prompt_mask in (make() for make in PADDED.values()):
        for completion, mask in (pad(completions), pad(completions, left=True)):
            found = model.log_probs(prompt, completion, prompt_mask, mask)
            assert (found[~mask] == 0).all()
            for row in range(4):
                torch.testing.assert_close(found[row][mask[row]], expected[row], rtol=1e-4, atol=1e-5)


def test_draws_follow_the_temperature_and_the_generator(model):
    prompt = torch.tensor([[5, 7, 2]]).expand(20_000, 3)
    for temperature in (0.5, 1.0):
        first = model.generate(prompt, max_new=1, temperature=temperature, generator=generator(2)).ids[:, 0]
        expected = (model(prompt[:1])[0][0, -1] / temperature).softmax(-1)
        share = torch.bincount(first, minlength=20) / len(first)
        assert (share - expected).abs().max() < 5 * math.sqrt(0.25 / 20_000)
    same = [model.generate(prompt[:50], max_new=4, generator=generator(7)).ids for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], model.generate(prompt[:50], max_new=4, generator=generator(8)).ids)


def test_stop_tokens_end_a_row_and_are_kept(model):
    ids, mask = pad(PROMPTS * 8)
    found = model.generate(ids, mask, max_new=10, stop=[4, 6], generator=generator(3))
    for row in found.rows():
        assert not {4, 6} & set(row[:-1])
        assert row[-1] in (4, 6) or len(row) == 10
    assert any(row[-1] == 4 for row in found.rows())
    assert any(1 in row[:-1] for row in found.rows())  # <end> is no stop token here
    assert (found.ids[~found.written] == 0).all()
    assert (found.log_probs[~found.written] == 0).all()
    never = model.generate(ids, mask, max_new=10, stop=[], generator=generator(3))
    assert never.written.all()


def test_writing_takes_no_wider_answer_than_needed(model):
    always = model.generate(torch.tensor([[5]]), max_new=20, stop=range(20), generator=generator())
    assert always.ids.shape == (1, 1)


def test_the_last_word_of_a_full_context_can_still_be_written(model):
    prompt = torch.full((1, 20), 5)
    assert model.generate(prompt, max_new=5, stop=[], generator=generator()).ids.shape == (1, 5)
    with pytest.raises(ValueError, match="max_new: 6 behind a prompt of 20 tokens exceeds the context of 24"):
        model.generate(prompt, max_new=6)


# ------------------------------------------------------------------ files, bad input


def test_files(model, tmp_path):
    model.save(tmp_path / "model.safetensors")
    again = TinyLM.load(tmp_path / "model.safetensors")
    assert again.config == model.config
    assert again.vocabulary == model.vocabulary
    ids, mask = pad(PROMPTS)
    assert torch.equal(again(ids, mask)[0], model(ids, mask)[0])
    (tmp_path / "other").write_text("no weights")
    with pytest.raises(ValueError, match="cannot be read"):
        TinyLM.load(tmp_path / "other")


def test_bad_input_is_named(model):
    one = torch.tensor([[5]])
    with pytest.raises(ValueError, match="ids: 25 tokens, but the context is 24"):
        model(torch.zeros(1, 25, dtype=torch.long))
    with pytest.raises(ValueError, match="mask: a prompt without any token"):
        model.generate(torch.tensor([[5], [5]]), torch.tensor([[True], [False]]), max_new=1)
    with pytest.raises(ValueError, match="mask: a prompt without any token"):
        model.log_probs(one, one, torch.tensor([[False]]))
    with pytest.raises(ValueError, match="temperature: must be at least 0"):
        model.generate(one, max_new=1, temperature=-1.0)
    with pytest.raises(ValueError, match="temperature: must be positive"):
        model.log_probs(one, one, temperature=0.0)
    with pytest.raises(ValueError, match="max_new: must be at least 1"):
        model.generate(one, max_new=0)
    with pytest.raises(ValueError, match="sequences: is empty"):
        pad([])
    with pytest.raises(ValueError, match="heads: 3 must divide dim = 128"):
        TinyLMConfig(heads=3)
