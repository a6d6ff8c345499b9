"""One look for every plot, and widgets that move without a kernel.

`scrub` and `explore` draw all their pictures while the cell runs and put them into an ``ipywidgets.Stack``.
A slider, dropdown or set of radio buttons picks the picture through ``jslink``, which is JavaScript in the
page. So the same cell works live in Jupyter, in the rendered book, offline, and in a notebook somebody mails
to you.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import ipywidgets as widgets
import matplotlib.pyplot as plt
import seaborn as sns
from IPython import get_ipython
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats
from PIL import Image

Kind = Literal["slider", "dropdown", "radio"]

FRAME_DPI = 150  # sharp on dense screens, and a 7 by 4 inch plot stays below 100 kB
MAX_FRAMES = 120  # pictures in one widget
MAX_BYTES = 6_000_000  # pictures of one widget together; they are all part of the page


def use_style() -> None:
    """Set the book's look for matplotlib and seaborn: call it once, in the first cell.

    The palette is seaborn's ``colorblind``. The background is opaque, so a plot is readable wherever it
    lands; the rendered book darkens plots itself when the reader chooses the dark theme.
    """
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette="colorblind",
        rc={
            "axes.axisbelow": True,
            "axes.edgecolor": "#444444",
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 11.5,
            "axes.titleweight": "bold",
            "axes.labelsize": 10.5,
            "figure.constrained_layout.use": True,
            "figure.dpi": 100,
            "figure.figsize": (6.4, 3.6),
            "font.size": 10.5,
            "grid.color": "#e3e3e3",
            "grid.linewidth": 0.8,
            "image.cmap": "mako_r",  # nothing = background, in the light theme and in the dark one
            "legend.fontsize": 9.5,
            "legend.title_fontsize": 9.5,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "savefig.facecolor": "white",
            "xtick.labelsize": 9.5,
            "ytick.labelsize": 9.5,
        },
    )
    shell = get_ipython()
    if shell is not None:
        set_matplotlib_formats("png")
        shell.display_formatter.formatters["image/png"].for_type(Figure, _still)


class Frames(widgets.VBox):  # type: ignore[misc]
    """Controls above a stack of pictures; where no widgets are shown (GitHub, a PDF), the first picture."""

    def __init__(self, controls: widgets.Widget, stack: widgets.Stack, first_png: bytes) -> None:
        super().__init__([controls, stack])
        self.add_class("reclib-frames")
        self._first_png = first_png

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**kwargs)
        return {**bundle, "image/png": base64.b64encode(self._first_png).decode()}


def scrub(
    frames: Iterable[Figure],
    labels: Iterable[object],
    *,
    captions: Iterable[str],
    alt: str,
    name: str = "Step",
    control: Kind = "slider",
) -> Frames:
    """Move through frames, for example through the steps of training.

    Hand over a generator, ``(draw(step) for step in steps)``, and each figure is closed before the next
    opens.

    Args:
        frames: matplotlib figures, in order; they are closed. All of one ``figsize``, or the page jumps.
        labels: one short label per frame, shown beside the control; all different.
        captions: one sentence per frame, shown below it: what can be seen there, in words and numbers. A
            reader who cannot see the picture has this instead.
        alt: what kind of picture this is ("Line plot of reward against step"), for screen readers.
        name: what the control changes; shown in front of it.
        control: "slider", "dropdown" or "radio".

    Returns:
        The widget: make it the last line of the cell.

    Raises:
        ValueError: no frames, more or fewer labels or captions than frames, an empty text, a repeated label,
            or pictures too many or too large for a page.
    """
    texts, captions = [_label(label) for label in labels], list(captions)
    if len(texts) != len(captions):
        raise ValueError(f"captions: need one per label, got {len(captions)} captions and {len(texts)} labels")
    pictures: list[tuple[bytes, str]] = []
    for number, frame in enumerate(frames):
        if number == len(texts):
            raise ValueError(f"labels: there are more frames than the {number} labels; give one label per frame")
        pictures.append(_picture(frame, captions[number], alt, f"{name}: {texts[number]}", f"frame {number}"))
        _check_room(pictures, f"frames: {len(pictures)} drawn so far")
    if not pictures:
        raise ValueError("frames: got none; give at least one matplotlib figure")
    if len(pictures) < len(texts):
        raise ValueError(f"labels: got {len(texts)} for {len(pictures)} frames; give one label per frame")
    return _assemble([(name, texts, control)], pictures)


def explore(
    draw: Callable[..., tuple[Figure, str]],
    grid: Mapping[str, Sequence[Any] | Mapping[str, Any]],
    *,
    alt: str,
    names: Mapping[str, str] | None = None,
    controls: Mapping[str, Kind] | None = None,
) -> Frames:
    """Turn several dials: every combination of the grid is drawn beforehand, one control per dial.

    ::

        def draw(noise, model):
            figure, axes = plt.subplots()
            ...
            return figure, f"With {noise:.0%} noise, {model} reaches NDCG@10 {value:.3f}."

        explore(draw, {"noise": [0, 0.1, 0.2], "model": ["SASRec", "HSTU"]}, alt="Bars of NDCG@10 by cut-off")

    Args:
        draw: called with one value per dimension as keyword arguments; returns the figure, which is closed,
            and its caption: what can be seen at this setting, in words and numbers.
        grid: dimension to values, or dimension to ``{label: value}`` where a value does not read well.
        alt: what kind of picture this is, for screen readers; the setting is added to it.
        names: dimension to the name shown in front of its control; else the dimension's own, underscores as
            spaces.
        controls: dimension to "slider", "dropdown" or "radio". Else: numbers get a slider, up to three texts
            radio buttons, more a dropdown.

    Returns:
        The widget: make it the last line of the cell.

    Raises:
        ValueError: an empty grid or dimension, a name or control for a dimension that is not in the grid, a
            repeated label, too many combinations, or a `draw` that does not return a figure and its caption.
    """
    dials = {
        dimension: values if isinstance(values, Mapping) else {_label(value): value for value in values}
        for dimension, values in grid.items()
    }
    if not dials:
        raise ValueError("grid: is empty; give at least one dimension with its values")
    for dimension, values in grid.items():
        if len(values) == 0:
            raise ValueError(f"grid: dimension {dimension!r} has no values")
        if len(dials[dimension]) < len(values):
            raise ValueError(f"grid: two values of {dimension!r} have the same label; give {{label: value}} instead")
    for argument, given in (("names", names or {}), ("controls", controls or {})):
        if unknown := set(given) - set(dials):
            raise ValueError(f"{argument}: {sorted(unknown)} not in the grid, which has {sorted(dials)}")
    combinations = math.prod(len(values) for values in dials.values())
    if combinations > MAX_FRAMES:
        raise ValueError(f"grid: {combinations} combinations, a page can carry {MAX_FRAMES}; take fewer values")

    shown = {dimension: (names or {}).get(dimension, dimension.replace("_", " ")) for dimension in dials}
    pictures: list[tuple[bytes, str]] = []
    for setting in itertools.product(*(values.items() for values in dials.values())):
        arguments = {dimension: value for dimension, (_, value) in zip(dials, setting, strict=True)}
        described = ", ".join(f"{name}: {label}" for name, (label, _) in zip(shown.values(), setting, strict=True))
        drawn = draw(**arguments)
        if not (isinstance(drawn, tuple) and len(drawn) == 2):
            raise ValueError(f"draw: has to return (figure, caption), got {type(drawn).__name__} at {described}")
        pictures.append(_picture(*drawn, alt, described, described))
        _check_room(pictures, f"grid: {len(pictures)} of {combinations} combinations drawn")
    return _assemble(
        [
            (
                shown[dimension],
                list(values),
                (controls or {}).get(dimension) or _default_control(values.values()),
            )
            for dimension, values in dials.items()
        ],
        pictures,
    )


def _label(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _default_control(values: Iterable[object]) -> Kind:
    values = list(values)
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return "slider"
    return "radio" if len(values) <= 3 else "dropdown"


def _picture(figure: object, caption: str, alt: str, setting: str, where: str) -> tuple[bytes, str]:
    """Draw one figure to PNG, close it, and wrap it with its texts as HTML."""
    if not isinstance(figure, Figure):
        raise ValueError(f"{where}: expected a matplotlib Figure, got {type(figure).__name__}")
    for argument, text in (("alt", alt), ("caption", caption)):
        if not (isinstance(text, str) and text.strip()):
            raise ValueError(f"{argument}: is empty at {where}; say in words what the picture shows")
    png = _png(figure)
    plt.close(figure)
    width, height = (round(100 * inches) for inches in figure.get_size_inches())
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return png, (
        '<figure class="reclib-frame" style="margin:0">'
        f'<img src="{source}" alt="{html.escape(f"{alt}. {setting}")}" '
        f'width="{width}" height="{height}" style="max-width:100%;height:auto">'
        f'<figcaption style="line-height:1.5">{html.escape(caption)}</figcaption></figure>'
    )


def _png(figure: Figure, **how: Any) -> bytes:
    """A sharp PNG with few colours: a palette of 256 looks the same and makes the page a third of the size."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=FRAME_DPI, **how)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _still(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """What a notebook keeps of a figure: the picture, and its size on the page."""
    png = _png(figure, bbox_inches="tight")
    width, height = (round(100 / FRAME_DPI * pixels) for pixels in Image.open(io.BytesIO(png)).size)
    return png, {"width": width, "height": height}


def _check_room(pictures: Sequence[tuple[bytes, str]], so_far: str) -> None:
    if len(pictures) > MAX_FRAMES:
        raise ValueError(f"{so_far}, more than the {MAX_FRAMES} a page can carry; take fewer")
    if (size := sum(len(png) for png, _ in pictures)) > MAX_BYTES:
        raise ValueError(
            f"{so_far}, already {size / 1e6:.1f} MB; a page can carry {MAX_BYTES / 1e6:.0f}: "
            "take fewer or a smaller figsize"
        )


def _assemble(dials: Sequence[tuple[str, list[str], Kind]], pictures: Sequence[tuple[bytes, str]]) -> Frames:
    """Nest one level of stacks per dial and link each control to all stacks of its level.

    The nesting is what makes several dials work without a kernel: no code has to turn two positions into one
    index.
    """
    controls = [_control(name, labels, kind) for name, labels, kind in dials]
    level: list[widgets.Widget] = [widgets.HTML(text, layout={"width": "100%"}) for _, text in pictures]
    for control, (_, labels, _) in reversed(list(zip(controls, dials, strict=True))):
        level = [
            widgets.Stack(level[start : start + len(labels)], selected_index=0)
            for start in range(0, len(level), len(labels))
        ]
        for stack in level:
            widgets.jslink((control, "index"), (stack, "selected_index"))
    (stack,) = level
    row = widgets.HBox(controls, layout={"flex_flow": "row wrap", "grid_gap": "0 2rem"})
    return Frames(row, stack, pictures[0][0])


def _control(name: str, labels: list[str], kind: Kind) -> widgets.Widget:
    if len(set(labels)) < len(labels):
        raise ValueError(f"labels: {name!r} has a label twice; a reader could not tell the two frames apart")
    options = {
        "options": labels,
        "index": 0,
        "description": name,
        "tooltip": name,
        "style": {"description_width": "initial"},
    }
    match kind:
        case "slider":
            # Too few options leave the handle no way to go, so the track gets a width of its own.
            return widgets.SelectionSlider(**options, layout={"width": "26rem", "max_width": "100%"})
        case "dropdown":
            return widgets.Dropdown(**options, layout={"width": "max-content", "max_width": "100%"})
        case "radio":
            return widgets.RadioButtons(**options, layout={"width": "max-content", "max_width": "100%"})
        case _:
            raise ValueError(f"control: {kind!r} is unknown; take 'slider', 'dropdown' or 'radio'")
