"""Vision networks of Hugging Face's transformers, by a name on its hub or a folder.

What a stranger put there is data: no code of it is run, and settings that would fetch or start
something else are refused or left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PreTrainedConfig
from transformers.utils import logging

from whyalike.errors import CheckpointError, ModelError, in_one_line
from whyalike.preprocess import Preprocess
from whyalike.zoo import image_processor

# Models of images and texts, and the class of their vision towers with all that makes an image's
# embedding: what `get_image_features` gives.
TOWERS = {
    "clip": "CLIPVisionModelWithProjection",
    "metaclip_2": "MetaClip2VisionModelWithProjection",
    "siglip": "SiglipVisionModel",
}
PROJECTED = {
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "metaclip_2_vision_model": "MetaClip2VisionModelWithProjection",
}
"""Such towers alone, where their folder says that the projection is in it."""

CHOICES = ("projection", "pooler", "cls", "mean")
REFUSED = {
    "auto_map": "code of its own, which is not run",
    "quantization_config": "quantised weights",
}
# How to run it is ours to say; a name of an attention kernel may be one to fetch and start.
OURS = (
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("return_dict", "output_hidden_states", "output_attentions", "torchscript", "dtype"),
    *("torch_dtype", "use_kernels", "experts_implementation"),
)
MOST_LAYERS = 1000
MOST_WEIGHTS = 8_000_000_000


class TransformersNetwork(nn.Module):
    """A vision network of transformers, from images (N, 3, H, W) to one embedding (N, d).

    Args:
        model: it gives `last_hidden_state`, and perhaps `pooler_output` or `image_embeds`.
        choice: which embedding: "projection" is `image_embeds`, "pooler" `pooler_output`, "cls" the
            first token of `last_hidden_state`, and "mean" the mean of its cells: patch tokens
            without class and register tokens, or a map's cells.
    """

    def __init__(self, model: nn.Module, choice: str) -> None:
        super().__init__()
        self.model = model
        self.choice = choice
        self.num_prefix_tokens = prefix_tokens(model)
        """Class and register tokens, which stand before the patches."""

    def forward(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n d"]:
        """The embeddings."""
        return self.embedding(self.model(pixel_values=images))

    def embedding(self, output: Any) -> Float[Tensor, "n d"]:
        """The chosen embedding among a model's outputs."""
        if self.choice == "projection":
            return output.image_embeds
        if self.choice == "pooler":
            return output.pooler_output.flatten(1)
        hidden = output.last_hidden_state
        if self.choice == "cls":
            return hidden[:, 0]
        if hidden.dim() == 4:
            return hidden.mean((2, 3))
        return hidden[:, self.num_prefix_tokens :].mean(1)

    def extra_repr(self) -> str:
        return self.choice


def create(
    name: str, pretrained: bool = True, given: Preprocess | None = None
) -> tuple[nn.Module, Preprocess]:
    """A vision network of transformers with one embedding, and its preprocessing.

    Of CLIP, MetaCLIP 2 and SigLIP this is the vision tower. Without a choice, the embedding is

    1. the one that is compared with texts, where the network has it (CLIP: `image_embeds`);
    2. `pooler_output`: the class token behind the last norm (DINOv2 and DINOv3), attention pooling
       (SigLIP), the mean of cells (Swin, ConvNeXt, ResNet, BEiT). But not where the pooler is a
       linear layer and a tanh behind the class token (ViT, DeiT): that was made for one training
       task, and is missing, and so random, in most checkpoints;
    3. the class token of `last_hidden_state`;
    4. the mean of its cells.

    Args:
        name: on the hub, "facebook/dinov2-small", or a folder that `save_pretrained` made; with
            "#projection", "#pooler", "#cls" or "#mean" behind it, that embedding.
        pretrained: whether to read its weights; otherwise they are random.
        given: the user's preprocess, in the place of the folder's own.

    Raises:
        ModelError: no such network, no vision network, one that needs code of its own, or that
            prepares images in another way than a Preprocess can.
        CheckpointError: its weights cannot be read safely, or some are missing.
    """
    source, choice = _parse(name)
    with _hushed():
        kind, config = _configure(source)
        preprocess = image_processor.preprocess(source) if given is None else given
        model, missing = _build(source, kind, config, pretrained)
        net = TransformersNetwork(model.eval(), "").eval()
        net.choice = _choose(source, net, preprocess, choice)
    unused = "pooler." if net.choice in ("cls", "mean") else "\0"
    lacking = sorted(k for k in missing if not k.startswith(unused) and "mask_token" not in k)
    if lacking:
        raise CheckpointError(
            f"{source}: lacks {len(lacking)} of the network's weights, such as {lacking[0]}; name "
            f"another embedding or another network, or say that random weights are meant"
        )
    return net, preprocess


def prefix_tokens(model: nn.Module) -> int:
    """How many tokens stand before those of the patches: class, distillation and registers."""
    for module in model.modules():
        single = [getattr(module, n, None) for n in ("cls_token", "class_embedding")]
        if any(isinstance(token, Tensor) for token in single):
            more = [getattr(module, n, None) for n in ("distillation_token", "register_tokens")]
            return 1 + sum(token.shape[1] for token in more if isinstance(token, Tensor))
    return 0


