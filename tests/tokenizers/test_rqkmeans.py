"""RQ-KMeans: codes by hand, the residual identity, recovery of clusters, faiss, bad input."""

import json

import pytest
import quantizer_reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantizer_reference import relative_error, vectors
from torch import tensor

from reclib.tokenizers import RQKMeans, RQKMeansConfig
from reclib.tokenizers.rqkmeans import different, nearest, residual_codes, sum_of_codewords

RECORDED = json.loads(quantizer_reference.PATH.read_text())
BOOKS = tensor([[[0.0], [10.0]], [[-1.0], [2.0]]])  # two levels of two codewords on a line
TWO = RQKMeansConfig(levels=2, codes=2)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_codes_by_hand():
    codes, residual = residual_codes(tensor([[12.0], [4.0], [6.0]]), BOOKS)
    # 12 = 10 + 2;  4 → 0, then 4 → 2;  6 → 10, then -4 → -1
    assert codes.tolist() == [[1, 1], [0, 1], [1, 0]]
    assert residual.tolist() == [[0.0], [2.0], [-3.0]]
    assert sum_of_codewords(codes, BOOKS).tolist() == [[12.0], [2.0], [9.0]]


def test_fit_by_hand():
    """0, 1, 10, 11: the centres are ½ and 10½, what is left is ±½."""
    items = tensor([[0.0], [1.0], [10.0], [11.0]])
    model = RQKMeans(TWO).fit(items)
    assert sorted(model.codebooks.flatten().tolist()) == [-0.5, 0.5, 0.5, 10.5]
    a, b, c, d = model.codes_of(items).tolist()
    assert a[0] == b[0] != c[0] == d[0]
    assert a[1] == c[1] != b[1] == d[1]
    assert model.decode(model.codes_of(items)).tolist() == items.tolist()


def test_a_moved_first_codeword_changes_the_second_level():
    """The residual chain: 12 = 10 + 2 becomes 13 - 1."""
    moved = BOOKS.clone()
    moved[0, 1] = 13
    codes, residual = residual_codes(tensor([[12.0]]), moved)
    assert codes.tolist() == [[1, 0]]
    assert residual.tolist() == [[0.0]]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(2, 9), st.integers(1, 6), st.integers(0, 1000))
def test_codewords_and_last_residual_add_up_to_the_item(items, levels, codes, dim, seed):
    books, x = random(levels, codes, dim, seed=seed), random(items, dim, seed=seed + 1)
    chosen, residual = residual_codes(x, books)
    torch.testing.assert_close(sum_of_codewords(chosen, books) + residual, x)


@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_nearest_equals_a_loop(offset):
    """Also far from the origin, where ‖c‖² - 2 x·c would lose the differences to rounding."""
    x, book = random(300, 8) + offset, random(20, 8, seed=1) + offset
    expected = [min(range(20), key=lambda k: float((row - book[k]).double().square().sum())) for row in x]
    assert nearest(x, book).tolist() == expected


def test_nearest_in_parts(monkeypatch):
    x, book = random(50, 4), random(6, 4, seed=1)
    whole = nearest(x, book)
    monkeypatch.setattr("reclib.tokenizers.rqkmeans.ROWS", 7)
    assert torch.equal(nearest(x, book), whole)


@pytest.mark.parametrize("seed", range(5))
def test_recovers_a_hierarchy(seed):
    """4 × 4 × 4 groups whose distances are 100, 10 and 1, and noise of 0.01."""
    group = torch.cartesian_prod(*[torch.arange(4)] * 3).repeat(5, 1)
    parts = [scale * torch.eye(4)[group[:, level]] for level, scale in enumerate((100.0, 10.0, 1.0))]
    items = torch.cat(parts, dim=1) + 0.01 * random(len(group), 12, seed=seed)
    ids = RQKMeans(RQKMeansConfig(levels=3, codes=4, seed=seed)).fit(items).encode(items)
    for level in range(3):
        pairs = torch.stack([group[:, level], ids.codes[1:, level]], dim=1).unique(dim=0)
        assert len(pairs) == 4  # one code per group and one group per code
        assert ids.usage(level) == 1
    assert ids.n_sequences == 64


