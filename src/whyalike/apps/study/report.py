"""What raters said, to read: the paper's Figures 6 and 12, tables, and the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whyalike.apps.study.answers import Rater
from whyalike.apps.study.counting import Found, Sign, Summary, preferences
from whyalike.apps.study.questionnaire import LABELS, Questionnaire
from whyalike.evaluate import plots
from whyalike.evaluate.report import Figure, Report, Table, percent, shown


def report(made: Questionnaire, found: Found) -> Report:
    """The study as JSON, Markdown and a page, with the paper's Figure 6 or 12 for its methods."""
    figure = "Figure 6" if made.kind == "explanations" else "Figure 12"
    tables, figures = [], []
    for one in found.summaries:
        tables.append(_shares(one))
        if found.counted:
            figures.append(_figure(one, figure))
    if found.summaries:
        tables.append(_tests(found.summaries))
    tables.append(_raters(found))
    numbers = {
        "study": made.id,
        "kind": made.kind,
        "comparisons": [_numbers(one) for one in found.summaries],
        "raters": {
            "counted": [_who(rater) for rater in found.counted],
            "excluded": [{**_who(rater), "reason": reason} for rater, reason in found.excluded],
        },
        "answers": preferences(made, found.counted).astype(int).tolist(),
        "questions": [
            {"id": one.id, "first": one.first, "second": one.second, **one.about}
            for one in made.comparisons
        ],
    }
    return Report(made.title, _lead(found), _settings(made, found), numbers, tables, figures)


def _settings(made: Questionnaire, found: Found) -> dict[str, Any]:
    return {
        "study": made.id,
        "questions": f"{len(made.comparisons)} comparisons, {len(made.checks)} attention checks",
        "raters": f"{len(found.counted)} counted, {len(found.excluded)} excluded",
        "seed": made.seed,
        **made.settings,
    }


def _lead(found: Found) -> str:
    if not found.counted:
        return "No rater counts, so nothing can be said; the reasons are below."
    parts = []
    for one in found.summaries:
        clear = one.answers[0].share or 0.0, one.answers[4].share or 0.0
        parts.append(
            f"{one.first} was clearly more reasonable than {one.second} in {percent(clear[0])} % "
            f"of the answers, clearly less in {percent(clear[1])} %"
        )
    people = "rater" if len(found.counted) == 1 else "raters"
    return f"{'; '.join(parts)} ({len(found.counted)} {people})."


def names(one: Summary) -> list[str]:
    """The five answers as they speak of the methods."""
    return [
        f"{one.first}, clearly", f"{one.first}, slightly", "about the same",
        f"{one.second}, slightly", f"{one.second}, clearly",
    ]  # fmt: skip


def _shares(one: Summary) -> Table:
    rows = [
        [name, str(interval.count), percent(interval.share),
         f"{percent(interval.low)} to {percent(interval.high)}" if interval.total else ""]
        for name, interval in zip(names(one), one.answers, strict=True)
    ]  # fmt: skip
    about = (
        f"Which is more reasonable, in five answers. Shares are percent of "
        f"{one.answers[0].total} answers, with Wilson's 95 % interval for one share, as if answers "
        f"were independent. Raters saw “{LABELS[0]}” to “{LABELS[-1]}”, and the methods on "
        f"changing sides."
    )
    return Table(f"{one.first} or {one.second}", about, ("answer", "count", "%", "interval"), rows)


def _tests(summaries: Sequence[Summary]) -> Table:
    rows = []
    for one in summaries:
        for over, sign in (
            ("answers", one.ratings),
            ("raters", one.raters),
            ("questions", one.items),
        ):
            rows.append(
                [f"{one.first} or {one.second}, by {over}", str(sign.first), str(sign.second),
                 "" if sign.p is None else f"{sign.p:.3g}", shown(one.mean), shown(one.alpha)]
            )  # fmt: skip
    about = (
        "Sign tests: how many answers, raters (by the mean of their answers) and questions (the "
        "same) are for each, ties left out, and the two-sided p of a fair coin. Answers of one "
        "rater, or to one question, hang together, so the p by answers is too small; believe those "
        "by raters and by questions. Mean: from +2, clearly the first, to −2. Agreement: "
        "Krippendorff's alpha for ordinal answers, 1 for all alike, 0 for chance; empty where "
        "fewer than two raters count or all answers are one."
    )
    columns = ("sign test", "first", "second", "p", "mean", "alpha")
    return Table("Is it chance, and do raters agree?", about, columns, rows)


def _raters(found: Found) -> Table:
    rows = [[rater.name, rater.source, "counted"] for rater in found.counted]
    rows += [[rater.name, rater.source, reason] for rater, reason in found.excluded]
    about = (
        "Excluded are raters who left questions unanswered, failed attention checks, were too "
        "fast, always gave one side, or answered twice (the first time counts)."
    )
    return Table("Raters", about, ("rater", "from", "counted, or why not"), rows)


def _figure(one: Summary, figure: str) -> Figure:
    url = plots.bars(
        names(one),
        [interval.share or 0.0 for interval in one.answers],
        [(interval.low or 0.0, interval.high or 0.0) for interval in one.answers],
        "share of answers",
    )
    what = ", ".join(
        f"{name} {percent(interval.share)} %"
        for name, interval in zip(names(one), one.answers, strict=True)
    )
    caption = f"As the paper's {figure}: shares of the five answers with Wilson's 95 % intervals."
    return Figure(caption, [(what, url)], f"{one.first} or {one.second}", wide=True)


def _numbers(one: Summary) -> dict[str, Any]:
    def sign(test: Sign) -> dict[str, Any]:
        return {"first": test.first, "second": test.second, "p": test.p}

    return {
        "first": one.first,
        "second": one.second,
        "answers": [
            {"answer": name, "count": i.count, "share": i.share, "low": i.low, "high": i.high}
            for name, i in zip(names(one), one.answers, strict=True)
        ],
        "mean": one.mean,
        "sign_test": {
            "answers": sign(one.ratings), "raters": sign(one.raters), "questions": sign(one.items),
        },
        "alpha": one.alpha,
    }  # fmt: skip


def _who(rater: Rater) -> dict[str, Any]:
    return {"rater": rater.name, "from": rater.source, "slot": rater.slot}
