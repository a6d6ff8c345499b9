"""PRISM with one part left out: each differs from the whole by exactly that part."""

import torch
import torch.nn.functional as F
from torch.testing import assert_close

from reclib.memory import (
    DeltaNet,
    MemoryConfig,
    Prism,
    PrismLinear,
    PrismWithoutErase,
    PrismWithoutGain,
    PrismWithoutGelu,
)


def layer(kind, **more):
    torch.manual_seed(0)
    return kind(MemoryConfig(**({"dim": 8, "rank": 2} | more)))


U = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


def test_without_gelu_and_with_a_gain_of_one_everything_is_written_at_once():
    whole = layer(PrismWithoutGelu)
    torch.nn.init.zeros_(whole.gain.weight)
    torch.nn.init.ones_(whole.gain.bias)
    v = whole.value(U)
    assert_close(whole.deltas(U, v), torch.stack([v - U, torch.zeros_like(v)], 2))


def test_without_gain_is_the_whole_with_a_gain_of_one():
    whole, without = layer(Prism), layer(PrismWithoutGain)
    torch.nn.init.zeros_(whole.gain.weight)
    torch.nn.init.ones_(whole.gain.bias)
    v = torch.randn_like(U)
    assert_close(without.deltas(U, v), whole.deltas(U, v))
    assert not hasattr(without, "gain")


def test_the_linear_write_is_linear_in_the_anchor():
    linear, whole = layer(PrismLinear), layer(Prism)
    a, b = U[0], U[1]
    for kind, is_linear in ((linear, True), (whole, False)):
        both = kind.deltas((a + 2 * b)[None], kind.value(a + 2 * b)[None])
        sum_ = kind.deltas(a[None], kind.value(a)[None]) + 2 * kind.deltas(b[None], kind.value(b)[None])
        assert torch.allclose(both, sum_, atol=1e-5) == is_linear


def test_without_erasure_the_old_pair_stays():
    writes = layer(PrismWithoutErase).writes(U)
    assert writes.erase is None
    assert_close(writes.delta, layer(Prism).writes(U).delta)


def test_rank_one_without_gain_activation_and_anchor_is_gated_deltanet():
    prism, delta = layer(PrismLinear, rank=1), layer(DeltaNet)
    names = ("query", "key", "value", "alpha", "beta")
    delta.load_state_dict({n: p for n, p in prism.state_dict().items() if n.split(".")[0] in (*names, "conv", "out")})
    torch.nn.init.ones_(prism.constant)
    with torch.no_grad():
        prism.value.weight += torch.eye(8)  # the residual is v - u
    x = torch.randn(2, 20, 8)
    assert_close(prism(x)[0], delta(x)[0], atol=1e-5, rtol=1e-5)


def test_every_weight_that_is_left_learns():
    for kind in (PrismLinear, PrismWithoutErase, PrismWithoutGain, PrismWithoutGelu):
        model = layer(kind)
        F.mse_loss(model(torch.randn(2, 20, 8))[0], torch.randn(2, 20, 8)).backward()
        for name, weight in model.named_parameters():
            assert weight.grad.abs().sum() > 0, f"{kind.__name__}: {name}"