def test_each_level_lowers_the_error():
    items = vectors()
    model = RQKMeans(RQKMeansConfig(levels=4, codes=32)).fit(items)
    codes = model.codes_of(items)
    errors = [relative_error(items, model.decode(codes[:, :level])) for level in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.5 * errors[0]


def test_no_code_is_dead_even_when_codes_are_nearly_as_many_as_items():
    items = torch.cat([random(12, 3)] * 4)
    ids = RQKMeans(RQKMeansConfig(levels=1, codes=11)).fit(items).encode(items)
    assert ids.usage(0) == 1


def test_the_seed_decides():
    items = vectors()
    fits = [RQKMeans(RQKMeansConfig(codes=32, seed=seed)).fit(items) for seed in (3, 3, 4)]
    assert torch.equal(fits[0].codebooks, fits[1].codebooks)
    assert torch.equal(fits[0].codes_of(items), fits[1].codes_of(items))
    assert not torch.equal(fits[0].codebooks, fits[2].codebooks)


def test_items_with_one_vector_share_their_codes():
    items = random(40, 4)
    model = RQKMeans(RQKMeansConfig(levels=3, codes=16)).fit(items)
    apart = model.encode(items)
    ids = model.encode(torch.cat([items, items[:10]]))
    assert torch.equal(ids.codes[41:], ids.codes[1:11])
    assert ids.n_sequences == apart.n_sequences
    assert ids.collision_rate == pytest.approx(1 - apart.n_sequences / 50)
    assert (ids.n_items, ids.sizes, ids.name) == (50, (16, 16, 16), "rq-kmeans")


def test_rounding_errors_make_no_difference():
    rows = tensor([[0.0, 1.0], [-0.0, 1.0], [-1e-9, 1.0], [1e-9, 1.0], [1e-3, 1.0]])
    assert different(rows, 1e-5) == 2
    assert different(rows, 1e-12) == 4


def test_not_worse_than_faiss():
    items = vectors()
    config = RQKMeansConfig(quantizer_reference.LEVELS, quantizer_reference.CODES)
    model = RQKMeans(config).fit(items)
    error = relative_error(items, model.decode(model.codes_of(items)))
    assert error < 1.02 * min(RECORDED["faiss_greedy"], RECORDED["faiss_beam_5"])


ITEMS = random(6, 2)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (torch.cat([ITEMS, tensor([[0.0, torch.nan]])]), "items: row 6 holds NaN or infinity"),
        (torch.full((1, 2), torch.inf), "items: row 0 holds NaN"),
        (ITEMS[:3], "items: 3 vectors cannot fill 4 codes"),
        (torch.full((9, 2), 1000.1), "items: 9 vectors, but only 1 different ones, cannot fill 4 codes"),
        (ITEMS[:3].repeat(3, 1), "items: 9 vectors, but only 3 different ones"),
        (torch.eye(4).repeat(2, 1), "levels: at level 2 only 1 different residuals are left for 4 codes"),
    ],
)
def test_bad_items(items, message):
    with pytest.raises(ValueError, match=message):
        RQKMeans(RQKMeansConfig(levels=2, codes=4)).fit(items)


def test_bad_requests():
    model = RQKMeans(TWO)
    for request in (model.codes_of, model.encode):
        with pytest.raises(ValueError, match=r"codebooks: there are none yet; call fit\(items\) first"):
            request(ITEMS)
    model.fit(ITEMS)
    with pytest.raises(ValueError, match="items: vectors of width 3, but fit saw 2"):
        model.encode(random(4, 3))
    with pytest.raises(ValueError, match="items: row 1 holds NaN"):
        model.codes_of(tensor([[0.0, 0.0], [torch.nan, 0.0]]))
    with pytest.raises(ValueError, match="codes: 3 codes per item, but there are 2 levels"):
        model.decode(tensor([[0, 0, 0]]))
    for wrong in (2, -1):
        with pytest.raises(ValueError, match="codes: must be 0 … 1"):
            model.decode(tensor([[0, wrong]]))


@pytest.mark.parametrize(("name", "value"), [("levels", 0), ("codes", 1), ("iterations", 0)])
def test_bad_configuration(name, value):
    with pytest.raises(ValueError, match=f"{name}: must be at least {value + 1}, got {value}"):
        RQKMeansConfig(**{name: value})
