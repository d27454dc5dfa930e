"""Studies: order and sides, pictures, answers of every kind, and sums held to those by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sqlite3
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import whyalike as wa
from galleries import HEADS, photographs, picture
from studies import comparisons, rater, small_study
from whyalike import draw
from whyalike.apps.study import comparisons as comparing
from whyalike.apps.study.answers import Answer, Rater, check_answer, read_answers
from whyalike.apps.study.build import build
from whyalike.apps.study.counting import agreement, preferences, summarise, wilson
from whyalike.apps.study.pages import turk
from whyalike.apps.study.questionnaire import (
    LABELS,
    Questionnaire,
    latin_row,
    read_questionnaire,
)
from whyalike.apps.study.report import report
from whyalike.apps.study.server import Store
from whyalike.cli import cli
from whyalike.errors import OutputFileError, StudyError
from whyalike.geometry import Frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "four"
    small_study(path, raters=4, image_base="https://pictures.example.org/squares/")
    return path


@pytest.fixture(scope="module")
def made(folder: Path) -> Questionnaire:
    return read_questionnaire(folder)


# ── Order and sides ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n", [1, 2, 4, 5, 7, 10])
def test_each_question_stands_once_in_each_place_and_follows_each_equally_often(n: int) -> None:
    rows = [latin_row(n, row) for row in range(n if n % 2 == 0 else 2 * n)]
    for place in range(n):
        assert set(Counter(row[place] for row in rows).values()) == {len(rows) // n}
    follows = Counter((a, b) for row in rows for a, b in pairwise(row))
    if n > 1:
        assert len(follows) == n * (n - 1)
        assert len(set(follows.values())) == 1


@pytest.mark.parametrize("n", [4, 5])
def test_sides_are_balanced_for_each_rater_and_each_question(tmp_path: Path, n: int) -> None:
    made = small_study(tmp_path / "s", n, raters=1, seed=3)
    plans = [made.plan(slot) for slot in range(4 * n)]
    for plan in plans:
        left = [one.first_left for one in plan if one.question.check is None]
        assert abs(2 * sum(left) - n) <= 1
        assert len({one.question.id for one in plan}) == n + 2
    for question in made.comparisons:
        left = [one.first_left for plan in plans for one in plan if one.question is question]
        assert sum(left) == len(plans) / 2
    # Side and place are not tied to one another either: each question is on both sides in each
    # place that it takes.
    for first, second in zip(plans[::2], plans[1::2], strict=True):
        assert [one.question.id for one in first] == [one.question.id for one in second]
        assert all(a.first_left != b.first_left for a, b in zip(first, second, strict=True))
    told = {one.expected for plan in plans for one in plan if one.question.check == "told"}
    same = {one.expected for plan in plans for one in plan if one.question.check == "same"}
    assert (told, same) == ({1, 5}, {3})


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    one, again, other = (
        small_study(tmp_path / str(at), 6, raters=1, seed=seed) for at, seed in enumerate((1, 1, 2))
    )
    assert one == again
    assert one.id == again.id != other.id
    assert one.plan(0) != other.plan(0)


# ── What is written ──────────────────────────────────────────────────────────────────────────


def test_a_study_is_read_as_it_was_written(folder: Path, made: Questionnaire) -> None:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"study.json", "turk/form.html", "turk/batch.csv", "pages/rater-04.html"} <= files
    assert len([one for one in files if one.startswith("pages/")]) == 4
    assert len([one for one in files if one.startswith("pictures/")]) == 16
    assert len(made.questions) == 6
    assert json.loads((folder / "study.json").read_text())["id"] == made.id


def test_what_raters_get_does_not_tell_who_is_who(folder: Path) -> None:
    for path in folder.glob("pages/*"):
        text = path.read_text().split('type="application/json">')[1].split("</script>")[0]
        page = json.loads(text)
        assert {key for one in page["questions"] for key in one} == {
            "id", "asks", "shared", "left", "right",
        }  # fmt: skip
        assert "theirs" not in re.sub(r"base64,[^\"]*", "", path.read_text())
    for path in [*folder.glob("turk/*"), *folder.glob("pictures/*")]:
        assert b"theirs" not in path.read_bytes() + path.name.encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(title="another"), "changed by hand"),
        (lambda s: s.update(format=2), "format 2"),
        (lambda s: s.pop("questions"), "changed by hand"),
        (lambda s: s["questions"][0]["options"][0][0].update(file="../../secret"), "changed by"),
        (lambda s: s["questions"][0].update(expected=9), "changed by hand"),
    ],
)
def test_a_study_that_was_changed_is_refused(
    folder: Path, tmp_path: Path, change: Any, message: str
) -> None:
    content = json.loads((folder / "study.json").read_text())
    change(content)
    (tmp_path / "study.json").write_text(json.dumps(content))
    with pytest.raises(StudyError, match=message):
        read_questionnaire(tmp_path)


def test_what_cannot_be_made_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="nothing to compare"):
        build([], tmp_path / "new", kind="explanations")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(OutputFileError, match="not empty"):
        build(comparisons(1), tmp_path / "mine", kind="explanations")
    for base in ("http://x.org", "https://", "https://x.org/a b", "https://x.org/${slot}"):
        with pytest.raises(StudyError, match="begin with https"):
            build(comparisons(1), tmp_path / "new", kind="explanations", image_base=base)
    with pytest.raises(StudyError, match="a rater at least"):
        build(comparisons(1), tmp_path / "new", kind="explanations", raters=0)
    with pytest.raises(StudyError, match="0 or more checks"):
        build(comparisons(1), tmp_path / "new", kind="explanations", checks=-1)
    with pytest.raises(StudyError, match=r"bytes that Mechanical Turk"):
        build(comparisons(80), tmp_path / "new", kind="explanations", raters=1,
              image_base="https://x.org")  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


# ── What robots show ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("share", [0.02, 0.33, 1.0])
def test_the_top_pixels_are_those_of_a_slow_sort(share: float) -> None:
    frame = Frame((40, 30), (5, 0, 35, 30), (3, 4))  # five columns on each side are not seen
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = draw.top_pixels(values, frame, (40, 30), share)
    big = draw.on_photograph(values, frame, (40, 30))
    count = math.ceil(share * 30 * 30)
    order = sorted((-big[i, j], i, j) for i in range(30) for j in range(5, 35))
    assert {(i, j) for _, i, j in order[:count]} == set(zip(*np.nonzero(mask), strict=True))


def test_equal_values_and_shares_that_are_none(tmp_path: Path) -> None:
    frame = Frame((10, 10), (0, 0, 10, 10), (1, 1))
    mask = draw.top_pixels(torch.zeros(1, 1), frame, (10, 10), 0.02)
    assert [tuple(at) for at in np.argwhere(mask)] == [(0, 0), (0, 1)]
    for share in (0, 1.1):
        with pytest.raises(ValueError, match="share lies"):
            draw.top_pixels(torch.zeros(1, 1), frame, (10, 10), share)


def test_highlighted_pixels_keep_their_colour() -> None:
    photograph = Image.new("RGB", (80, 60), (30, 200, 90))
    frame = Frame((80, 60), (0, 0, 80, 60), (3, 4))
    values = torch.zeros(3, 4)
    values[1, 2] = 1
    drawn = np.asarray(draw.highlight(photograph, values, frame, share=0.02))
    mask = draw.top_pixels(values, frame, (80, 60), 0.02)
    assert mask[30, 50]
    assert (drawn[mask] == (30, 200, 90)).all()
    assert drawn[5, 5].max() < 170
    assert drawn[5, 5].ptp() < 40 if hasattr(drawn, "ptp") else np.ptp(drawn[5, 5]) < 60


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> wa.Gallery:
    root = tmp_path_factory.mktemp("gallery")
    photographs(root / "photos", 8)
    return wa.Gallery.build(HEADS["mean"](), root / "photos", root / "g.lance")


def test_explanations_show_the_maps_of_both_photographs(
    tmp_path: Path, gallery: wa.Gallery
) -> None:
    model = gallery.model
    assert model is not None
    pairs = comparing.pairs_of_gallery(gallery, 3, seed=1)
    assert len({query for query, _ in pairs}) == 3
    left_out: list[str] = []
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    found = list(
        comparing.explanations(
            model,
            [*pairs[:1], (pairs[0][0], str(tmp_path / "bad.jpg"))],
            ["decomposition", "centre-box", "decomposition+bias"],
            left_out=left_out.append,
        )
    )
    assert "bad.jpg" in left_out[0]
    assert (found[0].first, found[0].second) == ("decomposition", "centre-box")
    (mine, _), (other, _) = found[0].options[0]
    pair = wa.explain_pair(model, *pairs[0])
    for drawn, side, x in ((mine, "query", pair.query), (other, "reference", pair.reference)):
        expected = draw.highlight(x.picture, pair.overall_map(side), x.frame)  # type: ignore[arg-type]
        assert np.array_equal(np.asarray(drawn), np.asarray(expected))


def test_rankings_leave_the_query_out_and_say_what_they_leave_out(
    tmp_path: Path, gallery: wa.Gallery
) -> None:
    query = gallery.files()[2]
    left_out: list[str] = []
    regions = [(query, (5.0, 3.0, 25.0, 20.0)), (query, (500.0, 3.0, 505.0, 20.0))]
    found = list(
        comparing.rankings(gallery, regions, ["region", "whole"], k=7, left_out=left_out.append)
    )
    assert len(left_out) == 1
    assert "lies outside" in left_out[0]
    (one,) = found
    for method, side in zip(("region", "whole"), one.options, strict=True):
        asked = {"region": regions[0][1]} if method == "region" else {}
        hits = [h for h in gallery.search(query, k=8, **asked) if h.file != query]  # type: ignore[arg-type]
        assert len(side) == 7
        for hit, (drawn, _) in zip(hits, side, strict=True):
            seen = hit.picture()
            assert seen is not None
            assert np.array_equal(np.asarray(drawn), np.asarray(seen))
    assert not list(comparing.rankings(gallery, regions[:1], k=8, left_out=left_out.append))
    assert "fewer than 8" in left_out[-1]


def test_methods_and_tables_that_are_none_are_refused(tmp_path: Path) -> None:
    for methods in (["sharp"], ["sharp", "sharp"], ["sharp", "nothing"]):
        with pytest.raises(StudyError, match="method"):
            comparing.check_explanations(methods)
    table = tmp_path / "t.csv"
    for text, message in (
        ("query,other\na,b\n", "no column 'reference'"),
        ("query,reference\na,\n", "line 2: reference is empty"),
        ("query,reference\n", "no rows"),
    ):
        table.write_text(text)
        with pytest.raises(StudyError, match=message):
            comparing.pairs_of_table(table)
    table.write_text("query,x0,y0,x1,y1\na.jpg,1,2,three,4\n")
    with pytest.raises(StudyError, match="four numbers"):
        comparing.regions_of_table(table)
    table.write_text("\ufeffquery,reference\na.jpg,sub/b.jpg\n", encoding="utf-8")
    assert comparing.pairs_of_table(table) == [
        (str(tmp_path / "a.jpg"), str(tmp_path / "sub" / "b.jpg"))
    ]


# ── Sums by hand ─────────────────────────────────────────────────────────────────────────────


def test_two_raters_by_hand(made: Questionnaire) -> None:
    raters = [rater(made, "a", [1, 1, 2, 3], slot=0), rater(made, "b", [1, 2, 5, 3], slot=1)]
    assert preferences(made, raters).tolist() == [[1, 1, 2, 3], [1, 2, 5, 3]]
    found = summarise(made, raters)
    (one,) = found.summaries
    assert [i.count for i in one.answers] == [3, 2, 2, 0, 1]
    assert [i.share for i in one.answers] == [3 / 8, 2 / 8, 2 / 8, 0, 1 / 8]
    # Five for the first, one for the second, two the same: p = 2·(C(6,0) + C(6,1))/2^6.
    assert (one.ratings.first, one.ratings.second) == (5, 1)
    assert one.ratings.p == pytest.approx(14 / 64)
    # Means by rater: (2+2+1+0)/4 and (2+1−2+0)/4; by question: 2, 1.5, −0.5, 0.
    assert (one.raters.first, one.raters.second, one.raters.p) == (2, 0, pytest.approx(0.5))
    assert (one.items.first, one.items.second, one.items.p) == (2, 1, pytest.approx(1.0))
    assert one.mean == pytest.approx(6 / 8)
    assert one.alpha == pytest.approx(alpha_by_hand([[1, 1, 2, 3], [1, 2, 5, 3]]))


def alpha_by_hand(table: list[list[int]]) -> float:
    """Krippendorff's alpha for ordinal data, from its definition: 1 − D_o / D_e."""
    columns = list(zip(*table, strict=True))
    count = Counter(value for column in columns for value in column)
    n = sum(count.values())

    def distance(a: int, b: int) -> float:
        low, high = min(a, b), max(a, b)
        between = sum(count[value] for value in range(low, high + 1))
        return (between - (count[low] + count[high]) / 2) ** 2 if a != b else 0.0

    observed = sum(
        distance(a, b) / (len(column) - 1)
        for column in columns
        for i, a in enumerate(column)
        for j, b in enumerate(column)
        if i != j
    )
    expected = sum(count[a] * count[b] * distance(a, b) for a in count for b in count) / (n - 1)
    return 1 - observed / expected


