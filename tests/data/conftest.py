"""Small folders in our format, real data where it is at hand, and a web server that misbehaves on request."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from reclib.data import MissingDataset
from reclib.data.catalogue import find_folder


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """`folder(sequences=..., items=..., time=...)` writes texts as gzip files and returns the folder."""

    def make(
        sequences: str | None = "1 1 2 3\n2 2 1\n",
        items: str | None = '{"item_id": 1}\n{"item_id": 2}\n{"item_id": 3}\n',
        **columns: str,
    ) -> Path:
        path = tmp_path / "shop"
        path.mkdir(exist_ok=True)
        texts = {f"{name}.txt.gz": text for name, text in columns.items()}
        texts |= {"sequences.txt.gz": sequences, "items.jsonl.gz": items}  # type: ignore[dict-item]
        for name, text in texts.items():
            if text is not None:
                (path / name).write_bytes(gzip.compress(text.encode()))
        return path

    return make


@pytest.fixture
def real() -> Callable[[str], Path]:
    """The folder of a real data set; where there is none, the test is skipped and says how to get it."""

    def find(name: str) -> Path:
        try:
            return find_folder(name)
        except MissingDataset as missing:
            pytest.skip(str(missing))

    return find


@dataclass
class Site:
    """A web server for tests."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)  # what it serves, by name
    cut_after: list[int] = field(default_factory=list)  # the next answers break off after so many bytes
    statuses: list[int] = field(default_factory=list)  # the next answers are errors
    ranges: bool = True  # whether it can send a part
    etag: str | None = '"one"'  # of all files
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # (name, Range) of each request


@pytest.fixture
def site() -> Iterator[Site]:
    """A server on this machine; nothing leaves it."""
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            asked = self.headers.get("Range")
            state.requests.append((name, asked))
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            if name not in state.files:
                self.send_error(404)
                return
            body, first = state.files[name], 0
            unchanged = self.headers.get("If-Range") in (None, state.etag)
            if asked and state.ranges and unchanged:
                first = int(asked.removeprefix("bytes=").removesuffix("-"))
                if first >= len(body):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(body)}")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            if state.etag:
                self.send_header("ETag", state.etag)
            self.send_header("Content-Length", str(len(body) - first))
            self.end_headers()
            part = body[first:]
            if state.cut_after:
                part = part[: state.cut_after.pop(0)]
            self.wfile.write(part)
            # The connection closes here; where the answer was cut, the client has been promised more.

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()
