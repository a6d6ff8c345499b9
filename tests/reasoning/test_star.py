"""The student: tools inside generation, what is learnt and what is not, rewards, GRPO, and models that misbehave."""

import copy

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from reclib.language import CompletionBatches, HuggingFaceLM, TinyLM, TinyLMConfig, Vocabulary, completion_loss, pad
from reclib.objectives import group_advantages
from reclib.reasoning.collaborative_text import NO_ENTRY, TextStore
from reclib.reasoning.star import (
    LIMIT,
    Star,
    StarConfig,
    StarGRPO,
    StarGRPOConfig,
    Written,
    problems,
    sft_example,
    stratified,
)
from reclib.reasoning.trajectory import TAGS, MalformedTrajectory, Reward, Task

WORDS = (
    f"recent candidates tents tents_1 tea_1 tea item_cf profile durable woman now trust both {NO_ENTRY} {LIMIT} x y z"
)
VOCABULARY = Vocabulary(WORDS.split(), special=(*TAGS, "A", "B", "C"))
PROMPT = "recent tents_1 tents candidates A tents_1 tents x B tea_1 tea y C tea_1 tea z"
STORE = TextStore({("profile", "7"): "woman durable", ("item_cf", "tea_1"): "x y z x y z"})
RANK = "<recommend> B A C </recommend>"
TEXT = (
    "<plan> profile </plan> <tool_call> profile </tool_call> <tool_response> woman durable </tool_response> "
    f"now tents A <reflection> trust both </reflection> {RANK}"
)
TASK = Task("7", PROMPT, "B", "0")


def tiny(seed=0, **sizes):
    torch.manual_seed(seed)
    sizes = {"dim": 16, "layers": 2, "heads": 2, "context": 96, **sizes}
    return TinyLM(VOCABULARY, TinyLMConfig(**sizes)).eval()


class Scripted(torch.nn.Module):
    """A `Reader` that writes given words whatever it is fed, and remembers what that was."""

    def __init__(self, texts):
        super().__init__()
        self.rows = [VOCABULARY.encode(text) for text in texts]
        self.at = [0] * len(texts)
        self.fed = [[] for _ in texts]
        self.end_id = VOCABULARY.end_id

    def encode(self, text):
        return VOCABULARY.encode(text)

    def decode(self, ids):
        return VOCABULARY.decode(ids)

    def read(self, ids, mask):
        return self._logits(), None

    def step(self, cache, token):
        for row, number in enumerate(token.tolist()):
            self.fed[row].append(number)
            if self.at[row] < len(self.rows[row]) and number == self.rows[row][self.at[row]]:
                self.at[row] += 1
        return self._logits(), None

    def _logits(self):
        out = torch.zeros(len(self.rows), len(VOCABULARY))
        for row, (ids, at) in enumerate(zip(self.rows, self.at, strict=True)):
            out[row, ids[at] if at < len(ids) else self.end_id] = 30.0
        return out


def scripted(*texts, store=STORE, **bounds):
    model = Scripted(texts)
    tasks = [TASK] * len(texts)
    return Star(model, store, StarConfig(**{"max_new": 80, **bounds})), tasks, model


# ------------------------------------------------------------------ tools


def test_a_closed_call_is_followed_by_exactly_the_stored_text():
    asks = "<plan> x </plan> <tool_call> item_cf tea_1 </tool_call> now"
    other = "<plan> x </plan> now now now now now now <tool_call> profile </tool_call> x"
    star, tasks, model = scripted(asks, other)
    written = star.write(tasks, temperature=0.0)
    assert written.texts[0] == (
        "<plan> x </plan> <tool_call> item_cf tea_1 </tool_call> <tool_response> x y z x y z </tool_response> now"
    )
    assert written.texts[1].endswith("</tool_call> <tool_response> woman durable </tool_response> x")
    assert written.calls == [1, 1]
    for row, text in enumerate((asks, other)):
        mine = written.by_model[row]
        assert VOCABULARY.decode(written.ids[row][mine]) == text  # the model's words, in their order
        inserted = VOCABULARY.decode(written.ids[row][written.real[row] & ~mine])
        assert (
            inserted
            == ("<tool_response> x y z x y z </tool_response>", "<tool_response> woman durable </tool_response>")[row]
        )
        assert (written.log_probs[row][~mine] == 0).all()
        assert model.fed[row][: len(written.texts[row].split())] == VOCABULARY.encode(written.texts[row])


