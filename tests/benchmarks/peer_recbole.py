"""Training throughput of RecBole's SASRec, in its own environment. Prints one JSON line.

RecBole turns every prefix of a history into a padded sequence of its own with one target. Only the training steps of
its own `Trainer` are timed, not this expansion.
"""

import itertools
import logging
import sys
import warnings
from pathlib import Path

import arguments
import numpy as np
import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.sequential_recommender import SASRec
from recbole.trainer import Trainer
from recbole.utils import init_seed


def timed(loader, watch):
    """Epoch after epoch as one, until the stopwatch says enough."""
    for batch in itertools.chain.from_iterable(itertools.repeat(loader)):
        yield batch
        if watch.done(len(batch)):
            return


def main():
    args = arguments.parse()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    folder = Path(args.log).parent / "recbole"
    folder.mkdir(exist_ok=True)
    log = np.load(args.log)
    frame = pd.DataFrame({"user_id:token": log["user"], "item_id:token": log["item"]})
    frame["timestamp:float"] = np.arange(len(frame), dtype=float)
    frame.to_csv(folder / "recbole.inter", sep="\t", index=False)
    config = Config(
        model="SASRec",
        dataset="recbole",
        config_dict={
            "data_path": str(folder.parent),
            "checkpoint_dir": str(folder),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "hidden_size": args.dim,
            "inner_size": args.dim,
            "n_layers": args.layers,
            "n_heads": args.heads,
            "hidden_dropout_prob": args.dropout,
            "attn_dropout_prob": args.dropout,
            "hidden_act": "relu",
            "MAX_ITEM_LIST_LENGTH": args.max_len,
            "loss_type": "CE",
            "train_neg_sample_args": None,
            "train_batch_size": args.batch,
            "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "TO", "group_by": "user", "mode": "full"},
            "use_gpu": False,
            "show_progress": False,
            "state": "ERROR",
        },
    )
    init_seed(0, True)
    logging.disable(logging.CRITICAL)
    loader, _, _ = data_preparation(config, create_dataset(config))
    watch = arguments.Stopwatch(args.warmup, args.seconds)
    Trainer(config, SASRec(config, loader.dataset))._train_epoch(timed(loader, watch), 0)
    watch.report()


if __name__ == "__main__":
    main()
