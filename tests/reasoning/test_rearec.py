"""ReaRec and DreamRec by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from reclib.backbones import SASRecConfig
from reclib.evaluation import Recommender, evaluate
from reclib.reasoning import (
    DreamRec,
    DreamRecConfig,
    MendedDreamRec,
    PRLLoss,
    ReaRec,
    ThinkConfig,
    ThinkingSASRec,
    dreamrec_loss,
)
from reclib.reasoning.rearec import agreement
from reclib.training import FitConfig, SequenceBatches, fit
from reclib.world import AdWorld, AdWorldConfig
from tests.reasoning.test_backbones import build, drawn
from tests.reasoning.test_think import batch_of


def test_early_thoughts_have_the_softer_softmax():
    tau = PRLLoss(alpha=2.0).temperatures(3, 0.07)
    assert tau.tolist() == pytest.approx([0.28, 0.14, 0.07])
    with pytest.raises(ValueError, match="alpha: must be at least 1, so that early thoughts are the softer ones"):
        PRLLoss(alpha=0.9)


def test_prl_by_hand():
    model, batch = ReaRec(build("sasrec"), ThinkConfig(2, 0.5)).double().eval(), batch_of(drawn())
    real = batch.target > 0
    states, e = model.states(batch.history), model.backbone.vectors()
    loss, n = PRLLoss(alpha=2.0, lam=0.0)(model, batch)
    by_hand = [
        F.cross_entropy(r[real] @ e[1:].T / tau, batch.target[real] - 1, reduction="sum")
        for r, tau in zip(states, (2.0, 1.0, 0.5), strict=True)
    ]
    assert n == 15
    assert_close(loss, sum(by_hand) / 3)
    torch.manual_seed(0)
    with_contrast = PRLLoss(alpha=2.0, lam=0.4, noise=0.3)(model, batch)[0]
    torch.manual_seed(0)
    noisy = model.states(batch.history, disturb=lambda r: r + 0.3 * torch.randn_like(r))
    last = torch.full((3,), 4)  # of five inputs
    contrast = agreement(noisy[1:, torch.arange(3), last], states[1:, torch.arange(3), last], 0.5)
    assert_close(with_contrast, loss + 15 * 0.4 * contrast)


def test_scores_are_dot_products():
    model = ReaRec(build("sasrec"), ThinkConfig(2, 0.5)).double().eval()
    score = model.score(drawn())
    assert_close(score[1, 4], model.hypothesis(drawn())[1] @ model.backbone.vectors()[4] / 0.5)
    assert (score[:, 0] == -torch.inf).all()


def test_agreement_finds_the_own_row():
    g = torch.Generator().manual_seed(0)
    clean, other = (torch.randn(2, 5, 8, generator=g) for _ in range(2))
    by_hand = []
    for k in range(2):
        for i in range(5):
            logits = torch.stack([F.cosine_similarity(other[k, i], clean[k, j], dim=0) for j in range(5)]) / 0.1
            by_hand.append(-logits.log_softmax(0)[i])
    assert_close(agreement(other, clean, 0.1), torch.stack(by_hand).mean())
    assert agreement(clean, clean, 0.1) < agreement(clean, clean.flip(1), 0.1)


# ----------------------------------------------------------------------------------------------------------- DreamRec


def dreamrec(**more):
    torch.manual_seed(0)
    return DreamRec(20, SASRecConfig(dim=8, max_len=6, dropout=0.0), DreamRecConfig(**{"levels": 5, **more})).eval()


def test_items_start_as_large_as_noise():
    torch.manual_seed(0)
    vectors = DreamRec(2000, SASRecConfig(dim=32)).vectors()
    assert (vectors[0] == 0).all()
    assert float(vectors[1:].std()) == pytest.approx(1, abs=0.02)


def test_dreamrec_s_loss_by_hand():
    model, batch = dreamrec(drop=0.5), batch_of(drawn())
    torch.manual_seed(1)
    loss, n = dreamrec_loss(model, batch)
    torch.manual_seed(1)
    real = batch.target > 0
    dropped = torch.rand(15, 1) < 0.5
    c = torch.where(dropped, model.nothing, model.encoder.encode(batch.history)[real])
    t, x0 = torch.randint(1, 6, (15,)), model.vectors()[batch.target[real]]
    noisy = model.schedule.add_noise(x0, torch.randn_like(x0), t)
    assert 0 < int(dropped.sum()) < 15
    assert n == 15
    assert_close(loss, ((model.denoiser(noisy, c, t) - x0) ** 2).sum() / 8)


def test_its_loss_alone_moves_the_target_s_vectors():
    model, batch = dreamrec(), batch_of(drawn())
    only_last = batch._replace(target=batch.target.masked_fill(torch.arange(6) < 4, 0))
    dreamrec_loss(model, only_last)[0].backward()
    target = only_last.target[only_last.target > 0]
    assert (model.encoder.items.weight.grad[target].abs().sum(1) > 0).all()


def test_guidance_by_hand():
    model = dreamrec(levels=3, guidance=1.5)
    c = torch.randn(4, 8, generator=torch.Generator().manual_seed(2))
    found = model.generate(c, torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    x, s, nothing = torch.randn(4, 8, generator=g), model.schedule, model.nothing.expand(4, -1)
    for level in (3, 2, 1):
        t = torch.tensor(level)
        x0 = 2.5 * model.denoiser(x, c, t) - 1.5 * model.denoiser(x, nothing, t)
        x = s.c1[level] * x0 + s.c2[level] * x
        if level > 1:
            x = x + s.sigma[level] * torch.randn(4, 8, generator=g)
    assert_close(found, x)
    assert_close(found, x0)


def test_its_scores_are_reproducible_and_those_of_the_last_item():
    model, history = dreamrec(), drawn()
    assert isinstance(model, Recommender)
    assert torch.equal(model.score(history), model.score(history))
    assert (model.score(history)[:, 0] == -torch.inf).all()
    other = history.clone()
    other[0, -1] = other[0, -1] % 20 + 1
    changed = (model.score(other)[:, 1:] != model.score(history)[:, 1:]).any(1)
    assert changed.tolist() == [True, False, False]


def test_bad_dials_are_refused():
    with pytest.raises(ValueError, match="levels: must be at least 1, got 0"):
        DreamRecConfig(levels=0)
    with pytest.raises(ValueError, match=r"drop: a probability in \[0, 1\), got 1"):
        DreamRecConfig(drop=1.0)


def test_mended_items_stay_and_have_the_size_of_noise():
    items = torch.randn(21, 8)
    items[0] = 0
    model = MendedDreamRec(items, SASRecConfig(dim=8, max_len=6, dropout=0.0), DreamRecConfig(levels=5))
    assert_close(model.vectors()[1:].square().mean(1), torch.ones(20))
    assert_close(F.normalize(model.vectors(), dim=1), F.normalize(items, dim=1))
    assert model.schedule.alpha_bar[-1] < 0.01
    dreamrec_loss(model, batch_of(drawn()))[0].backward()
    assert model.encoder.items.weight.grad is None
    assert model.denoiser.net[0].weight.grad.abs().sum() > 0


@pytest.mark.slow
def test_rearec_learns_and_dreamrec_only_with_items_that_stay():
    split = AdWorld(AdWorldConfig.preset("tiny")).simulate().leave_one_out()
    batches = SequenceBatches(split.train, max_len=20, batch_size=16)
    sizes = SASRecConfig(16, 1, max_len=20)

    def trained(model, loss, epochs):
        fit(model, batches, loss, FitConfig(epochs, 5e-3), progress=False)
        return evaluate(model, split.test, ks=(10,)).metrics()["ndcg@10"]

    torch.manual_seed(0)
    chance = sum(1 / np.log2(1 + r) for r in range(1, 11)) / 120
    rearec = ReaRec(ThinkingSASRec(120, sizes), ThinkConfig(2, 0.3))
    assert trained(rearec, PRLLoss(), 10) > 3 * chance
    mended = MendedDreamRec(rearec.backbone.vectors().detach(), sizes, DreamRecConfig(levels=20))
    assert trained(mended, dreamrec_loss, 10) > 2 * chance
    plain = DreamRec(120, sizes, DreamRecConfig(levels=20))
    before = float(plain.vectors()[1:].square().mean())
    assert trained(plain, dreamrec_loss, 10) < 2 * chance
    assert float(plain.vectors()[1:].square().mean()) < 0.7 * before
