"""How much memory does explaining take, beside embedding, and does the generic path keep within it?

Each measurement is a process of its own, `python -m benchmarks.memory TASK`, that prints the peak
of its resident memory.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import networks, pair
from benchmarks.tables import Table
from whyalike import EmbeddingModel
from whyalike.decomposition import CHUNK_BYTES, from_head

ROUNDS = 3
MIB = 2**20
CHUNKS_MIB = [8, 64, 512]
CHANNELS, SIDE = 128, 37  # of the map that the generic path is given: 0.7 MiB, 1369 cells

ABOUT = f"""\
Peak resident memory of a process of its own, imports included; medians of {ROUNDS}. The pair:
ResNet-50 with a linear head to 512 at {networks.SIZE} px, as above; "more" is beside the process
that only builds the network, and explaining includes the run on noise that every model starts with.
The generic path: contributions of all cells of a {CHANNELS}×{SIDE}×{SIDE} map through a mean and
a linear layer as if nothing were known of them; the tangents of all cells at once would be
{SIDE**4 * CHANNELS * 4 / MIB:.0f} MiB, and `chunk_bytes` bounds what all tensors of a pass take
together ({CHUNK_BYTES // MIB} MiB unless told otherwise), measured as passes run, without what
kernels take for themselves; "more" is beside chunks of a single cell."""


def run() -> Table:
    """Measure every task, the rounds interleaved."""
    pair_tasks = {
        "building ResNet-50": "network",
        "embedding the pair": "embed",
        "explaining the pair": "explain",
    }
    chunk_tasks = {"any head, one cell at a time": "chunk:0"} | {
        f"any head, chunks of {size} MiB": f"chunk:{size}" for size in CHUNKS_MIB
    }
    tasks = [*pair_tasks.values(), *chunk_tasks.values()]
    peaks = {task: float(np.median(p)) for task, p in _peaks(tasks).items()}
    rows = []
    for names, base in ((pair_tasks, "network"), (chunk_tasks, "chunk:0")):
        for name, task in names.items():
            more = f"{peaks[task] - peaks[base]:+.0f}" if task != base else ""
            rows.append([name, f"{peaks[task]:.0f}", more])
    return Table("Memory", ABOUT, ["process", "peak, MiB", "more, MiB"], rows)


def _peaks(tasks: list[str]) -> dict[str, list[float]]:
    root = Path(__file__).parents[1]
    peaks: dict[str, list[float]] = {task: [] for task in tasks}
    for _ in range(ROUNDS):
        for task in tasks:
            command = [sys.executable, "-m", "benchmarks.memory", task]
            done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
            peaks[task].append(float(done.stdout))
    return peaks


def do(task: str) -> None:
    """One task, in its own process."""
    if task.startswith("chunk:"):
        through_any_head(int(task.removeprefix("chunk:")) * MIB)
        return
    net, images = networks.resnet50(), networks.two_images()
    if task == "embed":
        E = pair.embed(net, images)
        assert E.shape == (2, 512)
    elif task == "explain":
        explained = pair.explain(EmbeddingModel.from_module(net), images)
        pair.check(explained, pair.embed(net, images))


def through_any_head(chunk_bytes: int) -> None:
    """The generic path on a map of many cells, held to what its head returns."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CHANNELS))
    A = torch.randn(1, CHANNELS, SIDE, SIDE).relu()
    found = from_head(head.eval(), A, chunk_bytes)
    with torch.no_grad():
        assert torch.allclose(found.v.sum(1) + found.b, head(A), rtol=1e-4, atol=1e-5)


def peak_mib() -> float:
    """The largest resident memory that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():  # the kernel's other number begins with the parent's
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


if __name__ == "__main__":
    do(sys.argv[1])
    print(peak_mib())
