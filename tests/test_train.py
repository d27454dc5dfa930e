"""Training: what is drawn, what is kept, and that a kill makes no difference."""

import csv
import json
import multiprocessing
import shutil
import signal
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import trainings
import whyalike as wa
from trainings import SETTINGS, colours, trained
from whyalike.cli import cli
from whyalike.errors import (
    CheckpointError,
    ModelError,
    OutputFileError,
    TrainingError,
    WhyalikeError,
)
from whyalike.train import Pictures, Settings, train
from whyalike.train.losses import loss_by_name, miner_by_name, names
from whyalike.train.pictures import Batches, augmented
from whyalike.train.settings import rising_and_falling
from whyalike.zoo import trained as folders

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["whyalike.train", "torch._dynamo", "pytorch_metric_learning.losses", "sklearn.datasets"]
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed training."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    return folder, trained(folder)


def same_weights(folder, other) -> bool:
    return (folder / folders.WEIGHTS).read_bytes() == (other / folders.WEIGHTS).read_bytes()


KILLS = {
    "in the first epoch, before any state": trainings.KILL_AT_STEP.format(at=3),
    "in the second epoch": trainings.KILL_AT_STEP.format(at=7),
    "while the first state is written": trainings.KILL_IN_WRITING.format(at=1),
    "while the second state is written": trainings.KILL_IN_WRITING.format(at=4),
    "between the state and the model": trainings.KILL_AT_REPLACE.format(at=6),
    "between weights and config": trainings.KILL_AT_REPLACE.format(at=7),
}


@pytest.mark.parametrize("kill", KILLS)
def test_killed_and_gone_on_with_it_gives_the_same_weights(kill, whole, tmp_path):
    folder = tmp_path / "model"
    done = PROCESSES.Event()
    process = PROCESSES.Process(target=trainings.run, args=(str(folder), KILLS[kill], done))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert not done.is_set()
    report = trained(folder)
    assert report.steps == 12
    assert (report.began == 0) == ("first" in kill)
    assert same_weights(folder, whole[0])
    assert report.epochs == whole[1].epochs
    first, second = (json.loads((f / folders.CONFIG).read_text()) for f in (folder, whole[0]))
    assert first == second
    assert not list(folder.glob(".*"))


def test_killed_again_and_again(whole, tmp_path):
    """In one process, as a kill between steps leaves what the last state has."""

    def stop(progress):
        if progress.step in (2, 6, 11):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "model", progress=stop)
    assert trained(tmp_path / "model").began == 0
    assert same_weights(tmp_path / "model", whole[0])


def test_it_learns_and_says_how_well(whole):
    folder, report = whole
    assert [epoch.epoch for epoch in report.epochs] == [1, 2, 3]
    assert report.epochs[-1].loss < report.epochs[0].loss
    assert report.epochs[-1].recall["1"] > 0.9
    config = json.loads((folder / folders.CONFIG).read_text())
    assert config["training"]["step"] == 12
    assert config["training"]["settings"]["loss"] == "proxy-anchor"
    assert config["training"]["epochs"][-1]["recall"] == report.epochs[-1].recall
    again = trained(folder)
    assert (again.began, again.epochs) == (12, report.epochs)


def test_the_callers_random_numbers_stay(tmp_path):
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.random(3)
    torch.manual_seed(5)
    np.random.seed(5)
    trained(tmp_path / "model", replace(SETTINGS, epochs=1))
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.random(3) == expected[1]).all()


def test_the_losses_own_parameters_are_trained_and_kept(whole):
    state = torch.load(whole[0] / "checkpoint.pt", weights_only=True)
    assert state["loss"]["proxies"].shape == (4, 6)
    torch.manual_seed(0)
    groups = state["optimizer"]["param_groups"]
    assert len(groups) == 2
    (proxies,) = groups[1]["params"]
    assert state["optimizer"]["state"][proxies]["exp_avg"].abs().max() > 0


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "pool", [pytest.param("mean", marks=SLOW), pytest.param("max", marks=SLOW), "gem", "flatten"]
)
def test_the_folder_is_a_model_whose_pool_and_head_are_known(pool, tmp_path):
    settings = replace(SETTINGS, pool=pool, size=(16, 24), epochs=1, loss="triplet", miner=None)
    trained(tmp_path / "model", settings)
    model = wa.load(str(tmp_path / "model"))
    assert model.layer == "trunk"
    found = f"96×2×3 map of Sequential.trunk → {pool}"
    assert found in repr(model)
    assert f"→ Linear({576 if pool == 'flatten' else 96}→6) → embedding of 6" in repr(model)
    assert model.preprocess == settings.architecture().preprocess
    pictures = colours()
    pair = wa.explain_pair(model, pictures.sources[0], pictures.sources[4])
    assert sum(pair.terms) == pytest.approx(pair.similarity, abs=1e-5)
    net = folders.build(settings.architecture(), pretrained=False).eval()
    net.load_state_dict(load_file(tmp_path / "model" / folders.WEIGHTS))
    x = model.preprocess(Image.fromarray(pictures.sources[0]))[0][None]
    torch.testing.assert_close(model(x), net(x))


