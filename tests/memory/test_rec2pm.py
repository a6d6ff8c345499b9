"""Rec2PM: the eleven oracles of its paper's equations, and its loss."""

import numpy as np
import pytest
import torch
from torch import nn, tensor
from torch.testing import assert_close

from reclib.backbones import NextItemLoss, SASRec, SASRecConfig
from reclib.evaluation import evaluate
from reclib.experiments.needles import AnswerBatches, needles, questions
from reclib.memory import AppendRec2PM, OneTimeRec2PM, Rec2PM, Rec2PMLoss, SegmentConfig, TokenMemory
from reclib.memory.rec2pm import consistency, kv_bytes, packed_mask, token_bytes
from reclib.nn.losses import full_softmax_reference
from reclib.training import FitConfig, SequenceBatch, fit
from tests.memory.test_segments import LENGTH, N_ITEMS, SLOTS, build, drawn

BODIES = ("sasrec", "hstu")


@pytest.fixture(params=BODIES)
def model(request):
    return build(Rec2PM, layers=3, body=request.param)


# --------------------------------------------------------------------------------------------------------- the passes


def test_one_packed_pass_gives_every_history_compressed_by_itself(model):  # oracle 1
    history = drawn(width=20)
    references = model.references(model.segments(history))
    for h in range(4):
        assert_close(references[:, h], model.compress(history[:, : (h + 1) * LENGTH]), atol=1e-12, rtol=1e-10)


def test_packed_and_separate_agree_in_float32(model):  # oracle 1
    model = model.float()
    history = drawn(width=20)
    references = model.references(model.segments(history))
    assert_close(references[:, 3], model.compress(history), atol=1e-5, rtol=1e-5)
    assert_close(references[:, 1], model.compress(history[:, :10]), atol=1e-5, rtol=1e-5)


def test_who_sees_whom():  # oracle 2
    assert packed_mask(2, 2, 1).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 1, 1, 1],
    ]
    assert packed_mask(2, 2, 2).int().tolist()[-2:] == [[1, 1, 0, 0, 1, 1, 1, 0], [1, 1, 0, 0, 1, 1, 1, 1]]


def test_queries_do_not_disturb_items(model):  # oracle 3
    history = drawn(width=20)
    x = model.segments(history)
    packed = torch.cat([x, model.query.expand(3, 4, -1, -1)], dim=2).flatten(1, 2)
    y = model.body(packed, packed_mask(4, LENGTH, SLOTS)).view(3, 4, LENGTH + SLOTS, 8)
    assert_close(y[:, :, :LENGTH].flatten(1, 2), model.body(model.vectors(history)), atol=1e-12, rtol=1e-10)


def test_nothing_of_a_later_segment_reaches_an_earlier_one(model):  # oracle 4
    def passes(history):
        x = model.segments(history)
        reference = model.references(x)
        return reference, *model.local(reference, x)

    history = drawn(width=20)
    other = history.clone()
    other[:, 12] = other[:, 12] % N_ITEMS + 1  # in segment 2
    for one, changed in zip(passes(history), passes(other), strict=True):
        assert torch.equal(one[:, :2], changed[:, :2])
        assert ((one[:, 2:] - changed[:, 2:]).abs().amax((0, 2, 3)) > 1e-6).all()


@pytest.mark.parametrize("start", ["nothing", "learnt"])
@pytest.mark.parametrize("body", BODIES)
def test_folded_segments_equal_a_loop(body, start):  # oracle 5
    model = build(Rec2PM, layers=3, body=body, start=start)
    x = model.segments(drawn(width=20))
    reference = model.references(x)
    hidden, update = model.local(reference, x)
    for h in range(4):
        for row in range(3):
            before = reference[row, h - 1] if h else model.initial
            before = [] if before is None else [before + model.place]
            y = model.body(torch.cat([*before, x[row, h], model.query])[None])[0]
            assert_close(hidden[row, h], y[-SLOTS - LENGTH : -SLOTS])
            assert_close(update[row, h], y[-SLOTS:])


@pytest.mark.parametrize("body", BODIES)
def test_a_single_segment_is_the_plain_model(body):  # oracle 6
    history = drawn(width=LENGTH)
    for start in ("nothing", "learnt"):
        model = build(Rec2PM, layers=3, body=body, start=start)
        x = model.segments(history)
        reference = model.references(x)
        hidden, update = model.local(reference, x)
        assert consistency(reference, update, tensor([1, 1, 1]), detach=False) == 0
        before = [] if start == "nothing" else [(model.initial + model.place).expand(3, -1, -1)]
        plain = model.body(torch.cat([*before, model.vectors(history)], dim=1))[:, -LENGTH:]
        assert_close(model.encode(history), plain)
        assert_close(hidden[:, 0], plain)


