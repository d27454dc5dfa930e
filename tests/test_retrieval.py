"""Retrieval's measures: by their definitions, by the field's calculator, and by known answers."""

import numpy as np
import pytest
import torch

import oracle
from whyalike.evaluate import retrieval as measure


def embeddings(n=60, d=5, classes=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    centres = torch.randn(classes, d, generator=generator)
    return centres[labels] + torch.randn(n, d, generator=generator), labels


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_every_measure_is_its_definition_in_chunks_of_any_size(rows, monkeypatch):
    E, labels = embeddings()
    labels[3] = 99  # alone in its class
    monkeypatch.setattr(measure, "CHUNK_BYTES", rows * len(E) * E.element_size())
    found = measure.retrieval(E, labels, ks=[1, 2, 4])
    recalls, map_at_r, r_precision = oracle.retrieval(E, labels.tolist(), [1, 2, 4])
    assert list(found.recall.values()) == pytest.approx(recalls)
    assert found.map_at_r == pytest.approx(map_at_r)
    assert found.r_precision == pytest.approx(r_precision)
    assert (found.queries, found.lone) == (59, 1)
    assert measure.recall_at_k(E, labels, 2) == pytest.approx(recalls[1])
    assert measure.map_at_r(E, labels) == pytest.approx(map_at_r)


def test_the_fields_calculator_gives_the_same():
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    names = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
    knn = CustomKNN(CosineSimilarity())
    theirs = AccuracyCalculator(include=names, k="max_bin_count", knn_func=knn)
    E, labels = embeddings()
    found = measure.retrieval(E, labels)
    expected = theirs.get_accuracy(E, labels)
    values = (found.recall[1], found.map_at_r, found.r_precision)
    assert values == pytest.approx([expected[name] for name in names])

    gallery, gallery_labels = embeddings(40, seed=1)
    found = measure.retrieval(E, labels, gallery, gallery_labels)
    expected = theirs.get_accuracy(E, labels, gallery, gallery_labels)
    values = (found.recall[1], found.map_at_r, found.r_precision)
    assert values == pytest.approx([expected[name] for name in names])


def test_known_answers():
    E = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 2.0], [0.2, 2.0]])
    perfect = measure.retrieval(E, ["a", "a", "b", "b"], ks=[1])
    assert (perfect.recall[1], perfect.map_at_r, perfect.r_precision) == (1, 1, 1)
    wrong = measure.retrieval(E, ["a", "b", "b", "a"], ks=[1])
    assert (wrong.recall[1], wrong.map_at_r) == (0, 0)
    assert "R@1 100.0, MAP@R 100.0 (4 queries)" in str(perfect)
    # Right at ranks 1, 3 and 4 of R = 4: (1/1 + 2/3 + 3/4) / 4.
    relevant = torch.tensor([[True, False, True, True, True]])
    found = measure.average_precision_at_r(relevant, torch.tensor([4]))
    assert found.tolist() == pytest.approx([(1 + 2 / 3 + 3 / 4) / 4])
    assert measure.precision_at_k(relevant, 2).tolist() == [0.5]
    assert measure.precision_at_k(relevant, 5).tolist() == [0.8]


def test_a_model_that_embeds_all_alike_is_at_chance_whatever_the_order_of_the_files():
    labels = torch.arange(20).repeat_interleave(20)
    found = measure.retrieval(torch.ones(400, 3), labels, ks=[1])
    assert found.recall[1] == pytest.approx(19 / 399, abs=0.05)


def test_queries_of_any_length_are_ranked_by_inner_product_and_may_leave_themselves_out():
    gallery, _ = embeddings(30)
    queries = gallery[[4, 9]] * torch.tensor([[1e-3], [50.0]])
    ranks = measure.nearest(queries, gallery, 29, own=torch.tensor([4, 9]))
    assert ranks.tolist() == [oracle.ranking(gallery[i], gallery, i) for i in (4, 9)]
    assert measure.nearest(queries, gallery, 1).tolist() == [[4], [9]]


def test_what_cannot_be_measured_is_refused():
    E, labels = embeddings(10)
    with pytest.raises(ValueError, match="came 10 embeddings and 9 labels"):
        measure.retrieval(E, labels[:9])
    with pytest.raises(ValueError, match="give both, or neither"):
        measure.retrieval(E, labels, E)
    with pytest.raises(ValueError, match="no query has another"):
        measure.retrieval(E, range(10))
    with pytest.raises(ValueError, match="k is from 1 to the 9 others"):
        measure.nearest(E, E, 10, own=torch.arange(10))
    with pytest.raises(ValueError, match="5 ranks that are there; came 6"):
        measure.precision_at_k(torch.ones(2, 5, dtype=torch.bool), 6)
    with pytest.raises(ValueError, match="at least one"):
        measure.bootstrap(torch.zeros(0))
    with pytest.raises(ValueError, match="3 values have as many groups; came 2"):
        measure.bootstrap(torch.zeros(3), groups="ab")


def test_an_interval_is_as_wide_as_theory_says():
    values = np.random.default_rng(0).random(400) < 0.3
    found = measure.bootstrap(values.astype(float), draws=2000)
    mean, error = values.mean(), values.std() / 20
    assert found.mean == mean
    assert (found.low, found.high) == pytest.approx(
        (mean - 1.96 * error, mean + 1.96 * error), abs=0.15 * error
    )
    assert measure.bootstrap(torch.full((5,), 0.4)) == measure.Interval(*[pytest.approx(0.4)] * 3)
    # Four copies of each value are no more evidence than one, if they are drawn together.
    copies, groups = np.repeat(values, 4), np.repeat(np.arange(400), 4)
    grouped = measure.bootstrap(copies.astype(float), groups=groups, draws=2000)
    assert grouped.high - grouped.low == pytest.approx(found.high - found.low, rel=0.1)
    alone = measure.bootstrap(copies.astype(float), draws=2000)
    assert alone.high - alone.low == pytest.approx((found.high - found.low) / 2, rel=0.1)