@pytest.mark.parametrize("call", ["item_cf tents_1", "x y z", "tea_1", "profile x"])
def test_unknown_keys_get_the_fixed_text(call):
    star, tasks, _ = scripted(f"<tool_call> {call} </tool_call>")
    assert f"<tool_response> {NO_ENTRY} </tool_response>" in star.write(tasks, temperature=0.0).texts[0]


def test_calls_that_are_never_opened_or_empty_do_no_harm():
    star, tasks, _ = scripted("x </tool_call> y", "<tool_call> </tool_call> y")
    written = star.write(tasks, temperature=0.0)
    assert [NO_ENTRY in text for text in written.texts] == [True, True]
    assert all(answer.ranking is None for answer in scripted("x </tool_call> y")[0].answer([TASK]))


def test_calls_run_out():
    star, tasks, _ = scripted("<tool_call> profile </tool_call> " * 4, max_calls=2)
    text = star.write(tasks, temperature=0.0).texts[0]
    assert text.count("woman durable") == 2
    assert text.count(LIMIT) == 2


def test_the_real_model_writes_what_it_writes_without_a_cache():
    model = tiny()
    star = Star(model, STORE, StarConfig(max_new=40))
    tasks = [TASK, TASK._replace(prompt="recent candidates A tents_1 tents x B tea_1 tea y")]
    written = star.write(tasks, temperature=1.0, generator=torch.Generator().manual_seed(0))
    prompt, mask = pad([model.encode(task.prompt) for task in tasks])
    again = model.log_probs(prompt, written.ids, mask, written.real)
    torch.testing.assert_close(again[written.by_model], written.log_probs[written.by_model])
    twin = star.write(tasks, temperature=1.0, generator=torch.Generator().manual_seed(0))
    assert twin.texts == written.texts


# ------------------------------------------------------------------ bounded, counted, never a crash


def test_a_model_that_never_stops_is_cut_off_and_counted():
    star, tasks, _ = scripted(
        "x " * 500, TEXT.replace("<tool_response> woman durable </tool_response> ", ""), max_new=50
    )
    first, second = star.answer(tasks)
    assert first.ranking is None
    assert first.problem == "never ends"
    assert first.words == 50
    assert second.ranking == ["B", "A", "C"]
    assert second.text == TEXT
    assert problems([first, second]) == {"never ends": 1}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(VOCABULARY.tokens[1:]), min_size=1, max_size=60).map(" ".join))
def test_any_words_give_an_answer(text):
    star, tasks, _ = scripted(text)
    (answer,) = star.answer(tasks)
    assert (answer.ranking is None) == bool(answer.problem)
    assert len(answer.text.split()) <= 80


def test_an_untrained_model_answers_malformed_and_is_rewarded_minus_one():
    star = Star(tiny(), STORE, StarConfig(max_new=30))
    answers = star.answer([TASK] * 5, batch_size=2)
    assert [answer.ranking for answer in answers] == [None] * 5
    assert sum(problems(answers).values()) == 5
    grpo = StarGRPO(star, tiny(), StarGRPOConfig(group=2))
    drawn = star.write([TASK] * 4, generator=torch.Generator().manual_seed(1))
    assert [tuple(r) for r in grpo.rewards([TASK] * 4, drawn)] == [(-1.0, 0.0)] * 4


def test_a_prompt_that_leaves_no_room_is_refused():
    with pytest.raises(ValueError, match="max_new: 90 behind a prompt of 16 words exceeds the model's context of 96"):
        Star(tiny(), STORE, StarConfig(max_new=90)).write([TASK])


# ------------------------------------------------------------------ stage 1


def test_tool_responses_are_read_and_not_learnt():
    model = tiny()
    one = sft_example(model, TASK, TEXT)
    assert one.ids == [*VOCABULARY.encode(f"{PROMPT} {TEXT}"), VOCABULARY.end_id]
    learnt = [word for word, real in zip(f"{PROMPT} {TEXT} <end>".split(), one.learnt, strict=True) if real]
    response = "<tool_response> woman durable </tool_response> "
    assert learnt == f"{TEXT.replace(response, '')} <end>".split()

    # As many trained tokens as generation flags as the model's.
    star, tasks, _ = scripted(TEXT.replace(response, ""))
    written = star.write(tasks, temperature=0.0)
    assert int(written.by_model.sum()) == sum(one.learnt)
    assert written.by_model[0].tolist() == one.learnt[len(PROMPT.split()) :]