def test_no_layer_behind_the_pool(tmp_path):
    trained(tmp_path / "model", replace(SETTINGS, embedding=None, epochs=1))
    assert "→ max → embedding of 96" in repr(wa.load(str(tmp_path / "model")))


SPOILT = {
    "no config": (lambda f: (f / "config.json").unlink(), ModelError, "config.json: there is no"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), CheckpointError, "no such file"),
    "not json": (lambda f: (f / "config.json").write_text("{"), ModelError, "read as JSON"),
    "deep": (lambda f: (f / "config.json").write_text("[" * 10**6), ModelError, "read as JSON"),
    "another's": (lambda f: (f / "config.json").write_text("{}"), ModelError, "no config of"),
    "later": (lambda f: changed(f, version=2), ModelError, "later version"),
    "code": (lambda f: changed(f, trunk="os:system"), ModelError, "a trunk is default"),
    "a list": (lambda f: changed(f, trunk=["small"]), ModelError, "a trunk is default"),
    "hub": (lambda f: changed(f, trunk="timm:hf-hub:a/b"), ModelError, "no network"),
    "pool": (lambda f: changed(f, pool="sum"), ModelError, "pool is one of"),
    "size": (lambda f: changed(f, embedding=10**9), ModelError, "an embedding is 1 to"),
    "truth": (lambda f: changed(f, embedding=True), ModelError, "an embedding is 1 to"),
    "large": (lambda f: changed(f, embedding=60_000), CheckpointError, "should have shape"),
    "other": (
        lambda f: changed(f, trunk="timm:resnet10t", embedding=None),
        CheckpointError,
        "lacks",
    ),
    "preprocess": (lambda f: changed(f, preprocess={"size": 3}), ModelError, "a preprocess has"),
    "huge": (lambda f: enlarged(f, 9000), ModelError, "at most 4,096 pixels a side"),
    "pickle": (lambda f: torch.save({}, f / "model.safetensors"), CheckpointError, "safetensors"),
    "short": (
        lambda f: (f / "model.safetensors").write_bytes(b"12345678{}"),
        CheckpointError,
        "not a safetensors file",
    ),
}


