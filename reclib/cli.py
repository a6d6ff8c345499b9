"""The command line: `python -m reclib COMMAND`. One frozen dataclass per command, its fields are the options.

Results go to stdout (with `--json` nothing else does), progress and errors to stderr. Exit status: 0 done, 1 a check
or a run failed, 2 the call cannot be carried out as given, 130 stopped by Ctrl-C. Only commands that compute
something import torch.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Union, cast, runtime_checkable

import tyro
from tyro.conf import Positional, arg, subcommand

from reclib.data.catalogue import (
    CATALOGUE,
    WORLD,
    MissingDataset,
    download_root,
    find_folder,
    lookup,
    nearest,
    repository_root,
    search_folders,
)

if TYPE_CHECKING:
    from torch import nn

    from reclib.data import Interactions
    from reclib.evaluation import Recommender
    from reclib.experiments.protocol import Recipe
    from reclib.tokenizers import SemanticIds

Scale = Literal["smoke", "book", "full"]


def _option(default: str, metavar: str) -> Any:
    """How the help shows an option that may be left out."""
    return arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


Folder = Annotated[str | None, _option("$RECLIB_DATA, then data/external", "DIR")]
Whole = Annotated[int | None, _option("the book's", "INT")]
Fraction = Annotated[float | None, _option("the book's", "FLOAT")]
Patience = Annotated[int | None, _option("never stop early", "INT")]
SomeScale = Annotated[Scale | None, _option("the chapter's", "{smoke,book,full}")]
Mirror = Annotated[str | None, _option("none", "URL")]
Facts = Annotated[str | None, _option("only the ids", "TABLE")]


class Stopped(Exception):
    """Ctrl-C; the message says what is kept and how to go on."""


@runtime_checkable
class Command(Protocol):
    """What every command is: a dataclass of options, with EXAMPLES for its help."""

    def run(self) -> int:
        """Do it and return the exit status."""


# -------------------------------------------------------------------------------------------------- chapters


@dataclass(frozen=True)
class Chapters:
    """List the chapters with their run time and status."""

    EXAMPLES: ClassVar[str] = """
        python -m reclib chapters
        python -m reclib chapters --json"""

    json: bool = False  # machine-readable: number, title, path, seconds, widgets, exercises, status
    markdown: bool = False  # a table for a page

    def run(self) -> int:  # noqa: D102
        _one_of(json=self.json, markdown=self.markdown)
        from reclib import notebooks

        rows = [
            {
                "number": chapter.number,
                "title": chapter.title,
                "path": os.path.relpath(chapter.path, repository_root()),
                "seconds": chapter.seconds,
                "widgets": chapter.widgets,
                "exercises": chapter.exercises,
                "status": f"run on {chapter.date}" if chapter.date else "never run",
            }
            for chapter in notebooks.chapters()
        ]
        if self.json:
            _print_json(rows)
            return 0
        cells = [
            [
                f"{row['number']:02d}",
                row["title"],
                "–" if row["seconds"] is None else f"{row['seconds']:.0f} s",
                row["widgets"],
                row["exercises"],
                row["status"],
            ]
            for row in rows
        ]
        _print_table(["", "chapter", "run time", "widgets", "exercises", "status"], cells, markdown=self.markdown)
        return 0


@dataclass(frozen=True)
class Run:
    """Run a chapter with other parameters. The result goes to a notebook of its own; the book's stays as it is."""

    EXAMPLES: ClassVar[str] = """
        python -m reclib run 02 --scale smoke
        python -m reclib run 02 --dataset movielens-1m --seed 3 --out ~/mine"""

    number: Annotated[Positional[str], arg(metavar="NN")]  # number of the chapter
    scale: SomeScale = None  # smoke: does it run; book: as rendered; full: without a time limit
    dataset: Annotated[str | None, _option("the chapter's", "NAME")] = None  # data set of the chapter's experiment
    seed: Annotated[int | None, _option("the chapter's", "INT")] = None  # of everything random
    data_dir: Folder = None  # look for data sets here first
    out: Annotated[str | None, _option("data/runs", "DIR")] = None  # folder for the notebook

    def run(self) -> int:  # noqa: D102
        import nbformat
        from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

        from reclib import notebooks

        known = {chapter.number: chapter.path for chapter in notebooks.chapters()}
        if not self.number.isdigit() or int(self.number) not in known:
            there = ", ".join(f"{number:02d}" for number in known)
            raise ValueError(f"NN: there is no chapter {self.number!r}; there are {there}")
        path = known[int(self.number)]
        given = {"SCALE": self.scale, "DATASET": self.dataset, "SEED": self.seed}
        parameters = {name: value for name, value in given.items() if value is not None}
        folder = (Path(self.out) if self.out else _runs()).resolve()
        if folder.is_relative_to(path.parent.resolve()):
            raise ValueError(f"--out: {folder} belongs to the book; choose a folder outside {path.parent}")
        name = "-".join([path.stem, *(f"{key.lower()}-{value}" for key, value in parameters.items())])
        target = folder / f"{name.replace(os.sep, '_')}.ipynb"
        _log(f"{path.name} with {', '.join(f'{k} = {v!r}' for k, v in parameters.items()) or 'its own parameters'}")
        with _data_dir(self.data_dir), _stoppable("nothing was written"):
            try:
                notebook = notebooks.execute(
                    nbformat.read(path, as_version=4), parameters, folder=path.parent, progress=_log
                )
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                _log(f"{error}\nerror: {path.name} failed; nothing was written")
                return 1
        folder.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)
        print(target)
        return 0


