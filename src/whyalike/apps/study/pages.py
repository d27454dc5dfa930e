"""A study as pages: self-contained ones for files, the server's, and Mechanical Turk's form."""

from __future__ import annotations

import base64
import csv
import html
import io
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from whyalike.apps.study.questionnaire import LABELS, Questionnaire
from whyalike.errors import StudyError
from whyalike.viewer.export import document, starting
from whyalike.viewer.export import static as of_viewer

LONGEST_FORM = 65_535
"""Bytes that Mechanical Turk takes for the text of a question."""


def name(slot: int, raters: int) -> str:
    """The file of a rater's page."""
    return f"rater-{slot + 1:0{max(2, len(str(raters)))}}.html"


def as_data(folder: Path, made: Questionnaire) -> dict[str, str]:
    """Every picture of a questionnaire as a data URL, by the name of its file."""
    return {
        file: "data:image/jpeg;base64," + base64.b64encode((folder / file).read_bytes()).decode()
        for file in pictures(made)
    }


def pictures(made: Questionnaire) -> list[str]:
    """The files of all pictures of a questionnaire."""
    found = {
        shown.file
        for one in made.questions
        for shown in (*one.shared, *one.options[0], *one.options[1])
    }
    return sorted(found)


def for_file(made: Questionnaire, slot: int, src: Mapping[str, str]) -> str:
    """A rater's page as a file of its own, which saves the answers as a file."""
    return _page({**made.for_rater(slot, src), "server": False}, ("img-src data:",))


def for_server(made: Questionnaire) -> str:
    """The page that asks its server for questions, once one has agreed, and gives it answers."""
    return _page({**made.front(), "server": True}, ("img-src 'self'", "connect-src 'self'"))


def _page(data: dict[str, Any], allow: tuple[str, ...]) -> str:
    css = of_viewer("viewer.css") + _static("study.css")
    return document(data["title"], css, _static("study.js") + starting("startStudy"), data, allow)


def _static(file: str) -> str:
    return (files("whyalike.apps.study") / "static" / file).read_text(encoding="utf-8")


def turk(made: Questionnaire, image_base: str) -> tuple[str, str]:
    """A form and a batch for Mechanical Turk: one row, and so one HIT, is all that a rater sees.

    Pictures do not fit into a batch, so they are fetched from `image_base`, where the files of
    `pictures/` must lie.

    Returns:
        The form's html, in which ${slot}, ${q_1}, ${left_1_1}, ... stand for a row's values; and
        the rows as a table (.csv).

    Raises:
        StudyError: the address is none, or the form is longer than Turk takes.
    """
    check_base(image_base)
    base = image_base.rstrip("/")
    src = {file: f"{base}/{file}" for file in pictures(made)}
    rows = [_row(made, slot, src) for slot in range(made.raters)]
    counts = {len(row) for row in rows}
    assert len(counts) == 1, "every rater sees as many pictures"
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    form = _form(made)
    if len(form.encode()) > LONGEST_FORM:
        raise StudyError(
            f"a form of {len(made.questions)} questions is longer than the {LONGEST_FORM:,} bytes "
            f"that Mechanical Turk takes; ask fewer questions"
        )
    return form, table.getvalue()


def check_base(image_base: str) -> None:
    """Refuse an address below which Mechanical Turk could not fetch pictures."""
    address = urlsplit(image_base)
    if address.scheme != "https" or not address.netloc or re.search(r"[\s\"'<>$]", image_base):
        raise StudyError(
            f"Mechanical Turk shows pictures of addresses that begin with https; came "
            f"{image_base!r}"
        )


def _row(made: Questionnaire, slot: int, src: Mapping[str, str]) -> dict[str, str]:
    """The variables of a rater, from what their page would show."""
    page = made.for_rater(slot, src)
    row = {"study": made.id, "slot": str(slot)}
    for at, one in enumerate(page["questions"], 1):
        row |= {f"q_{at}": one["id"], f"asks_{at}": one["asks"]}
        for part in ("shared", "left", "right"):
            for number, shown in enumerate(one[part], 1):
                row[f"{part}_{at}_{number}"] = shown["src"]
    return row


def _form(made: Questionnaire) -> str:
    page = made.for_rater(0, dict.fromkeys(pictures(made), ""))
    parts = []
    for at, one in enumerate(page["questions"], 1):
        shared = _row_of_pictures("shared", at, len(one["shared"]))
        cards = "".join(
            f'<div class="card"><h3>Robot {letter}</h3>'
            f"{_row_of_pictures(side, at, len(one[side]))}</div>"
            for letter, side in (("A", "left"), ("B", "right"))
        )
        # The place is the name, as it is the same in every row; the row says which question it is.
        scale = "".join(
            f'<label><input type="radio" name="a_{at}" value="{value}" required> '
            f"{html.escape(label)}</label>"
            for value, label in enumerate(LABELS, 1)
        )
        parts.append(
            f"<section><h2>{at} of {len(page['questions'])}</h2>{shared}"
            f'<div class="cards">{cards}</div>'
            f"<fieldset><legend>${{asks_{at}}}</legend>{scale}</fieldset></section>"
        )
    words = {
        "title": html.escape(made.title),
        "consent": _paragraphs(made.consent),
        "instructions": _paragraphs(made.instructions),
        "questions": "\n".join(parts),
    }
    return re.sub(r"@(\w+)@", lambda found: words[found[1]], _static("turk.html"))


def _row_of_pictures(part: str, at: int, count: int) -> str:
    if not count:
        return ""
    images = "".join(
        f'<img src="${{{part}_{at}_{number}}}" alt="">' for number in range(1, count + 1)
    )
    return f'<div class="pictures">{images}</div>'


def _paragraphs(texts: tuple[str, ...]) -> str:
    # "${" would be a variable of the batch.
    return "".join(f"<p>{html.escape(text).replace('$', '&#36;')}</p>" for text in texts)
