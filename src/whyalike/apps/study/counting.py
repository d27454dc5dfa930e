"""What raters said, in numbers: shares with intervals, sign tests, agreement, and who counts."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import krippendorff
import numpy as np
from scipy.stats import binomtest

from whyalike.apps.study.answers import Rater
from whyalike.apps.study.questionnaire import MIDDLE, Questionnaire
from whyalike.errors import StudyError

FASTEST = 1.0
"""Seconds: who takes less for most of their answers has not looked."""
CONFIDENCE = 0.95
MONOTONE = 8
"""From so many comparisons, one side for all of them is no answer, as methods change sides."""


@dataclass(frozen=True)
class Interval:
    """A share and where it lies with 95 % (E. B. Wilson, 1927).

    Args:
        count, total: whose share.
        share, low, high: count / total and the ends; None where the total is 0.
    """

    count: int
    total: int
    share: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Sign:
    """How often the first was preferred to the second, and how likely that is by chance.

    Args:
        first, second: how many preferred each; ties are left out.
        p: two-sided, of the binomial test of one half; None where nobody preferred either.
    """

    first: int
    second: int
    p: float | None


@dataclass(frozen=True)
class Summary:
    """What was said of two methods.

    Args:
        first, second: the methods.
        answers: of the five answers, "first, clearly" to "second, clearly", the shares.
        mean: of the answers from +2, clearly the first, to −2, clearly the second.
        ratings: the sign test over all answers. They are not independent, as one rater gives many
            and one question gets many, so its p is too small.
        raters: over raters, each by the sign of their mean;
        items: over questions, the same.
        alpha: Krippendorff's, ordinal; None where it is not defined.
    """

    first: str
    second: str
    answers: tuple[Interval, ...]
    mean: float | None
    ratings: Sign
    raters: Sign
    items: Sign
    alpha: float | None


@dataclass(frozen=True)
class Found:
    """Who was counted, and what they said.

    Args:
        counted: the raters.
        excluded: the others, each with the reason.
        summaries: of each two methods.
    """

    counted: tuple[Rater, ...]
    excluded: tuple[tuple[Rater, str], ...]
    summaries: tuple[Summary, ...]


def summarise(
    made: Questionnaire,
    raters: Sequence[Rater],
    *,
    fastest: float = FASTEST,
    failed: int = 0,
) -> Found:
    """Sum up the answers of the raters who count.

    Args:
        made: what was asked.
        raters: of `read_answers`.
        fastest: seconds an answer takes at least; a rater whose median is below is excluded.
        failed: attention checks that a rater may fail.

    Raises:
        StudyError: `fastest` or `failed` below 0.
    """
    if fastest < 0 or failed < 0:
        raise StudyError(f"fastest and failed are 0 or more; came {fastest} and {failed}")
    counted: list[Rater] = []
    excluded: list[tuple[Rater, str]] = []
    seen: set[str] = set()
    for rater in raters:
        reason = rater.refused or why_excluded(made, rater, fastest=fastest, failed=failed)
        if reason is None and rater.name in seen:
            reason = "answered before; the first time counts"
        if reason is None:
            seen.add(rater.name)
            counted.append(rater)
        else:
            excluded.append((rater, reason))
    twos = dict.fromkeys((one.first, one.second) for one in made.comparisons)
    table = preferences(made, counted)
    summaries = []
    for first, second in twos:
        of = [one.first == first and one.second == second for one in made.comparisons]
        summaries.append(_summary(first, second, table[:, of]))
    return Found(tuple(counted), tuple(excluded), tuple(summaries))


def why_excluded(
    made: Questionnaire, rater: Rater, *, fastest: float = FASTEST, failed: int = 0
) -> str | None:
    """Why a rater does not count; None for one who does."""
    lacking = [one.id for one in made.questions if one.id not in rater.answers]
    if lacking:
        return f"left {len(lacking)} of {len(made.questions)} questions unanswered"
    plan = made.plan(rater.slot)
    wrong = [
        placed.question.id
        for placed in plan
        if placed.expected is not None
        and rater.answers[placed.question.id].answer != placed.expected
    ]
    if len(wrong) > failed:
        checks = len(made.checks)
        return f"failed {len(wrong)} of {checks} attention checks ({', '.join(wrong)})"
    seconds = [one.seconds for one in rater.answers.values() if one.seconds is not None]
    if not seconds and rater.seconds is not None:
        seconds = [rater.seconds / len(made.questions)]
    if seconds and median(seconds) < fastest:
        return f"took {median(seconds):.1f} seconds for an answer, less than {fastest:g}"
    given = {rater.answers[one.id].answer for one in made.comparisons}
    if len(made.comparisons) >= MONOTONE and len(given) == 1 and given != {MIDDLE}:
        robot = "A" if given.pop() < MIDDLE else "B"
        return f"gave every comparison the same answer, for robot {robot}"
    return None


def preferences(made: Questionnaire, raters: Sequence[Rater]) -> np.ndarray:
    """Answers as they speak of the methods, (raters, comparisons), 1 clearly the first to 5."""
    place = {one.id: at for at, one in enumerate(made.comparisons)}
    table = np.full((len(raters), len(place)), np.nan)
    for row, rater in enumerate(raters):
        for placed in made.plan(rater.slot):
            if placed.question.check is None:
                answer = rater.answers[placed.question.id].answer
                table[row, place[placed.question.id]] = placed.preference(answer)
    return table


def wilson(count: int, total: int) -> Interval:
    """A share with Wilson's interval."""
    if not total:
        return Interval(count, total, None, None, None)
    found = binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(count, total, count / total, float(found.low), float(found.high))


def agreement(table: np.ndarray) -> float | None:
    """Krippendorff's alpha for ordinal answers; None where there is nothing to agree on.

    That is with fewer than two raters, or where all answers are one.

    Args:
        table: (raters, items), NaN where one is missing.
    """
    if len(table) < 2 or len(np.unique(table[~np.isnan(table)])) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # items that one rater has answered
        alpha = float(
            krippendorff.alpha(
                reliability_data=table, level_of_measurement="ordinal", value_domain=[1, 2, 3, 4, 5]
            )
        )
    return alpha if math.isfinite(alpha) else None


def _summary(first: str, second: str, table: np.ndarray) -> Summary:
    given = table[~np.isnan(table)]
    count = Counter(int(one) for one in given)
    for_first = MIDDLE - table  # +2, clearly the first, to −2
    some = table.size > 0
    return Summary(
        first,
        second,
        tuple(wilson(count[one], len(given)) for one in range(1, 6)),
        float(for_first.mean()) if some else None,
        _sign(for_first.ravel()),
        _sign(for_first.mean(1) if some else np.zeros(0)),
        _sign(for_first.mean(0) if some else np.zeros(0)),
        agreement(table),
    )


def _sign(values: np.ndarray) -> Sign:
    first, second = int((values > 0).sum()), int((values < 0).sum())
    p = float(binomtest(first, first + second).pvalue) if first + second else None
    return Sign(first, second, p)