# ------------------------------------------------------------------------------------------------------ data


@dataclass(frozen=True)
class DataList:
    """List the data sets, with their size and where they are."""

    EXAMPLES: ClassVar[str] = """
        python -m reclib data list
        python -m reclib data list --json --data-dir ~/logs"""

    json: bool = False  # machine-readable
    data_dir: Folder = None  # look here first

    def run(self) -> int:  # noqa: D102
        rows: list[dict[str, Any]] = []
        for info in CATALOGUE.values():
            try:
                path: str | None = str(find_folder(info.name, self.data_dir))
            except MissingDataset:
                path = None
            counts = {"users": info.users, "items": info.items, "interactions": info.interactions}
            about = {"title": info.title, "time": info.time_stamps, "download": info.download}
            rows.append({"name": info.name, **counts, **about, "path": path})
        for folder in search_folders(self.data_dir):
            for path_of_own in sorted(folder.glob("*/sequences.txt.gz")):
                name = path_of_own.parent.name
                if name not in {row["name"] for row in rows}:
                    rows.append({"name": name, "title": "your own log", "path": str(path_of_own.parent)})
        if self.json:
            _print_json([{"name": WORLD, "title": "The simulated ad world", "path": None, "simulated": True}, *rows])
            return 0
        cells = [[WORLD, "", "", "", "seconds", "simulated, always there"]]
        for row in rows:
            numbers = [f"{row[key]:,}" if row.get(key) else "" for key in ("users", "items", "interactions")]
            where = row["path"] or f"not here; data fetch {row['name']} ({row['download']})"
            cells.append([row["name"], *numbers, row.get("time", ""), where])
        _print_table(["data set", "users", "items", "interactions", "time", "where"], cells)
        return 0


@dataclass(frozen=True)
class DataFetch:
    """Download a data set from its official address. Shows the terms and asks first.

    A broken download goes on where it stopped. Hashes that are known are checked; where nobody published one, the
    first download is recorded and later ones must match it. The counts are compared with the known ones.
    """

    EXAMPLES: ClassVar[str] = """
        python -m reclib data fetch movielens-small
        python -m reclib data fetch amazon2014-beauty --yes
        python -m reclib data fetch movielens-1m --mirror http://classroom.example/files"""

    name: Annotated[Positional[str], arg(metavar="NAME")]  # see `data list`
    yes: bool = False  # accept the terms without being asked
    force: bool = False  # replace a copy that is there already
    data_dir: Annotated[str | None, _option("data/external", "DIR")] = None  # put it here
    mirror: Mirror = None  # take the files from this address instead of the official one
    allow_changed: bool = False  # accept files with other hashes or counts than the known ones

    def run(self) -> int:  # noqa: D102
        info = lookup(self.name)
        _log(f"{info.title}\n{info.homepage}\n\n{info.terms}\nCite: {info.cite}\n")
        if not self.yes:
            if not sys.stdin.isatty():
                raise ValueError("--yes: nobody is there to accept these terms; pass --yes if you do")
            print(f"Accept these terms and download {info.download}? [yes/no] ", end="", file=sys.stderr, flush=True)
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                raise ValueError("the terms were not accepted; nothing was downloaded")
        from reclib.data import fetch

        root = Path(self.data_dir) if self.data_dir else download_root()
        with _stoppable("run the same command again: the download goes on where it stopped"):
            path = fetch.fetch(
                info,
                root,
                mirror=self.mirror,
                allow_changed=self.allow_changed,
                overwrite=self.force,
                say=_log,
            )
        print(path)
        return 0


