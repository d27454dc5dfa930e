"""Networks that `whyalike train` makes: their form, and the folder that keeps one.

The folder holds `config.json`, which says in words that a person can read how the network is built,
and `model.safetensors`, its weights. Neither has code in it, and of what a stranger wrote only this
is believed: names and numbers, after they were checked.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, get_args

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from whyalike.errors import CheckpointError, ModelError, in_one_line
from whyalike.files import Name, check_input, write_whole
from whyalike.images import printable
from whyalike.pooling import Kind
from whyalike.preprocess import Preprocess
from whyalike.zoo import default, from_timm
from whyalike.zoo.checkpoints import fit, read_checkpoint

CONFIG, WEIGHTS = "config.json", "model.safetensors"
LAYER = "trunk"
"""Where such a network is cut: behind its last feature map."""
FORMAT, TOWERS_FORMAT = "whyalike.trained", "whyalike.towers"
"""What a config says, and that of a folder with two networks (`whyalike.zoo.trained_towers`)."""
SMALL_WIDTHS = (24, 48, 48, 96, 96)
MAX_EMBEDDING = 65_536
MAX_SIDE = 4096
MAX_CONFIG_BYTES = 16 << 20

Described = TypeVar("Described")
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Architecture:
    """A trunk, a pooling and an embedding layer.

    Args:
        trunk: "default" (EfficientNet-Lite0), "timm:NAME", or "small": five convolutions for small
            pictures, which see nothing until they are trained.
        pool: "mean" (GAP), "max" (GMP), "gem" (its exponent is learned) or "flatten".
        embedding: how many numbers the linear layer behind the pooling gives; None for no layer.
        preprocess: from a photograph to the network's input.

    Raises:
        ModelError: from the constructor, for anything else.
    """

    trunk: str = "default"
    pool: Kind = "mean"
    embedding: int | None = 512
    preprocess: Preprocess = Preprocess()  # noqa: RUF009, as it is frozen

    def __post_init__(self) -> None:
        known = self.trunk in ("default", "small") or str(self.trunk).startswith("timm:")
        if not isinstance(self.trunk, str) or not known:
            raise ModelError(
                f"a trunk is default, small or timm:NAME; came {printable(str(self.trunk))}"
            )
        if self.pool not in get_args(Kind):
            raise ModelError(
                f"pool is one of {', '.join(get_args(Kind))}; came {printable(str(self.pool))}"
            )
        size = self.embedding
        whole = isinstance(size, int) and not isinstance(size, bool)
        if size is not None and not (whole and 1 <= size <= MAX_EMBEDDING):
            raise ModelError(
                f"an embedding is 1 to {MAX_EMBEDDING:,} numbers long, or none for no layer; came "
                f"{printable(str(size))}"
            )
        if max(self.preprocess.size_hw) > MAX_SIDE:
            raise ModelError(
                f"an input is at most {MAX_SIDE:,} pixels a side; came {self.preprocess.size}"
            )

    def to_config(self) -> dict[str, Any]:
        """As plain words and numbers."""
        return asdict(self)

    @classmethod
    def from_config(cls, found: Mapping[str, Any]) -> Architecture:
        """What `to_config` made.

        Raises:
            ModelError: anything else.
        """
        try:
            preprocess = preprocess_of(found["preprocess"])
            return cls(found["trunk"], found["pool"], found["embedding"], preprocess)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"no network is described there ({in_one_line(error)})") from error


class FeatureMap(nn.Module):
    """The last feature map of a network of timm, channels first; of tokens, their grid."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        net: Any = self.net
        A: Tensor = net.forward_features(images)
        if A.dim() == 3:  # prefix tokens (class, registers) are of no place
            return A[:, net.num_prefix_tokens :].mT.unflatten(2, net.patch_embed.grid_size)
        return A.permute(0, 3, 1, 2) if getattr(net, "output_fmt", "") == "NHWC" else A


