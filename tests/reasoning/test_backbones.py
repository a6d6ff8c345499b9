"""Thinking backbones: reading is encoding, a cached thought is a recomputed one, and nobody sees what comes later."""

import pytest
import torch
from torch.testing import assert_close

from reclib.backbones import GRU4RecConfig, HSTUConfig, SASRecConfig
from reclib.generation import DecoderOnlyConfig
from reclib.reasoning import Backbone, ThinkingDecoder, ThinkingGRU4Rec, ThinkingHSTU, ThinkingSASRec
from reclib.reasoning.backbones import Places
from reclib.tokenizers import SemanticIds

N_ITEMS, WIDTH = 20, 6


def semantic_ids():
    g = torch.Generator().manual_seed(5)
    return SemanticIds.from_codes(torch.randint(4, (N_ITEMS, 2), generator=g), (4, 4)).deduplicated()


BACKBONES = {
    "sasrec": lambda **more: ThinkingSASRec(N_ITEMS, SASRecConfig(dim=8, heads=2, max_len=WIDTH, **more)),
    "hstu": lambda **more: ThinkingHSTU(N_ITEMS, HSTUConfig(dim=8, heads=2, max_len=WIDTH, **more)),
    "gru4rec": lambda **more: ThinkingGRU4Rec(N_ITEMS, GRU4RecConfig(dim=8, max_len=WIDTH, **more)),
    "decoder": lambda **more: ThinkingDecoder(
        semantic_ids(), DecoderOnlyConfig(dim=8, layers=2, heads=2, max_len=WIDTH, **more)
    ),
}


def build(name, seed=0, **more):
    """In double precision, and with weights large enough for every part to matter."""
    torch.manual_seed(seed)
    model = BACKBONES[name](**more).double().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" not in key and not key.startswith("items"):
                parameter.normal_(std=0.5)
    return model


def drawn(batch=3, width=WIDTH, seed=1):
    return torch.randint(1, N_ITEMS + 1, (batch, width), generator=torch.Generator().manual_seed(seed))


def inputs(batch=3, places=WIDTH, thoughts=3):
    g = torch.Generator().manual_seed(2)
    return torch.randn(thoughts, batch, places, 8, generator=g, dtype=torch.float64)


@pytest.fixture(params=BACKBONES)
def name(request):
    return request.param


def recomputed(name, model, history, thoughts):
    """The last hidden state of the whole sequence: one history, then thoughts, as the backbone's own pass has it."""
    if name == "gru4rec":
        state, _ = model.gru(torch.cat([model.embed(history), thoughts], dim=1))
        return model.out(state)[:, -1]
    if name == "decoder":
        d = model.decoder
        tokens = d.item_tokens[history].flatten(1)
        x, norm, blocks = d.tokens(tokens) + d.positions.weight[: tokens.shape[1]], d.norm, d.blocks
    else:
        x, norm, blocks = model.embed(history) + model.positions.weight[: history.shape[1]], model.norm, model.blocks
    x = torch.cat([x, thoughts], dim=1)
    for block in blocks:
        x = block(x) if name == "sasrec" else block(x, None) if name == "hstu" else block(x)[0]
    return norm(x)[:, -1]


def test_each_is_a_backbone(name):
    assert isinstance(build(name), Backbone)


@pytest.mark.parametrize("training", [False, True])
def test_reading_is_encoding_bit_for_bit(name, training):  # oracle 8, K = 0
    torch.manual_seed(0)
    model = BACKBONES[name](dropout=0.2).train(training)
    torch.manual_seed(1)
    encoded = model.encode(drawn())
    torch.manual_seed(1)
    assert torch.equal(model.read(drawn())[0], encoded)


def test_the_decoder_s_states_are_those_of_its_logits():
    model, history = build("decoder"), drawn()
    d = model.decoder
    logits = d(d.item_tokens[history].flatten(1))[:, d.levels - 1 :: d.levels]
    assert_close(model.encode(history) @ d.tokens.weight.T, logits)


def test_a_cached_thought_equals_the_whole_sequence_again(name):  # oracle 8
    model, history, x = build(name), drawn(), inputs()
    _, cache = model.read(history)
    for k in range(3):
        r, cache = model.step(x[k], cache)
        for t in range(WIDTH - 3):  # HSTU's own pass has no bias for more places than max_len
            whole = recomputed(name, model, history[:, : t + 1], x[: k + 1, :, t].transpose(0, 1))
            assert_close(r[:, t], whole)


