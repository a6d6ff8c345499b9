"""The small tasks: the answer can be read off the tokens, and nothing else gives it away."""

import pytest
import torch

from reclib.experiments.memory_tasks import ASK, MARK, NOTHING, TASKS


def draw(name, examples=400, seed=0):
    return TASKS[name].draw(examples, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TASKS)
def test_tokens_and_answers_are_within_their_ranges_and_repeat_with_the_seed(name):
    task, (tokens, label) = TASKS[name], draw(name)
    assert tokens.shape[:2] == label.shape
    assert tokens.min() >= 0
    assert tokens.max() < task.symbols
    asked = label[label != NOTHING]
    assert asked.min() == 0
    assert asked.max() == task.answers - 1
    assert torch.equal(tokens, draw(name)[0])
    assert not torch.equal(tokens, draw(name, seed=1)[0])


@pytest.mark.parametrize("name", TASKS)
def test_guessing_the_commonest_answer_is_chance(name):
    _, label = draw(name, 4000)
    share = torch.bincount(label[label != NOTHING]).max() / (label != NOTHING).sum()
    assert abs(float(share) - TASKS[name].chance) < 0.05


@pytest.mark.parametrize(
    ("name", "count", "answer"),
    [
        ("parity", 3, lambda s: (s - 4).sum() % 2),
        ("modular addition", 2, lambda s: (s - 3).sum() % 16),
        ("palindrome", 4, lambda s: int(s[2] == s[0]) + int(s[3] == s[0])),
    ],
)
def test_the_answer_is_in_the_symbols_before_the_mark(name, count, answer):
    tokens, label = draw(name)
    assert (tokens[:, -1, 0] == ASK).all()
    assert (label[:, :-1] == NOTHING).all()
    assert ((tokens == MARK).sum((1, 2)) == 1).all()
    at = (tokens[:, :, 0] == MARK).int().argmax(1)
    assert at.min() == count
    assert at.max() == tokens.shape[1] - 2
    for row, end, expected in zip(tokens[:, :, 0], at, label[:, -1], strict=True):
        assert int(answer(row[end - count : end])) == int(expected)


def test_scattered_numbers_are_the_only_ones_and_count():
    tokens, label = draw("scattered parity")
    for row, wanted in zip(tokens[:, :, 0], label[:, -1], strict=True):
        numbers = row[(row >= 4) & (row < 8)]
        assert len(numbers) == 3
        assert int((numbers - 4).sum() % 2) == int(wanted)


def test_recall_asks_for_what_was_paired():
    tokens, label = draw("recall")
    for row, wanted in zip(tokens[:, :, 0].tolist(), label.tolist(), strict=True):
        pairs = dict(zip(row[0:16:2], row[1:16:2], strict=True))
        assert len(pairs) == 8
        assert [pairs[key] - 18 for key in row[16:]] == wanted[16:]


def test_a_token_of_the_double_task_binds_two_pairs():
    tokens, label = draw("double")
    events, queries = tokens[:, :8] - torch.tensor([1, 33, 65, 81]), tokens[:, 8:, 0] - 97
    assert (tokens[:, 8:, 1:] == 0).all()
    for event, query, wanted in zip(events.tolist(), queries.tolist(), label[:, 8:].tolist(), strict=True):
        value = {}
        for a, b, x, y in event:
            value |= {a: x, b: y}
        assert len(value) == 16
        assert [value[key] for key in query] == wanted
