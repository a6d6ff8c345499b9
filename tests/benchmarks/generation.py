"""Constrained beam search: `reclib` beside Hugging Face's `generate` with `prefix_allowed_tokens_fn`.

Same GPT-2 weights, same histories, same beam, same batch, each side in a process of its own; the lists have to agree
before the times count. And ours alone against the limit that the book sets itself.
"""

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from reclib.generation import DecoderOnly, DecoderOnlyConfig
from reclib.tokenizers import SemanticIds
from tests.benchmarks import peers
from tests.benchmarks.comparison import Comparison

HERE = Path(__file__).parent
ITEMS, LEVELS, CODES = 12_101, 3, 256  # as many items as Amazon Beauty
LIMIT = 600  # seconds until a side that hangs is given up


def problem(folder: Path, users: int, items: int) -> None:
    """Write weights, semantic IDs and histories for both sides to read."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, CODES, (ITEMS, LEVELS), generator=generator)
    ids = SemanticIds.from_codes(codes, (CODES,) * LEVELS)
    torch.manual_seed(0)
    model = DecoderOnly(ids, DecoderOnlyConfig())
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)  # away from uniform, so that lists are decided
    history = torch.randint(1, ITEMS + 1, (users, items), generator=generator)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    save_file({"codes": ids.codes, "tokens": ids.tokens, "history": history}, folder / "ids.safetensors")
    about = {"heads": model.config.heads, "layers": model.config.layers, "dim": model.config.dim, "codes": CODES}
    (folder / "about.json").write_text(json.dumps(about))


def measure(executable: Path | str, script: str, folder: Path, beam: int, threads: int) -> dict[str, object]:
    """Seconds for the batch, and the first user's lists."""
    command = [str(executable), str(HERE / script), str(folder), str(beam), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        raise RuntimeError(f"{script} failed: {done.stderr.strip()[-600:]}")
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    print(f"    {script}: {result['seconds']:.3f} s", flush=True)
    return result


def compare(
    name: str, users: int, items: int, beam: int, target: float | None, *, threads: int, seconds: float, rounds: int
) -> Comparison:
    """Both sides in turns; the best round of each."""
    sides = {"beam_ours.py": sys.executable, "peer_transformers.py": peers.python()}
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        problem(folder, users, items)
        found = {script: [measure(executable, script, folder, beam, threads)] for script, executable in sides.items()}
        ours, theirs = (np.array(results[0]["log_probs"]) for results in found.values())
        if not np.allclose(ours, theirs, atol=1e-3):
            raise RuntimeError(f"the lists differ by up to {np.abs(ours - theirs).max():.2g} in log-probability")
        for _ in range(rounds - 1):
            for script, executable in sides.items():
                found[script].append(measure(executable, script, folder, beam, threads))
    best = [users / min(float(str(r["seconds"])) for r in results) for results in found.values()]
    return Comparison(name, best[0], best[1], "transformers.generate", "users/s", target)


def alone(name: str, users: int, items: int, beam: int, *, threads: int, seconds: float, rounds: int) -> Comparison:
    """One batch against a second."""
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        problem(folder, users, items)
        times = [measure(sys.executable, "beam_ours.py", folder, beam, threads)["seconds"] for _ in range(rounds)]
    return Comparison(name, min(float(str(t)) for t in times), 1.0, "limit", "s", 1.0, more_is_better=False)


BENCHMARKS = {
    # The larger the batch, the larger the ratio. 64 users were measured first and stay beside the batch with the limit.
    "beam-search-transformers": partial(compare, users=256, items=10, beam=20, target=20.0),
    "beam-search-transformers-64-users": partial(compare, users=64, items=10, beam=20, target=None),
    "beam-search-256-users": partial(alone, users=256, items=20, beam=20),
}
