"""What every segment memory has to obey: serving equals the full pass, no leak, sizes; then RMT, KV and averages."""

import numpy as np
import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from reclib.backbones import HSTUConfig, NextItemLoss, SASRec, SASRecConfig
from reclib.backbones.hstu import HSTUBlock
from reclib.backbones.sasrec import SASRecBlock
from reclib.data import load_dataset
from reclib.evaluation import evaluate
from reclib.memory import (
    AppendRec2PM,
    AppendTokenMemory,
    KVMemory,
    OneTimeRec2PM,
    OverwriteKVMemory,
    PooledMemory,
    Rec2PM,
    SegmentConfig,
    TokenMemory,
)
from reclib.memory.segments import SegmentModel
from reclib.training import SequenceBatch

N_ITEMS, LENGTH, SLOTS = 30, 5, 2
SERIAL = (TokenMemory, AppendTokenMemory, Rec2PM, AppendRec2PM, PooledMemory, KVMemory, OverwriteKVMemory)
ALL = (*SERIAL, OneTimeRec2PM)


def build(kind, seed=0, **more):
    """In double precision, and with weights large enough for every part to matter."""
    torch.manual_seed(seed)
    model = kind(N_ITEMS, SegmentConfig(**{"dim": 8, "heads": 2, "segment": LENGTH, "slots": SLOTS, **more}))
    model = model.double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and not name.startswith("items"):
                parameter.normal_(std=0.5)
    return model


def drawn(batch=3, width=17, seed=1):
    return torch.randint(1, N_ITEMS + 1, (batch, width), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=ALL, ids=lambda kind: kind.__name__)
def any_model(request):
    return build(request.param)


@pytest.fixture(params=SERIAL, ids=lambda kind: kind.__name__)
def model(request):
    return build(request.param)


# ----------------------------------------------------------------------------------------------------- the two bodies


@pytest.mark.parametrize("heads", [1, 2])
def test_a_causal_mask_changes_nothing_in_the_blocks(heads):
    x = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    softmax, hstu = SASRecBlock(SASRecConfig(8, heads=heads)).eval(), HSTUBlock(HSTUConfig(8, heads=heads)).eval()
    assert_close(softmax(x, causal), softmax(x))
    assert_close(hstu(x, None, causal), hstu(x, None), atol=0, rtol=0)


@pytest.mark.parametrize("body", ["sasrec", "hstu"])
def test_a_mask_hides_what_it_hides(body):
    model, x = build(Rec2PM, body=body), torch.randn(2, 6, 8, dtype=torch.float64)
    mask = torch.rand(6, 6, generator=torch.Generator().manual_seed(3)) < 0.5
    mask |= torch.eye(6, dtype=torch.bool)
    reach = torch.linalg.matrix_power(mask.double(), 2) > 0  # two layers
    y = model.body(x, mask)
    for j in range(6):
        other = x.clone()
        other[:, j] = -other[:, j]
        moved = (model.body(other, mask) - y).abs().amax((0, 2)) > 1e-12
        assert torch.equal(moved, reach[:, j])


# --------------------------------------------------------------------------------------------------- for every memory


def test_updates_and_rank_equal_the_pass_over_the_whole_history(model):
    history = drawn()
    memory = model.empty(3)
    for segment in torch.split(history, LENGTH, dim=1)[:-1]:
        memory = model.update(memory, segment)
    assert_close(model.rank(memory, history[:, 15:]), model.score(history))


def test_a_full_last_segment_is_working_memory(model):
    history = drawn(width=10)
    memory = model.update(model.empty(3), history[:, :5])
    assert_close(model.rank(memory, history[:, 5:]), model.score(history))


def test_rows_of_different_lengths_do_not_disturb_each_other(any_model):
    lengths = [1, 4, 5, 6, 10, 13]
    history = drawn(batch=6, width=13) * (torch.arange(13) < tensor(lengths)[:, None])
    together = any_model.score(history)
    for row, length in enumerate(lengths):
        assert_close(together[row : row + 1], any_model.score(history[row : row + 1, :length]))


