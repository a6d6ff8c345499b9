"""Trajectories as text: round trips, what is malformed, and the reward."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclib.reasoning.trajectory import (
    LETTERS,
    PHASES,
    TAGS,
    Candidate,
    MalformedTrajectory,
    Step,
    check_format,
    parse,
    read_prompt,
    reward,
    serialise,
    tier_reward,
    write_prompt,
)

ALL = " ".join(LETTERS)
GOOD = (
    "<plan> profile recent </plan> <tool_call> profile </tool_call> "
    "<tool_response> woman likes durable </tool_response> wants durable C "
    f"<reflection> trust both </reflection> <recommend> {ALL} </recommend>"
)

words = st.text("abcxyz", min_size=1, max_size=4)
texts = st.lists(words, min_size=1, max_size=5).map(" ".join)
notes = texts.map(lambda text: Step("note", text))
tagged = st.builds(Step, st.sampled_from(PHASES), texts)


@st.composite
def trajectories(draw):
    """Valid ones, with notes anywhere inside but never side by side."""
    body = []
    for _ in range(draw(st.integers(1, 4))):
        body += [Step("tool_call", draw(texts)), Step("tool_response", draw(texts))]
        body += draw(st.lists(notes, max_size=1))
    body += [Step("reflection", draw(texts)), *draw(st.lists(notes, max_size=1))]
    ranked = " ".join(draw(st.permutations(LETTERS)))
    return [Step("plan", draw(texts)), *body, Step("recommend", ranked)]


@given(trajectories())
def test_serialise_and_parse_are_inverse(steps):
    assert parse(serialise(steps)) == steps
    assert check_format(serialise(steps), LETTERS) == steps[-1].text.split()
    assert reward(serialise(steps), steps[-1].text[0], LETTERS).total == 2


@given(st.lists(tagged, max_size=6))
def test_any_tagged_steps_round_trip(steps):
    assert parse(serialise(steps)) == steps


@given(st.lists(st.sampled_from([*TAGS, "a", "b", *LETTERS[:2]]), max_size=12).map(" ".join))
def test_rubbish_never_gets_through_and_never_crashes(text):
    assert reward(text, "A", LETTERS[:2]).form == (-1 if not _valid(text) else 1)


def _valid(text):
    try:
        check_format(text, LETTERS[:2])
    except MalformedTrajectory:
        return False
    return True


INVALID = {
    "no plan": GOOD.replace("<plan> profile recent </plan> ", ""),
    "two plans": GOOD.replace("<plan>", "<plan> recent </plan> <plan>"),
    "no call": re.sub(r"<tool_call>.*</tool_response>", "", GOOD),
    "no response": re.sub(r"<tool_response>.*</tool_response>", "", GOOD),
    "a response that nobody asked for": GOOD.replace("wants", "<tool_response> x </tool_response> wants"),
    "no reflection": GOOD.replace("<reflection> trust both </reflection> ", ""),
    "reflection before any evidence": GOOD.replace("<reflection> trust both </reflection> ", "").replace(
        "<tool_call>", "<reflection> trust both </reflection> <tool_call>"
    ),
    "no recommendation": GOOD[: GOOD.index("<recommend>")],
    "words behind it": GOOD + " A",
    "two recommendations": GOOD.replace("<recommend>", f"<recommend> {ALL} </recommend> <recommend>"),
    "recommendation first": GOOD.replace("<plan>", f"<recommend> {ALL} </recommend> <plan>"),
    "an unknown letter": GOOD.replace("S T </rec", "S Z </rec"),
    "a letter twice": GOOD.replace("S T </rec", "S S </rec"),
    "19 of 20": GOOD.replace("S T </rec", "S </rec"),
    "21 of 20": GOOD.replace("S T </rec", "S T A </rec"),
    "an unclosed tag": GOOD.replace("</reflection>", ""),
    "a tag in a tag": GOOD.replace("trust both", "trust <plan>"),
    "a closing tag alone": GOOD.replace("wants", "</plan> wants"),
    "an empty tag": GOOD.replace("trust both", ""),
    "nothing": "",
}


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID.keys())
def test_malformed_trajectories_get_minus_one_and_no_outcome(text):
    with pytest.raises(MalformedTrajectory):
        check_format(text, LETTERS)
    assert tuple(reward(text, "A", LETTERS)) == (-1, 0)


def test_the_reflection_can_be_waived():
    without = INVALID["no reflection"]
    assert check_format(without, LETTERS, reflection=False) == list(LETTERS)
    assert reward(without, "A", LETTERS, reflection=False).total == 2


def test_the_tier_reward_is_the_mean_of_three_hit_rates():
    expected = [1, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 0, 0]
    assert [tier_reward(rank) for rank in range(1, 8)] == pytest.approx(expected)
    ranks = np.arange(1, 21)
    rates = np.mean([(ranks <= k).astype(float) for k in (1, 3, 5)], axis=0)
    assert [tier_reward(int(rank)) for rank in ranks] == pytest.approx(rates.tolist())
    for rank, target in enumerate(LETTERS, 1):
        assert reward(GOOD, target, LETTERS) == (1, tier_reward(rank))
    assert reward(GOOD, "A", LETTERS).total == 2
    with pytest.raises(ValueError, match="rank: the best is 1, got 0"):
        tier_reward(0)


def test_prompts_round_trip():
    candidates = [Candidate("A", "tents_01", "tents", "durable"), Candidate("B", "tea_02", "tea", "fast-men")]
    prompt = write_prompt([("tents_03", "tents")], candidates)
    assert prompt == "recent tents_03 tents candidates A tents_01 tents durable B tea_02 tea fast-men"
    question = read_prompt(prompt)
    assert question.candidates == tuple(candidates)
    assert question.recent == (("tents_03", "tents"),)
    assert question.letters == ("A", "B")
    assert [(c.selling, c.audience) for c in candidates] == [("durable", ""), ("fast", "men")]
    assert read_prompt(write_prompt([], candidates)).recent == ()
    filled = write_prompt([("tents_03", "tents")], candidates, 3)
    assert filled.startswith("recent none none none none tents_03 tents candidates A ")
    assert read_prompt(filled) == question
    for wrong in ("", "candidates A x y z", "recent a b", "recent a candidates A x y z", "recent candidates A y z"):
        with pytest.raises(ValueError, match="prompt: must read"):
            read_prompt(wrong)


def test_ads_are_not_named_like_letters():
    for recent, ad in ([("A", "tents")], "ad1"), ([("ad1", "tents")], "B"), ([], "."):
        with pytest.raises(ValueError, match="like letters"):
            write_prompt(recent, [Candidate("A", ad, "tea", "fast")])
