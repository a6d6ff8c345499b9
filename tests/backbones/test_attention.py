"""SASRec and HSTU against loops that say what their equations say, and against torch's own transformer layer."""

import math

import pytest
import torch
from torch import nn, tensor

from reclib.backbones import HSTU, HSTUConfig, SASRec, SASRecConfig
from reclib.backbones.hstu import HSTUBlock, time_buckets
from reclib.backbones.sasrec import SASRecBlock


def stirred(module, seed=0):
    """In double precision, with every weight moved away from its start value."""
    g = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=g, dtype=torch.float64)
    return module


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer_norm(x, norm):
    centred = x - x.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def silu(x):
    return x / (1 + torch.exp(-x))


# ----------------------------------------------------------------------------------------------------------- SASRec


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_a_sasrec_block_is_softmax_attention_written_as_loops(heads):
    dim, time = 8, 5
    block, x = stirred(SASRecBlock(SASRecConfig(dim=dim, heads=heads))), drawn(2, time, dim)
    found = block(x)
    width = dim // heads
    for b in range(2):
        for i in range(time):
            qkv = [block.qkv.weight @ layer_norm(x[b, j], block.attention_norm) + block.qkv.bias for j in range(i + 1)]
            parts = []
            for h in range(heads):
                q, k, v = (slice(part * dim + h * width, part * dim + (h + 1) * width) for part in range(3))
                logits = tensor([float(qkv[i][q] @ qkv[j][k]) / math.sqrt(width) for j in range(i + 1)]).double()
                share = torch.exp(logits) / torch.exp(logits).sum()
                parts.append(sum(share[j] * qkv[j][v] for j in range(i + 1)))
            y = x[b, i] + block.out.weight @ torch.cat(parts) + block.out.bias
            inner = (block.ffn[0].weight @ layer_norm(y, block.ffn_norm) + block.ffn[0].bias).clamp(min=0)
            y = y + block.ffn[3].weight @ inner + block.ffn[3].bias
            torch.testing.assert_close(found[b, i], y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2])
def test_a_sasrec_block_is_a_transformer_encoder_layer(heads):
    dim, time = 12, 7
    block, x = stirred(SASRecBlock(SASRecConfig(dim=dim, heads=heads))), drawn(3, time, dim)
    layer = nn.TransformerEncoderLayer(
        dim, heads, dim_feedforward=dim, dropout=0.0, activation="relu", batch_first=True, norm_first=True
    ).double()
    names = {
        "norm1": block.attention_norm,
        "self_attn.in_proj_": block.qkv,
        "self_attn.out_proj": block.out,
        "norm2": block.ffn_norm,
        "linear1": block.ffn[0],
        "linear2": block.ffn[3],
    }
    copied = {
        f"{name}{kind}" if name.endswith("_") else f"{name}.{kind}": getattr(part, kind)
        for name, part in names.items()
        for kind in ("weight", "bias")
    }
    layer.load_state_dict(copied)
    mask = nn.Transformer.generate_square_subsequent_mask(time, dtype=torch.float64)
    torch.testing.assert_close(block(x), layer(x, src_mask=mask, is_causal=True))


def test_sasrec_adds_positions_and_ends_with_a_norm():
    model = stirred(SASRec(6, SASRecConfig(dim=8, layers=2, max_len=5)))
    history = tensor([[3, 1, 6], [2, 0, 0]])
    x = model.items.weight[history] * math.sqrt(8) + model.positions.weight[:3]
    for block in model.blocks:
        x = block(x)
    expected = torch.stack([layer_norm(h, model.norm) for h in x.flatten(0, 1)]).view(2, 3, 8)
    torch.testing.assert_close(model.encode(history), expected)