class Gem(nn.Module):
    """Generalized-mean pooling (Radenović et al., 2018) with an exponent that is learned."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))
        self.eps = eps

    def forward(self, A: Tensor) -> Tensor:
        return A.clamp(min=self.eps).pow(self.p).mean((2, 3)).pow(1 / self.p)


def own_preprocess(trunk: str) -> Preprocess:
    """How the trunk's own weights want photographs; of "small", any size will do."""
    if trunk.startswith("timm:"):
        return _of_timm(trunk, pretrained=False)[1]
    if trunk == "default":
        return default.efficientnet_lite0(pretrained=False)[1]
    return Preprocess(size=64, mean=(128 / 255,) * 3, std=(0.25,) * 3)  # the digits' grey is 0


def build(architecture: Architecture, *, pretrained: bool) -> nn.Sequential:
    """A network of that form, in training mode: `trunk`, `pool`, `flatten`, `embedding`.

    Args:
        architecture: its form.
        pretrained: whether the trunk begins with weights that were made elsewhere, timm's or the
            default network's; the rest is random.

    Raises:
        ModelError: there is no such trunk, or its output is no map for images of this size.
    """
    net = _trunk(architecture.trunk, pretrained)
    channels, height, width = _map_size(net, architecture)
    parts: OrderedDict[str, nn.Module] = OrderedDict(trunk=net)
    if architecture.pool == "gem":
        parts["pool"] = Gem()
    elif architecture.pool in ("mean", "max"):
        mean = architecture.pool == "mean"
        parts["pool"] = nn.AdaptiveAvgPool2d(1) if mean else nn.AdaptiveMaxPool2d(1)
    if architecture.pool != "gem":
        parts["flatten"] = nn.Flatten()
    if architecture.embedding is not None:
        pooled = channels * (height * width if architecture.pool == "flatten" else 1)
        parts["embedding"] = nn.Linear(pooled, architecture.embedding)
    return nn.Sequential(parts)


def save(
    folder: Name, net: nn.Module, architecture: Architecture, training: Mapping[str, Any]
) -> None:
    """Write a network as a folder that `whyalike.load` takes; each file whole or not at all.

    Args:
        folder: that is there already.
        net: what `build` made.
        architecture: its form.
        training: how it was trained and what came out, in plain words and numbers.
    """
    write_folder(folder, net, FORMAT, architecture.to_config(), training)


def write_folder(
    folder: Name,
    net: nn.Module,
    form: str,
    described: Mapping[str, Any],
    training: Mapping[str, Any],
) -> None:
    """The same for a network of any form, which `described` tells."""
    config = {"format": form, "version": 1, **described, "training": dict(training)}
    text = json.dumps(config, indent=2, allow_nan=False)
    state = {k: v.detach().cpu().contiguous().clone() for k, v in net.state_dict().items()}
    content = {CONFIG: text.encode(), WEIGHTS: to_safetensors(state)}

    def write(path: Path, file: BinaryIO) -> None:
        file.write(content[path.name])

    write_whole([Path(folder) / name for name in (WEIGHTS, CONFIG)], write)


def is_folder(spec: str) -> bool:
    """Whether a spec is the path of a folder, which only a trained network's can be."""
    return os.path.isdir(os.path.expanduser(spec))


def read(folder: Name) -> tuple[nn.Module, Preprocess]:
    """The network that a folder keeps, and its preprocessing; no code is run.

    Raises:
        ModelError: the folder keeps none, or says what no network is.
        CheckpointError: its weights are damaged, or those of another network.
    """
    folder = Path(folder).expanduser()
    if read_json(folder / CONFIG).get("format") == TOWERS_FORMAT:
        raise ModelError(
            f"{folder / CONFIG}: two networks, one for each view: load FOLDER#ground and "
            f"FOLDER#aerial, or name the folder alone on the command line"
        )
    architecture = read_config(folder, FORMAT, "whyalike train", Architecture.from_config)
    net = read_weights(folder, "whyalike train", lambda: build(architecture, pretrained=False))
    return net, architecture.preprocess


