"""Where maps lie, measured on photographs whose answer is planted; and what is told of it."""

import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import average_precision_score
from torch import nn

import whyalike as wa
from whyalike.cli import cli, main
from whyalike.data import read
from whyalike.errors import DataError, ModelError, OutputFileError
from whyalike.evaluate import measures
from whyalike.evaluate.localization import evaluate_localization
from whyalike.evaluate.localization_report import report
from whyalike.evaluate.methods import ALWAYS, METHODS, Both, named
from whyalike.evaluate.pairing import partners
from whyalike.evaluate.photographs import on_input, read_mask
from whyalike.evaluate.report import Table

SIDE = 32
KINDS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}


def make():
    """Sees each pixel's colour and nothing else: its maps are the object itself."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 6, 1, bias=False), nn.ReLU()).eval()
    with torch.no_grad():
        trunk[0].weight.copy_(torch.rand(6, 3, 1, 1) + 0.1)
    plain = wa.Preprocess(size=SIDE, mean=(0, 0, 0), std=(1, 1, 1), interpolation="nearest")
    return wa.EmbeddingModel(trunk, "mean", nn.Linear(6, 5, bias=False).eval(), plain)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A table of black images, each with one coloured rectangle, whose colour is its class."""
    root = tmp_path_factory.mktemp("planted")
    random = np.random.default_rng(0)
    lines = ["path,label,split,x0,y0,x1,y1,mask"]
    for number in range(24):
        kind = [*KINDS][number % 4]
        x0, y0 = random.integers(0, SIDE - 12, 2)
        x1, y1 = x0 + random.integers(5, 12), y0 + random.integers(5, 12)
        image, mask = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        image[y0:y1, x0:x1], mask[y0:y1, x0:x1] = KINDS[kind], 255
        for name, array in ((f"{number}.png", image), (f"m{number}.png", mask)):
            Image.fromarray(array).save(root / name)
        split = "train" if number < 12 else "test"
        lines.append(f"{number}.png,{kind},{split},{x0},{y0},{x1},{y1},m{number}.png")
    (root / "all.csv").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def found(model, planted):
    names = ["decomposition", "decomposition+bias", "grad-cam-no-norm"]
    return evaluate_localization(model, read(f"manifest:{planted / 'all.csv'}"), names)


def test_a_planted_object_is_found(found):
    assert len(found) == 24
    assert found.recall == 1
    for name in ("decomposition", "decomposition+bias", "grad-cam-no-norm"):
        # One colour alone: the map has one value on the object, and none beside it.
        assert (found.methods[name].overlaps == 1).all()
        summary = found.methods[name].summary()
        assert summary.pop("threshold") == 0
        assert summary == dict.fromkeys(summary, 1.0)


def test_what_knows_nothing_is_near_chance(found, planted):
    data = read(f"manifest:{planted / 'all.csv'}")
    boxes = np.array([one.box_xyxy for one in data])
    share = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).mean() / SIDE**2
    random = found.methods["random"].summary()
    assert random["energy"] == pytest.approx(share, abs=0.01)
    assert random["pixel_ap"] == pytest.approx(share, abs=0.02)
    assert random["pointing"] < share + 4 * np.sqrt(share / 24)
    assert random["accuracy"] < 0.1
    middle = found.methods["centre-box"]
    at = 20  # of the thresholds, 0.5: a box of half of each side
    expected = [measures.iou([8, 8, 24, 24], box) for box in boxes]
    assert middle.overlaps[:, at] == pytest.approx(expected, abs=0.02)


