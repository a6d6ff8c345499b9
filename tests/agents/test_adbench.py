"""The benchmark through Inspect, with analysts whose results are known."""

import datetime as dt
import json
from collections import Counter
from pathlib import Path

import anyio
import numpy as np
import pytest
from inspect_ai import list_tasks
from inspect_ai.log import read_eval_log
from inspect_ai.model import ChatMessageAssistant, ModelOutput, get_model, modelapi
from inspect_ai.tool import ToolDef

import reclib
from reclib.agents import AdAnalyticsTools, ScriptedAnalyst, adbench, pass_at_k, pass_hat_k
from reclib.agents.adbench import executed_calls, inspect_tools
from reclib.agents.analyst import DIAGNOSES
from reclib.agents.task_sets import ground_truth, tasks
from reclib.agents.tools import TOOLS
from tests.agents.harness import diagnoses, evaluate, metrics

pytestmark = pytest.mark.slow


def some(*categories):
    """The first task of each category."""
    return [next(task.id for task in tasks(0) if task.category == category) for category in categories]


VARIED = some(
    "total", "top_ad", "overall_ratio", "growth", "big_spenders", "budget_use", "capped_users", "golden_peak",
    "twin_ads", "learning_phase",
)  # fmt: skip


# ------------------------------------------------------------------ tools


def test_the_tools_describe_themselves_to_a_model(tools):
    definitions = {each.name: each for each in inspect_tools(tools)}
    assert tuple(definitions) == TOOLS
    report = definitions["get_account_report"]
    assert isinstance(report, ToolDef)
    assert report.parallel
    assert report.description.startswith("Sums of metrics over whole days")
    properties = report.parameters.model_dump(exclude_none=True)["properties"]
    assert properties["metrics"]["items"]["enum"] == ["spend", "impressions", "clicks", "conversions", "conv_value"]
    assert report.parameters.required == ["start", "end", "metrics"]
    assert all(
        each.description for definition in definitions.values() for each in definition.parameters.properties.values()
    )


def test_whatever_goes_wrong_inside_a_tool_is_a_tool_error(tools):
    async def call(name, **arguments):
        return await next(each for each in inspect_tools(tools) if each.name == name).tool(**arguments)

    assert json.loads(anyio.run(lambda: call("calculator", expression="1 + 1"))) == {"value": 2.0}
    with pytest.raises(Exception, match="expression: ") as refused:
        anyio.run(lambda: call("calculator", expression="x"))
    assert type(refused.value).__name__ == "ToolError"


class Broken(AdAnalyticsTools):
    """Fails inside, for no fault of the caller."""

    def resolve_date(self, expression: str) -> dict[str, str]:
        """Fail.

        Args:
            expression: anything.
        """
        raise RuntimeError("a secret of the database")


def test_a_tool_that_breaks_tells_no_secrets(environment):
    async def call():
        return await inspect_tools(Broken(environment))[0].tool(expression="yesterday")

    with pytest.raises(Exception, match=r"resolve_date failed \(RuntimeError\)") as refused:
        anyio.run(call)
    assert "secret" not in str(refused.value)


# ------------------------------------------------------------------ known agents


@pytest.fixture(scope="module")
def oracle():
    return evaluate("scripted/oracle", ids=VARIED)


def test_the_oracle_is_right_every_time(oracle):
    assert len(oracle.samples) == 3 * len(VARIED)
    for reducer in ("mean", "pass_at_1", "pass_at_3", "pass_k_3"):
        found = metrics(oracle, "answer", reducer)
        assert {found[name] for name in ("L1", "L2", "L3", "all", "mean")} == {1.0}
        for rule in ("multiset", "ordered", "result", "precision"):
            assert set(metrics(oracle, rule, reducer).values()) == {1.0}
    assert set(diagnoses(oracle).values()) == {"ok"}


def test_parallel_calls_are_all_executed_and_all_in_the_trajectory(oracle):
    sample = next(sample for sample in oracle.samples if "growth" in sample.id)
    calls = executed_calls(sample.messages)
    assert [(call.tool, call.turn) for call in calls] == [
        ("resolve_date", calls[0].turn), ("resolve_date", calls[0].turn), ("get_account_report", calls[2].turn),
        ("get_account_report", calls[2].turn), ("calculator", calls[4].turn),
    ]  # fmt: skip
    assert calls[0].turn < calls[2].turn < calls[4].turn


def test_one_call_per_message_is_as_good():
    log = evaluate("scripted/sequential", ids=VARIED, runs=1)
    assert set(diagnoses(log).values()) == {"ok"}
    for sample in log.samples:
        assert all(len(m.tool_calls or []) == 1 for m in sample.messages if isinstance(m, ChatMessageAssistant))
        assert set(sample.scores["coverage"].value.values()) == {1.0}