# ------------------------------------------------------------------------------------------------------------- HSTU


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("time_bias", [False, True])
@pytest.mark.parametrize("position_bias", [False, True])
@pytest.mark.parametrize("alpha", [None, 1.0])
def test_an_hstu_unit_is_its_equations_written_as_loops(heads, time_bias, position_bias, alpha):
    """Eq. 1 (point-wise projection), 2 (spatial aggregation), 3 (point-wise transformation), one event at a time."""
    dim, length, max_len = 8, 5, 11
    config = HSTUConfig(
        dim,
        heads=heads,
        max_len=max_len,
        position_bias=position_bias,
        time_bias=time_bias,
        time_buckets=12,
        alpha=alpha,
    )
    unit, x = stirred(HSTUBlock(config)), drawn(2, length, dim)
    time = torch.exp(10 * drawn(2, length + 1, seed=2).abs()).cumsum(1)  # gaps from a second to days
    found = unit(x, time_buckets(time, 12) if time_bias else None)
    width = dim // heads
    buckets_used = set()
    for b in range(2):
        projected = [silu(unit.uvqk.weight @ layer_norm(x[b, j], unit.norm)) for j in range(length)]
        u, v, q, k = ([p[part * dim : (part + 1) * dim] for p in projected] for part in range(4))
        for i in range(length):
            parts = []
            for h in range(heads):
                s = slice(h * width, (h + 1) * width)
                total = torch.zeros(width, dtype=torch.float64)
                for j in range(i + 1):
                    logit = (alpha or width**-0.5) * (q[i][s] @ k[j][s])
                    if position_bias:
                        logit = logit + unit.position_bias[i - j]
                    if time_bias:
                        gap = max(float(time[b, i + 1] - time[b, j]), 1.0)
                        bucket = min(math.floor(math.log2(gap)), 11)
                        buckets_used.add(bucket)
                        logit = logit + unit.time_bias.weight[bucket, 0]
                    total = total + silu(logit) * v[j][s]
                parts.append(total / max_len)
            y = unit.out.weight @ (layer_norm(torch.cat(parts), unit.value_norm) * u[i]) + unit.out.bias
            torch.testing.assert_close(found[b, i], x[b, i] + y)
    assert not time_bias or len(buckets_used) > 2


def test_time_buckets_by_hand():
    time = tensor([[0.0, 1.0, 1.5, 9.5, 9.5 + 2**40]], dtype=torch.float64)
    buckets = time_buckets(time, 6)
    # Row: the request after event i; column: event j. Gaps up to a second share bucket 0.
    assert buckets[0, 0, 0] == 0  # 1 s
    assert buckets[0, 1].tolist()[:2] == [0, 0]  # 1.5 s and 0.5 s
    assert buckets[0, 2].tolist()[:3] == [3, 3, 3]  # 9.5 s, 8.5 s, 8 s
    assert buckets[0, 3].tolist() == [5, 5, 5, 5]  # beyond the last bucket


def test_time_buckets_of_real_time_stamps():
    """Seconds since 1970 are large; the gaps must not drown in them."""
    gaps = tensor([1.0, 2.0, 4.0, 1024.0, 2.0**20])
    for i, gap in enumerate(gaps.tolist()):
        time = tensor([[1.7e9, 1.7e9 + gap]], dtype=torch.float64)
        assert time_buckets(time, 64).item() == [0, 1, 2, 10, 20][i]


def test_hstu_counts_where_softmax_averages():
    """Ten equal events weigh ten times one in HSTU's sum (before the norm); in softmax they weigh the same."""
    unit = stirred(HSTUBlock(HSTUConfig(dim=4, max_len=20, position_bias=False)))
    seen = []
    unit.value_norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0][0, -1]))
    x = drawn(1, 1, 4)
    for n in (1, 10):
        unit(x.expand(1, n, 4), None)
    torch.testing.assert_close(seen[1], 10 * seen[0])
    block = stirred(SASRecBlock(SASRecConfig(dim=4)))
    torch.testing.assert_close(block(x.expand(1, 10, 4))[0, -1], block(x)[0, -1])


def test_hstu_adds_positions_and_ends_with_a_norm():
    model = stirred(HSTU(6, HSTUConfig(dim=8, layers=2, max_len=5)))
    history = tensor([[3, 1, 6], [2, 0, 0]])
    x = model.items.weight[history] * math.sqrt(8) + model.positions.weight[:3]
    for block in model.blocks:
        x = block(x, None)
    expected = torch.stack([layer_norm(h, model.norm) for h in x.flatten(0, 1)]).view(2, 3, 8)
    torch.testing.assert_close(model.encode(history), expected)
