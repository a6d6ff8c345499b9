"""The serving store: equal to the model, whatever the order; nothing lost in a crash; damage is refused."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from reclib.memory import AppendRec2PM, MemoryStore, Rec2PM
from tests.memory.test_segments import LENGTH, N_ITEMS, build, drawn


@pytest.fixture(params=[Rec2PM, AppendRec2PM], ids=lambda kind: kind.__name__)
def model(request):
    return build(request.param).float()


def histories(users=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 24, (users,), generator=g).tolist()
    return {user: torch.randint(1, N_ITEMS + 1, (n,), generator=g).tolist() for user, n in enumerate(lengths)}


def same(one, other):
    assert set(one._states) == set(other._states)
    for user in one._states:
        assert one[user].working == other[user].working
        assert torch.equal(one[user].memory, other[user].memory)


def test_it_ranks_like_the_model_on_the_whole_history(model, tmp_path):
    store, lives = MemoryStore(model, tmp_path), histories()
    store.update(lives)
    with torch.no_grad():
        for user, items in lives.items():
            assert_close(store.scores([user])[0], model.score(torch.tensor([items]))[0], atol=1e-5, rtol=1e-5)
    assert_close(store.scores([5, 0, 3]), torch.cat([store.scores([u]) for u in (5, 0, 3)]), atol=1e-5, rtol=1e-5)
    assert len(store) == 7
    assert 6 in store
    assert 7 not in store


def test_events_may_come_one_by_one_or_all_at_once(model, tmp_path):
    lives = histories()
    at_once, one_by_one = MemoryStore(model, tmp_path / "a"), MemoryStore(model, tmp_path / "b")
    at_once.update(lives)
    for t in range(24):
        one_by_one.update({user: items[t : t + 1] for user, items in lives.items()})
    for user in lives:
        assert at_once[user].working == one_by_one[user].working
        assert_close(at_once[user].memory, one_by_one[user].memory, atol=1e-5, rtol=1e-5)


def test_states_have_the_sizes_of_the_method(tmp_path):
    for kind, tokens in ((Rec2PM, 2), (AppendRec2PM, 6)):
        store = MemoryStore(build(kind).float(), tmp_path / kind.__name__)
        store.update({3: drawn(1, 3 * LENGTH)[0].tolist()})
        assert store[3].memory.shape == (tokens - tokens // 3 if kind is AppendRec2PM else tokens, 8)
        assert len(store[3].working) == LENGTH  # a complete segment waits until one more item comes
        store.update({3: [1]})
        assert store[3].memory.shape == (tokens, 8)
        assert store[3].working == (1,)


def test_a_store_opens_as_it_was_closed(model, tmp_path):
    store = MemoryStore(model, tmp_path)
    store.update(histories())
    same(MemoryStore(model, tmp_path), store)  # from the journal alone
    store.save()
    same(MemoryStore(model, tmp_path), store)  # from the snapshot alone
    store.update(histories(seed=1))
    same(MemoryStore(model, tmp_path), store)  # from both
    store.save()
    store.save()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["journal-3.jsonl", "snapshot-3.safetensors", "store.json"]
    same(MemoryStore(model, tmp_path), store)


def test_an_empty_store_can_be_saved(model, tmp_path):
    MemoryStore(model, tmp_path).save()
    store = MemoryStore(model, tmp_path)
    assert len(store) == 0
    store.update({})
    store.update({1: []})
    assert len(store) == 0


class Crash(BaseException):
    """The power goes off."""


WRITES = 9  # of a save: three files, each with the file's fsync, its replacement, and the folder's fsync


@pytest.mark.parametrize("at", range(WRITES))
def test_a_crash_at_any_write_of_a_save_loses_nothing(model, tmp_path, monkeypatch, at):
    store = MemoryStore(model, tmp_path)
    store.update(histories())
    store.save()
    store.update(histories(seed=1))
    count = 0

    def guarded(call):
        def replacement(*arguments):
            nonlocal count
            count += 1
            if count == at + 1:
                raise Crash
            return call(*arguments)

        return replacement

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", guarded(os.fsync))
        patch.setattr(os, "replace", guarded(os.replace))
        with pytest.raises(Crash):
            store.save()
    opened = MemoryStore(model, tmp_path)
    for user in store._states:
        assert opened[user].working == store[user].working
        assert_close(opened[user].memory, store[user].memory, atol=1e-5, rtol=1e-5)
    opened.update({0: [1, 2, 3]})
    opened.save()
    same(MemoryStore(model, tmp_path), opened)


def test_a_save_makes_as_many_writes_as_the_crash_test_tries(model, tmp_path, monkeypatch):
    store, count = MemoryStore(model, tmp_path), []
    store.update(histories())
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *a: count.append(fsync(*a)))
    monkeypatch.setattr(os, "replace", lambda *a: count.append(replace(*a)))
    store.save()
    assert len(count) == WRITES


@pytest.mark.parametrize("kept", [0, 1, 10, -1])
def test_a_torn_last_line_of_the_journal_is_an_update_that_never_returned(model, tmp_path, kept):
    store = MemoryStore(model, tmp_path)
    store.update(histories())
    whole = (tmp_path / "journal-0.jsonl").read_bytes()
    store.update({0: [1, 2], 9: [4]})
    line = (tmp_path / "journal-0.jsonl").read_bytes()[len(whole) :]
    (tmp_path / "journal-0.jsonl").write_bytes(whole + line[:kept])
    opened = MemoryStore(model, tmp_path)
    assert 9 not in opened
    assert (tmp_path / "journal-0.jsonl").read_bytes() == whole
    opened.update({0: [1, 2], 9: [4]})
    same(MemoryStore(model, tmp_path), store)


def test_a_crash_before_the_first_event_leaves_an_empty_store(model, tmp_path, monkeypatch):
    for name in ("journal-0.jsonl", "store.json"):
        replace = os.replace

        def stop(source, target, name=name, replace=replace):
            if str(target).endswith(name):
                raise Crash
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stop)
            with pytest.raises(Crash):
                MemoryStore(model, tmp_path / name)
        assert len(MemoryStore(model, tmp_path / name)) == 0


# -------------------------------------------------------------------------------------------------------------- damage


def test_another_model_is_refused(model, tmp_path):
    MemoryStore(model, tmp_path).update(histories())
    other = build(type(model), seed=1).float()
    with pytest.raises(ValueError, match=r"model: .* was written with another model or other weights"):
        MemoryStore(other, tmp_path)
    kind = {Rec2PM: AppendRec2PM, AppendRec2PM: Rec2PM}[type(model)]
    twin = build(kind).float()
    twin.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="model: "):  # the same weights, but another way of keeping
        MemoryStore(twin, tmp_path)


def test_a_model_elsewhere_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"model: is on meta; states are kept on the CPU, use model\.cpu\(\)"):
        MemoryStore(model.to("meta"), tmp_path)


def test_nan_on_disk_is_refused_with_the_user(model, tmp_path):
    store = MemoryStore(model, tmp_path)
    store.update({user: drawn(1, 12, seed=user)[0].tolist() for user in (3, 8, 5)})
    store.save()
    tensors = load_file(tmp_path / "snapshot-1.safetensors")
    first = int(tensors["tokens"][0])
    tensors["memory"][first, 2] = torch.nan
    save_file(tensors, tmp_path / "snapshot-1.safetensors")
    with pytest.raises(ValueError, match=r"folder: the memory of user 8 in .* contains NaN or infinity"):
        MemoryStore(model, tmp_path)


def test_nan_from_the_model_changes_nothing(model, tmp_path):
    store = MemoryStore(model, tmp_path)
    store.update({1: [1, 2, 3], 2: [4]})
    with torch.no_grad():
        model.items.weight[7] = torch.nan
    with pytest.raises(ValueError, match="events: the memory of user 1 became NaN or infinite"):
        store.update({2: [5], 1: [7, 8, 9]})
    assert store[1].working == (1, 2, 3)
    assert store[2].working == (4,)
    assert len((tmp_path / "journal-0.jsonl").read_bytes().splitlines()) == 1


@pytest.mark.parametrize("item", [0, N_ITEMS + 1, -1])
def test_an_unknown_item_is_refused(model, tmp_path, item):
    store = MemoryStore(model, tmp_path)
    with pytest.raises(ValueError, match=f"events: user 4 has an item outside 1 … {N_ITEMS}"):
        store.update({3: [1], 4: [2, item]})
    assert len(store) == 0


def test_an_unknown_user_is_refused(model, tmp_path):
    store = MemoryStore(model, tmp_path)
    store.update({1: [1]})
    with pytest.raises(ValueError, match="user: nothing is known of 2"):
        store.scores([1, 2])


@pytest.mark.parametrize("name", ["store.json", "snapshot-1.safetensors", "journal-1.jsonl"])
def test_damaged_files_are_named(model, tmp_path, name):
    store = MemoryStore(model, tmp_path)
    store.update(histories())
    store.save()
    (tmp_path / name).write_bytes(b"{nonsense\n")
    with pytest.raises(ValueError, match=f"folder: .*{name}"):
        MemoryStore(model, tmp_path)


@pytest.mark.parametrize("name", ["snapshot-1.safetensors", "journal-1.jsonl"])
def test_missing_files_are_named(model, tmp_path, name):
    store = MemoryStore(model, tmp_path)
    store.update(histories())
    store.save()
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"folder: .*{name} cannot be read"):
        MemoryStore(model, tmp_path)


def test_the_manifest_says_which_snapshot_counts(model, tmp_path):
    store = MemoryStore(model, tmp_path)
    store.update(histories())
    store.save()
    assert json.loads((tmp_path / "store.json").read_text())["number"] == 1
