"""A study of coloured squares, of which all is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import whyalike as wa
from galleries import HEADS
from whyalike.apps.study.answers import Answer, Rater
from whyalike.apps.study.build import build
from whyalike.apps.study.comparisons import Comparison
from whyalike.apps.study.questionnaire import Questionnaire


def model() -> wa.EmbeddingModel:
    """For the command line, as `--model studies:model`."""
    return HEADS["mean"]()


def square(*rgb: int, size: tuple[int, int] = (60, 45)) -> Image.Image:
    return Image.new("RGB", size, rgb)


def comparisons(count: int, methods: tuple[str, str] = ("ours", "theirs")) -> list[Comparison]:
    """The first method's pictures are red, the second's are blue."""
    return [
        Comparison(
            *methods,
            (),
            (
                [(square(200, 10 * at, tint), f"red {tint}") for tint in (0, 40)],
                [(square(tint, 10 * at, 200), f"blue {tint}") for tint in (0, 40)],
            ),
            {"query": f"{at}.jpg", "reference": f"{at}b.jpg"},
        )
        for at in range(count)
    ]  # fmt: skip


def small_study(folder: Path, count: int = 4, **options: Any) -> Questionnaire:
    return build(
        comparisons(count), folder, kind="explanations", title="Two robots, tested", **options
    )


def rater(
    made: Questionnaire, name: str, preferences: Sequence[int], slot: int = 0, **checks: int
) -> Rater:
    """A rater with known preferences, by question, who passes checks that are not given."""
    wanted = {one.id: value for one, value in zip(made.comparisons, preferences, strict=True)}
    answers = {}
    for placed in made.plan(slot):
        question = placed.question.id
        if placed.expected is not None:
            value = checks.get(question, placed.expected)
        else:
            # Known by hand: 1 speaks for the left, so for the first method if that is left.
            value = wanted[question] if placed.first_left else 6 - wanted[question]
        answers[question] = Answer(value, 5.0)
    return Rater(name, slot, answers, "test")
