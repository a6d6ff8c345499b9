"""The experiment of chapter 07: splits, probes and serving by hand, and what a run records."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from reclib.backbones import SASRec, SASRecConfig
from reclib.data import Interactions
from reclib.evaluation import evaluate
from reclib.experiments import ch07_rec2pm as ch07
from reclib.experiments.memory_content import attribution, probe, states
from reclib.experiments.needles import AnswerBatches, needles, questions
from reclib.experiments.results import load
from reclib.memory import PooledMemory, Rec2PM, SegmentConfig
from reclib.training import FitResult
from reclib.world import AdWorld, AdWorldConfig
from reclib.world.behaviour import RETURNED
from tests.records import check_record_is_whole

SMOKE = ch07.SCALES["smoke"]


# ------------------------------------------------------------------------------------------------------------ parts


def test_tails_are_held_out_and_nothing_else():
    log = AdWorld(AdWorldConfig.preset("tiny", min_events=15)).simulate()
    split, returned, _ = ch07.split_tails(log, tail=10, per_user=3)
    assert (split.train.lengths == log.lengths - 10).all()
    last = log.offsets[1:][log.user]
    assert (split.valid.target < last[split.valid.target] - 8).all()
    assert (split.valid.target >= last[split.valid.target] - 10).all()
    assert len(split.test) == 3 * log.n_users
    assert len(set(split.test.target)) == len(split.test)
    assert (split.test.target >= last[split.test.target] - 8).all()
    for cases in (split.valid, split.test, returned):
        assert (cases.start == log.offsets[:-1][log.user[cases.target]]).all()
    in_tail = np.concatenate([np.arange(end - 8, end) for end in log.offsets[1:]])
    assert set(returned.target) == set(in_tail[log.extra["source"][in_tail] == RETURNED])
    again = ch07.split_tails(log, tail=10, per_user=3)
    assert (again.split.test.target == split.test.target).all()


def test_lives_that_are_too_short_are_refused():
    log = AdWorld(AdWorldConfig.preset("tiny")).simulate()
    with pytest.raises(ValueError, match="tail: 20 events of lives of 10 and more cannot hold 3 test targets"):
        ch07.split_tails(log, tail=20, per_user=3)
    with pytest.raises(ValueError, match="tail: 4 events"):
        ch07.split_tails(log, tail=4, per_user=5)


def test_an_overlapping_working_memory_by_hand():
    torch.manual_seed(0)
    model = Rec2PM(20, SegmentConfig(dim=8, segment=4, slots=2)).eval()
    history = torch.randint(1, 21, (3, 10), generator=torch.Generator().manual_seed(0))
    history[1, 3:] = 0
    history[2, 8:] = 0
    found = ch07.Overlap(model).score(history)
    memory = model.update(model.update(model.empty(3), history[:, :4].clamp(min=1)), history[:, 4:8].clamp(min=1))
    assert_close(found[0], model.rank(memory[:1], history[:1, 6:])[0])
    assert_close(found[1], model.rank(model.empty(1), history[1:2, :3])[0])
    assert_close(found[2], model.rank(memory[2:], history[2:, 4:8])[0])


def test_one_more_item_with_cached_keys_equals_the_whole_pass():
    torch.manual_seed(0)
    model = SASRec(20, SASRecConfig(dim=8, heads=2, max_len=6)).eval()
    history = torch.randint(1, 21, (2, 6), generator=torch.Generator().manual_seed(0))
    x = model.embed(history) + model.positions.weight[:6]
    kept = []
    for block in model.blocks:
        kept.append(torch.stack(block.project(x)[1:])[:, :, :, :5])
        x = block(x)
    assert_close(ch07.one_more(model, torch.stack(kept), history[:, 5:])[:, 0], model.encode(history)[:, -1])


def test_drift_is_zero_at_the_start_and_not_later():
    torch.manual_seed(0)
    model = Rec2PM(20, SegmentConfig(dim=8, segment=4, slots=2))
    history = torch.randint(1, 21, (30, 12), generator=torch.Generator().manual_seed(0))
    first, *later = ch07.drift(model, history)
    assert first < 1e-9
    assert min(later) > 1e-4
    with torch.no_grad():
        reference = model.compress(history)
        gap = (model.memories(history)[2] - reference).square().mean()
        spread = (reference - reference.mean(0)).square().mean()
    assert later[1] == pytest.approx(float(gap / spread), rel=1e-4)


def test_a_probe_finds_what_is_kept_and_nothing_else():
    g = torch.Generator().manual_seed(0)
    history, vectors = torch.randint(1, 41, (120, 12), generator=g), torch.randn(41, 8, generator=g)
    kept = torch.rand(120, 12, generator=g) < 0.4
    # After segment h of four items: the sum of the kept items' vectors of that segment.
    state = (vectors[history] * kept[..., None]).view(120, 3, 4, 8).sum(2)
    settings = {"segment": 4, "seed": 0}
    assert probe(state, vectors, history, kept, age=1, **settings) > 0.8
    assert 0.4 < probe(state, vectors, history, ~kept, age=1, **settings) < 0.6
    assert 0.4 < probe(state, vectors, history, kept, age=2, **settings) < 0.6
    with pytest.raises(ValueError, match="age: 4 segments back, but there are 3; give 1 … 3"):
        probe(state, vectors, history, kept, age=4, **settings)


def test_states_are_memories_or_hidden_states():
    history = torch.randint(1, 21, (3, 8), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    memory, plain = PooledMemory(20, SegmentConfig(dim=8, segment=4, slots=2)), SASRec(20, SASRecConfig(dim=8))
    assert_close(states(memory, history, 4)[:, 1], memory.memories(history)[1].flatten(1))
    assert_close(states(plain, history, 4), plain.encode(history)[:, [3, 7]])


def test_attribution_is_gradient_times_input():
    torch.manual_seed(0)
    model = SASRec(20, SASRecConfig(dim=8, layers=1)).double()
    history = torch.randint(1, 21, (2, 5), generator=torch.Generator().manual_seed(0))
    target, step = torch.tensor([3, 7]), 1e-6
    found = attribution(model, history, target)

    def score(row, place, factor):
        """With one event's item vector longer by a factor."""

        def longer(module, arguments, output):
            output = output.clone()
            output[row, place] *= factor
            return output

        hook = model.items.register_forward_hook(longer)
        value = (model.encode(history)[row, -1] * model.items.weight[target[row]]).sum().item()
        hook.remove()
        return value

    for row in range(2):
        for place in range(5):
            slope = (score(row, place, 1 + step) - score(row, place, 1 - step)) / (2 * step)
            assert float(found[row, place]) == pytest.approx(abs(slope), abs=1e-7)


