"""Ways to ask for a region: each is what it says, and where the answer is known, it is found."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import oracle
import whyalike as wa
from whyalike.errors import ModelError
from whyalike.evaluate.region_search import WAYS, compare, query_vectors

HALF = wa.Preprocess(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
    return wa.EmbeddingModel(trunk.eval(), "mean", nn.Linear(8, 6).eval(), HALF)


def noise(seed, size_wh=(64, 48)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size_wh[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_each_way_is_what_it_says(model):
    pictures = [noise(seed) for seed in range(3)]
    boxes = [(8, 12, 40, 36), (0, 0, 64, 48), (30.4, 20.2, 64, 48)]
    found = query_vectors(model, pictures, boxes)
    assert tuple(found) == WAYS

    def embedded(picture):
        return model(model.preprocess(picture)[0][None])[0]

    for row, (picture, box) in enumerate(zip(pictures, boxes, strict=True)):
        x = model.explain(picture)
        torch.testing.assert_close(found["region"][row], x.within(box))
        torch.testing.assert_close(found["whole"][row], x.embedding)
        plain = tuple(round(side) for side in box)
        torch.testing.assert_close(found["crop"][row], embedded(picture.crop(plain)))
        grey = Image.new("RGB", picture.size, (128,) * 3)
        grey.paste(picture.crop(plain), plain[:2])
        torch.testing.assert_close(found["mask"][row], embedded(grey))
    wider = embedded(pictures[0].crop((0, 6, 48, 42)))
    torch.testing.assert_close(found["crop with margin"][0], wider)
    for way in ("whole", "crop", "crop with margin", "mask"):  # of all there is
        torch.testing.assert_close(found[way][1], found["whole"][1])
    rest = model.explain(pictures[1]).rest
    torch.testing.assert_close(found["region"][1] + rest, found["whole"][1])


def test_the_mask_is_grey_in_the_networks_own_order():
    bgr = wa.Preprocess(size=8, mean=(0.1, 0.2, 0.3), std=(1.0,) * 3, channels="BGR")
    model = wa.EmbeddingModel(nn.Identity().eval(), "mean", preprocess=bgr)
    (found,) = query_vectors(model, [noise(0, (8, 8))], [(0, 0, 1, 1)])["mask"]
    corner = bgr(noise(0, (8, 8)))[0][:, 0, 0]
    torch.testing.assert_close(found, corner / 64, atol=3e-3, rtol=0)


def colours(left, right):
    """A picture of two colours, side by side."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8, left] = pixels[:, 8:, right] = 255
    return Image.fromarray(pixels)


def test_a_planted_answer_is_found_by_the_region_and_missed_by_the_whole():
    """Red and green are asked for by the red half; who has red with blue comes before green."""
    plain = wa.Preprocess(size=(8, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
    model = wa.EmbeddingModel(nn.Identity().eval(), "mean", preprocess=plain)
    gallery = [colours(0, 0)] * 5 + [colours(1, 1)] * 5 + [colours(0, 2)] * 5 + [colours(2, 2)] * 9
    E = torch.stack([x.embedding for x in model.explain(gallery)])
    relevant = torch.tensor([[True] * 5 + [False] * 5 + [True] * 5 + [False] * 9])
    vectors = query_vectors(model, [colours(0, 1)], [(0, 0, 8, 8)])
    found = compare(vectors, E, relevant, k=10)
    assert found["region"].precision.mean == found["crop"].precision.mean == 1
    assert found["mask"].precision.mean == 1
    assert found["whole"].precision.mean == 0.5  # all of red alone and of green alone
    assert found["whole"].behind.mean == 0.5
    assert found["region"].behind.mean == 0


def test_precision_is_its_definition_with_some_left_out():
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(30, 4, generator=generator)
    vectors = {way: torch.randn(6, 4, generator=generator) for way in WAYS}
    relevant = torch.rand(6, 30, generator=generator) < 0.4
    without = torch.rand(6, 30, generator=generator) < 0.2
    found = compare(vectors, gallery, relevant, k=5, without=without, groups="aabbcc")
    means = {}
    for way, rows in vectors.items():
        values = []
        for i, u in enumerate(rows):
            ranks = [n for n in oracle.ranking(u, gallery) if not without[i, n]]
            values.append(sum(relevant[i, n].item() for n in ranks[:5]) / 5)
        means[way] = np.mean(values)
        assert found[way].precision.mean == pytest.approx(means[way])
        assert found[way].precision.low <= means[way] <= found[way].precision.high
        assert found[way].behind.mean == pytest.approx(means["region"] - means[way])
    assert compare(vectors, gallery, relevant, k=5)["crop"].precision.mean != means["crop"]


def test_a_model_without_a_preprocess_makes_no_crops():
    model = wa.EmbeddingModel(nn.Identity().eval(), "mean")
    with pytest.raises(ModelError, match="needs a Preprocess"):
        query_vectors(model, [], [])
