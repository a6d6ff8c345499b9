"""The experiment of chapter 12: texts that say what is true, policies by hand, and what a run records."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from reclib.experiments import ch12_sgrec as ch12
from reclib.experiments import judge_training as jt
from reclib.experiments import judged_ads as ja
from reclib.experiments import two_reward_generator as trg
from reclib.experiments import two_rewards as tr
from reclib.experiments.results import COLUMNS, Book, load
from reclib.experiments.tuning_lab import TINY, ask, prepare
from reclib.language import TinyLM, pad
from reclib.language.interface import Generated
from reclib.objectives.semantic_judge import PersonalizedSemanticJudge
from reclib.objectives.sgrec import SGRecConfig
from tests.records import check_record_is_whole

SMOKE = ch12.SCALES["smoke"]
SMALL = tr.WorldConfig(preset="tiny", dials=(), recent=6, log_rows=200)
SHORT = tr.TrainConfig(updates=4, groups=6, method=SGRecConfig(size=5, ratio=1.0))


@pytest.fixture(scope="module")
def world():
    return ja.judged_world(3, None, "tiny", ())


@pytest.fixture(scope="module")
def cards(world):
    return jt.deck(world)


@pytest.fixture(scope="module")
def tables():
    return tr.make_tables([replace(SMALL, alignment=rho) for rho in (-0.5, 0.5)], [3, 3])


@pytest.fixture(scope="module")
def start():
    return tr.clone(SMALL, [3], tr.CloneConfig(steps=20, batch_size=32), progress=False).expand(2, -1)


RUNS = torch.arange(2)


# ------------------------------------------------------------------ users and ads in words


def test_findings_follow_from_the_text_and_add_up_to_the_worlds_aspects(world, cards):
    rng = np.random.default_rng(0)
    cases = jt.random_cases(world, 500, rng)
    for user, item, found in zip(cases.user, cases.item, cases.findings, strict=True):
        assert ja.find(cards.users[user], cards.ads[item - 1]) == tuple(found)
    assert_close(cases.scores, world.aspects(cases.user, cases.item[:, None])[:, 0])
    for column, levels in zip(cases.findings.T, ja.LEVELS, strict=True):
        assert set(column) == set(range(levels))  # every value of every finding occurs


def test_reasoning_can_be_read_back(world, cards):
    cases = jt.random_cases(world, 200, np.random.default_rng(1))
    for item, found in zip(cases.item, cases.findings, strict=True):
        said = ja.reasoning(cards.ads[item - 1], found)
        assert ja.read_reasoning(cards.ads[item - 1], said + " <scores> 0 0 0 0") == tuple(found)
    ad = "ad : electronics cameras high women fast cooks"
    assert ja.read_reasoning(ad, "audience fits . price maybe .") == (1, None, None, None, None, None, None)


def test_every_word_is_known_and_answers_fit_the_limit(world, cards):
    model = jt.new_model(SMOKE.judge.model, 0)
    cases = jt.random_cases(world, 300, np.random.default_rng(2))
    texts = jt.annotated(cards, cases, cases.findings, model)
    with pytest.raises(ValueError, match="is not in the vocabulary"):  # so a text that could be encoded has none
        model.encode("a-word-nobody-wrote")
    assert max(sum(text.learnt) for text in texts) <= jt.LONGEST + 1  # and the end
    assert max(len(text.ids) for text in texts) <= SMOKE.judge.model.context


def test_annotators_err_as_often_as_they_are_said_to():
    truth = np.zeros((20_000, 7), dtype=np.int64)
    noted = ja.annotate(truth, 0.2, np.random.default_rng(0))
    assert (noted != truth).mean(0) == pytest.approx(0.2, abs=0.02)
    assert (noted < np.array(ja.LEVELS)).all()
    assert (ja.annotate(truth, 0.0, np.random.default_rng(0)) == truth).all()
    assert (ja.annotate(truth, 1.0, np.random.default_rng(0)) != truth).all()
    for noise in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="noise: "):
            ja.annotate(truth, noise, np.random.default_rng(0))


def test_preferences_follow_the_users_own_weights(world):
    everybody = np.arange(world.config.n_users)
    sharp = ja.preferences(world, everybody, 2_000, np.random.default_rng(0), sharpness=1e6)
    fit = world.semantic_fit(sharp.user, np.column_stack([sharp.better, sharp.worse]))
    assert (fit[:, 0] >= fit[:, 1] - 1e-4).all()
    assert (sharp.better != sharp.worse).all()
    blunt = ja.preferences(world, everybody, 4_000, np.random.default_rng(0), sharpness=0.0)
    fit = world.semantic_fit(blunt.user, np.column_stack([blunt.better, blunt.worse]))
    assert (fit[:, 0] > fit[:, 1]).mean() == pytest.approx((fit[:, 0] < fit[:, 1]).mean(), abs=0.05)


def test_texts_do_not_depend_on_the_dial():
    plain, dialled = (jt.deck(ja.judged_world(3, rho, "tiny", ())) for rho in (None, 0.7))
    assert plain.users == dialled.users
    assert plain.ads == dialled.ads


# ------------------------------------------------------------------ policies over ads


def test_a_policy_by_hand():
    state, item = torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0], [3.0]]])
    weight = torch.tensor([[0.5, -1.0, 0.1, 0.2]])  # W = (.5, -1)ᵀ, b = (.1, .2)
    assert_close(tr.logits(weight, state, item), torch.tensor([[[-1.4, -4.3]]]))


def test_the_dial_moves_business_and_nothing_else(tables):
    assert not torch.equal(tables.business[0], tables.business[1])
    for table in (tables.state, tables.fit, tables.chance, tables.clicked, tables.target, tables.user):
        assert torch.equal(table[0], table[1])
    for run, rho in enumerate((-0.5, 0.5)):
        pairs = torch.stack([tables.business[run].flatten(), tables.fit[run].flatten()])
        assert float(torch.corrcoef(pairs)[0, 1]) == pytest.approx(rho, abs=0.1)


def test_nobody_is_shown_what_they_have_clicked(tables, start):
    log_prob = tr.log_policy(tables, RUNS, start, torch.arange(5).expand(2, -1))
    assert (log_prob[tables.clicked[:, :5]] == -torch.inf).all()
    assert_close(log_prob.exp().sum(-1), torch.ones(2, 5))
    drawn = tr._drawn(log_prob, torch.rand(2, 5, 200, generator=torch.Generator().manual_seed(0)))
    assert not tables.clicked[:, :5].gather(-1, drawn).any()
    edge = tr._drawn(log_prob, torch.tensor([0.0, 1 - 1e-7]).expand(2, 5, 2))
    assert not tables.clicked[:, :5].gather(-1, edge).any()


def test_worth_by_hand(tables, start):
    found = tr.worth(tables, RUNS, start)
    rows = torch.arange(tables.train, tables.state.shape[1])
    log_prob = tr.log_policy(tables, RUNS, start, rows.expand(2, -1))
    for run in RUNS.tolist():
        business, hits = [], []
        for place, row in enumerate(rows.tolist()):
            p = log_prob[run, place].exp()
            business.append(float((p * tables.business[run, row]).sum()))
            hits.append(float(tables.chance[run, row, p.argsort(descending=True)[:10]].sum()))
        assert float(found["business"][run]) == pytest.approx(np.mean(business), rel=1e-4)
        assert float(found["hr@10"][run]) == pytest.approx(np.mean(hits), rel=1e-4)
    parts = {v: (tables.chance[0, rows] * (tables.novelty[0, rows] == v)).sum() for v in (0.0, 0.5, 1.0)}
    whole = sum(float(found[f"hr@10/novelty {v:g}"][0]) * float(part) for v, part in parts.items())
    assert float(found["hr@10"][0]) == pytest.approx(whole / len(rows), rel=1e-3)


def test_a_clone_prefers_what_the_log_holds(tables, start):
    blank = tr.worth(tables, RUNS, torch.zeros_like(start))
    assert (tr.worth(tables, RUNS, start)["hr@10"] > blank["hr@10"]).all()


@pytest.mark.parametrize("hit", [False, True])
def test_without_questions_every_arm_of_business_is_business_alone(tables, start, hit):
    silent = replace(SHORT, hit=hit, method=replace(SHORT.method, ratio=0.0))
    alone, _ = tr.learn(tr.ARMS["business only"], tables, RUNS, start, silent, progress=False)
    for arm in ("a2po", "a2po, shuffled judge", "advantage sum"):
        weight, watched = tr.learn(tr.ARMS[arm], tables, RUNS, start, silent, progress=False)
        assert torch.equal(weight, alone), arm
        assert not watched.calls.any()


def test_the_judge_is_asked_once_per_group_and_never_by_business_alone(tables, start):
    _, watched = tr.learn(tr.ARMS["a2po"], tables, RUNS, start, SHORT, progress=False)
    assert watched.calls.tolist() == [SHORT.updates * SHORT.groups] * 2
    _, watched = tr.learn(tr.ARMS["business only"], tables, RUNS, start, SHORT, progress=False)
    assert watched.calls.tolist() == [0, 0]


def test_a2po_turns_no_sign_and_sums_do(tables, start):
    _, watched = tr.learn(tr.ARMS["a2po"], tables, RUNS, start, SHORT, progress=False)
    assert watched.flips.tolist() == [0, 0]
    assert ((watched.inflation >= 1) & (watched.inflation <= 2)).all()
    _, watched = tr.learn(tr.ARMS["advantage sum"], tables, RUNS, start, SHORT, progress=False)
    assert (watched.flips > 0.05).all()


def test_a_run_does_not_depend_on_its_neighbours(tables, start):
    together, _ = tr.learn(tr.ARMS["a2po"], tables, RUNS, start, SHORT, progress=False)
    alone, _ = tr.learn(tr.ARMS["a2po"], tables, RUNS[1:], start[1:], SHORT, progress=False)
    # Adam makes a whole step of a gradient that is rounding and no more, so a few weights of rare features may differ.
    same = torch.isclose(together[1:], alone, atol=1e-5, rtol=1e-4)
    assert same.float().mean() > 0.9
    other = tr.learn(tr.ARMS["a2po"], tables, RUNS[:1], start[1:], SHORT, progress=False)[0]
    assert torch.isclose(other, alone, atol=1e-5, rtol=1e-4).float().mean() < 0.5  # that of another world does


def test_the_same_advantages_twice_as_large_move_a_clipped_policy_the_same_way(tables, start):
    knob = torch.tensor([1.0, 1.0])
    plain, _ = tr.learn(tr.ARMS["business only"], tables, RUNS, start, SHORT, progress=False)
    same, _ = tr.learn(tr.ARMS["business only, louder"], tables, RUNS, start, SHORT, knob=knob, progress=False)
    assert_close(plain, same)
    faster, _ = tr.learn(tr.ARMS["business only"], tables, RUNS, start, SHORT, rate=2 * knob, progress=False)
    assert ((faster - start).norm(dim=1) > 1.5 * (plain - start).norm(dim=1)).all()


def test_groups_of_hits_hold_the_clicked_ad(tables, start):
    seen = []

    def watching(group):
        seen.append(group.business)
        return tr.ARMS["business only"].advantages(group)

    tr.learn(tr.Arm(watching, judged=False), tables, RUNS, start, replace(SHORT, hit=True), progress=False)
    assert all((business.sum(-1) >= 1).all() for business in seen)
    assert all(((business == 0) | (business == 1)).all() for business in seen)


def test_reward_raises_what_is_rewarded(tables, start):
    longer = replace(SHORT, updates=40, groups=16, noise=0.0)
    before = tr.worth(tables, RUNS, start)
    for arm, metric in (("business only", "business"), ("semantic only", "semantic"), ("a2po", "business")):
        weight, _ = tr.learn(tr.ARMS[arm], tables, RUNS, start, longer, progress=False)
        assert (tr.worth(tables, RUNS, weight)[metric] > before[metric]).all(), arm


def test_judges_with_faults(tables):
    assert torch.equal(tr.judge_tables(tables, SHORT), tables.fit)
    spread = tables.fit.std(-1).mean(-1)
    noisy = tr.judge_tables(tables, replace(SHORT, judge_noise=2.0)) - tables.fit
    assert_close(noisy.std((1, 2)), 2 * spread, rtol=0.05, atol=0.0)
    biased = tr.judge_tables(tables, replace(SHORT, judge_bias=3.0)) - tables.fit
    assert ((biased < 1e-5) | ((biased - 3 * spread[:, None, None]).abs() < 1e-5)).all()
    assert torch.equal(biased[0, 0] > 0.1, biased[0, 7] > 0.1)  # the same ads for everybody


def test_an_ab_test_of_a_policy_against_itself_and_against_nonsense(tables, start):
    often = replace(SMALL, dials=(("base_ctr", 0.2),), alignment=0.5)
    tables = tr.make_tables([often], [3])
    silly = torch.where(torch.arange(start.shape[1]) < 1, 9.0, 0.0) * 0 - start[0]
    same = tr.online(often, 3, tables, 0, start[0], start[0], 40)
    worse = tr.online(often, 3, tables, 0, silly, start[0], 40)
    assert set(same) == {"click", "revenue"}
    assert same["click"].low < 0 < same["click"].high
    assert worse["click"].lift < same["click"].lift


# ------------------------------------------------------------------ judges


def test_weights_on_a_grid_come_near_the_truth(world):
    config = jt.WeigherConfig(steps=200, batch_size=64)
    pairs = jt.some_preferences(world, 4_000, 0)
    other = ja.judged_world(4, None, "tiny", ())
    _, test = jt.held_out(other, 200, 0)
    auc = {
        how: jt.weigher_quality(jt.grid_weigher(how, world, pairs, config, 0), other, test)["pair auc"]
        for how in jt.WEIGHING
    }
    assert auc["true weights"] >= max(auc.values()) - 0.01
    assert min(auc["logistic"], auc["pairwise rl"], auc["global"]) > auc["uniform"]
    assert jt.weigher_quality(jt.grid_weigher("true weights", world, pairs, config, 0), other, test)[
        "weight error"
    ] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="how: there is no 'by feel'"):
        jt.grid_weigher("by feel", world, pairs, config, 0)


def test_auc_counts_ties_half():
    weights = torch.tensor([[1.0, 0.0]]).expand(3, -1)
    better, worse = torch.tensor([[1.0, 0], [0, 1], [0.5, 1]]), torch.tensor([[0.0, 1], [1, 0], [0.5, 0]])
    assert float(jt.pair_auc(weights, better, worse)) == pytest.approx(0.5)


class ByRule(TinyLM):
    """Reads a prompt and answers by rule, as a perfect judge of part A would; or errs about the audience."""

    def __init__(self, wrong=False):
        blank = jt.new_model(SMOKE.judge.model, 0)
        super().__init__(blank.vocabulary, blank.config)
        self.wrong = wrong

    def generate(self, ids, mask=None, **_):
        answers = []
        for row, real in zip(ids, mask, strict=True):
            user, ad = self.decode(row[real]).removesuffix(" =>").split(" | ")
            found = np.array(ja.find(user, ad))
            if self.wrong:
                found[0] = 1 - found[0]
            scores = ja.scores_of(found[None])[0].tolist()
            answers.append(self.encode(jt.FORM.score_answer(ja.reasoning(ad, found), scores)))
        tokens, written = pad(answers)
        return Generated(tokens, torch.zeros(tokens.shape), written)


def test_a_judge_that_follows_the_rule_is_perfect_and_one_that_errs_is_found_out(world, cards):
    cases, _ = jt.held_out(world, 60, 0)
    perfect = jt.scorer_quality(ByRule(), cards, cases)
    assert perfect == {"exact": 1, "point": 1, "findings": 1, "sentences": 1, "consistent": 1, "malformed": 0}
    wrong = jt.scorer_quality(ByRule(wrong=True), cards, cases)
    assert wrong["exact"] == 0
    assert wrong["point"] == pytest.approx(0.75)
    assert wrong["findings"] == pytest.approx(6 / 7)
    assert wrong["consistent"] == 1
    mute = jt.scorer_quality(jt.new_model(SMOKE.judge.model, 0), cards, cases)
    assert mute["malformed"] == 1
    assert mute["exact"] == 0


def test_a_judge_in_the_loop_is_asked_about_what_was_drawn_and_nothing_else(world, cards):
    judge = PersonalizedSemanticJudge(ByRule(), max_new=jt.LONGEST)
    user = torch.arange(world.config.n_users)[None]
    rows, action = torch.tensor([[4, 9, 2]]), torch.randint(20, (1, 3, 5), generator=torch.Generator().manual_seed(1))
    asked = torch.tensor([[True, False, True]])
    found = jt.asks([judge], [cards], user)(rows, action, asked)
    assert found[0, 1].isnan().all()
    expected = world.aspects(np.array([4, 2]), action[0, [0, 2]].numpy() + 1).mean(-1)  # equal weights
    assert_close(found[0, [0, 2]], torch.from_numpy(expected).float())
    assert judge.calls == 10


def test_reinforcement_returns_a_new_model_and_leaves_the_old_one(cards):
    judge = replace(SMOKE.judge, grpo_lr=0.1)
    model = jt.new_model(judge.model, 0)
    before = [weight.clone() for weight in model.parameters()]
    weigher, rewards = jt.train_weigher(model, cards, jt.some_preferences(cards.world, 8, 0), judge, 0, progress=False)
    assert len(rewards) == judge.pair_steps
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before, weigher.parameters(), strict=True))


# ------------------------------------------------------------------ the generator


@pytest.fixture(scope="module")
def lab():
    return prepare(replace(TINY, dials=(("alignment", 0.4),)), 0, progress=False)


def test_leaves_have_the_truth_of_their_items(lab):
    prompts = ask(lab, lab.split.test, np.arange(4), TINY.recipe.max_len)
    known = trg.truth_of_leaves(lab, torch.from_numpy(prompts.event))
    item = int(lab.leaf_item[7])
    revenue = lab.truth.expected_revenue(None, np.full((4, 1), item), event=prompts.event)
    assert_close(known.business[:, 7], torch.from_numpy(np.log(1000 * revenue[:, 0])).float())
    fit = lab.truth.semantic_fit(None, np.full((4, 1), item), event=prompts.event)
    assert_close(known.fit[:, 7], torch.from_numpy(fit[:, 0]).float())


def test_lists_are_of_ads_that_were_not_clicked_and_are_judged_by_the_truth(lab):
    found = trg.lists(lab, lab.policy, trg.GeneratorConfig(TINY, judged=8))
    assert 0 < found["semantic"] < 1
    assert 0 <= found["ndcg@10"] <= found["hr@10"] <= 1
    assert found["business"] <= math.log(found["ecpm"])  # Jensen


def test_fine_tuning_on_two_rewards_leaves_the_lab_alone(lab):
    before = [weight.clone() for weight in lab.policy.parameters()]
    config = trg.GeneratorConfig(TINY)
    policy, seen = trg.fine_tune_on_two(lab, tr.ARMS["a2po"], config, 0, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, lab.policy.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    assert seen["flips"] == 0
    assert 1 <= seen["inflation"] <= 2
    _, summed = trg.fine_tune_on_two(lab, tr.ARMS["advantage sum"], config, 0, progress=False)
    assert summed["flips"] > 0


# ------------------------------------------------------------------ what a run records


def results_of(rows):
    """A record made by hand: (arm, setting, seed, x, metric) → value."""
    filled = [
        {**dict.fromkeys(COLUMNS.names, ""), "dataset": ch12.WORLD}
        | {"arm": arm, "setting": setting, "seed": seed, "x": x, "metric": metric, "value": value}
        for (arm, setting, seed, x, metric), value in rows.items()
    ]
    return pd.DataFrame(filled)


def test_the_tuning_rule_by_hand():
    rows = {("a2po", "tuning", ch12.TUNING_SEED, 0.0, "business"): 5.0}
    for place, knob in enumerate(tr.GRID):  # business falls with the weight, fit rises
        rows["advantage sum × " + f"{knob:g}", "frontier", ch12.TUNING_SEED, 0.0, "business"] = 5.25 - 0.1 * place
        rows["advantage sum × " + f"{knob:g}", "frontier", ch12.TUNING_SEED, 0.0, "semantic"] = 0.1 * place
    rule = ("advantage sum", (0.0,), "frontier", "semantic")
    assert ch12.chosen_knobs(results_of(rows), *rule) == {0.0: tr.GRID[2]}
    rows["a2po", "tuning", ch12.TUNING_SEED, 0.0, "business"] = 9.0  # nobody earns as much
    assert ch12.chosen_knobs(results_of(rows), *rule) == {0.0: tr.GRID[0]}
    best = ("advantage sum", (0.0,), "frontier", "business")
    assert ch12.chosen_knobs(results_of(rows), *best) == {0.0: tr.GRID[0]}


def test_above_the_frontier_by_hand():
    rows = {}
    for metric, own, business, semantic in (("business", 6.5, 7.0, 2.0), ("semantic", 0.5, 0.1, 0.9)):
        rows["a2po", "", 0, 0.4, metric] = own
        rows["business only", "", 0, 0.4, metric] = business
        rows["semantic only", "", 0, 0.4, metric] = semantic
    for place, knob in enumerate(tr.GRID):
        rows[f"advantage sum × {knob:g}", "frontier", 0, 0.4, "business"] = 6.8 - 0.4 * place  # 6.8, 6.4, …
        rows[f"advantage sum × {knob:g}", "frontier", 0, 0.4, "semantic"] = 0.2 + 0.1 * place  # .2, .3, …
    assert ch12.above_frontier(results_of(rows), 0, 0.4) == pytest.approx(0.5 - 0.275)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    root = tmp_path_factory.mktemp("ch12") / "results"
    ch12.run(SMOKE, [0, 1], root=root)
    return root


@pytest.mark.slow
def test_a_run_records_every_study(smoke):
    rows = load(ch12.NAME, smoke)
    rows = rows[rows.seed != ch12.TUNING_SEED]
    assert rows.groupby(["arm", "dataset", "setting", "metric"]).seed.nunique().eq(2).all()
    policies = rows[rows.dataset == ch12.WORLD]
    assert set(policies.setting) == {
        "", "frontier", "hit", "hit, frontier", "ratio", "hit, ratio", "eCPM noise", "judge noise", "judge bias",
        "online", "sparse, own judge", "sparse, true fit",
    }  # fmt: skip
    assert set(tr.ARMS) | {"start"} == set(policies[policies.setting == ""].arm)
    assert set(tr.ARMS) | {"start"} == set(policies[policies.setting == "hit"].arm)
    judges = rows[rows.dataset == ch12.JUDGE]
    assert {"sft", "sft + grpo", "psj", *jt.WEIGHING} == set(judges.arm)
    assert {"start", *trg.GENERATOR_ARMS} == set(rows[rows.dataset == ch12.GENERATOR].arm)


@pytest.mark.slow
def test_the_tuned_arms_are_runs_of_their_frontiers(smoke):
    rows = load(ch12.NAME, smoke)
    for setting, frontier in (("", "frontier"), ("hit", "hit, frontier")):
        tuned = rows[(rows.arm == "advantage sum, tuned") & (rows.setting == setting) & (rows.seed == 1)]
        for x, part in tuned.groupby("x", dropna=False):
            knob = part[part.metric == "knob"].value.item()
            same = rows[(rows.arm == f"advantage sum × {knob:g}") & (rows.setting == frontier) & (rows.seed == 1)]
            same = same[same.x.isna()] if math.isnan(x) else same[same.x == x]
            for metric in ("business", "semantic", "hr@10"):
                assert part[part.metric == metric].value.item() == same[same.metric == metric].value.item()


@pytest.mark.slow
def test_the_same_run_again_repeats_nothing(smoke, capsys):
    before = load(ch12.NAME, smoke)
    ch12.run(SMOKE, [0, 1], root=smoke)
    assert "numbers in" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(load(ch12.NAME, smoke), before)


@pytest.mark.slow
def test_a_recorded_number_is_that_of_a_run_alone(smoke):
    tables, weight, watched = ch12.trained("a2po", SMOKE, [1], SMOKE.alignments, SMOKE.training, progress=False)
    ((*numbers,),) = ch12.measured(tables, weight, watched, SMOKE.alignments)
    rows = load(ch12.NAME, smoke)
    rows = rows[(rows.arm == "a2po") & (rows.setting == "") & (rows.seed == 1)].set_index(["metric", "x"]).value
    for metric, value, x in numbers:
        assert rows[metric, x] == pytest.approx(value, rel=1e-3, abs=1e-4), metric


@pytest.mark.slow
def test_the_judge_of_seed_0_is_kept(smoke):
    for name in ch12.KEPT:
        model = TinyLM.load(ch12.kept_weights(name, smoke))
        assert model.config == SMOKE.judge.model


def test_unknown_groups_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"datasets: there is no \['amazon'\]; choose from conflict"):
        ch12.run(SMOKE, [0], root=tmp_path, datasets=["amazon"])
    assert isinstance(Book(ch12.NAME, [0]).retuned, set)


def test_record_is_whole():
    check_record_is_whole(12, ch12.NAME)
