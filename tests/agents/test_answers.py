"""Typed answers by a table."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclib.agents.answers import AnswerType, parse, score, write

NUMBER, YUAN, PERCENT = (
    AnswerType("number", tol_abs=0.01),
    AnswerType("number", 0.01, unit="yuan"),
    AnswerType("number", 0.01, unit="%"),
)
SET, LIST, ENUM, BOOL = (AnswerType(kind) for kind in ("set", "list", "enum", "bool"))


@pytest.mark.parametrize(
    ("truth", "given", "kind", "right"),
    [
        (12.5, "12.5 yuan", YUAN, True),
        (12.5, "12.50", YUAN, True),
        (12.5, "¥12.5", YUAN, True),
        (12.5, "1250 cents", YUAN, True),
        (12.5, "1250", YUAN, False),
        (12.5, "12.5%", YUAN, False),
        (0.125, "12.5%", NUMBER, True),
        (12.5, "12.5%", PERCENT, True),
        (12.5, "12.5 percent", PERCENT, True),
        (12.5, "0.125", PERCENT, False),
        (12.5, "12.5 yuan", PERCENT, False),
        (1200, "1.2k", NUMBER, True),
        (1200, "1,200", NUMBER, True),
        (1200, "1,200.00.", NUMBER, True),
        (1200, "1.2e3", NUMBER, True),
        (1200, "12,00", NUMBER, False),
        (2.5e6, "2.5 million", NUMBER, True),
        (-3.0, "-3", NUMBER, True),
        (-3.0, "−3.0", NUMBER, True),
        (-3.0, "3", NUMBER, False),
        (5.0, "5.01", NUMBER, True),
        (5.0, "5.02", NUMBER, False),
        (5, "", NUMBER, False),
        (5, "  ", NUMBER, False),
        (5, "about 5", NUMBER, False),
        (5, "5 or 6", NUMBER, False),
        (5, "nan", NUMBER, False),
        (5, "5" * 5000, NUMBER, False),
        (["a", "b"], "b, a", SET, True),
        (["a", "b"], "b, a", LIST, False),
        (["a", "b"], "a, b", LIST, True),
        (["a", "b"], "a, b, b", SET, True),
        (["a", "b"], "a, b, b", LIST, False),
        (["a", "b"], "a", SET, False),
        (["a", "b"], "a, b, c", SET, False),
        (["a b", "c"], '["A  b", "c"]', LIST, True),
        (["a", "b"], "a and b.", SET, True),
        ([7, 31], "31; 7", SET, True),
        ([7, 31], "[7.0, 31]", LIST, True),
        (["a"], "", SET, False),
        ([], "", SET, False),
        ([], "none", SET, True),
        ([], "[]", LIST, True),
        (["a"], "none", SET, False),
        (["a"], "[" * 2000, SET, False),
        ("cedar 5", "Cedar  5.", ENUM, True),
        ("cedar 5", '"cedar 5"', ENUM, True),
        ("cedar 5", "cedar 55", ENUM, False),
        (31, "31", ENUM, True),
        (True, "yes", BOOL, True),
        (True, "True.", BOOL, True),
        (True, "no", BOOL, False),
        (False, "No", BOOL, True),
        (True, "maybe", BOOL, False),
        (True, "", BOOL, False),
    ],
)
def test_by_a_table(truth, given, kind, right):
    assert score(given, truth, kind) == float(right)


def test_synonyms_of_an_enum():
    kind = AnswerType("enum", synonyms={"F": ("female", "women")})
    assert [score(text, "F", kind) for text in ("F", "Female", "women", "M")] == [1, 1, 1, 0]


def test_relative_tolerance_and_the_larger_of_two():
    kind = AnswerType("number", tol_abs=0.5, tol_rel=0.01)
    assert [score(x, 1000.0, kind) for x in ("1010", "1010.1", "990")] == [1, 0, 1]
    assert [score(x, 1.0, kind) for x in ("1.5", "1.51")] == [1, 0]


@given(st.floats(-1e9, 1e9).filter(lambda x: abs(x) > 1e-6), st.sampled_from(["", "%", "yuan"]))
def test_what_is_written_is_read_as_right(truth, unit):
    kind = AnswerType("number", tol_rel=1e-6, unit=unit)
    assert score(write(truth, kind), truth, kind) == 1
    # Away from zero: adding .001 to a negative number may undo the 1 %.
    assert score(write(truth * 1.01 + math.copysign(0.001, truth), kind), truth, kind) == 0


@given(st.text(max_size=30), st.sampled_from(["number", "set", "list", "enum", "bool"]))
def test_any_text_is_read_or_not_and_never_raises(text, kind):
    parse(text, AnswerType(kind))
    assert score(text, {"number": 1.0, "bool": True, "enum": "x"}.get(kind, ["x"]), AnswerType(kind)) in (0, 1)


def test_bad_types_are_named():
    with pytest.raises(ValueError, match="tol_abs: must be zero or positive"):
        AnswerType("number", tol_abs=-1)
    with pytest.raises(ValueError, match="kind: a free text has no typed score"):
        score("x", "x", AnswerType("text"))
