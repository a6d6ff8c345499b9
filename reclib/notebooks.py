"""Runs the chapters and reads what they say about themselves.

A chapter is an executed notebook. It is written only here, by a clean run from the first cell to the last:

    python -m reclib.notebooks        # every chapter
    python -m reclib.notebooks 02     # one of them
"""

from __future__ import annotations

import ast
import copy
import datetime
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
CELL_TIMEOUT = 600  # seconds; a chapter has a budget of 120 for all its cells
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
VERSIONS_OF = ("reclib", "torch", "numpy", "pandas", "matplotlib", "ipywidgets")
HOME_OR_SYSTEM = re.compile(r"(?<![\w./:-])(?:/(?:home|Users|root|opt|mnt|content|var)/|[A-Z]:\\+Users\\)[^\s\"'<>]*")
PROGRESS_BAR = re.compile(r"\d+%\|.*\||\d+it \[\d")  # as tqdm draws it


class Chapter(NamedTuple):
    """What a chapter's notebook says about itself."""

    number: int
    title: str
    path: Path
    seconds: float | None  # the last clean run took this long; None: never run
    date: str | None  # of that run
    versions: dict[str, str]  # of that run
    widgets: int  # widgets a reader can move
    exercises: int


def chapters(folder: Path | None = None) -> list[Chapter]:
    """All chapters, in order.

    Raises:
        ValueError: the folder has no notebooks named like ``01_name.ipynb``.
    """
    folder = folder or ROOT / "chapters"
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise ValueError(f"folder: no chapters (NN_name.ipynb) in {folder}; run this in a clone of the book")
    return [read(path) for path in paths]


def read(path: Path) -> Chapter:
    """One chapter from its notebook."""
    notebook = nbformat.read(path, as_version=4)
    markdown = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    title = re.search(r"^# (.+)$", markdown, re.MULTILINE)
    record = notebook.metadata.get("reclib", {})
    return Chapter(
        number=int(path.name[:2]),
        title=title.group(1).strip() if title else path.stem,
        path=path,
        seconds=record.get("seconds"),
        date=record.get("date"),
        versions=dict(record.get("versions", {})),
        widgets=sum(1 for _, output in outputs(notebook) if WIDGET_VIEW in output.get("data", {})),
        exercises=len(re.findall(r"^(?:`{3,}|:{3,})\{exercise(?:-start)?\}", markdown, re.MULTILINE)),
    )


