"""What raters answered, read from files, from the server's database and from Mechanical Turk."""

from __future__ import annotations

import csv
import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whyalike.apps.study.questionnaire import NAME, Questionnaire
from whyalike.errors import StudyError, in_one_line
from whyalike.images import printable

LARGEST = 1_000_000
"""Bytes of a rater's file; there is no reason for more."""
LARGEST_BATCH = 200_000_000


@dataclass(frozen=True)
class Answer:
    """One answer.

    Args:
        answer: 1 to 5, as the rater saw the scale: 1 is clearly robot A.
        seconds: that the question was on the screen; None where that is not known.
    """

    answer: int
    seconds: float | None


@dataclass(frozen=True)
class Rater:
    """What came from one rater.

    Args:
        name: that says nothing of who they are.
        slot: which order and sides they saw.
        answers: by the question's id; only ids and answers that there are.
        source: where it was read.
        refused: why it cannot be counted, found on reading; None for none.
        seconds: of all questions together, where only that is known.
    """

    name: str
    slot: int
    answers: Mapping[str, Answer]
    source: str
    refused: str | None = None
    seconds: float | None = None


def check_answer(made: Questionnaire, question: Any, answer: Any, seconds: Any = None) -> Answer:
    """An answer from outside, held to the questionnaire.

    Raises:
        StudyError: there is no such question, or it is no answer to it.
    """
    if not isinstance(question, str) or question not in {one.id for one in made.questions}:
        raise StudyError(f"there is no question {printable(str(question))[:40]!r}")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 1 <= answer <= 5:
        raise StudyError(f"an answer is a whole number from 1 to 5; came {str(answer)[:40]!r}")
    if seconds is not None:
        known = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not known or not math.isfinite(seconds) or not 0 <= seconds < 1e7:
            raise StudyError(f"seconds are a number from 0; came {str(seconds)[:40]!r}")
        seconds = float(seconds)
    return Answer(answer, seconds)


def read_answers(made: Questionnaire, paths: Sequence[str | Path]) -> list[Rater]:
    """All raters of some files, by their endings: .json, .db (of `study run`), .csv (of Turk).

    A folder stands for the files of these endings in it. A rater whose file is damaged or belongs
    to another study is there with the reason; a file that is none of the three is an error.

    Raises:
        StudyError: a file is not there, or is none of these.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if one.name != NAME)
            found = [one for one in inside if one.suffix.lower() in _READERS]
            if not found:
                raise StudyError(f"{path}: has no answers: no .json, .db or .csv")
            files += found
        elif path.suffix.lower() in _READERS and path.is_file():
            files.append(path)
        else:
            raise StudyError(
                f"{path}: is no file of answers; they end in .json (of pages), .db (of `study "
                f"run`) or .csv (of Mechanical Turk)"
            )
    return [rater for file in files for rater in _READERS[file.suffix.lower()](made, file)]


def _of_file(made: Questionnaire, path: Path) -> list[Rater]:
    """One rater, as a page saved it."""
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"over {LARGEST:,} bytes")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict) or content.get("format") != 1:
            raise ValueError("no answers of this version")
        name = _name(content.get("rater"))
        if content.get("study") != made.id:
            return [Rater(name, 0, {}, path.name, "answers another questionnaire")]
        if content.get("consent") is not True:
            return [Rater(name, 0, {}, path.name, "did not agree to take part")]
        slot, given = content.get("slot"), content.get("answers")
        if isinstance(slot, bool) or not isinstance(slot, int) or not 0 <= slot < 10**6:
            raise ValueError("no slot")
        if not isinstance(given, dict):
            raise ValueError("no answers")
        answers = {
            question: check_answer(made, question, one["answer"], one.get("seconds"))
            for question, one in given.items()
        }
        return [Rater(name, slot, answers, path.name)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return [Rater(path.stem, 0, {}, path.name, f"cannot be read: {in_one_line(error)}")]
    except StudyError as error:
        return [Rater(path.stem, 0, {}, path.name, f"cannot be read: {error}")]


def _of_database(made: Questionnaire, path: Path) -> list[Rater]:
    """The raters of a server, those that stopped on the way as well."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as opened:
            study = opened.execute("SELECT value FROM about WHERE name = 'study'").fetchone()
            if study is None or study[0] != made.id:
                raise StudyError(f"{path}: has answers to another questionnaire")
            raters = opened.execute("SELECT name, slot FROM raters ORDER BY number").fetchall()
            rows = opened.execute("SELECT rater, question, answer, seconds FROM answers").fetchall()
    except sqlite3.Error as error:
        raise StudyError(f"{path}: cannot be read as the answers of a server: {error}") from error
    given: dict[str, dict[str, Answer]] = {name: {} for name, _ in raters}
    for rater, question, answer, seconds in rows:
        given[rater][question] = check_answer(made, question, answer, seconds)
    return [Rater(name, slot, given[name], path.name) for name, slot in raters]


