"""Reasoning to Rank on models small enough to enumerate or to train while you wait."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import transformers
from torch.testing import assert_close

from reclib.language import HuggingFaceLM, TinyLM, TinyLMConfig, Vocabulary
from reclib.objectives.grpo import leave_one_out_baseline
from reclib.reasoning import ReasoningToRank
from reclib.reasoning import reasoning_to_rank as r2r
from reclib.reasoning.plackett_luce import expected_ndcg, ndcg, ndcg_of_scores

WORDS = Vocabulary(["likes", "red", "blue", "ad", "good", "bad", "."], special=["<answer>", "yes", "no"])
SMALL = r2r.ReasoningToRankConfig(max_new=4, hidden=16, k=3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ranker(kind=ReasoningToRank, config=SMALL, seed=0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TinyLM(WORDS, TinyLMConfig(dim=16, layers=2, heads=2, context=32)).eval()
        return kind(model, config, **settings)


TEXTS = [
    ["likes red ad red", "likes red ad blue .", "likes red ad", "likes red ad good bad"],
    ["likes blue . ad red", "likes blue . ad blue", "likes blue . ad .", "likes blue . ad bad good good"],
]


@pytest.fixture(scope="module")
def lists():
    return r2r.encode_lists(ranker().model, TEXTS, [1, 3])


def of(weights):
    return list(weights.parameters())


def gradient(loss, weights):
    found = torch.autograd.grad(loss, of(weights), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(of(weights), found, strict=True)]


def is_zero(gradients):
    return all(bool((g == 0).all()) for g in gradients)


# ------------------------------------------------------------------ 6 and 8: order and padding


@pytest.mark.parametrize("kind", [ReasoningToRank, r2r.RationaleToRank, r2r.SilentToRank])
def test_shuffling_candidates_shuffles_the_scores(lists, kind):
    one, order = ranker(kind), torch.tensor([2, 0, 3, 1])
    shuffled = r2r.Lists(lists.ids[:, order], lists.mask[:, order], lists.positive)
    alone, again = (one.score(x, batch_size=1)[0] for x in (lists, shuffled))
    assert torch.equal(alone[:, order], again)  # to the last bit
    together, again = (one.score(x)[0] for x in (lists, shuffled))
    assert_close(together[:, order], again, atol=1e-5, rtol=0)
    assert_close(together, alone, atol=1e-5, rtol=0)
    assert len(set(alone.flatten().tolist())) > 2  # or a shuffle would show nothing


def test_padding_changes_nothing(lists):
    one = ranker()
    padded = r2r.Lists(
        torch.nn.functional.pad(lists.ids, (3, 2), value=5), torch.nn.functional.pad(lists.mask, (3, 2)), lists.positive
    )
    scores, rationales = one.score(lists)
    again, others = one.score(padded)
    assert_close(scores, again, atol=1e-5, rtol=0)
    assert torch.equal(rationales.ids, others.ids)


def test_scores_are_those_of_a_plain_loop(lists):
    one = ranker()
    scores, rationales = one.score(lists)
    for row, text in enumerate(text for texts in TEXTS for text in texts):
        ids = one.model.encode(text) + rationales.ids[row][rationales.there[row]].tolist()
        _, hidden = one.model(torch.tensor([ids]))
        assert_close(scores.flatten()[row], one.head(hidden[0, -1])[0], atol=1e-5, rtol=0)


def test_log_probabilities_are_those_of_the_draw_and_of_the_interface(lists):
    one = ranker(config=replace(SMALL, temperature=0.7, max_new=6))
    rationales = one.draw(lists, seeded(1))
    rows = one._rows(lists)
    reading = one.read(*rows, rationales)
    assert_close(reading.log_probs, rationales.log_probs, atol=1e-5, rtol=0)
    expected = one.model.log_probs(rows[0], rationales.ids, rows[1], rationales.there, temperature=0.7)
    assert_close(reading.log_probs, expected, atol=1e-6, rtol=0)


# ------------------------------------------------------------------ 7: where the gradient flows


def test_one_step_reaches_the_head_and_the_model_by_both_paths(lists):
    one = ranker()
    rationales = one.draw(lists, seeded(3))
    step = one.loss(lists, rationales, generator=seeded(4))
    assert float(step.ratio) == pytest.approx(1, abs=1e-5)
    assert float(step.clipped) == 0
    assert not is_zero(gradient(step.ranking_loss, one.head))
    assert not is_zero(gradient(step.ranking_loss, one.model))  # through h
    assert not is_zero(gradient(step.token_loss, one.model))  # through the tokens
    assert is_zero(gradient(step.token_loss, one.head))


@pytest.mark.parametrize(("lr", "model_lr"), [(1e-2, 0.0), (0.0, 1e-2), (1e-2, 1e-2)])
def test_what_is_frozen_stays_and_the_rest_learns(lists, lr, model_lr):
    one = ranker()
    before = copy.deepcopy(one)
    r2r.learn_to_rank(one, lists, r2r.RankTraining(steps=1, lists=2, lr=lr, model_lr=model_lr))
    same = [
        all(torch.equal(a, b) for a, b in zip(of(new), of(old), strict=True))
        for new, old in ((one.head, before.head), (one.model, before.model))
    ]
    assert same == [lr == 0, model_lr == 0]


def test_a_silent_model_learns_through_h_alone(lists):
    one = ranker(r2r.SilentToRank, filler=WORDS.encode(". . ."))
    rationales = one.draw(lists)
    assert rationales.ids.shape == (8, 3)
    assert not rationales.drawn.any()
    step = one.loss(lists, rationales, generator=seeded())
    assert float(step.token_loss) == 0
    assert is_zero(gradient(step.token_loss, one.model))
    assert not is_zero(gradient(step.ranking_loss, one.model))
    assert step.advantage.shape == (2, 1, 4)


def test_without_filler_the_score_is_that_of_the_prompt(lists):
    one = ranker(r2r.SilentToRank)
    scores, _ = one.score(lists)
    _, hidden = one.model(torch.tensor([one.model.encode(TEXTS[1][2])]))
    assert_close(scores[1, 2], one.head(hidden[0, -1])[0], atol=1e-5, rtol=0)


def test_equal_rewards_have_no_gradient(lists):
    """All scores equal, so all redraws earn the same; and each ranking of one item earns 1."""
    one = ranker(config=replace(SMALL, entropy=0.0))
    torch.nn.init.zeros_(one.head[-1].weight)
    rationales = one.draw(lists, seeded(3))
    step = one.loss(lists, rationales, generator=seeded(4))
    assert (step.advantage == 0).all()
    assert is_zero(gradient(step.token_loss, one.model))
    single = r2r.Lists(lists.ids[:, :1], lists.mask[:, :1], torch.zeros(2, dtype=torch.long))
    one = ranker(config=replace(SMALL, entropy=0.0))
    step = one.loss(single, one.draw(single, seeded()), generator=seeded())
    assert_close(step.reward, torch.ones(2, 2))
    assert is_zero(gradient(step.loss, one))


# ------------------------------------------------------------------ the objective by enumeration


def true_objective(one, lists, tokens):
    """J of one list with one-token rationales: over all rationales of all items, and all rankings, exactly."""
    items = lists.ids.shape[1]
    logits, _ = one.model(lists.ids[0], lists.mask[0])
    last = lists.mask[0].sum(1) - 1
    log_p = logits[torch.arange(items), last].log_softmax(-1)
    scores = []
    for token in range(tokens):
        ids = torch.full((items, 1), token)
        there = torch.ones(items, 1, dtype=torch.bool)
        rationales = r2r.Rationales(ids, torch.zeros(items, 1), there, there, there[:, 0])
        scores.append(one.read(lists.ids[0], lists.mask[0], rationales).scores)
    table = torch.stack(scores, 1)  # [items, tokens]
    every = torch.cartesian_prod(*[torch.arange(tokens)] * items)
    chosen = table[torch.arange(items), every]
    chance = log_p[torch.arange(items), every].sum(1).exp()
    value = expected_ndcg(chosen, lists.positive.expand(len(every)), one.config.k).float()
    return (chance * value).sum()


@pytest.mark.slow
@pytest.mark.parametrize("credit", [r2r.shared_credit, r2r.item_credit])
def test_the_gradient_is_that_of_the_objective(credit):
    """Unbiased for θ and φ: mean of many estimates against the enumeration."""
    torch.manual_seed(0)
    words = Vocabulary(["a", "b"])
    model = TinyLM(words, TinyLMConfig(dim=8, layers=1, heads=1, context=8)).eval()
    config = r2r.ReasoningToRankConfig(max_new=1, hidden=8, k=2, entropy=0.0, samples=2)
    one = ReasoningToRank(model, config)
    for weight in one.parameters():
        weight.data.mul_(3)
    lists = r2r.encode_lists(model, [["a", "b", "a b"]], [1])
    exact = gradient(true_objective(one, lists, len(words)), one)
    many = r2r.Lists(*(x.expand(2000, *x.shape[1:]) for x in lists))
    generator, estimates = seeded(5), []
    for _ in range(12):
        step = one.loss(many, one.draw(many, generator), credit=credit, generator=generator)
        estimates.append(torch.cat([g.flatten() for g in gradient(-step.loss, one)]))
    found = torch.stack(estimates)
    error = found.mean(0) - torch.cat([g.flatten() for g in exact])
    assert float(error.norm()) < 2.5 * float(found.var(0).sum().div(12).sqrt())
    assert float(error.norm()) < 0.1 * float(found.mean(0).norm())


def test_shared_credit_by_hand():
    scores = torch.randn(3, 2, 5, generator=seeded())
    positive = torch.tensor([0, 4, 2])
    found = r2r.shared_credit(scores, positive, SMALL)
    reward = expected_ndcg(scores, positive[:, None].expand(3, 2), 3).float()
    assert_close(found, (reward - leave_one_out_baseline(reward))[..., None].expand(3, 2, 5))
    assert_close(found[:, 0], reward[:, :1].sub(reward[:, 1:]).expand(3, 5))


def test_item_credit_is_that_of_a_plain_loop():
    config = replace(SMALL, samples=3, redraws=3, tau=0.5)
    scores, positive = torch.randn(2, 3, 5, generator=seeded()).double(), torch.tensor([0, 3])
    found = r2r.item_credit(scores, positive, config, seeded(7))
    noise = r2r.gumbel_noise((2, 3, 1, 3, 5), seeded(7))[:, :, 0]

    def utility(values, row):
        return float(ndcg(values.argsort(descending=True)[None], positive[row], config.k))

    for row in range(2):
        for g in range(3):
            for i in range(5):
                gain = 0.0
                for m in range(3):
                    arrival = scores[row, g] / 0.5 + noise[row, g, m]
                    for other in (x for x in range(3) if x != g):
                        replaced = arrival.clone()
                        replaced[i] = scores[row, other, i] / 0.5 + noise[row, g, m, i]
                        gain += (utility(arrival, row) - utility(replaced, row)) / (2 * 3)
                assert float(found[row, g, i]) == pytest.approx(gain, abs=1e-9)


def test_item_credit_is_quieter_than_shared_credit():
    """One item's rationale matters, the scores of the others are noise: with shared credit they drown it."""
    scores = 2 * torch.randn(400, 2, 20, generator=seeded())
    positive = torch.zeros(400, dtype=torch.long)
    config = replace(SMALL, k=10, samples=8)
    shared, single = (c(scores, positive, config, seeded(1)) for c in (r2r.shared_credit, r2r.item_credit))
    assert float(single[..., 1:].var()) < 0.3 * float(shared[..., 1:].var())
    moved = scores[:, 0, 0] - scores[:, 1, 0]
    assert torch.corrcoef(torch.stack([single[:, 0, 0], moved]))[0, 1] > 0.5


