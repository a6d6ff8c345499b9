"""The training loop: against a plain torch loop, and what happens when training stops, breaks, or is killed."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from reclib.backbones import HSTU, HSTUConfig, NextItemLoss, SASRec, SASRecConfig
from reclib.data.interactions import Interactions
from reclib.training import FitConfig, SequenceBatches, fit, loop

pytestmark = pytest.mark.slow


def cycle_log(n_users=24, n_items=5):
    """1 → 2 → 3 → 4 → 5 → 1 …, beginning anywhere."""
    lengths = 3 + np.arange(n_users) % 7
    start = np.repeat(np.arange(n_users), lengths)
    place = np.concatenate([np.arange(n) for n in lengths])
    return Interactions(
        user=start,
        item=(start + place) % n_items + 1,
        time=place * 60.0,
        n_items=n_items,
        items=pd.DataFrame(index=pd.RangeIndex(1, n_items + 1, name="item_id")),
    )


def sasrec(dropout=0.2, seed=0, dim=8):
    torch.manual_seed(seed)
    return SASRec(5, SASRecConfig(dim=dim, layers=1, dropout=dropout, max_len=5))


def sequences(seed=0):
    return SequenceBatches(cycle_log(), max_len=5, batch_size=7, seed=seed)


def weights(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same_weights(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


class Steps:
    """Plain batches, the same in every epoch; counts what is asked for."""

    def __init__(self, *batches):
        self.batches, self.asked = batches, []

    def epoch(self, epoch, rank=0, world_size=1):
        self.asked.append(epoch)
        yield from self.batches

    def steps(self, epoch):
        return len(self.batches)


class Line(nn.Module):
    """A matrix, a bias and a norm: one parameter of each kind that weight decay distinguishes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.norm, self.matrix, self.table = nn.LayerNorm(3), nn.Linear(3, 2), nn.Embedding(4, 2)

    def forward(self, x, i):
        return self.matrix(self.norm(x)) + self.table(i)


def squared_error(model, batch):
    x, i, y = batch
    return (model(x, i) - y).square().sum(), len(x)


def regression():
    g = torch.Generator().manual_seed(1)
    sizes = (4, 1, 6)
    return [
        (torch.randn(n, 3, generator=g), torch.randint(4, (n,), generator=g), torch.randn(n, 2, generator=g))
        for n in sizes
    ]


QUICK = FitConfig(epochs=4, lr=1e-2)


# ----------------------------------------------------------------------------------------------------- the training


def test_fit_equals_a_plain_loop():
    """Mean over targets, clipping, AdamW with decay on matrices only, warm-up and cosine: all written out once more."""
    config = FitConfig(epochs=5, lr=0.05, weight_decay=0.1, beta2=0.97, warmup=0.3, clip_norm=0.7)
    model, plain = Line(), Line()
    fit(model, Steps(*regression()), squared_error, config, progress=False)

    decayed, free = [plain.matrix.weight], [plain.matrix.bias, *plain.norm.parameters(), *plain.table.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}], lr=0.05, betas=(0.9, 0.97)
    )
    clipped = 0
    for step in range(15):
        progress = step / 15
        rising = (progress + 1e-3) / (0.3 + 1e-3)
        falling = (1 + math.cos(math.pi * (progress - 0.3) / 0.7)) / 2
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (rising if progress < 0.3 else falling)
        x, i, y = regression()[step % 3]
        optimizer.zero_grad()
        ((plain(x, i) - y).square().sum() / len(x)).backward()
        clipped += bool(nn.utils.clip_grad_norm_(plain.parameters(), 0.7) > 0.7)
        optimizer.step()
    assert clipped > 0
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-5, atol=1e-6)


def test_the_learning_rate_rises_and_falls():
    factors = [loop._schedule(i / 1000, 0.1) for i in range(1000)]
    assert 0 < factors[0] < 0.02
    assert max(factors) == pytest.approx(1.0, abs=1e-3)
    assert factors.index(max(factors)) == 100
    assert all(a < b for a, b in pairwise(factors[:100]))
    assert all(a > b for a, b in pairwise(factors[100:]))
    assert 0 < factors[-1] < 1e-3
    assert loop._schedule(0.0, 0.0) == 1.0


