"""Two towers: their loss, their batches, what a kill leaves, and the folder that is a model."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import layouts
import trainings
import whyalike as wa
from whyalike.cli import cli
from whyalike.data import read
from whyalike.data.worlds import place, write_world
from whyalike.errors import CheckpointError, DataError, ModelError, TrainingError, WhyalikeError
from whyalike.evaluate.across import ranks_across, recall_across
from whyalike.preprocess import Preprocess
from whyalike.train import views
from whyalike.train.towers import TowerSettings, soft_margin, train_towers
from whyalike.train.views import ViewBatches, Views, turned
from whyalike.zoo import load_two, trained_towers
from whyalike.zoo import trained as folders

SETTINGS = TowerSettings(embedding=6, ground_size=(16, 64), aerial_size=32, batch_size=4, epochs=3)
PLAIN = Preprocess(size=16, mean=(0, 0, 0), std=(1, 1, 1))


def some(count, start=0):
    made = [place(0, start + i, aerial=32, panorama_wh=(64, 16)) for i in range(count)]
    return Views(tuple(one.panorama for one in made), tuple(one.aerial for one in made))


SEEN, UNSEEN = some(9), some(5, 100)


def trained(folder, settings=SETTINGS, **options):
    return train_towers(SEEN, folder, settings, unseen=UNSEEN, workers=1, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers") / "model"
    return folder, trained(folder)


def test_the_loss_against_loops():
    random = torch.Generator().manual_seed(0)
    g, a = (torch.randn(5, 3, generator=random, dtype=torch.float64) for _ in range(2))
    for alpha in (1.0, 10.0):
        each, together = [], []
        unit = [E / E.norm(dim=1, keepdim=True) for E in (g, a)]
        for one, other in (unit, unit[::-1]):
            for i in range(5):
                above = []
                for j in range(5):
                    if i != j:
                        near = (one[i] - other[i]).square().sum()
                        far = (one[i] - other[j]).square().sum()
                        above.append(math.exp(alpha * (near - far)))
                each += [math.log(1 + one) for one in above]
                together.append(math.log(1 + sum(above)))
        assert len(each) == 2 * 5 * 4
        assert soft_margin(g, a, alpha).item() == pytest.approx(sum(each) / len(each))
        found = soft_margin(g, a, alpha, "together").item()
        assert found == pytest.approx(sum(together) / len(together))
    same = torch.ones(3, 2)
    assert soft_margin(same, same, 10.0).item() == pytest.approx(math.log(2))
    assert soft_margin(same, same, 10.0, "together").item() == pytest.approx(math.log(3))


def test_recall_across_views():
    angles = torch.tensor([0.0, 10, 20, 30], dtype=torch.float64).deg2rad()
    E = torch.stack([angles.cos(), angles.sin()], 1)
    assert ranks_across(E, E).tolist() == [1, 1, 1, 1]
    assert ranks_across(E, E.flip(0)).tolist() == [4, 3, 3, 4]
    assert ranks_across(torch.ones(4, 2), torch.ones(4, 2)).tolist() == [4] * 4  # nothing is found
    ranks = torch.tensor([1, 2, 3, 6] * 50)
    assert recall_across(ranks) == {"1": 0.25, "5": 0.75, "1%": 0.75}  # the best 3 of 200
    with pytest.raises(DataError, match="came 4 queries and 3"):
        ranks_across(E, E[:3])


def test_views_are_turned_clockwise():
    image = torch.zeros(4, 3, 33, 33)
    image[:, :, 3:6, 15:18] = 1  # in the north
    out = turned(image, np.array([0.0, 90.0, 180.0, 270.0]))
    for one, (row, column) in zip(out, [(4, 16), (16, 28), (28, 16), (16, 4)], strict=True):
        assert one[0, row, column] == pytest.approx(1, abs=0.01)
        assert one.sum() == pytest.approx(27, abs=0.5)
    corner = turned(torch.ones(1, 3, 33, 33), np.array([45.0]))
    assert corner[0, 0, 0, 0] == 0


def test_batches_are_a_function_of_seed_and_step():
    batches = ViewBatches(SEEN, PLAIN, PLAIN, 4, 0, True)
    assert batches.per_epoch == 2
    epoch = np.concatenate([batches.indices(0), batches.indices(1)])
    assert len(set(epoch.tolist())) == 8
    assert (batches.indices(2) != batches.indices(0)).any()
    for (a, b), step in zip(batches.run(1, 4, 2), range(1, 4), strict=True):
        again = batches.batch(step)
        assert torch.equal(a, again[0])
        assert torch.equal(b, again[1])
    assert not torch.equal(batches.batch(0)[1], replace(batches, seed=1).batch(0)[1])
    assert sum(len(a) for a, _ in batches.all()) == 9


def test_photographs_are_read_once_and_stay_the_same(monkeypatch):
    """What is kept as 8 bits is what a preprocess makes of the photograph, also when none are."""
    read, plain = [], replace(PLAIN, size=20, mean=(0.4, 0.5, 0.6), channels="BGR")

    def reading(source):
        read.append(1)
        return Image.fromarray(source)

    monkeypatch.setattr(views, "read_image", reading)
    batches = ViewBatches(SEEN, PLAIN, plain, 4, 0, False)
    _, aerial = batches.batch(0)
    expected = [plain(Image.fromarray(SEEN.aerial[i]))[0] for i in batches.indices(0)]
    assert torch.equal(aerial, torch.stack(expected))
    assert len(read) == 8
    assert torch.equal(batches.batch(0)[1], aerial)
    assert len(read) == 8
    monkeypatch.setattr(views, "KEPT_BYTES", 0)
    few = replace(batches)
    assert torch.equal(few.batch(0)[1], aerial)
    assert torch.equal(few.batch(0)[1], aerial)
    assert len(read) == 24


def test_recall_is_measured_without_north():
    """As in training: views from above are turned by lot, and always by the same one."""
    batches = ViewBatches(SEEN, PLAIN, PLAIN, 4, 0, True)
    plain = torch.cat([a for _, a in replace(batches, turn=False).all()])
    found, again = (torch.cat([a for _, a in batches.all()]) for _ in range(2))
    assert torch.equal(found, again)
    assert all(not torch.equal(a, b) for a, b in zip(found, plain, strict=True))


def test_both_views_are_mirrored_or_none():
    """An arrow to the right in the panorama, and one clockwise from above, stay of one kind."""
    ramp = (np.arange(64) * 4 % 256).astype(np.uint8)
    street = np.repeat(np.tile(ramp, (16, 1))[..., None], 3, 2)
    y, x = np.mgrid[:33, :33] - 16
    swirl = ((np.degrees(np.arctan2(x, -y)) % 360) / 360 * 255).astype(np.uint8)
    above = np.repeat(swirl[..., None], 3, 2)
    views = Views((street,) * 12, (above,) * 12)
    batches = ViewBatches(
        views, replace(PLAIN, size=(16, 64)), replace(PLAIN, size=33), 12, 1, True
    )
    ground, aerial = batches.batch(0)
    rising = (ground[:, 0, 0].diff() > 0).float().mean(1) > 0.5
    ring = [(16 + round(10 * math.sin(a)), 16 - round(10 * math.cos(a)))
            for a in np.radians(np.arange(0, 360, 15))]  # fmt: skip
    around = torch.stack([aerial[:, 0, row, column] for column, row in ring], 1)
    assert ((around.diff() > 0).float().mean(1) > 0.5).tolist() == rising.tolist()
    assert 0 < rising.sum() < 12


def test_a_run_that_is_stopped_goes_on_to_the_same_weights(whole, tmp_path):
    def stop(progress):
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "model", progress=stop, checkpoint_steps=2)
    again = trained(tmp_path / "model")
    assert (again.began, again.steps) == (2, 6)
    folder, report = whole
    names = (folders.WEIGHTS, folders.CONFIG)
    assert all((tmp_path / "model" / n).read_bytes() == (folder / n).read_bytes() for n in names)
    assert again.epochs == report.epochs
    assert {*report.epochs[-1].recall} == {"1", "5", "1%"}
    assert trained(folder).began == 6


def test_the_folder_is_a_model_of_two_towers(whole):
    spec = str(whole[0])
    ground, aerial = load_two(spec)
    assert "96×2×8 map" in repr(ground)
    assert "96×4×4 map of Tower.trunk → mean → Linear(96→6)" in repr(aerial)
    pair = wa.explain_pair(ground, UNSEEN.ground[0], UNSEEN.aerial[0], reference_model=aerial)
    assert sum(pair.terms) == pytest.approx(pair.similarity, abs=1e-5)
    net = trained_towers.build(SETTINGS.form(), pretrained=False).eval()
    net.load_state_dict(wa.zoo.checkpoints.read_checkpoint(whole[0] / "model.safetensors"))
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(wa.load(f"{spec}#aerial")(x), net.tower("aerial")(x))
    assert not torch.equal(net.ground[0].weight, net.aerial[0].weight)
    with pytest.raises(ModelError, match="two networks, one for each view: load FOLDER#ground"):
        wa.load(spec)
    with pytest.raises(ModelError, match="leave the checkpoint out"):
        wa.load(f"{spec}#ground", checkpoint="w.pt")


SPOILT = {
    "another's": (
        {"format": "whyalike.trained"},
        ModelError,
        "no config of whyalike train --pairs",
    ),
    "later": ({"version": 2}, ModelError, "later version"),
    "code": ({"trunk": "os:system"}, ModelError, "a trunk is default"),
    "large": ({"embedding": 60_000}, CheckpointError, "should have shape"),
    "truth": ({"embedding": True}, ModelError, "an embedding of two towers"),
    "other": ({"trunk": "vgg16"}, CheckpointError, "should have shape"),
    "preprocess": ({"ground": {"size": 3}}, ModelError, "a preprocess has"),
    "none": ({"aerial": 3}, ModelError, "no two towers are described"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_folders_of_strangers_are_checked(how, whole, tmp_path):
    values, kind, message = SPOILT[how]
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((whole[0] / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **values}))
    with pytest.raises(kind, match=message):
        wa.load(f"{tmp_path}#ground")


def test_forms():
    vgg = TowerSettings(trunk="vgg16", embedding=4096).form()
    assert (vgg.ground.size, vgg.aerial.size) == ((224, 1232), (512, 512))
    assert vgg.ground.channels == "BGR"
    with torch.device("meta"):
        net = trained_towers.build(vgg, pretrained=False)
        assert net.tower("ground")(torch.zeros(1, 3, 32, 64)).shape == (1, 4096)
        published = wa.zoo.published.crossview.SiameseVGG16()
    assert net.state_dict().keys() == published.state_dict().keys()
    timm = TowerSettings(trunk="timm:resnet10t", embedding=8, ground_size=64, aerial_size=32).form()
    net = trained_towers.build(timm, pretrained=False)
    assert net.tower("aerial")(torch.zeros(2, 3, 32, 32)).shape == (2, 8)
    assert TowerSettings().form().ground.size == (40, 256)


def test_what_cannot_be_trained_is_told(tmp_path):
    for wrong, message in (
        ({"batch_size": 1}, "batch_size is a whole number from 2"),
        ({"alpha": 0.0}, "alpha is a number above 0"),
        ({"triplets": "some"}, "triplets is one of each, together"),
        ({"warmup": 2.0}, "warmup is a share"),
        ({"learning_rate": math.nan}, "learning_rate is a number from 0"),
    ):
        with pytest.raises(TrainingError, match=message):
            TowerSettings(**wrong)
    with pytest.raises(TrainingError, match="two photographs of each; came 1 from the street"):
        Views(("a.jpg",), ())
    with pytest.raises(TrainingError, match="takes as many; came Views"):
        train_towers(SEEN, tmp_path / "few", replace(SETTINGS, batch_size=10))
    trained(tmp_path / "model", replace(SETTINGS, epochs=1))
    with pytest.raises(TrainingError, match=r"alpha was 10\.0, is 1\.0; give another folder"):
        trained(tmp_path / "model", replace(SETTINGS, epochs=1, alpha=1.0))
    with pytest.raises(TrainingError, match="the places are others"):
        train_towers(UNSEEN, tmp_path / "model", replace(SETTINGS, epochs=1))
    with pytest.raises(TrainingError, match=r"loss of step 1 is inf; take a smaller"):
        trained(tmp_path / "runs-away", replace(SETTINGS, alpha=1e39, triplets="each"))


def test_pairs_of_data_sets(tmp_path):
    views = Views.of(read(f"cvusa:{layouts.cvusa(tmp_path / 'cvusa')}"))
    assert len(views) == 3
    assert views.ground[2].name == views.aerial[2].name == "0000007.jpg"
    first, rest = views.hold_out(0.3)
    assert (len(first), len(rest)) == (2, 1)
    assert views.hold_out(0.0) == (views, None)
    with pytest.raises(TrainingError, match="has no pairs of a view from the street"):
        Views.of(read(f"folder:{layouts.folder(tmp_path / 'folder')}"))
    with pytest.raises(TrainingError, match="leaves none to train on"):
        views.hold_out(0.9)


def invoke(*arguments):
    return CliRunner().invoke(cli, arguments, catch_exceptions=True)


ARGUMENTS = ("--trunk", "small", "--ground-size", "16,64", "--aerial-size", "32", "--alpha", "5",
             "--triplets", "each", "--embedding", "6", "--epochs", "2",
             "--batch-size", "4")  # fmt: skip


def test_the_command_trains_towers_that_explain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    list(write_world("world", 6, 3, aerial=32, panorama_wh=(64, 16)))
    done = invoke("train", "--pairs", "cvusa:world", "-o", "model", *ARGUMENTS)
    assert done.exit_code == 0, done.output
    assert "R@1%" in done.stdout
    assert "wrote model, for --model model (a pair's QUERY" in done.stdout
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["training"]["data"]["seen"]["places"] == 6
    assert config["training"]["data"]["unseen"]["places"] == 3
    assert config["training"]["settings"]["alpha"] == 5
    assert config["training"]["settings"]["triplets"] == "each"
    names = "world/streetview/panos/0000008.jpg", "world/bingmap/19/0000008.jpg"
    explained = invoke("explain", *names, "--model", "model", "--plain", "--json")
    assert explained.exit_code == 0, explained.output
    assert "map of Tower.trunk" in json.loads(explained.stdout)["model"]
    for arguments, message in (
        (("--pairs", "cvusa:world", "--miner", "triplet"), "--miner: two towers have no such"),
        (("--pairs", "cvusa:world", "cvusa:world"), "--pairs takes one data set"),
        (("--pairs", "cvusa:world", "--tensorboard"), "--tensorboard: two towers have no such"),
        (("photos", "--alpha", "3"), "--alpha: is for two towers"),
        (("photos", "--triplets", "each"), "--triplets: is for two towers"),
        (("--pairs", "cvusa:world", "--aerial-size", "x"), "is a number of pixels"),
        (("--pairs", "cvusa:nowhere"), "there is no such folder"),
    ):
        done = invoke("train", *arguments, "-o", "other")
        said = str(done.exception) if isinstance(done.exception, WhyalikeError) else done.output
        assert done.exit_code != 0
        assert message in said, (arguments, said)


def test_the_command_writes_a_world(tmp_path):
    folder = tmp_path / "world"
    sizes = ("--aerial-size", "32", "--panorama-size", "64,16")
    done = invoke("world", str(folder), "--seen", "2", "--unseen", "1", *sizes)
    assert done.exit_code == 0, done.output
    with Image.open(folder / "bingmap" / "19" / "0000003.jpg") as picture:
        assert picture.size == (32, 32)
    again = invoke("world", str(folder))
    assert "is there already; give a new folder" in again.output
    small = invoke("world", str(tmp_path / "small"), "--panorama-size", "4,4")
    assert "16 to 4096 pixels a side" in small.output


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_to_the_same_weights(tmp_path):
    list(write_world(tmp_path / "world", 12, 3, aerial=32, panorama_wh=(64, 16)))
    longer = (*ARGUMENTS, "--epochs", "60")
    trainings.killed_and_gone_on_with(tmp_path, "--pairs", "cvusa:world", *longer)


@pytest.mark.slow
def test_small_towers_find_unseen_places(tmp_path):
    """Two minutes of CPU: far from what a longer training reaches, and from chance."""
    list(write_world(tmp_path / "world", 1000, 200, aerial=96, panorama_wh=(256, 40)))
    data = read(f"cvusa:{tmp_path / 'world'}")
    seen, unseen = (Views.of(data.only(split=split)) for split in ("train", "val"))
    settings = TowerSettings(epochs=10)
    report = train_towers(seen, tmp_path / "model", settings, unseen=unseen, evaluate_epochs=0)
    recall = report.epochs[-1].recall
    assert recall["5"] > 0.3  # 0.46 when it was written; by chance 0.025
