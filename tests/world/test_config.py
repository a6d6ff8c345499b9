"""The dials: presets are found by name, bad values are refused with the name and the fix."""

import dataclasses

import pytest

from reclib.world import PRESETS, AdWorldConfig


def test_every_preset_is_valid_and_described():
    for name in PRESETS:
        assert f"`{name}`" in AdWorldConfig.preset.__doc__
        assert AdWorldConfig.preset(name) == PRESETS[name]


def test_the_defaults_are_the_book_preset():
    assert AdWorldConfig() == AdWorldConfig.preset("book")


def test_a_preset_can_be_changed():
    assert AdWorldConfig.preset("tiny", noise_rate=0.3).noise_rate == 0.3
    assert AdWorldConfig.preset("tiny", noise_rate=0.3).n_items == AdWorldConfig.preset("tiny").n_items


def test_a_mistyped_preset_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"name: there is no preset 'lifelon'; did you mean 'lifelong'"):
        AdWorldConfig.preset("lifelon")
    with pytest.raises(ValueError, match=r"choose one of tiny, book, lifelong, large"):
        AdWorldConfig.preset("qqq")


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"noise_rate": 1.5}, ["noise_rate", "at most 1", "1.5"]),
        ({"noise_rate": float("nan")}, ["noise_rate"]),
        ({"alignment": -1.2}, ["alignment", "at least -1"]),
        ({"time_information": -0.1}, ["time_information", "at least 0"]),
        ({"n_users": 0}, ["n_users", "at least 1"]),
        ({"seed": -1}, ["seed"]),
        ({"n_industries": 9}, ["n_industries", "at most 8"]),
        ({"taste_dim": 9}, ["taste_dim", "at most 8"]),
        ({"return_share": 0.9}, ["return_share", "must be 1", "change one of them"]),
        ({"return_share": 0.0, "stay_share": 0.5, "complement_share": 0.5}, ["return_share", "above 0"]),
        ({"n_items": 90}, ["n_items", "twice the 48 topics", "add ads"]),
        ({"mean_events": 500}, ["mean_events", "larger catalogue", "n_items of at least"]),
        ({"min_events": 60}, ["min_events", "mean_events"]),
        ({"n_interests": 6, "n_industries": 1}, ["n_interests", "6 topics"]),
        ({"n_complements": 6, "n_industries": 1}, ["n_complements", "6 topics"]),
    ],
)
def test_bad_values_are_refused(change, names):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the message is checked below)
        AdWorldConfig(**change)
    for name in names:
        assert name in str(error.value)
    assert str(error.value).startswith(names[0])


def test_every_number_has_a_range():
    """A dial that somebody adds must get limits too."""
    for field in dataclasses.fields(AdWorldConfig):
        with pytest.raises(ValueError, match=field.name):
            AdWorldConfig(**{field.name: -1_000_000})


def test_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AdWorldConfig().seed = 1
