"""Every chapter keeps its promises, and every guard notices a broken one."""

import copy
import runpy

import guards
import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from reclib.notebooks import ROOT, WIDGET_STATE, WIDGET_VIEW, chapters

CHAPTERS = chapters()


@pytest.mark.parametrize("guard", guards.GUARDS, ids=lambda guard: guard.__name__)
@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.path.stem)
def test_chapter(chapter, guard):
    assert list(guard(nbformat.read(chapter.path, as_version=4))) == []


def test_every_chapter_is_in_the_table_of_contents():
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    files = [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    assert [file for file in files if file.startswith("chapters/")] == [f"chapters/{c.path.stem}" for c in CHAPTERS]


def test_all_chapters_together_take_at_most_25_minutes():
    assert sum(chapter.seconds for chapter in CHAPTERS) <= 25 * 60


@pytest.mark.parametrize("name", ["ledger.md", "status.md"])
def test_computed_pages_are_up_to_date(name):
    pages = runpy.run_path(str(ROOT / "book" / "pages.py"))["pages"]()
    path = ROOT / "book" / name
    assert path.read_text(encoding="utf-8") == pages[path], "write it anew: make pages"


# ---------------------------------------------------------------- the guards themselves


@pytest.fixture(scope="module")
def good():
    """The smallest notebook without a breach."""

    def figure():
        return new_output("display_data", {"image/png": "iVBOR", "text/plain": "<Figure>"})

    def widget(model):
        return new_output("display_data", {WIDGET_VIEW: {"model_id": model}, "image/png": "iVBOR"})

    cells = [
        new_markdown_cell("# A chapter\n\n## What you will learn"),
        new_code_cell(
            "SEED = 0\nSCALE = 'book'\nDATASET = 'adworld'", metadata={"tags": ["parameters"]}, execution_count=1
        ),
        *(new_markdown_cell(f"## {part}") for part in list(guards.ANATOMY)[1:11]),
        new_code_cell("plot()", metadata={"mystnb": {"image": {"alt": "Line"}}}, outputs=[figure()]),
        new_code_cell("scrub(...)", outputs=[widget("a")]),
        new_code_cell("explore(...)", outputs=[widget("b")]),
        new_code_cell(
            "print(1)",
            metadata={"tags": ["nbval-check-output"]},
            outputs=[new_output("stream", name="stdout", text="1")],
        ),
        new_markdown_cell("## Exercises"),
    ]
    for n in range(5):
        cells += [
            new_markdown_cell(f"```{{exercise}} Number {n}\n:label: ex-{n}\n\nCount.\n```"),
            new_markdown_cell(f"````{{solution-start}} ex-{n}\n:label: sol-{n}\n:class: dropdown\n````"),
            new_code_cell("1 + 1"),
            new_markdown_cell("````{solution-end}\n````"),
        ]
    cells.append(new_markdown_cell("## Take-away\n\n## References"))
    notebook = new_notebook(cells=cells)
    for count, cell in enumerate(guards.code_cells(notebook), start=1):
        cell.execution_count = count
    notebook.metadata["widgets"] = {WIDGET_STATE: {"state": {"a": {}, "b": {}}}}
    notebook.metadata["reclib"] = {"seconds": 90.0, "date": "2026-03-01", "versions": {"torch": "2.13.0"}}
    return notebook


def breaches(notebook):
    return [guard.__name__ for guard in guards.GUARDS if list(guard(notebook))]


def test_the_good_notebook_has_no_breach(good):
    assert breaches(good) == []


def swap(notebook, *texts):
    first, second = (cell_with(notebook, text) for text in texts)
    first.source, second.source = second.source, first.source


def cell_with(notebook, text):
    return next(cell for cell in notebook.cells if text in cell.source)


BREAKAGES = {
    "rerun out of order": (lambda n: cell_with(n, "plot()").update(execution_count=99), "executed_in_order"),
    "never run": (lambda n: cell_with(n, "1 + 1").update(execution_count=None), "executed_in_order"),
    "no tag": (lambda n: cell_with(n, "SEED").metadata.update(tags=[]), "has_parameters"),
    "no seed": (lambda n: cell_with(n, "SEED").update(source="SCALE = DATASET = 'x'"), "has_parameters"),
    "error": (
        lambda n: cell_with(n, "1 + 1").outputs.append(new_output("error", ename="E", evalue="v", traceback=[])),
        "no_errors_or_warnings",
    ),
    "warning": (
        lambda n: cell_with(n, "1 + 1").outputs.append(new_output("stream", name="stderr", text="careful")),
        "no_errors_or_warnings",
    ),
    "stray object": (
        lambda n: cell_with(n, "1 + 1").outputs.append(
            new_output("execute_result", {"text/plain": "<matplotlib.legend.Legend at 0x7f8570>"})
        ),
        "no_stray_objects",
    ),
    "skipped": (lambda n: cell_with(n, "1 + 1").metadata.update(tags=["nbval-skip"]), "nothing_skipped"),
    "nothing to compare": (lambda n: cell_with(n, "print(1)").update(outputs=[]), "nothing_skipped"),
    "shell": (lambda n: cell_with(n, "print(1)").update(source="!sleep 1"), "nothing_skipped"),
    "figure without text": (lambda n: cell_with(n, "plot()").update(metadata={}), "figures_have_alternative_text"),
    "img without text": (
        lambda n: cell_with(n, "1 + 1").outputs.append(
            new_output("display_data", {"text/html": '<img src="x" alt="">'})
        ),
        "figures_have_alternative_text",
    ),
    "part missing": (lambda n: cell_with(n, "toy").update(source="## Something else"), "anatomy"),
    "parts swapped": (lambda n: swap(n, "## the verdicts", "## the experiment"), "anatomy"),
    "two titles": (lambda n: cell_with(n, "## Exercises").update(source="# Two\n\n## Exercises"), "anatomy"),
    "one widget": (lambda n: cell_with(n, "scrub").update(outputs=[]), "widgets_are_kept"),
    "no state": (lambda n: n.metadata.pop("widgets"), "widgets_are_kept"),
    "four exercises": (lambda n: cell_with(n, "Number 4").update(source=""), "exercises_have_solutions"),
    "no solution": (lambda n: cell_with(n, "solution-start} ex-3").update(source=""), "exercises_have_solutions"),
    "open solution": (
        lambda n: cell_with(n, "solution-start} ex-3").update(source="````{solution-start} ex-3\n````"),
        "exercises_have_solutions",
    ),
    "solution without code": (
        lambda n: n.cells.remove(n.cells[n.cells.index(cell_with(n, "solution-start} ex-2")) + 1]),
        "exercises_have_solutions",
    ),
    "no record": (lambda n: n.metadata.pop("reclib"), "record_of_the_run"),
    "too slow": (lambda n: n.metadata["reclib"].update(seconds=121), "record_of_the_run"),
    "path": (
        lambda n: cell_with(n, "1 + 1").outputs.append(new_output("stream", name="stdout", text="/home/ann/x")),
        "no_machine_paths",
    ),
    "too large": (lambda n: cell_with(n, "1 + 1").update(source="#" * 13_000_000), "size"),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_guards_notice(good, breakage):
    broken = copy.deepcopy(good)
    change, guard = BREAKAGES[breakage]
    change(broken)
    found = breaches(broken)
    if breakage == "solution without code":  # a cell less also leaves a gap in the counts
        found.remove("executed_in_order")
    assert found == [guard]
