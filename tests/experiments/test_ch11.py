"""The experiment of chapter 11: searches of equal cost, rewards and measures by hand, and what a run records."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from torch.testing import assert_close

from reclib.evaluation import evaluate
from reclib.experiments import ch11_vstar as ch11
from reclib.experiments import group_measures as gm
from reclib.experiments import group_searches as gs
from reclib.experiments import group_tuning as gt
from reclib.experiments import search_tries as tries
from reclib.experiments import tuning_lab as tl
from reclib.experiments.results import config_json, load
from reclib.generation import SemanticIdTrie, beam_search, sample
from reclib.objectives.grpo import group_advantages, grpo_loss, kl_k3
from reclib.objectives.prefix_tree import TabularModel
from reclib.objectives.vstar import DecodingConfig, ValueHead, grow, plant, score_sequences, value_guided_decoding
from reclib.tokenizers import SemanticIds
from tests.records import check_record_is_whole

SMOKE = ch11.SCALES["smoke"]
SMALL = tries.TrieStudy(prompts=40)


@pytest.fixture(scope="module")
def lab():
    return tl.prepare(SMOKE.study, 0, progress=False)


@pytest.fixture(scope="module")
def values(lab):
    return gt.value_start(lab, tl.revenue_reward, SMOKE.study, 0)


@pytest.fixture(scope="module")
def questions(lab):
    return tl.some_questions(lab, SMOKE.study)


def trie_question(study=SMALL, seed=0):
    model, trie, target = tries.random_trie(study, seed)
    best = trie.ids.tokens[trie.items[trie.first[target]]]
    return model, gs.Question(trie, torch.arange(1, study.prompts + 1)[:, None], None), target, best


# ------------------------------------------------------------------ searches of equal cost


class Counting:
    """Counts the tokens that go through a model; the prompt counts as one."""

    def __init__(self, model):
        self.model, self.tokens = model, 0

    def read(self, history):
        self.tokens += len(history)
        return self.model.read(history)

    def step(self, cache, token, parent):
        self.tokens += token.numel()
        return self.model.step(cache, token, parent)


@pytest.mark.parametrize("name", gs.SEARCHES)
@pytest.mark.parametrize("budget", [17, 34, 68])
def test_every_search_keeps_the_budget_and_uses_it(name, budget):
    model, q, target, best = trie_question()
    counting = Counting(model)
    config = DecodingConfig(budget=budget)
    leaf = gs.SEARCHES[name](counting, q, config, best, torch.Generator().manual_seed(0))
    spent = counting.tokens / SMALL.prompts
    assert spent <= budget
    if name.startswith("ved"):
        # It may end with a token that buys nothing. With perfect values it ends by finding what they lead to.
        assert spent > 0.8 * budget or (leaf == target[:, None]).any(1).all()
    elif name == "sampling":
        assert spent == {17: 17, 34: 33, 68: 67}[budget]
    else:
        assert spent == {17: 17, 34: 34, 68: 68}[budget]  # 1 + 8 + 8, and 1 + 12 + the rest: there are 12 first codes
    assert (leaf >= 0).all()
    assert (leaf < q.trie.nodes(3)).all()


def test_a_beam_is_a_beam_and_a_narrow_one_keeps_all_it_has_seen():
    model, q, _, _ = trie_question()
    wide = gs.by_beam(model, q, DecodingConfig(budget=68), torch.Generator())
    expected = beam_search(gs.WithoutValues(model), q.trie, q.history, 68 - 1 - 12)
    assert torch.equal(wide, expected.leaf[:, :16])
    narrow = gs.by_beam(model, q, DecodingConfig(budget=9), torch.Generator())
    four = beam_search(gs.WithoutValues(model), q.trie, q.history, 4)
    for row in range(SMALL.prompts):
        assert narrow[row, :4].tolist() == four.leaf[row].tolist()
        codes = q.trie.ids.codes[q.trie.items[q.trie.first[narrow[row]]]][:, :2]
        assert len(codes.unique(dim=0)) <= 4


def test_sampling_is_sampling_without_what_is_excluded():
    model, q, _, _ = trie_question()
    drawn = gs.by_sampling(model, q, DecodingConfig(), torch.Generator().manual_seed(3))
    expected = sample(gs.WithoutValues(model), q.trie, q.history, 16, generator=torch.Generator().manual_seed(3))
    assert torch.equal(drawn, expected.leaf)
    gone = q.trie.items[q.trie.first[drawn[:, :5]]]
    again = gs.by_sampling(model, q._replace(exclude=gone), DecodingConfig(), torch.Generator().manual_seed(3))
    assert not (again[:, :, None] == drawn[:, None, :5]).any()


@pytest.mark.parametrize("name", ["beam", "stochastic beam", "ved"])
def test_no_search_returns_what_is_excluded(name):
    model, q, _, best = trie_question()

    def found(q):
        return gs.SEARCHES[name](model, q, DecodingConfig(), best, torch.Generator().manual_seed(0))

    first = found(q)
    gone = q.trie.items[q.trie.first[first]]
    assert not (found(q._replace(exclude=gone))[:, :, None] == first[:, None]).any()


def test_perfect_values_are_a_table_of_perfect_values():
    model, q, target, best = trie_question()  # whose table is perfect
    wrong = TabularModel(model.trie, model.logits, [torch.rand_like(table) for table in model.values])
    for budget in (17, 34):
        config = DecodingConfig(budget=budget)
        by_table = gs.SEARCHES["ved"](model, q, config, best, torch.Generator().manual_seed(1))
        by_wrapper = gs.SEARCHES["ved, perfect value"](wrong, q, config, best, torch.Generator().manual_seed(1))
        assert torch.equal(by_table, by_wrapper)
    large = gs.SEARCHES["ved, perfect value"](wrong, q, DecodingConfig(budget=136), best, torch.Generator())
    assert (large == target[:, None]).any(1).float().mean() > 0.9
    assert (large[:, 0] == target)[(large == target[:, None]).any(1)].all()  # and it comes first


def test_perfect_values_find_the_target_of_a_network(lab, values, questions):
    model, q = gt.starting_point(lab, values, SMOKE.study), tl.question(lab, questions)
    config = DecodingConfig(budget=200, lam=0.0, beta=0.0, widening=math.inf, leaves=16, patience=3)
    best = tl.tokens_of(lab, questions.target)
    found = gs.SEARCHES["ved, perfect value"](model, q, config, best, torch.Generator().manual_seed(0))
    assert (found[:, 0] == questions.target).all()


def test_random_values_know_nothing_of_the_model():
    model, q, _, best = trie_question()
    other = TabularModel(model.trie, model.logits, [torch.rand_like(table) for table in model.values])
    one, same, else_ = (
        gs.SEARCHES["ved, random value"](m, q, DecodingConfig(), best, torch.Generator().manual_seed(s))
        for m, s in ((model, 0), (other, 0), (model, 1))
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, else_)


def test_groups_by_hand():
    leaf = torch.tensor([[3, 5, 3, 7, 5], [1, 1, 1, 1, 1]])
    assert gs.different(leaf) == pytest.approx((3 + 1) / 2)
    assert gs.first_different(leaf, 4).tolist() == [[3, 5, 7, 3], [1, 1, 1, 1]]
    assert gs.first_different(leaf, 2).tolist() == [[3, 5], [1, 1]]


# ------------------------------------------------------------------ tries


def test_targets_hide_under_improbable_first_codes():
    model, trie, target = tries.random_trie(SMALL, 5)
    codes = trie.ids.codes[trie.items[trie.first[target]]]
    for prompt in range(SMALL.prompts):
        logits = model.logits[0][prompt, 0]
        assert (logits < logits[codes[prompt, 0]]).sum() < 6
        assert model.values[0][prompt, 0].tolist() == torch.eye(12)[codes[prompt, 0]].tolist()
    assert sum(table.sum() for table in model.values) == 3 * SMALL.prompts
    assert len(trie.items) == 400


def test_a_value_helps_as_much_as_it_knows():
    study = tries.TrieStudy(prompts=150)

    def found(search, **more):
        return tries.search_trie(study, gs.SEARCHES[search], 34, 0, **more)["group/target"]

    perfect, placebo, beam = found("ved"), found("ved, random value"), found("beam")
    assert perfect == found("ved, perfect value")
    assert perfect > 0.4
    assert perfect > found("ved", noise=0.5) > found("ved", noise=5.0)
    assert max(placebo, beam) < 0.15


def test_the_released_search_pays_73_tokens_and_expands_nothing():
    study = tries.TrieStudy(prompts=20, items=1500)  # so that eight children are there
    for budget in (17, 136):
        found = tries.search_as_released(study, budget, 0)
        assert found["forwards"] == pytest.approx(73)
        assert found["expansions"] == 0
    model, trie, _ = tries.random_trie(study, 0)
    history = torch.arange(1, 21)[:, None]
    counting = Counting(model)
    tree, _ = tries.released_search(counting, trie, history, DecodingConfig(budget=17))
    assert counting.tokens == int(tree.forwards.sum())
    assert tree.levels[1].count.tolist() == [8] * 20
    assert tree.levels[2].count.tolist() == [64] * 20
    for row in range(3):  # the eight most probable first codes
        top = model.logits[0][row, 0].topk(8).indices.sort().values
        assert torch.equal(trie.ids.codes[trie.items[trie.first]][:, 0].unique()[top], top)
        reached = {trie.prefix(1, int(node))[0] for node in tree.levels[1].node[row][:8]}
        assert reached == set(top.tolist())
    ours = value_guided_decoding(model, trie, history, DecodingConfig(budget=17))
    assert (ours.expansions.sum(1) > 0).all()


def test_searches_can_be_timed():
    clock = SMOKE.clock
    assert tries.time_search(clock, gs.SEARCHES["ved"], 0) > 0


# ------------------------------------------------------------------ the laboratory


def test_prompts_are_training_events_and_what_came_before(lab):
    log = lab.prompts.source
    held_out = np.concatenate([log.offsets[1:] - 1, log.offsets[1:] - 2])
    assert not np.isin(lab.prompts.target, held_out).any()
    assert len(lab.prompts) == len(log) - 3 * log.n_users  # nor the first event, before which there is nothing
    rows = np.array([0, 17, 200])
    prompts = tl.ask(lab, lab.prompts, rows, 6)
    for row, case in enumerate(rows):
        event = lab.prompts.target[case]
        first = log.offsets[log.user[event]]
        assert prompts.clicked[row][prompts.clicked[row] > 0].tolist() == log.item[first:event].tolist()
        assert prompts.history[row][prompts.history[row] > 0].tolist() == log.item[first:event][-6:].tolist()
        assert int(lab.leaf_item[prompts.target[row]]) == log.item[event]
        assert tl.tokens_of(lab, prompts.target)[row].tolist() == lab.ids.tokens[log.item[event]].tolist()


def test_every_ad_has_an_id_of_its_own(lab):
    assert lab.ids.n_sequences == lab.ids.n_items == 120
    assert lab.trie.levels == 3


def test_click_rewards_by_hand(lab, questions):
    target = questions.target[:1]
    one = tl.Prompts(*(part[:1] for part in questions))
    codes = lab.ids.codes[lab.leaf_item]
    mine = codes[target[0]]
    agree = (codes == mine).long().cumprod(1).sum(1)
    cousin = int((agree == 1).nonzero()[0])
    stranger = int((agree == 0).nonzero()[0])
    leaf = torch.tensor([[stranger, int(target[0]), cousin]])
    found = tl.click_reward(lab, one, leaf)
    discount = 1 / np.log2(np.arange(3) + 2)
    penalty = -discount / discount.sum()
    assert found.rewards[0].tolist() == pytest.approx([penalty[0], 1, penalty[2]])
    assert found.siblings[0].tolist() == [0, 1, 0]
    assert tl.graded_reward(lab, one, leaf).siblings[0].tolist() == pytest.approx([0, 1, 0.3])
    assert tl.listed_reward(lab, one, leaf).siblings[0].tolist() == pytest.approx([penalty[0], 1, penalty[2]])
    assert found.dense.shape == (1, 4, 3)
    assert found.dense[0, 3].tolist() == pytest.approx([0.3, 0.5, 1.0])  # the target's path
    assert found.dense[0, 2, 0] == pytest.approx(0.3)
    whole = tl.whole_item_reward(lab, one, leaf)
    assert_close(whole.rewards, found.rewards)
    assert (whole.dense[0, :, 2] == found.dense[0, :, 2]).all()  # a leaf is an item
    assert (whole.dense[0, 0] != found.dense[0, 0]).any()


def test_revenue_is_that_of_the_world_over_the_best(lab, questions):
    leaf = torch.arange(8).expand(len(questions.target), 8)
    found = tl.revenue_reward(lab, questions, leaf)
    items = np.arange(1, lab.ids.n_items + 1)
    for row in (0, 7):
        event = questions.event[row : row + 1]
        revenue = lab.world.expected_revenue(None, items[None], event=event)[0]
        clicked = set(questions.clicked[row].tolist())
        revenue[[i for i, item in enumerate(items) if item in clicked]] = 0
        expected = 4 * revenue[lab.leaf_item[:8].numpy() - 1] / revenue.max()
        assert found.rewards[row].numpy() == pytest.approx(expected, rel=1e-5)
    assert_close(found.siblings, found.rewards)
    assert_close(found.dense[:, :8, 2], found.rewards)
    assert not found.dense[..., :2].any()
    assert float(tl.revenue_of_leaves(lab, questions.event).amax(1).min()) == pytest.approx(1)


def test_chances_sum_to_one_and_ads_clicked_before_have_none(lab, questions):
    chance = tl.chance_of_leaves(lab, questions.event)
    assert_close(chance.sum(1), torch.ones(len(chance)), atol=1e-4, rtol=0)
    before = lab.trie.leaf[questions.clicked]
    assert not chance.gather(1, before.clamp(min=0))[before >= 0].any()


def test_a_start_is_kept_with_its_codes(lab, tmp_path):
    tl.save_start(tl.Start(lab.ids, lab.policy), tmp_path / "below" / "start.safetensors")
    start = tl.load_start(SMOKE.study, tmp_path / "below" / "start.safetensors")
    assert torch.equal(start.ids.codes, lab.ids.codes)
    assert start.ids.sizes == lab.ids.sizes
    again = tl.prepare(SMOKE.study, 0, start=start, progress=False)
    for name, weight in lab.policy.state_dict().items():
        assert torch.equal(again.policy.state_dict()[name], weight)
    assert_close(gm.measure(again, tl.recommender(again, again.policy, SMOKE.study)),
                 gm.measure(lab, tl.recommender(lab, lab.policy, SMOKE.study)))  # fmt: skip


@pytest.fixture
def real_study(monkeypatch):
    """A log without a world behind it."""
    log = tl.make_world(SMOKE.study, 3).simulate()
    monkeypatch.setattr(tl, "load_dataset", lambda name: log)
    return replace(SMOKE.study, dataset=ch11.SCIENTIFIC, seeds=1, steps=1)


def test_a_real_log_has_clicks_and_no_truth(real_study):
    lab = tl.prepare(real_study, 0, progress=False)
    found = gm.measure(lab, tl.recommender(lab, lab.policy, real_study))
    assert {name.split("/")[0] for name in found} == {"test"}
    prompts = tl.some_questions(lab, real_study)
    leaf = torch.arange(8).expand(len(prompts.target), 8)
    assert tl.click_reward(lab, prompts, leaf).dense.shape == (20, 9, 3)
    with pytest.raises(ValueError, match="lab: of a real log"):
        tl.revenue_reward(lab, prompts, leaf)


# ------------------------------------------------------------------ fine-tuning


def test_the_schedule_by_hand():
    study = replace(SMOKE.study, steps=100)
    assert [gt.schedule(step, study) for step in (0, 1, 2, 3, 50, 99)] == pytest.approx(
        [1 / 3, 2 / 3, 0.98, 0.97, 0.5, 0.01]
    )


def batch_of():
    generator = torch.Generator().manual_seed(0)
    log_prob = (-3 * torch.rand(4, 8, 3, generator=generator)).requires_grad_()
    rewards = torch.rand(4, 8, generator=generator)
    rewards[1] = 0.5
    return log_prob, rewards, log_prob.detach() + 0.1 * torch.randn(4, 8, 3, generator=generator)


def test_dapo_drops_groups_without_variance():
    log_prob, rewards, reference = batch_of()
    (slope,) = torch.autograd.grad(gt.dapo(log_prob, log_prob.detach(), reference, rewards, 0.5), log_prob)
    assert not slope[1].any()
    alone = [0, 2, 3]  # as if it had not been there
    advantages = group_advantages(rewards[alone]).advantages
    loss = grpo_loss(log_prob[alone], log_prob[alone], advantages).mean()
    assert_close(slope, torch.autograd.grad(loss, log_prob)[0])


def test_gspo_begins_like_grpo_and_pays_the_same_penalty():
    log_prob, rewards, reference = batch_of()
    found = gt.gspo(log_prob, log_prob.detach(), reference, rewards, 0.5)
    advantages = group_advantages(rewards).advantages
    expected = grpo_loss(log_prob, log_prob, advantages, log_prob_ref=reference, beta=0.5).mean()
    assert_close(found, expected)
    assert_close(torch.autograd.grad(found, log_prob)[0], torch.autograd.grad(expected, log_prob)[0])
    assert float(0.5 * kl_k3(log_prob, reference).mean().detach()) == pytest.approx(float(found.detach()), abs=1e-6)


def test_arms_are_told_apart_in_the_record():
    for arms in ch11.ARMS.values():
        told = [config_json({"arm": arm.about()}) for arm in arms.values()]
        assert len(set(told)) == len(told)
        assert not any(" at 0x" in text for text in told)
    assert json.loads(config_json(ch11.ARMS["revenue"]["v-star, floor"].about()))["floor"] == pytest.approx(0.4)


def weights_of(module):
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


@pytest.mark.parametrize("setting", list(ch11.ARMS))
def test_arms_move_what_they_should(lab, values, setting):
    """One batch per arm, and all arms of a setting begin with the same prompts."""
    before, head = weights_of(lab.policy), ValueHead(16, lab.ids.vocabulary)
    head.load_state_dict(values)
    study, seen = replace(SMOKE.study, steps=1, prompts=128), set()  # so many that some draw finds its target
    for name, arm in ch11.ARMS[setting].items():
        tuned = gt.fine_tune(lab, arm, study, 0, start=values, progress=False)
        assert (weights_of(tuned.model.policy) != before).any(), name
        assert (weights_of(tuned.model.value) != weights_of(head)).any() == arm.value, name
        if arm.search == gs.SEARCHES["ved"]:
            seen.add(tuned.curves["group/target"][0])
    assert torch.equal(weights_of(lab.policy), before)
    assert len(seen) == 1


def test_fine_tuning_repeats(lab, values):
    arm = ch11.ARMS["revenue"]["v-star"]
    one, again, other = (
        weights_of(gt.fine_tune(lab, arm, SMOKE.study, seed, start=values, progress=False).model) for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_step_that_leaves_the_numbers_is_refused(lab):
    arm = replace(ch11.ARMS["revenue"]["grpo, beam"], policy_loss=lambda *parts: parts[0].sum() * math.nan)
    with pytest.raises(FloatingPointError, match="the loss is NaN or infinite"):
        gt.fine_tune(lab, arm, SMOKE.study, 0, progress=False)


def test_rewards_pull_towards_what_earns(lab):
    """A few batches of GRPO on revenue, with draws: the policy's own draws earn more afterwards."""
    study = replace(SMOKE.study, steps=30, prompts=64, revenue_lr=1e-2)
    arm = ch11.ARMS["revenue"]["grpo, sampling"]
    earned = gt.fine_tune(lab, arm, study, 0, progress=False).curves["group/reward"]
    assert np.mean(earned[-8:]) > 1.25 * np.mean(earned[:8])


