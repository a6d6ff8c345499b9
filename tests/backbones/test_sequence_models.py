"""What GRU4Rec, SASRec and HSTU have in common, checked on each."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import tensor

from reclib.backbones import (
    HSTU,
    GRU4Rec,
    GRU4RecConfig,
    HSTUConfig,
    NextItemLoss,
    SASRec,
    SASRecConfig,
    SequenceModel,
)
from reclib.backbones.sequence_model import last_position, recent
from reclib.data.interactions import Interactions
from reclib.evaluation import evaluate
from reclib.nn import losses
from reclib.training import FitConfig, SequenceBatch, SequenceBatches, fit

N_ITEMS, MAX_LEN = 9, 6

MODELS = {
    "gru4rec": lambda **more: GRU4Rec(N_ITEMS, GRU4RecConfig(dim=8, layers=2, max_len=MAX_LEN, **more)),
    "sasrec": lambda **more: SASRec(N_ITEMS, SASRecConfig(dim=8, heads=2, max_len=MAX_LEN, **more)),
    "hstu": lambda **more: HSTU(N_ITEMS, HSTUConfig(dim=8, heads=2, max_len=MAX_LEN, **more)),
    "hstu with time": lambda **more: HSTU(N_ITEMS, HSTUConfig(dim=8, heads=2, max_len=MAX_LEN, time_bias=True, **more)),
    "hstu without bias": lambda **more: HSTU(N_ITEMS, HSTUConfig(dim=8, max_len=MAX_LEN, position_bias=False, **more)),
}


@pytest.fixture(params=MODELS)
def model(request):
    """In double precision, and with weights large enough for every part to matter."""
    torch.manual_seed(0)
    model = MODELS[request.param]().double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name and not name.startswith("items"):
                parameter.normal_(std=0.5)
    return model


def questions(batch=4, width=MAX_LEN, seed=1):
    """Items and times (minutes to days apart)."""
    g = torch.Generator().manual_seed(seed)
    history = torch.randint(1, N_ITEMS + 1, (batch, width), generator=g)
    gaps = torch.exp(4 + 6 * torch.rand(batch, width + 1, generator=g, dtype=torch.float64))
    return history, gaps.cumsum(1)


def changes(model, history, time, other_history, other_time):
    """At which positions do the hidden states differ, in any row."""
    one, other = model.encode(history, time), model.encode(other_history, other_time)
    return ((one - other).abs() > 1e-9).any(2).any(0).tolist()


# ------------------------------------------------------------------------------------------- what a position may see


def test_no_position_sees_a_later_item(model):
    history, time = questions()
    for t in range(MAX_LEN):
        other = history.clone()
        other[:, t] = history[:, t] % N_ITEMS + 1
        seen = changes(model, history, time, other, time)
        assert seen == [False] * t + [True] * (MAX_LEN - t)


def test_a_position_sees_the_next_request_and_nothing_later(model):
    history, time = questions()
    for t in range(MAX_LEN + 1):
        other = time.clone()
        other[:, t] += 1e6
        seen = changes(model, history, time, history, other)
        if isinstance(model, HSTU) and model.config.time_bias:
            # Time t is when the request after item t - 1 comes, and later when item t happened.
            assert seen == [False] * (t - 1) + [True] * (MAX_LEN - max(t - 1, 0))
        else:
            assert not any(seen)


def test_what_stands_under_the_padding_does_not_matter(model):
    """The history alone, padded, or followed by anything: the same states at its items."""
    history, time = questions(width=3)
    expected = model.encode(history, time)
    assert expected.shape == (4, 3, 8)
    more, later = questions(seed=2)
    for tail in (torch.zeros_like(more[:, :3]), more[:, :3]):
        wide = torch.cat([history, tail], dim=1)
        wide_time = torch.cat([time, time[:, -1:] + later[:, :3]], dim=1)
        torch.testing.assert_close(model.encode(wide, wide_time)[:, :3], expected)
    padded = torch.cat([history, torch.zeros(4, 20, dtype=torch.long)], dim=1)  # wider than max_len
    padded_time = torch.cat([time, time[:, -1:].expand(-1, 20)], dim=1)
    torch.testing.assert_close(model.score(padded, padded_time), model.score(history, time))


def test_rows_do_not_see_one_another(model):
    history, time = questions()
    together = model.score(history, time)
    alone = [model.score(history[i : i + 1], time[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), together)


# ---------------------------------------------------------------------------------------------------------- scores


def test_score_by_its_definition(model):
    """The last hidden state times the item embeddings, ragged rows included."""
    history, time = questions()
    lengths = [6, 1, 4, 2]
    for row, n in enumerate(lengths):
        history[row, n:] = 0
        time[row, n:] = time[row, n]
    scores = model.score(history, time)
    assert scores.shape == (4, N_ITEMS + 1)
    assert torch.isneginf(scores[:, 0]).all()
    for row, n in enumerate(lengths):
        hidden = model.encode(history[row : row + 1, :n], time[row : row + 1, : n + 1])[0, -1]
        torch.testing.assert_close(scores[row, 1:], model.items.weight[1:] @ hidden)


def test_score_uses_the_last_items(model):
    """Histories longer than max_len count as if only their last items had been given, with their times."""
    history, time = questions(width=11)
    lengths = [11, 9, 6, 2]
    for row, n in enumerate(lengths):
        history[row, n:] = 0
        time[row, n:] = time[row, n]
    scores = model.score(history, time)
    for row, n in enumerate(lengths):
        cut = slice(max(n - MAX_LEN, 0), n)
        alone = model.score(history[row : row + 1, cut], time[row : row + 1, cut.start : n + 1])
        torch.testing.assert_close(scores[row], alone[0])


def test_recent_by_hand():
    history = tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 0], [1, 2, 3, 0, 0], [4, 0, 0, 0, 0]])
    time = tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 4], [0, 1, 2, 3, 3, 3], [7, 9, 9, 9, 9, 9]]).double()
    cut, cut_time = recent(history, time, 3)
    assert cut.tolist() == [[3, 4, 5], [7, 8, 9], [1, 2, 3], [4, 0, 0]]
    assert cut_time.tolist() == [[2, 3, 4, 5], [1, 2, 3, 4], [0, 1, 2, 3], [7, 9, 9, 9]]
    assert recent(history, None, 3)[1] is None
    assert recent(history, time, 5) == (history, time)


def test_scores_of_evaluation_and_training_positions_agree(model):
    """What is trained at the last position is what is asked in evaluation, times included."""
    log = Interactions(
        user=np.repeat(np.arange(3), 5),
        item=questions(3, 5)[0].flatten().numpy(),
        time=questions(3, 4)[1].flatten().numpy(),
        n_items=N_ITEMS,
        items=pd.DataFrame(index=pd.RangeIndex(1, N_ITEMS + 1, name="item_id")),
    )
    asked = log.leave_one_out().test.batch(max_len=MAX_LEN)
    (trained,) = SequenceBatches(log, max_len=MAX_LEN, batch_size=3).epoch(0)
    order = trained.history[:, 0].argsort(), asked.history[:, 0].argsort()
    hidden = model.encode(trained.history, trained.time)[:, -1]
    assert torch.equal(trained.target[:, -1][order[0]], asked.target[order[1]])
    scores = model.score(asked.history, asked.time)
    torch.testing.assert_close((hidden @ model.items.weight.T)[order[0], 1:], scores[order[1], 1:])


# -------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("kind", [losses.full_softmax, losses.sampled_softmax, losses.gbce])
def test_gradients_reach_every_parameter_but_the_padding(model, kind):
    history, time = questions(batch=30)
    history[::3, 3:] = 0
    target = torch.where(history > 0, history % N_ITEMS + 1, 0)
    n = int((target > 0).sum())
    negatives = None if kind is losses.full_softmax else torch.randint(1, N_ITEMS + 1, (n, 3))
    loss, count = NextItemLoss(kind)(model, SequenceBatch(history, target, time, negatives))
    assert count == n
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name
    assert not model.items.weight.grad[0].any()
    assert model.items.weight.grad[1:].any(1).all()


def test_the_loss_is_the_sum_over_real_targets(model):
    history, time = questions()
    history[1, 2:] = 0
    target = torch.where(history > 0, history % N_ITEMS + 1, 0)
    loss, count = NextItemLoss()(model, SequenceBatch(history, target, time, None))
    assert count == 20
    logits = model.encode(history, time) @ model.items.weight[1:].T
    log_p = torch.log_softmax(logits, dim=-1)
    by_hand = -sum(log_p[i, t, target[i, t] - 1] for i in range(4) for t in range(MAX_LEN) if target[i, t] > 0)
    torch.testing.assert_close(loss, by_hand)


def test_no_rows_no_loss(model):
    """The share of a process that got none of a small batch: it still takes part in the backward pass."""
    history, time = questions(batch=0)
    loss, count = NextItemLoss()(model, SequenceBatch(history, history, time, None))
    assert (loss.item(), count) == (0, 0)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_a_sampled_loss_says_when_negatives_are_missing():
    history, time = questions()
    model = MODELS["sasrec"]()
    for kind in (losses.gbce, partial(losses.gbce, t=0.5), losses.sampled_softmax):
        with pytest.raises(ValueError, match=r"negatives: this loss compares with sampled items.*negatives=k"):
            NextItemLoss(kind)(model, SequenceBatch(history, history, time, None))
    # A loss over the catalogue has no use for them, and takes no harm.
    negatives = torch.ones(history.numel(), 2, dtype=torch.long)
    with torch.no_grad():
        model.eval()
        plain, _ = NextItemLoss()(model, SequenceBatch(history, history, time, None))
        assert torch.equal(NextItemLoss()(model, SequenceBatch(history, history, time, negatives))[0], plain)


class Bare(SequenceModel):
    """Only what all models share."""

    def encode(self, history, time=None):
        return self.embed(history)


# ------------------------------------------------------------------------------------------------------- start values


def test_embeddings_start_at_the_documented_scale():
    torch.manual_seed(0)
    model = SASRec(4000, SASRecConfig(dim=16, max_len=5))
    assert model.items.weight[1:].std().item() == pytest.approx(0.02, rel=0.02)
    assert not model.items.weight[0].any()
    assert model.embed(torch.randint(1, 4001, (500, 5))).std().item() == pytest.approx(0.02 * 4, rel=0.02)


def test_dropout_is_on_in_training_only(model):
    history, time = questions()
    assert torch.equal(model.score(history, time), model.score(history, time))
    model.train()
    assert not torch.equal(model.score(history, time), model.score(history, time))


# --------------------------------------------------------------------------------------------------------- bad input


def test_bad_histories(model):
    history, time = questions()
    empty = history.clone()
    empty[2] = 0
    with pytest.raises(ValueError, match="history: a row holds no item; give at least one"):
        model.score(empty, time)
    with pytest.raises(ValueError, match="history: an item follows a 0; left-align"):
        model.score(history.clone().index_fill_(1, tensor([0]), 0), time)
    long, long_time = questions(width=MAX_LEN + 1)
    with pytest.raises(ValueError, match=r"history: 7 items, but max_len is 6; cut it with `recent`"):
        model.encode(long, long_time)


def test_time_is_asked_for_only_where_it_is_used(model):
    history, time = questions()
    if isinstance(model, HSTU) and model.config.time_bias:
        with pytest.raises(ValueError, match="time: this model has time_bias=True; pass times"):
            model.score(history)
    else:
        assert torch.equal(model.score(history), model.score(history, time))


@pytest.mark.parametrize("config", [SASRecConfig, HSTUConfig])
@pytest.mark.parametrize("heads", [0, 3])
def test_heads_must_divide_dim(config, heads):
    with pytest.raises(ValueError, match=rf"heads: {heads} must divide dim = 8"):
        config(dim=8, heads=heads)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ValueError, match="alpha: must be positive, or None"):
        HSTUConfig(alpha=alpha)


def test_bad_sizes():
    for argument, value in (("n_items", 0), ("dim", 0), ("max_len", -1)):
        sizes = {"n_items": 5, "dim": 4, "max_len": 3, argument: value}
        with pytest.raises(ValueError, match=f"{argument}: must be at least 1, got {value}"):
            Bare(**sizes)
    with pytest.raises(ValueError, match="layers: must be at least 1, got 0"):
        GRU4RecConfig(layers=0)


def test_last_position():
    assert last_position(tensor([[3, 1, 2], [4, 0, 0], [5, 5, 0]])).tolist() == [2, 0, 1]


# --------------------------------------------------------------------------------------------------------- learning


def cycle_log(n_users=30):
    """1 → 2 → 3 → 1 …, beginning anywhere, of many lengths; items 4 … 9 are noise-free bystanders."""
    lengths = 4 + np.arange(n_users) % 7
    place = np.concatenate([np.arange(n) for n in lengths])
    start = np.repeat(np.arange(n_users), lengths)
    return Interactions(
        user=start,
        item=(start + place) % 3 + 1,
        time=3600.0 * place,
        n_items=N_ITEMS,
        items=pd.DataFrame(index=pd.RangeIndex(1, N_ITEMS + 1, name="item_id")),
    )


ARMS = [(name, losses.full_softmax, 0) for name in MODELS] + [
    ("sasrec", losses.sampled_softmax, 5),
    ("sasrec", losses.gbce, 5),
    ("sasrec", partial(losses.gbce, t=0.0), 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "negatives"), ARMS)
def test_models_learn_a_cycle(name, kind, negatives):
    torch.manual_seed(0)
    split = cycle_log().leave_one_out()
    model = MODELS[name](dropout=0.0)
    assert evaluate(model, split.test, (1,), mask_history=False).metrics()["recall@1"] < 1
    batches = SequenceBatches(split.train, max_len=MAX_LEN, batch_size=8, negatives=negatives)
    epochs = 60 if negatives == 1 else 20  # one negative teaches little at a time
    fit(model, batches, NextItemLoss(kind), FitConfig(epochs=epochs, lr=2e-2), progress=False)
    for cases in (split.valid, split.test):
        assert evaluate(model, cases, (1,), mask_history=False).metrics()["recall@1"] == 1


def waiting_log(n_users=120, seed=0):
    """Always item 1; after a short wait comes 2, after a long wait 3. Only the time of the request tells which."""
    rng = np.random.default_rng(seed)
    n = 6
    long_wait = rng.random((n_users, n)) < 0.5
    item = np.stack([np.ones_like(long_wait, dtype=np.int64), np.where(long_wait, 3, 2)], axis=2)
    wait = np.where(long_wait, 86_400.0, 60.0)
    time = np.cumsum(np.stack([np.full_like(wait, 3600.0), wait], axis=2).reshape(n_users, -1), axis=1)
    return Interactions(
        user=np.repeat(np.arange(n_users), 2 * n),
        item=item.reshape(-1),
        time=time.reshape(-1),
        n_items=3,
        items=pd.DataFrame(index=pd.RangeIndex(1, 4, name="item_id")),
    )


@pytest.mark.slow
def test_only_the_time_bias_can_read_waiting_times():
    split = waiting_log().leave_one_out()
    hits = {}
    for time_bias in (True, False):
        torch.manual_seed(0)
        model = HSTU(3, HSTUConfig(dim=16, layers=2, dropout=0.0, max_len=12, time_bias=time_bias))
        batches = SequenceBatches(split.train, max_len=12, batch_size=16)
        fit(model, batches, NextItemLoss(), FitConfig(epochs=25, lr=1e-2), progress=False)
        hits[time_bias] = evaluate(model, split.test, (1,), mask_history=False).metrics()["recall@1"]
    assert hits[True] > 0.99
    assert hits[False] < 0.7  # a coin: 120 users, standard deviation .046
