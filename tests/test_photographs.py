"""Real photographs, where they are at hand: beside the project, never in it."""

from pathlib import Path

import pytest

import whyalike as wa

SHARED = Path(__file__).parents[2] / "shared" / "data"
CUB = SHARED / "cub_dev"
PAIRS = SHARED / "published_pairs"
NAMES = [
    ("51.jpg", "52.jpg"),
    ("1501_c3s3_075419_03.jpg", "1501_c6s4_001877_00.jpg"),
    ("Abel_Pacheco_0001.jpg", "Abel_Pacheco_0004.jpg"),
    ("0013073_grd.jpg", "0013073_sat.jpg"),
]


@pytest.fixture(scope="module")
def model() -> wa.EmbeddingModel:
    return wa.load()


@pytest.mark.skipif(not PAIRS.is_dir(), reason=f"the paper's pairs are not in {PAIRS}")
@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_the_papers_pairs(model, names, tmp_path):
    pair = wa.explain_pair(model, *(PAIRS / name for name in names))
    assert sum(pair.terms) == pytest.approx(pair.similarity, abs=1e-6)
    assert pair.matrix().shape == (7, 7, 7, 7)
    assert pair.matrix().sum().item() == pytest.approx(pair.terms.pairs, abs=1e-5)
    assert pair.similarity > 0.15
    pair.save(tmp_path / "pair.html", tmp_path / "pair.png")


@pytest.mark.skipif(not CUB.is_dir(), reason=f"the photographs of birds are not in {CUB}")
def test_birds_carry_what_two_photographs_of_birds_share(model):
    """One photograph of each of 20 species with the next of it: the maps' strongest cells."""
    lines = (CUB / "images.txt").read_text().split("\n")[:-1]
    paths = dict(line.split() for line in lines)
    boxes = {
        number: tuple(map(float, rest))
        for number, *rest in map(str.split, (CUB / "bounding_boxes.txt").read_text().splitlines())
    }
    by_species: dict[str, list[str]] = {}
    for number, path in paths.items():
        by_species.setdefault(path.split("/")[0], []).append(number)
    hits, similar, energy, area = [], [], [], []
    for a, b, *_ in by_species.values():
        pair = wa.explain_pair(model, *(CUB / "images" / paths[n] for n in (a, b)))
        x, y, width, height = boxes[b]
        inside = pair.reference.frame.box_coverage((x, y, x + width, y + height))
        overall = pair.overall_map("reference")
        hits.append(inside.flatten()[int(overall.argmax())] > 0)
        energy.append((overall.double().numpy() * inside).sum() / overall.sum().item())
        area.append(inside.mean())
        similar.append(pair.similarity)
    assert len(hits) == 20
    assert sum(hits) >= 18
    # A map that says nothing would have the boxes' share of the area.
    assert sum(energy) > 1.3 * sum(area)
    assert min(similar) > 0.1