# ------------------------------------------------------------------ PPO


def test_a_second_pass_has_another_ratio_and_is_clipped(lists):
    one = ranker()
    rationales = one.draw(lists, seeded())
    first = one.loss(lists, rationales, generator=seeded())
    optimizer = torch.optim.SGD(one.parameters(), lr=5.0)
    first.loss.backward()
    optimizer.step()
    second = one.loss(lists, rationales, advantage=first.advantage, generator=seeded())
    assert abs(float(second.ratio) - 1) > 1e-3
    assert float(second.clipped) > 0
    assert torch.equal(second.advantage, first.advantage)
    reading = one.read(*one._rows(lists), rationales)
    rho = (reading.log_probs - rationales.log_probs).exp()
    merit = first.advantage.reshape(-1, 1)
    inner = torch.minimum(rho * merit, rho.clamp(0.8, 1.2) * merit) * rationales.drawn
    assert_close(second.token_loss, -inner.sum() / 4, atol=1e-6, rtol=1e-5)  # two lists, two redraws


def test_the_penalty_holds_the_model_to_its_start(lists):
    one = ranker(config=replace(SMALL, beta=0.5))
    reference = copy.deepcopy(one.model)
    rationales = one.draw(lists, seeded())
    plain = one.loss(lists, rationales, generator=seeded())
    same = one.loss(lists, rationales, reference=reference, generator=seeded())
    assert_close(plain.loss, same.loss)  # still where it began
    for weight in reference.parameters():
        weight.data.mul_(1.1)
    assert float(one.loss(lists, rationales, reference=reference, generator=seeded()).loss) > float(plain.loss)


