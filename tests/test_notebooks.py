"""Runs small notebooks in a real kernel and looks at what is written."""

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from reclib.notebooks import (
    WIDGET_STATE,
    WIDGET_VIEW,
    Chapter,
    chapters,
    execute,
    machine_paths,
    main,
    normalise,
    read,
    rewrite,
    to_markdown,
)

WIDGETS = """
import ipywidgets as w
unused = w.IntSlider()
slider, stack = w.IntSlider(max=1), w.Stack([w.HTML("a"), w.HTML("b")], selected_index=0)
w.jslink((slider, "value"), (stack, "selected_index"))
w.jslink((unused, "value"), (stack, "selected_index"))
w.VBox([slider, stack])
"""


def notebook(*cells):
    return new_notebook(cells=[new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells])


def parameters(source):
    return new_code_cell(source, metadata={"tags": ["parameters"]})


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """One notebook with a bit of everything, and the lines of progress."""
    lines = []
    source = notebook(
        parameters("SEED = 1\nSCALE = 'book'"),
        new_markdown_cell("Text"),
        "import sys\nfrom tqdm import tqdm\nfor _ in tqdm(range(3)): pass\nprint('done')\nprint('oh', file=sys.stderr)",
        WIDGETS,
        "from tqdm.notebook import tqdm\nfor _ in tqdm(range(2)): pass",
        "SEED",
    )
    done = execute(source, {"SEED": 7}, folder=tmp_path_factory.mktemp("kernel"), progress=lines.append)
    return source, done, lines


@pytest.mark.slow
def test_cells_run_in_order_with_the_given_parameters(executed):
    source, done, lines = executed
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4, 5, 6]
    assert code[-1].outputs[0].data["text/plain"] == "7"
    assert len(source.cells) == 6, "the notebook that was handed over stays as it is"
    assert [line.split()[1] for line in lines] == [f"{n}/6" for n in range(1, 7)]


@pytest.mark.slow
def test_record_of_the_run_and_nothing_else(executed):
    metadata = executed[1].metadata
    assert set(metadata) == {"kernelspec", "language_info", "reclib", "widgets"}
    assert metadata.reclib.seconds > 0
    assert {"python", "torch", "reclib"} <= set(metadata.reclib.versions)


@pytest.mark.slow
def test_progress_bars_go_and_warnings_stay(executed):
    streams = [
        (output.name, output.text.strip())
        for cell in executed[1].cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream"
    ]
    assert streams == [("stdout", "done"), ("stderr", "oh")]


@pytest.mark.slow
def test_only_widgets_on_the_page_are_saved(executed):
    done = executed[1]
    views = [
        o.data[WIDGET_VIEW]["model_id"]
        for c in done.cells
        for o in c.get("outputs", ())
        if WIDGET_VIEW in o.get("data", {})
    ]
    state = done.metadata.widgets[WIDGET_STATE]["state"]
    kinds = sorted(model["model_name"] for model in state.values() if "Style" not in model["model_name"])
    assert views == ["0" * 32]
    assert [kind for kind in kinds if kind != "LayoutModel"] == [
        "HTMLModel",
        "HTMLModel",
        "IntSliderModel",
        "LinkModel",
        "StackModel",
        "VBoxModel",
    ]
    (link,) = [model["state"] for model in state.values() if model["model_name"] == "LinkModel"]
    assert {link["source"][0], link["target"][0]} <= {f"IPY_MODEL_{model}" for model in state}


@pytest.mark.slow
def test_normalising_twice_changes_nothing(executed):
    done = executed[1]
    before = nbformat.writes(done)
    assert nbformat.writes(normalise(done)) == before