def test_supervision_pulls_towards_the_click(lab):
    study = replace(SMOKE.study, steps=30, prompts=64, lr=1e-2)
    tuned = gt.supervise(lab, study, 0, progress=False)
    prompts = tl.ask(lab, lab.prompts, np.arange(200), 6)
    model = gt.starting_point(lab, ValueHead(16, lab.ids.vocabulary).state_dict(), study)

    def likelihood(model):
        target = prompts.target[:, None]
        return float(score_sequences(model, lab.trie, prompts.history, target).log_prob.sum(-1).mean().detach())

    assert likelihood(tuned.model) > likelihood(model) + 0.05


def second_code_reward(lab, prompts, leaf):
    """1 for items whose second code is even: a value can know that, and a constant cannot."""
    every = torch.cat([leaf, prompts.target[:, None]], dim=1)
    dense = torch.zeros(*every.shape, 3)
    dense[..., -1] = (lab.ids.codes[lab.leaf_item[every]][..., 1] % 2 == 0).float()
    return tl.Rewarded(dense[:, :-1, -1], dense[:, :-1, -1], dense)


def test_values_learn_before_fine_tuning_begins(lab, questions):
    """What comes at the last level, known from the second code on: bootstrapped one level up, remembered one down."""
    study = replace(SMOKE.study, value_batches=100, value_epochs=10)
    start = gt.value_start(lab, second_code_reward, study, 0)
    trained, fresh = (gt.starting_point(lab, w, study) for w in (start, ValueHead(16, lab.ids.vocabulary).state_dict()))
    leaf = gs.by_sampling(fresh, tl.question(lab, questions), study.decoding, torch.Generator().manual_seed(1))
    earns = second_code_reward(lab, questions, leaf).rewards
    value = score_sequences(trained, lab.trie, questions.history, leaf, exclude=questions.clicked).value.detach()
    for depth, expected in ((2, study.loss.gamma * earns), (3, earns)):
        error = float((value[..., depth - 1] - expected).square().mean())
        assert error < 0.1 * float(expected.var()), depth  # 1: no better than a constant


