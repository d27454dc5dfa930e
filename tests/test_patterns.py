"""Kinds of region that answer one another: planted ones are found, and tables add up."""

import csv
import json
from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageDraw
from torch import nn

import layouts
import nets
import whyalike as wa
from pages import Open, keep
from whyalike.apps import kinds, patterns
from whyalike.apps.patterns import find_patterns
from whyalike.apps.patterns_report import report
from whyalike.cli import cli
from whyalike.data import read
from whyalike.errors import DataError, ModelError, WhyalikeError
from whyalike.train.towers import TowerSettings
from whyalike.zoo import trained_towers

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
ANSWERS = {RED: BLUE, GREEN: RED, BLUE: GREEN}
"""What is planted: of a colour in the query, the colour in the reference."""


class Colours(nn.Module):
    """How red, green and blue blocks of pixels are; grey gives nothing."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        r, g, b = x.unbind(1)
        map_ = torch.stack([r - g - b, g - r - b, b - r - g], 1).relu()
        return nn.functional.avg_pool2d(map_, self.block)


def tower(size, block, order, bias=0.0):
    """Unlike towers of one space: each colour is a direction, in an order of its own."""
    plain = wa.Preprocess(size=size, mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest")
    project = nn.Linear(3, 3)
    with torch.no_grad():
        project.weight.copy_(torch.eye(3)[order])
        project.bias.fill_(bias)
    return wa.EmbeddingModel(Colours(block).eval(), "mean", project.eval(), plain)


def two_towers(bias=0.0):
    """Red, green and blue of the query are blue, red and green of the reference."""
    return tower((32, 64), 8, [0, 1, 2], bias), tower(48, 16, [2, 0, 1], bias)


def write_pairs(root, count=24, seed=0):
    """A table of pairs: by lot one or two colours here, and what answers them there, anywhere."""
    random = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    with (root / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["query", "reference", "split"])
        for number in range(count):
            here = [[*ANSWERS][at] for at in random.permutation(3)[: 1 + number % 2]]
            query, reference = (Image.new("RGB", wh, (90, 90, 90)) for wh in ((64, 32), (96, 96)))
            for picture, side, colours in (
                (query, 8, here), (reference, 32, [ANSWERS[one] for one in here]),
            ):  # fmt: skip
                across = picture.width // side
                cells = random.permutation(across * (picture.height // side))
                for colour, at in zip(colours, cells[:2].tolist(), strict=False):
                    y, x = divmod(at, across)
                    box = [x * side, y * side, (x + 1) * side - 1, (y + 1) * side - 1]
                    ImageDraw.Draw(picture).rectangle(box, fill=colour)
            names = [f"{view}{number}.png" for view in ("q", "r")]
            for picture, name in zip((query, reference), names, strict=True):
                picture.save(root / name)
            table.writerow([*names, "val" if number else "train"])
    return root / "pairs.csv"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return read(f"manifest:{write_pairs(tmp_path_factory.mktemp('pairs'))}")


def middle(path, xyxy):
    """The colour in the middle of a box of a photograph."""
    x0, y0, x1, y1 = xyxy
    with Image.open(path) as picture:
        return picture.getpixel((int((x0 + x1) / 2), int((y0 + y1) / 2)))


def test_planted_answers_are_found_and_no_others(pairs):
    found = find_patterns(*two_towers(), pairs)
    assert [len(one) for one in found.areas] == [3, 3]  # of at most eight
    assert found.strong() == found.strong(surely=True) == [(0, 0), (1, 1), (2, 2)]
    assert np.count_nonzero(found.held) == 3
    of_kind = {}
    for link in found.links:
        query, reference = found.pairs[link.pair]
        here, there = middle(query, link.query_xyxy), middle(reference, link.reference_xyxy)
        assert ANSWERS[here] == there
        of_kind.setdefault((link.query_kind, link.reference_kind), set()).add(here)
    assert sorted(of_kind) == [(0, 0), (1, 1), (2, 2)]
    assert sorted(map(tuple, of_kind.values())) == sorted((one,) for one in ANSWERS)
    # Each kind meets its answer alone, so a lift is one over how frequent it is.
    assert np.diag(found.lift) == pytest.approx(1 / np.diag(found.held))
    assert found.held.sum() == pytest.approx(1)
    # One cell of 32 in the query, four of 9 in the reference, where it is.
    often = np.array([sum(one.query_kind == at for one in found.links) for at in range(3)])
    assert found.areas[0] == pytest.approx(often / 32 / len(pairs.pairs))


def test_what_is_told_adds_up_to_the_score(pairs):
    """With biases, which no cell gives."""
    towers = two_towers(bias=0.03)
    found = find_patterns(*towers, pairs, kinds=2)
    sides = [
        model.explain([str(two[side]) for two in found.pairs]) for side, model in enumerate(towers)
    ]
    S = np.array([[wa.Pair(q, r).similarity for r in sides[1]] for q in sides[0]])
    n = len(S)
    assert found.score == pytest.approx(np.trace(S) / n, abs=1e-5)
    assert found.by_lot.sum() == pytest.approx((S.sum() - np.trace(S)) / (n * (n - 1)), abs=1e-5)
    assert found.carried[-1].any()
    assert found.carried[:, -1].any()


def test_tables_against_slow_sums(tmp_path):
    """Every pair of cells of every two photographs, by loops; random networks of unlike forms."""
    plain = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    models = [
        wa.EmbeddingModel(
            nets.randomise(nn.Sequential(nn.Conv2d(3, width, 4, stride=stride), nn.ReLU()), seed),
            "mean",
            nets.randomise(nn.Linear(width, 5), seed + 1),
            wa.Preprocess(size=size, **plain),
        )
        for width, stride, size, seed in ((7, 4, (8, 20), 0), (9, 6, (16, 22), 5))
    ]
    data = read(f"manifest:{write_pairs(tmp_path, 5)}")
    files = [(q.path, r.path) for q, r, _ in data.across()]
    centres = tuple(np.random.default_rng(3).normal(size=(k, 5)) for k in (3, 4))
    found = patterns._counted(patterns._Reader(*models, files, None), "d", centres, 8, 2, 0)
    sides = []
    for side, (model, of) in enumerate(zip(models, centres, strict=True)):
        parts = np.zeros((5, len(of) + 1, 5))
        for p, two in enumerate(files):
            c = model.explain(str(two[side]))
            for v in c.values.detach().flatten(0, 1).numpy():
                far = [np.linalg.norm(v / np.linalg.norm(v) - centre) for centre in of]
                parts[p, int(np.argmin(far))] += v / c.length
            parts[p, -1] = c.bias.detach().numpy() / c.length
        sides.append(parts)
    each = np.zeros((5, 5, 4, 5))
    for p, r, a, b in product(range(5), range(5), range(4), range(5)):
        each[p, r, a, b] = sides[0][p, a] @ sides[1][r, b]
    same = np.eye(5, dtype=bool)
    np.testing.assert_allclose(found.carried, each[same].mean(0), atol=1e-6)
    np.testing.assert_allclose(found.by_lot, each[~same].mean(0), atol=1e-6)


def test_networks_whose_v_take_a_derivative_each(tmp_path):
    """One is cut below its last layer, on a grid that is summed to 14 rows; it adds up as well."""
    deep = nets.randomise(
        nn.Sequential(
            nn.Conv2d(3, 4, 2, stride=2), nn.ReLU(), nn.Conv2d(4, 5, 2, stride=2), nn.GELU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
        )
    ).float()  # fmt: skip
    size = wa.Preprocess(size=(32, 40), mean=(0.5,) * 3, std=(0.2,) * 3)
    query = wa.EmbeddingModel.from_module(deep, "1", size)
    reference = two_towers(bias=0.1)[1]
    grey = Image.new("RGB", (9, 9))
    assert not query.explain(grey).at_hand
    pair = wa.explain_pair(query, grey, grey, reference_model=reference)
    ranking = wa.explain_ranking(query, grey, [grey], reference_model=reference)
    assert not pair.query.at_hand  # nobody has asked for all of them
    assert not ranking[0].query.at_hand
    data = read(f"manifest:{write_pairs(tmp_path, 3)}")
    found = find_patterns(query, reference, data, kinds=3)
    scores = [
        wa.explain_pair(query, *(str(one) for one in two), reference_model=reference).similarity
        for two in found.pairs
    ]
    assert found.score == pytest.approx(np.mean(scores), abs=1e-5)
    heights = {round(y1 - y0, 3) for one in found.links for _, y0, _, y1 in [one.query_xyxy]}
    assert heights == {round(32 / 14, 3)}


def test_the_strongest_matches_against_a_slow_search():
    values = [
        torch.randn(*hw, 6, generator=nets.seeded(at)) for at, hw in enumerate(((2, 3), (3, 2)))
    ]
    pair = wa.Pair(*(
        wa.Contributions(v, torch.zeros(6), v.sum((0, 1)),
                         wa.geometry.Frame((30, 30), (0, 0, 30, 30), v.shape[:2]))
        for v in values
    ))  # fmt: skip
    M = pair.matrix().numpy()
    order = sorted(np.ndindex(M.shape), key=lambda at: -M[at])
    expected = []
    for i, j, x, y in order:
        used = any((i, j) == one[0] or (x, y) == one[1] for one in expected)
        if M[i, j, x, y] > 0 and not used:
            expected.append(((i, j), (x, y), pytest.approx(M[i, j, x, y])))
    assert [tuple(one) for one in kinds.strongest(pair, 9)] == expected
    assert [tuple(one) for one in kinds.strongest(pair, 2)] == expected[:2]


def test_clusters_and_their_order():
    random = np.random.default_rng(0)
    middles = np.array([[9.0, 0], [0, 9], [-9, 0]])
    points = np.repeat(middles, 20, 0) + random.normal(0, 0.3, (60, 2))
    centres, of = kinds.clusters(points, 3, seed=1)
    assert len({*of.tolist()}) == 3
    assert all(len({*of[at : at + 20].tolist()}) == 1 for at in (0, 20, 40))
    assert np.abs(centres[of] - np.repeat(middles, 20, 0)).max() < 0.4
    again, _ = kinds.clusters(points, 3, seed=1)
    assert (again == centres).all()
    alike = np.repeat(points[:2], 5, 0)
    assert len(kinds.clusters(alike, 8, 0)[0]) == 2  # there are two different ones
    one, of = kinds.clusters(alike[:5], 8, 0)
    assert one == pytest.approx(alike[:1])
    assert of.tolist() == [0] * 5
    rows, columns = kinds.in_order(np.array([[0.0, 2, 0], [0, 0, 0], [5, 1, 0], [0, 0, 3]]))
    assert rows.tolist() == [2, 3, 0, 1]
    assert columns.tolist() == [0, 2, 1]


def test_chance_against_all_orders_of_the_references(monkeypatch):
    """Four pairs with one to three matches each, and every one of 24 orders."""
    monkeypatch.setattr(kinds, "DRAWS", 4_000)
    pair = np.array([0, 0, 2, 3, 3, 3, 7, 7])
    here, there = np.array([0, 1, 1, 0, 2, 1, 2, 0]), np.array([1, 0, 0, 1, 1, 0, 0, 1])
    values = np.array([4.0, 3, 5, 4, 2, 1, 3, 2])
    found = kinds.by_chance(pair, (here, there), values, (3, 2), seed=0)
    of = [np.flatnonzero(pair == number) for number in (0, 2, 3, 7)]

    def held(order):
        table = np.zeros((3, 2))
        for mine, other in zip(of, order, strict=True):
            for i, j in zip(mine, of[other], strict=False):
                table[here[i], there[j]] += values[i]
        return table / table.sum()

    tables = np.array([held(order) for order in permutations(range(4))])
    assert found == pytest.approx((tables >= held(range(4)) - 1e-9).mean(0), abs=0.04)


def test_what_has_no_pattern_is_not_told_from_chance():
    random = np.random.default_rng(5)
    pair = np.repeat(np.arange(60), 4)
    some = tuple(random.integers(0, 3, len(pair)) for _ in range(2))
    p = kinds.by_chance(pair, some, random.random(len(pair)), (3, 3), seed=0)
    assert p.min() > 0.001
    planted = kinds.by_chance(pair, (some[0], some[0]), np.ones(len(pair)), (3, 3), seed=0)
    assert (planted[np.eye(3, dtype=bool)] == 0.001).all()
    assert (planted[~np.eye(3, dtype=bool)] == 1).all()


def test_the_same_seed_gives_the_same(pairs):
    some = replace(pairs, pairs=pairs.pairs[:6])
    first, again = (report(find_patterns(*two_towers(0.02), some, seed=4)) for _ in range(2))
    assert first.json() == again.json()
    assert first.html() == again.html()


def test_some_pairs_teach_the_kinds_where_v_are_many(pairs, monkeypatch):
    monkeypatch.setattr(patterns, "KEPT", 8 * 8 * 3 * 4)  # v of the matches of four pairs
    read_now = []
    kept = patterns._Reader.run

    def run(self, what, step=1, batch=patterns.BATCH):
        read_now.append(step)
        return kept(self, what, step, batch)

    monkeypatch.setattr(patterns._Reader, "run", run)
    found = find_patterns(*two_towers(), pairs)
    assert read_now == [1, 6, 1]
    assert len(found.pairs) == 24


def test_what_cannot_be_used_is_told(pairs, tmp_path):
    towers = two_towers()
    with pytest.raises(DataError, match="has no pairs that show the same"):
        find_patterns(*towers, read(f"folder:{layouts.folder(tmp_path / 'folder')}"))
    other = wa.EmbeddingModel(Colours(8).eval(), "mean", nn.Linear(3, 4).eval(), wa.Preprocess(32))
    with pytest.raises(ModelError, match="the query's has 3 dimensions, the reference's 4"):
        find_patterns(towers[0], other, pairs)
    for wrong in ({"kinds": 0}, {"kinds": 27}, {"each": 0}):
        with pytest.raises(ValueError, match="kinds are 1 to 26"):
            find_patterns(*towers, pairs, **wrong)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    some = replace(pairs, samples=(replace(pairs[0], path=bad), *pairs.samples[1:]))
    found = find_patterns(*towers, some)
    assert len(found.pairs) == 23
    assert "bad.png" in found.left_out[0][0]
    with pytest.raises(DataError, match=r"no pair can be read, first: .*bad\.png"):
        find_patterns(*towers, replace(some, pairs=some.pairs[:1]))
    grey = tmp_path / "grey.png"
    Image.new("RGB", (64, 64), (90, 90, 90)).save(grey)
    dull = replace(pairs, samples=tuple(replace(one, path=grey) for one in pairs.samples))
    with pytest.raises(DataError, match="no two cells of any pair carry anything for the match"):
        find_patterns(*two_towers(bias=0.1), dull)
    alone = find_patterns(*towers, replace(pairs, pairs=pairs.pairs[1:2]))  # of two colours
    assert len(alone.pairs) == 1
    assert np.isnan(alone.by_lot).all()
    assert alone.strong()  # there are matches, but nothing that they could be held to
    assert (alone.p == 1).all()
    assert alone.strong(surely=True) == []
    assert "no kind of region is told to answer another" in report(alone).lead
    assert "not told from it" in report(alone).figures[0].caption


def test_the_report(pairs):
    found = find_patterns(*two_towers(), pairs)
    made = report(found)
    assert "100.0 % of what the 36 strongest matches" in made.lead
    assert "carry lies in 3 combinations" in made.lead
    numbers = json.loads(made.json())
    assert np.sum(numbers["carried"]) == pytest.approx(numbers["score"])
    assert [(one["query"], one["reference"]) for one in numbers["answers"]] == [
        ("A", "1"), ("B", "2"), ("C", "3"),
    ]  # fmt: skip
    shares = made.tables[1]
    assert shares.rows[-1][-1] == "100.0"
    assert [row[0] for row in shares.rows] == ["A", "B", "C", "no cell", "all"]
    assert {*shares.icons} == {"A", "B", "C", "1", "2", "3"}
    text = made.html()
    order = ["What answers what", "Patches", "What carries the score", "Lift", "Made with"]
    places = [text.index(f"<h2>{title}</h2>") for title in order]
    assert places == sorted(places)
    plain = report(found, pictures=False)
    assert not plain.figures
    assert plain.json() == made.json()


def invoke(*arguments):
    return CliRunner().invoke(cli, arguments, catch_exceptions=True)


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, root = tmp_path / "towers", layouts.cvusa(tmp_path / "cvusa")
    folder.mkdir()
    form = TowerSettings(embedding=8, ground_size=(16, 64), aerial_size=32).form()
    torch.manual_seed(0)
    trained_towers.save(folder, trained_towers.build(form, pretrained=False), form, {})
    outputs = ("-o", "p.html", "-o", "p.json", "-o", "p.md")
    done = invoke("patterns", "--data", f"cvusa:{root}", "--split", "train", "--model", "towers",
                  *outputs)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Of 2 pairs, with a mean score of" in done.stdout
    assert json.loads((tmp_path / "p.json").read_text())["pairs"] == 2
    write_pairs(tmp_path / "table", 3)
    table = invoke("patterns", "--data", "manifest:table/pairs.csv", "--model", "towers#ground",
                   "--reference-model", "towers#aerial", "--json")  # fmt: skip
    assert json.loads(table.stdout)["pairs"] == 2  # the split "val"
    for arguments, message in (
        (("--data", "cvusa:nowhere"), "nowhere"),
        (("--data", f"cvusa:{root}", "--split", "x"), "there is no split 'x'"),
        (("--data", f"cvusa:{root}", "-o", "p.txt"), "one of .json, .md, .html"),
        (("--data", f"cvusa:{root}", "--kinds", "27"), "27 is not in the range"),
    ):
        done = invoke("patterns", *arguments, "--model", "towers")
        said = str(done.exception) if isinstance(done.exception, WhyalikeError) else done.output
        assert done.exit_code != 0
        assert message in said, (arguments, said)


@pytest.mark.browser
def test_the_page(open_page: Open, pairs):
    text = report(find_patterns(*two_towers(), pairs)).html()
    for width in (1200, 375):
        tab = open_page(text, width=width)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator("figure").count() == 3
        shown = tab.locator("figure").first.locator("img").first.bounding_box()
        assert shown is not None
        assert shown["height"] > 1.9 * shown["width"]  # one patch above the other
        keep(tab, f"patterns-{width}")
    assert tab.locator("th img").count() == 12
