"""Other libraries' networks in, and results out to other programs."""

from __future__ import annotations

import base64
import csv
import io
import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_metric_learning.utils.inference import InferenceModel
from torch import nn

import whyalike as wa
from galleries import HEADS, PREPROCESS, photographs, picture, trunk
from trainings import SETTINGS, trained
from whyalike import draw
from whyalike.errors import ModelError, OutputFileError, TrainingError
from whyalike.geometry import Frame
from whyalike.integrations.fiftyone import export_pairs, heatmap
from whyalike.integrations.tensorboard import add_pair
from whyalike.train import saving_pairs, watching
from whyalike.zoo.from_metric_learning import from_extractor, from_trunk


@pytest.fixture(scope="module")
def pair() -> wa.Pair:
    return wa.explain_pair(HEADS["mean"](), picture(1), picture(2, (40, 60)))


# ── pytorch-metric-learning ──────────────────────────────────────────────────────────────────


class Pooled(nn.Module):
    """A trunk as its users make them: a network whose last layer is taken away."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = trunk()
        self.fc = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.body(images).mean((2, 3)))


def inference_model(net: nn.Module, head: nn.Module | None = None) -> InferenceModel:
    # Its default search needs faiss, and nothing here searches.
    return InferenceModel(net, head, knn_func=lambda *_: None, data_device="cpu")


def embedder() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5))


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_inference_model_gives_the_cosine_that_it_computes(wrapped: bool) -> None:
    net: nn.Module = nn.DataParallel(Pooled()) if wrapped else Pooled()
    inference = inference_model(net, embedder())
    model = from_trunk(inference, preprocess=PREPROCESS)
    found = wa.explain_pair(model, picture(1), picture(2))
    tensors = torch.stack([PREPROCESS(picture(seed))[0] for seed in (1, 2)])
    a, b = inference.get_embeddings(tensors)
    assert found.similarity == pytest.approx(float(a @ b), abs=1e-6)
    assert sum(found.terms) == pytest.approx(found.similarity, abs=1e-6)
    assert found.query.frame.grid_hw == (3, 5)
    assert "mean" in repr(model)  # the pooling is recognised through the wrapper


def test_a_trunk_and_an_embedder_in_one_call() -> None:
    net, head = Pooled().eval(), embedder().eval()
    model = from_trunk(net, head, layer="body.0", preprocess=PREPROCESS)
    assert model.layer == "trunk.body.0"
    image = PREPROCESS(picture(1))[0][None]
    assert torch.allclose(model(image), head(net(image)))
    alone = from_trunk(net, preprocess=PREPROCESS)
    assert torch.allclose(alone(image), net(image))


def test_what_is_no_trunk_is_refused() -> None:
    with pytest.raises(ModelError, match="came int"):
        from_trunk(5)
    with pytest.raises(ModelError, match="leave the other one out"):
        from_trunk(inference_model(Pooled()), embedder())
    with pytest.raises(ModelError, match="training mode"):
        from_trunk(Pooled().eval(), embedder().train(), preprocess=PREPROCESS)


# ── open-metric-learning ─────────────────────────────────────────────────────────────────────


class Extractor(nn.Module):
    """As its `IExtractor`: `extract` is `forward`, which may divide by the length."""

    def __init__(self, normalise_features: bool) -> None:
        super().__init__()
        self.model = Pooled()
        self.normalise_features = normalise_features

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.model(images)
        return nn.functional.normalize(features, dim=1) if self.normalise_features else features

    def extract(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward(images)


@pytest.mark.parametrize("normalise", [False, True])
def test_an_extractor_gives_the_cosine_of_what_it_extracts(normalise: bool) -> None:
    extractor = Extractor(normalise).eval()
    model = from_extractor(extractor, layer="model.body", preprocess=PREPROCESS)
    found = wa.explain_pair(model, picture(1), picture(2))
    a, b = (extractor.extract(PREPROCESS(picture(seed))[0][None])[0] for seed in (1, 2))
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=0)
    assert found.similarity == pytest.approx(float(cosine.detach()), abs=1e-6)
    # The length is a gate of the head, so it divides every cell alike and no map changes.
    plain = from_extractor(Extractor(False).eval(), layer="model.body", preprocess=PREPROCESS)
    other = wa.explain_pair(plain, picture(1), picture(2))
    assert torch.allclose(found.overall_map("query"), other.overall_map("query"), atol=1e-6)
    for wrong in (Pooled(), "vits16_dino"):
        with pytest.raises(ModelError, match="method `extract`"):
            from_extractor(wrong)  # type: ignore[arg-type]


# ── FiftyOne ─────────────────────────────────────────────────────────────────────────────────


def read(text: str) -> np.ndarray:
    """As FiftyOne reads the array of a label: base64 of a compressed .npy."""
    return np.load(io.BytesIO(zlib.decompress(base64.b64decode(text))), allow_pickle=False)


def test_heat_maps_of_fiftyone_are_signed_and_lie_on_the_photograph(
    pair: wa.Pair, tmp_path: Path
) -> None:
    count = export_pairs([(pair, tmp_path / "a.png", "b.png")], tmp_path / "fo", field="why")
    assert count == 2
    samples = json.loads((tmp_path / "fo" / "samples.json").read_text())["samples"]
    assert json.loads((tmp_path / "fo" / "metadata.json").read_text())["media_type"] == "image"
    assert [one["side"] for one in samples] == ["query", "reference"]
    assert [one["tags"] for one in samples] == [["pair-1"], ["pair-1"]]
    assert samples[0]["filepath"] == str(tmp_path / "a.png")
    for sample, x in zip(samples, (pair.query, pair.reference), strict=True):
        label = sample["why"]
        assert label["_cls"] == "Heatmap"
        values = read(label["map"])
        assert values.dtype == np.float32
        assert values.shape == x.frame.size_wh[::-1]
        expected = draw.on_photograph(pair.overall_map(sample["side"]), x.frame, x.frame.size_wh)
        assert np.array_equal(values, expected)
        assert label["range"] == [-np.abs(values).max(), np.abs(values).max()]
        assert sample["similarity"] == pair.similarity
    export_pairs([], tmp_path / "fo")  # again, in its place
    assert json.loads((tmp_path / "fo" / "samples.json").read_text())["samples"] == []


def test_what_the_network_did_not_see_is_zero_and_sizes_are_bounded(pair: wa.Pair) -> None:
    frame = Frame((2000, 1000), (500, 0, 1500, 1000), (3, 5))
    of = replace(pair.query, frame=frame, source=pair.query.values)
    label = heatmap(torch.ones(3, 5), of)
    values = read(label["map"])
    assert values.shape == (128, 256)
    assert (values[:, :64] == 0).all()
    assert (values[:, 64:192] == 1).all()
    assert heatmap(torch.zeros(3, 5), of)["range"] == [-1, 1]
    for name in ("", "a b", "_id", "filepath", "$x"):
        with pytest.raises(OutputFileError, match="plain name"):
            export_pairs([], "nowhere", field=name)


# ── TensorBoard ──────────────────────────────────────────────────────────────────────────────


def test_a_pair_in_tensorboard(pair: wa.Pair, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        add_pair(writer, "squares", pair, 7, points=[(5, 5)])
    events = EventAccumulator(str(tmp_path)).Reload()
    (scalar,) = events.Scalars("squares/similarity")
    assert (scalar.step, scalar.value) == (7, pytest.approx(pair.similarity))
    (image,) = events.Images("squares")
    assert image.step == 7
    shown = Image.open(io.BytesIO(image.encoded_image_string))
    assert shown.size[0] > 800
    assert np.asarray(shown.convert("L")).std() > 20  # something is on it


# ── While training ───────────────────────────────────────────────────────────────────────────


def test_a_training_that_is_watched_is_the_same_training(tmp_path: Path) -> None:
    paths = photographs(tmp_path / "photos", 2)
    seen: list[tuple[str, float, int]] = []
    watch = saving_pairs(
        [(paths[0], paths[1])], tmp_path / "watched", ending=".npz",
        also=lambda name, pair, number: seen.append((name, pair.similarity, number)),
    )  # fmt: skip
    settings = replace(SETTINGS, epochs=2)
    trained(tmp_path / "watched-model", settings, watch=watch)
    trained(tmp_path / "model", settings)
    weights = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("watched-model", "model")
    ]
    assert weights[0] == weights[1]
    files = sorted(path.name for path in (tmp_path / "watched" / "pair-1").iterdir())
    assert files == ["epoch-0001.npz", "epoch-0002.npz"]
    with (tmp_path / "watched" / "similarities.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["pair"], float(row["similarity"]), int(row["epoch"])) for row in rows] == seen
    for row in rows:
        terms = [
            float(row[name]) for name in ("pairs", "query_bias", "reference_bias", "bias_bias")
        ]
        assert sum(terms) == pytest.approx(float(row["similarity"]), abs=1e-5)
    last = wa.explain_pair(wa.load(str(tmp_path / "model")), paths[0], paths[1])
    assert float(rows[-1]["similarity"]) == pytest.approx(last.similarity, abs=1e-6)
    watch(wa.load(str(tmp_path / "model")), 2)  # gone on with: the same number once
    assert len((tmp_path / "watched" / "similarities.csv").read_text().splitlines()) == 3


def test_modes_and_random_numbers_come_back() -> None:
    net = nn.Sequential(Pooled(), embedder()).train()
    net[0].eval()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with watching(net) as quiet:
        assert not any(module.training for module in quiet.modules())
        torch.rand(5)
    assert torch.equal(torch.rand(2), expected)
    assert net.training
    assert net[1].training
    assert not any(module.training for module in net[0].modules())


def test_nothing_to_watch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="give a pair"):
        saving_pairs([], tmp_path)
    (tmp_path / "file").touch()
    pairs: list[Any] = [("a.jpg", "b.jpg")]
    with pytest.raises(OutputFileError, match="cannot be made"):
        saving_pairs(pairs, tmp_path / "file")
