"""What leads models astray, on networks and photographs of which that is known."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

import whyalike as wa
from whyalike.cli import cli, main
from whyalike.data import Dataset, read
from whyalike.data.synthetic import digit_scenes, write_scenes
from whyalike.errors import DataError
from whyalike.evaluate import decisions, diagnosis, shortcuts
from whyalike.evaluate.diagnosis import diagnose
from whyalike.evaluate.diagnosis_report import report
from whyalike.evaluate.pairing import partners, rivals
from whyalike.geometry import Frame
from whyalike.train import DIGITS, Pictures, train

SIDE, CELL = 16, 2
GRID = (SIDE // CELL, SIDE // CELL)
KINDS = "red", "green", "blue"


class Eye(nn.Module):
    """Sees the mean colour of each cell: where it is strong, and where it is glaring.

    The second, as marks alone are, counts `faith` times.
    """

    def __init__(self, faith: float) -> None:
        super().__init__()
        self.faith = faith
        self.cells = nn.AvgPool2d(CELL)

    def forward(self, images):
        A = self.cells(images)
        return torch.cat([(A - 0.45).relu() * (A < 0.78), self.faith * (A - 0.78).relu()], 1)


def of_faith(faith):
    plain = wa.Preprocess(size=SIDE, mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest")
    fold = torch.cat([torch.eye(3), torch.eye(3)], 1)
    project = nn.Linear(6, 3, bias=False).eval()
    with torch.no_grad():
        project.weight.copy_(fold)
    return wa.EmbeddingModel(Eye(faith).eval(), "mean", project, plain)


def believer():
    """Believes what the mark says."""
    return of_faith(40.0)


def honest():
    """Looks at the object, wherever it is."""
    return of_faith(0.0)


def write(root, *, mark, where=None, count=45, boxes=True):
    """Objects in two colours, of which the stronger is mostly the class; and a mark.

    Args:
        mark: whether there is one in the upper left corner, whose colour says another class in half
            of the images.
        where: the object's first row and column of cells; by default any but the mark's.
    """
    root.mkdir()
    random = np.random.default_rng(0)
    lines = ["path,label,x0,y0,x1,y1"]
    for number in range(count):
        kind, told = number % 3, (number + (number // 3) % 2) % 3
        image = random.uniform(0.25, 0.35, (SIDE, SIDE, 3))
        row, column = (random.integers(1, 6, 2) if where is None else where) * np.array(CELL)
        end_row, end_column = row + 2 * CELL, column + 2 * CELL
        colour = np.full(3, 0.3)
        other = (kind + random.integers(1, 3)) % 3
        colour[kind], colour[other] = random.uniform(0.6, 0.7), random.uniform(0.55, 0.7)
        image[row:end_row, column:end_column] = colour
        if mark:
            image[:CELL, :CELL] = np.where(np.arange(3) == told, 1.0, random.uniform(0.8, 0.9, 3))
        Image.fromarray((image * 255).astype(np.uint8)).save(root / f"{number}.png")
        box = f"{column},{row},{end_column},{end_row}" if boxes else ",,,"
        lines.append(f"{number}.png,{KINDS[kind]},{box}")
    (root / "all.csv").write_text("\n".join(lines))
    return f"manifest:{root / 'all.csv'}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("diagnosis")


@pytest.fixture(scope="module")
def marked(folder):
    return write(folder / "marked", mark=True)


@pytest.fixture(scope="module")
def plain(folder):
    return write(folder / "plain", mark=False)


@pytest.fixture(scope="module")
def found(marked):
    return diagnose({"believer": believer(), "honest": honest()}, read(marked))


def test_the_mark_is_pointed_at_without_being_told(found):
    led = found.models["believer"].shortcuts
    assert len(led.wrong) == led.all_wrong >= shortcuts.FEWEST
    assert {one.wrong for one in led.found} == {True, False}  # it decides right matches, too
    for place in led.found:
        assert place.xy == pytest.approx((1 / 16, 1 / 16))  # the middle of its cell
        assert place.share > 0.5
        assert place.p == 1 / (shortcuts.DRAWS + 1)
        assert place.fullest < 0.5
        assert place.on_object.share == 0
        assert place.on_object.chance == pytest.approx(4 / 64, rel=0.5)
        assert {(one.row, one.column, one.rows, one.columns) for one in place.regions} == {
            (0, 0, 1, 1)
        }
    wrong = next(one for one in led.found if one.wrong)
    assert wrong.undone.here > wrong.undone.elsewhere + 0.3
    assert wrong.others > 0.5


def test_a_network_that_looks_at_the_object_is_blamed_for_nothing(found, plain):
    """On marks that it does not see, and on photographs without any: its errors are elsewhere."""
    assert found.models["honest"].shortcuts.found == ()
    clean = diagnose({"honest": honest()}, read(plain))
    for one in (clean.models["honest"], found.models["honest"]):
        assert len(one.shortcuts.wrong) >= shortcuts.FEWEST
        assert next(place.verdict for place in one.shortcuts.places if place.wrong) == "chance"
        assert one.shortcuts.found == ()


def test_an_object_that_always_lies_at_one_place_is_no_shortcut(folder):
    here = write(folder / "middle", mark=False, where=np.array([3, 3]))
    places = diagnose({"honest": honest()}, read(here)).models["honest"].shortcuts.places
    first = places[0]
    assert (first.wrong, first.share, first.on_object.share) == (True, 1, 1)
    assert first.xy == pytest.approx((0.5, 0.5))
    assert first.verdict == "object"


def test_without_boxes_nobody_says_that_it_is_not_the_object(folder):
    there = write(folder / "unboxed", mark=True, boxes=False)
    found = diagnose({"believer": believer()}, read(there))
    one = found.models["believer"]
    assert one.located is None
    assert one.shortcuts.found == ()
    assert one.shortcuts.places[0].verdict == "unknown"
    assert one.parts["train"].shares.objects is None
    text = report(found, pictures=False).markdown()
    assert "whether it is the object, photographs without boxes do not tell" in text
    assert "A shortcut:" not in text


def test_of_few_matches_nothing_is_said(marked):
    few = diagnose({"honest": honest()}, read(marked), limit=9)
    assert few.models["honest"].shortcuts.places == ()
    assert "matches are too few to look for one" in report(few, pictures=False).lead


def test_what_decides_a_match_adds_up_and_is_the_contrast(found, marked):
    model = believer()
    for decision in found.models["believer"].shortcuts.wrong[:5]:
        paths = [str(one.path) for one in (decision.query, decision.first, decision.second)]
        contrast = wa.contrast(*model.explain(paths))
        assert torch.allclose(decision.values, contrast.map().float(), atol=1e-5)
        assert decision.difference == pytest.approx(contrast.difference, abs=1e-5)
        assert decision.bias == pytest.approx(contrast.bias, abs=1e-5)
        assert decision.query.label == decision.second.label != decision.first.label
    for decision in found.models["believer"].shortcuts.right[:5]:
        assert decision.query.label == decision.first.label != decision.second.label
        assert decision.difference >= 0


def test_hiding_by_hand(found, marked):
    """The mark of each query painted over in its mean colour, and the network asked by itself."""
    model = believer()
    led = found.models["believer"].shortcuts
    place = led.places[0]
    undone, fell = [], []
    for at in place.matches:
        decision = led.wrong[at]
        paths = [str(one.path) for one in (decision.query, decision.first, decision.second)]
        x, first, second = (model.preprocess(Image.open(path))[0] for path in paths)
        x = x.clone()
        x[:, :CELL, :CELL] = x.mean((1, 2))[:, None, None]
        with torch.no_grad():
            E = nn.functional.normalize(model(torch.stack([x, first, second])).double())
        undone.append(bool(E[0] @ E[1] <= E[0] @ E[2]))
        fell.append(decision.difference - (E[0] @ (E[1] - E[2])).item())
    assert place.undone.asked == len(place.matches)
    assert place.undone.here == pytest.approx(np.mean(undone))
    assert place.undone.fell == pytest.approx(np.mean(fell), abs=1e-6)
    predicted = np.mean([one.carried for one in place.regions])
    assert place.undone.predicted == pytest.approx(predicted)


def test_shares_of_the_score_by_hand(found, marked):
    model, data = believer(), read(marked)
    partner, _ = partners(torch.zeros(45, 1), np.array([one.label for one in data]), "random")
    sums = np.zeros(5)
    for i, k in enumerate(partner):
        pair = wa.explain_pair(model, str(data[i].path), str(data[k].path))
        values = pair.overall_map("query").numpy()
        column, row = (int(side) // CELL for side in data[i].box_xyxy[:2])
        objects = values[row : row + 2, column : column + 2].sum()
        inner = values[1:-1, 1:-1].sum()
        inside = values[max(row, 1) : min(row + 2, 7), max(column, 1) : min(column + 2, 7)].sum()
        border = values.sum() - inner - (objects - inside)
        biases = pair.similarity - values.sum()
        sums += [pair.similarity, objects, border, values.sum() - objects - border, biases]
    shares = found.models["believer"].parts["train"].shares
    assert shares[:5] == pytest.approx(sums / 45, abs=1e-5)
    assert sum(shares[1:5]) == pytest.approx(shares.score)
    assert shares.object_area == pytest.approx(4 / 64)
    honest_ones = found.models["honest"].parts["train"].shares
    assert honest_ones.objects > 0.9 * honest_ones.score
    assert shares.border > 0.7 * shares.score


def test_models_differ_most_where_one_looks_at_the_mark(found):
    assert len(found.differing) == diagnosis.DIFFERING
    assert all(a.distance >= b.distance for a, b in pairwise(found.differing))
    assert found.differing[0].distance > 0.9
    assert 0 < found.distance < found.differing[0].distance
    frame = Frame((SIDE, SIDE), (0.0, 0.0, float(SIDE), float(SIDE)), GRID)
    one, other = torch.zeros(2, *GRID)
    one[:, :4], other[:, 4:] = 2.0, 1.0
    a, b = (diagnosis.spread(values, frame) for values in (one, other))
    assert a.sum() == pytest.approx(1)
    assert diagnosis.distance(a, a) == 0
    assert diagnosis.distance(a, b) == pytest.approx(
        1, abs=0.15
    )  # but for the cells' interpolation
    assert diagnosis.spread(-one, frame) == pytest.approx(a)
    assert diagnosis.spread(0 * one, frame) is None


def test_rivals_by_brute_force():
    E = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    labels = np.array([*"abc"] * 9 + ["a", "b", "lone"])
    S = torch.cosine_similarity(E[:, None], E[None], dim=2).double()
    found = rivals(E, labels)
    for i in range(30):
        own = [k for k in range(30) if labels[k] == labels[i] and k != i]
        other = [k for k in range(30) if labels[k] != labels[i]]
        best = max(other, key=lambda k: S[i, k].item())
        assert found.other[i] == best
        if not own:
            assert (found.own[i], bool(found.known[i]), bool(found.wrong[i])) == (-1, False, False)
            continue
        mine = max(own, key=lambda k: S[i, k].item())
        assert found.own[i] == mine
        assert found.gap[i] == pytest.approx((S[i, best] - S[i, mine]).item(), abs=1e-6)
        assert found.wrong[i] == (S[i, best] > S[i, mine])


def test_regions_by_hand():
    values = torch.zeros(5, 6)
    values[0, 0], values[1, 1] = 4.0, 3.0  # touch at a corner
    values[0, 1] = -1.0  # in the block, and counted
    values[3, 4] = 2.5
    values[4, 0] = 1.9  # not above half of the largest
    assert decisions.regions(values) == (
        decisions.Region(0, 0, 2, 2, 6.0),
        decisions.Region(3, 4, 1, 1, 2.5),
    )
    assert decisions.regions(values)[1].centre_xy((5, 6)) == pytest.approx((4.5 / 6, 3.5 / 5))
    assert decisions.regions(-torch.ones(3, 4)) == ()
    assert len(decisions.regions(torch.eye(9)[:, ::2])) <= decisions.MOST


def test_the_fullest_place_by_brute_force():
    random = np.random.default_rng(0)
    for _ in range(10):
        centres, of = random.integers(0, 9, (40, 2)) / 8, random.integers(0, 25, 40)
        _, count = shortcuts.fullest(centres, of)
        expected = max(
            len({of[k] for k in range(40) if np.hypot(*(centres[k] - xy)) <= shortcuts.NEAR})
            for xy in centres
        )
        assert count == expected


def test_what_lies_on_the_object_by_hand():
    """A box of two cells by two on a grid of three by four, and regions of one cell by two."""
    frame = Frame((40, 30), (0.0, 0.0, 40.0, 30.0), (3, 4))
    sample = replace(read_nothing(), box_xyxy=(10.0, 10.0, 30.0, 30.0))
    these = []
    for row, column in ((1, 1), (0, 0), (2, 2)):
        region = decisions.Region(row, column, 1, 2, 1.0)
        these.append(
            (decisions.Decision("train", sample, sample, sample, 0.5, 1.0, torch.ones(3, 4), 0.0,
                                frame, (region,), (0, 0, 0)), region)
        )  # fmt: skip
    found = shortcuts.on_object(these)
    assert found.share == pytest.approx((1 + 0 + 0.5) / 3)
    assert found.chance == pytest.approx((0 + 2 * (0.5 + 1 + 0.5)) / 9)
    assert found.more.mean == pytest.approx(found.share - found.chance)
    unboxed = replace(these[0][0], query=read_nothing())
    assert shortcuts.on_object([(unboxed, these[0][1])]) is None


def test_regions_by_lot_are_taken_for_chance():
    """What is called significant at 1 % is so about once in a hundred, and regions may be large."""
    random = np.random.default_rng(0)
    frame = Frame((32, 32), (0.0, 0.0, 32.0, 32.0), GRID)
    sample = read_nothing()
    verdicts = []
    for seed in range(12):
        these = []
        for _ in range(20):
            rows, columns = random.integers(1, 4, 2)
            row, column = random.integers(0, 8 - rows + 1), random.integers(0, 8 - columns + 1)
            region = decisions.Region(int(row), int(column), int(rows), int(columns), 1.0)
            these.append(
                decisions.Decision("train", sample, sample, sample, 0.5, 1.0, torch.ones(8, 8),
                                   0.0, frame, (region,), (0, 0, 0))
            )  # fmt: skip
        verdicts.append(shortcuts.places_of(these, [], seed=seed)[0].p)
    verdicts = np.array(verdicts)
    assert verdicts.min() > 0.01
    assert 0 < np.mean(verdicts <= 0.5) <= 0.5  # ties count as chance, so rather too seldom


def read_nothing():
    from pathlib import Path

    from whyalike.data import Sample

    return Sample(Path("nothing.png"), "a")


def test_what_cannot_be_diagnosed_is_refused(marked):
    data = read(marked)
    with pytest.raises(ValueError, match="one model or more"):
        diagnose({}, data)
    lone = Dataset("lone", "lone", tuple(data[i] for i in range(3)))
    with pytest.raises(DataError, match="no two photographs are of one class"):
        diagnose({"honest": honest()}, lone)
    gone = tuple(replace(one, path=one.path.with_name(f"gone{one.path.name}")) for one in lone)
    with pytest.raises(DataError, match="no photograph can be measured"):
        diagnose({"honest": honest()}, Dataset("gone", "gone", gone))


def test_the_command_and_its_page(marked, plain, folder, tmp_path, monkeypatch):
    (tmp_path / "eyes.py").write_text("from test_diagnosis import believer, honest\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    line = ["diagnose", "--model", "eyes:believer", "--model", "eyes:honest", "--data", marked,
            "--validation", plain, "--limit", "30"]  # fmt: skip
    shown = CliRunner().invoke(cli, [*line, "-o", "a.json", "-o", "a.html", "-o", "a.md"])
    assert shown.exit_code == 0, shown.output
    told = json.loads((tmp_path / "a.json").read_text())
    alone = CliRunner().invoke(cli, [*line[:1], *line[3:], "--json"])
    again = json.loads(alone.stdout)
    assert again["models"]["eyes:honest"] == told["models"]["eyes:honest"]  # by the same seed
    assert again["settings"]["seed"] == 0
    assert again["versions"] == told["versions"]
    assert told["models"]["eyes:believer"]["places"][0]["verdict"] == "shortcut"
    assert told["models"]["eyes:believer"]["places"][0]["where"] == "at the top left"
    assert not any(one["verdict"] == "shortcut" for one in told["models"]["eyes:honest"]["places"])
    assert "eyes:believer has a recall at 1 of" in shown.stdout
    page = (tmp_path / "a.html").read_text()
    assert page.count("data:image/jpeg") > 40
    assert "eyes:believer: wrong matches decided at the top left" in page
    assert "<script" not in page
    assert "http:" not in page
    assert "https:" not in page


def test_the_command_refuses(marked, monkeypatch, capsys):
    for options, words in (
        (["--model", "a", "--model", "a"], "each model is named once"),
        (["--splits", "train"], "two names"),
        (["--splits", "seen,unseen", "--validation", marked], "parts of one"),
        (["--splits", "seen,nothing"], "there is no split 'nothing'; it has seen, unseen"),
        (["-o", "a.png"], "one of .json, .md, .html"),
    ):
        monkeypatch.setattr("sys.argv", ["whyalike", "diagnose", "--data", marked, *options])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_a_trained_network_is_convicted_of_its_shortcut_and_another_is_not(tmp_path):
    """One saw marks that tell the class, the other did not; both meet marks that mislead."""

    def scenes(count, **options):
        return digit_scenes(count, seed=1, split="train", **options)

    found = {}
    validation = write_scenes(
        tmp_path / "val", digit_scenes(150, seed=2, shortcut=1.0, misleading=0.5)
    )
    for name, share, count, epochs in (("marked", 1.0, 2000, 3), ("plain", None, 3200, 4)):
        shown = scenes(count, shortcut=share)
        pictures = Pictures(
            tuple(one.image for one in shown), tuple(str(one.labels[0]) for one in shown)
        )
        train(pictures, tmp_path / name, replace(DIGITS, epochs=epochs, pool="mean"))
        table = write_scenes(tmp_path / f"{name}-train", scenes(150, shortcut=share))
        model = wa.load(str(tmp_path / name))
        data = read(f"manifest:{table}"), read(f"manifest:{validation}")
        found[name] = diagnose({name: model}, *data).models[name]
    led, other = found["marked"].shortcuts, found["plain"].shortcuts
    mark = digit_scenes(1, seed=2, shortcut=1.0)[0].mark_xyxy
    for place in led.places[:1]:
        assert place.verdict == "shortcut"
        assert place.wrong
        assert np.hypot(*(np.array(place.xy) - np.mean(np.reshape(mark, (2, 2)), 0) / 64)) < 0.2
    assert found["marked"].parts["train"].retrieval.recall[1] > 0.95
    assert found["marked"].parts["validation"].retrieval.recall[1] < 0.6
    assert len(other.wrong) >= shortcuts.FEWEST
    assert other.found == ()