def test_wilson_by_its_formula() -> None:
    z = 1.959963984540054
    for count, total in ((3, 8), (0, 5), (5, 5), (17, 40)):
        p = count / total
        middle = (p + z * z / (2 * total)) / (1 + z * z / total)
        half = z / (1 + z * z / total) * math.sqrt(p * (1 - p) / total + z * z / (4 * total**2))
        found = wilson(count, total)
        assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-9)
    assert wilson(0, 0).share is None


def test_agreement_where_there_is_none_to_speak_of() -> None:
    assert agreement(np.array([[1.0, 2, 3]])) is None
    assert agreement(np.array([[2.0, 2], [2, 2]])) is None
    assert agreement(np.array([[1.0, 5, 3], [1, 5, 3]])) == 1.0


def test_who_is_excluded_and_why(made: Questionnaire) -> None:
    good = rater(made, "good", [1, 2, 3, 4])
    some = dict(list(good.answers.items())[:4])
    hasty = {question: replace(one, seconds=0.2) for question, one in good.answers.items()}
    found = summarise(
        made,
        [
            good,
            replace(good, name="stopped", answers=some),
            rater(made, "asleep", [1, 2, 3, 4], c1=2, c2=4),
            replace(good, name="hasty", answers=hasty),
            replace(good, name="turker", answers={q: Answer(a.answer, None) for q, a in
                    good.answers.items()}, seconds=3.0),
            replace(good, answers=good.answers),
            Rater("broken", 0, {}, "x.json", "cannot be read"),
        ],
    )  # fmt: skip
    assert [one.name for one in found.counted] == ["good"]
    assert {one.name: reason for one, reason in found.excluded} == {
        "stopped": "left 2 of 6 questions unanswered",
        "asleep": "failed 2 of 2 attention checks (c1, c2)",
        "hasty": "took 0.2 seconds for an answer, less than 1",
        "turker": "took 0.5 seconds for an answer, less than 1",
        "good": "answered before; the first time counts",
        "broken": "cannot be read",
    }
    assert len(summarise(made, [rater(made, "x", [3, 3, 3, 3], c1=2)], failed=1).counted) == 1
    with pytest.raises(StudyError, match="0 or more"):
        summarise(made, [], failed=-1)


