"""What becomes of maps as network, pair or pixels are others, on maps that are known."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy import stats
from torch import nn

import whyalike as wa
from test_evaluate import planted  # noqa: F401
from whyalike.cli import cli
from whyalike.data import read
from whyalike.errors import DataError
from whyalike.evaluate import sanity


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU())
    return wa.EmbeddingModel(trunk.eval(), "mean", nn.Linear(8, 6).eval(), wa.Preprocess(size=32))


@pytest.fixture(scope="module")
def pairs():
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return [(images[i], images[i + 3]) for i in range(3)]


def draw(model, x, y):
    pair = wa.explain_pair(model, x, y)
    return {"ours": pair.overall_map("query"), "edges": x.abs().sum(0), "none": x[0] * 0}


def stacked(pairs):
    return torch.stack([x for pair in pairs for x in pair])


def test_maps_of_the_image_alone_outlive_what_the_network_forgets(model, pairs):
    weights = [one.clone() for one in model.net.state_dict().values()]
    found = sanity.randomised(model, draw, pairs, stacked(pairs), steps=4)
    assert [one.forgotten for one in found["ours"]] == ["", "head.project", "features.1",
                                                        "features.0"]  # fmt: skip
    assert all(one.spearman == pytest.approx(1) for one in found["edges"])
    assert found["ours"][0].pearson == pytest.approx(1)
    assert found["ours"][-1].spearman < 0.9
    assert all(one.undefined == 1 and np.isnan(one.pearson) for one in found["none"])
    for now, then in zip(model.net.state_dict().values(), weights, strict=True):
        assert now.equal(then)
    again = sanity.randomised(model, draw, pairs, stacked(pairs), steps=4)
    assert again["ours"] == found["ours"]


def test_the_first_step_by_hand(model, pairs):
    """The last layer drawn anew, the rest as it was: the map of that network."""
    found = sanity.randomised(model, draw, pairs, stacked(pairs), steps=4, seed=5)["ours"][1]
    drawn = torch.empty(6, 8).normal_(0, 0.5, generator=torch.Generator().manual_seed(5))
    head = nn.Linear(8, 6).eval()
    with torch.no_grad():
        head.weight.copy_(drawn)
        head.bias.zero_()
    trunk = nn.Sequential(*model.net.features)
    other = wa.EmbeddingModel(settled(trunk, stacked(pairs)), "mean", head, wa.Preprocess(size=32))
    expected = [
        stats.pearsonr(*(draw(net, *pair)["ours"].flatten() for net in (model, other))).statistic
        for pair in pairs
    ]
    assert found.pearson == pytest.approx(np.mean(expected), abs=1e-5)


def settled(trunk, images):
    from copy import deepcopy

    trunk = deepcopy(trunk)
    with torch.no_grad():
        A = trunk[0](images)
        trunk[1].running_mean.copy_(A.mean((0, 2, 3)))
        trunk[1].running_var.copy_(A.transpose(0, 1).flatten(1).var(1))
    return trunk


def test_impostors_are_the_nearest_of_another_class():
    E = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    labels = np.array([*"abcde"] * 4)
    S = torch.cosine_similarity(E[:, None], E[None], dim=2)
    for i, found in enumerate(sanity.impostors(E, labels)):
        others = [j for j in range(20) if labels[j] != labels[i]]
        assert found == max(others, key=lambda j: S[i, j].item())
    assert sanity.impostors(E, np.array(["a"] * 20)).tolist() == [-1] * 20


def test_likeness_of_maps_that_are_known():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(3, 5, generator=generator) for _ in range(8)]
    same = sanity.likeness(maps, maps)
    assert (same.pearson, same.spearman, same.told) == pytest.approx((1, 1, 0.5))
    less = sanity.likeness(maps, [one / 2 for one in maps])  # like it, and less of it
    assert (less.pearson, less.told) == pytest.approx((1, 1))
    against = sanity.likeness(maps, [-one for one in maps])
    assert (against.pearson, against.told) == pytest.approx((-1, 1))
    others = [torch.rand(3, 5, generator=generator) for _ in range(8)]
    found = sanity.likeness([*maps, torch.ones(3, 5)], [*others, others[0]])
    pairs = list(zip(maps, others, strict=True))
    expected = [stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in pairs]
    assert found.spearman == pytest.approx(np.mean(expected))
    assert found.undefined == pytest.approx(1 / 9)
    more = [a.sum() > b.sum() for a, b in pairs] + [others[0].sum() < 15]
    assert found.told == pytest.approx(np.mean(more))


def test_noise_by_brute_force(model, pairs):
    def fixed(net, x, y):
        return {"fixed": torch.arange(12.0).view(3, 4), "pixels": x[0], **draw(net, x, y)}

    found = sanity.shaken(model, fixed, pairs, levels=[0.0, 0.5], draws=2, seed=3)
    still, moved = found["fixed"][1], found["pixels"]
    assert (still.pearson, still.change) == pytest.approx((1, 0))
    assert (moved[0].pearson, moved[0].change, moved[0].score) == pytest.approx((1, 0, 0), abs=1e-6)
    generator = torch.Generator().manual_seed(3)
    changes, scores, correlations = [], [], []
    for x, y in pairs:
        each = []
        for _ in range(2):
            shown = x + 0.5 * x.std() * torch.randn(x.shape, generator=generator)
            each.append(((shown[0] - x[0]).norm() / x[0].norm()).item())
            with torch.no_grad():
                E, other, of_y = model(torch.stack([x, shown, y]))
            cosines = [torch.cosine_similarity(e, of_y, dim=0) for e in (E, other)]
            scores.append(abs(cosines[1] - cosines[0]).item())
            maps = [draw(model, one, y)["ours"].flatten() for one in (x, shown)]
            correlations.append(stats.pearsonr(*maps).statistic)
        changes.append(max(each))
    assert moved[1].change == pytest.approx(np.mean(changes))
    assert moved[1].score == pytest.approx(np.mean(scores), abs=1e-6)
    assert found["ours"][1].pearson == pytest.approx(np.mean(correlations), abs=1e-5)


def small():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 6, 2, 2), nn.ReLU()).eval()
    plain = wa.Preprocess(size=16)
    return wa.EmbeddingModel(trunk, "mean", nn.Linear(6, 5).eval(), plain)


def test_the_command_and_its_report(planted, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "small.py").write_text("from test_sanity import small\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    table = f"manifest:{planted / 'all.csv'}"
    line = ["evaluate", "sanity", "--model", "small:small", "--data", table, "--limit", "4",
            "--methods", "decomposition"]  # fmt: skip
    shown = CliRunner().invoke(cli, [*line, "-o", "a.json", "-o", "a.html", "-o", "a.md"])
    assert shown.exit_code == 0, shown.output
    again = CliRunner().invoke(cli, [*line, "--json"])
    assert again.stdout == (tmp_path / "a.json").read_text() + "\n"
    told = json.loads(again.stdout)
    assert told["pairs"] == 4
    middle = told["methods"]["centre-box"]
    assert all(one["pearson"] == pytest.approx(1) for one in middle["randomised"])
    assert middle["likeness"]["told"] == 0.5
    assert [one["change"] for one in middle["shaken"]] == [0, 0, 0]
    assert abs(told["methods"]["random"]["likeness"]["pearson"]) < 0.15
    assert "Impostors" in shown.stdout
    assert (tmp_path / "a.html").read_text().count("data:image/png") == 1
    one_class = [one for one in read(f"manifest:{planted / 'all.csv'}") if one.label == "red"]
    with pytest.raises(DataError, match="there is one class alone"):
        sanity.evaluate_sanity(small(), wa_data(one_class), [])


def wa_data(samples):
    from whyalike.data import Dataset

    return Dataset("some", "some", tuple(samples))