def _parse(name: str) -> tuple[str, str | None]:
    """The folder or name on the hub, and the embedding; a folder may have a # in its own name."""
    source, hash_, choice = name, "", ""
    if not os.path.isdir(name):
        source, hash_, choice = name.rpartition("#") if "#" in name else (name, "", "")
    if hash_ and choice not in CHOICES:
        listed = ", ".join(f"#{each}" for each in CHOICES)
        raise ModelError(f"an embedding of transformers is one of {listed}; came #{choice}")
    if os.path.isdir(source):
        if os.path.exists(os.path.join(source, "adapter_config.json")):
            raise ModelError(f"{source}: holds an adapter; merge it into its network and save that")
    elif not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source):
        raise ModelError(
            f"transformers:NAME is a folder or a name on the hub such as facebook/dinov2-small; "
            f"there is no folder {source!r}"
        )
    return source, choice or None


def _configure(source: str) -> tuple[type[Any], PreTrainedConfig]:
    """The class of a network and its settings, read as plain data and looked over."""
    try:
        settings, _ = PreTrainedConfig.get_config_dict(source)
        settings = dict(settings)
    except Exception as error:  # a hub that is out of reach raises whatever its client raises
        raise ModelError(
            f"transformers cannot find {source!r}: {in_one_line(error).rstrip('.')}; without a "
            f"network, name a folder that save_pretrained made"
        ) from error
    for key, what in REFUSED.items():
        if settings.get(key):
            raise ModelError(f"{source}: holds {what} ({key}); wrap the network in a module")
    model_type = settings.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"{source}: transformers {transformers.__version__} knows no networks of type "
            f"{model_type!r}"
        )
    if model_type == "timm_wrapper":
        raise ModelError(f"{source}: is a network of timm; name it timm:NAME")
    try:
        _check_settings(settings)
        config = CONFIG_MAPPING[model_type].from_dict(_without_ours(settings))
        kind, config = _tower(settings, config)
        config._attn_implementation = "sdpa" if kind._supports_sdpa else "eager"
        with torch.device("meta"):  # nothing is allocated
            weights = sum(p.numel() for p in kind(config).parameters())
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    except Exception as error:
        raise ModelError(
            f"{source}: its config.json makes no network: {in_one_line(error)}"
        ) from error
    if weights > MOST_WEIGHTS:
        raise ModelError(f"{source}: has {weights:,} weights; at most {MOST_WEIGHTS:,} are taken")
    return kind, config


def _tower(settings: dict[str, Any], config: Any) -> tuple[type[Any], Any]:
    """The class that gives an image's embedding, and its own settings."""
    model_type = settings["model_type"]
    architectures = settings.get("architectures") or []
    if model_type in TOWERS:
        vision = config.vision_config
        if hasattr(config, "projection_dim"):
            vision.projection_dim = config.projection_dim
        return getattr(transformers, TOWERS[model_type]), vision
    if PROJECTED.get(model_type) in architectures:
        return getattr(transformers, PROJECTED[model_type]), config
    kind = MODEL_MAPPING.get(type(config), None)
    if isinstance(kind, tuple) or kind is None:
        raise ModelError(f"transformers has no one network of type {model_type!r}")
    if kind.main_input_name != "pixel_values" or hasattr(config, "text_config"):
        raise ModelError(
            f"networks of type {model_type!r} take more than images; vision networks are taken, "
            f"and the vision towers of {', '.join(TOWERS)}"
        )
    return kind, config


def _check_settings(settings: dict[str, Any]) -> None:
    """Refuse numbers of layers that would run for ever."""
    for key, value in settings.items():
        if isinstance(value, dict):
            _check_settings(value)
        elif re.search("layer|depth|stage|block", key):
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int) and number > MOST_LAYERS:
                    raise ModelError(f"{key} is at most {MOST_LAYERS}; came {number}")


def _without_ours(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_ours(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in OURS
    }


def _build(
    source: str, kind: type[Any], config: Any, pretrained: bool
) -> tuple[nn.Module, list[str]]:
    """The network in float32, and the names of weights that were not found."""
    if not pretrained:
        return kind(config).float(), []
    # Otherwise the hub may be asked to convert files of others.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    try:
        model, found = kind.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            attn_implementation=config._attn_implementation,
            trust_remote_code=False,
            weights_only=True,  # of a torch file, where there is no safetensors file
            output_loading_info=True,
        )
    except Exception as error:
        raise CheckpointError(
            f"{source}: its weights cannot be read: {in_one_line(error).rstrip('.')}; save them as "
            f"safetensors by save_pretrained"
        ) from error
    return model, list(found["missing_keys"])


def _choose(
    source: str, net: TransformersNetwork, preprocess: Preprocess, choice: str | None
) -> str:
    """The embedding that is meant, among those that the network has."""
    try:
        with torch.no_grad():
            output = net.model(pixel_values=torch.zeros(1, 3, *preprocess.size_hw))
    except Exception as error:
        raise ModelError(f"{source}: running the network raised {in_one_line(error)}") from error
    hidden = output.get("last_hidden_state")
    tokens = net.num_prefix_tokens
    there = {
        "projection": output.get("image_embeds") is not None,
        "pooler": output.get("pooler_output") is not None,
        "cls": hidden is not None and hidden.dim() == 3 and tokens > 0,
        "mean": hidden is not None and hidden.dim() in (3, 4),
    }
    has = [each for each in CHOICES if there[each]]
    if not has:
        raise ModelError(f"{source}: gives no embedding: no pooler_output, no last_hidden_state")
    if choice is None:
        dense = hasattr(getattr(net.model, "pooler", None), "dense")
        return next(each for each in has if not (each == "pooler" and dense))
    if choice not in has:
        listed = ", ".join(f"#{each}" for each in has)
        raise ModelError(f"{source}: has no embedding #{choice}; it has {listed}")
    return choice


@contextmanager
def _hushed() -> Iterator[None]:
    """Within it, transformers reports nothing and draws no bars: what matters is raised."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
