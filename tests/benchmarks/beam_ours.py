"""Beam search of `reclib` on the problem in a folder. Prints one JSON line."""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from reclib.generation import DecoderOnly, DecoderOnlyConfig, SemanticIdTrie, beam_search
from reclib.tokenizers import SemanticIds


def main() -> None:
    folder, beam, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    about = json.loads((folder / "about.json").read_text())
    data = load_file(folder / "ids.safetensors")
    ids = SemanticIds(data["codes"], (about["codes"],) * data["codes"].shape[1])
    model = DecoderOnly(ids, DecoderOnlyConfig(about["dim"], about["layers"], about["heads"]))
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    model.eval()
    trie = SemanticIdTrie(ids)
    beam_search(model, trie, data["history"][:8], beam)  # warm-up
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        found = beam_search(model, trie, data["history"], beam)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": min(seconds), "log_probs": found.log_prob[:4].tolist()}))


if __name__ == "__main__":
    main()
