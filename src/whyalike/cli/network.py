"""The network that --model and its kin name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from whyalike.errors import CheckpointError
from whyalike.files import check_input

if TYPE_CHECKING:
    from whyalike.model import EmbeddingModel


@dataclass(frozen=True)
class Network:
    """What --model, --layer, --checkpoint, --pretrained, --device and --reference-model say."""

    spec: str | None
    layer: str | None
    checkpoint: str | None
    pretrained: bool
    device: str | None
    reference: str | None = None

    def checked_files(self) -> list[str]:
        """The files it is read from, which no output may overwrite; an error, if they cannot be."""
        if self.checkpoint is None:
            return []
        check_input(
            self.checkpoint,
            CheckpointError,
            "a checkpoint is a safetensors or torch file; `whyalike import-checkpoint` makes one "
            "of TensorFlow's",
        )
        return [self.checkpoint]

    @property
    def how_loaded(self) -> dict[str, Any]:
        """What a gallery keeps of it."""
        return {
            "spec": self.spec,
            "layer": self.layer,
            "checkpoint": self.checkpoint,
            "pretrained": self.pretrained,
        }

    def load(self) -> EmbeddingModel:
        return self.load_two()[0]

    def load_two(self) -> tuple[EmbeddingModel, EmbeddingModel]:
        """The query's network and the reference's, which are mostly one."""
        named = [] if self.checkpoint is not None else [self.spec]
        timm = any((each or "").startswith("timm:") for each in [*named, self.reference])
        # Of transformers' networks, the settings are on the hub as well.
        if (self.pretrained and timm) or any(
            (each or "").startswith("transformers:") for each in (self.spec, self.reference)
        ):
            hush_hub()
        from whyalike.zoo import load_two

        if "" not in sys.path and "." not in sys.path:
            sys.path.insert(0, "")  # `mymodels:make` may lie in the folder that one is in
        return load_two(
            self.spec,
            self.reference,
            layer=self.layer,
            checkpoint=self.checkpoint,
            pretrained=self.pretrained,
            device=self.device,
        )


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a command, which takes them as `network`."""

    @wraps(command)
    def gathered(
        *args: Any,
        model: str | None,
        layer: str | None,
        checkpoint: str | None,
        pretrained: bool,
        device: str | None,
        reference_model: str | None = None,
        **rest: Any,
    ) -> Any:
        network = Network(model, layer, checkpoint, pretrained, device, reference_model)
        return command(*args, network=network, **rest)

    for option in (
        click.option("--device", help="Where to run, such as cuda or cpu."),
        click.option(
            "--pretrained/--no-pretrained",
            default=True,
            help="Read the weights of timm and transformers, or start from random ones.",
        ),
        click.option(
            "--checkpoint", metavar="FILE", help="Weights for the model: safetensors or torch."
        ),
        click.option(
            "--layer",
            metavar="NAME",
            help="Cut at this layer; default: the last map, or, for tokens, `auto`: the deepest "
            "layer whose cells carry 80 %.",
        ),
        click.option(
            "--model",
            metavar="SPEC",
            help="timm:NAME, transformers:NAME, published:NAME, onnx:FILE, pt2:FILE, "
            "package.module:factory or a folder of `whyalike train`; default: EfficientNet-Lite0.",
        ),
    ):
        gathered = option(gathered)
    return gathered


def two_network_options(seen: str) -> Callable[..., Any]:
    """Options of a command of two networks, which takes them as `network`.

    Args:
        seen: what the second one looks at.
    """

    def of(command: Callable[..., Any]) -> Callable[..., Any]:
        second = click.option(
            "--reference-model",
            metavar="SPEC",
            help=f"The network for {seen}, where --model does not name two; of one embedding space "
            "with it. --layer and --checkpoint are of the first one.",
        )
        return network_options(second(command))

    return of


def hush_hub() -> None:
    """Let the hub's client not talk in our place, nor try for a minute where there is no network.

    It reads its settings when it is imported, and has none for retries. Where its name is not
    known, it is told that it is offline; behind a proxy the name may be known to that alone. What
    the user has set stays.
    """
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if "HF_HUB_OFFLINE" in os.environ or getproxies():
        return
    host = urlsplit(os.environ.get("HF_ENDPOINT", "//huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"