def test_training_repeats_with_its_seed(lists):
    runs = []
    for seed in (0, 0, 1):
        one, seen = ranker(), []
        r2r.learn_to_rank(
            one, lists, r2r.RankTraining(steps=2, lists=1, passes=2, lr=1e-2, model_lr=1e-3), seed=seed,
            watch=lambda step, found, rationales, seen=seen: seen.append((step, rationales.runaway_share)),
        )  # fmt: skip
        assert [step for step, _ in seen] == [0, 1]
        runs.append(torch.cat([w.flatten() for w in one.parameters()]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


# ------------------------------------------------------------------ runaway, controls, other models


def test_a_model_that_never_stops_is_cut_and_counted(lists):
    one = ranker()
    one.model.tokens.weight.data[one.model.end_id] = -one.model.tokens.weight.data.mean(0) * 50
    one.model.norm.bias.data = one.model.tokens.weight.data[2:].mean(0) * 50
    rationales = one.draw(lists, seeded())
    assert rationales.runaway_share == 1
    assert rationales.ids.shape[1] == SMALL.max_new
    assert rationales.there.all()
    scores, rationales = one.score(lists)
    assert torch.isfinite(scores).all()
    assert rationales.runaway.all()
    one.model.norm.bias.data = one.model.tokens.weight.data[one.model.end_id]
    assert one.draw(lists, seeded()).runaway_share == 0


def test_a_rationale_carries_the_score_where_the_head_sees_nothing_else(lists):
    one = ranker(r2r.RationaleToRank, config=replace(SMALL, max_new=3))
    ids, mask = lists.ids.flatten(0, 1), lists.mask.flatten(0, 1)
    rationales = one.think(ids, mask, generator=seeded())
    order = torch.randperm(8, generator=seeded(1))
    moved = r2r.Rationales(*(x[order] for x in rationales))
    assert_close(one.read(ids, mask, moved).scores, one.read(ids, mask, rationales).scores[order])
    full = ranker()
    assert not torch.allclose(full.read(ids, mask, moved).scores, full.read(ids, mask, rationales).scores[order])


def test_yes_against_no_by_hand(lists):
    tag, yes, no = WORDS.encode("<answer> yes no")
    one = ranker(r2r.AnswerToRank, tag=tag, yes=yes, no=no)
    texts = ["good <answer> yes", "<answer> no", "bad bad good ."]
    ids, there = r2r.pad([one.model.encode(text) for text in texts])
    rationales = r2r.Rationales(ids, torch.zeros(ids.shape), there, there, torch.zeros(3, dtype=torch.bool))
    prompt, mask = lists.ids[0, :3], lists.mask[0, :3]
    found = one.read(prompt, mask, rationales).scores
    for row, behind in ((0, "good <answer>"), (1, "<answer>")):
        logits, _ = one.model(torch.tensor([one.model.encode(TEXTS[0][row] + " " + behind)]))
        assert_close(found[row], logits[0, -1, yes] - logits[0, -1, no], atol=1e-5, rtol=0)
    assert float(found[2]) == 0


def test_a_model_of_hugging_face_ranks_and_learns(lists):
    sizes = {"vocab_size": 24, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    torch.manual_seed(0)
    network = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64)
    )

    class Letters:
        eos_token_id = 1

        def encode(self, text, add_special_tokens=False):
            return [2 + ord(letter) % 20 for letter in text]

    one = ReasoningToRank(HuggingFaceLM(network, Letters()).eval(), SMALL)
    data = r2r.encode_lists(one.model, [["ab", "abc", "c"]], [2])
    before, _ = one.score(data, batch_size=1)
    assert_close(one.score(data)[0], before, atol=1e-5, rtol=0)
    r2r.learn_to_rank(one, data, r2r.RankTraining(steps=1, lists=1, lr=1e-2, model_lr=1e-2))
    assert not torch.allclose(one.score(data)[0], before)


# ------------------------------------------------------------------ 9: the cold start


def test_every_kept_rationale_has_the_answer_of_its_label():
    texts = [
        "good <answer> yes", "bad <answer> no", "good <answer> no", "<answer> maybe", "good", "<answer>",
        "<answer> no . <answer> yes", "<answer> no",
    ]  # fmt: skip
    labels = [True, False, True, False, False, True, True, False]
    kept = r2r.kept_rationales(texts, labels)
    assert kept == r2r.Kept([0, 1, 6, 7], yes=2, no=2, wrong=1, unreadable=3)
    assert all(r2r.read_answer(texts[row]) is labels[row] for row in kept.rows)
    assert r2r.kept_rationales(texts, labels, most=(1, 2)) == r2r.Kept([0, 1, 7], 1, 2, 1, 3)
    with pytest.raises(ValueError, match="labels: 1 for 8 texts; give one per text"):
        r2r.kept_rationales(texts, [True])


# ------------------------------------------------------------------ bad input


def test_an_answer_is_the_word_behind_the_last_tag():
    assert r2r.read_answer("<answer> no so <answer> yes") is True
    assert r2r.read_answer("good <answer> no .") is False
    for text in ("", "yes", "<answer>", "<answer> yes <answer>", "<answer> maybe"):
        assert r2r.read_answer(text) is None


def test_bad_lists_are_named():
    model = ranker().model
    for prompts, message in (([], "lists of no items"), ([["red"], ["red", "blue"]], r"lists of \[1, 2\] items")):
        with pytest.raises(ValueError, match=rf"prompts: {message}"):
            r2r.encode_lists(model, prompts, [0])
    with pytest.raises(ValueError, match="positive: 2 for 1 lists; give one per list"):
        r2r.encode_lists(model, [["red", "blue"]], [0, 1])
    with pytest.raises(ValueError, match=r"positive: must be a place in the list, 0 … 1, got \[2\]"):
        r2r.encode_lists(model, [["red", "blue"]], [2])


def test_bad_settings_are_named(lists):
    for settings, message in (
        ({"max_new": 0}, "max_new: must be at least 1"),
        ({"redraws": 1}, "redraws: must be at least 2"),
        ({"samples": 1}, "samples: must be at least 2"),
        ({"tau": 0.0}, "tau: must be positive"),
        ({"temperature": math.nan}, "temperature: must be positive"),
        ({"beta": -1.0}, "beta: must be zero or positive"),
    ):
        with pytest.raises(ValueError, match=message):
            r2r.ReasoningToRankConfig(**settings)
    with pytest.raises(ValueError, match="steps: must be at least 1"):
        r2r.RankTraining(steps=0)
    with pytest.raises(ValueError, match="lr: must be zero"):
        r2r.RankTraining(lr=-1.0)
    with pytest.raises(ValueError, match="clip_norm: must be positive"):
        r2r.RankTraining(clip_norm=0.0)
    with pytest.raises(ValueError, match="training: lr and model_lr are both 0"):
        r2r.learn_to_rank(ranker(), lists, r2r.RankTraining(lr=0.0, model_lr=0.0))
    with pytest.raises(ValueError, match="batch_size: must be at least 1"):
        ranker().score(lists, batch_size=0)


def test_a_model_that_breaks_is_named(lists):
    one = ranker()
    rationales = one.draw(lists, seeded())
    one.head[-1].bias.data.fill_(math.nan)
    with pytest.raises(ValueError, match="scores: 16 of 16 are NaN or infinite; mend"):
        one.loss(lists, rationales, generator=seeded())


# ------------------------------------------------------------------ 10: a toy that has to reason


@pytest.mark.slow
def test_the_toy_reaches_the_optimum_and_needs_its_rationales():
    from reclib.experiments.rationale_toy import Toy, train_toy

    found = train_toy(Toy(), 0)
    assert found["ndcg"] >= 0.95 * found["optimum"]
    assert found["shuffled"] < found["random"] + 0.05
    assert found["random"] == pytest.approx(float(ndcg_of_scores(torch.zeros(10), torch.tensor(0), 10)), abs=1e-6)
    assert found["optimum"] > found["random"] + 0.2