def test_serving_begins_where_training_does(model):
    """With nothing before segment 0 its memory is its reference; with learnt tokens it is another, held by no term."""
    x = model.segments(drawn(width=10))
    reference = model.references(x)
    assert_close(model.local(reference, x)[1][:, 0], reference[:, 0])
    learnt = build(Rec2PM, layers=3, body=model.config.body, start="learnt")
    reference = learnt.references(x)
    assert (learnt.local(reference, x)[1][:, 0] - reference[:, 0]).abs().max() > 1e-3


def test_one_time_compression_ranks_with_the_reference_memory(model):
    one_time = build(OneTimeRec2PM, layers=3, body=model.config.body)
    one_time.load_state_dict(model.state_dict())
    history = drawn(width=18)
    compressed = model.compress(history[:, :15])
    assert_close(one_time.score(history), model.rank(compressed, history[:, 15:]))


def test_append_has_the_weights_of_overwrite_and_starts_like_it(model):
    append = build(AppendRec2PM, layers=3, body=model.config.body, seed=1)
    append.load_state_dict(model.state_dict())
    history = drawn(width=20)
    one, other = model.encode(history), append.encode(history)
    assert_close(one[:, :10], other[:, :10])  # one segment in memory: the same
    assert (one[:, 10:] - other[:, 10:]).abs().amin() > 0


class Sum(nn.Module):
    """In the place of the encoder: each position puts out the sum of all that it sees."""

    def forward(self, x, mask=None):
        time = x.shape[1]
        seen = torch.ones(time, time, dtype=torch.bool).tril() if mask is None else mask
        return seen.to(x.dtype) @ x


class Mean(Sum):
    """The mean of all that it sees: another recurrence, for which the memories do not agree."""

    def forward(self, x, mask=None):
        ones = torch.ones_like(x[..., :1])
        return super().forward(x, mask) / super().forward(ones, mask)


def with_body(body):
    model = build(Rec2PM, slots=1)
    model.body = body
    with torch.no_grad():
        model.query.zero_()
        model.place.zero_()
    return model


def test_running_freely_equals_teacher_forcing_where_memories_agree():  # oracle 7
    model, history = with_body(Sum()), drawn(width=20)
    x = model.segments(history)
    reference = model.references(x)
    assert_close(reference[:, :, 0], x.sum(2).cumsum(1))
    _, update = model.local(reference, x)
    assert_close(update, reference)
    assert consistency(reference, update, tensor([4, 4, 4]), detach=False) < 1e-24
    assert_close(torch.stack(model.memories(history), dim=1), reference)


def test_another_recurrence_shows_the_drift_that_the_loss_reports():  # oracle 7
    model, history = with_body(Mean()), drawn(width=10)
    x = model.segments(history)
    reference = model.references(x)
    _, update = model.local(reference, x)
    loss = consistency(reference, update, tensor([2, 2, 2]), detach=False)
    first, second = model.memories(history)
    assert_close(first, reference[:, 0])
    assert loss > 1e-6
    assert_close((second - reference[:, 1]).square().mean(), loss)


# ----------------------------------------------------------------------------------------------------------- the loss


def batch_of(history, seed=2):
    target = drawn(*history.shape, seed=seed) * (history > 0)
    return SequenceBatch(history, target, None, None)


def test_the_consistency_loss_by_hand():
    reference = tensor([[[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]], [[[0.0, 0.0]], [[1.0, 1.0]], [[9.0, 9.0]]]])
    update = tensor([[[[9.0, 9.0]], [[3.0, 2.0]], [[4.0, 6.0]]], [[[9.0, 9.0]], [[1.0, 4.0]], [[0.0, 0.0]]]])
    # Row 0, h = 1: (0 + 4) / 2, h = 2: (1 + 0) / 2; row 1, h = 1: (0 + 9) / 2; its segment 2 is not complete.
    assert consistency(reference, update, tensor([3, 2]), detach=False) == pytest.approx((2 + 0.5 + 4.5) / 3)
    assert consistency(reference, update, tensor([1, 1]), detach=False) == 0