def _of_turk(made: Questionnaire, path: Path) -> list[Rater]:
    """The workers of a batch's results, each row an assignment."""
    try:
        if path.stat().st_size > LARGEST_BATCH:
            raise StudyError(f"{path}: is too large for the results of a batch")
        with path.open(newline="", encoding="utf-8-sig") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StudyError(f"{path}: cannot be read as a table: {error}") from error
    columns = set(rows[0]) if rows else set()
    if rows and not {"WorkerId", "Input.slot", "Input.study"} <= columns:
        raise StudyError(
            f"{path}: is no table of results of Mechanical Turk: WorkerId, Input.slot and "
            f"Input.study are not all there"
        )
    return [_worker(made, row, path.name) for row in rows]


def _worker(made: Questionnaire, row: Mapping[str, Any], source: str) -> Rater:
    name = _name(row["WorkerId"])
    try:
        if row["Input.study"] != made.id:
            return Rater(name, 0, {}, source, "answers another questionnaire")
        if row.get("AssignmentStatus") == "Rejected":
            return Rater(name, 0, {}, source, "its assignment was rejected")
        slot = int(row["Input.slot"])
        if not 0 <= slot < made.raters:
            raise ValueError(f"slot {slot}")
        chosen = _choices(row)
        answers = {}
        for at, placed in enumerate(made.plan(slot), 1):
            if row.get(f"Input.q_{at}", placed.question.id) != placed.question.id:
                raise ValueError(f"question {at} is not the one that was asked there")
            if at in chosen:
                answers[placed.question.id] = check_answer(made, placed.question.id, chosen[at])
        spent = row.get("WorkTimeInSeconds") or None
        seconds = None if spent is None else float(spent)
        return Rater(name, slot, answers, source, seconds=seconds)
    except (ValueError, TypeError, RecursionError, StudyError) as error:
        return Rater(name, 0, {}, source, f"cannot be read: {in_one_line(error)}")


def _choices(row: Mapping[str, Any]) -> dict[int, int]:
    """What was chosen at each place, of the three forms in which Turk gives radio buttons.

    A column `Answer.a_3` with the value; a column `Answer.a_3.2` for each value, true for the one;
    and all answers as JSON in `Answer.taskAnswers`, [{"a_3": {"1": false, "2": true, ...}}].
    """
    chosen: dict[int, int] = {}

    def take(name: str, value: str, on: Any) -> None:
        place = name.removeprefix("a_")
        if name.startswith("a_") and place.isdecimal() and str(on).lower() in ("true", "on"):
            if int(place) in chosen:
                raise ValueError(f"two answers at {place}")
            chosen[int(place)] = int(value)

    for column, value in row.items():
        if not column or not column.startswith("Answer.") or not value:
            continue
        name, _, option = column.removeprefix("Answer.").partition(".")
        if name == "taskAnswers":
            for field, options in json.loads(value)[0].items():
                if isinstance(options, dict):
                    for one, on in options.items():
                        take(field, one, on)
                else:
                    take(field, options, True)
        elif option:
            take(name, option, value)
        else:
            take(name, value, True)
    return chosen


def _name(given: Any) -> str:
    name = printable(str(given))
    if not isinstance(given, str) or not 1 <= len(name) <= 64:
        raise ValueError("no name of a rater")
    return name


_READERS = {".json": _of_file, ".db": _of_database, ".csv": _of_turk}