def to_markdown(listed: list[Chapter] | None = None) -> str:
    """The status of the chapters as a page of the book (MyST Markdown), linked as seen from ``book/``."""
    listed = chapters() if listed is None else listed
    seconds = sum(chapter.seconds or 0 for chapter in listed)
    packages = list(dict.fromkeys(name for chapter in listed for name in chapter.versions))
    lines = [
        "# Status",
        "",
        "What you read was written by a clean run of every chapter, from the first cell to the last. Run times are for",
        f"two CPU cores; all chapters together take {_duration(seconds)}. `make test` runs each of them again.",
        "",
        "| chapter | run time | widgets | exercises | last run |",
        "| --- | ---: | ---: | ---: | --- |",
        *(
            f"| {chapter.number:02d} [{chapter.title}](../chapters/{chapter.path.name}) | {_duration(chapter.seconds)} "
            f"| {chapter.widgets} | {chapter.exercises} | {chapter.date or '–'} |"
            for chapter in listed
        ),
        "",
        "## Versions",
        "",
        "`requirements.txt` installs exactly these, and all that they need.",
        "",
        "| chapter | " + " | ".join(packages) + " |",
        "| --- |" + " --- |" * len(packages),
        *(
            f"| {chapter.number:02d} | " + " | ".join(chapter.versions.get(name, "–") for name in packages) + " |"
            for chapter in listed
        ),
    ]
    return "\n".join(lines) + "\n"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not run yet"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def outputs(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    """Every output with the position of its cell in the notebook."""
    for position, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            yield position, output


# ------------------------------------------------------------------------------------------------ running


def execute(
    notebook: NotebookNode,
    parameters: Mapping[str, Any] | None = None,
    *,
    folder: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> NotebookNode:
    """Run a notebook in a fresh kernel and return it with its outputs, normalised (see `normalise`).

    Args:
        notebook: as `nbformat.read` gives it; stays as it is.
        parameters: new values for names of the cell tagged ``parameters``.
        folder: the working directory of the kernel; default ``chapters/``.
        progress: called with one line of text as each code cell ends.

    Raises:
        ValueError: a parameter the notebook does not have.
        nbclient.exceptions.CellExecutionError: a cell raised; the message holds the cell and the traceback.
    """
    notebook = copy.deepcopy(notebook)
    if parameters:
        _set_parameters(notebook, parameters)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    started = time.perf_counter()
    cell_started = started

    def before(cell: NotebookNode, cell_index: int) -> None:
        nonlocal cell_started
        cell_started = time.perf_counter()

    def after(cell: NotebookNode, cell_index: int, execute_reply: Any) -> None:
        number = next(n for n, other in enumerate(code, start=1) if other is cell)
        lines = [line for line in cell.source.splitlines() if line.strip()]
        seconds = time.perf_counter() - cell_started
        progress(f"  cell {number:>3}/{len(code)} {seconds:6.1f} s  {lines[0][:80] if lines else ''}")

    NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder or ROOT / "chapters")}},
        on_cell_execute=before,
        on_cell_executed=after,
    ).execute()
    notebook.metadata["reclib"] = {
        "seconds": round(time.perf_counter() - started, 1),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in VERSIONS_OF}},
    }
    return normalise(notebook)


def _set_parameters(notebook: NotebookNode, parameters: Mapping[str, Any]) -> None:
    """Add a cell after the one tagged ``parameters`` that overrides some of its values."""
    tagged = [n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    if not tagged:
        raise ValueError("notebook: has no cell tagged `parameters`")
    known = {
        target.id
        for statement in ast.parse(notebook.cells[tagged[0]].source).body
        for target in (statement.targets if isinstance(statement, ast.Assign) else [])
        if isinstance(target, ast.Name)
    }
    if unknown := sorted(set(parameters) - known):
        raise ValueError(f"parameters: no {', '.join(unknown)} in this notebook; it has {', '.join(sorted(known))}")
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(tagged[0] + 1, nbformat.v4.new_code_cell(source))


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Keep what a reader needs and drop what changes from machine to machine.

    - notebook metadata: kernel, language, widget state and our own record only;
    - progress bars go: they are for whoever waits, not for the page;
    - an object that shows itself as HTML keeps its name as plain text, without the address in memory;
    - only widgets on the page keep their state, under ids that are the same after every run.
    """
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            **{key: notebook.metadata[key] for key in ("reclib", "widgets") if key in notebook.metadata},
        }
    )
    state = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for cell in notebook.cells:
        for key in ("execution", "collapsed", "jupyter", "ExecuteTime"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_without_bars, cell.outputs) if not _is_bar(output, state)]
            for output in cell.outputs:
                _without_address(output)
    _keep_used_widgets(notebook, state)
    return notebook


def _without_bars(output: NotebookNode) -> NotebookNode:
    if output.output_type == "stream" and output.name == "stderr":
        lines = re.split(r"[\r\n]+", output.text)
        output.text = "\n".join(line for line in lines if not PROGRESS_BAR.search(line)).strip()
    return output


def _without_address(output: NotebookNode) -> None:
    """`<pandas…Styler at 0x7f…>` becomes `<pandas…Styler>`, if the page shows something better."""
    data = output.get("data", {})
    if "text/html" in data and "text/plain" in data:
        data["text/plain"] = re.sub(r"^<(\S+) at 0x[0-9a-f]+>$", r"<\1>", data["text/plain"])


def _is_bar(output: NotebookNode, state: Mapping[str, Any]) -> bool:
    if output.output_type == "stream":
        return not output.text
    view = output.get("data", {}).get(WIDGET_VIEW)
    return view is not None and any(
        state[model]["model_name"] == "FloatProgressModel" for model in _reachable(view["model_id"], state)
    )