def test_the_future_does_not_reach_the_past_and_the_past_reaches_the_future(any_model):
    history = drawn()
    same = any_model.encode(history)
    for t in (0, 4, 5, 12):
        other = history.clone()
        other[:, t] = other[:, t] % N_ITEMS + 1
        moved = (any_model.encode(other) - same).abs().amax((0, 2))
        assert (moved[:t] == 0).all()
        assert moved[t] > 1e-6
        later = moved[(t // LENGTH + 1) * LENGTH :]  # in the segments after
        reach = 1 if isinstance(any_model, OverwriteKVMemory) else 3  # two layers look back one segment
        assert (later[: LENGTH * reach] > 1e-12).all()


def test_overwriting_keys_and_values_forgets_beyond_the_layers():
    history = drawn()
    other = history.clone()
    other[:, 2] = other[:, 2] % N_ITEMS + 1
    for layers in (1, 2, 3):
        model = build(OverwriteKVMemory, layers=layers)
        moved = (model.encode(other) - model.encode(history)).abs().amax((0, 2))
        reached = min((layers - 1) * LENGTH + LENGTH, 17)
        assert (moved[2:reached] > 0).all()
        assert (moved[reached:] == 0).all()


def test_every_parameter_learns(any_model):
    any_model.train()
    history = drawn(width=17)
    batch = SequenceBatch(history, drawn(width=17, seed=2), None, None)
    NextItemLoss()(any_model, batch)[0].backward()
    for name, weight in any_model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_evaluate_ranks_with_it(any_model):
    split = load_dataset("adworld-tiny").leave_one_out()
    torch.manual_seed(0)
    model = type(any_model)(split.train.n_items, SegmentConfig(dim=8, segment=LENGTH, slots=SLOTS))
    metrics = evaluate(model, split.test.subset(np.arange(0, 300, 10)), ks=(10,)).metrics()
    assert 0 <= metrics["ndcg@10"] <= 1


def test_a_longer_history_than_max_len_is_cut_at_its_beginning():
    model = build(TokenMemory, max_len=10)
    history = drawn()
    assert_close(model.score(history), model.score(history[:, 7:]))


# --------------------------------------------------------------------------------------------------------- each memory


@pytest.mark.parametrize("start", ["nothing", "learnt"])
def test_the_serial_memory_is_its_equation_written_as_a_loop(start):
    model, history = build(TokenMemory, start=start), drawn(width=13)
    x = model.items(history) * 8**0.5 + model.positions.weight[torch.arange(13) % LENGTH]
    learnt = start == "learnt"
    M, found = [model.initial.expand(3, -1, -1) + model.place] if learnt else [], []
    for first in (0, 5, 10):
        S = x[:, first : first + 5]
        y = torch.cat([*M, S, model.query.expand(3, -1, -1)], dim=1)
        for block in model.body.blocks:
            y = block(y)
        y = model.body.norm(y)
        found.append(y[:, -SLOTS - S.shape[1] : -SLOTS])
        M = [y[:, -SLOTS:] + model.place]
    assert_close(model.encode(history), torch.cat(found, 1))


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        (TokenMemory, [(2, 8), (2, 8), (2, 8)]),
        (Rec2PM, [(2, 8), (2, 8), (2, 8)]),
        (AppendTokenMemory, [(2, 8), (4, 8), (6, 8)]),
        (AppendRec2PM, [(2, 8), (4, 8), (6, 8)]),
        (PooledMemory, [(2, 8), (2, 8), (2, 8)]),
        (OverwriteKVMemory, [(4, 2, 8), (4, 2, 8), (4, 2, 8)]),
        (KVMemory, [(4, 2, 8), (4, 4, 8), (4, 6, 8)]),
    ],
)
def test_overwrite_holds_c_tokens_and_append_n_times_c(kind, shapes):
    model = build(kind)
    assert [tuple(m.shape[1:]) for m in model.memories(drawn())] == shapes
    assert model.empty(3).shape[-2] == 0


def test_append_keeps_what_it_had():
    first, second, third = build(AppendRec2PM).memories(drawn())
    assert torch.equal(third[:, :4], second)
    assert torch.equal(second[:, :2], first)