def test_a_noisy_analyst_is_what_it_was_built_to_be():
    """Twenty tasks × 3 runs: the harness agrees with the raw log, each failure is diagnosed, p is within 3 errors."""
    p, ids = 0.7, [task.id for task in tasks(0)[::5]]
    log = evaluate("scripted/analyst", ids=ids, model_args=dict.fromkeys(DIAGNOSES, (1 - p) / 7))
    runs = {id: [] for id in ids}
    for sample in log.samples:
        runs[sample.id].append(sample.scores["answer"].value)
        about = sample.scores["answer"].metadata
        assert diagnoses(log)[sample.id, sample.epoch] == DIAGNOSES.get(about["designed"], "ok")
    n, c = np.array([len(r) for r in runs.values()]), np.array([sum(r) for r in runs.values()])
    assert (n == 3).all()
    assert metrics(log, "answer", "mean")["all"] == pytest.approx(pass_at_k(n, c, 1).mean())
    assert metrics(log, "answer", "pass_at_3")["all"] == pytest.approx(pass_at_k(n, c, 3).mean())
    assert metrics(log, "answer", "pass_k_3")["all"] == pytest.approx(pass_hat_k(n, c, 3).mean())
    for found, expected in (
        (pass_at_k(n, c, 1), p),
        (pass_at_k(n, c, 3), 1 - (1 - p) ** 3),
        (pass_hat_k(n, c, 3), p**3),
    ):
        assert abs(found.mean() - expected) < 3 * np.sqrt(expected * (1 - expected) / len(n))
    assert 0 < Counter(diagnoses(log).values())["ok"] < 60
    # The same seed gives the same runs, another one others.
    again = evaluate("scripted/analyst", ids=ids[:4], model_args=dict.fromkeys(DIAGNOSES, (1 - p) / 7))
    assert diagnoses(again).items() <= diagnoses(log).items()


def test_lucky_stale_and_looping():
    ids = some("total", "account_total")
    lucky = evaluate("scripted/lucky", ids=ids, runs=1)
    assert set(diagnoses(lucky).values()) == {"L"}
    assert metrics(lucky, "answer", "mean")["all"] == 1
    assert metrics(lucky, "multiset", "mean")["grouped_all"] == 0
    looping = evaluate("scripted/looping", ids=ids[:1], runs=1, messages=12)
    assert set(diagnoses(looping).values()) == {"E1"}
    assert looping.samples[0].limit.type == "message"


def test_answers_go_stale_and_replay_keeps_up():
    day = "2025-11-30"
    ids = [task.id for task in tasks(0) if task.moves == "daily"][:6]
    today, written = ground_truth(0, day), ground_truth(0, "2025-11-29")
    assert all(today[id][1] != written[id][1] for id in ids)
    stale = evaluate("scripted/stale", ids=ids, runs=1, as_of=day)
    assert set(diagnoses(stale).values()) == {"S"}
    oracle = evaluate("scripted/oracle", ids=ids, runs=1, as_of=day)
    assert set(diagnoses(oracle).values()) == {"ok"}


class Clumsy(ScriptedAnalyst):
    """Begins with three calls that fail, then does as the oracle."""

    async def generate(self, input, tools, tool_choice, config):
        if not any(isinstance(message, ChatMessageAssistant) for message in input):
            return self._calls(
                [("x", "no_such_tool", {}), ("y", "get_ad_detail", {"ad_id": 999_999}),
                 ("z", "get_account_report", {"start": "2025-11-01", "end": "2025-11-02", "metrics": ["sql"]})], 0
            )  # fmt: skip
        return await super().generate(input, tools, tool_choice, config)


@modelapi("clumsy")
def clumsy():
    return Clumsy


def test_errors_come_back_to_the_model_and_the_sample_goes_on():
    log = evaluate("clumsy/oracle", ids=some("total"), runs=1)
    sample = log.samples[0]
    assert sample.scores["answer"].value == 1
    assert sample.scores["answer"].metadata["errors"] == 3
    assert sample.scores["coverage"].value["multiset"] == 1
    assert sample.scores["coverage"].value["precision"] == pytest.approx(2 / 5)
    assert "there is no 999999" in " ".join(call.error or "" for call in executed_calls(sample.messages))


class Talker(ScriptedAnalyst):
    """Never calls a tool and says what may be the answer."""

    async def generate(self, input, tools, tool_choice, config):
        return ModelOutput.from_content("talker", "The answer is 42.")


@modelapi("talker")
def talker():
    return Talker


def test_what_is_said_without_submitting_is_no_answer():
    log = evaluate("talker/oracle", ids=some("total"), runs=1, messages=8)
    assert set(diagnoses(log).values()) == {"E1"}
    assert log.samples[0].scores["answer"].answer == ""


def test_the_log_can_be_read_again(oracle):
    log = read_eval_log(oracle.location)
    assert log.eval.task == "adbench"
    assert {sample.metadata["level"] for sample in log.samples} == {"L1", "L2", "L3"}
    assert log.eval.dataset.name == "adbench-0"


def test_a_hidden_set_has_its_own_seed_and_no_name():
    task = adbench(hidden="nobody will guess this", runs=1)
    assert task.dataset.name == "adbench-hidden"
    assert len(task.dataset) == 100
    assert len({sample.input for sample in task.dataset} & {task.query for task in tasks(0)}) < 50
    assert not {sample.target for sample in task.dataset} >= {sample.target for sample in adbench().dataset}


def test_a_date_may_be_a_date():
    """As the command line makes one of `-T as_of=2025-11-30`."""
    assert [sample.target for sample in adbench(as_of=dt.date(2025, 11, 30)).dataset] == [
        sample.target for sample in adbench(as_of="2025-11-30").dataset
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"as_of": "2025-11-01"}, "as_of: 2025-11-01 lies outside the period; choose a day from 2025-11-15"),
        ({"runs": 0}, "runs: must be at least 1"),
        ({"hidden": "short"}, "pass_phrase: 5 characters can be guessed"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        adbench(**arguments)


def test_inspect_finds_the_task_in_its_file():
    (found,) = list_tasks("adbench.py", root_dir=Path(reclib.__file__).parent / "agents")
    assert found.name == "adbench"
    assert get_model("scripted/oracle").name == "oracle"