def _reachable(model: str, state: Mapping[str, Any]) -> list[str]:
    """A widget and all that it refers to, in the order in which it does."""
    seen: dict[str, None] = {}
    todo = [model]
    while todo:
        model = todo.pop(0)
        if model in state and model not in seen:
            seen[model] = None
            todo += re.findall(r"IPY_MODEL_([0-9a-f]+)", json.dumps(state[model]["state"]))
    return list(seen)


def _keep_used_widgets(notebook: NotebookNode, state: Mapping[str, Any]) -> None:
    views = [output.data[WIDGET_VIEW] for _, output in outputs(notebook) if WIDGET_VIEW in output.get("data", {})]
    used: dict[str, None] = {}
    for view in views:
        used |= dict.fromkeys(_reachable(view["model_id"], state))
    # A link belongs to no view. It stays when both of its ends do.
    for model, saved in state.items():
        if saved["model_name"] in ("LinkModel", "DirectionalLinkModel"):
            ends = [saved["state"][end][0].removeprefix("IPY_MODEL_") for end in ("source", "target")]
            if all(end in used for end in ends):
                used[model] = None
    if not used:
        notebook.metadata.pop("widgets", None)
        return
    names = {model: f"{number:032x}" for number, model in enumerate(used)}
    kept = json.dumps({names[model]: state[model] for model in used})
    kept = re.sub(r"IPY_MODEL_([0-9a-f]+)", lambda found: f"IPY_MODEL_{names[found[1]]}", kept)
    notebook.metadata["widgets"] = {WIDGET_STATE: {"state": json.loads(kept), "version_major": 2, "version_minor": 0}}
    for view in views:
        view["model_id"] = names[view["model_id"]]


def machine_paths(notebook: NotebookNode) -> list[str]:
    """Places in the outputs that name a folder of the machine it ran on, as ``cell 3: /home/…``."""
    here = {str(ROOT), sys.prefix, str(Path.home()), tempfile.gettempdir()} - {"/", "/usr"}
    found = []
    for position, output in outputs(notebook):
        texts = {kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")}
        text = json.dumps([texts, output.get("text", ""), output.get("traceback", "")])
        hits = [hit.group(0) for hit in HOME_OR_SYSTEM.finditer(text)] + [path for path in here if path in text]
        found += [f"cell {position}: {hit}" for hit in dict.fromkeys(hits)]
    return found


# ------------------------------------------------------------------------------------------------ make
# execute


def rewrite(path: Path, progress: Callable[[str], None] = print) -> float:
    """Run a chapter and write it back with its outputs. Returns the seconds it took.

    Raises:
        ValueError: an output names a folder of this machine.
        nbclient.exceptions.CellExecutionError: a cell raised.
        The file is left as it was in both cases.
    """
    progress(f"{path.name}")
    notebook = execute(nbformat.read(path, as_version=4), folder=path.parent, progress=progress)
    if places := machine_paths(notebook):
        raise ValueError(f"{path.name}: outputs name folders of this machine: " + "; ".join(places))
    nbformat.validate(notebook)
    nbformat.write(notebook, path)
    seconds: float = notebook.metadata["reclib"]["seconds"]
    progress(f"{path.name}: {seconds:.0f} s, written")
    return seconds


def main(numbers: list[str]) -> int:
    """Run the chapters with these numbers, or all of them. Returns the exit status."""
    known = {f"{chapter.number:02d}": chapter.path for chapter in chapters()}
    chosen = [number.zfill(2) for number in numbers] or list(known)
    if unknown := [number for number in chosen if number not in known]:
        print(f"no chapter {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    for number in chosen:
        try:
            rewrite(known[number], progress=lambda line: print(line, flush=True))
        except (CellExecutionError, CellTimeoutError, DeadKernelError, ValueError) as error:
            print(f"{error}\n{known[number].name}: failed; the notebook was left as it was", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
