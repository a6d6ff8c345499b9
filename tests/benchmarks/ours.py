"""Training throughput of `reclib`'s SASRec by `reclib.training.fit`. Prints one JSON line."""

import itertools

import arguments
import numpy as np
import pandas as pd
import torch

from reclib.backbones import NextItemLoss, SASRec, SASRecConfig
from reclib.data import Interactions
from reclib.training import FitConfig, SequenceBatches, fit


class Timed:
    """Epoch after epoch as one, until the stopwatch says enough."""

    def __init__(self, batches, watch):
        self.batches, self.watch = batches, watch

    def epoch(self, epoch, rank=0, world_size=1):
        for batch in itertools.chain.from_iterable(map(self.batches.epoch, itertools.count())):
            yield batch
            if self.watch.done(int((batch.target > 0).sum())):
                return

    def steps(self, epoch):
        return 10**6  # only the learning rate depends on it


def main():
    args = arguments.parse()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    log = np.load(args.log)
    user = np.unique(log["user"], return_inverse=True)[1].astype(np.int64)
    n_items = int(log["item"].max())
    items = pd.DataFrame(index=pd.RangeIndex(1, n_items + 1, name="item_id"))
    train = Interactions(user, log["item"].astype(np.int64), None, n_items, items)
    model = SASRec(n_items, SASRecConfig(args.dim, args.layers, args.heads, args.dropout, args.max_len))
    watch = arguments.Stopwatch(args.warmup, args.seconds)
    batches = Timed(SequenceBatches(train, max_len=args.max_len, batch_size=args.batch), watch)
    fit(model, batches, NextItemLoss(), FitConfig(epochs=1), progress=False)
    watch.report()


if __name__ == "__main__":
    main()
