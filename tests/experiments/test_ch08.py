"""The experiment of chapter 08: forks and ways of asking by hand, and what a run records."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch.testing import assert_close

from reclib.backbones import SASRecConfig
from reclib.evaluation import evaluate
from reclib.experiments import ch08_diffureason as ch08
from reclib.experiments.needles import AnswerBatches, questions
from reclib.experiments.protocol import Recipe
from reclib.experiments.results import load
from reclib.reasoning import (
    AlignmentLoss,
    DiffuReason,
    DiffuReasonConfig,
    DiffuReasonLoss,
    PureNoiseDiffuReason,
    ThinkConfig,
    Thinker,
    ThinkingSASRec,
)
from reclib.training import FitResult, SequenceBatches
from tests.records import check_record_is_whole

SMOKE = ch08.SCALES["smoke"]


def reasoner(**more):
    torch.manual_seed(0)
    return DiffuReason(ThinkingSASRec(20, SASRecConfig(dim=8, max_len=6)), DiffuReasonConfig(**more)).eval()


def hypotheses(users=3):
    return torch.randn(users, 8, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------------------------------------- forks


def test_only_the_cue_decides_and_all_its_clusters_are_as_likely():
    log, way, allowed = ch08.forks(20_000, 0, (1, 2, 4, 8))
    lives = log.item.reshape(20_000, 7)
    cluster, cue = (lives[:, -1] - 1) // 4, lives[:, -2]
    assert log.n_items == 32 + 12 + 12
    assert (lives[:, :5] > 44).all()
    assert set(cue) == set(range(33, 45))
    assert (allowed.sum(1) == way).all()
    assert (allowed[np.arange(len(cue)), cluster] == 1).all()
    for c in range(33, 45):
        rows = cue == c
        assert (allowed[rows] == allowed[rows][0]).all()
        seen = np.bincount(cluster[rows], minlength=8)[allowed[rows][0] == 1]
        assert seen / rows.sum() == pytest.approx(np.full(len(seen), 1 / len(seen)), abs=0.06)


def test_another_draw_has_the_same_rule():
    one, other, elsewhere = ch08.forks(500, 0, (1, 8)), ch08.forks(500, 0, (1, 8), draw=1), ch08.forks(500, 1, (1, 8))
    assert not np.array_equal(one.log.item, other.log.item)

    def rule(found):
        cue = found.log.item.reshape(-1, 7)[:, -2]
        return {int(c): tuple(found.allowed[cue == c][0]) for c in np.unique(cue)}

    assert rule(one) == rule(other)
    assert rule(one) != rule(elsewhere)
    with pytest.raises(ValueError, match=r"ways: there are 8 clusters, so each must lie in 1 … 8, got \(2, 9\)"):
        ch08.forks(10, 0, (2, 9))


def test_the_answer_alone_is_learnt():
    log = ch08.forks(50, 0, (1, 2)).log
    for batch in AnswerBatches(log, max_len=6, batch_size=16).epoch(0):
        assert (batch.target[:, :-1] == 0).all()
        assert (batch.target[:, -1] <= 32).all()


def test_clusters_of_answers_and_of_other_items():
    found = ch08.forks(10, 0, (1,))
    assert found.cluster(torch.tensor([1, 4, 5, 32, 33, 40])).tolist() == [0, 0, 1, 7, 8, 8]


def test_modes_are_counted_by_hand():
    task = ch08.Forks(users=40, ways=(2,), samples=4)
    model = ch08.build(
        "diffuse", lambda times: ThinkingSASRec(32 + 3 + 12, SASRecConfig(16, times, max_len=6)), task.sizes
    )[0]
    rows = {(metric, x): value for metric, value, x in ch08.at_forks(model, task, 0)}
    test = ch08.forks(40, 0, (2,), draw=1)
    c = model.hypothesis(questions(test.log).batch().history)
    best = model.rank(model.sample(c.expand(4, -1, -1), generator=torch.Generator().manual_seed(0)).u).argmax(-1)
    hit = found = 0
    for user in range(40):
        clusters = [(int(item) - 1) // 4 if item <= 32 else None for item in best[:, user]]
        inside = [z for z in clusters if z is not None and test.allowed[user, z]]
        hit, found = hit + len(inside) / 4, found + len(set(inside)) / 2
    assert rows["modes/hit", 2] == pytest.approx(hit / 40)
    assert rows["modes/found", 2] == pytest.approx(found / 40)
    assert rows["entropy", 2] == pytest.approx(np.log(8))
    drawn = model.sample(c.expand(4, -1, -1), generator=torch.Generator().manual_seed(0)).u
    assert rows["modes/decided", 2] == pytest.approx(float(ch08.decided(model.rank(drawn)).mean()))
    assert rows["decided", 2] == pytest.approx(float(ch08.decided(model.rank(model.refine(c))).mean()))


def test_a_compromise_hits_a_mode_but_has_not_decided():
    items = torch.zeros(57, 8)
    items[1:33] = torch.eye(8).repeat_interleave(4, dim=0)
    one, four = torch.eye(8)[0], torch.eye(8)[:4].sum(0) / 2
    scores = 20 * torch.stack([one, four]) @ items.T
    scores[:, 0] = -torch.inf
    assert (ch08.forks(10, 0, (1,)).cluster(scores.argmax(-1)) < 4).all()
    assert ch08.decided(scores).tolist() == pytest.approx([1, 1 / 4], abs=1e-2)


# ---------------------------------------------------------------------------------------------------- ways of asking


def test_spread_by_hand():
    one_way = torch.tensor([[[2.0, 0.0]], [[5.0, 0.0]]])
    right_angle = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]])
    opposite = torch.tensor([[[1.0, 0.0]], [[-2.0, 0.0]]])
    found = [float(ch08.spread(u)[0]) for u in (one_way, right_angle, opposite)]
    assert found == pytest.approx([0, 1 - 0.5**0.5, 1], abs=1e-6)


def test_softmax_entropy_by_hand():
    scores = torch.tensor([[-torch.inf, 0.0, 0.0, 0.0, 0.0], [-torch.inf, 100.0, 0.0, 0.0, 0.0]])
    assert ch08.softmax_entropy(scores).tolist() == pytest.approx([np.log(4), 0], abs=1e-6)


def test_samples_are_put_together_in_three_ways():
    model, c = reasoner(), hypotheses()
    drawn = model.sample(c.expand(5, -1, -1), generator=torch.Generator().manual_seed(1)).u

    def answer(kind):
        return ch08.sampled(kind, 5, torch.Generator().manual_seed(1))(model, c)[:, 1:]

    assert_close(answer("mean"), model.rank(F.normalize(drawn, dim=-1).mean(0))[:, 1:])
    assert_close(answer("best"), torch.stack([model.rank(u) for u in drawn]).amax(0)[:, 1:])
    mean_probability = torch.stack([model.rank(u).softmax(-1) for u in drawn]).mean(0)
    assert_close(answer("mixture").softmax(-1), mean_probability[:, 1:])


def test_from_noise_has_the_same_weights():
    model = reasoner()
    cold = ch08.from_noise(model)
    assert isinstance(cold, PureNoiseDiffuReason)
    assert cold.config.start == model.config.levels
    for key, value in model.state_dict().items():
        assert torch.equal(cold.state_dict()[key], value)
    c = hypotheses()
    other = cold.sample(c + 1, generator=torch.Generator().manual_seed(0)).x[0]
    assert torch.equal(cold.sample(c, generator=torch.Generator().manual_seed(0)).x[0], other)


def test_asking_plainly_is_the_model_itself():
    history = torch.randint(1, 21, (3, 6), generator=torch.Generator().manual_seed(0))
    thinker = Thinker(ThinkingSASRec(20, SASRecConfig(dim=8, max_len=6)), ThinkConfig()).eval()
    for model in (reasoner(), thinker):
        assert torch.equal(ch08.Asked(model, ch08.plain(model)).score(history), model.score(history))


def test_dropout_is_drawn_alike_at_every_call_and_gone_afterwards():
    torch.manual_seed(0)
    model = Thinker(ThinkingSASRec(20, SASRecConfig(dim=8, dropout=0.5, max_len=6)), ThinkConfig(0)).eval()
    history = torch.randint(1, 21, (3, 6), generator=torch.Generator().manual_seed(0))
    plain, asked = model.score(history), ch08.McDropout(model, 4)
    intents = asked.intents(history)
    assert (intents[0] - intents[1]).abs().max() > 0.01
    assert torch.equal(asked.score(history), asked.score(history))
    assert torch.equal(model.score(history), plain)


def test_answers_stand_in_the_order_of_the_cases():
    data = ch08.Data(SMOKE.studies[0], 0)
    cases = data.split.test
    found = ch08.of_cases(lambda history: history.amax(1)[:, None], cases)
    history = cases.batch().history
    assert torch.equal(found[:, 0], history.amax(1))


def test_intent_is_a_rank_correlation():
    study = SMOKE.studies[0]
    data = ch08.Data(study, 0)
    torch.manual_seed(0)
    model = DiffuReason(ThinkingSASRec(120, SASRecConfig(dim=8, max_len=20)), DiffuReasonConfig()).eval()
    found = ch08.intent(model, data, 3, samples=8)
    cases = data.split.test
    c = model.hypothesis(cases.batch().history)
    drawn = model.sample(c.expand(8, -1, -1), generator=torch.Generator().manual_seed(3)).u
    true = data.ads.intent_entropy(event=cases.target, level="topic")
    expected = spearmanr(true, ch08.spread(drawn).detach()).statistic
    assert found["topic/spread"] == pytest.approx(expected, abs=1e-4)
    assert set(found) == {"topic/spread", "topic/softmax", "item/spread", "item/softmax"}


def test_agreement_of_gradients_by_hand(monkeypatch):
    def always(model, c, target):
        return sum(p.sum() for p in model.denoiser.parameters())

    class Undecided:  # twelve draws, six of them the other way: 30 pairs agree, 36 do not
        calls = 0

        def __call__(self, model, c, target):
            self.calls += 1
            return (-1) ** self.calls * always(model, c, target)

    chain = ch08.ChainGRPO
    monkeypatch.setattr(ch08, "ChainGRPO", lambda **given: always if given else chain())
    monkeypatch.setattr(ch08, "ItemGRPO", Undecided)
    torch.manual_seed(0)
    model = DiffuReason(ThinkingSASRec(120, SASRecConfig(dim=8, max_len=20)), DiffuReasonConfig()).eval()
    found = {metric: value for metric, value, _ in ch08.gradients(model, ch08.Data(SMOKE.studies[0], 0), 0, users=8)}
    assert found["agreement/A"] == pytest.approx(1, abs=1e-5)
    assert found["agreement/B"] == pytest.approx((30 - 36) / 66, abs=1e-5)


# -------------------------------------------------------------------------------------------------------------- arms


def test_arms_are_built_by_name():
    sizes, made = DiffuReasonConfig(thoughts=3), []

    def backbone(times):
        made.append(times)
        return ThinkingSASRec(20, SASRecConfig(dim=8, layers=2 * times, max_len=6))

    others = ("dot", "longer", "diffuse only", "teacher-forced", "cold", "diffureason B", "staged", "rearec")
    for method in (*ch08.LADDER, *others):
        ch08.build(method, backbone, sizes)
    assert set(made) == {1}
    deeper, _ = ch08.build("deeper", backbone, sizes)
    assert made[-1] == 4
    assert len(deeper.backbone.blocks) == 8
    assert deeper.config.thoughts == 0
    assert ch08.build("diffuse only", backbone, sizes)[0].config.thoughts == 0
    assert ch08.build("rearec", backbone, sizes, 0.3)[0].config.tau == 0.3
    with pytest.raises(ValueError, match="method: there is no 'dream'; choose from backbone, think, diffuse"):
        ch08.build("dream", backbone, sizes)
    with pytest.raises(ValueError, match="backbone: there is no 'bert'; choose from sasrec, hstu, gru4rec, decoder"):
        ch08.backbone_of("bert", 20, Recipe(), lambda: None)


def test_a_deeper_backbone_runs_through_as_many_blocks_as_thinking():
    passes = []

    def backbone(times):
        model = ThinkingSASRec(20, SASRecConfig(dim=8, layers=2 * times, max_len=6))
        for block in model.blocks:
            mix = block.mix
            block.mix = lambda *given, mix=mix: passes.append(1) or mix(*given)
        return model

    history, counts = torch.randint(1, 21, (2, 6)), {}
    for method in ("backbone", "think", "deeper", "diffuse"):
        model, _ = ch08.build(method, backbone, DiffuReasonConfig(thoughts=2))
        passes.clear()
        model.eval().score(history)
        counts[method] = len(passes)
    assert counts == {"backbone": 2, "think": 6, "deeper": 6, "diffuse": 6}


def test_two_stages_have_as_many_epochs_as_joint_training(monkeypatch):
    seen, valid = [], iter((0.1, 0.2, 0.2, 0.1))

    def noted(model, batches, loss, split, recipe, seed, **_):
        seen.append((loss, recipe.epochs, recipe.lr))
        with torch.no_grad():
            model.denoiser.net[0].weight += 1
        return FitResult([{"targets": 1.0, "valid": next(valid)}] * recipe.epochs, 0, 1.0, 1.0)

    monkeypatch.setattr(ch08, "fit_by_validation", noted)
    model, loss, split = reasoner(), DiffuReasonLoss(), ch08.Data(SMOKE.studies[0], 0).split
    batches = SequenceBatches(split.train, max_len=6, batch_size=8)
    result = ch08.two_stages(model, batches, loss, split, Recipe(epochs=8, lr=0.01), 0, None, progress=False)
    assert [(epochs, lr) for _, epochs, lr in seen] == [(6, 0.01), (2, pytest.approx(0.001))]
    assert seen[0][0] is loss
    assert isinstance(seen[1][0], AlignmentLoss)
    assert len(result.log) == 8
    assert result.best_epoch == 6
    assert torch.equal(model.reference.net[0].weight, model.denoiser.net[0].weight)
    before = model.denoiser.net[0].weight.clone()  # now the second stage only does harm: that of the first is kept
    result = ch08.two_stages(model, batches, loss, split, Recipe(epochs=8, lr=0.01), 0, None, progress=False)
    assert result.best_epoch == 0
    assert_close(model.denoiser.net[0].weight, before + 1)


def test_what_an_arm_depends_on():
    study = ch08.WORLD
    a, b = (ch08.about(study, f"{method}, sasrec") for method in ("diffureason", "diffureason B"))
    assert a["loss"]["align"] == {"group_size": 8, "clip": 0.2, "b": 0.01}
    assert b["loss"]["align"] == {"group_size": 8, "clip": 0.2}
    assert "recipe" not in ch08.about(study, "transitions")
    assert ch08.about(study, "think, decoder")["recipe"]["max_len"] == study.code_len
    assert "loss" not in ch08.about(study, "think, sasrec")
    assert ch08.about(study, "longer, sasrec")["recipe"]["epochs"] == 4 * study.recipe.epochs
    assert ch08.about(study, "dreamrec, sasrec")["dreamrec"]["levels"] == 200
    assert ch08.about(study, "mended dreamrec, sasrec")["dreamrec"]["levels"] == 50


def test_the_weight_of_grpo_grows_over_a_fifth_of_training():
    assert ch08.warmed(DiffuReasonLoss(), 500).warmup == 100
    other = AlignmentLoss(ch08.ChainGRPO())
    assert ch08.warmed(other, 500) is other


# -------------------------------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "results"
    ch08.run(SMOKE, [0], root=root)
    return root


@pytest.mark.slow
def test_a_run_records_every_arm_and_every_way_of_asking(smoke):
    rows = load(ch08.NAME, smoke)
    (study,) = SMOKE.studies
    world = rows[rows.dataset == "adworld"]
    found = world[(world.setting == "") & (world.metric == "test/ndcg@10")]
    assert set(found.arm) == {*study.arms, "mc-dropout, sasrec"}

    def at(setting, metric):
        part = world[(world.setting == setting) & (world.metric == metric)]
        return {(arm, x) for arm, x in zip(part.arm, part.x, strict=True)}

    diffusing = [f"{method}, sasrec" for method in ("teacher-forced", "diffuse", "diffureason")]
    assert at("noise", "test/ndcg@10") == {(arm, 1.0) for arm in study.served}
    assert at("level", "test/ndcg@10") == {(arm, t) for arm in diffusing for t in (1, 2, 3, 4)}
    assert at("steps", "test/ndcg@10") == {(arm, n) for arm in diffusing for n in (1, 2, 4)}
    for setting in ("samples", "pure noise, samples"):
        for kind in ("mean", "best", "mixture"):
            assert at(setting, f"{kind}/ndcg@10") == {(arm, 2) for arm in diffusing}
    assert at("thoughts", "test/ndcg@10") == {("think, sasrec", 1), ("diffuse, sasrec", 1)}
    assert {arm for arm, _ in at("intent", "topic/spread")} == {*study.served, "backbone, sasrec"}
    for metric in ("agreement/A", "agreement/B", "no lesson", "no lesson/cut"):
        assert {arm for arm, _ in at("gradient", metric)} == {"diffureason, sasrec"}


@pytest.mark.slow
def test_forks_and_timings_are_recorded(smoke):
    rows = load(ch08.NAME, smoke)
    fork = rows[(rows.dataset == "forks") & (rows.setting == "forks")]
    assert set(fork[fork.metric == "softmax"].arm) == set(SMOKE.forks.arms)
    assert set(fork[fork.metric == "modes/found"].x) == set(SMOKE.forks.ways)
    cold = rows[rows.setting == "forks, pure noise"]
    assert set(cold.arm) == {arm for arm in SMOKE.forks.arms if arm.split(", ")[0] in ch08.DIFFUSING}
    clock = rows[rows.dataset == "clock"]
    assert set(zip(clock.arm, clock.x, strict=True)) == {
        *(("think, sasrec", k) for k in SMOKE.clock.thoughts),
        *(("deeper, sasrec", k) for k in SMOKE.clock.thoughts),
        *(("diffureason, sasrec", t) for t in SMOKE.clock.starts),
        *(("diffureason, sampled", s) for s in SMOKE.clock.samples),
        ("dreamrec, sasrec", 200),
    }


@pytest.mark.slow
def test_the_same_run_again_repeats_nothing_and_leaves_no_checkpoint(smoke, capsys):
    before = load(ch08.NAME, smoke)
    ch08.run(SMOKE, [0], root=smoke)
    assert "numbers in" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(load(ch08.NAME, smoke), before)
    assert not list((smoke.parent / "runs" / ch08.NAME).glob("*"))


@pytest.mark.slow
def test_recorded_numbers_are_those_of_the_book_s_evaluation(smoke):
    (study,) = SMOKE.studies
    data = ch08.Data(study, 0)
    model, _ = ch08.train("diffureason, sasrec", study, data, 0, progress=False)
    rows = load(ch08.NAME, smoke)
    rows = rows[(rows.arm == "diffureason, sasrec") & (rows.dataset == "adworld")]
    recorded = rows[rows.setting == ""].set_index("metric")["value"]
    found = evaluate(model, data.split.test, ks=(5, 10, 20)).metrics()
    assert recorded["test/ndcg@10"] == pytest.approx(found["ndcg@10"])
    at_start = rows[(rows.setting == "level") & (rows.x == study.sizes.start)]["value"]
    assert float(at_start.iloc[0]) == pytest.approx(found["ndcg@10"])


def test_the_shipped_record_is_whole():
    check_record_is_whole(8, ch08.NAME)
