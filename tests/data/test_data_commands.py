"""`python -m reclib data fetch | verify` against a server on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reclib.cli import main
from reclib.data.catalogue import CATALOGUE, RemoteFile

if TYPE_CHECKING:
    from tests.data.conftest import Site

SMALL = {
    "ml-latest-small/ratings.csv": "userId,movieId,rating,timestamp\n1,10,4.0,100\n1,20,3.5,50\n2,10,1.0,90\n",
    "ml-latest-small/movies.csv": "movieId,title,genres\n10,A (1990),Drama\n20,B (1991),Comedy\n",
    "ml-latest-small/tags.csv": "userId,movieId,tag,timestamp\n1,10,fun,1\n",
    "ml-latest-small/README.txt": "the licence",
}


@pytest.fixture(autouse=True)
def machine(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data set here, and a small stand-in for MovieLens on the server. Returns data/external."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in SMALL.items():
            archive.writestr(name, text)
    site.files["small.zip"] = buffer.getvalue()
    sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
    file = RemoteFile("small.zip", (f"{site.url}/small.zip",), sha256)
    info = dataclasses.replace(CATALOGUE["movielens-small"], users=2, items=2, interactions=3, files=(file,))
    monkeypatch.setitem(CATALOGUE, "movielens-small", info)
    monkeypatch.setattr("reclib.data.catalogue.repository_root", lambda: tmp_path)
    monkeypatch.setattr("reclib.data.fetch.PAUSE", 0.0)
    monkeypatch.delenv("RECLIB_DATA", raising=False)
    return tmp_path / "data" / "external"


class Terminal(io.StringIO):
    """Somebody who types an answer."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", ["no\n", "\n", "", "maybe\n"])
def test_terms_that_are_not_accepted(
    answer: str, site: Site, machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert main(["data", "fetch", "movielens-small"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "may not use this information for any commercial" in err
    assert err.endswith("error: the terms were not accepted; nothing was downloaded\n")
    assert site.requests == []
    assert not machine.exists()


def test_nobody_to_ask(site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    assert main(["data", "fetch", "movielens-small"]) == 2
    assert "nobody is there to accept these terms; pass --yes" in capsys.readouterr().err
    assert site.requests == []


def test_accept_fetch_list_verify_path(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("Yes\n"))
    assert main(["data", "fetch", "movielens-small"]) == 0
    out, err = capsys.readouterr()
    path = machine / "movielens-small"
    assert out == f"{path}\n"
    assert "SHA-256" in err
    assert main(["data", "path", "movielens-small"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert main(["data", "list"]) == 0
    assert str(path) in capsys.readouterr().out
    assert main(["data", "verify"]) == 0
    assert capsys.readouterr().out == "movielens-small: sound\n"

    (path / "movies.csv.gz").write_bytes((path / "movies.csv.gz").read_bytes()[:-10])
    assert main(["data", "verify", "movielens-small"]) == 1
    assert "movies.csv.gz, line 1: the gzip data breaks off here" in capsys.readouterr().out
    (path / "movies.csv.gz").unlink()
    assert main(["data", "verify"]) == 1
    assert "movies.csv.gz" in capsys.readouterr().out


def test_yes_force_and_another_folder(machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "fetch", "movielens-small", "--yes", "--data-dir", str(tmp_path / "logs")]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'logs' / 'movielens-small'}\n"
    assert main(words) == 2
    assert "pass --force to replace it" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    assert not machine.exists()


def test_ctrl_c_says_that_the_download_goes_on(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reclib.data.fetch.download", interrupted)
    assert main(["data", "fetch", "movielens-small", "--yes"]) == 130
    assert capsys.readouterr().err.endswith(
        "stopped; run the same command again: the download goes on where it stopped\n"
    )


def test_nothing_to_verify(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify"]) == 2
    assert "none of the data sets is here" in capsys.readouterr().err
    assert main(["data", "verify", "movielens-1m"]) == 2
    assert "Two ways to get it" in capsys.readouterr().err
