"""Pairs: the four terms, maps, matrix and links, against loops."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import whyalike as wa
from nets import C, D, images, randomise, trunk
from oracle import bilinear
from whyalike.errors import CompletenessError, ModelError, RegionError, WhyalikeError
from whyalike.geometry import Frame


@pytest.fixture(scope="module")
def model() -> wa.EmbeddingModel:
    net = randomise(
        nn.ModuleList([trunk(), nn.Sequential(nn.Linear(C, 6), nn.ReLU(), nn.Linear(6, D))])
    )
    return wa.EmbeddingModel(net[0], "mean", net[1])


@pytest.fixture(scope="module")
def pair(model) -> wa.Pair:
    """Query of 3×5 cells, reference of 6×4."""
    return wa.explain_pair(model, images(1)[0], images(1, seed=2, hw=(24, 16))[0])


def contributions(values: torch.Tensor, bias=None, size_wh=None) -> wa.Contributions:
    h, w, d = values.shape
    bias = torch.zeros(d, dtype=values.dtype) if bias is None else bias
    width, height = size_wh or (w * 10, h * 10)
    frame = Frame((width, height), (0, 0, width, height), (h, w))
    return wa.Contributions(values, bias, values.sum((0, 1)) + bias, frame)


def test_similarity_is_the_cosine_of_what_the_network_returns(model, pair):
    q, r = model(images(1)), model(images(1, seed=2, hw=(24, 16)))
    assert pair.similarity == pytest.approx(torch.cosine_similarity(q, r).item(), abs=1e-12)


def test_terms_add_up_and_are_what_they_are_called(pair):
    q, r = pair.query, pair.reference
    norms = (q.embedding.norm() * r.embedding.norm()).item()
    pairs = sum(
        float(q.values[i, j] @ r.values[x, y])
        for i in range(3) for j in range(5) for x in range(6) for y in range(4)
    )  # fmt: skip
    assert pair.terms.pairs == pytest.approx(pairs / norms, abs=1e-12)
    assert pair.terms.query_bias == pytest.approx(
        float(q.bias @ r.values.sum((0, 1))) / norms, abs=1e-12
    )
    assert pair.terms.reference_bias == pytest.approx(
        float(r.bias @ q.values.sum((0, 1))) / norms, abs=1e-12
    )
    assert pair.terms.bias_bias == pytest.approx(float(q.bias @ r.bias) / norms, abs=1e-12)
    assert sum(pair.terms) == pytest.approx(pair.similarity, abs=1e-12)
    assert all(abs(term) > 1e-3 for term in pair.terms)  # none of the above is trivial


def test_overall_maps_add_up_to_the_terms(pair):
    for side in ("query", "reference"):
        assert pair.overall_map(side).sum().item() == pytest.approx(pair.terms.pairs, abs=1e-12)
    with_bias = pair.overall_map("query", bias=True).sum().item()
    assert with_bias == pytest.approx(pair.terms.pairs + pair.terms.reference_bias, abs=1e-12)
    with_bias = pair.overall_map("reference", bias=True).sum().item()
    assert with_bias == pytest.approx(pair.terms.pairs + pair.terms.query_bias, abs=1e-12)


def test_matrix_rows_and_columns(pair):
    matrix = pair.matrix()
    assert matrix.shape == (3, 5, 6, 4)
    torch.testing.assert_close(matrix.sum((0, 1)), pair.overall_map("reference"))
    torch.testing.assert_close(matrix.sum((2, 3)), pair.overall_map("query"))
    norms = (pair.query.embedding.norm() * pair.reference.embedding.norm()).item()
    one = (pair.query.values[2, 1] @ pair.reference.values[4, 3]).item() / norms
    assert matrix[2, 1, 4, 3].item() == pytest.approx(one, abs=1e-12)


def test_swapping_the_images_transposes_everything(pair):
    swapped = wa.Pair(pair.reference, pair.query)
    torch.testing.assert_close(swapped.matrix(), pair.matrix().permute(2, 3, 0, 1))
    assert swapped.similarity == pytest.approx(pair.similarity)
    assert swapped.terms == pytest.approx(
        (pair.terms[0], pair.terms[2], pair.terms[1], pair.terms[3])
    )
    torch.testing.assert_close(swapped.overall_map("query"), pair.overall_map("reference"))


def test_point_map_at_a_cell_centre_is_a_row_of_the_matrix(pair):
    matrix = pair.matrix()
    for i in range(3):
        for j in range(5):
            found = pair.point_map(query_xy=(4 * j + 2, 4 * i + 2))
            torch.testing.assert_close(found, matrix[i, j], rtol=1e-12, atol=1e-14)
    found = pair.point_map(reference_xy=(4 * 3 + 2, 4 * 5 + 2))
    torch.testing.assert_close(found, matrix[:, :, 5, 3], rtol=1e-12, atol=1e-14)


@given(x=st.floats(0, 20), y=st.floats(0, 12))
@settings(max_examples=50, deadline=None)
def test_points_between_centres_are_interpolated(pair, x, y):
    expected = bilinear(pair.matrix(), x / 4, y / 4)
    torch.testing.assert_close(pair.point_map(query_xy=(x, y)), expected, rtol=1e-9, atol=1e-12)


@given(
    xs=st.lists(st.floats(0.5, 19.5), max_size=3, unique=True),
    ys=st.lists(st.floats(0.5, 11.5), max_size=3, unique=True),
)
@settings(max_examples=30, deadline=None)
def test_regions_that_tile_the_image_add_up_to_the_whole(pair, xs, ys):
    xs, ys = [0, *sorted(xs), 20], [0, *sorted(ys), 12]
    tiles = [
        pair.region_map(query_xyxy=(x0, y0, x1, y1))
        for x0, x1 in pairwise(xs)
        for y0, y1 in pairwise(ys)
        if x1 - x0 > 1e-9 and y1 - y0 > 1e-9
    ]
    torch.testing.assert_close(sum(tiles), pair.overall_map("reference"), rtol=1e-7, atol=1e-9)


def test_a_mask_and_its_box_give_one_map(pair):
    mask = np.zeros((24, 16), dtype=bool)
    mask[5:17, 3:9] = True
    by_mask = pair.region_map(reference_mask=mask)
    torch.testing.assert_close(by_mask, pair.region_map(reference_xyxy=(3, 5, 9, 17)))
    rest = pair.region_map(reference_mask=~mask)
    torch.testing.assert_close(by_mask + rest, pair.overall_map("query"))


def test_removing_a_cell_changes_a_linear_embedding_by_its_contribution():
    net = randomise(nn.ModuleList([nn.Identity(), nn.Linear(C, D)]))
    model = wa.EmbeddingModel(net[0], "mean", net[1])
    A = torch.randn(1, C, 3, 5, dtype=torch.float64)
    v, _, E, _, _ = model.decompose(A)
    for cell in range(15):
        erased = A.clone()
        erased.flatten(2)[:, :, cell] = 0
        torch.testing.assert_close(E[0] - model(erased)[0], v[0, cell])


def test_two_networks_for_query_and_reference(model):
    other = randomise(nn.ModuleList([trunk(6), nn.Linear(6, D)]), seed=5)
    tower = wa.EmbeddingModel(other[0], "max", other[1])
    q, r = images(1)[0], images(1, seed=2, hw=(8, 28))[0]
    pair = wa.explain_pair(model, q, r, reference_model=tower)
    expected = torch.cosine_similarity(model(q[None]), tower(r[None])).item()
    assert sum(pair.terms) == pytest.approx(expected, abs=1e-12)
    assert pair.matrix().shape == (3, 5, 2, 7)
    assert pair.model.startswith("query: ")
    longer = randomise(nn.ModuleList([trunk(), nn.Linear(C, D + 1)]))
    with pytest.raises(ModelError, match="the query's has 4 dimensions, the reference's 5"):
        wa.explain_pair(
            model, q, r, reference_model=wa.EmbeddingModel(longer[0], "mean", longer[1])
        )


def test_a_ranking_is_its_pairs(model):
    q, *references = [images(1, seed=s)[0] for s in range(5)]
    ranking = wa.explain_ranking(model, q, references, batch_size=3)
    for found, reference in zip(ranking, references, strict=True):
        alone = wa.explain_pair(model, q, reference)
        assert found.similarity == pytest.approx(alone.similarity, abs=1e-12)
        torch.testing.assert_close(found.matrix(), alone.matrix())


def test_matches_find_planted_links_each_region_once():
    generator = torch.Generator().manual_seed(0)
    q = torch.zeros(10, 15, 6, dtype=torch.float64)
    r = torch.zeros(15, 10, 6, dtype=torch.float64)
    q[2:4, 3:6, 0], r[6:9, 4:6, 0] = 3.0, 3.0  # the strongest
    q[7:9, 9:12, 1], r[0:3, 0:2, 1] = 2.0, 2.0
    q[0, 0, 2], r[14, 9, 2] = 1.0, -5.0  # evidence against
    q += 1e-3 * torch.randn(q.shape, generator=generator, dtype=torch.float64)
    pair = wa.Pair(contributions(q), contributions(r))
    found = pair.matches(2)
    assert found[0].query_xyxy == (30, 20, 60, 40)
    assert found[0].reference_xyxy == (40, 60, 60, 90)
    assert found[1].query_xyxy == (90, 70, 120, 90)
    assert found[1].reference_xyxy == (0, 0, 20, 30)
    matrix = pair.matrix()
    assert found[0].value == pytest.approx(matrix[2:4, 3:6, 6:9, 4:6].sum().item())
    assert found[0].share == pytest.approx(found[0].value / pair.similarity)
    every = pair.matches(100)
    for side in (0, 1):
        boxes = [match[side] for match in every]
        for n, a in enumerate(boxes):
            for b in boxes[:n]:
                assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    sizes = [abs(match.value) for match in every]
    assert sizes == sorted(sizes, reverse=True)
    assert min(match.value for match in every) < 0  # evidence against is a link as well


def test_a_similarity_of_zero_has_links_without_shares():
    q, r = torch.zeros(2, 3, 2), torch.zeros(2, 3, 2)
    q[0, 0], r[0, 0], r[1, 2] = (
        torch.tensor([1.0, 0.0]),
        torch.tensor([1.0, 1.0]),
        torch.tensor([-1.0, 0.0]),
    )
    pair = wa.Pair(contributions(q), contributions(r))
    assert pair.similarity == 0
    first, *_ = pair.matches()
    assert abs(first.value) == pytest.approx(1.0)
    assert math.isnan(first.share)


@pytest.mark.parametrize("size", [1e-18, 1e18])
def test_embeddings_of_any_length(size):
    generator = torch.Generator().manual_seed(0)
    q, r = (torch.randn(2, 3, 4, generator=generator) for _ in range(2))
    plain = wa.Pair(contributions(q), contributions(r))
    scaled = wa.Pair(contributions(q * size), contributions(r * size))
    torch.testing.assert_close(scaled.matrix(), plain.matrix())
    torch.testing.assert_close(scaled.overall_map("query"), plain.overall_map("query"))
    assert scaled.terms == pytest.approx(plain.terms)


def test_evidence_against_is_kept():
    q = torch.zeros(2, 3, 2, dtype=torch.float64)
    r = torch.zeros(2, 3, 2, dtype=torch.float64)
    q[0, 0, 0], r[1, 2, 0], r[0, 1, 0], r[0, 0, 1] = 1.0, -1.0, 0.5, 1.0
    pair = wa.Pair(contributions(q), contributions(r))
    assert pair.similarity < 0
    assert pair.overall_map("reference")[1, 2] < 0 < pair.overall_map("reference")[0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.point_map(), "give query_xy or reference_xy"),
        (lambda p: p.point_map(query_xy=(1, 1), reference_xy=(1, 1)), "one point"),
        (lambda p: p.point_map(query_xy=(21, 5)), r"\(21, 5\) lies outside"),
        (lambda p: p.point_map(query_xy=(math.nan, 5)), "pixels of the photograph"),
        (lambda p: p.region_map(), "one box or one mask"),
        (lambda p: p.region_map(query_xyxy=(5, 5, 5, 9)), "x1 < x2"),
        (lambda p: p.region_map(query_mask=np.ones((3, 3))), r"\(12, 20\); came \(3, 3\)"),
        (lambda p: p.overall_map("left"), "came 'left'"),
    ],
)
def test_bad_points_and_regions(pair, call, message):
    with pytest.raises(RegionError, match=message):
        call(pair)


def test_contributions_that_do_not_fit_their_embedding_are_refused():
    whole = contributions(torch.ones(2, 3, 4))
    wrong = wa.Contributions(whole.values * 2, whole.bias, whole.embedding, whole.frame)
    with pytest.raises(CompletenessError, match=r"the gap is 1"):
        wa.Pair(whole, wrong)
    with pytest.raises(ValueError, match="have shapes"):
        wa.Contributions(whole.values[0], whole.bias, whole.embedding, whole.frame)
    assert issubclass(CompletenessError, WhyalikeError)
