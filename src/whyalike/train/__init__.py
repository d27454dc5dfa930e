"""Training of embedding models, with the losses and miners of pytorch-metric-learning.

from whyalike.train import Pictures, Settings, train

seen, unseen = Pictures.of_files("photos/").hold_out(0.5)
train(seen, "model", Settings(trunk="timm:resnet50"), unseen=unseen)
model = whyalike.load("model")
"""

from whyalike.train.loop import Epoch, Progress, Report
from whyalike.train.pictures import Pictures, Sample
from whyalike.train.settings import DIGITS, Settings
from whyalike.train.training import train
from whyalike.train.watching import saving_pairs, watching

__all__ = [
    "DIGITS", "Epoch", "Pictures", "Progress", "Report", "Sample", "Settings", "saving_pairs",
    "train", "watching",
]  # fmt: skip
