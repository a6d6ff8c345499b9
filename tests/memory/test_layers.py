"""Linear memories: three forms of one recurrence, numbers by hand, and what every layer has to obey."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from reclib.memory import DeltaNet, DeltaProduct, LinearAttention, MemoryConfig, Prism, TestTimeTraining
from reclib.memory.recurrence import Writes, chunkwise, loop, step

LINEAR = (LinearAttention, DeltaNet, Prism)
ALL = (*LINEAR, DeltaProduct, TestTimeTraining)


def random_writes(time, rank, dim=8, batch=2, seed=0, *, erase=True, fade=True):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    key = F.normalize(draw(batch, time, rank, dim), dim=-1)
    writes = Writes(
        draw(batch, time, dim),
        key,
        draw(batch, time, rank, dim),
        draw(batch, time).sigmoid() if erase else None,
        F.logsigmoid(draw(batch, time) + 2) if fade else None,
    )
    state = draw(batch, dim, dim)
    for part in (*writes, state):
        if part is not None:
            part.requires_grad_()
    return state, writes


def gradients(form, state, writes, **more):
    y, last = form(state, writes, **more)
    weight = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    inputs = [part for part in (*writes, state) if part is not None]
    return y, last, torch.autograd.grad((y * weight).sum() + last.square().sum(), inputs)


@pytest.mark.parametrize(
    ("time", "chunk", "rank"), [(63, 16, 1), (100, 32, 3), (64, 64, 2), (7, 1, 2), (33, 32, 2), (5, 99, 1)]
)
@pytest.mark.parametrize(("erase", "fade"), [(True, True), (False, True), (True, False), (False, False)])
def test_chunks_and_loop_agree_in_outputs_states_and_gradients(time, chunk, rank, erase, fade):
    state, writes = random_writes(time, rank, erase=erase, fade=fade)
    y, last, grads = gradients(loop, state, writes)
    y_chunked, last_chunked, grads_chunked = gradients(chunkwise, state, writes, chunk=chunk)
    assert_close(y_chunked, y, atol=1e-11, rtol=1e-10)
    assert_close(last_chunked, last, atol=1e-11, rtol=1e-10)
    for mine, reference in zip(grads_chunked, grads, strict=True):
        assert_close(mine, reference, atol=1e-9, rtol=1e-8)


def test_a_strong_decay_neither_overflows_nor_loses_the_gradient():
    state, writes = random_writes(200, 2)
    strong = writes._replace(log_alpha=torch.full((2, 200), -30.0, dtype=torch.float64, requires_grad=True))
    y, _, grads = gradients(loop, state, strong)
    y_chunked, _, grads_chunked = gradients(chunkwise, state, strong, chunk=64)
    assert_close(y_chunked, y)
    assert all(torch.isfinite(grad).all() for grad in grads_chunked)
    assert_close(grads_chunked[0], grads[0])


def test_two_tokens_by_hand():
    one = Writes(
        torch.tensor([[[1.0, 1.0], [1.0, -1.0]]]),
        torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [1.0, 0.0]]]]),
        torch.tensor([[[[0.5, 1.0], [0.0, 1.0]], [[-1.0, 1.0], [0.5, 0.0]]]]),  # β δ
        torch.tensor([[0.5, 1.0]]),
        torch.tensor([[1.0, 0.9]]).log(),
    )
    y, S = step(torch.zeros(1, 2, 2), one.at(0))
    assert_close(S[0], torch.tensor([[0.5, 0.0], [1.0, 1.0]]))
    assert_close(y[0], torch.tensor([0.5, 2.0]))
    y, S = step(S, one.at(1))
    assert_close(S[0], torch.tensor([[0.188, -1.016], [0.744, 0.692]]))
    assert_close(y[0], torch.tensor([1.204, 0.052]))
    y, S = chunkwise(torch.zeros(1, 2, 2), one)
    assert_close(y[0], torch.tensor([[0.5, 2.0], [1.204, 0.052]]))


def test_rank_one_without_decay_is_the_delta_rule():
    state, writes = random_writes(40, 1, fade=False)
    S, expected = state, []
    for t in range(40):
        k, v, beta = writes.key[:, t, 0], writes.delta[:, t, 0], writes.erase[:, t, None]
        S = S + (beta * (v - torch.einsum("bvk,bk->bv", S, k)))[:, :, None] * k[:, None, :]
        expected.append(torch.einsum("bvk,bk->bv", S, writes.query[:, t]))
    gated = writes._replace(delta=writes.erase[..., None, None] * writes.delta)
    y, last = chunkwise(state, gated, chunk=16)
    assert_close(y, torch.stack(expected, 1), atol=1e-12, rtol=1e-10)
    assert_close(last, S, atol=1e-12, rtol=1e-10)


def test_the_residual_telescopes():
    torch.manual_seed(0)
    layer = Prism(MemoryConfig(dim=8, rank=3))
    u = torch.randn(2, 5, 8)
    residual = layer.value(u) - u
    for p in layer.gain(u).chunk(3, dim=-1):
        residual = residual - F.gelu(p * residual)
    assert_close(layer.value(u) - u - layer.deltas(u, layer.value(u)).sum(2), residual, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_token_writes_as_many_pairs_as_the_rank(rank):
    torch.manual_seed(0)
    writes = Prism(MemoryConfig(dim=8, rank=rank)).double().writes(torch.randn(1, 6, 8, dtype=torch.float64))
    B = torch.einsum("btrv,btrk->btvk", writes.delta, writes.key)
    assert (torch.linalg.matrix_rank(B) == rank).all()


def test_an_erasure_shrinks_one_direction_and_leaves_the_others():
    torch.manual_seed(0)
    writes = Prism(MemoryConfig(dim=8)).double().writes(torch.randn(1, 6, 8, dtype=torch.float64))
    k = writes.key[0, :, 0]
    A = torch.eye(8, dtype=torch.float64) - writes.erase[0, :, None, None] * k[:, :, None] * k[:, None, :]
    values = torch.linalg.eigvalsh(A)
    assert_close(values[:, 1:], torch.ones_like(values[:, 1:]))
    assert_close(values[:, 0], 1 - writes.erase[0])
    assert ((values[:, 0] >= 0) & (values[:, 0] <= 1)).all()


@pytest.fixture(params=ALL, ids=lambda kind: kind.__name__)
def layer(request):
    torch.manual_seed(0)
    return request.param(MemoryConfig(dim=8, keys=6, rank=2, chunk=16))


def test_steps_are_the_full_pass(layer):
    x = torch.randn(2, 50, 8)
    y, last = layer(x)
    state, found = None, []
    for token in x.unbind(1):
        out, state = layer.step(token, state)
        found.append(out)
    assert_close(torch.stack(found, 1), y, atol=1e-5, rtol=1e-5)
    assert_close(state.S, last.S, atol=1e-5, rtol=1e-5)
    assert_close(state.window, last.window)


def test_a_sequence_may_be_cut_anywhere(layer):
    x = torch.randn(2, 50, 8)
    y, last = layer(x)
    first, state = layer(x[:, :3])
    second, state = layer(x[:, 3:20], state)
    third, state = layer(x[:, 20:], state)
    assert_close(torch.cat([first, second, third], 1), y, atol=1e-5, rtol=1e-5)
    assert_close(state.S, last.S, atol=1e-5, rtol=1e-5)


def test_the_future_does_not_reach_the_past(layer):
    x = torch.randn(2, 40, 8)
    other = x.clone()
    other[:, 23] += 1
    same, changed = layer(x)[0], layer(other)[0]
    assert_close(changed[:, :23], same[:, :23], atol=0, rtol=0)
    assert (changed[:, 23] - same[:, 23]).abs().max() > 1e-3


def test_the_state_does_not_grow(layer):
    sizes = [sum(part.numel() for part in layer(torch.randn(1, time, 8))[1]) for time in (1, 10, 200)]
    assert sizes[0] == sizes[1] == sizes[2]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_every_parameter_of_prism_learns(rank, chunk):
    torch.manual_seed(0)
    layer = Prism(MemoryConfig(dim=8, rank=rank, chunk=chunk))
    layer(torch.randn(2, 20, 8))[0].square().sum().backward()
    for name, weight in layer.named_parameters():
        assert weight.grad.abs().sum() > 0, name


def test_one_step_of_deltaproduct_is_deltanet():
    torch.manual_seed(0)
    several, one = DeltaProduct(MemoryConfig(dim=8, rank=1)), DeltaNet(MemoryConfig(dim=8))
    one.load_state_dict(several.state_dict())
    x = torch.randn(2, 20, 8)
    assert_close(several(x)[0], one(x)[0])


@pytest.mark.parametrize("kind", [*LINEAR, DeltaProduct])
def test_writes_do_not_see_the_memory_so_the_output_is_affine_in_it(kind):
    torch.manual_seed(0)
    layer = kind(MemoryConfig(dim=8)).double()
    x = torch.randn(2, 20, 8, dtype=torch.float64)
    empty = layer.initial_state(2)
    a, b = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    y_0, y_a, y_b, y_ab = (layer(x, empty._replace(S=S))[0] for S in (empty.S, a, b, a + b))
    assert_close(y_ab - y_0, (y_a - y_0) + (y_b - y_0), atol=1e-12, rtol=1e-9)


def test_several_steps_in_the_memory_are_not_affine():
    torch.manual_seed(0)
    layer = TestTimeTraining(MemoryConfig(dim=8)).double()
    x, S = torch.randn(1, 5, 8, dtype=torch.float64), torch.randn(1, 8, 8, dtype=torch.float64)
    empty = layer.initial_state(1)
    y_0, y_1, y_2 = (layer(x, empty._replace(S=scale * S))[0] for scale in (0, 1, 2))
    assert (y_2 - y_0 - 2 * (y_1 - y_0)).abs().max() > 1e-3


def test_more_steps_learn_a_pair_better():
    torch.manual_seed(0)
    errors = []
    for steps in (1, 2, 8):
        torch.manual_seed(0)
        layer = TestTimeTraining(MemoryConfig(dim=8, kernel=1), steps)
        u, _ = layer._anchor(torch.randn(4, 1, 8), layer.initial_state(4))
        _, S = layer._remember(u, layer.initial_state(4).S)
        k, v = F.normalize(layer.key(u[:, 0]), dim=-1), layer.value(u[:, 0])
        errors.append(float((torch.tanh(torch.einsum("bvk,bk->bv", S, k)) - v).square().mean().detach()))
    assert errors[0] > errors[1] > errors[2]


def test_bad_input_is_named(layer):
    with pytest.raises(ValueError, match=r"x: is 5 wide, the layer 8; give \[batch, time, 8\]"):
        layer(torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match="x: the sequence is empty"):
        layer(torch.zeros(2, 0, 8))
    _, state = layer(torch.zeros(2, 3, 8))
    with pytest.raises(ValueError, match=r"state: its S is \(2, 8, 6\), this layer's is \(4, 8, 6\); a state fits"):
        layer(torch.zeros(4, 3, 8), state)
    with pytest.raises(ValueError, match=r"state: its window is \(2, 3, 8\), this layer's is \(2, 4, 8\)"):
        layer.step(torch.zeros(2, 8), state._replace(window=state.window[:, 1:]))


@pytest.mark.parametrize(("field", "value"), [("dim", 0), ("keys", 0), ("kernel", 0), ("rank", 0), ("chunk", 0)])
def test_sizes_are_checked(field, value):
    with pytest.raises(ValueError, match=f"{field}: must be at least 1, got 0"):
        MemoryConfig(**{field: value})


def test_steps_and_chunks_of_nothing_are_refused():
    with pytest.raises(ValueError, match="steps: must be at least 1, got 0"):
        TestTimeTraining(steps=0)
    state, writes = random_writes(5, 1)
    with pytest.raises(ValueError, match="chunk: must be at least 1, got 0"):
        chunkwise(state, writes, chunk=0)
    with pytest.raises(ValueError, match="time: the sequence is empty"):
        chunkwise(state, Writes(*(part[:, :0] for part in writes)))