# ------------------------------------------------------------------ measures


def test_rank_correlation_is_spearmans_row_by_row():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 5, (2, 6, 9), generator=generator).float()
    there = torch.rand(6, 9, generator=generator) < 0.8
    there[5] = torch.arange(9) < 2  # too few to count
    expected = [spearmanr(a[row][there[row]], b[row][there[row]]).statistic for row in range(5)]
    assert gm.rank_correlation(a, b, there) == pytest.approx(np.mean(expected), abs=1e-6)
    assert gm.rank_correlation(torch.ones(2, 4), torch.rand(2, 4), torch.ones(2, 4, dtype=torch.bool)) == 0
    assert gm.rank_correlation(a, b, torch.zeros(6, 9, dtype=torch.bool)) == 0


def test_truth_is_the_expected_hit_of_the_same_lists(lab):
    model = tl.recommender(lab, lab.policy, SMOKE.study)
    found = gm.measure(lab, model)
    top = evaluate(model, lab.split.test, ks=(10,)).top
    event = lab.split.test.target
    chance = lab.world.next_item_distribution(event=event)
    hits = [sum(chance[row, item] for item in top[row].tolist()) for row in range(len(top))]
    assert found["truth/recall@10"] == pytest.approx(np.mean(hits), rel=1e-5)
    gains = [
        sum(chance[row, item] / math.log2(place + 2) for place, item in enumerate(top[row].tolist()))
        for row in range(len(top))
    ]
    assert found["truth/ndcg@10"] == pytest.approx(np.mean(gains), rel=1e-5)
    money = lab.world.expected_revenue(None, top[:, :1].numpy(), event=event)
    assert found["truth/revenue@1"] == pytest.approx(float(money.mean()), rel=1e-5)
    firsts = [len({int(lab.ids.codes[item, 0]) for item in row.tolist()}) for row in top]
    assert found["test/first codes@10"] == pytest.approx(np.mean(firsts))
    assert gm.measure(lab, lab.world.oracle)["truth/ndcg@10"] > found["truth/ndcg@10"]


