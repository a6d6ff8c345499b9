"""Thinking: states, scores, losses, and noise on the way."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from reclib.backbones import SASRec, SASRecConfig
from reclib.evaluation import Recommender, evaluate
from reclib.reasoning import ThinkConfig, Thinker, ThinkingSASRec, think_loss
from reclib.reasoning.think import gaussian
from reclib.training import FitConfig, SequenceBatch, SequenceBatches, fit
from reclib.world import AdWorld, AdWorldConfig
from tests.reasoning.test_backbones import BACKBONES, N_ITEMS, WIDTH, build, drawn


def thinker(name="sasrec", thoughts=2, tau=0.07, **more):
    model = Thinker(build(name, **more), ThinkConfig(thoughts, tau)).double().eval()
    with torch.no_grad():
        model.positions.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(3))
    return model


def batch_of(history):
    padded = F.pad(history, (0, 1))
    return SequenceBatch(padded[:, :-1], torch.where(padded[:, 1:] > 0, padded[:, 1:], 0), None, None)


@pytest.mark.parametrize("name", BACKBONES)
def test_without_thoughts_it_is_the_backbone_bit_for_bit(name):  # oracle 8
    model = thinker(name, thoughts=0)
    assert torch.equal(model.states(drawn())[0], model.backbone.encode(drawn()))
    assert torch.equal(model.hypothesis(drawn()), model.backbone.encode(drawn())[:, -1])


@pytest.mark.parametrize("name", BACKBONES)
def test_thoughts_follow_one_another(name):
    model, history = thinker(name), drawn()
    hidden, cache = model.backbone.read(history)
    one, cache = model.backbone.step(hidden + model.positions.weight[0], cache)
    two, _ = model.backbone.step(one + model.positions.weight[1], cache)
    assert_close(model.states(history), torch.stack([hidden, one, two]))


def test_the_hypothesis_is_the_last_state_of_each_history():
    model, history = thinker(), drawn()
    history[1, 3:], history[2, 5:] = 0, 0
    found = model.hypothesis(history)
    for row, length in enumerate((6, 3, 5)):
        assert_close(found[row], model.states(history[row : row + 1, :length])[-1, 0, -1])


def test_a_history_is_cut_to_its_newest_items():
    model = thinker()
    long = drawn(width=WIDTH + 4)
    assert_close(model.score(long), model.score(long[:, 4:]))


def test_scores_are_angles_over_tau():
    model = thinker(tau=0.5)
    u, e = model.hypothesis(drawn()), model.backbone.vectors()
    scores = model.score(drawn())
    assert_close(scores[1, 4], F.cosine_similarity(u[1], e[4], dim=0) / 0.5)
    assert (scores[:, 0] == -torch.inf).all()
    assert isinstance(model, Recommender)


def test_the_loss_is_the_mean_over_thoughts_of_the_cross_entropy():
    model, batch = thinker(), batch_of(drawn())
    real = batch.target > 0
    loss, targets = think_loss(model, batch)
    assert targets == 15
    by_hand = [
        F.cross_entropy(model.rank(r[real])[:, 1:], batch.target[real] - 1, reduction="sum")
        for r in model.states(batch.history)[1:]
    ]
    assert_close(loss, sum(by_hand) / 2)
    alone = thinker(thoughts=0)
    expected = F.cross_entropy(
        alone.rank(alone.backbone.encode(batch.history)[real])[:, 1:], batch.target[real] - 1, reduction="sum"
    )
    assert_close(think_loss(alone, batch)[0], expected)


def test_noise_is_measured_in_the_thought_s_own_size():
    r = (
        torch.randn(2000, 8, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 100.0]).repeat(1000)[:, None]
    )
    added = gaussian(0.5, torch.Generator().manual_seed(1))(r) - r
    ratio = (added.square().mean(-1) / r.square().mean(-1)).view(-1, 2)
    assert ratio.mean(0).sqrt().tolist() == pytest.approx([0.5, 0.5], rel=0.03)


def test_a_disturbed_thought_disturbs_the_next():
    model, history = thinker(), drawn()
    plain = model.states(history)
    push = torch.linspace(-1, 1, 8, dtype=torch.float64)  # a constant would not do: layer norm removes it
    pushed = model.states(history, disturb=lambda r: r + push)
    assert torch.equal(pushed[0], plain[0])
    assert_close(pushed[1], plain[1] + push)
    assert (pushed[2] - plain[2] - push).abs().max() > 1e-3


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="backbone: a SASRec cannot go on thinking; give one"):
        Thinker(SASRec(N_ITEMS, SASRecConfig(dim=8)))
    with pytest.raises(ValueError, match="thoughts: must be at least 0, got -1"):
        ThinkConfig(-1)
    with pytest.raises(ValueError, match="tau: must be positive, got 0"):
        ThinkConfig(2, 0)
    with pytest.raises(ValueError, match="history: a row holds no item"):
        thinker().score(torch.zeros(1, 3, dtype=torch.long))


@pytest.mark.slow
def test_it_learns():
    split = AdWorld(AdWorldConfig.preset("tiny")).simulate().leave_one_out()
    torch.manual_seed(0)
    model = Thinker(ThinkingSASRec(120, SASRecConfig(dim=16, layers=1, max_len=20)), ThinkConfig(2, 0.2))
    before = evaluate(model, split.test, ks=(10,)).metrics()["ndcg@10"]
    batches = SequenceBatches(split.train, max_len=20, batch_size=16)
    fit(model, batches, think_loss, FitConfig(10, 5e-3), progress=False)
    after = evaluate(model, split.test, ks=(10,)).metrics()["ndcg@10"]
    assert after > before + 0.1
