"""A training that is over in a moment, and what a process of its own does with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import torch

import whyalike as wa
from whyalike.train import Pictures, Report, Settings, checkpoints, train
from whyalike.zoo.trained import CONFIG, WEIGHTS

SETTINGS = Settings(
    trunk="small", pretrained=False, pool="max", embedding=6, size=16, loss="proxy-anchor",
    miner="distance-weighted", batch_size=6, per_class=2, epochs=3, learning_rate=1e-2,
    augment="crop",
)  # fmt: skip


def colours(classes: int = 4, each: int = 6, start: int = 0) -> Pictures:
    """Pictures of one colour a class, with noise."""
    random = np.random.default_rng(start)
    colour = random.integers(0, 256, (classes, 3))
    sources, labels = [], []
    for index in range(classes * each):
        noisy = colour[index % classes] + random.normal(0, 20, (20, 24, 3))
        sources.append(noisy.clip(0, 255).astype(np.uint8))
        labels.append(f"{start}-{index % classes}")
    return Pictures(tuple(sources), tuple(labels))


def trained(folder: Any, settings: Settings = SETTINGS, **options: Any) -> Report:
    """A state after every fifth step and every epoch of four."""
    return train(colours(), folder, settings, unseen=colours(3, 4, 9), workers=2,
                 checkpoint_steps=5, **options)  # fmt: skip


def run(folder: str, before: str, done: Event) -> None:
    """Train in a process, which `before` may kill."""
    torch.set_num_threads(1)
    exec(before, {"wa": wa})
    trained(folder)
    done.set()


def killed_and_gone_on_with(where: Path, *arguments: str) -> None:
    """`whyalike train` with SIGKILL after its first states, and again, against an undisturbed run.

    Args:
        where: a folder to work in.
        arguments: of the command, of a training of some seconds.
    """
    command = [sys.executable, "-m", "whyalike", "train", *arguments, "--json"]
    plain = {"cwd": where, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "text": True}
    subprocess.run([*command, "-o", "whole"], check=True, capture_output=True, **plain)
    state, until = where / "model" / checkpoints.NAME, time.monotonic() + 300
    with subprocess.Popen([*command, "-o", "model"], stdout=subprocess.DEVNULL, **plain) as process:
        try:
            while not state.exists():
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    again = subprocess.run([*command, "-o", "model"], check=True, stdout=subprocess.PIPE, **plain)
    report = json.loads(again.stdout)
    assert 0 < report["began"] < report["steps"]
    for name in (WEIGHTS, CONFIG):
        assert (where / "model" / name).read_bytes() == (where / "whole" / name).read_bytes()


KILL_AT_STEP = """
import os, whyalike.train.loop as target
original = target.Run.advance
def patched(self, *arguments):
    if self.step == {at}:
        os.kill(os.getpid(), 9)
    return original(self, *arguments)
target.Run.advance = patched
"""
KILL_AT_REPLACE = """
import os
count, original = 0, os.replace
def patched(*arguments):
    global count
    count += 1
    if count == {at}:
        os.kill(os.getpid(), 9)
    return original(*arguments)
os.replace = patched
"""
KILL_IN_WRITING = """
import os, whyalike.files
count, original = 0, os.fsync
def patched(*arguments):
    global count
    count += 1
    if count == {at}:
        os.kill(os.getpid(), 9)
    return original(*arguments)
os.fsync = patched
"""