def test_a_policy_is_no_distance_from_itself(lab, values):
    model = gt.starting_point(lab, values, SMOKE.study)
    assert gm.distance(lab, model, SMOKE.study, 0) == pytest.approx(0, abs=1e-6)
    study = replace(SMOKE.study, steps=10, revenue_lr=3e-3)
    tuned = gt.fine_tune(lab, ch11.ARMS["revenue"]["grpo, beam"], study, 0, progress=False)
    assert gm.distance(lab, tuned.model, SMOKE.study, 0) > 0.01


def test_reach_by_hand(lab, values, questions):
    model = gt.starting_point(lab, values, SMOKE.study)
    found = gm.reach(lab, model, SMOKE.study, 34, "beam", 0, revenue=True)
    leaf = beam_search(lab.policy, lab.trie, questions.history, 16, exclude=questions.clicked).leaf[:, :8]
    chance = tl.chance_of_leaves(lab, questions.event)
    revenue = tl.revenue_of_leaves(lab, questions.event)
    hits, chances, best = [], [], []
    for row in range(len(leaf)):
        mine = leaf[row].tolist()
        hits.append(int(questions.target[row]) in mine)
        chances.append(float(chance[row, mine].sum()))
        best.append(float(revenue[row, mine].max()))
    assert found["group/target"] == pytest.approx(np.mean(hits))
    assert found["group/chance"] == pytest.approx(np.mean(chances), rel=1e-4)
    assert found["group/best revenue"] == pytest.approx(np.mean(best), rel=1e-4)