def test_fit_lowers_the_loss():
    model = sasrec()
    batches = sequences()
    result = fit(model, batches, NextItemLoss(), FitConfig(epochs=15, lr=2e-2), progress=False)
    losses = [entry["loss"] for entry in result.log]
    assert losses[0] > 1.0  # ln 5 = 1.6 is the loss of knowing nothing
    assert losses[-1] < 0.5 * losses[0]
    assert not model.training
    targets = int((batches.log.lengths - 1).sum())
    assert [entry["targets"] for entry in result.log] == [targets] * 15
    assert result.best_epoch == 14  # without validation the last weights are kept
    assert result.seconds == pytest.approx(sum(entry["seconds"] for entry in result.log))
    assert result.targets_per_second == pytest.approx(15 * targets / result.seconds)


def test_the_loss_of_an_epoch_is_a_mean_over_targets():
    """With a learning rate of next to nothing: the loss at the start, over all batches together."""
    model = Line()
    with torch.no_grad():
        expected = sum(squared_error(model, batch)[0] for batch in regression()) / 11
    result = fit(model, Steps(*regression()), squared_error, FitConfig(epochs=1, lr=1e-12), progress=False)
    assert result.log[0]["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert result.log[0]["targets"] == 11


def test_seeds_decide_everything():
    def trained(config_seed=0, batch_seed=0):
        model = sasrec()
        fit(model, sequences(batch_seed), NextItemLoss(), replace(QUICK, seed=config_seed), progress=False)
        return weights(model)

    first = trained()
    torch.manual_seed(99)
    torch.rand(7)
    assert same_weights(first, trained())
    assert not same_weights(first, trained(config_seed=1))  # other dropout masks
    assert not same_weights(first, trained(batch_seed=1))


def test_dropout_differs_from_epoch_to_epoch():
    masks = []

    def loss(model, batch):
        masks.append(model.drop(torch.ones(50)))
        return (model.weight * masks[-1]).sum(), 1

    model = nn.Module()
    model.drop, model.weight = nn.Dropout(0.5), nn.Parameter(torch.ones(()))
    fit(model, Steps(0, 0), loss, FitConfig(epochs=3), progress=False)
    assert len({tuple(mask.tolist()) for mask in masks}) == 6


def test_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    model, line = sasrec(), Line()
    torch.manual_seed(5)
    fit(model, sequences(), NextItemLoss(), QUICK, validate=lambda: float(torch.rand(())), progress=False)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(5)
    with pytest.raises(FloatingPointError):
        fit(line, Steps(*regression()), lambda m, b: (m.matrix.weight.sum() * math.nan, 1), progress=False)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("shown", [True, False])
def test_progress_bar(capsys, shown):
    fit(Line(), Steps(*regression()), squared_error, QUICK, validate=lambda: 0.25, progress=shown)
    bar = capsys.readouterr().err
    if shown:
        assert "4/4" in bar
        assert "loss" in bar
        assert "valid 0.25" in bar
    else:
        assert "4/4" not in bar


# ----------------------------------------------------------------------------------------------------- early stopping


class Script:
    """A validation that reads its values from a list and keeps the weights it saw."""

    def __init__(self, model, values):
        self.model, self.values, self.seen = model, values, []

    def __call__(self):
        assert not self.model.training
        assert not torch.is_grad_enabled()
        self.seen.append(weights(self.model))
        return self.values[len(self.seen) - 1]


@pytest.mark.parametrize(
    ("values", "patience", "epochs", "best"),
    [
        ([0.1, 0.5, 0.4, 0.3, 0.9], 2, 4, 1),  # stops before the .9
        ([0.1, 0.5, 0.4, 0.6, 0.3], 2, 5, 3),
        ([0.5, 0.5, 0.5, 0.5, 0.5], 3, 4, 0),  # no better is not better
        ([0.1, 0.5, 0.4, 0.3, 0.2], None, 5, 1),  # never stops early, keeps the best all the same
        ([-math.inf, -3.0, -2.0, -4.0, -5.0], 1, 4, 2),
    ],
)
def test_early_stopping_restores_the_best_weights(values, patience, epochs, best):
    model = Line()
    script = Script(model, values)
    config = FitConfig(epochs=5, lr=0.05, patience=patience)
    result = fit(model, Steps(*regression()), squared_error, config, validate=script, progress=False)
    assert len(result.log) == len(script.seen) == epochs
    assert [entry["valid"] for entry in result.log] == values[:epochs]
    assert result.best_epoch == best
    assert same_weights(weights(model), script.seen[best])
    assert not any(same_weights(script.seen[best], seen) for i, seen in enumerate(script.seen) if i != best)


# ---------------------------------------------------------------------------------------------- checkpoints and kills

RESUME = FitConfig(epochs=5, lr=1e-2, patience=4)
VALID = [0.1, 0.3, 0.2, 0.25, 0.15]  # best in the second epoch


def valid_by_epoch(checkpoint):
    """Validation values of the remaining epochs: a resumed run goes on in the list."""

    def read():
        with safe_open(checkpoint, framework="pt") as file:
            return len(json.loads(file.metadata()["fit"])["log"])

    values = iter(VALID[read() if Path(checkpoint).exists() else 0 :])
    return lambda: next(values)


def uninterrupted(tmp_path):
    model, path = sasrec(), tmp_path / "whole.safetensors"
    result = fit(
        model, sequences(), NextItemLoss(), RESUME, validate=valid_by_epoch(path), checkpoint=path, progress=False
    )
    return model, result


def resumed(path):
    model = sasrec(seed=1)  # other weights to begin with: all must come from the file
    result = fit(
        model, sequences(), NextItemLoss(), RESUME, validate=valid_by_epoch(path), checkpoint=path, progress=False
    )
    return model, result


def last_weights(path):
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def assert_same_run(path, tmp_path):
    """The run in `path`, resumed, ends with the weights, bit for bit, that it would have without the interruption."""
    whole, expected = uninterrupted(tmp_path)
    model, result = resumed(path)
    assert same_weights(weights(model), weights(whole))
    assert result.best_epoch == expected.best_epoch == 1
    for ours, theirs in zip(result.log, expected.log, strict=True):
        assert [ours[key] for key in ("loss", "targets", "valid")] == [
            theirs[key] for key in ("loss", "targets", "valid")
        ]
    # The last weights and the optimizer's state too, not only the best weights.
    assert same_weights(last_weights(path), last_weights(tmp_path / "whole.safetensors"))


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
import test_loop as t

class Killed:
    def __init__(self, batches):
        self.batches = batches
    def steps(self, epoch):
        return self.batches.steps(epoch)
    def epoch(self, epoch, rank=0, world_size=1):
        for step, batch in enumerate(self.batches.epoch(epoch, rank, world_size)):
            if (epoch, step) == (3, 1):
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

path = sys.argv[1]
t.fit(t.sasrec(), Killed(t.sequences()), t.NextItemLoss(), t.RESUME, validate=t.valid_by_epoch(path), checkpoint=path)
"""


@pytest.mark.slow
def test_a_killed_training_resumes_exactly(tmp_path):
    path, here = tmp_path / "run.safetensors", Path(__file__)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, path, here.parent, here.parents[2]],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["fit"])
    assert (about["epoch"], about["best_epoch"]) == (3, 1)
    assert_same_run(path, tmp_path)


class Interrupted(Steps):
    def __init__(self, batches, at):
        self.inner, self.at = batches, at

    def steps(self, epoch):
        return self.inner.steps(epoch)

    def epoch(self, epoch, rank=0, world_size=1):
        for step, batch in enumerate(self.inner.epoch(epoch, rank, world_size)):
            if (epoch, step) == self.at:
                raise KeyboardInterrupt
            yield batch


@pytest.mark.parametrize("at", [(1, 0), (4, 2)])
def test_an_interrupted_training_resumes_exactly(tmp_path, at):
    path, model = tmp_path / "run.safetensors", sasrec()
    with pytest.raises(KeyboardInterrupt):
        fit(
            model,
            Interrupted(sequences(), at),
            NextItemLoss(),
            RESUME,
            validate=valid_by_epoch(path),
            checkpoint=path,
            progress=False,
        )
    assert_same_run(path, tmp_path)


def test_an_interrupt_before_the_first_checkpoint_leaves_nothing(tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(sasrec(), Interrupted(sequences(), (0, 1)), NextItemLoss(), QUICK, checkpoint=path, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_saving_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path, replaced = tmp_path / "run.safetensors", os.replace
    calls = []

    def torn(source, target):
        calls.append(source)
        if len(calls) == 3:
            Path(source).write_bytes(Path(source).read_bytes()[:100])  # half a file
            raise KeyboardInterrupt
        replaced(source, target)

    monkeypatch.setattr(loop.os, "replace", torn)
    with pytest.raises(KeyboardInterrupt):
        fit(
            sasrec(),
            sequences(),
            NextItemLoss(),
            RESUME,
            validate=valid_by_epoch(path),
            checkpoint=path,
            progress=False,
        )
    monkeypatch.undo()
    assert_same_run(path, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.safetensors", "whole.safetensors"]


def test_checkpoints_of_like_names_do_not_mix(tmp_path, monkeypatch):
    parts, save = [], save_file
    monkeypatch.setattr(
        loop, "save_file", lambda tensors, path, about: (parts.append(path), save(tensors, path, about))
    )
    for name in ("lr-0.1", "lr-0.2"):
        fit(
            Line(), Steps(*regression()), squared_error, FitConfig(epochs=1), checkpoint=tmp_path / name, progress=False
        )
    assert len(set(parts)) == 2


@pytest.mark.parametrize(
    ("config", "values"), [(QUICK, [0.1, 0.4, 0.2, 0.3]), (replace(QUICK, patience=1), [0.4, 0.1]), (QUICK, None)]
)
def test_a_finished_training_returns_at_once(tmp_path, config, values):
    path, model, batches = tmp_path / "run.safetensors", Line(), Steps(*regression())
    script = None if values is None else Script(model, values)
    first = fit(model, batches, squared_error, config, validate=script, checkpoint=path, progress=False)
    assert len(first.log) == len(batches.asked) == (len(values) if values else 4)

    again, untouched = Line(), Steps()
    nn.init.zeros_(again.matrix.weight)
    script = None if values is None else Script(again, [])  # would fail if it were called
    result = fit(again, untouched, squared_error, config, validate=script, checkpoint=path, progress=False)
    assert untouched.asked == []
    assert result == first
    assert same_weights(weights(again), weights(model))


def test_a_checkpoint_makes_its_folder(tmp_path):
    path = tmp_path / "a" / "b" / "run.safetensors"
    fit(Line(), Steps(*regression()), squared_error, FitConfig(epochs=1), checkpoint=str(path), progress=False)
    assert path.exists()


def test_validation_may_be_dropped_or_added_on_resume(tmp_path):
    """Without validation the last weights count, whatever was best before."""
    path, config = tmp_path / "run.safetensors", FitConfig(epochs=4, lr=0.05)
    stop = Interrupted(Steps(*regression()), (2, 0))
    with pytest.raises(KeyboardInterrupt):
        fit(Line(), stop, squared_error, config, validate=lambda: 0.5, checkpoint=path, progress=False)
    model, plain = Line(), Line()
    result = fit(model, Steps(*regression()), squared_error, config, checkpoint=path, progress=False)
    fit(plain, Steps(*regression()), squared_error, config, progress=False)
    assert result.best_epoch == 3
    assert same_weights(weights(model), weights(plain))

    path.unlink()
    with pytest.raises(KeyboardInterrupt):
        fit(Line(), stop, squared_error, config, checkpoint=path, progress=False)
    script = Script(model, [0.5, 0.4])
    result = fit(model, Steps(*regression()), squared_error, config, validate=script, checkpoint=path, progress=False)
    assert result.best_epoch == 2
    assert same_weights(weights(model), script.seen[0])


def test_checkpoints_that_do_not_fit(tmp_path):
    path = tmp_path / "run.safetensors"

    def go(model=None, config=QUICK):
        fit(model or sasrec(), sequences(), NextItemLoss(), config, checkpoint=path, progress=False)

    go()
    content = path.read_bytes()
    for other in (replace(QUICK, epochs=5), replace(QUICK, lr=0.1), replace(QUICK, seed=1)):
        with pytest.raises(ValueError, match=r"checkpoint: .*run.safetensors was written with another configuration"):
            go(config=other)
    for model in (sasrec(dim=4), HSTU(5, HSTUConfig(dim=8, max_len=5))):
        before = weights(model)
        with pytest.raises(
            ValueError, match=r"checkpoint: .* holds the weights of another model \(.* there, .* here\)"
        ):
            go(model)
        assert same_weights(before, weights(model))  # nothing half-loaded
    assert path.read_bytes() == content

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"checkpoint: .* was written with another configuration"):
        go()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"checkpoint: .* cannot be read .* delete it to start anew"):
        go()


# ------------------------------------------------------------------------------------------------- what can go wrong


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_loss_stops_training(bad):
    model = Line()
    seen = []

    def loss(model, batch):
        value, n = squared_error(model, batch)
        seen.append(weights(model))
        return value * (bad if len(seen) == 5 else 1), n

    with pytest.raises(FloatingPointError, match=r"in epoch 1, step 1 the loss is (nan|inf).*lower lr"):
        fit(model, Steps(*regression()), loss, QUICK, progress=False)
    assert same_weights(weights(model), seen[-1])  # the broken step was not taken


def test_a_broken_gradient_stops_training(tmp_path):
    """√0 is finite, its derivative is not: the loss alone would not show it before the weights are gone."""
    path = tmp_path / "run.safetensors"

    def loss(model, batch):
        return (model.weight * 0).abs().sqrt().sum(), 1

    model = nn.Linear(2, 2)
    before = weights(model)
    with pytest.raises(FloatingPointError, match="the norm of its gradient nan"):
        fit(model, Steps(0), loss, FitConfig(epochs=1), checkpoint=path, progress=False)
    assert same_weights(before, weights(model))
    assert not path.exists()


def test_a_validation_of_nan():
    with pytest.raises(ValueError, match="validate: returned NaN after epoch 0"):
        fit(Line(), Steps(*regression()), squared_error, QUICK, validate=lambda: math.nan, progress=False)


def test_a_batch_without_targets():
    empty = tuple(part[:0] for part in regression()[0])
    with pytest.raises(ValueError, match="loss: no targets in epoch 0, step 1"):
        fit(Line(), Steps(regression()[0], empty), squared_error, QUICK, progress=False)


def test_patience_needs_validation():
    with pytest.raises(ValueError, match="patience: early stopping needs `validate`"):
        fit(Line(), Steps(*regression()), squared_error, FitConfig(patience=1), progress=False)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("epochs", 0),
        ("lr", 0.0),
        ("lr", math.nan),
        ("warmup", 1.0),
        ("warmup", -0.1),
        ("clip_norm", 0.0),
        ("patience", 0),
        ("precision", "16-mixed"),
    ],
)
def test_bad_configurations(argument, value):
    with pytest.raises(ValueError, match=f"{argument}: "):
        FitConfig(**{argument: value})


def test_half_precision_leaves_time_alone():
    """In bfloat16 all moments of a month are one; the loss gets the times as they are."""
    times = []

    def loss(model, batch):
        times.append(batch.time)
        return NextItemLoss()(model, batch)

    torch.manual_seed(0)
    model = HSTU(5, HSTUConfig(dim=8, layers=1, max_len=5, time_bias=True))
    config = FitConfig(epochs=2, lr=1e-2, precision="bf16-mixed")
    result = fit(model, sequences(), loss, config, progress=False)
    assert {time.dtype for time in times} == {torch.float64}
    assert result.log[1]["loss"] < result.log[0]["loss"]
    assert model.items.weight.dtype == torch.float32