def test_responses_have_no_part_in_the_loss_and_no_gradient():
    model = tiny()
    one = sft_example(model, TASK, TEXT)
    (batch,) = CompletionBatches([one], batch_size=1).epoch(0)
    kept = {}
    forward = model.forward

    def watch(*arguments):
        logits, hidden = forward(*arguments)
        logits.retain_grad()
        kept["logits"] = logits
        return logits, hidden

    model.forward = watch
    loss, count = completion_loss(model, batch)
    assert count == sum(one.learnt)
    loss.backward()
    asked = (kept["logits"].grad.abs().sum(-1)[0] > 0).tolist()
    assert asked == one.learnt[1:]

    # Other words as *labels* at those positions change nothing; as input they do.
    other = batch._replace(ids=torch.where(batch.learnt, batch.ids, VOCABULARY.encode("z")[0]))
    logits = kept["logits"].detach()
    model.forward = lambda *_: (logits, None)
    assert float(completion_loss(model, other)[0]) == pytest.approx(float(loss.detach()))


def test_malformed_texts_are_not_learnt():
    with pytest.raises(MalformedTrajectory):
        sft_example(tiny(), TASK, "<plan> x")
    with pytest.raises(ValueError, match="task: has an empty prompt"):
        sft_example(tiny(), TASK._replace(prompt=""), TEXT)


# ------------------------------------------------------------------ stage 2


def test_group_advantages_of_the_sheet():
    rewards = torch.tensor([2, 2, 5 / 3, 4 / 3, 1, 1, 1, -1], dtype=torch.float64)
    assert float(rewards.mean()) == pytest.approx(1.125)
    assert float(rewards.std(correction=0)) == pytest.approx(0.896560, abs=1e-6)
    population = group_advantages(rewards, "population", 0.0).advantages
    expected = [0.9760, 0.9760, 0.6042, 0.2324, -0.1394, -0.1394, -0.1394, -2.3702]
    torch.testing.assert_close(population, torch.tensor(expected, dtype=torch.float64), atol=1e-4, rtol=0)
    sample = group_advantages(rewards).advantages  # what StarGRPO uses
    expected = [0.9128, 0.9128, 0.5651, 0.2173, -0.1304, -0.1304, -0.1304, -2.2169]
    torch.testing.assert_close(sample, torch.tensor(expected, dtype=torch.float64), atol=1e-4, rtol=0)
    equal = group_advantages(torch.ones(1, 8))
    assert equal.zero_variance.all()
    assert not equal.advantages.any()


def written_by_hand(model, tasks, texts):
    """Trajectories with tool responses, as generation would have returned them."""
    examples = [sft_example(model, task, text) for task, text in zip(tasks, texts, strict=True)]
    starts = [len(model.encode(task.prompt)) for task in tasks]
    ids, real = pad([e.ids[s:] for e, s in zip(examples, starts, strict=True)])
    mine = pad([e.learnt[s:] for e, s in zip(examples, starts, strict=True)])[0].bool()
    prompt, mask = pad([model.encode(task.prompt) for task in tasks])
    with torch.no_grad():
        log_probs = model.log_probs(prompt, ids, mask, real).masked_fill(~mine, 0)
    return Written(ids, log_probs, mine, real, list(texts), [1] * len(texts), [True] * len(texts))


def test_ratio_is_one_and_kl_zero_at_the_start():
    model = tiny()
    grpo = StarGRPO(Star(model, STORE, StarConfig(max_new=30)), copy.deepcopy(model), StarGRPOConfig(group=4, beta=0.1))
    seen = grpo.update([TASK, TASK], torch.Generator().manual_seed(0))
    assert seen.ratio == pytest.approx(1.0, abs=1e-5)
    assert seen.kl == pytest.approx(0.0, abs=1e-7)
    assert (seen.form, seen.outcome, seen.zero_variance) == (-1.0, 0.0, 1.0)