def test_perfect_values_reach_more_than_the_policy(lab, values):
    model = gt.starting_point(lab, values, SMOKE.study)
    for revenue, metric in ((False, "group/target"), (True, "group/best revenue")):
        perfect, beam = (
            gm.reach(lab, model, SMOKE.study, 34, search, 0, revenue=revenue)[metric]
            for search in ("ved, perfect value", "beam")
        )
        assert perfect > beam


@pytest.mark.parametrize("revenue", [False, True])
def test_value_quality_by_hand(lab, values, questions, revenue):
    model = gt.starting_point(lab, values, SMOKE.study)
    found = {
        (name, depth): value for name, value, depth in gm.value_quality(lab, model, SMOKE.study, 4, revenue=revenue)
    }
    q = tl.question(lab, questions)
    tree = plant(model, q.trie, q.history, SMOKE.study.decoding, exclude=q.exclude,
                 generator=torch.Generator().manual_seed(4))  # fmt: skip
    grow(tree, SMOKE.study.decoding)
    known, reward = gm.truths(lab, questions), lab.bucket(tree.levels[3].node, questions.target)
    codes = lab.ids.codes[lab.leaf_item]
    for depth in (1, 2, 3):
        level, rows = tree.levels[depth], {"value/truth": [], "likelihood/truth": [], "value/realised": []}
        for row in range(len(questions.target)):
            slots = range(int(level.count[row]))
            truth, realised = [], []
            for slot in slots:
                prefix = q.trie.prefix(depth, int(level.node[row, slot]))
                below = (codes[:, :depth] == torch.tensor(prefix)).all(1)
                truth.append(float(known.revenue[row, below].max() if revenue else known.chance[row, below].sum()))
                gains = []
                for s in range(int(tree.levels[3].count[row])):
                    leaf = int(tree.levels[3].node[row, s])
                    if below[leaf]:
                        dense = reward[row, s, depth - 1 :]
                        later = sum(0.99**k * float(r) for k, r in enumerate(dense))
                        gains.append(float(known.revenue[row, leaf]) if revenue else later)
                realised.append(np.mean(gains) if gains else 0.0)
            if len(slots) >= 3:
                for name, a, b in (
                    ("value/truth", level.value, truth),
                    ("likelihood/truth", level.log_prob, truth),
                    ("value/realised", level.value, realised),
                ):
                    a = a[row, : len(slots)].numpy()
                    b = np.array(b, dtype=np.float32).round(5)
                    flat = np.ptp(a) == 0 or np.ptp(b) == 0
                    rows[name].append(0.0 if flat else spearmanr(a, b).statistic)
        for name, correlations in rows.items():
            assert found[name, depth] == pytest.approx(np.mean(correlations), abs=0.02), (name, depth)