@dataclass(frozen=True)
class DataVerify:
    """Check data sets, or your own folder: every file loads, counts are right, nothing changed since it was fetched."""

    EXAMPLES: ClassVar[str] = """
        python -m reclib data verify
        python -m reclib data verify movielens-1m ~/logs/my-shop"""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME …]")] = ()  # default: known sets that are here
    data_dir: Folder = None  # look here first

    def run(self) -> int:  # noqa: D102
        folders: dict[str, Path] = {}
        for name in self.names or CATALOGUE:
            try:
                folders[name] = find_folder(name, self.data_dir)
            except MissingDataset:
                if self.names:
                    raise
        if not folders:
            raise ValueError("none of the data sets is here; see `python -m reclib data list`")
        from reclib.data import fetch, load_dataset
        from reclib.data.files import DataError

        failed = False
        for name, folder in folders.items():
            note: str | None = None
            try:
                if name in CATALOGUE:
                    problems = fetch.verify(CATALOGUE[name], folder)
                    note = None if problems else fetch.order_note(CATALOGUE[name], folder)
                else:
                    log, problems = load_dataset(name, self.data_dir), []
                    note = f"{log.n_users:,} users, {log.n_items:,} items, {len(log):,} events"
            except DataError as error:
                problems = [str(error)]
            failed |= bool(problems)
            print(f"{name}: {'; '.join(problems) or 'sound'}{f' ({note})' if note else ''}")
        return int(failed)


@dataclass(frozen=True)
class DataPath:
    """Print the folder of a data set."""

    EXAMPLES: ClassVar[str] = """
        ls $(python -m reclib data path movielens-1m)"""

    name: Annotated[Positional[str], arg(metavar="NAME")]  # see `data list`
    data_dir: Folder = None  # look here first

    def run(self) -> int:  # noqa: D102
        print(find_folder(self.name, self.data_dir))
        return 0


@dataclass(frozen=True)
class DataConvert:
    """Turn your own log into a folder that everything here reads: a table with one row per event.

    The table may be CSV, JSON lines or Parquet. From Python: `from_log` and `save_folder` of `reclib.data`. The
    format itself is in data/README.md.
    """

    EXAMPLES: ClassVar[str] = """
        python -m reclib data convert clicks.csv --to my-shop --user customer --item sku --time clicked_at
        python -m reclib train sasrec --dataset my-shop"""

    log: Annotated[Positional[str], arg(metavar="TABLE")]  # .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet
    to: str  # folder to write
    user: str = "user"  # column with the user
    item: str = "item"  # column with the item
    time: str | None = "time"  # column with seconds or dates; None: the rows are in order already
    items: Facts = None  # table with one row per item and a column named as --item
    force: bool = False  # replace a folder that is there already

    def run(self) -> int:  # noqa: D102
        from reclib.data import from_log, save_folder

        items = None
        if self.items is not None:
            items = _read_table("--items", self.items)
            if self.item not in items.columns:
                raise ValueError(f"--items: {self.items} has no column {self.item!r} (named by --item)")
            items = items.set_index(self.item)
        table = _read_table("TABLE", self.log)
        log = from_log(table, self.user, self.item, self.time, items, name=Path(self.to).name)
        path = save_folder(log, self.to, overwrite=self.force)
        _log(f"{log.n_users:,} users, {log.n_items:,} items, {len(log):,} events")
        print(path)
        return 0


# ----------------------------------------------------------------------------------------- runs and verdicts