def changed(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def enlarged(folder, side):
    kept = json.loads((folder / "config.json").read_text())["preprocess"]
    changed(folder, preprocess={**kept, "size": side})


@pytest.mark.parametrize("how", SPOILT)
def test_folders_of_strangers_are_checked(how, whole, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((whole[0] / name).read_bytes())
    assert wa.load(str(tmp_path))
    spoil, kind, message = SPOILT[how]
    spoil(tmp_path)
    with pytest.raises(kind, match=message):
        wa.load(str(tmp_path))


def test_a_checkpoint_beside_the_folder_means_nothing(whole):
    with pytest.raises(ModelError, match="leave the checkpoint out"):
        wa.load(str(whole[0]), checkpoint="weights.pt")


def test_other_settings_and_pictures_are_not_mixed_into_a_training(tmp_path):
    one = replace(SETTINGS, epochs=1)
    trained(tmp_path / "model", one)
    with pytest.raises(TrainingError, match=r"learning_rate was 0\.01, is 0\.02; give another"):
        trained(tmp_path / "model", replace(one, learning_rate=0.02))
    with pytest.raises(TrainingError, match="the pictures are others"):
        train(colours(5), tmp_path / "model", one, unseen=colours(3, 4, 9))
    changed = trained(tmp_path / "model", replace(one, learning_rate=0.02), restart=True)
    assert changed.began == 0
    (tmp_path / "model" / "checkpoint.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"cannot be gone on with .*; give another folder"):
        trained(tmp_path / "model", one)
    (tmp_path / "photo.txt").write_text("mine")
    with pytest.raises(OutputFileError, match="holds other files"):
        trained(tmp_path)
    with pytest.raises(OutputFileError, match="cannot be made a folder"):
        trained(tmp_path / "photo.txt")


def test_a_state_with_code_is_not_run(tmp_path):
    trained(tmp_path / "model", replace(SETTINGS, epochs=1))
    torch.save({"net": nn.Linear(1, 1)}, tmp_path / "model" / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="Weights only load failed"):
        trained(tmp_path / "model", replace(SETTINGS, epochs=1))


def test_batches_are_balanced_and_a_function_of_seed_and_step():
    pictures = Pictures(tuple(range(31)), tuple("a" * 20 + "b" * 8 + "c" * 2 + "d"))
    settings = replace(SETTINGS, batch_size=13, per_class=4)
    batches = Batches(pictures, settings, None)
    seen = Counter()
    for step in range(200):
        chosen = batches.indices(step)
        assert (chosen == Batches(pictures, settings, None).indices(step)).all()
        labels = Counter(pictures.labels[i] for i in chosen)
        assert sorted(labels.values()) == [4, 4, 4]
        for label in set("ab") & set(labels):  # of those that have enough, each once
            assert len({i for i in chosen if pictures.labels[i] == label}) == 4
        seen.update(labels.keys())
    assert min(seen.values()) > 130
    other = Batches(pictures, replace(settings, seed=1), None)
    assert any((other.indices(s) != batches.indices(s)).any() for s in range(5))
    few = Batches(pictures, replace(settings, batch_size=40, per_class=2), None)
    assert sorted(Counter(pictures.labels[i] for i in few.indices(0)).values()) == [10] * 4


def test_threads_read_what_one_reads():
    pictures, settings = colours(), replace(SETTINGS, augment="crop")
    batches = Batches(pictures, settings, settings.architecture().preprocess)
    one, four = (list(batches.run(2, 7, workers)) for workers in (1, 4))
    assert len(one) == 5
    for (images, classes), (others, same) in zip(one, four, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(classes, same)


def test_views_of_a_picture():
    picture = Image.effect_noise((60, 40), 50).convert("RGB")
    random = np.random.default_rng(0)
    assert augmented(picture, "none", random) is picture
    turned = [augmented(picture, "flip", random) for _ in range(20)]
    assert {t.tobytes() for t in turned} == {
        picture.tobytes(),
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes(),
    }
    areas = []
    for _ in range(200):
        crop = augmented(picture, "crop", random)
        assert crop.width <= 60
        assert crop.height <= 40
        areas.append(crop.width * crop.height / 2400)
    assert 0.15 < min(areas) < 0.3
    assert max(areas) > 0.85
    assert augmented(Image.new("RGB", (1, 1)), "crop", random).size == (1, 1)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("MultiSimilarity", "MultiSimilarityLoss"),
        ("multi-similarity", "MultiSimilarityLoss"),
        ("triplet", "TripletMarginLoss"),
        ("margin", "MarginLoss"),
        ("contrastive", "ContrastiveLoss"),
        ("ArcFaceLoss", "ArcFaceLoss"),
        ("proxy_anchor", "ProxyAnchorLoss"),
        ("soft triple", "SoftTripleLoss"),
    ],
)
def test_losses_by_name(name, kind):
    assert type(loss_by_name(name, {}, classes=3, dimensions=4)).__name__ == kind


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")  # HistogramLoss's
def test_most_losses_and_all_miners_take_embeddings_and_classes():
    E = torch.nn.functional.normalize(torch.randn(12, 5)).requires_grad_()
    classes = torch.arange(4).repeat(3)
    works = set()
    for name in names("losses"):
        try:
            loss_by_name(name, {}, classes=4, dimensions=5)(E, classes, None).backward()
            works.add(name)
        except (TrainingError, ValueError, NotImplementedError, TypeError):
            continue
    assert len(works) >= 25
    for name in names("miners"):
        found = miner_by_name(name, {})(E, classes)
        assert len(found) in (3, 4), name


def test_what_cannot_be_trained_is_told():
    with pytest.raises(TrainingError, match="near ones: ArcFaceLoss"):
        loss_by_name("arcfase", {}, classes=2, dimensions=2)
    with pytest.raises(TrainingError, match="no miner 'hard-batch'"):
        miner_by_name("hard-batch", {})
    with pytest.raises(TrainingError, match=r"TripletMarginLoss cannot be made .* takes margin"):
        loss_by_name("triplet", {"width": 3}, classes=2, dimensions=2)
    with pytest.raises(TrainingError, match="two or more classes"):
        train(colours(1), "nowhere", SETTINGS)
    with pytest.raises(TrainingError, match="a class of each; came 0"):
        Pictures((), ())
    for wrong, message in (
        ({"batch_size": 5, "per_class": 3}, "at least two classes of 3"),
        ({"epochs": 0}, "epochs is a whole number from 1; came 0"),
        ({"learning_rate": float("nan")}, "learning_rate is a number from 0; came nan"),
        ({"warmup": 2.0}, "warmup is a share"),
        ({"augment": "cut"}, "augment is one of none, flip, crop"),
    ):
        with pytest.raises(TrainingError, match=message):
            Settings(**wrong)
    with pytest.raises(TrainingError, match="plain numbers, words and lists"):
        Settings(loss_options={"distance": nn.Identity()}).to_json()
    with pytest.raises(ModelError, match="a trunk is default"):
        Settings(trunk="resnet50").architecture()
    with pytest.raises(ModelError, match=r"small does not take images of 1×1|another size"):
        folders.build(replace(Settings(trunk="timm:vit_tiny_patch16_224"), size=64).architecture(),
                      pretrained=False)  # fmt: skip


def test_a_loss_that_runs_away_is_stopped(tmp_path):
    settings = replace(SETTINGS, loss="contrastive", miner=None, learning_rate=1e30, warmup=0.0)
    with pytest.raises(TrainingError, match=r"the loss of step \d+ is nan; take a smaller"):
        trained(tmp_path / "model", settings)
    with pytest.raises(TrainingError, match="VICRegLoss raised"):
        trained(tmp_path / "other", replace(SETTINGS, loss="vicreg", miner=None))


def test_the_learning_rate_rises_and_falls():
    rates = [rising_and_falling(step, 100, 0.25) for step in range(100)]
    assert max(rates) == rates[25] == 1
    assert (np.diff(rates[:26]) > 0).all()
    assert (np.diff(rates[25:]) < 0).all()
    assert 0 < rates[0] < 0.01
    assert 0 < rates[-1] < 0.01
    assert rising_and_falling(0, 10, 0.0) == 1


def test_classes_are_held_out_by_name():
    seen, unseen = colours(4).hold_out(0.5)
    assert (seen.classes, unseen.classes) == (("0-0", "0-1"), ("0-2", "0-3"))
    assert len(seen) + len(unseen) == 24
    with pytest.raises(TrainingError, match=r"1 to 2 can be held out; a share of 0\.9 is 4"):
        colours(4).hold_out(0.9)


@dataclass(frozen=True)
class Bird:
    path: str
    label: int
    box_xyxy: tuple[float, ...] = ()


def test_whatever_has_a_path_and_a_label_can_be_trained_on():
    found = Pictures.of(Bird(f"{i}.jpg", i % 2) for i in range(4))
    assert found.sources == ("0.jpg", "1.jpg", "2.jpg", "3.jpg")
    assert found.labels == ("0", "1", "0", "1")
    assert found.numbers.tolist() == [0, 1, 0, 1]
    other = Pictures.of(Bird(f"{i}.jpg", 0) for i in range(4))
    assert found.fingerprint != other.fingerprint
    with pytest.raises(TrainingError, match=r"1\.jpg has no class \(1 of 2 have none\)"):
        Pictures.of([Bird("0.jpg", 1), Bird("1.jpg", None)])


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Four folders of pictures of one colour, and a table of them."""
    monkeypatch.chdir(tmp_path)
    pictures = colours()
    rows = []
    for index, (pixels, label) in enumerate(zip(pictures.sources, pictures.labels, strict=True)):
        path = tmp_path / "photos" / label / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        rows.append((f"photos/{label}/{index}.png", label))
    with open("table.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return tmp_path


ARGUMENTS = ("--trunk", "small", "--no-pretrained", "--size", "16", "--embedding", "6", "--epochs",
             "2", "--batch-size", "8", "--per-class", "4", "--learning-rate", "0.01")  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(cli, arguments, catch_exceptions=True)


def test_the_command_trains_and_its_folder_explains(photographs):
    loss = ("--loss", "triplet", "--loss-option", "margin", "0.2", "--miner", "triplet-margin")
    done = invoke("train", "photos", "-o", "model", *ARGUMENTS, *loss, "--tensorboard")
    assert done.exit_code == 0, done.output
    assert "epoch 2: loss " in done.stdout
    assert "R@1" in done.stdout
    assert "wrote model, for --model model" in done.stdout
    assert list((photographs / "model" / "tensorboard").iterdir())
    config = json.loads((photographs / "model" / "config.json").read_text())
    assert config["training"]["settings"]["loss_options"] == {"margin": 0.2}
    assert config["training"]["data"]["unseen"]["classes"] == 2
    images = sorted(map(str, (photographs / "photos").glob("*/*.png")))
    explained = invoke("explain", images[0], images[1], "--model", "model", "--plain", "--json")
    assert explained.exit_code == 0, explained.output
    assert "Sequential.trunk → mean → Linear(96→6)" in json.loads(explained.stdout)["model"]
    again = invoke("train", "photos", "-o", "model", *ARGUMENTS, *loss, "--json")
    report = json.loads(again.stdout)
    assert (report["began"], report["steps"], len(report["epochs"])) == (2, 2, 2)


def test_the_command_takes_tables_and_pictures_of_other_classes(photographs):
    done = invoke("train", "table.csv", "-o", "model", "--unseen", "photos", *ARGUMENTS, "--amp",
                  "--embedding", "0", "--augment", "none", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["epochs"][-1]["map_at_r"] > 0
    done = invoke("train", "table.csv", "-o", "other", "--hold-out", "0", *ARGUMENTS, "--json")
    assert json.loads(done.stdout)["epochs"][-1]["map_at_r"] is None


def test_bad_input_is_one_line(photographs):
    Image.new("RGB", (9, 9)).save("alone.png")
    bad = photographs / "bad"
    shutil.copytree("photos", bad)
    next(bad.glob("*/*.png")).write_bytes(b"no picture")
    bad_ones = (
        (("nothing",), "there is no such file"),
        (("alone.png",), "alone.png has no class (1 of 1 have none)"),
        (("photos", "--unseen", "photos", "--hold-out", "0.5"), "leave one out"),
        (("bad", *ARGUMENTS, "--hold-out", "0"), ".png: not an image"),
        (("photos", "--device", "cuda:99", *ARGUMENTS), "on device 'cuda:99'"),
        (("digits", "--hold-out", "0.5"), "digits has classes of its own"),
        (("photos", "--loss", "no-such"), "has no loss 'no-such'"),
        (("photos", "--trunk", "resnet"), "a trunk is default, small or timm:NAME"),
        (("photos", "--batch-size", "6"), "at least two classes of 5 images"),
    )
    for number, (arguments, message) in enumerate(bad_ones):
        done = invoke("train", *arguments, "-o", f"model{number}")
        assert done.exit_code != 0
        error = done.exception
        said = str(error) if isinstance(error, WhyalikeError) else done.output
        assert message in said, (arguments, said)


@pytest.mark.slow
@pytest.mark.parametrize(
    "trunk",
    ["timm:resnet10t", "timm:vit_tiny_patch16_224", "timm:convnext_atto", "timm:vgg11", "default",
     "timm:mobilenetv3_small_050", "timm:swin_tiny_patch4_window7_224", "timm:efficientnet_b0"],
)  # fmt: skip
def test_trunks_of_many_kinds(trunk, tmp_path):
    """One step each, and the folder explains."""
    settings = replace(SETTINGS, trunk=trunk, size=None, batch_size=4, epochs=1)
    train(colours(2, 2), tmp_path / "model", settings)
    model = wa.load(str(tmp_path / "model"))
    assert "→ max → Linear(" in repr(model)
    pair = wa.explain_pair(model, colours().sources[0], colours().sources[1])
    assert sum(pair.terms) == pytest.approx(pair.similarity, abs=1e-4)


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_to_the_same_weights(photographs):
    longer = (*ARGUMENTS, "--epochs", "40")
    trainings.killed_and_gone_on_with(photographs, "photos", "--hold-out", "0", *longer)