def test_they_are_in_every_table(model, planted):
    assert {*named(["grad-cam"])} == {"grad-cam", *ALWAYS}
    data = read(f"manifest:{planted / 'all.csv'}")
    alone = evaluate_localization(model, data, ["random"], limit=8)
    assert [*alone.methods] == ["random", "centre-box"]
    assert len(alone) == 8
    assert {one.label for one in alone.queries} == {"blue", "red"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name.startswith("sharp") else [])
        for name in METHODS
        if name != "occlusion"
    ],
)
def test_every_method_draws_a_map_of_the_query(name):
    torch.manual_seed(1)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()).eval()
    net = nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    model = wa.EmbeddingModel.from_module(net, "0", wa.Preprocess(size=(16, 24)))
    x, y = torch.randn(2, 3, 16, 24)
    values = METHODS[name](Both(model, model.sharp, x, y))
    assert values.ndim == 2
    assert values.isfinite().all()
    assert values.shape[1] > values.shape[0]


def test_partners_are_as_asked():
    generator = torch.Generator().manual_seed(0)
    E = torch.randn(30, 6, generator=generator)
    labels = np.array([*"abcdefghij"] * 2 + ["a"] * 9 + ["alone"])
    S = torch.cosine_similarity(E[:, None], E[None], dim=2)
    nearest, right = partners(E, labels)
    for i in range(30):
        others = [j for j in range(30) if j != i]
        same = [j for j in others if labels[j] == labels[i]]
        assert nearest[i] == max(same, key=lambda j: S[i, j].item(), default=-1)
        assert right[i] == (labels[max(others, key=lambda j: S[i, j].item())] == labels[i])
    assert nearest[29] == -1
    by_lot, _ = partners(E, labels, "random", seed=1)
    assert by_lot[29] == -1
    assert all(labels[by_lot[i]] == labels[i] and by_lot[i] != i for i in range(29))
    assert (by_lot == partners(E, labels, "random", seed=1)[0]).all()
    assert (by_lot != partners(E, labels, "random", seed=2)[0]).any()
    assert len({partners(E, labels, "random", seed=s)[0][0] for s in range(60)}) == 10
    assert (partners(E, labels, "self")[0] == np.arange(30)).all()
    assert not partners(E[:1], labels[:1])[1].any()
    with pytest.raises(ValueError, match="pairing is one of nearest, random, self"):
        partners(E, labels, "farthest")


def test_energy_and_pixels_by_brute_force():
    maps = torch.randn(5, 12, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps[4] = -1
    boxes = np.array([[3.0, 2.0, 11.0, 9.0]] * 5)
    expected = [
        sum(max(m[y, x].item(), 0) for y in range(2, 9) for x in range(3, 11))
        / max(sum(max(value, 0) for value in m.flatten().tolist()), 1e-9)
        for m in maps
    ]
    assert measures.energy(maps, boxes) == pytest.approx(expected)
    masks = measures.pixels(boxes, (12, 20))
    counts = sum(measures.pixel_counts(maps[i : i + 1], masks[i : i + 1]) for i in range(5))
    positive = maps.clamp(min=0)
    shares = (positive / positive.amax((1, 2), keepdim=True).clamp(min=1e-12)).numpy()
    levels = np.floor(shares * measures.LEVELS).clip(max=measures.LEVELS - 1)
    expected = average_precision_score(masks.ravel(), levels.ravel())
    assert measures.average_precision(counts) == pytest.approx(expected)


def test_held_out_thresholds_by_brute_force():
    random = np.random.default_rng(0)
    overlaps, half = random.random((31, 7)), random.random(31) < 0.4
    right = 0
    for i in range(31):
        others = overlaps[half != half[i]] >= 0.5
        best = max(range(7), key=lambda t: others[:, t].sum())
        right += overlaps[i, best] >= 0.5
    assert measures.box_accuracy_held_out(overlaps, half) == pytest.approx(right / 31)
    assert np.isnan(measures.box_accuracy_held_out(overlaps, np.ones(31, bool)))


def test_boxes_and_masks_follow_what_the_network_sees(tmp_path):
    assert on_input((20, 5, 60, 30), (10, 0, 50, 40), (20, 20)).tolist() == [5, 2.5, 20, 15]
    assert on_input((0, 0, 5, 5), (10, 0, 50, 40), (20, 20)).tolist() == [0, 0, 0, 2.5]
    mask = np.zeros((40, 60), np.uint8)
    mask[5:30, 20:60] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    seen = read_mask(tmp_path / "mask.png", (60, 40), (10, 0, 50, 40), (20, 20))
    rows, columns = np.nonzero(seen)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 14, 5, 19)
    with pytest.raises(wa.WhyalikeError, match="60×40 pixels, the photograph 61×40"):
        read_mask(tmp_path / "mask.png", (61, 40), (10, 0, 50, 40), (20, 20))