@dataclass(frozen=True)
class Experiments:
    """Record a chapter's experiment over several seeds. Finished runs are kept and skipped."""

    EXAMPLES: ClassVar[str] = """
        python -m reclib experiments 02 --seeds 0-4
        python -m reclib experiments 02 --seeds 0 --scale smoke --force"""

    number: Annotated[Positional[str], arg(metavar="NN")]  # number of the chapter
    seeds: str = "0-4"  # "0-4" or "0,3,7"
    scale: Scale = "full"  # only full is the record; others go to a folder of their own
    force: bool = False  # run again what is recorded
    data_dir: Folder = None  # look for data sets here first

    def run(self) -> int:  # noqa: D102
        from reclib.experiments import results

        seeds = results.seeds(self.seeds)
        with _data_dir(self.data_dir), _stoppable("finished runs are kept; the same command goes on from there"):
            path = results.run_experiment(self.number, seeds, force=self.force, scale=self.scale)
        print(path)
        return 0


@dataclass(frozen=True)
class Ledger:
    """Show the ledger: each paper's claims, the test fixed in advance, and the verdict from the recorded runs."""

    EXAMPLES: ClassVar[str] = """
        python -m reclib ledger
        python -m reclib ledger --json --paper "HSTU (Zhai et al., 2024)"
        python -m reclib ledger --markdown > ledger.md"""

    json: bool = False  # id, paper, chapter, claim, paper_value, statistic, value, low, high, seeds, verdict
    markdown: bool = False  # the page of the book
    paper: Annotated[str | None, _option("all", "NAME")] = None  # claims of one paper only

    def run(self) -> int:  # noqa: D102
        _one_of(json=self.json, markdown=self.markdown)
        from reclib import ledger

        if self.markdown:
            if self.paper is not None:
                raise ValueError("--paper: the page of the book holds all papers; leave it out, or use --json")
            print(ledger.to_markdown(), end="")
            return 0
        rows = ledger.to_rows(self.paper)
        if self.json:
            _print_json(rows)
            return 0
        cells = []
        for row in rows:
            value = "–" if row["value"] is None else f"{row['value']:.4g}"
            if row["value"] is not None and row["low"] is not None and row["low"] != row["high"]:
                value += f" ({row['low']:.4g} … {row['high']:.4g})"
            paper_value = "–" if row["paper_value"] is None else f"{row['paper_value']:.4g}"
            cells.append([row["verdict"], row["id"], value, paper_value, row["seeds"] or "–", row["claim"]])
        _print_table(["verdict", "claim", "here (95 % interval)", "paper", "seeds", ""], cells)
        return 0


# ----------------------------------------------------------------------------------------------------- train