def test_who_never_changes_sides_is_excluded(tmp_path: Path) -> None:
    made = small_study(tmp_path / "s", 8, raters=1)
    left = rater(made, "left", [3] * 8)
    always = {q: Answer(1, 5.0) if q.startswith("q") else a for q, a in left.answers.items()}
    found = summarise(made, [left, replace(left, name="always", answers=always)])
    assert [one.name for one in found.counted] == ["left"]
    assert found.excluded[0][1] == "gave every comparison the same answer, for robot A"


def test_the_report_says_it_three_ways(made: Questionnaire, tmp_path: Path) -> None:
    raters = [rater(made, "a", [1, 1, 2, 3]), rater(made, "<b>", [1, 2, 5, 3], slot=1)]
    late = Rater("late", 0, {}, "late.json", "cannot be read: <script>")
    result = report(made, summarise(made, [*raters, late]))
    numbers = json.loads(result.json())
    (one,) = numbers["comparisons"]
    assert [answer["count"] for answer in one["answers"]] == [3, 2, 2, 0, 1]
    assert one["answers"][0]["answer"] == "ours, clearly"
    assert numbers["answers"] == [[1, 1, 2, 3], [1, 2, 5, 3]]
    assert numbers["raters"]["excluded"][0]["reason"] == "cannot be read: <script>"
    assert "| ours, clearly | 3 | 37.5 | 13.7 to 69.4 |" in result.markdown()
    page = result.html()
    assert "<script" not in page
    assert "&lt;b&gt;" in page
    assert "Figure 6" in page
    empty = report(made, summarise(made, [late]))
    assert "No rater counts" in empty.lead
    empty.save(tmp_path / "r.html", tmp_path / "r.json", tmp_path / "r.md")


