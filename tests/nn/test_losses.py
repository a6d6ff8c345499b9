"""The losses against their formulas, one another, and finite differences."""

import math
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import tensor

from reclib.nn import losses
from reclib.nn.losses import CHUNK, full_softmax, full_softmax_reference, gbce, sampled_softmax


def draw(n, n_items, dim=4, k=None, dtype=torch.float64, seed=0):
    """Hidden states, item embeddings (with a padding row), targets and, if asked for, negatives."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, dim, generator=g, dtype=dtype, requires_grad=True)
    items = torch.randn(n_items + 1, dim, generator=g, dtype=dtype, requires_grad=True)
    target = torch.randint(1, n_items + 1, (n,), generator=g)
    if k is None:
        return hidden, items, target
    return hidden, items, target, torch.randint(1, n_items + 1, (n, k), generator=g)


def value_and_gradients(loss, hidden, items, *rest):
    value = loss(hidden, items, *rest)
    return value.detach(), *torch.autograd.grad(3.5 * value, (hidden, items))  # 3.5: what comes after counts


SAMPLED = [sampled_softmax, gbce, partial(gbce, t=0.0), partial(gbce, t=1.0), partial(gbce, centred=True)]


# --------------------------------------------------------------------------------------------------- full softmax


@pytest.mark.parametrize("n", [0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
@pytest.mark.parametrize("n_items", [1, 7])
def test_full_softmax_equals_its_reference(n, n_items):
    drawn = draw(n, n_items)
    found = value_and_gradients(full_softmax, *drawn)
    expected = value_and_gradients(full_softmax_reference, *drawn)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_full_softmax_by_hand():
    # Scores ln 1, ln 2, ln 5: the second item has probability 2/8.
    items = tensor([[99.0], [0.0], [math.log(2)], [math.log(5)]])
    loss = full_softmax(tensor([[1.0], [1.0]]), items, tensor([2, 3]))
    assert loss.item() == pytest.approx(math.log(4) + math.log(8 / 5), rel=1e-6)


def test_full_softmax_stays_finite_at_large_scores():
    hidden, items, target = draw(5, 6, dtype=torch.float32)
    found = value_and_gradients(full_softmax, hidden.detach().mul(1e3).requires_grad_(), items, target)
    expected = value_and_gradients(full_softmax_reference, hidden.detach().mul(1e3).requires_grad_(), items, target)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.isfinite(ours).all()
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 8])
def test_full_softmax_against_finite_differences(monkeypatch, chunk):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    hidden, items, target = draw(5, 6)
    assert torch.autograd.gradcheck(lambda h, e: full_softmax(h, e, target), (hidden, items))


def test_full_softmax_refuses_a_second_derivative():
    """It has none; autograd would otherwise follow the factor and forget the rest."""
    hidden, items, target = draw(3, 4)
    factor = torch.ones((), dtype=torch.float64, requires_grad=True)
    loss = factor * full_softmax(hidden, items, target)
    (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_full_softmax_takes_half_precision_states():
    hidden, items, target = draw(6, 9, dtype=torch.float32)
    half = hidden.detach().bfloat16().requires_grad_()
    full_softmax(half, items, target).backward()
    assert half.grad.dtype == torch.bfloat16
    assert items.grad.dtype == torch.float32
    full_softmax(hidden, items.detach(), target).backward()
    torch.testing.assert_close(half.grad.float(), hidden.grad, rtol=0.05, atol=0.02)


# ------------------------------------------------------------------------------------------------ sampled softmax


def others(target, n_items):
    """Every item but the target, per row."""
    return torch.stack([tensor([i for i in range(1, n_items + 1) if i != y]) for y in target.tolist()])


def test_sampled_softmax_with_every_item_is_the_full_softmax():
    hidden, items, target = draw(6, 5)
    expected = value_and_gradients(full_softmax_reference, hidden, items, target)
    everything = torch.arange(1, 6).expand(6, -1)  # holds the target too: a hit, left out
    twice = torch.cat([others(target, 5)] * 2, dim=1)  # each item twice stands for half as much
    for negatives in (others(target, 5), everything, twice):
        found = value_and_gradients(sampled_softmax, hidden, items, target, negatives)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_sampled_partition_function_is_right_in_expectation(k):
    """Over all draws of k negatives (with replacement), except those that hold nothing but the target."""
    n_items = 4
    hidden, items, target = (x.detach() for x in draw(1, n_items, seed=3))
    y = int(target)
    draws = [d for d in product(range(1, n_items + 1), repeat=k) if set(d) != {y}]
    partition = [sampled_softmax(hidden, items, target, tensor([d])).exp() for d in draws]
    torch.testing.assert_close(torch.stack(partition).mean(), full_softmax_reference(hidden, items, target).exp())


def test_a_sample_of_nothing_but_the_target_costs_nothing():
    hidden, items, target = draw(2, 5)
    value, grad_hidden, grad_items = value_and_gradients(sampled_softmax, hidden, items, target, target[:, None])
    assert value == 0
    assert not grad_hidden.any()
    assert not grad_items.any()


def test_many_samples_come_close_to_the_full_softmax():
    hidden, items, target = (x.detach() for x in draw(20, 50, seed=5))
    negatives = torch.randint(1, 51, (20, 20_000), generator=torch.Generator().manual_seed(6))
    found, full = sampled_softmax(hidden, items, target, negatives), full_softmax(hidden, items, target)
    torch.testing.assert_close(found, full, rtol=0.01, atol=0)


# ----------------------------------------------------------------------------------------------------------- gBCE


def test_gbce_without_calibration_is_bce():
    hidden, items, target, negatives = draw(7, 9, k=1)
    logits = torch.cat([(hidden * items[target]).sum(1), (hidden * items[negatives[:, 0]]).sum(1)])
    labels = torch.cat([torch.ones(7), torch.zeros(7)]).double()
    expected = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    torch.testing.assert_close(gbce(hidden, items, target, negatives, t=0.0), expected)


def test_gbce_by_hand():
    # 5 items, k = 2: α = 2/4. t = 0.5: β = ½ (½ (1 - 2) + 2) = ¾.
    items = tensor([[99.0], [0.0], [math.log(3)], [math.log(4)], [0.0], [0.0]])
    loss = gbce(tensor([[1.0]]), items, tensor([2]), tensor([[1, 3]]), t=0.5)
    # σ(ln 3) = 3/4, 1 - σ(0) = 1/2, 1 - σ(ln 4) = 1/5
    assert loss.item() == pytest.approx(-0.75 * math.log(3 / 4) - math.log(1 / 2) - math.log(1 / 5), rel=1e-6)


def test_gbce_at_full_calibration_weights_the_positive_by_the_sampling_rate():
    hidden, items, target, negatives = draw(4, 9, k=3)  # α = 3 / (9 - 1), padding not counted
    positive = F.logsigmoid((hidden * items[target]).sum(1)).sum()
    plain, calibrated = (gbce(hidden, items, target, negatives, t=t) for t in (0.0, 1.0))
    torch.testing.assert_close(calibrated, plain + (1 - 3 / 8) * positive)


def test_gbce_needs_no_calibration_when_nothing_is_sampled():
    """All other items as negatives: α = 1, and β = 1 whatever t is."""
    hidden, items, target = draw(4, 6)
    negatives = others(target, 6)
    plain = gbce(hidden, items, target, negatives, t=0.0)
    for t in (0.3, 0.75, 1.0):
        torch.testing.assert_close(gbce(hidden, items, target, negatives, t=t), plain)


def test_gbce_at_full_calibration_learns_true_probabilities():
    """Theorem of the paper: with β = α, the best σ(s) is the probability of the item, however few negatives.

    Expected loss over a uniform negative that is not the target, for a free score per item.
    """
    p = tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    items = torch.zeros(5, 1, dtype=torch.float64)
    scores = torch.zeros(4, 1, dtype=torch.float64, requires_grad=True)
    hidden, target = torch.ones(12, 1, dtype=torch.float64), torch.arange(1, 5).repeat_interleave(3)
    negatives = others(torch.arange(1, 5), 4).reshape(12, 1)
    optimizer = torch.optim.LBFGS([scores], lr=1, max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def expected_loss():
        optimizer.zero_grad()
        table = torch.cat([items[:1], scores])
        cases = zip(hidden, target, negatives, strict=True)
        each = torch.stack([gbce(h[None], table, y[None], n[None], t=1.0) for h, y, n in cases])
        loss = (each * p.repeat_interleave(3) / 3).sum()
        loss.backward()
        return loss

    optimizer.step(expected_loss)
    torch.testing.assert_close(scores.detach().sigmoid().squeeze(1), p, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan])
def test_gbce_refuses_other_t(t):
    with pytest.raises(ValueError, match=r"t: must lie in \[0, 1\]"):
        gbce(*draw(2, 3, k=1), t=t)


# ------------------------------------------------------------------------------------------------- what all share


@pytest.mark.parametrize("loss", SAMPLED)
def test_sampled_losses_against_finite_differences(loss):
    hidden, items, target, negatives = draw(4, 5, k=3)
    assert (negatives == target[:, None]).any()  # a hit is among them
    assert torch.autograd.gradcheck(lambda h, e: loss(h, e, target, negatives), (hidden, items))


@pytest.mark.parametrize("loss", SAMPLED)
def test_sampled_losses_of_no_targets(loss):
    value, grad_hidden, grad_items = value_and_gradients(loss, *draw(0, 5, k=3))
    assert value == 0
    assert grad_hidden.shape == (0, 4)
    assert not grad_items.any()


@pytest.mark.parametrize("loss", [full_softmax, full_softmax_reference, *SAMPLED])
def test_padding_is_no_item(loss):
    """The padding row gets no gradient, and what stands in it does not matter."""
    n_items = 5
    drawn = draw(30, n_items, k=4) if loss in SAMPLED else draw(30, n_items)
    hidden, items, *rest = drawn
    value, _, gradient = value_and_gradients(loss, hidden, items, *rest)
    assert not gradient[0].any()
    assert gradient[1:].any(1).all()
    other = items.detach().clone()
    other[0] = 1e3
    torch.testing.assert_close(loss(hidden, other, *rest).detach(), value)


@pytest.mark.parametrize("loss", [full_softmax, full_softmax_reference, *SAMPLED])
def test_losses_are_sums_over_targets(loss):
    hidden, items, *rest = draw(9, 5, k=4) if loss in SAMPLED else draw(9, 5)
    whole = loss(hidden, items, *rest)
    parts = [loss(hidden[i : i + 1], items, *(r[i : i + 1] for r in rest)) for i in range(9)]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


@pytest.mark.parametrize("loss", [full_softmax, *SAMPLED])
def test_padding_ids_are_refused(loss):
    hidden, items, target, *negatives = draw(3, 5, k=2) if loss in SAMPLED else draw(3, 5)
    zero = target.clone()
    zero[1] = 0
    with pytest.raises(ValueError, match="target: contains 0, the padding id"):
        loss(hidden, items, zero, *negatives)
    if negatives:
        negatives[0][2, 1] = 0
        with pytest.raises(ValueError, match="negatives: contains 0, the padding id"):
            loss(hidden, items, target, *negatives)


@pytest.mark.parametrize("loss", SAMPLED)
def test_fetching_few_negatives_or_scoring_everything_is_the_same(loss, monkeypatch):
    drawn = draw(6, 9, k=2)
    monkeypatch.setattr(losses, "GATHER_COST", 0)
    fetched = value_and_gradients(loss, *drawn)
    monkeypatch.setattr(losses, "GATHER_COST", 1000)
    scored = value_and_gradients(loss, *drawn)
    for a, b in zip(fetched, scored, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_centred_gbce_asks_for_zero_where_all_items_are_equally_likely(t):
    """Targets and negatives in the proportions of a uniform law: at scores of zero nothing wants to move."""
    n_items, k = 6, 3
    hidden = torch.ones(n_items, 1, dtype=torch.float64)
    items = torch.zeros(n_items + 1, 1, dtype=torch.float64, requires_grad=True)
    everyone = torch.arange(1, n_items + 1)
    negatives = torch.stack([everyone.roll(shift) for shift in range(k)], dim=1)  # each item k times
    (slope,) = torch.autograd.grad(gbce(hidden, items, everyone, negatives, t=t, centred=True), items)
    torch.testing.assert_close(slope, torch.zeros_like(slope))
    (plain,) = torch.autograd.grad(gbce(hidden, items, everyone, negatives, t=t), items)
    assert (plain[1:] > 0.1).all()


def test_centring_changes_nothing_with_one_negative():
    drawn = draw(5, 6, k=1)
    torch.testing.assert_close(gbce(*drawn, t=0.0, centred=True), gbce(*drawn, t=0.0))
