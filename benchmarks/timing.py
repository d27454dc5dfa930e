"""Timing functions that take turns, and what their ratios say."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Spread:
    """A median, and the 10th and 90th percentile around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        """The spread of some measurements."""
        low, median, high = np.percentile(values, [10, 50, 90])
        return cls(float(median), float(low), float(high))

    def __str__(self) -> str:
        digits = 3 if self.median < 3 else 2 if self.median < 10 else 1
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def alternate(*tasks: Callable[[], Any], rounds: int, warmups: int = 2) -> np.ndarray:
    """Seconds that each task took in each round, as (tasks, rounds).

    The tasks take turns: A B C, then C B A, and so on, so that drift and neighbours meet all of
    them alike. What a task returns is thrown away.
    """
    for _ in range(warmups):
        for task in tasks:
            task()
    seconds = np.empty((len(tasks), rounds))
    for number in range(rounds):
        order = range(len(tasks)) if number % 2 == 0 else reversed(range(len(tasks)))
        for index in order:
            start = time.perf_counter()
            tasks[index]()
            seconds[index, number] = time.perf_counter() - start
    return seconds


def ratio(seconds: np.ndarray, base: np.ndarray) -> Spread:
    """The ratios within each round: what happened in one round is compared with itself alone."""
    return Spread.of(seconds / base)


def milliseconds(seconds: np.ndarray) -> str:
    """The median, for the reader who wants to know what a ratio is of."""
    return f"{1000 * float(np.median(seconds)):.3g}"