def test_the_loss_is_a_loop_over_segments_that_ignores_the_queries(model):
    history = drawn(width=18) * (torch.arange(18) < tensor([18, 11, 4])[:, None])
    batch = batch_of(history)
    loss, targets = Rec2PMLoss(lam=0.5)(model, batch)
    assert targets == 18 + 11 + 4
    expected, gaps = 0.0, []
    for row, length in enumerate((18, 11, 4)):
        for h in range(-(-length // LENGTH)):
            now = history[row, : min((h + 1) * LENGTH, length)][None]
            M = model.compress(now[:, : h * LENGTH]) if h else model.empty(1)
            hidden, update = model.read(M, model.vectors(now)[:, h * LENGTH :])
            target = batch.target[row, h * LENGTH : now.shape[1]]
            expected = expected + full_softmax_reference(hidden[0], model.items.weight, target)
            if h and now.shape[1] == (h + 1) * LENGTH:
                gaps.append((model.compress(now) - update).square().mean())
    assert len(gaps) == 3
    assert_close(loss, expected + targets * 0.5 * torch.stack(gaps).mean())
    assert_close(Rec2PMLoss(lam=0.0)(model, batch)[0], expected)


def test_detach_makes_the_reference_a_fixed_target():  # oracle 8
    reference, update = torch.randn(2, 2, 3, 2, 4, generator=torch.Generator().manual_seed(0)).unbind()
    for detach in (False, True):
        ref, upd = reference.clone().requires_grad_(), update.clone().requires_grad_()
        consistency(ref, upd, tensor([3, 3]), detach=detach).backward()
        assert (ref.grad is None) == detach
        assert upd.grad[:, 1:].abs().min() > 0
        assert (upd.grad[:, 0] == 0).all()


@pytest.mark.parametrize("detach", [False, True])
def test_no_gradient_of_the_last_reference_with_detach(model, detach):  # oracle 8, through the whole model
    """The last segment's reference is nobody's memory: L_con alone can send a gradient there."""
    x = model.segments(drawn(width=10)).detach()
    reference = model.references(x)
    kept = reference.detach().requires_grad_()
    _, update = model.local(kept, x)
    consistency(kept, update, tensor([2, 2, 2]), detach=detach).backward()
    assert (kept.grad[:, 1].abs().max() == 0) == detach
    assert kept.grad[:, 0].abs().max() > 0  # the way through the memory of segment 1 stays open


@pytest.mark.parametrize("body", BODIES)
def test_every_parameter_learns_in_one_step(body):  # oracle 8
    model = build(Rec2PM, body=body, start="learnt").train()
    Rec2PMLoss()(model, batch_of(drawn(width=18)))[0].backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_both_passes_share_one_dropout():
    model = build(Rec2PM, slots=1, dropout=0.5).train()
    model.body = Sum()
    with torch.no_grad():
        model.query.zero_()
        model.place.zero_()
    x = model.segments(drawn(width=20))
    assert (x == 0).any()
    reference = model.references(x)
    _, update = model.local(reference, x)
    assert_close(update, reference)  # two draws would not agree


def test_bytes():  # oracle 9
    assert token_bytes(4, 64) == 1024
    assert kv_bytes(16, 4, 64) == 32_768
    assert kv_bytes(16, 1000, 64) == 8_192_000


# ----------------------------------------------------------------------------------------------------------- training


@pytest.mark.slow
def test_only_who_remembers_finds_the_needle():  # oracle 11
    train, test = needles(800, seed=0), questions(needles(400, seed=1))
    # Width 32 finds the needle from each of six seeds; 16 does not, and which seeds fail depends on the machine.
    wide, narrow = (SegmentConfig(dim=dim, segment=8, slots=2) for dim in (32, 16))

    def trained(model, loss, epochs, batches):
        fit(model, batches, loss, FitConfig(epochs, lr=3e-3), progress=False)
        return model

    def hits(model):
        return evaluate(model, test, ks=(1,), mask_history=False).metrics()["recall@1"]

    whole = AnswerBatches(train, max_len=24, batch_size=32)
    torch.manual_seed(0)
    rec2pm = trained(Rec2PM(train.n_items, wide), Rec2PMLoss(detach=True), 14, whole)
    serial = trained(TokenMemory(train.n_items, wide), NextItemLoss(), 16, whole)
    full = trained(SASRec(train.n_items, SASRecConfig(32, max_len=24, dropout=0.0)), NextItemLoss(), 5, whole)
    assert min(hits(rec2pm), hits(serial), hits(full)) > 0.9

    # Truncation is trained on lives without their beginning: one of four answers is as good as another.
    recent = AnswerBatches(train.select(np.arange(len(train)) % 25 >= 16), max_len=8, batch_size=32)
    truncated = trained(SASRec(train.n_items, SASRecConfig(16, max_len=8, dropout=0.0)), NextItemLoss(), 5, recent)
    assert hits(truncated) < 0.4

    # Without L_con training finds the needle too, but serving does not: no loss held the memories together.
    loose = trained(Rec2PM(train.n_items, narrow), Rec2PMLoss(lam=0.0), 8, whole)
    forced = OneTimeRec2PM(train.n_items, narrow)
    forced.load_state_dict(loose.state_dict())
    assert hits(forced) > 0.9
    assert hits(loose) < 0.6