@dataclass(frozen=True)
class Train:
    """Train a model on any log by the book's protocol, and measure it beside popularity and counting.

    Leave-one-out: the last item of each user is the test, the one before it validation. The epoch is chosen by
    validation NDCG@10. The whole catalogue is ranked, without the items the user already has (unless held-out items
    are repeats of earlier ones: then nothing can be left out, and the output says so).

    MODEL: gru4rec, sasrec, sasrec_bce1, sasrec_gbce, sasrec_gbce_centred, hstu, hstu_position, hstu_scaled,
    hstu_scaled_position; a generator of semantic IDs: tiger, tiger_decoder; or a counting model: popularity,
    transitions, itemknn. Options that are not given come from the book's recorded run on this data set, or for your own
    log from `reclib.experiments.protocol.Recipe` (generators: `reclib.experiments.generative.GenerativeRecipe`).

    A checkpoint is written after every epoch: after Ctrl-C the same command goes on from there.
    """

    EXAMPLES: ClassVar[str] = """
        python -m reclib train sasrec --dataset movielens-small --seed 0
        python -m reclib train hstu --dataset ~/logs/my-shop --epochs 40 --patience 5 --json
        python -m reclib train tiger --tokenizer rqkmeans --dataset amazon2018-scientific
        python -m reclib data convert clicks.csv --to my-shop   # your own log, see data/README.md"""

    model: Annotated[Positional[str], arg(metavar="MODEL")]  # see above
    dataset: str  # a name of `data list`, or a folder in the format of data/README.md
    seed: int = 0  # of weights, batches and dropout (and of the world, for adworld)
    json: bool = False  # print one JSON object and nothing else
    data_dir: Folder = None  # look for data sets here first
    out: Annotated[str | None, _option("data/runs", "DIR")] = None  # folder for the weights
    force: bool = False  # start anew instead of going on from a checkpoint
    max_len: Whole = None  # longest history in one pass
    dim: Whole = None  # width of items and hidden states
    layers: Whole = None  # blocks
    heads: Whole = None  # attention heads
    dropout: Fraction = None  # share of activations dropped in training
    batch_size: Whole = None  # sequences
    lr: Fraction = None  # peak learning rate
    epochs: Whole = None  # passes over the data
    patience: Patience = None  # epochs without a better validation value before stopping
    negatives: Whole = None  # drawn per target, for sasrec_gbce
    tokenizer: Annotated[str | None, _option("rqkmeans", "NAME_OR_FOLDER")] = None  # for generators; see `tokenize`
    beam: Whole = None  # sequences kept at every level, for generators

    def run(self) -> int:  # noqa: D102
        from reclib.experiments import generative, protocol
        from reclib.experiments.results import versions_json

        generates = self.model in generative.GENERATORS
        _known("MODEL", "model", self.model, (*protocol.MODELS, *generative.GENERATORS))
        if not generates and (self.tokenizer is not None or self.beam is not None):
            raise ValueError(f"--tokenizer, --beam: only for {', '.join(generative.GENERATORS)}, not for {self.model}")
        log = _log_of(self.dataset, self.seed, self.data_dir)
        split = log.leave_one_out()
        if log.n_items < 20:
            raise ValueError(f"--dataset: {log.name} has only {log.n_items} items; top-20 lists need 20 and more")
        recipe = self._recipe(log)
        _log(
            f"{log.name}: {log.n_users:,} users, {log.n_items:,} items, {len(log):,} events; "
            f"{len(split.test):,} test cases, history {'masked' if recipe.mask_history else 'not masked (repeats)'}"
        )
        rivals = {name: protocol.count(name, split.train) for name in ("popularity", "transitions")}
        metrics = {
            name: protocol.measure(rival, split, mask_history=recipe.mask_history) for name, rival in rivals.items()
        }
        report: dict[str, Any] = {
            "model": self.model,
            "dataset": log.name,
            "seed": self.seed,
            "users": log.n_users,
            "items": log.n_items,
            "interactions": len(log),
            "protocol": "leave-one-out, full ranking",
            "mask_history": recipe.mask_history,
        }
        model: Recommender
        if self.model in protocol.COUNTING:
            model = protocol.count(self.model, split.train)
        else:
            ids = _semantic_ids(self.tokenizer or "rqkmeans", split.train, self.seed) if generates else None
            if ids is not None:
                report["semantic_ids"] = {"tokenizer": ids.name, "levels": ids.levels, **generative.health(ids)}
            checkpoint = self._checkpoint(log, recipe, ids)
            if self.force:
                checkpoint.unlink(missing_ok=True)
            elif checkpoint.exists():
                _log(f"going on from {checkpoint}")
            keep = f"finished epochs are kept in {checkpoint}; the same command goes on from there"
            with _stoppable(keep):
                if ids is not None and isinstance(recipe, generative.GenerativeRecipe):
                    model, fit = generative.train_generator(
                        self.model, ids.deduplicated(), split, recipe, self.seed, checkpoint=checkpoint
                    )
                else:
                    model, fit = protocol.train(self.model, split, recipe, self.seed, checkpoint=checkpoint)
            report |= {"recipe": asdict(recipe), "best_epoch": fit.best_epoch, "epochs": len(fit.log)}
            report |= {"seconds": round(fit.seconds, 2), "targets_per_second": round(fit.targets_per_second)}
            report |= {"checkpoint": str(checkpoint), "device": str(next(cast("nn.Module", model).parameters()).device)}
        metrics.setdefault(self.model, protocol.measure(model, split, mask_history=recipe.mask_history))
        report |= {"metrics": metrics, "versions": json.loads(versions_json())}
        if self.json:
            _print_json(report)
            return 0
        chosen = [f"{part}/{metric}" for part in ("valid", "test") for metric in ("recall@10", "ndcg@10", "mrr")]
        names = {"popularity": "popularity", "transitions": "counting (transitions)"}
        cells = [[names.get(name, name), *(f"{row[key]:.4f}" for key in chosen)] for name, row in metrics.items()]
        _print_table(["model", *chosen], cells)
        if "semantic_ids" in report:
            _log(_health_line(report["semantic_ids"]))
        if self.model not in protocol.COUNTING:
            _log(f"best epoch {report['best_epoch'] + 1} of {report['epochs']}; weights: {report['checkpoint']}")
        return 0

    def _recipe(self, log: Interactions) -> Recipe:
        """The book's recipe for this data set, with what was given here, and masking only where it is possible."""
        from reclib.experiments import ch02_sequential, ch04_semantic_ids
        from reclib.experiments.generative import GENERATORS, GenerativeRecipe
        from reclib.experiments.protocol import Recipe

        name = WORLD if self.dataset.startswith(WORLD) else log.name
        recipe: Recipe
        if self.model in GENERATORS:
            known = ch04_semantic_ids.study_of(name)
            recipe = known.recipe if known else GenerativeRecipe()
        else:
            recipe = Recipe()
            for study in ch02_sequential.Config().studies:
                if study.dataset == name:
                    recipe = study.recipe
                    if study.tuned and self.model in ch02_sequential.LEARNING_RATE:
                        recipe = replace(recipe, lr=ch02_sequential.LEARNING_RATE[self.model])
        names = {field.name for field in fields(recipe)} & {field.name for field in fields(self)}
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        for name, value in given.items():
            if value <= 0 and name != "dropout":
                raise ValueError(f"--{name.replace('_', '-')}: must be positive, got {value}")
        if not 0 <= (self.dropout or 0.0) < 1:
            raise ValueError(f"--dropout: a share in [0, 1), got {self.dropout}")
        return replace(recipe, **given, mask_history=not _held_out_repeats(log))

    def _checkpoint(self, log: Interactions, recipe: Recipe, ids: SemanticIds | None) -> Path:
        """One file per model, data, recipe and seed: another log under the same name gets another file."""
        import hashlib

        content = hashlib.sha256(repr((self.model, self.seed, recipe, log.n_items)).encode())
        for array in (log.user, log.item, log.time, None if ids is None else ids.codes.numpy()):
            if array is not None:
                content.update(array.tobytes())
        folder = Path(self.out) if self.out else _runs()
        return folder / f"{self.model}-{log.name}-seed{self.seed}-{content.hexdigest()[:8]}.safetensors"


