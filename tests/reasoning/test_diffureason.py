"""DiffuReason: warm start, mean path, drawn chains, and the supervised loss."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import tensor
from torch.testing import assert_close

from reclib.backbones import SASRecConfig
from reclib.evaluation import evaluate
from reclib.reasoning import (
    AlignmentLoss,
    ChainGRPO,
    DiffuReason,
    DiffuReasonConfig,
    DiffuReasonLoss,
    PureNoiseDiffuReason,
    TeacherForcedDiffuReason,
    ThinkingSASRec,
)
from reclib.reasoning.diffureason import anchor, one_per_row
from reclib.reasoning.diffusion import log_density, to_noise_scale
from reclib.training import FitConfig, SequenceBatches, fit
from reclib.world import AdWorld, AdWorldConfig
from tests.reasoning.test_backbones import BACKBONES, N_ITEMS, build, drawn
from tests.reasoning.test_think import batch_of


def reasoner(kind=DiffuReason, name="sasrec", **more):
    """In double precision, and with weights large enough for every part to matter."""
    model = kind(build(name), DiffuReasonConfig(**{"levels": 6, "start": 4, **more})).double().eval()
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (*model.denoiser.parameters(), *model.reference.parameters(), model.positions.weight):
            parameter.normal_(std=0.3, generator=g)
    return model


def guesses(batch=5, seed=4):
    return torch.randn(batch, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -------------------------------------------------------------------------------------------------------- the chains


def test_the_warm_start_is_the_hypothesis_with_noise():
    model, c, noise = reasoner(), to_noise_scale(guesses()), guesses(seed=5)
    a = model.schedule.alpha_bar[4]
    assert_close(model.begin(c, noise, 4), a.sqrt() * c + (1 - a).sqrt() * noise)


def test_the_mean_path_by_hand():
    model, c = reasoner(), guesses()
    h, a = to_noise_scale(c), model.schedule.alpha_bar
    x = a[4].sqrt() * h
    found = []
    for t in (4, 3, 2, 1):
        x0 = model.denoiser(x, h, tensor(t))
        noise = (x - a[t].sqrt() * x0) / (1 - a[t]).sqrt()
        x = a[t - 1].sqrt() * x0 + (1 - a[t - 1]).sqrt() * noise
        found.append(x0)
    assert_close(model.path(c), torch.stack(found))
    assert_close(model.refine(c), x)
    assert_close(model.refine(c), x0)


def test_fewer_steps_skip_levels():
    model, c = reasoner(), guesses()
    h = to_noise_scale(c)
    x = model.begin(h, torch.zeros_like(h), 4)
    x = model.schedule.ddim(model.denoiser(x, h, tensor(4)), x, 4, 2)
    assert_close(model.refine(c, steps=2), model.denoiser(x, h, tensor(2)))
    assert_close(model.refine(c, start=6, steps=1), model.denoiser(model.begin(h, 0 * h, 6), h, tensor(6)))


def test_the_same_question_has_the_same_answer():  # oracle 10
    model, history = reasoner(), drawn()
    assert torch.equal(model.score(history), model.score(history))
    single = reasoner(levels=1, start=1)
    c = single.hypothesis(history)
    h = to_noise_scale(c)
    x = single.begin(h, torch.zeros_like(h), 1)
    assert_close(single.refine(c), single.denoiser(x, h, tensor(1)))


def test_a_drawn_chain_takes_steps_with_mean_and_noise():
    model, c = reasoner(), guesses(1).expand(200_000, -1)
    chain = model.sample(c, generator=torch.Generator().manual_seed(0))
    assert chain.x.shape == (4, 200_000, 8)
    h = to_noise_scale(c)
    a = model.schedule.alpha_bar[4]
    assert_close(chain.x[0].mean(0), a.sqrt() * h[0], atol=0.01, rtol=0)
    assert_close(chain.x[0].std(0), (1 - a).sqrt().expand(8), atol=0.01, rtol=0)
    for i, t in enumerate((4, 3, 2)):
        mean = model.schedule.mean(model.denoiser(chain.x[i], h, tensor(t)), chain.x[i], tensor(t))
        noise = (chain.x[i + 1] - mean) / model.schedule.sigma[t]
        assert_close(noise.mean(0), torch.zeros(8, dtype=torch.float64), atol=0.01, rtol=0)
        assert_close(noise.T.cov(), torch.eye(8, dtype=torch.float64), atol=0.02, rtol=0)
    assert_close(chain.u, model.denoiser(chain.x[-1], h, tensor(1)))


def test_chains_are_drawn_by_the_generator_alone():
    model, c = reasoner(), guesses()
    one, other = (model.sample(c, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one.u, other.u)
    assert not torch.equal(one.u, model.sample(c, generator=torch.Generator().manual_seed(8)).u)


def test_log_probs_step_by_step():
    model, c = reasoner(), guesses()[:, None].expand(-1, 3, -1)
    chain = model.sample(c).x
    means = model.means(chain, c, model.denoiser)
    found = model.log_probs(chain, c, means)
    h, a, sigma = to_noise_scale(c), model.schedule.alpha_bar, model.schedule.sigma
    assert found.shape == (4, 5, 3)
    assert_close(found[0], log_density(chain[0], a[4].sqrt() * h, (1 - a[4]).sqrt()))
    for i, t in enumerate((4, 3, 2)):
        mean = model.schedule.mean(model.denoiser(chain[i], h, tensor(t)), chain[i], tensor(t))
        assert_close(means[i], mean)
        assert_close(found[i + 1], log_density(chain[i + 1], mean, sigma[t]))


def test_pure_noise_forgets_the_hypothesis_at_the_start():
    warm = reasoner(start=6)
    cold = reasoner(PureNoiseDiffuReason, start=6)
    noise = guesses(seed=5)
    assert torch.equal(cold.begin(guesses(), noise, 6), noise)
    assert warm.state_dict().keys() == cold.state_dict().keys()
    with pytest.raises(ValueError, match="start: pure noise is what level 6 has; it cannot start at 3"):
        cold.refine(guesses(), start=3)


# ---------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", [DiffuReason, TeacherForcedDiffuReason])
def test_the_supervised_loss_by_hand(kind):
    model, batch = reasoner(kind), batch_of(drawn())
    real = batch.target > 0
    target = batch.target[real]
    states = model.states(batch.history)[:, real]
    torch.manual_seed(0)
    loss, n = DiffuReasonLoss(l_d=0.3, l_s=0.7)(model, batch)
    torch.manual_seed(0)
    x0, c = to_noise_scale(model.backbone.vectors()[target]), to_noise_scale(states[-1])
    t = torch.randint(1, 7, target.shape)
    noise = torch.randn_like(x0)
    a = model.schedule.alpha_bar[t][:, None]
    guess = model.denoiser(a.sqrt() * x0 + (1 - a).sqrt() * noise, c, t)

    def ce(u):
        return F.cross_entropy(model.rank(u)[:, 1:], target - 1, reduction="sum")

    ranked = guess if kind is TeacherForcedDiffuReason else model.refine(states[-1])
    expected = ce(ranked) + 0.3 * (guess - x0).square().mean(1).sum() + 0.7 * (ce(states[1]) + ce(states[2])) / 2
    assert n == len(target)
    assert_close(loss, expected)


def test_the_condition_never_sees_the_target():  # oracle 9
    model, history = reasoner(), drawn()
    batch = batch_of(history)
    shuffled = batch._replace(target=torch.where(batch.target > 0, batch.target % N_ITEMS + 1, 0))
    seen = []
    hook = model.denoiser.register_forward_hook(lambda module, inputs, output: seen.append(inputs))
    for one in (batch, shuffled):
        torch.manual_seed(0)
        DiffuReasonLoss()(model, one)
    hook.remove()
    calls = len(seen) // 2
    differ = [not torch.equal(a[0], b[0]) for a, b in zip(seen[:calls], seen[calls:], strict=True)]
    assert differ == [True] + [False] * (calls - 1)  # the noisy target first, then the mean path, which has none
    for (_, c, t), (_, other_c, other_t) in zip(seen[:calls], seen[calls:], strict=True):
        assert torch.equal(c, other_c)
        assert torch.equal(t, other_t)


@pytest.mark.parametrize("name", BACKBONES)
def test_what_comes_after_an_item_is_not_in_its_hypothesis(name):  # oracle 9: the target of t is the item at t + 1
    model, history = reasoner(name=name), drawn()
    other = history.clone()
    other[:, 3:] = other[:, 3:] % N_ITEMS + 1
    assert torch.equal(model.states(history)[:, :, :3], model.states(other)[:, :, :3])
    assert (model.states(history)[-1, :, 3:] != model.states(other)[-1, :, 3:]).any(2).all()


def test_drawn_chains_do_not_depend_on_the_target():  # oracle 9
    model, history = reasoner(), drawn()
    noise = guesses(3, seed=5)
    expected = model.refine(model.hypothesis(history), noise=noise)
    drawn_chains = []
    original = model.sample
    model.sample = lambda c, **more: drawn_chains.append(original(c, **more)) or drawn_chains[-1]
    for target in (tensor([1, 2, 3]), tensor([9, 8, 7])):
        torch.manual_seed(0)
        ChainGRPO()(model, model.hypothesis(history), target)
    assert torch.equal(drawn_chains[0].u, drawn_chains[1].u)
    assert torch.equal(model.refine(model.hypothesis(history), noise=noise), expected)


def test_items_do_not_move_to_where_they_are_easy_to_predict():
    model, batch = reasoner(), batch_of(drawn())
    real = batch.target > 0
    states = model.states(batch.history)[:, real].detach()
    model.supervised(states, batch.target[real], 1.0, 0.0).backward()
    with_error = model.backbone.items.weight.grad.clone()
    model.zero_grad()
    model.supervised(states, batch.target[real], 0.0, 0.0).backward()
    assert_close(with_error, model.backbone.items.weight.grad)
    assert with_error.abs().sum() > 0


def test_one_place_with_a_target_of_each_row():
    states, target = torch.randn(4000, 4, 2), tensor([[1, 2, 0, 0], [5, 6, 7, 8]]).repeat(2000, 1)
    torch.manual_seed(0)
    c, y = one_per_row(states, target)
    short, full = y.view(-1, 2).T
    assert sorted(set(short.tolist())) == [1, 2]
    assert torch.bincount(full, minlength=9)[5:].tolist() == pytest.approx([500] * 4, abs=80)
    for row in range(20):
        assert torch.equal(c[row], states[row, target[row].tolist().index(int(y[row]))])


def test_the_reference_follows_and_the_weight_grows():
    model, batch = reasoner(), batch_of(drawn())
    before = model.reference.net[0].weight.clone()
    DiffuReasonLoss(ChainGRPO(group_size=2), decay=0.75)(model, batch)
    assert_close(model.reference.net[0].weight, 0.75 * before + 0.25 * model.denoiser.net[0].weight)
    assert model.updates == 1
    anchor(model)
    assert torch.equal(model.reference.net[0].weight, model.denoiser.net[0].weight)
    assert not any(p.requires_grad for p in model.reference.parameters())

    class One:
        def __call__(self, model, c, target):
            return torch.ones((), dtype=torch.float64)

    def extra(updates):
        model.updates.fill_(updates)
        torch.manual_seed(0)
        joint, n = DiffuReasonLoss(One(), l_rl=0.5, warmup=100)(model, batch)
        torch.manual_seed(0)
        return float((joint - DiffuReasonLoss()(model, batch)[0]).detach()) / n

    assert [extra(u) for u in (0, 50, 100, 500)] == pytest.approx([0, 0.25, 0.5, 0.5])


def test_without_alignment_nothing_is_counted():
    model, batch = reasoner(), batch_of(drawn())
    DiffuReasonLoss()(model, batch)
    assert model.updates == 0


@pytest.mark.parametrize("name", BACKBONES)
def test_every_weight_learns(name):
    model, batch = reasoner(name=name), batch_of(drawn())
    loss, _ = DiffuReasonLoss(ChainGRPO(group_size=4), warmup=0)(model, batch)
    loss.backward()
    silent = [key for key, p in model.named_parameters() if p.requires_grad and not (p.grad.abs().sum() > 0)]
    assert silent == []


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="start: must be a level 1 … 10, got 11"):
        DiffuReasonConfig(start=11)
    with pytest.raises(ValueError, match="levels: must be at least 1, got 0"):
        DiffuReasonConfig(levels=0)
    with pytest.raises(ValueError, match="thoughts: must be at least 0"):
        DiffuReasonConfig(thoughts=-1)
    model = reasoner()
    with pytest.raises(ValueError, match="start: must be a level 1 … 6, got 7"):
        model.refine(guesses(), start=7)
    with pytest.raises(ValueError, match="steps: must be 1 … 4, the level at which the chain starts, got 5"):
        model.refine(guesses(), steps=5)
    with pytest.raises(ValueError, match="start: a chain from level 1 takes no step with noise; give DiffuReason"):
        ChainGRPO()(reasoner(start=1), guesses(3), tensor([1, 2, 3]))


def test_a_resumed_training_is_the_same(tmp_path):
    split = AdWorld(AdWorldConfig.preset("tiny")).simulate().leave_one_out()
    batches = SequenceBatches(split.train, max_len=20, batch_size=64)

    class Stops:
        """The power fails before epoch 1."""

        def epoch(self, epoch, *rest):
            if epoch == 1:
                raise KeyboardInterrupt
            return batches.epoch(epoch, *rest)

        def steps(self, epoch):
            return batches.steps(epoch)

    def model():
        torch.manual_seed(0)
        return DiffuReason(ThinkingSASRec(120, SASRecConfig(dim=8, layers=1, max_len=20)), DiffuReasonConfig())

    loss, config = DiffuReasonLoss(ChainGRPO(group_size=2)), FitConfig(epochs=2)
    whole, stopped = model(), model()
    fit(whole, batches, loss, config, progress=False)
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, Stops(), loss, config, progress=False, checkpoint=tmp_path / "run.safetensors")
    resumed = model()
    fit(resumed, batches, loss, config, progress=False, checkpoint=tmp_path / "run.safetensors")
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


@pytest.mark.slow
@pytest.mark.parametrize("loss", [DiffuReasonLoss(), DiffuReasonLoss(ChainGRPO())], ids=["supervised", "joint"])
def test_it_learns(loss):
    split = AdWorld(AdWorldConfig.preset("tiny")).simulate().leave_one_out()
    torch.manual_seed(0)
    backbone = ThinkingSASRec(120, SASRecConfig(dim=16, layers=1, max_len=20))
    model = DiffuReason(backbone, DiffuReasonConfig(tau=0.2))
    before = evaluate(model, split.test, ks=(10,)).metrics()["ndcg@10"]
    fit(model, SequenceBatches(split.train, max_len=20, batch_size=16), loss, FitConfig(10, 5e-3), progress=False)
    assert evaluate(model, split.test, ks=(10,)).metrics()["ndcg@10"] > before + 0.1


@pytest.mark.slow
def test_the_second_stage_trains_the_chain_and_stays_close():
    split = AdWorld(AdWorldConfig.preset("tiny")).simulate().leave_one_out()
    torch.manual_seed(0)
    model = DiffuReason(
        ThinkingSASRec(120, SASRecConfig(dim=16, layers=1, max_len=20)), replace(DiffuReasonConfig(), tau=0.2)
    )
    batches = SequenceBatches(split.train, max_len=20, batch_size=16)
    fit(model, batches, DiffuReasonLoss(), FitConfig(6, 5e-3), progress=False)
    anchor(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fit(model, batches, AlignmentLoss(ChainGRPO()), FitConfig(1, 1e-3), progress=False)
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert any(key.startswith("denoiser") for key in moved)
    assert not any(key.startswith("reference") for key in moved)
