"""A language model behind an API: retries against a server of our own on the loopback address, and resuming."""

import importlib.util
import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reclib.reasoning.collaborative_text import TextStore
from reclib.reasoning.endpoint import INSTRUCTIONS, GaveUp, InspectModel, ModelReasoner, Retries, passing
from reclib.reasoning.mars import ANALYSTS, Limits, Mars, RuleReasoner, collect
from reclib.reasoning.trajectory import Candidate, Task, write_prompt

HANG = "hang"


@contextmanager
def server(answer=lambda system, user: "trust both"):
    """An OpenAI-compatible server. `script` holds what the next requests get: a status, or HANG."""

    class Handler(BaseHTTPRequestHandler):
        script, seen, released = [], [], threading.Event()

        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.seen.append(body)
            status = self.script.pop(0) if self.script else 200
            if status == HANG:
                self.released.wait(30)  # until the test is over
                return
            if status == 200:
                text = answer(body["messages"][0]["content"], body["messages"][-1]["content"])
                message = {"role": "assistant", "content": text}
                out = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
                out |= {"id": "1", "object": "chat.completion", "created": 0, "model": "fake"}
                out |= {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
            else:
                out = {"error": {"message": "not now"}}
            data = json.dumps(out).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield Handler, f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        Handler.released.set()
        http.shutdown()
        thread.join()
        http.server_close()


class StatusError(Exception):
    def __init__(self, status_code):
        super().__init__(f"status {status_code}")
        self.status_code = status_code


def plain(url, timeout=0.2):
    """A client without any library, as an `Ask`."""

    def ask(instruction, question):
        messages = [{"role": "system", "content": instruction}, {"role": "user", "content": question}]
        body = json.dumps({"model": "fake", "messages": messages}).encode()
        request = urllib.request.Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return json.load(response)["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            raise StatusError(error.code) from error

    return ask


TRANSIENT = ([], [429], [500, 502, 503, 504], [HANG], [429, HANG, 500])


@pytest.mark.parametrize("script", TRANSIENT, ids=str)
def test_failures_that_pass_are_tried_again_with_longer_and_longer_pauses(script):
    with server() as (handler, url):
        handler.script[:] = script
        waits = []
        reasoner = ModelReasoner(plain(url), Retries(tries=6, pause=1.0, longest=3.0), sleep=waits.append)
        assert reasoner("reflect", "the task", "the rest") == "trust both"
        assert waits == [1.0, 2.0, 3.0, 3.0][: len(script)]
        assert reasoner.failures == len(script)
        assert len(handler.seen) == len(script) + 1
        system, user = handler.seen[-1]["messages"]
        assert system["content"].endswith(INSTRUCTIONS["reflect"])
        assert user["content"] == "Task: the task\n\nWritten so far: the rest"


def test_other_failures_and_too_many_are_given_up():
    with server() as (handler, url):
        waits = []
        reasoner = ModelReasoner(plain(url), Retries(tries=3), sleep=waits.append)
        handler.script[:] = [400]
        with pytest.raises(GaveUp, match=r"ask: 1 of 3 tries failed, the last with StatusError: status 400"):
            reasoner("plan", "", "")
        assert waits == []
        handler.script[:] = [500] * 9
        with pytest.raises(GaveUp, match="ask: 3 of 3 tries failed"):
            reasoner("plan", "", "")
        assert waits == [1.0, 2.0]
        assert reasoner.failures == 4


def test_a_run_that_was_given_up_goes_on_where_it_stopped(tmp_path):
    candidates = [Candidate("A", "tents_1", "tents", "fast"), Candidate("B", "tea_2", "tea", "durable")]
    tasks = [Task(str(i), write_prompt([("tea_3", "tea")], candidates), "B", f"task {i}") for i in range(4)]
    store = TextStore({("profile", str(i)): "woman likes durable" for i in range(4)})
    rules = RuleReasoner()
    by_instruction = {text: role for role, text in INSTRUCTIONS.items()}

    def answer(system, user):
        """The rules, behind a wire."""
        role = next(role for text, role in by_instruction.items() if system.endswith(text))
        prompt, written = user.removeprefix("Task: ").split("\n\nWritten so far: ")
        return rules(role, prompt, "" if written == "nothing" else written)

    expected = [Mars(rules, store).solve(task) for task in tasks]
    each = len(expected[0].calls)
    with server(answer) as (handler, url):
        reasoner = ModelReasoner(plain(url), Retries(tries=2, pause=0.0), sleep=lambda _: None)
        mars = Mars(reasoner, store, limits=Limits(attempts=1))
        handler.script[:] = [200] * (2 * each + 3) + [500, 500]
        path = tmp_path / "teacher.jsonl"
        with pytest.raises(GaveUp, match="start it again to go on"):
            collect(mars.solve, tasks, path, progress=False)
        assert len(path.read_text().splitlines()) == 2
        handler.seen.clear()
        assert collect(mars.solve, tasks, path, progress=False) == expected
        assert len(handler.seen) == 2 * each  # tasks 2 and 3 only


def test_errors_are_judged_by_what_they_are_made_of():
    class RetryError(Exception):
        def __init__(self, last):
            super().__init__("gave up")
            self.last_attempt = last

    class Attempt:
        def exception(self):
            return StatusError(429)

    class APITimeoutError(Exception):
        pass

    wrapped = RuntimeError("outer")
    wrapped.__cause__ = ConnectionResetError("gone")
    for error in (TimeoutError(), wrapped, RetryError(Attempt()), APITimeoutError(), StatusError(503)):
        assert passing(error)
    for error in (ValueError("no"), StatusError(401), StatusError(404)):
        assert not passing(error)
    looped = ValueError("a")
    looped.__context__ = looped
    assert not passing(looped)
    with pytest.raises(ValueError, match="pause: must lie between 0 and longest"):
        Retries(pause=5, longest=1)
    assert set(INSTRUCTIONS) == {"plan", *ANALYSTS, "reflect", "rank"}


def test_through_inspect():
    """With Inspect the same server is reached through its model API; without it, the error says what to install."""
    if importlib.util.find_spec("inspect_ai") is None:
        with pytest.raises(ImportError, match=r"pip install 'reclib\[agents\]'"):
            InspectModel("openai-api/local/fake")
        return
    with server() as (handler, url):
        handler.script[:] = [429, 500, HANG]
        waits = []
        with InspectModel("openai-api/local/fake", base_url=url, api_key="none", timeout=2.0) as model:
            reasoner = ModelReasoner(model, sleep=waits.append)
            assert reasoner("reflect", "the task", "the rest") == "trust both"
            assert waits == [1.0, 2.0, 4.0]
            assert len(handler.seen) == 4
            handler.script[:] = [400]
            with pytest.raises(GaveUp, match="1 of 6 tries failed"):
                reasoner("plan", "", "")
