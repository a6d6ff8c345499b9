"""Writes data/replay: logs of a few scripted runs of AD-Bench, and the front page of Inspect's viewer for them.

    python book/replay.py

`make book` puts them beside the viewer itself, which comes with the pinned version of inspect-ai. Run this again
whenever that version or the benchmark changes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from inspect_ai import eval as evaluate
from inspect_ai.log import EvalLog, bundle_log_dir, read_eval_log, write_eval_log

from reclib.agents.adbench import adbench
from reclib.agents.analyst import Dials
from reclib.agents.task_sets import tasks

FOLDER = Path(__file__).resolve().parents[1] / "data" / "replay"
RUNS = {"oracle": ("oracle", {}), "noisy": ("analyst", Dials.noisy(0.4).each()), "without-rules": ("without_rules", {})}
EVERY = 9  # of the hundred tasks, from the easiest to the hardest


def write(folder: Path = FOLDER) -> None:
    """Run, log, bundle; all of the viewer but its assets is kept."""
    some = [task.id for task in tasks(0)][::EVERY]
    with tempfile.TemporaryDirectory() as temporary:
        logs = Path(temporary) / "logs"
        for name, (manner, dials) in RUNS.items():
            (log,) = evaluate(
                adbench(seed=0, runs=1), model=f"scripted/{manner}", model_args={"seed": 0, **dials},
                model_roles={"grader": "scripted_judge/facts"}, sample_id=some, log_dir=f"{temporary}/raw",
                log_realtime=False, display="none",
            )  # fmt: skip
            write_eval_log(_public(read_eval_log(log.location)), str(logs / f"{name}.eval"))
        bundle_log_dir(str(logs), f"{temporary}/bundle")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(f"{temporary}/bundle", folder, ignore=shutil.ignore_patterns("assets"))
    page = folder / "index.html"
    page.write_text(page.read_text().replace(json.dumps(str(logs)), '"logs"'))


def _public(log: EvalLog) -> EvalLog:
    """Without the state of somebody's checkout."""
    log.eval.revision = None
    return log


if __name__ == "__main__":
    write()