def test_beyond_hstu_s_last_distance_its_last_bias_serves():
    model, history, x = build("hstu"), drawn(), inputs()
    _, cache = model.read(history, since=WIDTH - 1)
    r, _ = model.step(x[0][:, -1:], cache)
    wider = BACKBONES["hstu"]().double().eval()
    wider.load_state_dict(model.state_dict())
    for block in wider.blocks:
        bias = torch.cat([block.position_bias.data, block.position_bias.data[-1:]])
        block.position_bias = torch.nn.Parameter(bias)  # a bias for one place more, without another divisor
    assert_close(r[:, 0], recomputed("hstu", wider, history, x[0][:, -1:]))


def test_thoughts_behind_the_last_items_only_are_the_same(name):
    model, history, x = build(name), drawn(), inputs()
    hidden, cache = model.read(history)
    fewer, small = model.read(history, since=4)
    assert_close(fewer, hidden[:, 4:])
    for k in range(2):
        r, cache = model.step(x[k], cache)
        some, small = model.step(x[k][:, 4:], small)
        assert_close(some, r[:, 4:])


def test_a_place_sees_earlier_items_and_its_own_thoughts_alone(name):
    model, history, x = build(name), drawn(), inputs()

    def last(history, x):
        hidden, cache = model.read(history)
        for k in range(2):
            hidden, cache = model.step(x[k], cache)
        return hidden

    plain = last(history, x)
    for t in range(WIDTH):
        other = history.clone()
        other[:, t] = other[:, t] % N_ITEMS + 1
        changed = ((last(other, x) - plain).abs() > 1e-9).any(2).all(0)
        assert changed.tolist() == [place >= t for place in range(WIDTH)]
        for k in range(2):
            moved = x.clone()
            moved[k, :, t] += torch.randn(8, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
            changed = ((last(history, moved) - plain).abs() > 1e-9).any(2).all(0)
            assert changed.tolist() == [place == t for place in range(WIDTH)]


def test_padding_changes_nothing(name):
    model, history, x = build(name), drawn(), inputs()
    padded = torch.cat([history[:, :4], torch.zeros(3, 2, dtype=torch.long)], dim=1)
    _, cache = model.read(padded)
    _, short = model.read(history[:, :4])
    assert_close(model.step(x[0], cache)[0][:, :4], model.step(x[0][:, :4], short)[0])


def test_who_sees_whom_by_hand():
    places = Places(since=1, places=2, thoughts=2)
    # items 0, 1, 2; first thoughts of the two places; their second thoughts
    assert places.seen(torch.device("cpu")).int().tolist() == [[1, 1, 0, 1, 0, 1, 0], [1, 1, 1, 0, 1, 0, 1]]
    assert places.distance(torch.device("cpu")).tolist() == [[3, 2, -1, 1, -1, 0, -1], [4, 3, 2, -1, 1, -1, 0]]


def test_items_are_sums_of_their_codes():
    model = build("decoder")
    d, vectors = model.decoder, model.vectors()
    assert (vectors[0] == 0).all()
    assert_close(vectors[7], sum(d.tokens.weight[token] for token in d.item_tokens[7]))
    u = torch.randn(8, dtype=torch.float64)
    logits = d.tokens.weight @ u
    assert_close(vectors[7] @ u, sum(logits[token] for token in d.item_tokens[7]))


def test_gradients_reach_every_weight(name):
    model, history, x = build(name), drawn(), inputs()
    _, cache = model.read(history)
    r, cache = model.step(x[0], cache)
    r, _ = model.step(x[1], cache)
    (r.square().sum() + model.vectors().square().sum()).backward()
    silent = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_what_cannot_think_is_refused():
    with pytest.raises(
        ValueError, match="time_bias: a thought has no time stamp; build the backbone with time_bias=Fa"
    ):
        ThinkingHSTU(N_ITEMS, HSTUConfig(dim=8, time_bias=True))
    with pytest.raises(ValueError, match="layers: 2, but PyTorch's GRU tells the states of its top layer only"):
        ThinkingGRU4Rec(N_ITEMS, GRU4RecConfig(dim=8, layers=2))
    for name in BACKBONES:
        with pytest.raises(ValueError, match="since: must be one of the items 0 … 5 of the history, got 6"):
            build(name).read(drawn(), since=6)