def _log_of(dataset: str, seed: int, data_dir: str | None) -> Interactions:
    """A log by the name of its data set, by its folder, or `adworld` (`adworld-tiny`, …) of a seed."""
    if dataset == WORLD or dataset.startswith(f"{WORLD}-"):
        from reclib.world import AdWorld, AdWorldConfig

        preset = dataset.removeprefix(WORLD).lstrip("-") or "book"
        return AdWorld(AdWorldConfig.preset(preset, seed=seed)).simulate()
    from reclib.data import load_dataset

    return load_dataset(dataset, data_dir)


def _known(argument: str, kind: str, name: str, names: tuple[str, ...]) -> None:
    """Refuse a name that is not among `names`, and suggest the nearest."""
    if name not in names:
        near = nearest(name, names)
        hint = f"did you mean {near!r}?" if near else f"choose from {', '.join(names)}"
        raise ValueError(f"{argument}: there is no {kind} {name!r}; {hint}")


def _held_out_repeats(log: Interactions) -> bool:
    """Whether a validation or test item occurs in its own history, so that the history cannot be masked."""
    import numpy as np

    pair = log.user * (log.n_items + 1) + log.item
    _, first = np.unique(pair, return_index=True)
    again = np.ones(len(log), dtype=bool)
    again[first] = False
    ends = log.offsets[1:][log.lengths >= 3]
    return bool(again[ends - 1].any() or again[ends - 2].any())


# -------------------------------------------------------------------------------------------------- tokenize