def test_responses_enter_neither_ratio_nor_kl():
    model, reference = tiny(0), tiny(1)
    tasks, texts = [TASK, TASK], [TEXT, TEXT.replace("B A C", "A B C")]
    grpo = StarGRPO(Star(model, STORE), reference, StarGRPOConfig(beta=0.5))
    written = written_by_hand(model, tasks, texts)
    advantage = torch.tensor([1.0, -0.5])
    loss, log_prob, log_prob_ref = grpo.loss(tasks, written, advantage)
    mine = written.by_model
    assert not mine.all()
    k3 = (log_prob_ref - log_prob).exp() - (log_prob_ref - log_prob) - 1
    per_row = ((advantage[:, None] - 0.5 * k3) * mine).sum(1) / mine.sum(1)  # ratio 1, Eq. 3 of GRPO
    torch.testing.assert_close(loss, -per_row.mean())
    log_prob.retain_grad()
    grpo.loss(tasks, written, advantage)[0].backward()  # no error: the graph is whole
    loss.backward()
    assert log_prob.grad[mine].abs().min() > 0
    assert not log_prob.grad[~mine].any()


def test_an_update_prefers_the_better_run():
    model = tiny()
    star = Star(model, STORE)
    grpo = StarGRPO(star, copy.deepcopy(model), StarGRPOConfig(group=2, tasks=1, lr=1e-2, beta=0.0))
    texts = [TEXT, TEXT.replace("B A C", "C A B")]
    tasks = [TASK, TASK]
    star.write = lambda *_, **__: written_by_hand(model, tasks, texts)
    before = written_by_hand(model, tasks, texts).log_probs.sum(1)
    seen = grpo.update([TASK], None)
    after = written_by_hand(model, tasks, texts).log_probs.sum(1)
    assert (after - before)[0] > (after - before)[1]
    assert seen.outcome == pytest.approx((1 + 2 / 3) / 2)
    assert seen.zero_variance == 0


def test_a_model_of_hugging_face_calls_tools_and_learns_by_adapters():
    class Words:
        eos_token_id = VOCABULARY.end_id

        def encode(self, text, add_special_tokens=False):
            return VOCABULARY.encode(text)

        def decode(self, ids, skip_special_tokens=True):
            return VOCABULARY.decode(ids)

    torch.manual_seed(0)
    sizes = {"vocab_size": len(VOCABULARY), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    network = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=1)
    )
    reference = HuggingFaceLM(copy.deepcopy(network), Words()).eval()
    model = HuggingFaceLM(network, Words()).with_lora(rank=2).eval()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    star = Star(model, STORE, StarConfig(max_new=40, max_calls=2))
    written = star.write([TASK] * 16, generator=torch.Generator().manual_seed(0))
    assert sum(written.calls) > 0  # by chance: one word in forty closes a call
    for text, calls in zip(written.texts, written.calls, strict=True):
        assert text.count("</tool_call> <tool_response>") >= calls - 1  # the last may be cut off
    assert not written.by_model[written.real].all()
    grpo = StarGRPO(star, reference, StarGRPOConfig(group=8, tasks=2, lr=1e-2))
    grpo.rewards = lambda tasks, written: [
        Reward(float(calls), 0.0) for calls in written.calls
    ]  # so that groups differ
    seen = grpo.update([TASK, TASK], torch.Generator().manual_seed(0))
    assert seen.ratio == pytest.approx(1.0, abs=1e-4)
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all("lora" in name for name in changed)


def test_strata_are_three_four_three():
    levels = ["easy"] * 50 + ["medium"] * 50 + ["hard"] * 50
    for n, counts in ((10, (3, 4, 3)), (8, (3, 3, 2)), (100, (30, 40, 30))):
        drawn = stratified(levels, n, np.random.default_rng(0))
        assert len(set(drawn.tolist())) == n
        found = [sum(levels[i] == level for i in drawn) for level in ("easy", "medium", "hard")]
        assert all(abs(f - e) <= 1 for f, e in zip(found, counts, strict=True)), found
        assert sum(found) == n
    assert {levels[i] for i in stratified(levels, 9, np.random.default_rng(0), {"hard": 1})} == {"hard"}
    with pytest.raises(ValueError, match="difficulty: 40 medium tasks are wanted, but there are 1"):
        stratified(["easy"] * 50 + ["medium"] + ["hard"] * 50, 100, np.random.default_rng(0))


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="group: must be at least 2"):
        StarGRPOConfig(group=1)
    with pytest.raises(ValueError, match="temperature, lr: must be positive"):
        StarGRPOConfig(temperature=0)
    with pytest.raises(ValueError, match="max_new: must be at least 1"):
        StarConfig(max_new=0)
