"""What every side of a training benchmark shares: its command line and its stopwatch. Needs nothing but Python."""

import argparse
import json
import time


def parse() -> argparse.Namespace:
    """Sizes and limits; the log is an .npz with `user` and `item`, events sorted by user, oldest first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("log")
    for name in ("dim", "layers", "heads", "max_len", "batch", "warmup", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("dropout", "seconds"):
        parser.add_argument(f"--{name}", type=float, required=True)
    return parser.parse_args()


class Stopwatch:
    """Starts after the warm-up batches, stops when the time is over at the end of a batch."""

    def __init__(self, warmup: int, seconds: float) -> None:
        self.left, self.limit = warmup, seconds
        self.targets, self.start, self.seconds, self.cpu = 0, 0.0, 0.0, 0.0

    def done(self, targets: int) -> bool:
        """Call after each batch with the number of its targets."""
        now = time.perf_counter()
        if self.left > 0:
            self.left -= 1
            self.start, self.cpu_start = now, time.process_time()
            return False
        self.targets, self.seconds = self.targets + targets, now - self.start
        self.cpu = time.process_time() - self.cpu_start  # far less than seconds x threads: the machine is busy
        return self.seconds >= self.limit

    def report(self) -> None:
        """Print the result as the last line."""
        print(json.dumps({"targets": self.targets, "seconds": self.seconds, "cpu": self.cpu}))
