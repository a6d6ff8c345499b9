"""`RQKMeans` of `reclib` on the vectors in a file. Prints one JSON line."""

import json
import sys
import time

import numpy as np
import torch

from reclib.tokenizers import RQKMeans, RQKMeansConfig


def main() -> None:
    items, levels, bits = torch.from_numpy(np.load(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(int(sys.argv[4]))
    start = time.perf_counter()
    model = RQKMeans(RQKMeansConfig(levels, 2**bits)).fit(items)
    seconds = time.perf_counter() - start
    left = (items - model.decode(model.codes_of(items))).square().sum()
    print(json.dumps({"seconds": seconds, "error": float(left / (items - items.mean(0)).square().sum())}))


if __name__ == "__main__":
    main()
