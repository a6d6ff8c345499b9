"""`python -m tests.benchmarks`: speed and memory beside other libraries, written to data/results/benchmarks.json.

Every comparison is a ratio of two measurements taken in turns on the same machine, on the same data, with the same
sizes and threads; of several rounds the best of each side counts, because other programs can only slow a run down.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from reclib.experiments.results import results_root
from tests.benchmarks import generation, memory, quantization, ranking, training, world
from tests.benchmarks.comparison import Comparison

BENCHMARKS = {
    **training.BENCHMARKS,
    **ranking.BENCHMARKS,
    **world.BENCHMARKS,
    **generation.BENCHMARKS,
    **quantization.BENCHMARKS,
    **memory.BENCHMARKS,
}


def machine() -> str:
    """Cores and processor."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].partition(":")[2].strip() if lines else cpu
    return f"{os.cpu_count()} cores, {cpu}"


def write(path: Path, found: list[Comparison], threads: int) -> None:
    """Replace the entries of the same name, keep the others."""
    old = json.loads(path.read_text()) if path.exists() else []
    about = f"{machine()}, {threads} thread{'s' if threads > 1 else ''}"
    new = [{**c.row(), "machine": about} for c in found]
    kept = [row for row in old if row["name"] not in {c.name for c in found} and row["name"] in BENCHMARKS]
    rows = sorted(kept + new, key=lambda row: list(BENCHMARKS).index(row["name"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=f"of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for every side [all cores]")
    parser.add_argument("--seconds", type=float, default=8.0, help="of training that a measurement lasts [8]")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each side, in turns [2]")
    args = parser.parse_args()
    out = results_root() / "benchmarks.json"
    failed = []
    for name in args.only or BENCHMARKS:
        print(f"==> {name}", flush=True)
        try:
            found = BENCHMARKS[name](name, threads=args.threads, seconds=args.seconds, rounds=args.rounds)
        except (ValueError, RuntimeError, subprocess.TimeoutExpired) as error:  # no data, no peer, no end: go on
            failed.append(f"{name} was not measured: {error}")
            print(f"    {failed[-1]}", flush=True)
            continue
        print(f"    {found}", flush=True)
        if found.target is not None and found.ratio < found.target:
            failed.append(f"{name}: ratio {found.ratio:.2f} is below {found.target:g}")
        write(out, [found], args.threads)
    print(f"==> {out}")
    for line in failed:
        print(f"    {line}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