# ------------------------------------------------------------------ a run


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "results"
    ch11.run(SMOKE, [0], root=root)
    return root


@pytest.mark.slow
def test_a_run_records_every_arm(smoke):
    rows = load(ch11.NAME, smoke)
    world = rows[rows.dataset == "adworld"]
    for setting, arms in ch11.ARMS.items():
        part = world[(world.setting == setting) & (world.metric == "truth/revenue@1")]
        extra = {*ch11.BASELINES, "oracle", "supervised"} if setting == "" else set()
        assert set(part.arm) == set(arms) | extra
        for metric in ("group/spread", "group/zero variance", "group/target", "group/branching", "kl"):
            assert set(world[(world.setting == setting) & (world.metric == metric)].arm) >= set(arms)
        depths = world[(world.setting == setting) & (world.metric == "value/truth")]
        assert set(depths.x) == {1, 2, 3}
        assert set(depths.arm) == {name for name, arm in arms.items() if arm.value}
        reach = world[(world.setting == ch11.name_of("reach", setting)) & (world.metric == "group/target")]
        assert set(zip(reach.arm, reach.x, strict=True)) == {(name, b) for name in gs.SEARCHES for b in (17, 34)}
        assert set(world[world.setting == ch11.name_of("value", setting)].arm) == {"start"}
    curve = world[world.metric == "curve/group/target"]
    assert set(curve.x) == {1, 2}
    trie = rows[rows.dataset == "trie"]
    assert set(trie[trie.metric == "expansions"].value) == {0}
    assert set(trie[(trie.arm == "ved") & (trie.setting == "noise")].x) == {0.0, 1.0}
    assert set(rows[rows.dataset == "clock"].arm) == {"beam", "sampling", "stochastic beam", "ved"}