def test_the_gradient_goes_back_through_all_segments():
    model = build(TokenMemory)
    history, seen = drawn(width=15), []
    model.items.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.encode(history)[:, 14].square().sum().backward(inputs=[seen[0].retain_grad() or seen[0]])
    assert (seen[0].grad.abs().sum((0, 2)) > 0).all()


def test_averages_by_hand():
    model = build(PooledMemory, slots=3, segment=2, dim=1, heads=1)
    means = [tensor([[[m - 0.5], [m + 0.5]]]).double() for m in (4.0, 8.0, 0.0)]
    memory = model.empty(1)
    found = []
    for x in means:
        _, memory = model.read(memory, x)
        found.append(memory[0, :, 0].tolist())
    assert found == [[4, 4, 4], [8, 6, 5], [0, 3, 3.75]]


@pytest.mark.parametrize("kind", [KVMemory, OverwriteKVMemory])
def test_one_pass_under_the_mask_equals_segment_after_segment(kind):
    model, history = build(kind, layers=3), drawn(width=18)
    assert_close(model.encode(history), SegmentModel.encode(model, history))


def test_the_masks_of_kv_memory_by_hand():
    kinds = (KVMemory, OverwriteKVMemory)
    append, overwrite = (build(kind, segment=1, slots=1).mask(3).int().tolist() for kind in kinds)
    assert append == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 0, 1, 1, 0],
        [0, 1, 0, 1, 1, 1],
    ]
    assert overwrite[:4] == append[:4]
    assert overwrite[4:] == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]]


def test_full_attention_is_one_long_segment_without_memory():
    """Keys and values of one segment: no query is ever seen, so nothing but SASRec is left."""
    model = build(KVMemory, segment=17)
    plain = SASRec(N_ITEMS, SASRecConfig(dim=8, heads=2, max_len=17)).double().eval()
    plain.items, plain.positions = model.items, model.positions
    plain.blocks, plain.norm = model.body.blocks, model.body.norm
    assert_close(model.encode(drawn()), plain.encode(drawn()))


# ----------------------------------------------------------------------------------------------------------- bad input


def test_bad_segments_and_memories_are_named(model):
    memory = model.update(model.empty(3), drawn(width=5))
    with pytest.raises(ValueError, match=r"segment: 6 items, but this model reads 1 … 5 at a time; cut the history"):
        model.update(memory, drawn(width=6))
    with pytest.raises(ValueError, match=r"segment: 0 items"):
        model.update(memory, drawn(width=5)[:, :0])
    with pytest.raises(ValueError, match="segment: contains 0, which is padding"):
        model.update(memory, drawn(width=5) * tensor([1, 1, 1, 1, 0]))
    with pytest.raises(ValueError, match="working: 6 items, but this model reads at most 5"):
        model.rank(memory, drawn(width=6))
    with pytest.raises(ValueError, match="history: a row holds no item"):
        model.rank(memory, drawn(width=3) * 0)
    with pytest.raises(ValueError, match="memory: contains NaN or infinity"):
        model.rank(torch.where(torch.arange(8) == 3, torch.nan, memory), drawn(width=3))
    for wrong in (memory[..., :4], memory[..., :1, :]):
        with pytest.raises(ValueError, match="a memory fits only the model"):
            model.update(wrong, drawn(width=5))
    with pytest.raises(ValueError, match="history: contains 0"):
        model.memories(drawn() * 0)


def test_a_memory_of_append_does_not_fit_overwrite():
    memory = build(AppendRec2PM).memories(drawn())[-1]
    with pytest.raises(ValueError, match=r"memory: is \(3, 6, 8\), this model's is \(3,\), then 0 or 2 tokens, then 8"):
        build(Rec2PM).rank(memory, drawn(width=3))


@pytest.mark.parametrize("field", ["layers", "segment", "slots", "dim", "max_len"])
def test_sizes_are_checked(field):
    with pytest.raises(ValueError, match=f"{field}: must be at least 1, got 0"):
        build(Rec2PM, **{field: 0})


def test_other_settings_are_checked():
    with pytest.raises(ValueError, match="heads: 3 must divide dim = 8"):
        build(Rec2PM, heads=3)
    with pytest.raises(ValueError, match="body: keys and values are kept of SASRec's blocks; give 'sasrec'"):
        build(KVMemory, body="hstu")
