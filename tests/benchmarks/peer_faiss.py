"""faiss' residual quantiser on the vectors in a file. Prints one JSON line."""

import json
import sys
import time

import faiss
import numpy as np


def main() -> None:
    items, levels, bits = np.load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    faiss.omp_set_num_threads(int(sys.argv[4]))
    quantizer = faiss.ResidualQuantizer(items.shape[1], levels, bits)
    quantizer.max_beam_size = 1
    start = time.perf_counter()
    quantizer.train(items)
    seconds = time.perf_counter() - start
    left = np.square(items - quantizer.decode(quantizer.compute_codes(items))).sum()
    print(json.dumps({"seconds": seconds, "error": float(left / np.square(items - items.mean(0)).sum())}))


if __name__ == "__main__":
    main()