@dataclass(frozen=True)
class Tokenize:
    """Give every item of a log a semantic ID, and say how healthy the codes are.

    TOKENIZER: rqkmeans or rqvae (residual quantisation of item vectors), balanced (rqkmeans whose last level is spread
    evenly), unisid (trained on text, attributes, category paths and neighbours). Item vectors are TF-IDF + SVD of the
    items' text, or a sentence-transformers model in a local folder. Histories are cut as `train` cuts them: no held-out
    event is used. The folder can be given to `train tiger --tokenizer`.
    """

    EXAMPLES: ClassVar[str] = """
        python -m reclib tokenize --tokenizer rqkmeans --dataset amazon2018-scientific --out ids/rqkmeans
        python -m reclib tokenize --tokenizer unisid --dataset adworld --codes 32 --out ids/unisid --json
        python -m reclib train tiger --tokenizer ids/rqkmeans --dataset amazon2018-scientific"""

    tokenizer: str  # see above
    dataset: str  # a name of `data list`, or a folder in the format of data/README.md
    out: str  # folder to write: semantic_ids.safetensors and semantic_ids.json
    levels: int = 3  # codes per item, before the one that tells colliding items apart
    codes: int = 256  # different codes per level
    dim: int = 64  # of the item vectors, or of UniSID's transformer
    sentence_model: Annotated[str | None, _option("none: TF-IDF + SVD", "DIR")] = None  # a local model
    seed: int = 0  # of vectors, codebooks and weights (and of the world, for adworld)
    json: bool = False  # print one JSON object and nothing else
    data_dir: Folder = None  # look for data sets here first
    force: bool = False  # replace what is in the folder already

    def run(self) -> int:  # noqa: D102
        from reclib.experiments import generative

        _known("--tokenizer", "tokenizer", self.tokenizer, generative.TOKENIZERS)
        if (Path(self.out) / "semantic_ids.json").exists() and not self.force:
            raise ValueError(f"--out: {self.out} holds semantic IDs already; choose another folder, or add --force")
        log = _log_of(self.dataset, self.seed, self.data_dir)
        recipe = generative.TokenizerRecipe(self.levels, self.codes, self.dim, self.sentence_model)
        _log(f"{log.name}: {log.n_items:,} items, {self.levels} × {self.codes} codes")
        ids = generative.tokenize(self.tokenizer, log.leave_one_out().train, recipe, self.seed)
        folder = ids.save(self.out)
        report = {"tokenizer": ids.name, "dataset": log.name, "seed": self.seed, "items": log.n_items}
        report |= {"levels": ids.levels, "recipe": asdict(recipe), **generative.health(ids), "folder": str(folder)}
        if self.json:
            _print_json(report)
            return 0
        rows = [
            [f"{x + 1}", ids.sizes[x], f"{ids.usage(x):.1%}", f"{ids.perplexity(x):.1f}"] for x in range(ids.levels)
        ]
        _print_table(["level", "codes", "used", "perplexity"], rows)
        _log(f"{_health_line(report)}\n{folder}")
        return 0