def test_photographs_that_cannot_be_measured_are_told(model, planted, tmp_path):
    lines = (planted / "all.csv").read_text().splitlines()
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes((planted / f"{number}.png").read_bytes())
        (tmp_path / f"m{number}.png").write_bytes((planted / f"m{number}.png").read_bytes())
    (tmp_path / "broken.png").write_bytes((planted / "0.png").read_bytes()[:60])
    table = [
        lines[0],
        *(lines[n].replace("green", "red").replace("blue", "lone") for n in (1, 2, 3)),
    ]
    table += ["broken.png,red,test,1,1,5,5,", "0.png,red,test,40,40,50,50,", "1.png,red,test,,,,,"]
    (tmp_path / "some.csv").write_text("\n".join(table))
    data = read(f"manifest:{tmp_path / 'some.csv'}")
    found = evaluate_localization(model, data, ["decomposition"])
    assert len(found) == 2
    reasons = [reason for _, reason in found.left_out]
    assert "broken.png" in reasons[0]
    assert "outside of what the network sees" in reasons[1]
    assert "no other photograph is of its class" in reasons[2]
    alone = [one for one in data if one.label == "lone" or one.box_xyxy is None]
    with pytest.raises(DataError, match="no two photographs are of one class"):
        evaluate_localization(model, wa_data(alone), ["decomposition"])
    itself = evaluate_localization(model, wa_data(alone), ["decomposition"], pairing="self")
    assert itself.references == itself.queries
    with pytest.raises(DataError, match="no photograph can be measured: none has a box"):
        evaluate_localization(model, wa_data(alone[1:]), ["decomposition"])


def wa_data(samples):
    from whyalike.data import Dataset

    return Dataset("some", "some", tuple(samples))


def test_a_limit_takes_classes_spread_evenly(model, planted):
    data = read(f"manifest:{planted / 'all.csv'}")
    few = evaluate_localization(model, data, ["random"], limit=12)
    assert len(few) == 12
    assert sorted({one.label for one in few.queries}) == ["blue", "red"]
    with pytest.raises(ValueError, match="limit is 1 or more"):
        evaluate_localization(model, data, ["random"], limit=0)


def test_what_a_model_cannot_give_is_refused(model, planted):
    data = read(f"manifest:{planted / 'all.csv'}")
    bare = wa.EmbeddingModel(model.net[0], "mean", None)
    with pytest.raises(ModelError, match="needs a Preprocess"):
        evaluate_localization(bare, data, ["decomposition"])
    two = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    deep = wa.EmbeddingModel(model.net[0], "mean", two, model.preprocess)
    with pytest.raises(ModelError, match=r"cam: CAM needs a head .*; leave it out of the methods"):
        evaluate_localization(deep, data, ["cam"])
    with pytest.raises(ValueError, match="came 'gradcam'; near ones: grad-cam"):
        named(["gradcam"])


