"""Writing a study: its key, its pictures, a page for each rater, and what Mechanical Turk takes."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from whyalike.apps.study import pages
from whyalike.apps.study.comparisons import Comparison
from whyalike.apps.study.questionnaire import (
    CONSENT,
    INSTRUCTIONS,
    NAME,
    PICTURES,
    Kind,
    Question,
    Questionnaire,
    Shown,
)
from whyalike.errors import OutputFileError, StudyError
from whyalike.files import write_whole

QUALITY = 85
PAGES = "pages"
TURK = "turk"


def build(
    comparisons: Iterable[Comparison],
    folder: str | Path,
    *,
    kind: Kind,
    title: str = "Two robots compared",
    consent: Sequence[str] = CONSENT,
    instructions: Sequence[str] | None = None,
    checks: int = 2,
    raters: int = 10,
    seed: int = 0,
    image_base: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Questionnaire:
    """Write a study into a folder of its own.

    `study.json` is the key: it says which robot is which, and stays with who asks. `pages/` has a
    self-contained page for each rater. With `image_base`, `turk/` has a form and a batch, one row
    for each rater, whose pictures are fetched from there: the files of `pictures/`, put on the web.

    Args:
        comparisons: what is compared.
        folder: new or empty.
        kind: what the comparisons are.
        title: over the pages.
        consent, instructions: paragraphs of plain text; usual ones by default.
        checks: questions that only tell whether a rater reads ("choose this") and looks (the same
            on both sides), in turn.
        raters: for how many; an even number keeps sides in balance.
        seed: of order and sides.
        image_base: the address below which the pictures will be for Mechanical Turk.
        settings: what the comparisons were made with, for the report.

    Raises:
        StudyError: nothing to compare, or numbers with which nothing can be asked.
        OutputFileError: the folder holds other things, or cannot be written.
    """
    if checks < 0:
        raise StudyError(f"there are 0 or more checks; came {checks}")
    if image_base is not None:
        pages.check_base(image_base)
    place, is_new = Path(folder), not Path(folder).exists()
    try:
        place.mkdir(parents=True, exist_ok=True)
        if any(place.iterdir()):
            raise OutputFileError(f"{place}: is not empty; give a folder of its own")
        for name in (PICTURES, PAGES, *([TURK] if image_base else [])):
            (place / name).mkdir()
    except OSError as error:
        raise OutputFileError(f"{place}: cannot be made a folder: {error.strerror}") from error
    try:
        questions = [
            _question(place / PICTURES, f"q{number:02}", one)
            for number, one in enumerate(comparisons, 1)
        ]
        if not questions:
            raise StudyError("nothing to compare: every pair was left out, or none was given")
        made = Questionnaire(
            kind=kind,
            title=title,
            questions=(*questions, *_checks(questions, checks, seed)),
            consent=tuple(consent),
            instructions=tuple(INSTRUCTIONS[kind] if instructions is None else instructions),
            raters=raters,
            seed=seed,
            settings=dict(settings or {}),
        )
        _write_all(place, made, image_base)
    except BaseException as error:
        for name in (PICTURES, PAGES, TURK):  # the folder was empty: all of it is ours
            shutil.rmtree(place / name, ignore_errors=True)
        (place / NAME).unlink(missing_ok=True)
        if is_new:
            place.rmdir()
        if isinstance(error, OSError):
            raise OutputFileError(f"{place}: cannot be written: {error.strerror}") from error
        raise
    return made


def _write_all(place: Path, made: Questionnaire, image_base: str | None) -> None:
    """The key last and whole: without it a folder is no study."""
    src = pages.as_data(place / PICTURES, made)
    for slot in range(made.raters):
        page = pages.for_file(made, slot, src)
        (place / PAGES / pages.name(slot, made.raters)).write_text(page, encoding="utf-8")
    if image_base is not None:
        form, batch = pages.turk(made, image_base)
        (place / TURK / "form.html").write_text(form, encoding="utf-8")
        (place / TURK / "batch.csv").write_text(batch, encoding="utf-8", newline="")
    write_whole([place / NAME], lambda _, file: _write(file, made.text()))


def _question(folder: Path, name: str, one: Comparison) -> Question:
    first, second = (tuple(_kept(folder, *shown) for shown in side) for side in one.options)
    shared = tuple(_kept(folder, *shown) for shown in one.shared)
    return Question(name, one.first, one.second, shared, (first, second), dict(one.about))


def _kept(folder: Path, picture: Image.Image, says: str) -> Shown:
    """A picture, under a name that is its content's, so that it says nothing of the method."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    name = hashlib.sha256(buffer.getvalue()).hexdigest()[:24] + ".jpg"
    (folder / name).write_bytes(buffer.getvalue())
    return Shown(name, says)


def _checks(questions: Sequence[Question], count: int, seed: int) -> list[Question]:
    """Made of comparisons, so that they look like one: "told" and "same" in turn."""
    random = np.random.default_rng([seed, 2])
    made = []
    for number in range(count):
        of = questions[int(random.integers(len(questions)))]
        first, second = of.options
        if number % 2 == 0:
            expected = 1 if number % 4 == 0 else 5
            made.append(
                Question(f"c{number + 1}", "", "", of.shared, (first, second), {}, "told", expected)
            )
        else:
            side = first if random.random() < 0.5 else second
            made.append(Question(f"c{number + 1}", "", "", of.shared, (side, side), {}, "same", 3))
    return made


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)
