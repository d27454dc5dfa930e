"""Scores of a data set's pairs as what maps show is hidden, on planted rectangles of one colour."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import whyalike as wa
from test_evaluate import make, planted  # noqa: F401
from whyalike.cli import cli
from whyalike.data import read
from whyalike.evaluate import perturbation as perturb
from whyalike.evaluate.faithfulness import VECTORS, evaluate_faithfulness


@pytest.fixture(scope="module")
def model():
    return make()


@pytest.fixture(scope="module")
def found(model, planted):  # noqa: F811
    data = read(f"manifest:{planted / 'all.csv'}")
    return evaluate_faithfulness(model, data, ["decomposition"], fills=["grey", "blur"], limit=4)


def test_the_vectors_of_a_network_of_pixels_predict_what_is_measured(found):
    """It has no bias, and black gives nothing, so that Σv gone is what is measured."""
    assert len(found) == 4
    agreed = found.agreements("grey")
    assert set(agreed) == {*VECTORS, "decomposition", "centre-box", "random"}
    # One colour alone: what is hidden changes the cosine not at all, or takes all there is.
    sizes = np.abs(found.measured[:, 0])
    assert np.minimum(sizes, np.abs(sizes - sizes.max())).max() < 1e-6
    assert found.vectors["v removed"][:, 0] == pytest.approx(found.measured[:, 0], abs=1e-5)
    assert agreed["v removed"]["infidelity"] == pytest.approx(0, abs=1e-12)
    # All of it grey is black, of which there is no embedding to explain.
    assert set(agreed["v replaced"].values()) == {None}
    # Under a blur the network is linear in positive colours.
    assert found.vectors["v replaced"][:, 1] == pytest.approx(found.measured[:, 1], abs=1e-5)


def test_numbers_are_those_of_the_measures_one_by_one(found, model):
    query, reference = found.queries[1], found.references[1]
    x, y = (model.preprocess(wa_image(one.path))[0] for one in (query, reference))
    pair = wa.explain_pair(model, x, y)
    score = lambda images: torch.cosine_similarity(model(images), model(y[None]))  # noqa: E731
    values = pair.overall_map("query").double()
    with torch.no_grad():
        areas = perturb.deletion_and_insertion(score, x, values, "blur")
        hidden = perturb.filling(x, "blur")
        one = found.methods["decomposition"]
        assert perturb.area(torch.from_numpy(one.curves[1, 1, 0])).tolist() == pytest.approx(areas)
        assert one.road[1] == pytest.approx(perturb.road(score, x, values), abs=1e-5)
        boxes = perturb.random_boxes((32, 32), 64, perturb.seed_of(x, 0))
        assert found.measured[1, 1] == pytest.approx(
            perturb.measured_changes(score, x, boxes, hidden), abs=1e-6
        )
        stages = [perturb.stages(a, m.double(), perturb.filling(a, "blur"))
                  for a, m in ((x, values), (y, pair.overall_map("reference")))]  # fmt: skip
        both = [torch.cosine_similarity(model(a), model(b)) for a, b in zip(*stages, strict=True)]
    assert one.curves[1, 1, 1] == pytest.approx(torch.stack(both).numpy(), abs=1e-6)


def wa_image(path):
    from whyalike.images import read_image

    return read_image(path)


def test_a_planted_object_is_deleted_at_once(found):
    """Grey is black here, and what is black has no embedding: its cosine counts as nothing."""
    ours, chance = (found.areas(name, "grey") for name in ("decomposition", "random"))
    assert ours["deletion"] < 0.2
    assert ours["insertion"] > 0.9
    assert ours["deletion"] < chance["deletion"] - 0.3


def test_names_are_checked_before_anything_takes_time(model):
    for changed in ({"methods": ["cam2"]}, {"fills": ["black"]}):
        with pytest.raises(ValueError, match=r"a method is one of|fill is one of"):
            evaluate_faithfulness(model, None, **changed)


def test_the_command_and_its_report(planted, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "planted.py").write_text("from test_evaluate import make\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    line = ["evaluate", "faithfulness", "--model", "planted:make", "--data",
            f"manifest:{planted / 'all.csv'}", "--limit", "2", "--methods", "decomposition",
            "--fills", "grey"]  # fmt: skip
    shown = CliRunner().invoke(cli, [*line, "-o", "a.json", "-o", "a.html", "-o", "a.md"])
    assert shown.exit_code == 0, shown.output
    again = CliRunner().invoke(cli, [*line, "--json"])
    assert again.stdout == (tmp_path / "a.json").read_text() + "\n"
    told = json.loads(again.stdout)
    assert told["pairs"] == 2
    assert len(told["methods"]["decomposition"]["grey"]["curves"][1][1]) == 17
    assert "Predicted against measured, grey" in shown.stdout
    assert (tmp_path / "a.html").read_text().count("data:image/png") == 3
    bad = CliRunner().invoke(cli, [*line[:-1], "black"])
    assert "some of grey, mean, blur; came 'black'" in bad.output