def test_a_table_loses_its_address_in_memory():
    table = {"text/html": "<table></table>", "text/plain": "<pandas.Styler at 0x7f8ec2fae8d0>"}
    stray = {"text/plain": "<matplotlib.Axes at 0x7f8ec2fae8d0>"}
    outputs = [new_output("execute_result", data, execution_count=1) for data in (table, stray)]
    cell = normalise(new_notebook(cells=[new_code_cell("table", outputs=outputs)])).cells[0]
    assert cell.outputs[0].data["text/plain"] == "<pandas.Styler>"
    assert cell.outputs[1].data["text/plain"] == stray["text/plain"]  # nothing better to show


def test_unknown_parameters_are_named():
    with pytest.raises(ValueError, match="no SPEED in this notebook; it has SCALE, SEED"):
        execute(notebook(parameters("SEED = 1\nSCALE = 'book'")), {"SPEED": 1})
    with pytest.raises(ValueError, match="has no cell tagged `parameters`"):
        execute(notebook("SEED = 1"), {"SEED": 1})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Saved to /home/ann/run.txt", True),
        (r"C:\Users\ann\run.txt", True),
        ("see https://example.org/home/ann", False),
        ("data/external/ml-1m", False),
    ],
)
def test_folders_of_a_machine_are_found(text, found):
    cell = new_code_cell("x", outputs=[new_output("stream", name="stdout", text=text)])
    assert bool(machine_paths(notebook(cell))) is found


@pytest.fixture
def folder(tmp_path):
    def write(name, *cells):
        path = tmp_path / name
        nbformat.write(notebook(*cells), path)
        return path

    write.path = tmp_path
    return write


@pytest.mark.slow
def test_a_failing_chapter_is_left_as_it_was(folder):
    path = folder("01_fails.ipynb", "x = 1", "raise RuntimeError('broken here')")
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="broken here"):
        rewrite(path, progress=lambda line: None)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_chapter_that_names_a_folder_is_left_as_it_was(folder):
    path = folder("01_tells.ipynb", "print('/home/ann/secret')")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"cell 0: /home/ann/secret"):
        rewrite(path, progress=lambda line: None)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_chapter_is_written_back(folder):
    path = folder("01_works.ipynb", new_markdown_cell("# It works"), "1 + 1")
    rewrite(path, progress=lambda line: None)
    chapter = read(path)
    assert (chapter.number, chapter.title, chapter.widgets, chapter.exercises) == (1, "It works", 0, 0)
    assert chapter.seconds is not None
    assert nbformat.read(path, as_version=4).cells[1].outputs[0].data["text/plain"] == "2"


def test_chapters_in_order_with_what_they_hold(folder):
    folder("02_second.ipynb", new_markdown_cell("# Second\n\n```{exercise} One\n```\n\n:::{exercise}\n:::"))
    folder("01_first.ipynb", new_markdown_cell("text\n# First\n# not this"))
    first, second = chapters(folder.path)
    assert (first.title, second.title, second.exercises, first.seconds) == ("First", "Second", 2, None)
    with pytest.raises(ValueError, match="no chapters"):
        chapters(folder.path / "empty")


def test_status_page_has_run_times_and_versions(tmp_path):
    first = Chapter(1, "First", tmp_path / "01_first.ipynb", 61.2, "2026-03-01", {"torch": "2.13.0"}, 2, 5)
    second = Chapter(2, "Second", tmp_path / "02_second.ipynb", 95.0, "2026-03-02", {"torch": "2.13.0"}, 3, 5)
    page = to_markdown([first, second])
    assert "| 01 [First](../chapters/01_first.ipynb) | 61 s | 2 | 5 | 2026-03-01 |" in page
    assert "all chapters together take 2 min 36 s" in page
    assert "| 02 | 2.13.0 |" in page


def test_an_unknown_chapter_is_refused(monkeypatch, capsys, tmp_path):
    known = [Chapter(1, "First", tmp_path / "01_first.ipynb", None, None, {}, 0, 0)]
    monkeypatch.setattr("reclib.notebooks.chapters", lambda: known)
    assert main(["7"]) == 2
    assert "no chapter 07; there are 01" in capsys.readouterr().err
