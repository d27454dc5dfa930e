"""The measures of the benchmarks, on maps whose scores are known in closed form."""

import numpy as np
import pytest
import torch
from benchmarks.pairs import evaluate, matched
from benchmarks.randomisation import randomised
from scipy import stats
from torch import nn

import whyalike as wa
from whyalike.data.synthetic import digit_scenes
from whyalike.evaluate import measures as measure
from whyalike.evaluate.measures import correlation, rank_correlation
from whyalike.evaluate.perturbation import deletion_and_insertion

H, W = 24, 40
BOX = np.array([[8.0, 4.0, 20.0, 16.0]])


def block(x0, y0, x1, y1, value=1.0):
    values = torch.zeros(1, H, W, dtype=torch.float64)
    values[0, y0:y1, x0:x1] = value
    return values


def test_the_object_itself_scores_full_marks():
    maps = block(8, 4, 20, 16)
    assert measure.box_overlaps(maps, BOX).tolist() == [[1.0] * len(measure.THRESHOLDS)]
    assert measure.pointing(maps, BOX).tolist() == [1.0]


def test_masks_of_scenes_give_their_boxes():
    scenes = digit_scenes(20, seed=0)
    maps = torch.from_numpy(np.stack([scene.masks[0] for scene in scenes])).double()
    boxes = np.array([scene.boxes[0] for scene in scenes])
    overlaps = measure.box_overlaps(maps, boxes)
    # A digit may fall into several strokes, of which the largest counts.
    assert (overlaps[:, 20] == 1).mean() > 0.9
    assert measure.pointing(maps, boxes).min() == 1
    assert measure.box_accuracy_v2(overlaps) > 0.9


def test_a_map_of_ones_is_the_whole_image():
    share = 12 * 12 / (H * W)
    maps = torch.ones(1, H, W)
    assert measure.pointing(maps, BOX) == pytest.approx([share])
    assert measure.box_overlaps(maps, BOX) == pytest.approx(share)


def test_scale_does_not_matter_and_negative_values_are_nothing():
    maps = torch.rand(1, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    signed = torch.where(maps > 0.3, maps, maps - 5)
    expected = measure.box_overlaps(signed.clamp(min=0), BOX)
    assert (measure.box_overlaps(7 * signed, BOX) == expected).all()
    assert (measure.box_overlaps(-maps, BOX) == 0).all()


def test_the_largest_part_leads_and_corners_connect():
    maps = block(8, 4, 20, 16) + block(30, 18, 32, 20, 5.0)
    overlaps = measure.box_overlaps(maps, BOX, [0.1, 0.5])
    assert overlaps.tolist() == [[1.0, 0.0]]
    diagonal = (block(8, 4, 14, 10) + block(14, 10, 20, 16))[0].numpy() > 0
    assert measure.largest_part(diagonal).tolist() == BOX[0].tolist()


def test_overlap_of_boxes_by_hand():
    assert measure.iou([0, 0, 4, 2], [2, 0, 6, 2]) == pytest.approx(4 / 12)
    assert measure.iou([0, 0, 1, 1], [1, 1, 2, 2]) == 0


def test_thresholds_are_the_best_for_all_images_or_those_of_others():
    overlaps = np.array([[0.6, 0.2], [0.6, 0.9], [0.1, 0.9], [0.6, 0.1]])
    assert measure.box_accuracy(overlaps) == 0.75
    others = np.array([[0.0, 0.9]])
    assert measure.box_accuracy(overlaps, chosen_on=others) == 0.5
    assert measure.box_accuracy_v2(overlaps) == pytest.approx((0.75 + 0.75 + 0.5) / 3)


def test_a_map_is_enlarged_between_the_centres_of_cells():
    values = torch.arange(6.0).view(2, 3)
    large = measure.to_image(values, (8, 12))
    assert large.shape == (8, 12)
    assert large[0, 0] == 0  # edges are repeated
    assert large[:2, 5:7].mean() == pytest.approx(values[0, 1].item())
    assert large[3:5, 5:7].mean() == pytest.approx(values[:, 1].mean().item())
    assert measure.to_image(large, (8, 12)).equal(large)


def test_deletion_and_insertion_of_a_score_that_counts_pixels():
    """The score is the share of the box's pixels that are left; there are 1/8 of them."""
    image = torch.ones(3, 16, 16)
    values = torch.zeros(16, 16)
    values[:4, :8] = 1
    score = lambda images: (images[:, 0, :4, :8]).mean((1, 2))  # noqa: E731
    deletion, insertion = deletion_and_insertion(score, image, values)
    # Two of sixteen steps take it all: 1, 1/2, 0, 0, ...
    assert deletion == pytest.approx(1 / 16)
    assert insertion == pytest.approx(15 / 16)
    worst = deletion_and_insertion(score, image, -values)
    assert worst == pytest.approx((15 / 16, 1 / 16))
    constant = deletion_and_insertion(score, image, torch.zeros(16, 16))
    assert constant == pytest.approx((0.5, 0.5), abs=0.05)


def test_correlations_are_scipys():
    a, b = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    pearson = stats.pearsonr(a.flatten(), b.flatten()).statistic
    assert correlation(a, b) == pytest.approx(pearson)
    spearman = stats.spearmanr(a.flatten(), b.flatten()).statistic
    assert rank_correlation(a, b) == pytest.approx(spearman)
    assert np.isnan(correlation(a, torch.ones(5, 7)))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU())
    return wa.EmbeddingModel(trunk.eval(), "mean", nn.Linear(8, 6).eval(), wa.Preprocess(size=32))


