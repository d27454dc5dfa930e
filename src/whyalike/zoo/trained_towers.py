"""Two networks for two views that `whyalike train --pairs` makes, and the folder that keeps them.

As of one network (`whyalike.zoo.trained`), the folder holds `config.json` and `model.safetensors`,
neither of which has code in it. `FOLDER#ground` and `FOLDER#aerial` name the towers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from whyalike.errors import ModelError, in_one_line
from whyalike.files import Name
from whyalike.images import printable
from whyalike.preprocess import Preprocess
from whyalike.zoo import trained
from whyalike.zoo.published.crossview import TOWERS, Tower, preprocess, vgg16
from whyalike.zoo.trained import CONFIG, MAX_EMBEDDING, TOWERS_FORMAT

SMALL_WIDTHS = (48, 64, 96)


@dataclass(frozen=True)
class Form:
    """Two trunks of one form without a weight in common, and one linear layer behind both.

    Args:
        trunk: "small", three convolutions by which 8×8 pixels become a cell; "default",
            "timm:NAME"; or "vgg16", the one of CVM-Net and of the paper.
        embedding: how many numbers the linear layer gives.
        ground, aerial: from a photograph of each view to its network's input.

    Raises:
        ModelError: from the constructor, for anything else.
    """

    trunk: str
    embedding: int
    ground: Preprocess
    aerial: Preprocess

    def __post_init__(self) -> None:
        if isinstance(self.embedding, bool) or not isinstance(self.embedding, int):
            raise ModelError(
                f"an embedding of two towers is 1 to {MAX_EMBEDDING:,} numbers long; came "
                f"{printable(str(self.embedding))}"
            )
        for view in (self.ground, self.aerial):  # which checks the words and the sizes
            trunk = "small" if self.trunk == "vgg16" else self.trunk  # which has a name there, too
            trained.Architecture(trunk, "mean", self.embedding, view)

    def to_config(self) -> dict[str, Any]:
        """As plain words and numbers."""
        return asdict(self)

    @classmethod
    def from_config(cls, found: Mapping[str, Any]) -> Form:
        """What `to_config` made.

        Raises:
            ModelError: anything else.
        """
        try:
            views = [trained.preprocess_of(found[view]) for view in TOWERS]
            return cls(found["trunk"], found["embedding"], *views)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"no two towers are described there ({in_one_line(error)})") from error


class TwoTowers(nn.Module):
    """Both networks: `ground` and `aerial`, trunks of their own, and `fc1`, which they share.

    GAP lies between them (Hu et al., "CVM-Net", CVPR 2018, with the paper's pooling). It is not run
    itself: `tower` gives the network of each view.
    """

    def __init__(self, ground: nn.Module, aerial: nn.Module, fc1: nn.Linear) -> None:
        super().__init__()
        self.ground = ground
        self.aerial = aerial
        self.fc1 = fc1

    def tower(self, name: str) -> Tower:
        """The network of one view, "ground" or "aerial", in this one's mode."""
        return Tower(self.get_submodule(name), self.fc1).train(self.training)


def own_preprocess(trunk: str, tower: str) -> Preprocess:
    """How the trunk's own weights want photographs; of "vgg16", as in the paper."""
    return preprocess(tower) if trunk == "vgg16" else trained.own_preprocess(trunk)


def build(form: Form, *, pretrained: bool) -> TwoTowers:
    """Two towers of a form, in training mode.

    Args:
        form: of what they are made.
        pretrained: whether the trunks begin with weights that were made elsewhere; not "vgg16".

    Raises:
        ModelError: there is no such trunk, or its output is no map for images of these sizes.
    """
    (ground, channels), (aerial, _) = (
        _trunk(form.trunk, view, pretrained) for view in (form.ground, form.aerial)
    )
    return TwoTowers(ground, aerial, nn.Linear(channels, form.embedding))


def _trunk(name: str, view: Preprocess, pretrained: bool) -> tuple[nn.Module, int]:
    """A trunk and how many channels its map has."""
    if name == "vgg16":
        return vgg16(), 512
    if name == "small":
        return _small(), SMALL_WIDTHS[-1]
    one = trained.build(trained.Architecture(name, "mean", 1, view), pretrained=pretrained)
    return one.get_submodule("trunk"), int(one.get_submodule("embedding").in_features)  # type: ignore[arg-type]


def _small() -> nn.Sequential:
    """Patches of 4×4 pixels and two convolutions of 3×3, each with BatchNorm and ReLU."""
    steps: list[nn.Module] = []
    before = 3
    for width, (kernel, stride, padding) in zip(
        SMALL_WIDTHS, ((4, 4, 0), (3, 2, 1), (3, 1, 1)), strict=True
    ):
        steps += [
            nn.Conv2d(before, width, kernel, stride, padding, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        before = width
    return nn.Sequential(*steps)


def save(folder: Name, net: TwoTowers, form: Form, training: Mapping[str, Any]) -> None:
    """Write two towers as a folder that `whyalike.zoo.load_two` takes; files whole or not at all.

    Args:
        folder: that is there already.
        net: what `build` made.
        form: its form.
        training: how it was trained and what came out, in plain words and numbers.
    """
    trained.write_folder(folder, net, TOWERS_FORMAT, form.to_config(), training)


def towers(spec: str | None) -> tuple[str, str] | None:
    """The specs for query and reference that a folder stands for, if it keeps two towers."""
    if spec is None or not trained.is_folder(spec) or not _keeps_towers(spec):
        return None
    ground, aerial = (f"{spec}#{tower}" for tower in TOWERS)
    return ground, aerial


def is_tower(spec: str) -> bool:
    """Whether a spec is a folder with the name of a tower behind it."""
    folder, _, tower = spec.rpartition("#")
    return tower in TOWERS and bool(folder) and trained.is_folder(folder)


def read(spec: str) -> tuple[nn.Module, Preprocess]:
    """The tower that FOLDER#ground or FOLDER#aerial names, and its preprocessing.

    Raises:
        ModelError: the folder keeps no towers, or says what no network is.
        CheckpointError: its weights are damaged, or those of another network.
    """
    name, _, tower = spec.rpartition("#")
    folder, command = Path(name).expanduser(), "whyalike train --pairs"
    form = trained.read_config(folder, TOWERS_FORMAT, command, Form.from_config)
    net = trained.read_weights(folder, command, lambda: build(form, pretrained=False))
    return net.tower(tower), getattr(form, tower)


def _keeps_towers(spec: str) -> bool:
    try:
        return trained.read_json(Path(spec).expanduser() / CONFIG).get("format") == TOWERS_FORMAT
    except ModelError:
        return False  # whoever reads it says why
