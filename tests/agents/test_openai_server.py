"""A real client against a fake server: what any OpenAI-compatible endpoint may send, and what comes of it."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import tenacity
from inspect_ai import eval as inspect_eval
from inspect_ai import eval_retry
from inspect_ai.model import GenerateConfig, get_model

from reclib.agents import adbench, answers
from reclib.agents.adbench import executed_calls
from reclib.agents.task_sets import ground_truth, tasks
from reclib.world.database import DEFAULT_AS_OF
from tests.agents.harness import diagnoses, evaluate

pytest.importorskip("openai")
pytestmark = pytest.mark.slow

GROWTH = next(task for task in tasks(0) if task.category == "growth")
RATE_LIMITED, SILENT = object(), object()


def message(*calls, text=""):
    """An assistant's message; each call is (tool, arguments as text)."""
    return {
        "role": "assistant",
        "content": text,
        "tool_calls": [
            {"id": f"call_{i}_{tool}", "type": "function", "function": {"name": tool, "arguments": given}}
            for i, (tool, given) in enumerate(calls)
        ],
    }


@pytest.fixture
def serve():
    """Start a server that gives these replies, one a request; returns its address and the requests it got."""
    open_servers, released = [], threading.Event()

    def start(reply: Callable[[int, dict], object]):
        requests: list[dict] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                requests.append(body)
                found = reply(len(requests) - 1, body)
                if found is SILENT:
                    released.wait(30)
                    return
                limited = found is RATE_LIMITED
                answer = {"error": {"message": "slow down", "type": "rate_limit"}} if limited else {
                    "id": "x", "object": "chat.completion", "created": 0, "model": "fake",
                    "choices": [{"index": 0, "message": found, "finish_reason": "tool_calls"}],
                    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
                }  # fmt: skip
                data = json.dumps(answer).encode()
                self.send_response(429 if limited else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        open_servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1", requests

    yield start
    released.set()
    for server in open_servers:
        server.shutdown()
        server.server_close()


def client(address, **config):
    return get_model(
        "openai/fake", base_url=address, api_key="none", responses_api=False, memoize=False,
        config=GenerateConfig(**{"max_retries": 0, **config}),
    )  # fmt: skip


def expert(first=None):
    """Replies of an expert that knows the reference, wave by wave; `first` comes before them."""
    (references, truth) = ground_truth(0, DEFAULT_AS_OF)[GROWTH.id]
    steps = references[0]
    waves = [steps[:2], steps[2:4], steps[4:]]
    replies = [message(*((step.tool, json.dumps(step.arguments)) for step in wave)) for wave in waves]
    replies.append(message(("submit", json.dumps({"answer": answers.write(truth, GROWTH.answer)}))))
    return [*(first or []), *replies]


def in_turn(replies):
    return lambda i, body: replies[i]


def run(address, expect="success", **config):
    return evaluate(client(address, **config), ids=[GROWTH.id], runs=1, expect=expect)


def test_tool_calls_and_parallel_calls(serve):
    address, requests = serve(in_turn(expert()))
    log = run(address)
    assert set(diagnoses(log).values()) == {"ok"}
    assert len(requests) == 4
    assert {tool["function"]["name"] for tool in requests[0]["tools"]} >= {"resolve_date", "calculator", "submit"}
    replies = [m for m in requests[1]["messages"] if m["role"] == "tool"]
    assert len(replies) == 2  # both calls of the first message were executed
    assert json.loads(replies[0]["content"]) == {"start": GROWTH_START, "end": "2025-11-28"}
    assert log.samples[0].scores["coverage"].value["ordered"] == 1


GROWTH_START = ground_truth(0, DEFAULT_AS_OF)[GROWTH.id][0][0][0].output["start"]


@pytest.mark.parametrize(
    "arguments",
    ['{"expression": "last 7 days"', "not json", '["a list"]', '{"expression": 7}', '{"expression": NaN}', "", "{}"],
)
def test_malformed_arguments_come_back_as_an_error_and_the_run_goes_on(serve, arguments):
    address, requests = serve(in_turn(expert([message(("resolve_date", arguments))])))
    log = run(address)
    (reply,) = [m for m in requests[1]["messages"] if m["role"] == "tool"]
    assert "start" not in reply["content"]
    assert set(diagnoses(log).values()) == {"ok"}
    calls = executed_calls(log.samples[0].messages)
    assert [call.error is not None for call in calls] == [True] + [False] * 5
    assert log.samples[0].scores["answer"].metadata["errors"] == 1


def test_sql_and_code_in_calls_are_only_errors(serve):
    hostile = message(
        ("run_sql", '{"query": "DROP TABLE ads"}'),
        ("calculator", json.dumps({"expression": "__import__('os').system('true')"})),
        ("list_accounts", json.dumps({"industry": "' OR 1=1 --"})),
    )
    address, _ = serve(in_turn(expert([hostile])))
    log = run(address)
    assert log.samples[0].scores["answer"].metadata["errors"] == 3
    assert set(diagnoses(log).values()) == {"ok"}


def test_a_rate_limit_is_waited_out(serve, monkeypatch):
    monkeypatch.setattr(tenacity.wait_exponential_jitter, "__call__", lambda self, retry_state: 0.0)
    address, requests = serve(in_turn(expert([RATE_LIMITED, RATE_LIMITED])))
    log = run(address, max_retries=5)
    assert set(diagnoses(log).values()) == {"ok"}
    assert len(requests) == 6


def test_a_rate_limit_without_end_is_infrastructure_and_no_failure_of_the_agent(serve):
    address, _ = serve(lambda i, body: RATE_LIMITED)
    log = run(address)
    assert "RateLimitError" in log.samples[0].error.message
    assert not log.samples[0].scores  # excluded, to be repeated with eval-retry; not counted as wrong


def test_a_server_that_says_nothing_times_out(serve):
    address, _ = serve(lambda i, body: SILENT)
    log = run(address, attempt_timeout=1)
    assert log.samples[0].error is not None
    assert not log.samples[0].scores


def test_text_without_a_call_is_answered_with_a_reminder(serve):
    address, requests = serve(in_turn(expert([{"role": "assistant", "content": "Let me think."}])))
    log = run(address)
    assert set(diagnoses(log).values()) == {"ok"}
    assert requests[1]["messages"][-1]["role"] == "user"
    assert "submit" in requests[1]["messages"][-1]["content"]


def test_an_interrupted_run_is_resumed(serve, monkeypatch, tmp_path):
    """The first attempt meets a rate limit without end, `eval-retry` goes on from its log."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    replies = [RATE_LIMITED] * 3  # the client's own three attempts
    address, requests = serve(lambda i, body: (replies + expert())[i])
    (failed,) = inspect_eval(
        adbench(runs=1), model=client(address), sample_id=GROWTH.id, log_dir=str(tmp_path), display="none"
    )
    assert failed.status == "error"
    (resumed,) = eval_retry(failed, log_dir=str(tmp_path), display="none")
    assert resumed.status == "success"
    assert set(diagnoses(resumed).values()) == {"ok"}
    assert len(requests) == 7
