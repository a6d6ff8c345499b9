"""Stacked training is training one after the other."""

import pytest
import torch
from torch.testing import assert_close

from reclib.experiments.crossed_memory import CROSS, CrossedMemory, Factors
from reclib.experiments.memory_tasks import TASKS
from reclib.experiments.probes import Attention, ProbeConfig, ProbeNet, train_probes
from reclib.memory import LinearAttention, MemoryConfig, Prism

TINY = ProbeConfig(dim=8, steps=6, batch_size=4, check_every=3, check_examples=16, test_examples=16)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", [lambda: Prism(MemoryConfig(dim=8, chunk=16)), lambda: Attention(8)])
def test_seeds_trained_together_are_the_seeds_trained_alone(mixer):
    together = train_probes(TASKS["parity"], TINY, mixer, [0, 3], progress=False)
    for i, seed in enumerate((0, 3)):
        alone = train_probes(TASKS["parity"], TINY, mixer, [seed], progress=False)
        assert alone.accuracy[0] == together.accuracy[i]
        for name, weight in alone.nets[0].state_dict().items():
            assert_close(together.nets[i].state_dict()[name], weight, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_training_ends_when_all_runs_have_solved_the_task():
    easy = ProbeConfig(dim=8, steps=400, check_every=5, check_examples=16, test_examples=16, solved=0.0)
    found = train_probes(TASKS["parity"], easy, lambda: Attention(8), [0], progress=False)
    assert found.steps == 5
    assert [step for step, _ in found.curve] == [5]


def test_attention_looks_back_only():
    torch.manual_seed(0)
    layer, x = Attention(8), torch.randn(2, 10, 8)
    other = x.clone()
    other[:, 6] += 1
    assert_close(layer(other)[:, :6], layer(x)[:, :6])
    assert (layer(other)[:, 6] - layer(x)[:, 6]).abs().max() > 1e-3


def test_symbols_of_a_token_are_added_and_none_counts_nothing():
    torch.manual_seed(0)
    net = ProbeNet(TASKS["double"], 8, lambda: Prism(MemoryConfig(dim=8)))
    seen = []
    net.mixers[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    net(torch.tensor([[[5, 0, 7, 0]]]))
    assert_close(seen[0][0, 0], net.norms[0](net.symbols.weight[5] + net.symbols.weight[7]))


def test_the_cross_has_every_combination_once():
    assert len(CROSS) == len(set(map(str, CROSS))) == 24


@pytest.mark.parametrize("factors", CROSS, ids=str)
def test_every_weight_of_every_cell_learns(factors):
    torch.manual_seed(0)
    layer = CrossedMemory(factors, MemoryConfig(dim=8, rank=factors.rank))
    layer(torch.randn(2, 12, 8))[0].square().sum().backward()
    for name, weight in layer.named_parameters():
        assert weight.grad.abs().sum() > 0, name
    writes = layer.writes(torch.randn(2, 12, 8))
    assert (writes.key.min() >= 0) == (factors.keys == "positive")


@pytest.mark.parametrize("factors", CROSS, ids=str)
def test_a_cell_reads_the_same_token_by_token(factors):
    torch.manual_seed(0)
    layer = CrossedMemory(factors, MemoryConfig(dim=8, rank=factors.rank))
    x = torch.randn(2, 12, 8)
    _, state = layer(x[:, :5])
    rest, last = layer(x[:, 5:], state)
    for t in range(5, 12):
        y, state = layer.step(x[:, t], state)
        assert_close(y, rest[:, t - 5], atol=1e-5, rtol=1e-5)
    assert_close(state.S, last.S, atol=1e-5, rtol=1e-5)


def test_the_lowest_cell_is_linear_attention():
    torch.manual_seed(0)
    lowest = CrossedMemory(Factors("positive", "no gate", "linear", 1), MemoryConfig(dim=8, rank=1))
    plain = LinearAttention(MemoryConfig(dim=8))
    names = ("query", "key", "value", "conv", "out")
    plain.load_state_dict({n: p for n, p in lowest.state_dict().items() if n.split(".")[0] in names})
    with torch.no_grad():
        lowest.constant.fill_(1.0)
        lowest.value.weight += torch.eye(8)  # the residual is v - u
    x = torch.randn(2, 12, 8)
    assert_close(lowest(x)[0], plain(x)[0], atol=1e-5, rtol=1e-5)


def test_unknown_factors_are_named():
    with pytest.raises(ValueError, match="keys: 'odd' is unknown; choose from positive, signed"):
        Factors("odd", "gate", "gelu", 1)


@pytest.mark.slow
def test_the_write_of_the_probing_script_learns_parity():  # oracle 10 of PRISM's sheet
    factors = Factors("signed", "gate", "gelu", rank=2)
    config = ProbeConfig(steps=3000, check_examples=500, test_examples=1000)
    found = train_probes(
        TASKS["parity"],
        config,
        lambda: CrossedMemory(factors, MemoryConfig(dim=16, rank=2)),
        [0],
        progress=False,
    )
    assert found.accuracy[0] >= 0.99
