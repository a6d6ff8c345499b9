"""Training throughput of RecTools' SASRec, in its own environment. Prints one JSON line.

Its public path is used: `SASRecModel.fit` with a Lightning trainer that only lacks logger, bar and checkpoints.
"""

import logging
import warnings

import arguments
import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel


class TimeIsOver(Exception):
    """Leaves Lightning's loop."""


class Timer(Callback):
    """Feeds the stopwatch, which it does not own: RecTools deep-copies its trainer."""

    watch: arguments.Stopwatch

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if Timer.watch.done(int((batch["y"] != 0).sum())):
            raise TimeIsOver


def trainer():
    return Trainer(
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Timer()],
    )


def main():
    args = arguments.parse()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.CRITICAL)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    log = np.load(args.log)
    frame = pd.DataFrame({Columns.User: log["user"], Columns.Item: log["item"], Columns.Weight: 1.0})
    frame[Columns.Datetime] = pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(len(frame)), unit="s")
    model = SASRecModel(
        n_blocks=args.layers,
        n_heads=args.heads,
        n_factors=args.dim,
        dropout_rate=args.dropout,
        session_max_len=args.max_len,
        loss="softmax",
        batch_size=args.batch,
        get_trainer_func=trainer,
    )
    Timer.watch = arguments.Stopwatch(args.warmup, args.seconds)
    try:
        model.fit(Dataset.construct(frame))
    except TimeIsOver:
        Timer.watch.report()


if __name__ == "__main__":
    main()