def read_config(
    folder: Path, form: str, command: str, described: Callable[[Mapping[str, Any]], Described]
) -> Described:
    """What a folder says of its network.

    Args:
        folder: of which nothing is believed yet.
        form: that its config has to be of.
        command: that writes such folders.
        described: checks what is said.

    Raises:
        ModelError: it is of another form or version, or says what no network is.
    """
    found = read_json(folder / CONFIG)
    try:
        if found.get("format") != form:
            raise ModelError(f"no config of {command}")
        if found.get("version") != 1:
            raise ModelError("made by a later version of whyalike; upgrade it")
        return described(found)
    except ModelError as error:
        raise ModelError(f"{folder / CONFIG}: {error}") from error


def read_weights(folder: Path, command: str, make: Callable[[], Network]) -> Network:
    """A network with the weights that a folder keeps.

    Raises:
        CheckpointError: they are damaged, or those of another network.
    """
    weights = folder / WEIGHTS
    check_input(weights, CheckpointError, f"{command} writes it")
    state = read_checkpoint(weights)
    with torch.device("meta"):  # what a config asks for takes no memory until weights fit it
        wanted = make().state_dict()
    state = fit(state, wanted, weights)
    net = make()
    net.load_state_dict(state, strict=False)
    return net


def preprocess_of(found: Mapping[str, Any]) -> Preprocess:
    """A preprocess in plain words and numbers as what it is.

    Raises:
        TypeError, ValueError: it is something else.
    """
    kept, names = dict(found), {field.name for field in fields(Preprocess)}
    if set(kept) != names:
        raise ValueError(f"a preprocess has {', '.join(sorted(names))}")
    return Preprocess(**kept)


def read_json(path: Path) -> dict[str, Any]:
    """What a stranger's config says, of whatever format it is.

    Raises:
        ModelError: it is not there, too large, or no JSON.
    """
    check_input(path, ModelError, f"a trained model is a folder with {CONFIG} and {WEIGHTS}")
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ModelError(f"{path}: more than {MAX_CONFIG_BYTES:,} bytes")
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({in_one_line(error)})") from error
    return found if isinstance(found, dict) else {}


def _trunk(name: str, pretrained: bool) -> nn.Module:
    if name == "small":
        return _small()
    if name == "default":
        return FeatureMap(default.efficientnet_lite0(pretrained)[0])
    net, _ = _of_timm(name, pretrained)
    if not hasattr(net, "forward_features"):
        raise ModelError(f"{name} has no forward_features, which a trunk is made of; take another")
    return FeatureMap(net)


def _of_timm(name: str, pretrained: bool) -> tuple[nn.Module, Preprocess]:
    return from_timm.create(name.removeprefix("timm:"), pretrained)


def _small() -> nn.Sequential:
    """Convolutions with BatchNorm and ReLU, by which a picture of 64² becomes a map of 8²."""
    steps: list[nn.Module] = []
    before = 3
    for index, width in enumerate(SMALL_WIDTHS):
        stride = 2 if index in (0, 1, 3) else 1
        steps += [
            nn.Conv2d(before, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        before = width
    return nn.Sequential(*steps)


def _map_size(net: nn.Module, architecture: Architecture) -> tuple[int, int, int]:
    """Channels, rows and columns of the trunk's map for images of the architecture's size."""
    first = next(net.parameters())
    image = torch.zeros(1, 3, *architecture.preprocess.size_hw, device=first.device)
    modes = [(module, module.training) for module in net.modules()]
    try:
        with torch.no_grad():
            A = net.eval()(image)
    except Exception as error:
        size = "×".join(map(str, architecture.preprocess.size_hw))
        raise ModelError(
            f"{architecture.trunk} does not take images of {size} ({in_one_line(error)}); give "
            f"another size, or another trunk"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    if A.dim() != 4:
        raise ModelError(f"{architecture.trunk} gives no feature map (N, C, h, w); take another")
    return int(A.shape[1]), int(A.shape[2]), int(A.shape[3])