# ── Answers from outside ─────────────────────────────────────────────────────────────────────


def saved(made: Questionnaire, one: Rater, **changes: Any) -> str:
    """As a page saves it."""
    answers = {
        question: {"answer": given.answer, "seconds": given.seconds}
        for question, given in one.answers.items()
    }
    return json.dumps(
        {"format": 1, "study": made.id, "slot": one.slot, "rater": one.name, "consent": True,
         "answers": answers, **changes}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("no json", "cannot be read"),
        ("[1]", "no answers of this version"),
        ({"study": "0" * 12}, "another questionnaire"),
        ({"consent": False}, "did not agree"),
        ({"slot": -1}, "no slot"),
        ({"slot": True}, "no slot"),
        ({"answers": {"q99": {"answer": 1}}}, "no question 'q99'"),
        ({"answers": {"q01": {"answer": 6}}}, "from 1 to 5"),
        ({"answers": {"q01": {"answer": True}}}, "from 1 to 5"),
        ({"answers": {"q01": {"answer": "1"}}}, "from 1 to 5"),
        ({"answers": {"q01": {"answer": 1, "seconds": -1}}}, "seconds"),
        ({"answers": {"q01": {}}}, "cannot be read"),
        ({"answers": []}, "no answers"),
        ({"rater": 5}, "no name"),
        ({"rater": "x" * 1000}, "no name"),
        ("[" * 100_000, "cannot be read"),
        (" " * 1_000_001, "bytes"),
    ],
)
def test_a_file_that_is_no_answer_is_told_as_such(
    made: Questionnaire, tmp_path: Path, text: Any, reason: str
) -> None:
    content = text if isinstance(text, str) else saved(made, rater(made, "a", [1] * 4), **text)
    (tmp_path / "a.json").write_text(content)
    (one,) = read_answers(made, [tmp_path])
    assert one.refused is not None
    assert reason in one.refused


