"""The widgets are followed through their saved state alone, as a page without a kernel does."""

import math
import re

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ipywidgets.embed import dependency_state

from reclib import figures
from reclib.figures import explore, scrub, use_style


@pytest.fixture(autouse=True, scope="module")
def small_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "FRAME_DPI", 10)
        yield


def draw(**setting):
    return plt.figure(figsize=(1, 1)), f"Shows {setting}."


def frame(text="x"):
    return draw(text=text)[0]


def shown(widget, **dials):
    """The HTML a page shows once the controls with these names are set to these positions."""
    state = dependency_state([widget], drop_defaults=False)
    models = {key: {**value["state"], "model": value["model_name"]} for key, value in state.items()}

    def target(reference):
        return reference.removeprefix("IPY_MODEL_")

    for name, position in dials.items():
        (control,) = [key for key, model in models.items() if model.get("description") == name]
        models[control]["index"] = position
    for link in [model for model in models.values() if model["model"] == "LinkModel"]:
        (source, source_trait), (stack, stack_trait) = link["source"], link["target"]
        models[target(stack)][stack_trait] = models[target(source)][source_trait]

    (box,) = [model for model in models.values() if model["model"] == "VBoxModel"]
    seen = models[target(box["children"][1])]
    while seen["model"] == "StackModel":
        seen = models[target(seen["children"][seen["selected_index"]])]
    return seen["value"]


def caption(text):
    return re.search(r"<figcaption[^>]*>(.*?)</figcaption>", text)[1]


def test_scrub_shows_the_frame_of_the_slider():
    widget = scrub(
        (frame() for _ in range(3)), [10, 20, 30], captions=["first", "second", "third"], alt="Plot", name="Step"
    )
    assert [caption(shown(widget, Step=position)) for position in range(3)] == ["first", "second", "third"]
    assert caption(shown(widget)) == "first"


@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3).filter(lambda sizes: math.prod(sizes) <= 12),
    data=st.data(),
)
@settings(max_examples=10, deadline=None)
def test_explore_shows_the_frame_of_every_dial(sizes, data):
    grid = {f"dial{n}": [f"value{k}" for k in range(size)] for n, size in enumerate(sizes)}
    widget = explore(draw, grid, alt="Plot")
    position = {name: data.draw(st.integers(0, len(values) - 1)) for name, values in grid.items()}
    expected = {name: grid[name][at] for name, at in position.items()}
    assert caption(shown(widget, **position)).replace("&#x27;", "'") == f"Shows {expected}."


def test_every_frame_has_its_own_alternative_text():
    widget = explore(draw, {"noise": [0.0, 0.5], "model": {"the best": 1, "<b>": 2}}, alt='Bars "A"')
    texts = [re.search(r'alt="(.*?)"', shown(widget, noise=n, model=m))[1] for n in (0, 1) for m in (0, 1)]
    assert texts[0] == "Bars &quot;A&quot;. noise: 0, model: the best"
    assert texts[3] == "Bars &quot;A&quot;. noise: 0.5, model: &lt;b&gt;"
    assert len(set(texts)) == 4


def test_controls_follow_the_values():
    grid = {"rate": [1, 2, 3], "few": ["a", "b"], "group_size": ["a", "b", "c", "d"], "flag": [True, False]}
    widget = explore(draw, grid, alt="Plot", names={"rate": "Learning rate"}, controls={"few": "dropdown"})
    controls = widget.children[0].children
    assert [type(control) for control in controls] == [
        widgets.SelectionSlider,
        widgets.Dropdown,
        widgets.Dropdown,
        widgets.RadioButtons,
    ]
    assert [control.description for control in controls] == ["Learning rate", "few", "group size", "flag"]


def test_figures_are_closed_and_a_still_picture_is_kept():
    before = plt.get_fignums()
    widget = scrub([frame(), frame()], ["a", "b"], captions=["one", "two"], alt="Plot")
    assert plt.get_fignums() == before
    bundle = widget._repr_mimebundle_()
    assert bundle["image/png"].startswith("iVBOR")  # the signature of PNG in base64
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.model_id


def test_a_generator_never_has_two_figures_open():
    most = []

    def frames():
        for _ in range(4):
            yield frame()
            most.append(len(plt.get_fignums()))

    plt.close("all")
    scrub(frames(), range(4), captions="abcd", alt="Plot")
    assert max(most) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": [], "labels": [], "captions": []}, "frames: got none"),
        ({"labels": ["a"]}, "captions: need one per label"),
        ({"labels": ["a"], "captions": ["one"]}, "labels: there are more frames"),
        ({"labels": ["a", "b", "c"], "captions": ["one", "two", "three"]}, "labels: got 3 for 2 frames"),
        ({"labels": ["a", "a"]}, "has a label twice"),
        ({"captions": ["one", " "]}, "caption: is empty at frame 1"),
        ({"alt": ""}, "alt: is empty"),
        ({"frames": iter(["picture", "picture"])}, "expected a matplotlib Figure, got str"),
    ],
)
def test_scrub_says_what_is_wrong(arguments, message):
    good = {"labels": ["a", "b"], "captions": ["one", "two"], "alt": "Plot"}
    if "frames" not in arguments:
        good["frames"] = [frame(), frame()]
    with pytest.raises(ValueError, match=message):
        scrub(**(good | arguments))


@pytest.mark.parametrize(
    ("grid", "more", "message"),
    [
        ({}, {}, "grid: is empty"),
        ({"a": []}, {}, "dimension 'a' has no values"),
        ({"a": [1, 1]}, {}, "two values of 'a' have the same label"),
        ({"a": range(1000)}, {}, "grid: 1000 combinations"),
        ({"a": [1]}, {"names": {"b": "B"}}, r"names: \['b'\] not in the grid"),
        ({"a": [1]}, {"controls": {"b": "radio"}}, r"controls: \['b'\] not in the grid"),
    ],
)
def test_explore_says_what_is_wrong(grid, more, message):
    with pytest.raises(ValueError, match=message):
        explore(draw, grid, alt="Plot", **more)


def test_explore_wants_a_figure_and_a_caption():
    with pytest.raises(ValueError, match=r"has to return \(figure, caption\), got Figure"):
        explore(lambda a: frame(), {"a": [1]}, alt="Plot")


def test_pictures_have_to_fit_on_a_page(monkeypatch):
    monkeypatch.setattr(figures, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="take fewer or a smaller figsize"):
        scrub([frame(), frame()], ["a", "b"], captions=["one", "two"], alt="Plot")


def test_style_is_readable_and_the_palette_is_the_colour_blind_one():
    use_style()
    assert plt.rcParams["savefig.facecolor"] == "white"
    first = plt.rcParams["axes.prop_cycle"].by_key()["color"][:3]
    assert [tuple(round(255 * channel) for channel in colour) for colour in first] == [
        (1, 115, 178),
        (222, 143, 5),
        (2, 158, 115),
    ]
