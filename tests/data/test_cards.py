"""The cards say what the catalogue and the loaders say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reclib.data import load_open_bandit
from reclib.data.catalogue import CATALOGUE, NAMES

CARDS = Path(__file__).resolve().parents[2] / "data" / "cards"


def test_one_card_per_set() -> None:
    assert sorted(path.stem for path in CARDS.glob("*.md")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_card_answers_the_same_questions(name: str) -> None:
    card = (CARDS / f"{name}.md").read_text()
    for question in (f"# {name}\n", "**What.**", "**Source.**", "**Terms.**", "**Get it.**", "**Traps.**"):
        assert question in card, question


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_the_numbers_of_the_cards(name: str) -> None:
    card, info = (CARDS / f"{name}.md").read_text(), CATALOGUE[name]
    items = (34, 46) if name == "open-bandit-small" else (info.items,)
    for number in (info.users, *items, info.interactions):
        assert number is None or f"{number:,}" in card, number
    assert info.homepage in card
    assert f"data fetch {name}" in card
    assert f"({info.download}" in card


def test_the_weights_of_the_open_bandit_card(real: Callable[[str], Path]) -> None:
    log = load_open_bandit("women", "bts", real("open-bandit-small").parent)
    assert log.propensity.min() == 1e-6
    weight = 1 / log.propensity / log.n_actions
    assert weight.mean() == pytest.approx(3.1, abs=0.05)
    assert weight.max() > 20_000
