"""The ad world: seconds and memory to build and simulate a preset, beside the limits the book sets itself."""

import json
import subprocess
import sys
from functools import cache, partial

from tests.benchmarks.comparison import Comparison

CODE = """
import json, resource, sys, time
from reclib.world import AdWorld, AdWorldConfig
start = time.perf_counter()
log = AdWorld(AdWorldConfig.preset(sys.argv[1])).simulate()
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"seconds": seconds, "GiB": peak / 2**30, "events": len(log)}))
"""


def compare(
    name: str, preset: str, unit: str, limit: float, *, threads: int, seconds: float, rounds: int
) -> Comparison:
    """The best of all rounds."""
    return Comparison(
        name, min(f[unit] for f in simulate(preset, rounds)), limit, "limit", unit, 1.0, more_is_better=False
    )


@cache
def simulate(preset: str, rounds: int) -> list[dict[str, float]]:
    """Seconds and memory of each round, in a fresh process; once for all benchmarks of a preset."""
    found = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", CODE, preset], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the world failed: {done.stderr.strip()[-600:]}")
        found.append(json.loads(done.stdout))
        print("    {events} events, {seconds:.1f} s, {GiB:.2f} GiB".format(**found[-1]), flush=True)
    return found


BENCHMARKS = {
    "world-book-seconds": partial(compare, preset="book", unit="seconds", limit=5.0),
    "world-large-seconds": partial(compare, preset="large", unit="seconds", limit=60.0),
    "world-large-memory": partial(compare, preset="large", unit="GiB", limit=2.0),
}
