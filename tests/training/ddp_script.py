"""What test_ddp runs: small trainings, on as many processes as it is started with. Not a test itself.

Usage: fabric run ddp_script.py FOLDER

In double precision: some gradients (of the bias of attention's keys) are zero but for rounding, and Adam, which divides
by their size, would make different steps of different roundings.
"""

import json
import math
import os
import sys
from pathlib import Path

import torch
from test_loop import cycle_log

from reclib.backbones import HSTU, GRU4Rec, GRU4RecConfig, HSTUConfig, NextItemLoss, SASRec, SASRecConfig
from reclib.nn import losses
from reclib.training import FitConfig, SequenceBatches, fit

PRECISION = "64-true"


class OnRank:
    """Batches that say in which process they are and how many rows came there."""

    def __init__(self, batches):
        self.batches, self.rank, self.rows, self.targets = batches, 0, [], []

    def steps(self, epoch):
        return self.batches.steps(epoch)

    def epoch(self, epoch, rank=0, world_size=1):
        self.rank = rank
        for batch in self.batches.epoch(epoch, rank, world_size):
            self.rows.append(len(batch.history))
            self.targets.append(int((batch.target > 0).sum()))
            yield batch


def model_and_loss(name):
    torch.manual_seed(0)
    if name == "gru4rec":
        return GRU4Rec(5, GRU4RecConfig(dim=8, dropout=0.0, max_len=5)), losses.full_softmax
    if name == "sasrec":
        return SASRec(5, SASRecConfig(dim=8, layers=1, dropout=0.0, max_len=5)), losses.gbce
    config = HSTUConfig(dim=8, layers=1, heads=2, dropout=0.0, max_len=5, time_bias=True)
    return HSTU(5, config), losses.sampled_softmax


def main(folder):
    report = {}
    for name in ("gru4rec", "sasrec", "hstu"):
        model, kind = model_and_loss(name)
        # 24 users in windows of at most 5 targets. One row per batch: the second process gets none, ever. Five rows:
        # three and two.
        for batch_size in (1, 5):
            batches = OnRank(SequenceBatches(cycle_log(), max_len=5, batch_size=batch_size, negatives=3))
            config = FitConfig(epochs=2, lr=3e-3, weight_decay=0.01, precision=PRECISION)
            result = fit(model, batches, NextItemLoss(kind), config, progress=False)
            report[f"{name}/{batch_size}"] = {
                "log": [[entry["loss"], entry["targets"]] for entry in result.log],
                "rows": batches.rows,
                "targets": batches.targets,
            }
        if batches.rank == 0:
            torch.save(model.state_dict(), folder / f"{name}.pt")

    # Validation values that differ from process to process: the first one's count, so all stop in the same epoch.
    model, _ = model_and_loss("gru4rec")
    batches = OnRank(SequenceBatches(cycle_log(), max_len=5, batch_size=5))
    values = {0: [0.1, 0.3, 0.2, 0.1, 0.0], 1: [0.5, 0.4, 0.3, 0.2, 0.1]}
    calls = []

    def validate():
        calls.append(None)
        return values[batches.rank][len(calls) - 1]

    path = folder / "checkpoint.safetensors"
    config = FitConfig(epochs=5, patience=2, precision=PRECISION)
    result = fit(model, batches, NextItemLoss(), config, validate=validate, checkpoint=path, progress=False)
    report["stop"] = [len(result.log), result.best_epoch]
    # All have the weights of that epoch, and all read the finished checkpoint.
    again, _ = model_and_loss("gru4rec")
    fit(again, batches, NextItemLoss(), config, validate=validate, checkpoint=path, progress=False)
    report["resumed"] = all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))

    # The loss of one process breaks: all stop, nobody waits for the other.
    last = int(os.environ.get("WORLD_SIZE", "1")) - 1

    def breaks(model, batch):
        value, n = NextItemLoss()(model, batch)
        return value * (math.nan if batches.rank == last else 1.0), n

    try:
        fit(model, batches, breaks, FitConfig(epochs=1, precision=PRECISION), progress=False)
    except FloatingPointError as error:
        report["broken"] = str(error)
    (folder / f"report-{batches.rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
