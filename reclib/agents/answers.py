r"""Typed answers: what counts as right, decided without a judge wherever that can be.

    number  |x - y| ≤ max(tol_abs, tol_rel |y|)  after its unit is read: "12.50" = "12.5 yuan" = "1250 cents",
            "1.2k" = 1200, 12.5 % = 0.125
    set     the same items in any order;  list  the same items in the same order; "none" for no item
    enum    one of the choices, or a synonym of the right one
    bool    yes or no, or a synonym
    text    left to a judge; see `reclib.agents.judge`

A score is 1 or 0. Partial credit never counts as success (our choice; the paper's matching rule is not published).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

SUCCESS = 1 - 1e-6  # a score from here on is a success
LONGEST_ANSWER = 4000  # characters

Kind = Literal["number", "set", "list", "enum", "bool", "text"]
NUMBER = re.compile(
    r"\s*(?P<sign>[-+−]?)\s*[¥￥]?\s*(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d*)?|\.\d+)"
    r"(?P<power>[eE][-+]?\d{1,3})?\s*(?P<scale>k|thousand|m|million)?\s*(?P<unit>%|percent|yuan|cny|rmb|cents?)?\s*\.?\s*",
    re.IGNORECASE,
)
SCALES = {"": 1.0, "k": 1e3, "thousand": 1e3, "m": 1e6, "million": 1e6}
# What is written → (unit, how many of that unit one is).
UNITS = {
    "": ("", 1.0), "%": ("%", 1.0), "percent": ("%", 1.0), "yuan": ("yuan", 1.0), "cny": ("yuan", 1.0),
    "rmb": ("yuan", 1.0), "cent": ("yuan", 0.01), "cents": ("yuan", 0.01),
}  # fmt: skip
YES, NO = ("yes", "true", "y", "correct"), ("no", "false", "n", "incorrect")


@dataclass(frozen=True)
class AnswerType:
    """What kind of answer a task asks for, and how exact it has to be."""

    kind: Kind
    tol_abs: float = 0.0  # in the unit of the answer
    tol_rel: float = 0.0  # share of the true value
    unit: Literal["", "%", "yuan"] = ""
    synonyms: dict[str, tuple[str, ...]] = field(default_factory=dict, hash=False)  # of an enum's values

    def __post_init__(self) -> None:
        for name in ("tol_abs", "tol_rel"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: must be zero or positive, got {getattr(self, name)}")
        if self.unit not in ("", "%", "yuan"):
            raise ValueError(f"unit: {self.unit!r} is not known; choose '', '%' or 'yuan'")


def score(given: str, truth: Any, kind: AnswerType) -> float:
    """1 if the answer is right, else 0. Whatever cannot be read is wrong, an empty answer too.

    Args:
        given: what the agent submitted.
        truth: float or int, list of items, text, or bool, as the kind asks.
        kind: the type of the answer; not text, which takes a judge.

    Raises:
        ValueError: a free text.
    """
    if kind.kind == "text":
        raise ValueError("kind: a free text has no typed score; ask reclib.agents.judge")
    read = parse(given, kind)
    if read is None:
        return 0.0
    if kind.kind == "number":
        return float(abs(read - truth) <= max(kind.tol_abs, kind.tol_rel * abs(truth)) + 1e-12 * abs(truth))
    if kind.kind in ("set", "list"):
        wanted = [_item(item) for item in truth]
        return float(sorted(set(read)) == sorted(set(wanted)) if kind.kind == "set" else read == wanted)
    if kind.kind == "bool":
        return float(read is bool(truth))
    accepted = {_item(truth), *(_item(word) for word in kind.synonyms.get(str(truth), ()))}
    return float(read in accepted)


def parse(given: str, kind: AnswerType) -> Any:
    """What an answer says: float, list of items, bool or text; None if it cannot be read."""
    text = given.strip()
    if not text or len(text) > LONGEST_ANSWER:
        return None
    if kind.kind == "number":
        return _number(text, kind.unit)
    if kind.kind in ("set", "list"):
        return _items(text)
    if kind.kind == "bool":
        word = _item(text)
        return True if word in YES else False if word in NO else None
    return _item(text) if kind.kind == "enum" else text


def write(truth: Any, kind: AnswerType) -> str:
    """The answer as a good analyst would submit it."""
    if kind.kind == "number":
        digits = str(truth) if isinstance(truth, int) else f"{truth:.10g}"
        return digits + ("%" if kind.unit == "%" else f" {kind.unit}" if kind.unit else "")
    if kind.kind in ("set", "list"):
        return ", ".join(str(item) for item in truth) or "none"
    return ("yes" if truth else "no") if kind.kind == "bool" else str(truth)


def numbers_in(text: str) -> list[float]:
    """Every number that a text mentions, without its unit."""
    return [float(found.replace(",", "")) for found in re.findall(r"[-+]?\d[\d,]*(?:\.\d+)?", text[:LONGEST_ANSWER])]


def _number(text: str, unit: str) -> float | None:
    match = NUMBER.fullmatch(text)
    if match is None:
        return None
    value = float(match["digits"].replace(",", "") + (match["power"] or ""))
    value *= SCALES[(match["scale"] or "").casefold()] * (-1 if match["sign"] in ("-", "−") else 1)
    written, size = UNITS[(match["unit"] or "").casefold()]
    if written in ("", unit):
        return value * size
    if written == "%" and unit == "":
        return value / 100
    return None  # yuan where percent are asked for, or the other way round


def _items(text: str) -> list[str] | None:
    """Items of a JSON list, or of a text with commas, semicolons or line breaks."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list):
        parts = [str(part) for part in found]
    else:
        parts = re.split(r"[,;\n]|\band\b", text.strip().strip("[](){}").removesuffix("."))
    items = [_item(part) for part in parts if part.strip()]
    return [] if found == [] or items == ["none"] else items or None


def _item(value: Any) -> str:
    """One item in canonical form: lower case, single spaces, no quotes, no final stop, no trailing zeros."""
    text = " ".join(str(value).casefold().split()).strip("\"'`").removesuffix(".").strip()
    try:
        return f"{float(text):.10g}" if re.fullmatch(r"[-+]?\d+(\.\d+)?", text) else text
    except (OverflowError, ValueError):
        return text