@pytest.mark.slow
def test_the_same_run_again_repeats_nothing_and_leaves_no_checkpoint(smoke, capsys):
    before = load(ch11.NAME, smoke)
    ch11.run(SMOKE, [0], root=smoke)
    assert "numbers in" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(load(ch11.NAME, smoke), before)
    assert not list((smoke.parent / "runs" / ch11.NAME).glob("*"))


@pytest.mark.slow
def test_recorded_numbers_are_those_of_a_run_alone_from_kept_weights(smoke):
    start = tl.load_start(SMOKE.study, ch11.kept_weights("generator", smoke))
    lab = tl.prepare(SMOKE.study, 0, start=start, progress=False)
    kept = load_file(ch11.kept_weights("values", smoke))
    arm = ch11.ARMS["revenue"]["v-star"]
    tuned = gt.fine_tune(lab, arm, SMOKE.study, 0, start=kept, progress=False)
    found = gm.measure(lab, tl.recommender(lab, tuned.model.policy, SMOKE.study))
    rows = load(ch11.NAME, smoke)
    rows = rows[(rows.arm == "v-star") & (rows.setting == "revenue") & rows.x.isna()].set_index("metric")["value"]
    for metric in ("truth/revenue@1", "truth/ndcg@10"):
        assert found[metric] == pytest.approx(rows[metric], rel=1e-3)
    assert float(np.mean(tuned.curves["group/spread"])) == pytest.approx(rows["group/spread"], rel=1e-4)


