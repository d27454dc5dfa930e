"""Networks of timm, each with its own preprocessing."""

from __future__ import annotations

import difflib
from fnmatch import fnmatch

import timm
from timm.data.config import resolve_model_data_config
from timm.models import is_model_pretrained, list_models
from torch import nn

from whyalike.errors import ModelError, in_one_line
from whyalike.preprocess import Preprocess

# timm's modules whose networks are known to be explained: convolutional ones, and transformers.
CONVOLUTIONAL = (
    *("byobnet", "convmixer", "convnext", "cspnet", "densenet", "dla", "dpn", "edgenext"),
    *("efficientnet", "fasternet", "fastvit", "focalnet", "ghostnet", "hardcorenas", "hgnet"),
    *("hrnet", "inception_next", "inception_resnet_v2", "inception_v3", "inception_v4"),
    *("mobilenetv3", "nasnet", "nfnet", "pnasnet", "rdnet", "regnet", "repghost", "repvit"),
    *("res2net", "resnest", "resnet", "resnetv2", "rexnet", "selecsls", "senet", "sknet"),
    *("starnet", "tresnet", "vgg", "vovnet", "xception", "xception_aligned"),
)
TRANSFORMERS = (
    *("beit", "deit", "eva", "maxxvit", "swin_transformer", "swin_transformer_v2"),
    "vision_transformer",
)


def names(pattern: str = "*") -> list[str]:
    """Names of timm's networks that match a pattern such as "resnet*"."""
    every = {name for module in CONVOLUTIONAL + TRANSFORMERS for name in list_models(module=module)}
    return sorted(name for name in every if fnmatch(name, pattern))


def has_weights(name: str) -> bool:
    """Whether timm can download weights for a network."""
    return bool(is_model_pretrained(name))


def create(name: str, pretrained: bool = True) -> tuple[nn.Module, Preprocess]:
    """A network of timm that returns its pooled features, and its preprocessing."""
    if name.partition(".")[0] not in list_models():
        near = difflib.get_close_matches(name, list_models(), n=4, cutoff=0.5)
        hint = f"near ones: {', '.join(near)}" if near else "`whyalike models` lists them"
        raise ModelError(f"timm {timm.__version__} has no network {name!r}; {hint}")
    try:
        net = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # a hub that is out of reach raises whatever its client raises
        reason = in_one_line(error).rstrip(".")
        raise ModelError(
            f"timm cannot make {name!r}"
            + (" with its weights" if pretrained else "")
            + f": {reason}"
            + ("; without a network, give a checkpoint or pretrained=False" if pretrained else "")
        ) from error
    return net, preprocess(net)


def preprocess(net: nn.Module) -> Preprocess:
    """What timm's own evaluation transform does to a photograph."""
    config = resolve_model_data_config(net)
    mode = config["crop_mode"]
    if mode not in ("center", "squash"):
        raise ModelError(
            f"timm prepares images for this network by crop mode {mode!r}, which whyalike does not "
            f"have; give a preprocess of your own"
        )
    if config["crop_pct"] > 1:
        raise ModelError(
            f"timm pads images for this network (crop_pct {config['crop_pct']}), which whyalike "
            f"does not; give a preprocess of your own"
        )
    interpolation = config["interpolation"]
    return Preprocess(
        size=tuple(config["input_size"][1:]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bilinear" if interpolation == "random" else interpolation,
        fit="crop" if mode == "center" else "stretch",
        crop_fraction=config["crop_pct"],
    )
