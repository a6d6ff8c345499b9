"""The command line, mostly in this process, and as a reader types it where that matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from reclib import notebooks
from reclib.cli import COMMANDS, DATA_COMMANDS, main
from reclib.data import from_log, save_folder
from reclib.tokenizers import SemanticIds

ROOT = Path(__file__).resolve().parents[1]
QUICK = ["--epochs", "3", "--dim", "8", "--layers", "1", "--max-len", "10"]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A log in which the next item mostly follows from the last one."""
    rng = np.random.default_rng(0)
    events = []
    for user in range(80):
        item = int(rng.integers(30))
        for time in range(7):
            events.append((f"u{user}", f"sku{item:02d}", time))
            item = (item + (1 if rng.random() < 0.8 else int(rng.integers(2, 5)))) % 30
    log = from_log(pd.DataFrame(events, columns=["user", "item", "time"]))
    return save_folder(log, tmp_path / "shop")


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book with one small chapter."""
    cells = [
        nbformat.v4.new_markdown_cell("# A toy\n\n```{exercise}\nDo it.\n```"),
        nbformat.v4.new_code_cell('SEED = 0\nSCALE = "book"\nDATASET = "adworld"', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell('import os\nprint(SEED, SCALE, DATASET, os.environ.get("RECLIB_DATA"))'),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["reclib"] = {"seconds": 61.5, "date": "2026-11-22", "versions": {}}
    root = tmp_path / "clone"
    (root / "chapters").mkdir(parents=True)
    nbformat.write(notebook, root / "chapters" / "01_toy.ipynb")
    monkeypatch.setattr(notebooks, "ROOT", root)
    monkeypatch.setattr("reclib.cli.repository_root", lambda: root)
    return root


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m reclib` as a reader runs it."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run([sys.executable, "-m", "reclib", *words], capture_output=True, text=True, env=env, cwd=ROOT)


# ------------------------------------------------------------------------------------------------ help, names


def test_without_words_it_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "python -m reclib train sasrec" in out
    for name in COMMANDS:
        assert f"• {name}" in out


@pytest.mark.parametrize(
    "words", [[name] for name in COMMANDS if name != "data"] + [["data", n] for n in DATA_COMMANDS]
)
def test_every_command_has_help_with_examples(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: python -m reclib {' '.join(words)}" in out
    assert f"python -m reclib {' '.join(words)}" in out.split("Examples:")[1]
    options = [line for line in out.splitlines() if line.startswith("│ --")]
    assert all(len(line.strip("│ ").split()) > 2 or "{" in line or "DIR" in line or "NAME" in line for line in options)


def test_the_help_of_train_names_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    from reclib.experiments.generative import GENERATORS
    from reclib.experiments.protocol import MODELS

    with pytest.raises(SystemExit):
        main(["train", "--help"])
    named = capsys.readouterr().out.split("MODEL: ")[1].split("Options")[0]
    for words in ("; a generator of semantic IDs:", "; or a counting model:"):
        named = named.replace(words, ",")
    assert sorted(named.strip(" .").replace(" ", "").split(",")) == sorted(MODELS + GENERATORS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chapter"], "there is no command 'chapter'; did you mean 'chapters'?"),
        (["experiment", "02"], "there is no command 'experiment'; did you mean 'experiments'?"),
        (["xyzzy"], "there is no command 'xyzzy'; choose from chapters, run, data"),
        (["data", "lst"], "there is no command 'lst'; did you mean 'list'?"),
        (["data", "fetch", "movielens1m"], "no data set 'movielens1m'; did you mean 'movielens-1m'?"),
        (["data", "verify", "beauty"], "did you mean 'amazon2014-beauty'?"),
        (["data", "path", "adworld"], "adworld is simulated"),
        (["data", "list", "--data-dir", "gone"], "root: the data folder gone does not exist"),
        (["experiments", "99"], "chapter 99 has no experiment; there are"),
        (["experiments", "02", "--seeds", "4-0"], "seeds: '4-0' counts down; write '0-4'"),
        (["ledger", "--paper", "Zhai"], "paper: 'Zhai' has no claims"),
        (["ledger", "--json", "--markdown"], "--json and --markdown: choose one of them"),
        (["ledger", "--markdown", "--paper", "x"], "--paper: the page of the book holds all papers"),
        (["train", "sasrek", "--dataset", "adworld"], "MODEL: there is no model 'sasrek'; did you mean 'sasrec'?"),
        (["train", "sasrec", "--dataset", "no/such"], "the folder no/such does not exist"),
        (["train", "sasrec", "--dataset", "adworld", "--beam", "9"], "--tokenizer, --beam: only for tiger"),
        (["tokenize", "--tokenizer", "rqkmean", "--dataset", "adworld", "--out", "x"], "did you mean 'rqkmeans'?"),
        (["data", "convert", "gone.csv", "--to", "x"], "TABLE: the file gone.csv does not exist"),
    ],
)
def test_errors_of_use_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "meant"),
    [(["chapters", "--jsn"], "--json"), (["data", "fetch", "movielens-1m", "--yse"], "--yes")],
)
def test_mistyped_options_are_told_the_nearest(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert meant in err.split("Perhaps you meant")[1]
    assert out == ""


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(paper: str | None = None) -> list[dict[str, Any]]:
        return [{"verdict": np.zeros(2).reshape(3)}]  # a ValueError, but numpy's

    monkeypatch.setattr("reclib.ledger.to_rows", broken)
    with pytest.raises(ValueError, match="cannot reshape"):
        main(["ledger"])


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reclib.ledger.to_rows", interrupted)
    monkeypatch.setattr("reclib.experiments.results.run_experiment", interrupted)
    assert main(["ledger"]) == 130
    assert main(["experiments", "02"]) == 130
    assert capsys.readouterr().err == (
        "\nstopped\n\nstopped; finished runs are kept; the same command goes on from there\n"
    )


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error() -> None:
    pipe = f"{sys.executable} -m reclib ledger --json | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", pipe], capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[0] == "["


# ------------------------------------------------------------------------------------- what works without torch

WITHOUT_TORCH = """
import importlib.abc, sys

class NoTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("torch is not installed", name="torch")

sys.meta_path.insert(0, NoTorch())
"""


def run_without_torch(words: list[str], first: str = "") -> subprocess.CompletedProcess[str]:
    code = f"{WITHOUT_TORCH}\nfrom reclib.cli import main\n{first}\nsys.exit(main({words!r}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["ledger --json", "ledger --markdown", "data list", "data list --json", "--help"])
def test_these_commands_do_not_need_torch(words: str) -> None:
    done = run_without_torch(words.split())
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.slow
def test_these_commands_do_not_need_torch_either(book: Path, shop: Path) -> None:
    chapters = run_without_torch(
        ["chapters", "--json"],
        f"from pathlib import Path; from reclib import notebooks; notebooks.ROOT = Path({str(book)!r})",
    )
    assert chapters.returncode == 0, chapters.stderr
    assert json.loads(chapters.stdout)[0]["title"] == "A toy"
    assert run_without_torch(["data", "path", "shop", "--data-dir", str(shop.parent)]).stdout == f"{shop}\n"
    assert "torch is not installed" in run_without_torch(["train", "sasrec", "--dataset", str(shop)]).stderr


# --------------------------------------------------------------------------------------------- chapters and run


def test_chapters(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chapters", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "number": 1,
            "title": "A toy",
            "path": "chapters/01_toy.ipynb",
            "seconds": 61.5,
            "widgets": 0,
            "exercises": 1,
            "status": "run on 2026-11-22",
        }
    ]
    assert main(["chapters", "--markdown"]) == 0
    assert "| 01 | A toy | 62 s | 0 | 1 | run on 2026-11-22 |" in capsys.readouterr().out.splitlines()
    assert main(["chapters"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "01",
        "A",
        "toy",
        "62",
        "s",
        "0",
        "1",
        "run",
        "on",
        "2026-11-22",
    ]


@pytest.mark.slow
def test_run_writes_a_notebook_of_its_own(book: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chapter = book / "chapters" / "01_toy.ipynb"
    before = chapter.read_bytes()
    assert main(["run", "1", "--seed", "7", "--scale", "smoke", "--data-dir", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    path = Path(out.strip())
    assert path == book / "data" / "runs" / "01_toy-scale-smoke-seed-7.ipynb"
    printed = nbformat.read(path, as_version=4).cells[-1].outputs[0].text
    assert printed.startswith(f"7 smoke adworld {tmp_path}")
    assert "SCALE = 'smoke', SEED = 7" in err
    assert chapter.read_bytes() == before
    assert str(tmp_path) not in os.environ.get("RECLIB_DATA", "")


def test_run_never_touches_the_book(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "01", "--out", str(book / "chapters")]) == 2
    assert "belongs to the book; choose a folder outside" in capsys.readouterr().err
    assert main(["run", "02"]) == 2
    assert "NN: there is no chapter '02'; there are 01" in capsys.readouterr().err


def test_run_of_a_chapter_that_fails(book: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chapter = book / "chapters" / "01_toy.ipynb"
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells[-1].source = "raise RuntimeError('it broke')"
    nbformat.write(notebook, chapter)
    assert main(["run", "01"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "it broke" in err
    assert "01_toy.ipynb failed; nothing was written" in err
    assert not (book / "data" / "runs").exists()


# ------------------------------------------------------------------------------------------ ledger, experiments


@pytest.mark.slow
def test_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    from reclib import ledger

    assert main(["ledger", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == [claim.id for claim in ledger.claims()]
    keys = ["id", "paper", "chapter", "claim", "paper_value", "statistic", "value", "low", "high", "seeds", "verdict"]
    assert list(rows[0]) == keys
    paper = rows[0]["paper"]
    assert main(["ledger", "--json", "--paper", paper]) == 0
    assert {row["paper"] for row in json.loads(capsys.readouterr().out)} == {paper}
    assert main(["ledger"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(rows) + 1
    assert main(["ledger", "--markdown"]) == 0
    assert capsys.readouterr().out == ledger.to_markdown()


def test_experiments_passes_its_options_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[object] = []

    def record(number: str, seeds: list[int], **options: object) -> Path:
        calls.append((number, seeds, options, os.environ.get("RECLIB_DATA")))
        return Path("results.parquet")

    monkeypatch.setattr("reclib.experiments.results.run_experiment", record)
    monkeypatch.setenv("RECLIB_DATA", "there")
    words = ["experiments", "02", "--seeds", "0-2,7", "--scale", "smoke", "--force", "--data-dir", str(tmp_path)]
    assert main(words) == 0
    assert calls == [("02", [0, 1, 2, 7], {"force": True, "scale": "smoke"}, f"{tmp_path}{os.pathsep}there")]
    assert capsys.readouterr().out == "results.parquet\n"
    assert os.environ["RECLIB_DATA"] == "there"


# ------------------------------------------------------------------------------------------------------- train


@pytest.mark.slow
def test_train_prints_json_alone_on_stdout(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    done = run("train", "sasrec", "--dataset", str(shop), "--seed", "3", "--json", "--out", str(out), *QUICK)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["model"], report["dataset"], report["seed"]) == ("sasrec", "shop", 3)
    assert (report["users"], report["items"], report["interactions"]) == (80, 30, 560)
    assert list(report["metrics"]) == ["popularity", "transitions", "sasrec"]
    for metrics in report["metrics"].values():
        for part in ("valid", "test"):
            assert 0 <= metrics[f"{part}/ndcg@10"] <= metrics[f"{part}/recall@10"] <= 1
    assert report["metrics"]["transitions"]["test/ndcg@10"] > 2 * report["metrics"]["popularity"]["test/ndcg@10"]
    assert report["recipe"]["epochs"] == report["epochs"] == 3
    assert report["recipe"]["dim"] == 8
    assert Path(report["checkpoint"]).parent == out
    assert "epoch" in done.stderr  # the progress bar


def test_train_agrees_with_the_protocol(shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from reclib.data import load_dataset
    from reclib.experiments import protocol

    words = ["train", "gru4rec", "--dataset", str(shop), "--json", "--out", str(tmp_path), "--seed", "1", *QUICK]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    split = load_dataset(str(shop)).leave_one_out()
    recipe = protocol.Recipe(epochs=3, dim=8, layers=1, max_len=10)
    model, fit = protocol.train("gru4rec", split, recipe, seed=1, progress=False)
    assert report["metrics"]["gru4rec"] == protocol.measure(model, split)
    assert report["best_epoch"] == fit.best_epoch
    assert report["metrics"]["popularity"] == protocol.measure(protocol.count("popularity", split.train), split)


def test_train_shows_a_table(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "transitions", "--dataset", str(shop)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "model",
        "valid/recall@10",
        "valid/ndcg@10",
        "valid/mrr",
        "test/recall@10",
        "test/ndcg@10",
        "test/mrr",
    ]
    assert [line.split()[0] for line in lines[1:]] == ["popularity", "counting"]


def test_an_interrupted_training_goes_on_with_the_same_result(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from reclib.training import loop

    words = ["train", "sasrec", "--dataset", str(shop), "--json", *QUICK]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    whole = json.loads(capsys.readouterr().out)

    save, saved = loop._save, []

    def interrupted(*arguments: Any) -> None:
        save(*arguments)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", interrupted)
    assert main([*words, "--out", str(tmp_path / "parts")]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert "stopped; finished epochs are kept in" in err
    assert "Traceback" not in err
    monkeypatch.undo()
    assert main([*words, "--out", str(tmp_path / "parts")]) == 0
    out, err = capsys.readouterr()
    assert "going on from" in err
    assert json.loads(out)["metrics"] == whole["metrics"]
    assert main([*words, "--out", str(tmp_path / "parts"), "--force"]) == 0
    out, err = capsys.readouterr()
    assert "going on from" not in err
    assert json.loads(out)["metrics"] == whole["metrics"]


def test_another_log_of_the_same_name_gets_another_checkpoint(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from reclib.data import read_folder

    words = ["train", "sasrec", "--dataset", str(shop), "--json", "--out", str(tmp_path / "runs"), *QUICK]
    assert main(words) == 0
    log = read_folder(shop)
    save_folder(log.select(log.user > 0), shop, overwrite=True)
    assert main(words) == 0
    assert len(list((tmp_path / "runs").glob("*.safetensors"))) == 2


def test_train_on_a_log_with_repeats_does_not_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame([(u, (u + t) % 25 if t < 5 else u % 25, t) for u in range(50) for t in range(6)])
    table.columns = pd.Index(["user", "item", "time"])
    folder = save_folder(from_log(table), tmp_path / "repeats")
    assert main(["train", "popularity", "--dataset", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["mask_history"] is False
    assert "not masked (repeats)" in err


def test_repeats_that_were_not_held_out_do_not_matter() -> None:
    from reclib.cli import _held_out_repeats

    early = pd.DataFrame({"user": [0] * 5, "item": [1, 1, 2, 3, 4], "time": range(5)})
    assert not _held_out_repeats(from_log(early))
    late = pd.DataFrame({"user": [0] * 5 + [1] * 2, "item": [1, 2, 3, 1, 4, 5, 5], "time": range(7)})
    assert _held_out_repeats(from_log(late))
    assert not _held_out_repeats(from_log(late.iloc[4:].assign(item=[4, 5, 5])))  # too short to be held out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "0"], "--epochs: must be positive, got 0"),
        (["--dropout", "1"], "--dropout: a share in [0, 1), got 1.0"),
        (["--heads", "3", "--dim", "8"], "heads: 3 must divide dim = 8"),
    ],
)
def test_train_says_which_option_is_wrong(
    shop: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "sasrec", "--dataset", str(shop), "--out", str(tmp_path / "runs"), *words]) == 2
    assert message in capsys.readouterr().err


def test_train_needs_a_catalogue_and_histories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = save_folder(from_log(pd.DataFrame({"user": [0] * 5, "item": range(5)}), time=None), tmp_path / "few")
    assert main(["train", "popularity", "--dataset", str(few)]) == 2
    assert "few has only 5 items; top-20 lists need 20 and more" in capsys.readouterr().err
    short = save_folder(from_log(pd.DataFrame({"user": range(30), "item": range(30)}), time=None), tmp_path / "short")
    assert main(["train", "popularity", "--dataset", str(short)]) == 2
    assert "leave_one_out: no user has three events" in capsys.readouterr().err


def test_train_uses_the_books_recipe_on_the_books_sets() -> None:
    from dataclasses import replace

    from reclib.cli import Train
    from reclib.experiments import ch02_sequential as book

    (study,) = (study for study in book.Config().studies if study.dataset == "movielens-1m")
    log = from_log(pd.DataFrame({"user": [0] * 3, "item": range(3)}), time=None, name="movielens-1m")
    assert Train("sasrec", "movielens-1m")._recipe(log) == study.recipe
    assert Train("sasrec", "movielens-1m", epochs=1)._recipe(log) == replace(study.recipe, epochs=1)


def test_train_uses_the_books_recipe_for_generators() -> None:
    from dataclasses import replace

    from reclib.cli import Train
    from reclib.experiments import ch04_semantic_ids as book
    from reclib.experiments.generative import GenerativeRecipe

    log = from_log(pd.DataFrame({"user": [0] * 3, "item": range(3)}), time=None, name="amazon2018-scientific")
    for study in book.Config().studies:
        assert Train("tiger", study.dataset)._recipe(replace(log, name=study.dataset)) == study.recipe
    assert Train("tiger", "elsewhere")._recipe(replace(log, name="elsewhere")) == GenerativeRecipe()


@pytest.mark.slow
def test_train_in_the_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "sasrec", "--dataset", "adworld-tiny", "--json", "--out", str(tmp_path), *QUICK]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)
    assert set(first["metrics"]) == {"popularity", "transitions", "sasrec"}
    assert main([*words, "--seed", "1"]) == 0  # another seed is another world
    assert json.loads(capsys.readouterr().out)["metrics"]["popularity"] != first["metrics"]["popularity"]


# ------------------------------------------------------------------------------------------------- your own log


@pytest.fixture
def titled(tmp_path: Path) -> Path:
    """A log with titles and categories: 60 items in 6 themes, the next item is mostly of the same theme."""
    rng = np.random.default_rng(0)
    words = np.array(["lamp", "tent", "violin", "piano", "camera", "stove"])
    colours = np.array(["red", "green", "blue", "black", "white"])
    items = pd.DataFrame(
        {
            "title": [f"{colours[i % 5]} {words[i // 10]} model{i}" for i in range(60)],
            "categories": [["things", str(words[i // 10]), str(colours[i % 5])] for i in range(60)],
        },
        index=pd.Index([f"sku{i:02d}" for i in range(60)], name="item"),
    )
    events = []
    for user in range(100):
        theme = int(rng.integers(6))
        for time, item in enumerate(rng.permutation(10)[:7]):
            events.append((f"u{user}", f"sku{10 * theme + item:02d}", time))
    log = from_log(pd.DataFrame(events, columns=["user", "item", "time"]), items=items)
    return save_folder(log, tmp_path / "titled")


@pytest.mark.slow
def test_tokenize_then_train(titled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tokenize", "--dataset", str(titled), "--levels", "2", "--codes", "6", "--dim", "8"]
    for tokenizer in ("rqkmeans", "rqvae", "balanced", "unisid"):
        out = tmp_path / tokenizer
        assert main([*words, "--tokenizer", tokenizer, "--out", str(out), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        ids = SemanticIds.load(out)
        assert (ids.n_items, ids.levels, ids.sizes) == (60, 2, (6, 6))
        assert report["collision_rate"] == pytest.approx(ids.collision_rate)
        assert report["usage@1"] == pytest.approx(ids.usage(0))
        assert report["perplexity@2"] == pytest.approx(ids.perplexity(1))

    assert main([*words, "--tokenizer", "rqkmeans", "--out", str(tmp_path / "rqkmeans")]) == 2
    assert "holds semantic IDs already" in capsys.readouterr().err
    quick = ["--epochs", "8", "--dim", "32", "--layers", "1", "--max-len", "6", "--batch-size", "8", "--lr", "0.01"]
    train = ["train", "tiger_decoder", "--dataset", str(titled), "--out", str(tmp_path / "runs"), *quick]
    assert main([*train, "--tokenizer", str(tmp_path / "rqkmeans"), "--beam", "30", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["semantic_ids"]["collision_rate"] == SemanticIds.load(tmp_path / "rqkmeans").collision_rate
    assert report["recipe"]["beam"] == 30
    metrics = report["metrics"]
    assert metrics["tiger_decoder"]["test/recall@10"] > 1.5 * metrics["popularity"]["test/recall@10"]


@pytest.mark.slow
def test_train_tiger_makes_its_own_ids(titled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "tiger", "--dataset", str(titled), "--out", str(tmp_path / "runs"), "--epochs", "1", "--dim", "8"]
    assert main([*words, "--layers", "1", "--max-len", "6"]) == 0
    out, err = capsys.readouterr()
    assert "tiger" in out
    assert "of the items got no sequence of their own" in err


def test_train_tiger_says_what_is_missing(
    shop: Path, titled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "tiger", "--dataset", str(shop), "--out", str(tmp_path)]) == 2
    assert "items: no column of text" in capsys.readouterr().err
    SemanticIds.from_codes(torch.zeros(7, 2, dtype=torch.long), (1, 1)).save(tmp_path / "seven")
    assert main(["train", "tiger", "--dataset", str(titled), "--tokenizer", str(tmp_path / "seven")]) == 2
    assert "has 7 items, the log 60" in capsys.readouterr().err


def test_convert_then_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "clicks.csv"
    rows = [f"c{c},{(c * 3 + t) % 40},2024-01-{t + 1:02d}T00:00:00Z,{c}" for t in range(5) for c in range(60)]
    table.write_text("customer,sku,when,price\n" + "\n".join(rows) + "\n")
    facts = tmp_path / "facts.jsonl"
    facts.write_text("".join(json.dumps({"sku": sku, "title": f"thing {sku}"}) + "\n" for sku in range(40)))
    columns = ["--user", "customer", "--item", "sku", "--time", "when", "--items", str(facts)]
    assert main(["data", "convert", str(table), "--to", str(tmp_path / "shop"), *columns]) == 0
    out, err = capsys.readouterr()
    assert Path(out.strip()) == tmp_path / "shop"
    assert "60 users, 40 items, 300 events" in err
    assert main(["train", "transitions", "--dataset", str(tmp_path / "shop"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["transitions"]["test/recall@10"] > 0.9
    assert main(["data", "convert", str(table), "--to", str(tmp_path / "shop"), *columns]) == 2
    assert "exists already" in capsys.readouterr().err


def test_convert_reads_three_kinds_of_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"], "time": [1, 2, 3]})
    frame.to_csv(tmp_path / "log.csv.gz", index=False)
    frame.to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "log.parquet")
    for name in ("log.csv.gz", "log.jsonl", "log.parquet"):
        assert main(["data", "convert", str(tmp_path / name), "--to", str(tmp_path / f"{name}-out")]) == 0
    contents = {path.read_bytes() for path in tmp_path.glob("log.*-out/sequences.txt.gz")}
    assert len(contents) == 1
    capsys.readouterr()
    for name, text, message in (
        ("log.txt", "user", "log.txt must end in .csv"),
        ("bad.jsonl", "{", "TABLE: cannot read"),
        ("bad.parquet", "x", "TABLE: cannot read"),
        ("other.csv", "a,b\n1,2\n", "user: there is no column 'user'; the table has a, b"),
    ):
        (tmp_path / name).write_text(text)
        assert main(["data", "convert", str(tmp_path / name), "--to", str(tmp_path / "no")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_list_and_path_show_your_own_log(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--json", "--data-dir", str(shop.parent)]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["shop"]["path"] == str(shop)
    assert rows["adworld"]["simulated"] is True
    assert rows["movielens-1m"]["interactions"] == 999_611
    assert main(["data", "path", "shop", "--data-dir", str(shop.parent)]) == 0
    assert capsys.readouterr().out == f"{shop}\n"


def test_verify_checks_your_own_log(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", str(shop)]) == 0
    assert capsys.readouterr().out == f"{shop}: sound (80 users, 30 items, 560 events)\n"
    (shop / "items.jsonl.gz").write_bytes(b"")
    assert main(["data", "verify", "shop", "--data-dir", str(shop.parent)]) == 1
    assert "items.jsonl.gz" in capsys.readouterr().out


def test_list_is_a_table(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--data-dir", str(shop.parent)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["data", "set", "users", "items", "interactions", "time", "where"]
    assert any(line.startswith("shop") and line.endswith(str(shop)) for line in lines)
