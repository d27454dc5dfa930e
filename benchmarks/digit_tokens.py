"""A small vision transformer that was trained to tell handwritten digits on clutter apart."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from torch import nn

import whyalike as wa
from benchmarks.digits import EMBEDDING, PREPROCESS, SIZE, tensors
from benchmarks.trained import trained
from whyalike.data.synthetic import digit_scenes

WIDTH, DEPTH, HEADS = 64, 6, 4
BATCH, STEPS, POOL = 64, 1100, 6000
RATE = 1e-3


def network() -> VisionTransformer:
    """Three convolutions to 8×8 tokens of 64, a class token, six blocks; linear.

    The convolutions stand for the patches, as in Xiao et al., "Early Convolutions Help Transformers
    See Better", NeurIPS 2021.
    """
    stem = ConvStem(channels=(WIDTH // 4, WIDTH // 2, WIDTH), stride=(2, 2, 2), kernel_size=3)
    net = VisionTransformer(
        img_size=SIZE,
        patch_size=1,
        embed_layer=partial(HybridEmbed, backbone=stem, proj=False),
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=2,
        num_classes=EMBEDDING,
    )
    # timm's start of .02 is meant for ten times the width; with it, nothing is learned here.
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    for parameter in (net.cls_token, net.pos_embed):
        nn.init.normal_(parameter, std=0.2)
    return net


def model() -> wa.EmbeddingModel:
    """The trained network, cut where that is best by itself; the first call trains it."""
    torch.manual_seed(0)
    net = trained("digit-tokens-1", network(), train)
    return wa.EmbeddingModel.from_module(net, None, PREPROCESS)


def train(net: nn.Module) -> None:
    """Softmax over cosines to ten directions (Zhai and Wu, BMVC 2019), clutter fading in.

    The MultiSimilarity loss, and whole clutter from the start, leave such a network where it is for
    as long as was tried: all of its embeddings stay alike.
    """
    from pytorch_metric_learning.losses import NormalizedSoftmaxLoss

    scenes = digit_scenes(POOL, seed=1, size=SIZE, split="train")
    images, labels = tensors(scenes), torch.tensor([scene.labels[0] for scene in scenes])
    masks = torch.from_numpy(np.stack([scene.masks[0] for scene in scenes]))
    loss_of = NormalizedSoftmaxLoss(10, EMBEDDING, temperature=0.1)
    parameters = [*net.parameters(), *loss_of.parameters()]
    optimiser = torch.optim.AdamW(parameters, RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, RATE, total_steps=STEPS, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        chosen = torch.randint(len(images), (BATCH,), generator=generator)
        digit = F.max_pool2d(masks[chosen, None].float(), 3, 1, padding=1)
        clutter = min(1.0, max(0.0, (step / STEPS - 0.15) / 0.4))
        shown = images[chosen] * (digit + clutter * (1 - digit))
        loss = loss_of(net(shown), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
