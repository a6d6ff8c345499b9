"""What every chapter promises, checked on its notebook. Each guard returns the breaches it finds, as sentences."""

import ast
import json
import re
from collections.abc import Iterator

from nbformat import NotebookNode

from reclib.notebooks import WIDGET_STATE, WIDGET_VIEW, machine_paths

SECONDS = 120
WIDGETS = 2
EXERCISES = 5
MEGABYTES = 12  # of a notebook; the page has to load on a phone

# The parts of a chapter, in order, by a word that the heading of each has to have.
ANATOMY = {
    "what you will learn": r"learn",
    "the paper in one figure": r"one (figure|picture)",
    "the claims under test": r"claims",
    "the idea on a toy example": r"toy",
    "the method": r"method|equation",
    "checks that can fail": r"checks?\b",
    "the experiment": r"experiment",
    "its plots": r"plots?\b|results?\b",
    "ablations and an explorer": r"ablation|explor",
    "what is wrong or open": r"wrong|open\b",
    "the verdicts": r"verdicts?",
    "exercises": r"exercises",
    "take-away": r"take-?aways?",
    "references": r"references",
}


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def executed_in_order(notebook: NotebookNode) -> Iterator[str]:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"cells were not run from the first to the last in a fresh kernel: {counts}"


def has_parameters(notebook: NotebookNode) -> Iterator[str]:
    first = code_cells(notebook)[0]
    if "parameters" not in tags(first):
        yield "the first code cell is not tagged `parameters`"
        return
    names = {
        target.id
        for statement in ast.parse(first.source).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    if missing := {"SEED", "SCALE", "DATASET"} - names:
        yield f"the parameters lack {', '.join(sorted(missing))}"


def no_errors_or_warnings(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(code_cells(notebook), start=1):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"code cell {number} shows {output.ename}: {output.evalue}"
            if output.output_type == "stream" and output.name == "stderr":
                yield f"code cell {number} writes to stderr: {output.text[:200]!r}"


def no_stray_objects(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(code_cells(notebook), start=1):
        for output in cell.outputs:
            text = output.get("text", "") + "".join(output.get("data", {}).get("text/plain", ""))
            if found := re.search(r"<[^<>]* at 0x[0-9a-f]+>", text):
                yield f"code cell {number} prints {found.group()}: end its last line with a semicolon or plt.show()"


def nothing_skipped(notebook: NotebookNode) -> Iterator[str]:
    forbidden = {"nbval-skip", "skip-execution", "raises-exception", "nbval-raises-exception", "nbval-ignore-output"}
    for number, cell in enumerate(code_cells(notebook), start=1):
        if found := forbidden & set(tags(cell)):
            yield f"code cell {number} is tagged {', '.join(sorted(found))}"
        if "nbval-check-output" in tags(cell) and (cell.execution_count is None or not cell.outputs):
            yield f"code cell {number} is tagged nbval-check-output and has no output to compare"
        if re.search(r"^\s*[!%]|#\s*NBVAL_", cell.source, re.MULTILINE):
            yield f"code cell {number} uses a shell line, a magic or an NBVAL comment, which nbval cannot judge"


def figures_have_alternative_text(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(code_cells(notebook), start=1):
        text = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        for output in cell.outputs:
            data = output.get("data", {})
            if WIDGET_VIEW not in data and any(kind.startswith("image/") for kind in data) and not text.strip():
                yield f'code cell {number} shows a figure without {{"mystnb": {{"image": {{"alt": "..."}}}}}}'
            html = "".join(data.get("text/html", ""))
            if re.search(r"<img(?![^>]*\balt=\"[^\"]+\")", html):
                yield f"code cell {number} shows an <img> without alternative text"
    if re.search(r"!\[\s*\]\(", markdown(notebook)):
        yield "a picture in the text has no alternative text"


def anatomy(notebook: NotebookNode) -> Iterator[str]:
    titles = re.findall(r"^# .+$", markdown(notebook), re.MULTILINE)
    if len(titles) != 1:
        yield f"there has to be one title, found {len(titles)}: {titles}"
    headings = re.findall(r"^## (.+)$", markdown(notebook), re.MULTILINE)
    at = 0
    for part, pattern in ANATOMY.items():
        found = next((n for n in range(at, len(headings)) if re.search(pattern, headings[n], re.IGNORECASE)), None)
        if found is None:
            yield f"no heading for {part!r} (/{pattern}/) after {headings[at - 1] if at else 'the title'!r}: {headings}"
            return
        at = found + 1


def widgets_are_kept(notebook: NotebookNode) -> Iterator[str]:
    views = [
        output.data[WIDGET_VIEW]["model_id"]
        for cell in code_cells(notebook)
        for output in cell.outputs
        if WIDGET_VIEW in output.get("data", {})
    ]
    if len(views) < WIDGETS:
        yield f"{len(views)} widgets, a chapter has at least {WIDGETS}"
    state = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for view in views:
        if view not in state:
            yield f"the state of widget {view} is not saved, so the page cannot draw it"


def exercises_have_solutions(notebook: NotebookNode) -> Iterator[str]:
    text = markdown(notebook)
    exercises = re.findall(r"\{exercise(?:-start)?\}.*\n(?::\w+:.*\n)*?:label: *(\S+)", text)
    solutions = re.findall(r"\{solution-start\} *(\S+)", text)
    if len(exercises) < EXERCISES:
        yield f"{len(exercises)} labelled exercises, a chapter has {EXERCISES}"
    for label in exercises:
        if solutions.count(label) != 1:
            yield f"exercise {label!r} has {solutions.count(label)} solutions"
    opened = None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            opened = opened and (opened[0], opened[1] + 1)
            continue
        for kind, rest in re.findall(r"\{solution-(start|end)\} *(.*(?:\n:.*)*)", cell.source):
            if kind == "start":
                opened = (rest.split()[0], 0)
                if ":class: dropdown" not in rest:
                    yield f"the solution of {opened[0]!r} is not folded"
            elif opened and opened[1] == 0:
                yield f"the solution of {opened[0]!r} has no executed cell"


def record_of_the_run(notebook: NotebookNode) -> Iterator[str]:
    record = notebook.metadata.get("reclib", {})
    if not {"seconds", "date", "versions"} <= set(record):
        yield "no record of the run in the metadata: write the notebook by `make execute`"
    elif record["seconds"] > SECONDS:
        yield f"took {record['seconds']} s, a chapter has {SECONDS} s"


def no_machine_paths(notebook: NotebookNode) -> Iterator[str]:
    for place in machine_paths(notebook):
        yield f"an output names a folder of the machine: {place}"


def size(notebook: NotebookNode) -> Iterator[str]:
    megabytes = len(json.dumps(notebook)) / 1e6
    if megabytes > MEGABYTES:
        yield f"{megabytes:.1f} MB, at most {MEGABYTES}: draw fewer or smaller frames"


GUARDS = [
    executed_in_order,
    has_parameters,
    no_errors_or_warnings,
    no_stray_objects,
    nothing_skipped,
    figures_have_alternative_text,
    anatomy,
    widgets_are_kept,
    exercises_have_solutions,
    record_of_the_run,
    no_machine_paths,
    size,
]
