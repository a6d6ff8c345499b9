"""Runs the benchmark in a temporary folder, off the screen."""

import tempfile

from inspect_ai import eval as run
from inspect_ai.model import get_model

from reclib.agents import adbench


def evaluate(model, ids=None, model_args=None, expect="success", **bench):
    """The log of one evaluation of `adbench(**bench)`, with its samples."""
    (log,) = run(
        adbench(**bench),
        model=get_model(model, memoize=False, **(model_args or {})) if isinstance(model, str) else model,
        model_roles={"grader": get_model("scripted_judge/facts")},
        sample_id=ids,
        log_dir=tempfile.mkdtemp(),
        log_realtime=False,
        display="none",
        fail_on_error=False,
    )
    assert log.status == expect, log.error and log.error.traceback
    return log


def metrics(log, score, reducer):
    """Metric name → value of one score under one reducer."""
    (found,) = [each for each in log.results.scores if each.name == score and each.reducer == reducer]
    return {name: metric.value for name, metric in found.metrics.items()}


def diagnoses(log):
    """(sample, run) → what the benchmark says of it."""
    found = {}
    for sample in log.samples:
        about = sample.scores["answer"].metadata
        found[sample.id, sample.epoch] = f"{about['code']} {about['detail']}".strip()
    return found