def test_files_of_other_kinds_are_refused(made: Questionnaire, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no file of answers"):
        read_answers(made, [tmp_path / "none.json"])
    with pytest.raises(StudyError, match="has no answers"):
        read_answers(made, [tmp_path])
    (tmp_path / "a.db").write_bytes(b"no database" * 100)
    with pytest.raises(StudyError, match="answers of a server"):
        read_answers(made, [tmp_path / "a.db"])
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(StudyError, match="Mechanical Turk"):
        read_answers(made, [tmp_path / "a.csv"])


def test_an_answer_is_held_to_the_questionnaire(made: Questionnaire) -> None:
    assert check_answer(made, "q01", 5, 2) == Answer(5, 2.0)
    for question, answer, seconds in (
        ("q9", 1, 1), (["q01"], 1, 1), ("q01", 0, 1), ("q01", 1.0, 1), ("q01", 1, math.nan),
        ("q01", 1, "2"), (None, 1, 1),
    ):  # fmt: skip
        with pytest.raises(StudyError):
            check_answer(made, question, answer, seconds)


# ── Mechanical Turk ──────────────────────────────────────────────────────────────────────────


def test_the_form_has_the_variables_of_the_batch(folder: Path, made: Questionnaire) -> None:
    form = (folder / "turk" / "form.html").read_text()
    rows = list(csv.DictReader(io.StringIO((folder / "turk" / "batch.csv").read_text())))
    assert len(rows) == 4
    variables = set(re.findall(r"\$\{(\w+)\}", form))
    assert variables <= set(rows[0])
    assert set(rows[0]) - variables == {f"q_{at}" for at in range(1, 7)}  # only for the results
    assert form.count("<fieldset>") == 6
    assert len(re.findall('type="radio"', form)) == 30
    for slot, row in enumerate(rows):
        for at, placed in enumerate(made.plan(slot), 1):
            assert row[f"q_{at}"] == placed.question.id
            sides = placed.question.options
            for side, pictures in zip(
                ("left", "right"), sides if placed.first_left else sides[::-1], strict=True
            ):
                for number, shown in enumerate(pictures, 1):
                    url = f"https://pictures.example.org/squares/{shown.file}"
                    assert row[f"{side}_{at}_{number}"] == url
                    assert (folder / "pictures" / shown.file).is_file()


def test_words_of_strangers_are_text_in_the_form(made: Questionnaire) -> None:
    hostile = replace(made, title="<img onerror=1>", consent=("${slot} <b>",), instructions=())
    form, _ = turk(hostile, "https://x.org")
    assert "<img onerror" not in form
    assert "&#36;{slot} &lt;b&gt;" in form


@pytest.mark.parametrize("form", ["value", "columns", "json"])
def test_results_of_turk_in_each_form(made: Questionnaire, tmp_path: Path, form: str) -> None:
    one = rater(made, "W1", [1, 2, 4, 5], slot=3)
    inputs = dict(
        zip(*list(csv.reader(io.StringIO(turk(made, "https://x.org")[1])))[0:5:4], strict=True)
    )
    row = {"WorkerId": "W1", "AssignmentStatus": "Approved", "WorkTimeInSeconds": "60",
           **{f"Input.{name}": value for name, value in inputs.items()}}  # fmt: skip
    chosen = [one.answers[placed.question.id].answer for placed in made.plan(3)]
    if form == "value":
        row |= {f"Answer.a_{at}": str(value) for at, value in enumerate(chosen, 1)}
    elif form == "columns":
        row |= {
            f"Answer.a_{at}.{value}": str(value == right).lower()
            for at, right in enumerate(chosen, 1)
            for value in range(1, 6)
        }
    else:
        fields = {f"a_{at}": {str(v): v == right for v in range(1, 6)}
                  for at, right in enumerate(chosen, 1)}  # fmt: skip
        row["Answer.taskAnswers"] = json.dumps([{**fields, "slot": "3", "consent": {"yes": True}}])
    rows = [row, {**row, "WorkerId": "W2", "AssignmentStatus": "Rejected"},
            {**row, "WorkerId": "W3", "Input.slot": "99"},
            {**row, "WorkerId": "W4", "Input.study": "other"}]  # fmt: skip
    with (tmp_path / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerows(rows)
    found = read_answers(made, [tmp_path / "results.csv"])
    assert preferences(made, found[:1]).tolist() == [[1, 2, 4, 5]]
    assert [summarise(made, found).counted[0].name] == ["W1"]
    reasons = [reason for _, reason in summarise(made, found).excluded]
    assert "rejected" in reasons[0]
    assert "slot 99" in reasons[1]
    assert "another questionnaire" in reasons[2]


# ── The database ─────────────────────────────────────────────────────────────────────────────


def test_answers_are_on_disk_when_the_call_returns(made: Questionnaire, tmp_path: Path) -> None:
    store = Store(tmp_path / "a.db", made)
    name, slot = store.begin()
    assert (slot, store.begin()[1]) == (0, 1)
    store.answer(name, "q01", 2, 1.5)
    store.answer(name, "q01", 4, 2.5)
    other = sqlite3.connect(tmp_path / "a.db")  # another process would see the same
    assert other.execute("SELECT answer, seconds FROM answers").fetchall() == [(4, 2.5)]
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    other.close()
    with pytest.raises(StudyError, match="5 questions are not answered"):
        store.finish(name)
    for question in made.questions:
        store.answer(name, question.id, 3, None)
    store.finish(name)
    store.finish(name)
    with pytest.raises(StudyError, match="stay as they are"):
        store.answer(name, "q01", 1, None)
    for bad in ("nobody", None, 5, {"a": 1}):
        with pytest.raises(StudyError, match="no such rater"):
            store.answer(bad, "q01", 1, None)
    store.close()
    again = Store(tmp_path / "a.db", made)
    assert again.rater(name)[:2] == (0, True)
    assert again.begin()[1] == 2
    again.close()
    assert [one.slot for one in read_answers(made, [tmp_path / "a.db"])] == [0, 1, 2]
    with pytest.raises(StudyError, match="another questionnaire"):
        Store(tmp_path / "a.db", replace(made, title="other"))
    with pytest.raises(StudyError, match="another questionnaire"):
        read_answers(replace(made, title="other"), [tmp_path / "a.db"])


# ── The command line ─────────────────────────────────────────────────────────────────────────


def test_build_and_report_from_the_command_line(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 3)
    names = sorted(path.relative_to(tmp_path) for path in (tmp_path / "photos").rglob("*.png"))
    with (tmp_path / "pairs.csv").open("w") as file:
        file.write("query,reference\n" + "".join(f"{a},{b}\n" for a, b in pairwise(names)))
    (tmp_path / "consent.txt").write_text("First\nparagraph.\n\nSecond.")
    study = tmp_path / "study"
    run = CliRunner().invoke
    found = run(cli, [
        "study", "build", str(tmp_path / "pairs.csv"), "-o", str(study), "--raters", "2",
        "--methods", "decomposition,centre-box", "--consent", str(tmp_path / "consent.txt"),
        "--checks", "1", "--model", "studies:model",
    ])  # fmt: skip
    assert found.exit_code == 0, (found.output, found.exception)
    assert "2 comparisons and 1 attention checks for 2 raters" in found.output
    made = read_questionnaire(study)
    assert made.consent == ("First paragraph.", "Second.")
    (tmp_path / "a.json").write_text(saved(made, rater(made, "a", [1, 2])))
    found = run(cli, ["study", "report", str(study), str(tmp_path / "a.json"), "--json",
                      "-o", str(tmp_path / "r.html")])  # fmt: skip
    assert found.exit_code == 0, (found.output, found.exception)
    numbers = json.loads(found.output)
    assert [one["count"] for one in numbers["comparisons"][0]["answers"]] == [1, 1, 0, 0, 0]
    assert (tmp_path / "r.html").is_file()
    found = run(cli, ["study", "report", str(study), str(tmp_path / "a.json")])
    assert "decomposition, clearly" in found.output
    for arguments, message in (
        (["build", str(tmp_path / "none.csv"), "-o", str(tmp_path / "x")], "no such file"),
        (["build", str(tmp_path / "pairs.csv"), "-o", str(study)], "not empty"),
        (["build", "g", "-o", str(tmp_path / "x"), "--methods", "nothing,sharp"], "came 'nothing'"),
        (["run", str(tmp_path)], "study.json: cannot be read"),
        (["run", str(study), "--host", "0.0.0.0"], "--name HOST"),
        (["run", str(study), "--host", "0.0.0.0", "--name", "*"], "that of a host"),
        (["report", str(study), str(tmp_path / "none.json")], "no file of answers"),
    ):
        found = run(cli, ["study", *arguments])
        assert found.exit_code != 0
        assert message in f"{found.output} {found.exception}", arguments
    assert LABELS[2] == "About the same"
    assert picture(0).size == (50, 30)
