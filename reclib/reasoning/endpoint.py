"""Agents of MARS that think with a language model behind an API, and do not lose their work when it stumbles.

Any server that speaks OpenAI's chat completions will do, a local one included. Requests go through the model API of
Inspect (`pip install 'reclib[agents]'`). Failures that pass (time-outs, 408, 409, 429, 5xx) are tried again after a
pause that doubles; `reclib.reasoning.mars.collect` writes each finished task, so that a run that was given up goes on
where it stopped.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import tenacity

from reclib.nn.sizes import check_at_least

PASSING = {408, 409, 429, 500, 502, 503, 504, 529}  # status codes after which another try may succeed
BY_NAME = ("APITimeoutError", "APIConnectionError")  # errors of OpenAI's client, which need not be installed

COMMON = (
    "You are one agent of a team that ranks ads for a person. You see the task, then what the team has written so far. "
    "The task lists the person's latest ads with their topics, then candidates: a letter, an ad, its topic, a selling "
    "point, and whom it addresses if not everybody. Answer in a few plain words separated by single spaces, no "
    "punctuation, no explanation. "
)
INSTRUCTIONS = {
    "plan": "Name the analysts to ask, in order, out of: profile history recent divergence.",
    "profile": "First answer exactly <tool_call> profile </tool_call>. Once you see its response, write a note: wants, "
    "the selling point, the letters of the candidates that have it, against, the letters of candidates that address "
    "the other gender.",
    "history": "First answer exactly <tool_call> history </tool_call>, then <tool_call> user_cf </tool_call>. Once you "
    "see both responses, write a note: long, then each of the two largest topics with the letters of the candidates in "
    "it, similar, the letters of the candidates that the second response names.",
    "recent": "First answer exactly <tool_call> item_cf AD </tool_call> with the person's latest ad. Once you see the "
    "response, write a note: now, the topic of that ad and one more theme of the response, each with the letters of "
    "the candidates in it, also, the letters of the candidates that the response names.",
    "divergence": "Answer differ if the latest topic is not among the long interests, else agree.",
    "reflect": "Check the notes against the responses. Answer redo and the names of the analysts whose note is wrong; "
    "if none is, or some were redone already, answer trust recent where interests differ, else trust both.",
    "rank": "Weigh the notes. Answer with all letters of the candidates, best first, each once.",
}


@runtime_checkable
class Ask(Protocol):
    """One question to a language model. Raises whatever its client raises."""

    def __call__(self, instruction: str, question: str) -> str:
        """The answer's text."""


class GaveUp(RuntimeError):
    """A language model failed too often, or in a way that another try does not mend."""


@dataclass(frozen=True)
class Retries:
    """How patient we are."""

    tries: int = 6  # requests per question, the first included
    pause: float = 1.0  # seconds before the second try; doubles each time
    longest: float = 60.0  # seconds, longest pause

    def __post_init__(self) -> None:
        check_at_least(1, tries=self.tries)
        if not 0 <= self.pause <= self.longest:
            raise ValueError(f"pause: must lie between 0 and longest = {self.longest:g}, got {self.pause}")


class ModelReasoner:
    """A `Reasoner` that asks a language model."""

    def __init__(
        self, ask: Ask, retries: Retries | None = None, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Wrap a model.

        Args:
            ask: such as `InspectModel`.
            retries: of questions that fail.
            sleep: waits so many seconds.
        """
        self.ask, self.retries, self.sleep = ask, retries or Retries(), sleep
        self.failures = 0  # requests that failed so far

    def __call__(self, role: str, prompt: str, written: str) -> str:
        """See `Reasoner`.

        Raises:
            GaveUp: the model cannot be reached.
        """
        question = f"Task: {prompt}\n\nWritten so far: {written or 'nothing'}"
        retries = self.retries
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(passing),
            wait=tenacity.wait_exponential(multiplier=retries.pause, max=retries.longest),
            stop=tenacity.stop_after_attempt(retries.tries),
            after=self._count,
            sleep=self.sleep,
            reraise=True,
        )
        try:
            return again(self.ask, COMMON + INSTRUCTIONS[role], question)
        except Exception as error:
            tried = again.statistics["attempt_number"]
            self.failures += not passing(error)  # such an error ends the tries, uncounted
            raise GaveUp(
                f"ask: {tried} of {retries.tries} tries failed, the last with {type(error).__name__}: {error}. "
                "Finished tasks are kept if collect has a path; start it again to go on"
            ) from error

    def _count(self, _: tenacity.RetryCallState) -> None:
        self.failures += 1


def passing(error: BaseException) -> bool:
    """Whether another try may succeed; an error counts as the ones it was made of."""
    return any(
        isinstance(part, (TimeoutError, ConnectionError))
        or type(part).__name__ in BY_NAME
        or getattr(part, "status_code", None) in PASSING
        for part in _causes(error)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        part = todo.pop()
        if part is None or any(part is other for other in seen):
            continue
        seen.append(part)
        yield part
        todo += [part.__cause__, part.__context__]
        attempt = getattr(part, "last_attempt", None)  # of tenacity's RetryError
        if attempt is not None:
            todo.append(attempt.exception())


class InspectModel:
    """A model of Inspect (UK AI Security Institute, 2024) as an `Ask`. Close it, or use it in a `with`."""

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 60.0,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> None:
        """Reach a model.

        Args:
            name: as Inspect names it, e.g. "openai-api/local/qwen3-8b" for a server of your own.
            base_url: of the server, e.g. "http://127.0.0.1:8000/v1"; default: what Inspect's environment says.
            api_key: default: what Inspect's environment says.
            timeout: seconds until a request counts as failed.
            max_tokens: of an answer.
            temperature: 0 for the most probable words.
            seed: of the draws, where the server supports it.

        Raises:
            ImportError: Inspect is not installed.
        """
        try:
            library = importlib.import_module("inspect_ai.model")
        except ImportError as error:
            raise ImportError("InspectModel needs inspect_ai: pip install 'reclib[agents]'") from error
        self.library: Any = library
        # We count and pace the tries ourselves, so Inspect and OpenAI's client below it must not.
        config = library.GenerateConfig(max_retries=0, max_tokens=max_tokens, temperature=temperature, seed=seed)
        client = {"max_retries": 0} if name.startswith("openai") else {}
        self.model: Any = library.get_model(
            name, base_url=base_url, api_key=api_key, config=config, memoize=False, **client
        )
        self.timeout = timeout
        self.loop = asyncio.Runner()  # clients keep their connections in one event loop

    def __call__(self, instruction: str, question: str) -> str:
        """See `Ask`."""
        return self.loop.run(self._ask(instruction, question))

    async def _ask(self, instruction: str, question: str) -> str:
        messages = [
            self.library.ChatMessageSystem(content=instruction),
            self.library.ChatMessageUser(content=question),
        ]
        async with asyncio.timeout(self.timeout):
            output = await self.model.generate(messages)
        return str(output.completion)

    def close(self) -> None:
        """Close connections and the event loop."""
        self.loop.close()

    def __enter__(self) -> InspectModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