def test_a_report_says_the_same_each_time(found, planted, tmp_path):
    data = read(f"manifest:{planted / 'all.csv'}")
    again = evaluate_localization(make(), data, [*found.methods][:3])
    one, two = report(found, pictures=False), report(again, pictures=False)
    assert one.json() == two.json()
    assert one.markdown() == two.markdown()
    assert one.html() == two.html()
    numbers = json.loads(one.json())
    assert numbers["settings"]["seed"] == 0
    assert numbers["settings"]["data"] == data.name
    assert numbers["versions"]["numpy"] == np.__version__
    assert numbers["methods"]["decomposition"]["accuracy_by_threshold"]["0.5"] == [1.0] * 40
    one.save(tmp_path / "a.json", tmp_path / "a.md", tmp_path / "a.html")
    assert (tmp_path / "a.md").read_text().count("| decomposition | ") == 2
    with pytest.raises(OutputFileError, match=r"one of .json, .md, .html"):
        one.save(tmp_path / "a.png")


def test_tables_have_a_cell_for_each_column():
    table = Table("t", "a", ["map", "x"], [["long name", "1.0"], ["b|c", "20.0"]])
    assert table.text() == "t\nmap           x\nlong name   1.0\nb|c        20.0"
    assert "| b\\|c | 20.0 |" in table.markdown()
    with pytest.raises(ValueError, match="as many cells"):
        Table("t", "a", ["map"], [["x", "y"]])


HOSTILE = "<script>alert(1)</script>`|\"'\x1b[2J"


@pytest.mark.browser
def test_the_page_runs_nothing_and_fits(open_page, model, planted, tmp_path):
    table = (planted / "all.csv").read_text()
    for file in planted.glob("*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    text = table.replace(",red,", ',"' + HOSTILE.replace('"', '""') + '",')
    (tmp_path / "all.csv").write_text(text)
    data = read(f"manifest:{tmp_path / 'all.csv'}")
    found = evaluate_localization(model, data, ["decomposition"], limit=4)
    page = report(found).html()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "<script>" not in page
    assert "default-src 'none'; img-src data:; style-src 'sha256-" in page
    for width in (1280, 390):
        tab = open_page(page, width=width)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator("table").count() == 2
        assert tab.locator("img").evaluate_all("all => all.every(one => one.naturalWidth > 0)")
        shown = tab.locator("figcaption").all_inner_texts()
        assert any(text.startswith("<script>alert(1)</script>`|") for text in shown)
        style = tab.locator("main").evaluate("one => getComputedStyle(one).maxWidth")
        assert style == "1180px"  # it is allowed


@pytest.fixture
def folder(planted, tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text("from test_evaluate import make\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return f"manifest:{planted / 'all.csv'}"


def command(*arguments):
    return CliRunner().invoke(cli, ["evaluate", "localization", "--model", "planted:make",
                                    *arguments])  # fmt: skip


def test_the_command(folder, tmp_path):
    asked = ("--data", folder, "--methods", "decomposition,grad-cam", "--split", "test")
    shown = command(*asked, "-o", "a.json", "-o", "a.md")
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert ["decomposition", *["100.0"] * 13] in lines
    assert ["decomposition", "0", *["100.0"] * 7] in lines
    assert {line[0] for line in lines if line} >= {"grad-cam", "centre-box", "random"}
    assert "| grad-cam | " in (tmp_path / "a.md").read_text()
    assert json.loads((tmp_path / "a.json").read_text())["photographs"] == 12
    unseen = json.loads(command("--data", folder, "--split", "unseen", "--methods", "random",
                                "--pairs", "random", "--seed", "3", "--json").stdout)  # fmt: skip
    assert (unseen["photographs"], unseen["settings"]["seed"]) == (12, 3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "gradcam"], "--methods: a method is one of .* near ones: grad-cam"),
        (["--split", "dev"], "there is no split 'dev'; it has train, test, unseen"),
        (["-o", "a.png"], "a.png: the ending says what to write"),
        (["--data", "cub:nowhere"], "nowhere: there is no such folder; download CUB"),
        (["--data", "birds"], "a data set is named LAYOUT:PATH"),
    ],
)
def test_bad_input_is_one_line_and_code_2(folder, monkeypatch, capsys, arguments, said):
    line = ["whyalike", "evaluate", "localization", "--data", folder, *arguments]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert re.search(said, told)