@pytest.fixture(scope="module")
def pairs(model):
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 3
    boxes = np.tile([8.0, 4.0, 20.0, 16.0], (12, 1))
    return matched(model, images, boxes, labels, retrieved=False)


def decomposition(model, query, reference):
    pair = wa.explain_pair(model, query, reference)
    return pair.overall_map("query"), sum(pair.terms) - pair.terms.pairs


def of_point(model, query, reference, query_xy):
    return wa.explain_pair(model, query, reference).point_map(query_xy=query_xy)


def test_partners_are_the_nearest_of_the_same_class(model, pairs):
    with torch.no_grad():
        S = torch.cosine_similarity(model(pairs.images)[:, None], model(pairs.images)[None], dim=2)
    assert (pairs.query == np.arange(12)).all()
    for query, reference, other in zip(pairs.query, pairs.reference, pairs.other, strict=True):
        same = [i for i in range(12) if i % 3 == query % 3 and i != query]
        assert reference == max(same, key=lambda i: S[query, i].item())
        assert other % 3 != query % 3
    assert pairs.choose.tolist() == [i % 3 == 0 for i in range(12)]


def test_a_complete_map_has_no_gap_and_every_score(model, pairs):
    scores = evaluate(model, pairs, decomposition, of_point)
    assert scores.gap.max() < 1e-5
    assert scores.overlaps.shape == (12, len(measure.THRESHOLDS))
    assert not any(np.isnan(value) for value in scores.summary().values())
    half = scores.take(pairs.choose)
    assert len(half.seconds) == 4
    assert np.isnan(evaluate(model, pairs, lambda m, x, y: x[0], deletion=False).gap).all()


def test_a_map_of_the_image_alone_outlives_what_the_network_forgets(model, pairs):
    few = pairs.take(slice(4))
    edges = randomised(model, lambda m, x, y: x.abs().sum(0), few, steps=3)
    assert edges[0].forgotten == ""
    assert all(step.spearman == pytest.approx(1) for step in edges)
    ours = randomised(model, decomposition, few, steps=4)
    assert ours[0].pearson == pytest.approx(1)
    assert ours[-1].spearman < 0.9
    assert ours[-1].forgotten.endswith("0")
