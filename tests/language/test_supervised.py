"""Supervised fine-tuning: which tokens count, what a process gets, and that ten sentences are learnt by heart."""

import pytest
import torch

from reclib.language import CompletionBatches, TinyLM, TinyLMConfig, Vocabulary, completion_loss, example, pad
from reclib.training import FitConfig, fit

TEXTS = [
    ("women young saves", "camera fits . price does not fit"),
    ("women young spends", "camera fits . price fits"),
    ("men young saves", "shoes fit . price does not fit"),
    ("men old spends much", "shoes do not fit"),
    ("men old saves", "bags fit . price fits . new"),
    ("women old saves much", "bags fit"),
    ("women old spends", "nothing fits"),
    ("all young", "camera does not fit . price fits"),
    ("all old", "shoes fit . new"),
    ("all old saves", "shoes do not fit . not new"),
]


def tiny(**sizes):
    torch.manual_seed(0)
    vocabulary = Vocabulary.of_texts(text for pair in TEXTS for text in pair)
    return TinyLM(vocabulary, TinyLMConfig(**{"dim": 32, "layers": 2, "heads": 2, "context": 24, **sizes}))


def test_the_loss_is_that_of_completions_alone():
    model = tiny().eval()
    examples = [example(model, *pair) for pair in TEXTS]
    (batch,) = CompletionBatches(examples, batch_size=10).epoch(0)
    found, count = completion_loss(model, batch)
    expected = sum(
        model.log_probs(torch.tensor([model.encode(prompt)]), torch.tensor([[*model.encode(answer), 1]])).sum()
        for prompt, answer in TEXTS
    )
    assert count == sum(len(answer.split()) + 1 for _, answer in TEXTS)
    torch.testing.assert_close(found, -expected)


def test_prompts_teach_nothing():
    """Another prompt token changes a target only where it is a target itself; no gradient asks for prompt words."""
    model = tiny().eval()
    one = example(model, "women young saves", "camera fits")
    assert one.learnt == [False] * 3 + [True] * 3
    assert one.ids[-1] == model.end_id
    ids, mask = pad([one.ids])
    logits, _ = model(ids[:, :-1], mask[:, :-1])
    logits.retain_grad()
    (batch,) = CompletionBatches([one], batch_size=1).epoch(0)

    class Fixed:
        def __call__(self, *_):
            return logits, None

    completion_loss(Fixed(), batch)[0].backward()
    asked = logits.grad.abs().sum(-1)[0] > 0
    assert asked.tolist() == [False, False, True, True, True]  # behind "saves", "camera" and "fits"


def test_every_example_once_an_epoch_and_replayed():
    model = tiny()
    batches = CompletionBatches([example(model, *pair) for pair in TEXTS], batch_size=4, seed=3)

    def seen(epoch, **share):
        return [tuple(b.ids[i][b.mask[i]].tolist()) for b in batches.epoch(epoch, **share) for i in range(len(b.ids))]

    assert len(list(batches.epoch(0))) == batches.steps(0) == 3
    assert seen(1) == seen(1)
    assert seen(0) != seen(1)
    assert sorted(seen(0)) == sorted(seen(1)) == sorted(tuple(text.ids) for text in batches.examples)
    shared = [seen(0, rank=rank, world_size=2) for rank in (0, 1)]
    assert sorted(shared[0] + shared[1]) == sorted(seen(0))


@pytest.mark.slow
def test_ten_sentences_are_learnt_by_heart():
    model = tiny()
    batches = CompletionBatches([example(model, *pair) for pair in TEXTS], batch_size=10)
    fit(model, batches, completion_loss, FitConfig(epochs=120, lr=5e-3), progress=False)
    prompts, mask = pad([model.encode(prompt) for prompt, _ in TEXTS], left=True)
    written = model.generate(prompts, mask, max_new=12, temperature=0)
    assert [model.decode(row) for row in written.rows()] == [answer for _, answer in TEXTS]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="prompt: is empty"):
        example(tiny(), "", "camera")
    with pytest.raises(ValueError, match="examples: is empty"):
        CompletionBatches([], batch_size=2)
    with pytest.raises(ValueError, match="batch_size: must be at least 1"):
        CompletionBatches([example(tiny(), "all", "camera")], batch_size=0)