@pytest.mark.slow
def test_a_real_log_is_recorded_with_the_main_arms(real_study, tmp_path):
    config = replace(SMOKE, real=real_study)
    ch11.run(config, [0, 1], root=tmp_path, datasets=[ch11.SCIENTIFIC])
    rows = load(ch11.NAME, tmp_path)
    assert set(rows.dataset) == {ch11.SCIENTIFIC}
    assert set(rows.seed) == {0}  # as many seeds as the study says
    assert set(rows[rows.metric == "test/recall@3"].arm) == {*ch11.MAIN, *ch11.BASELINES, "supervised"}
    assert not rows.metric.str.startswith("truth").any()
    assert json.loads(rows.config.iloc[0])["dataset"] == ch11.SCIENTIFIC


def test_unknown_data_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"datasets: there is no \['beauty'\]; choose from trie, clock, adworld"):
        ch11.run(SMOKE, [0], root=tmp_path, datasets=["beauty"])


def test_equal_budgets_are_equal_in_the_record():
    """A beam of 16 and VED may spend what the study says, and groups are as large."""
    study = ch11.Config().study
    codes = torch.cartesian_prod(torch.arange(24), torch.arange(24), torch.arange(2))
    trie = SemanticIdTrie(SemanticIds.from_codes(codes, (24, 24, 2)))
    assert gs.width_of(study.decoding, trie) == study.decoding.leaves == 16
    assert gs.width_of(DecodingConfig(budget=17), trie) == 8
    assert gs.width_of(DecodingConfig(budget=136), trie) == 136 - 1 - 24
    assert gs.width_of(DecodingConfig(budget=9000), trie) == 24 * 24
    assert study.decoding.budget == 34
    assert asdict(study.decoding) == asdict(DecodingConfig())


def test_the_record_is_whole():
    check_record_is_whole(11, ch11.NAME)