def test_only_the_beginning_of_a_needle_tells_its_answer():
    log = needles(users=60, seed=0, length=4, segments=3)
    lives = log.item.reshape(60, 13)
    group = lives[:, -1] - 9
    assert set(group) == {0, 1, 2, 3}
    assert ((lives[:, :4] - 1) // 2 == group[:, None]).all()
    assert (lives[:, 4:12] > 12).all()
    cases = questions(log)
    assert (cases.item == lives[:, -1]).all()
    assert (cases.lengths == 12).all()
    for batch in AnswerBatches(log, max_len=12, batch_size=16).epoch(0):
        assert (batch.target[:, :-1] == 0).all()
        assert (batch.target[:, -1] > 8).all()


def test_arms_are_built_by_name():
    study = ch07.Config().studies[0]
    assert ch07.build("truncation", 20, study).max_len == study.segment + study.slots
    assert ch07.build("full", 20, study).max_len == study.recipe.max_len
    assert ch07.build("rec2pm, hstu", 20, study).config.body == "hstu"
    with pytest.raises(ValueError, match="arm: there is no 'gru'; choose from pooled, kv, serial, rec2pm"):
        ch07.build("gru", 20, study)


def test_truncation_makes_as_many_steps_as_the_others(monkeypatch):
    (study,) = SMOKE.studies
    split, seen = ch07.load_lives(study, 0).split, []

    def noted(model, batches, loss, split, recipe, seed, **_):
        seen.append((batches, recipe.epochs))
        return FitResult([], 0, 0.0, 0.0)

    monkeypatch.setattr(ch07, "fit_by_validation", noted)
    for arm in ("rec2pm", "truncation", "full"):
        ch07.train(arm, study, split, 0)
    steps = [sum(1 for _ in batches.epoch(0)) for batches, _ in seen]
    assert steps[0] == steps[2] == pytest.approx(steps[1], rel=0.1)
    assert all(batch.history.shape[1] <= study.segment + study.slots for batch in seen[1][0].epoch(0))
    assert [epochs for _, epochs in seen] == [1, 1, 2]


# -------------------------------------------------------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "results"
    ch07.run(SMOKE, [0], root=root)
    return root


@pytest.mark.slow
def test_a_run_records_every_arm_and_every_way_of_serving(smoke):
    rows = load(ch07.NAME, smoke)
    (study,) = SMOKE.studies
    served = {"rec2pm, append", "rec2pm, overlap", "rec2pm, one-time", "rec2pm, no L_con, one-time"}
    served |= {"rec2pm, detached, one-time"}
    for metric in ("test/ndcg@10", "genuine/ndcg@10", "returned/ndcg@10", "test/recall@1"):
        found = rows[(rows.dataset == "adworld") & (rows.setting == "") & (rows.metric == metric)]
        assert set(found.arm) == set(study.arms) | served, metric
    for metric, arms in (
        ("drift", {"rec2pm", "rec2pm, no L_con", "rec2pm, detached"}),
        ("probe/noise", {"full", "pooled", "serial", "rec2pm", "rec2pm, no L_con", "rec2pm, detached"}),
    ):
        assert set(rows[rows.metric == metric].arm) == arms, metric
    assert {"full", "rec2pm", "pooled", "kv"} <= set(rows[rows.metric == "attribution/noise_over_signal"].arm)


@pytest.mark.slow
def test_sweeps_needles_and_timings_are_recorded(smoke):
    rows = load(ch07.NAME, smoke)
    (study,) = SMOKE.studies

    def at(setting, metric):
        found = rows[(rows.setting == setting) & (rows.metric == metric)]
        return {(arm, x) for arm, x in zip(found.arm, found.x, strict=True)}

    assert at("history", "test/ndcg@10") == {(arm, x) for arm in ("full", "rec2pm") for x in study.history}
    assert at("slots", "test/ndcg@10") == {("rec2pm", 1)}
    assert at("noise", "genuine/ndcg@10") == {(arm, 0.45) for arm in ("full", "truncation", "rec2pm")}
    assert set(SMOKE.needles.arms) <= {arm for arm, _ in at("needle", "test/recall@1")}
    assert at("step", "seconds") == {(arm, x) for arm in ("serial", "rec2pm") for x in SMOKE.clock.segments}
    assert {x for arm, x in at("serving", "seconds")} == set(SMOKE.clock.lengths)
    size = rows[(rows.setting == "serving") & (rows.metric == "bytes")].set_index(["arm", "x"])["value"]
    assert size["rec2pm", 40] == 4 * 4 * 8
    assert size["full, cached", 40] == 2 * 2 * 40 * 4 * 8


def test_timings_on_a_gpu_are_asked_for_by_name_and_need_one(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="datasets: 'clock, gpu' needs a CUDA device, and there is none"):
        ch07.run(SMOKE, [0], root=tmp_path, datasets=["clock, gpu"])


@pytest.mark.slow
def test_the_same_run_again_repeats_nothing_and_leaves_no_checkpoint(smoke, capsys):
    before = load(ch07.NAME, smoke)
    ch07.run(SMOKE, [0], root=smoke)
    assert "numbers in" not in capsys.readouterr().out
    pd.testing.assert_frame_equal(load(ch07.NAME, smoke), before)
    assert not list((smoke.parent / "runs" / ch07.NAME).glob("*"))


@pytest.mark.slow
def test_recorded_numbers_are_those_of_the_book_s_evaluation(smoke):
    (study,) = SMOKE.studies
    data = ch07.load_lives(study, 0)
    assert isinstance(data.log, Interactions)
    model, _ = ch07.train("rec2pm", study, data.split, 0, progress=False)
    rows = load(ch07.NAME, smoke)
    rows = rows[(rows.arm == "rec2pm") & (rows.dataset == "adworld") & (rows.setting == "") & rows.x.isna()]
    recorded = rows.set_index("metric")["value"]
    for metric, value in evaluate(model, data.split.test, ks=(1, 10, 50)).metrics().items():
        if metric.startswith(("recall", "ndcg")) and metric != "ndcg@1":
            assert recorded[f"test/{metric}"] == pytest.approx(value)


def test_the_shipped_record_is_whole():
    check_record_is_whole(7, ch07.NAME)