def _semantic_ids(tokenizer: str, train: Interactions, seed: int) -> SemanticIds:
    """IDs from a folder that `tokenize` wrote, or made now with the default budget."""
    from reclib.experiments import ch04_semantic_ids, generative
    from reclib.tokenizers import SemanticIds

    if Path(tokenizer).is_dir():
        ids = SemanticIds.load(tokenizer)
        if ids.n_items != train.n_items:
            raise ValueError(
                f"--tokenizer: {tokenizer} has {ids.n_items} items, the log {train.n_items}; tokenize this log"
            )
        return ids
    _known("--tokenizer", "tokenizer or folder", tokenizer, generative.TOKENIZERS)
    known = ch04_semantic_ids.study_of(train.name)
    whole = known.code if known else generative.TokenizerRecipe()
    # A small shop has no use for so many codes and directions.
    recipe = replace(whole, codes=min(whole.codes, train.n_items // 4), dim=min(whole.dim, train.n_items // 2))
    return generative.tokenize(tokenizer, train, recipe, seed)


def _health_line(report: dict[str, Any]) -> str:
    return (
        f"{report['tokenizer']}: {report['collision_rate']:.1%} of the items got no sequence of their own, "
        f"{report['share_in_collisions']:.1%} share theirs"
    )


# ------------------------------------------------------------------------------------------------------ main

DATA_COMMANDS: dict[str, Any] = {
    "list": DataList,
    "fetch": DataFetch,
    "verify": DataVerify,
    "path": DataPath,
    "convert": DataConvert,
}


@dataclass(frozen=True)
class Data:
    """Data sets: list, fetch, verify, path, convert."""


COMMANDS: dict[str, Any] = {
    "chapters": Chapters,
    "run": Run,
    "data": Data,
    "experiments": Experiments,
    "ledger": Ledger,
    "train": Train,
    "tokenize": Tokenize,
}
ABOUT = """Recommenders That Reason: run the chapters, get data, train models, and look up what holds.

Examples:
  python -m reclib chapters                              what there is, and how long it takes
  python -m reclib data list                             data sets and where they are
  python -m reclib train sasrec --dataset adworld-tiny   a model beside popularity and counting
  python -m reclib ledger                                which claims hold
  python -m reclib train --help                          more about one command"""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command, and turn errors of use into one clear line."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["data"]:
            command = _parse(DATA_COMMANDS, words[1:], "python -m reclib data", inspect.getdoc(Data) or "")
        else:
            command = _parse(COMMANDS, words, "python -m reclib", ABOUT)
        return command.run()
    except Stopped as stopped:
        _log(f"\nstopped; {stopped}")
        return 130
    except KeyboardInterrupt:
        _log("\nstopped")
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        if not _is_ours(error):
            raise  # a bug: whoever reports it needs the traceback
        _log(f"error: {error}")
        return 2


def _is_ours(error: Exception) -> bool:
    """Whether the error speaks to the user: raised by reclib itself, or about a file."""
    if isinstance(error, OSError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    here = str(Path(__file__).resolve().parent)
    return trace is not None and trace.tb_frame.f_code.co_filename.startswith(here)


def _parse(table: dict[str, Any], words: list[str], prog: str, about: str) -> Command:
    """The command that `words` ask for. A mistyped name is told the nearest one."""
    chosen = words[0] if words else "--help"
    if not chosen.startswith("-") and chosen not in table:
        near = nearest(chosen, list(table))
        hint = f"did you mean {near!r}?" if near else f"choose from {', '.join(table)}"
        raise ValueError(f"{prog}: there is no command {chosen!r}; {hint}")
    kinds = []
    for name, kind in table.items():
        text = inspect.getdoc(kind) or ""
        if name == chosen:  # only the command's own help is complete
            text += "\n\nExamples:\n" + "\n".join(f"  {line.strip()}" for line in kind.EXAMPLES.strip().splitlines())
        else:
            text = text.split("\n\n")[0]
        kinds.append(Annotated[kind, subcommand(name, description=text)])
    choice: Any = Union[tuple(kinds)]  # noqa: UP007 (made at run time)
    parsed: Command = tyro.cli(
        choice,
        args=words or [chosen],
        prog=prog,
        description=about,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return parsed


# --------------------------------------------------------------------------------------------------- helpers


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def _print_table(head: Sequence[str], rows: Sequence[Sequence[object]], markdown: bool = False) -> None:
    cells = [[str(cell) for cell in row] for row in rows]
    if markdown:
        lines = [list(head), ["---"] * len(head), *cells]
        print("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines))
        return
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for line in [list(head), *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _one_of(**flags: bool) -> None:
    if sum(flags.values()) > 1:
        raise ValueError(f"{' and '.join('--' + name for name in flags)}: choose one of them")


def _runs() -> Path:
    return repository_root() / "data" / "runs"


def _read_table(argument: str, name: str) -> Any:
    import pandas as pd

    path = Path(name)
    if not path.is_file():
        raise ValueError(f"{argument}: the file {path} does not exist")
    try:
        if path.name.endswith(".parquet"):
            return pd.read_parquet(path)
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            return pd.read_json(path, lines=True, dtype=False)
        if path.name.endswith((".csv", ".csv.gz")):
            return pd.read_csv(path)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{argument}: cannot read {path} ({error})") from error
    raise ValueError(f"{argument}: {path.name} must end in .csv, .csv.gz, .jsonl, .jsonl.gz or .parquet")


@contextlib.contextmanager
def _stoppable(kept: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise Stopped(kept) from error


@contextlib.contextmanager
def _data_dir(folder: str | None) -> Iterator[None]:
    """Let everything below, kernels too, look for data sets in `folder` first."""
    before = os.environ.get("RECLIB_DATA")
    if folder is not None:
        search_folders(folder)  # says so when it does not exist
        here = str(Path(folder).resolve())
        os.environ["RECLIB_DATA"] = here if before is None else os.pathsep.join([here, before])
    try:
        yield
    finally:
        if folder is not None:
            os.environ.pop("RECLIB_DATA")
            if before is not None:
                os.environ["RECLIB_DATA"] = before
