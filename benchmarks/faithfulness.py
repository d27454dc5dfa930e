"""Do maps lie on what two images share, and do the scores hang on them?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

import whyalike as wa
from benchmarks import birds, digit_tokens, digits, methods, second_networks
from benchmarks.pairs import Method, Pairs, PointMethod, Scores, evaluate
from benchmarks.tables import Table, UnavailableError
from whyalike import baselines

Row = tuple[str, Method, PointMethod | None]

OURS: list[Row] = [
    ("last layer", methods.decomposition, methods.decomposition_of_point),
    ("sharp (γ 0.1, 2 × finer, affinity 2)", *methods.sharp()),
    ("sharp, each cell its own", *methods.sharp(affinity=0.0)),
    ("sharp, 4 × finer, own 0.1", *methods.sharp(finer=4, own=0.1)),
    ("sharp, γ 0.25", *methods.sharp(0.25)),
    ("change, E − E(grey)", methods.change, None),
]
BASELINES: list[Row] = [
    ("Grad-CAM", baselines.grad_cam, None),
    ("Grad-CAM without the norms", baselines.grad_cam_no_norm, None),
    ("Grad-CAM++", baselines.grad_cam_plus_plus, None),
    ("LayerCAM", baselines.layer_cam, None),
    ("gradient × input", baselines.gradient_times_input, None),
]
NOTHING: list[Row] = [
    ("nothing: random", methods.random_map, None),
    ("nothing: a blob in the middle", methods.centre_blob, None),
    ("nothing: a box in the middle", methods.centre_box, None),
]
TOKENS: list[Row] = [
    ("tokens as they come in, where it is cut by itself", methods.decomposition, None),
    ("the same, affinity 2, own ¼", methods.shared_at_cut, None),
    ("sharp (γ 0.1, 2 × finer, affinity 2)", methods.sharp()[0], None),
    ("sharp, own ¼ (as drawn)", methods.sharp(own=0.25)[0], None),
    ("sharp, each cell its own", methods.sharp(affinity=0.0)[0], None),
    ("sharp, 4 × finer, own 0.1", methods.sharp(finer=4, own=0.1)[0], None),
    ("change, E − E(grey)", methods.change, None),
    ("Grad-CAM", baselines.grad_cam, None),
    ("rectified Grad-CAM (Taylor)", baselines.rectified_grad_cam, None),
    ("LayerCAM", baselines.layer_cam, None),
    ("gradient × input", baselines.gradient_times_input, None),
    ("attention rollout", methods.attention_rollout, None),
    (f"integrated gradients, {methods.IG_STEPS} steps, captum", methods.integrated_gradients, None),
    ("occlusion, captum", methods.occlusion, None),
]
NETWORKS: list[tuple[str, Callable[[], wa.EmbeddingModel]]] = [
    ("EfficientNet-Lite0, the default network, 224 px", wa.load),
    ("MobileNetV2, 224 px", second_networks.mobilenet_v2),
    ("ResNet-10 distilled from the default network, 128 px", second_networks.distilled_resnet),
]
# Hundreds of passes through the network: on digits alone.
SLOW = ("ScoreCAM", "occlusion", "SBSM", "integrated")


def run(full: bool = False) -> list[Table]:
    """The digits, and the birds where they are.

    Args:
        full: all pairs and networks, which takes some hours; otherwise a few minutes.
    """
    tables = [on_digits(full), on_digit_tokens(full)]
    for network, make in NETWORKS if full else NETWORKS[:1]:
        try:
            tables.append(on_birds(make(), network, full))
        except UnavailableError as error:
            print(f"faithfulness, birds, {network}: skipped: {error}", flush=True)
    return tables


def rows() -> list[Row]:
    """Every method, those that know nothing first."""
    others: list[Row] = [(name, method, None) for name, method in methods.of_packages()]
    return [*NOTHING, *OURS, *BASELINES, *others]


def on_digits(full: bool = False) -> Table:
    """Handwritten digits on clutter."""
    model = digits.model()
    pairs = digits.pairs(model, 120 if full else 40)
    about = f"""\
{len(pairs)} pairs of scenes of 64 px, each a handwritten digit (scikit-learn's) on clutter, whose
boxes are known, and a network of six convolutions, a mean and a linear layer, trained here with the
MultiSimilarity loss: of unseen scenes, {100 * pairs.recall:.1f} % have a scene of their class
nearest. Each query with its nearest, which is held fixed. {MEASURES} {PERTURBED}"""
    return _of_digits("Maps of digits", about, model, pairs, rows())


def on_digit_tokens(full: bool = False) -> Table:
    """The same scenes, and a vision transformer."""
    model = digit_tokens.model()
    pairs = digits.pairs(model, 120 if full else 40)
    about = f"""\
{len(pairs)} pairs of the same scenes, and a vision transformer trained here: three convolutions to
8×8 tokens, six blocks, of whose class token the embedding is made: of unseen scenes,
{100 * pairs.recall:.1f} % have a scene of their class nearest. {MEASURES} {PERTURBED}"""
    return _of_digits("Maps of digits, a transformer", about, model, pairs, [*NOTHING, *TOKENS])


def _of_digits(
    title: str, about: str, model: wa.EmbeddingModel, pairs: Pairs, methods: Sequence[Row]
) -> Table:
    columns = {"ms": "ms", "passes": "/ embedding", "pointing": "pointing", "box": "IoU ≥ 0.5",
               "v2": "V2", "deletion": "deletion ↓", "insertion": "insertion ↑"}  # fmt: skip
    scored = [evaluate(model, pairs, f, specificity=False) for _, f, _ in methods]
    lines = [
        [name, *_cells(s.summary(), columns)] for (name, *_), s in zip(methods, scored, strict=True)
    ]
    return Table(title, about, ["map", *columns.values()], lines)


PERTURBED = """\
Deletion and insertion: the area under the cosine, where that is above zero, as the pixels of the
largest values are replaced by the grey of the background, or put on it, in 16 steps."""
MEASURES = """\
Maps are brought to the image's size (bilinear), and what is below zero counts as nothing. Pointing:
the largest value lies in the box. IoU ≥ 0.5: share of queries where the box around the largest part
above a threshold, a share of the map's largest value, overlaps the true one so far. V2:
MaxBoxAccV2, the mean over IoU 0.3, 0.5 and 0.7. Costs are medians, and beside one embedding of the
query in the same turn."""


def on_birds(model: wa.EmbeddingModel, network: str, full: bool = False) -> Table:
    """Photographs of birds.

    Args:
        network: its name, for the title.
    """
    pairs = birds.pairs(model, 24 if full else 3)
    columns = {"ms": "ms", "passes": "/ embedding", "pointing": "pointing", "box": "IoU ≥ 0.5",
               "v2": "V2", "two_references": "two references", "point_corner": "point/corner",
               "gap": "gap"}  # fmt: skip
    about = f"""\
{len(pairs)} photographs of 20 species, each with the nearest one of its species ({network}, of
whose embeddings {100 * pairs.recall:.1f} % have one of their species nearest). Thresholds are
chosen on the first ten species and everything is reported on the last ten
({(~pairs.choose).sum()} pairs). {MEASURES} Two references: the correlation of a query's maps for
its nearest and for a bird of another species; point/corner: that of the reference's maps for the
middle of the bird and for the query's far corner; both are low for a map that depends on what it is
asked. Gap: the largest distance of the map's sum, and what it says lies elsewhere, from the
cosine."""
    lines = []
    for name, method, point_method in rows():
        if name.startswith(SLOW):
            continue
        scores = evaluate(model, pairs, method, point_method, deletion=False)
        lines.append([name, *_cells(reported(scores, pairs), columns)])
    return Table(f"Maps of birds, {network}", about, ["map", *columns.values()], lines)


def reported(scores: Scores, pairs: Pairs) -> dict[str, float]:
    """What is reported: on the second half of the classes, with thresholds of the first."""
    return scores.take(~pairs.choose).summary(scores.take(pairs.choose))


def _cells(summary: dict[str, float], columns: Sequence[str] | dict[str, str]) -> list[str]:
    return [_cell(name, summary[name]) for name in columns]


def _cell(name: str, value: float) -> str:
    if np.isnan(value):
        return ""
    if name == "gap":
        return f"{value:.0e}"
    return f"{value:.3g}" if name in ("ms", "passes") else f"{value:.3f}"
