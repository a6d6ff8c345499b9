"""Serving a token memory: one small state per user, updated in batches, kept on disk, and safe against a crash.

A user's state is the memory M (C tokens, or n C with append) and the working memory, the items since. New events join
the working memory; when it overflows, its first L items are compressed into M, many users in one call. At least one
item always stays, because the model ranks after an item.

On disk a store is a folder:

- `store.json`: names the snapshot and the model it belongs to; replaced in one step;
- `snapshot-N.safetensors`: all states when it was taken;
- `journal-N.jsonl`: what came since, one line per `update`, on disk before `update` returns.

`MemoryStore(model, folder)` reads the snapshot and plays the journal again. A crash leaves the old snapshot or the new
one, never half of it, and a journal whose last line may be torn; that line belonged to an `update` that never returned.
So nothing that was acknowledged is lost. (One process writes at a time; that is not checked.)
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from reclib.memory.token_memory import TokenMemory


@dataclass(frozen=True)
class UserState:
    """What is kept of one user."""

    memory: Float[Tensor, "tokens dim"]
    working: tuple[int, ...]  # items since the last compressed segment, oldest first


class MemoryStore:
    """The states of many users under one model."""

    def __init__(self, model: TokenMemory, folder: str | Path) -> None:
        """Open the store in a folder, or begin one there.

        Raises:
            ValueError: the model is not on the CPU, the store was written with another model, or a file of it is
                damaged or holds NaN.
        """
        if model.items.weight.device.type != "cpu":
            raise ValueError(f"model: is on {model.items.weight.device}; states are kept on the CPU, use model.cpu()")
        self.model = model.eval()
        self.folder = Path(folder)
        self._states: dict[int, UserState] = {}
        self._number = 0
        self._model = fingerprint(model)
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / "store.json").exists():
            self._read()
        else:
            self._replace(self._path("journal").name, b"")
            self._replace("store.json", self._about(0))  # from now on the journal counts

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, user: int) -> bool:
        return user in self._states

    def __getitem__(self, user: int) -> UserState:
        """The state of one user; a user never seen is a `ValueError`."""
        if user not in self._states:
            raise ValueError(f"user: nothing is known of {user}; call `update` with the user's first items")
        return self._states[user]

    def update(self, events: Mapping[int, Sequence[int]]) -> None:
        """New items of many users, oldest first. When it returns, they are on disk.

        Raises:
            ValueError: an item that is no id of the catalogue, or a memory that came out as NaN; nothing is changed.
        """
        for user, items in events.items():
            if not all(1 <= item <= self.model.n_items for item in items):
                raise ValueError(f"events: user {user} has an item outside 1 … {self.model.n_items}; check the ids")
        events = {int(user): [int(item) for item in items] for user, items in events.items() if len(items)}
        if not events:
            return
        changed = self._after(events)
        with open(self._path("journal"), "ab") as file:
            file.write(json.dumps(list(events.items())).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._states |= changed

    @torch.no_grad()
    def scores(self, users: Sequence[int]) -> Float[Tensor, "users items"]:
        """Score of every item as each user's next one; column 0 (padding) is -inf."""
        found = torch.empty(len(users), self.model.n_items + 1)
        for rows in self._alike({row: self[user].memory for row, user in enumerate(users)}):
            states = [self[users[row]] for row in rows]
            working = torch.zeros(len(rows), max(len(state.working) for state in states), dtype=torch.long)
            for line, state in zip(working, states, strict=True):
                line[: len(state.working)] = torch.tensor(state.working)
            found[rows] = self.model.rank(torch.stack([state.memory for state in states]), working)
        return found

    def save(self) -> None:
        """Write a snapshot and begin a new journal; opening the store is then quick again."""
        users = list(self._states)
        states = [self._states[user] for user in users]
        empty = torch.zeros(0, self.model.dim)
        tensors = {
            "users": torch.tensor(users, dtype=torch.long),
            "tokens": torch.tensor([len(state.memory) for state in states], dtype=torch.long),
            "lengths": torch.tensor([len(state.working) for state in states], dtype=torch.long),
            "memory": torch.cat([empty, *(state.memory for state in states)]),
            "working": torch.tensor([item for state in states for item in state.working], dtype=torch.long),
        }
        old, number = self._number, self._number + 1
        # The order matters: until store.json names them, the new files do not count, and the old ones are still there.
        self._replace(f"snapshot-{number}.safetensors", save(tensors))
        self._replace(f"journal-{number}.jsonl", b"")
        self._replace("store.json", self._about(number))
        self._number = number
        for kind in ("snapshot", "journal"):
            self._path(kind, old).unlink(missing_ok=True)

    # -------------------------------------------------------------------------------------------------- in memory

    @torch.no_grad()
    def _after(self, events: Mapping[int, Sequence[int]]) -> dict[int, UserState]:
        """The states that these events lead to."""
        length = self.model.config.segment
        new = UserState(self.model.empty(1)[0], ())
        before = {user: self._states.get(user, new) for user in events}
        memory = {user: state.memory for user, state in before.items()}
        working = {user: [*before[user].working, *items] for user, items in events.items()}
        while full := [user for user, items in working.items() if len(items) > length]:
            for users in self._alike({user: memory[user] for user in full}):
                segment = torch.tensor([working[user][:length] for user in users])
                written = self.model.update(torch.stack([memory[user] for user in users]), segment)
                broken = ~torch.isfinite(written).flatten(1).all(1)
                if broken.any():
                    user = users[int(broken.nonzero()[0, 0])]
                    raise ValueError(f"events: the memory of user {user} became NaN or infinite; check the model")
                for user, m in zip(users, written.unbind(), strict=True):
                    memory[user], working[user] = m.clone(), working[user][length:]
        return {user: UserState(memory[user], tuple(working[user])) for user in events}

    @staticmethod
    def _alike(memory: Mapping[int, Tensor]) -> list[list[int]]:
        """Keys grouped by the number of tokens, so that each group is one batch."""
        groups: dict[int, list[int]] = {}
        for key, m in memory.items():
            groups.setdefault(len(m), []).append(key)
        return list(groups.values())

    # ---------------------------------------------------------------------------------------------------- on disk

    def _path(self, kind: str, number: int | None = None) -> Path:
        ending = {"snapshot": "safetensors", "journal": "jsonl"}[kind]
        return self.folder / f"{kind}-{self._number if number is None else number}.{ending}"

    def _about(self, number: int) -> bytes:
        return json.dumps({"number": number, "model": self._model}).encode()

    def _replace(self, name: str, content: bytes) -> None:
        """Write a file whole or not at all, and be sure that it is on disk."""
        part = self.folder / f"{name}.part"
        with open(part, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.folder / name)
        folder = os.open(self.folder, os.O_RDONLY)  # the new name is an entry of the folder
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self) -> None:
        try:
            about = json.loads((self.folder / "store.json").read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"folder: {self.folder / 'store.json'} is damaged; read the histories again") from error
        if about["model"] != self._model:
            raise ValueError(
                f"model: {self.folder} was written with another model or other weights; open it with the same ones, "
                "or read the histories again into a new folder"
            )
        self._number = about["number"]
        if self._number:
            self._read_snapshot()
        journal = self._path("journal")
        try:
            lines = journal.read_bytes().split(b"\n")
            for line in lines[:-1]:  # what stands after the last line break is torn
                self._states |= self._after(dict(json.loads(line)))
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise ValueError(f"folder: {journal} cannot be read ({error}); read the histories again") from error
        if lines[-1]:
            self._replace(journal.name, b"".join(line + b"\n" for line in lines[:-1]))

    def _read_snapshot(self) -> None:
        path = self._path("snapshot")
        try:
            tensors = load_file(path)
        except (SafetensorError, FileNotFoundError) as error:
            raise ValueError(f"folder: {path} cannot be read ({error}); read the histories again") from error
        users, tokens, lengths = (tensors[name].tolist() for name in ("users", "tokens", "lengths"))
        if not torch.isfinite(tensors["memory"]).all():
            bad = (~torch.isfinite(tensors["memory"])).any(1).nonzero()[0, 0]
            user = users[int((torch.tensor(tokens).cumsum(0) <= bad).sum())]
            raise ValueError(
                f"folder: the memory of user {user} in {path} contains NaN or infinity; read that history again"
            )
        memory, working = torch.split(tensors["memory"], tokens), torch.split(tensors["working"], lengths)
        for user, m, items in zip(users, memory, working, strict=True):
            self._states[user] = UserState(m.clone(), tuple(items.tolist()))


def fingerprint(model: TokenMemory) -> str:
    """SHA-256 over the kind of model, its configuration and every weight: a memory means nothing to another model."""
    about = {"kind": type(model).__name__, "n_items": model.n_items, "config": asdict(model.config)}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
