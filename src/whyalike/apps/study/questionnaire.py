"""A questionnaire: its questions, who sees them in which order, and what stands on which side."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from whyalike.errors import StudyError

FORMAT = 1
NAME = "study.json"
PICTURES = "pictures"
LARGEST = 20_000_000  # bytes of a study.json

LABELS = (
    "Robot A is clearly more reasonable",
    "Robot A is slightly more reasonable",
    "About the same",
    "Robot B is slightly more reasonable",
    "Robot B is clearly more reasonable",
)
"""The scale as a rater sees it; answers are 1 to 5, A stands on the left."""
MIDDLE = 3

Kind = Literal["explanations", "rankings"]
ASKED: dict[Kind, str] = {
    "explanations": "Whose explanation of why the two photographs are alike is more reasonable?",
    "rankings": "Whose photographs are more reasonable results for what is marked?",
}
INSTRUCTIONS: dict[Kind, tuple[str, ...]] = {
    "explanations": (
        "Two robots, A and B, have each compared the same two photographs. Each shows you where it "
        "looked: the few places that mattered most for how alike the two are keep their colour and "
        "are ringed; everything else is dimmed.",
        "Say whose explanation is more reasonable: which robot looked at the things that make the "
        "two alike? There is no right answer, and the robots change sides between questions.",
    ),
    "rankings": (
        "Someone has marked a region of a photograph. Two robots, A and B, have each looked for "
        "other photographs with the same thing in them, best first.",
        "Say whose results are more reasonable for what is marked. There is no right answer, and "
        "the robots change sides between questions.",
    ),
}
CONSENT = (
    "You take part of your own free will and may stop at any time by closing this page.",
    "What is kept: your answers, and how long each took. Nothing that says who you are.",
)


@dataclass(frozen=True)
class Shown:
    """A picture of a question.

    Args:
        file: its name in the folder `pictures`, which says nothing of the method.
        says: what it shows, in words, for who cannot see it.
    """

    file: str
    says: str


@dataclass(frozen=True)
class Question:
    """One screen of the questionnaire.

    Args:
        id: its name in results.
        first, second: the methods that are compared; of a check, none.
        shared: what both robots were given, where that is shown by itself.
        options: what the first and the second show, as many pictures each.
        about: of what it is: names of photographs, a region; for the report.
        check: None for a comparison; "told" tells which answer to give, "same" shows the same
            pictures twice.
        expected: of a check, the answer for a rater whose sides are not mirrored.
    """

    id: str
    first: str
    second: str
    shared: tuple[Shown, ...]
    options: tuple[tuple[Shown, ...], tuple[Shown, ...]]
    about: Mapping[str, Any]
    check: Literal["told", "same"] | None = None
    expected: int | None = None


@dataclass(frozen=True)
class Placed:
    """A question as one rater sees it.

    Args:
        question: which.
        first_left: whether the first method is robot A.
        expected: of a check, the answer that this rater should give.
    """

    question: Question
    first_left: bool
    expected: int | None = None

    @property
    def says(self) -> str | None:
        """What is asked instead of the usual question, of a check that tells."""
        if self.question.check != "told":
            return None
        assert self.expected is not None
        return f"To show that you are reading, please choose “{LABELS[self.expected - 1]}” here."

    def preference(self, answer: int) -> int:
        """An answer as it speaks of the methods: 1 is clearly the first, 5 clearly the second."""
        return answer if self.first_left else 6 - answer


@dataclass(frozen=True)
class Questionnaire:
    """All that raters are asked, and the key to what they answer, which they do not get.

    Args:
        kind: what is compared.
        title: over the page.
        questions: comparisons, then checks.
        consent, instructions: paragraphs of plain text.
        raters: for how many pages were made.
        seed: of order and sides.
        settings: what it was made with.
    """

    kind: Kind
    title: str
    questions: tuple[Question, ...]
    consent: tuple[str, ...]
    instructions: tuple[str, ...]
    raters: int
    seed: int
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.comparisons:
            raise StudyError("a questionnaire has a comparison at least; there is none")
        if self.raters < 1:
            raise StudyError(f"a questionnaire is for a rater at least; came {self.raters}")

    @cached_property
    def comparisons(self) -> tuple[Question, ...]:
        """The questions that are no checks."""
        return tuple(one for one in self.questions if one.check is None)

    @cached_property
    def checks(self) -> tuple[Question, ...]:
        """The questions that only tell whether a rater reads and looks."""
        return tuple(one for one in self.questions if one.check is not None)

    @cached_property
    def id(self) -> str:
        """Of what is asked, from its content: results name it."""
        return hashlib.sha256(self._content().encode()).hexdigest()[:12]

    def plan(self, slot: int) -> list[Placed]:
        """What the rater of a slot, from 0, sees, in order.

        Slots come in twos with the same order and mirrored sides, so that over any even number of
        slots each question has each method on the left equally often; in one slot, each method is
        on the left in half of the questions, or one more. The order is a row of a Latin square in
        which each question follows each other one equally often (E. J. Williams, 1949): over as
        many twos as there are questions, each question stands once in each place.
        """
        row, mirrored = divmod(slot, 2)
        n = len(self.comparisons)
        relabel = np.random.default_rng([self.seed, 0]).permutation(n)
        left = np.arange(n) % 2 == 0
        np.random.default_rng([self.seed, 1, row]).shuffle(left)
        placed = [
            Placed(self.comparisons[at], bool(left[at]) != bool(mirrored))
            for at in (int(relabel[i]) for i in latin_row(n, row))
        ]
        for number, check in reversed(list(enumerate(self.checks, 1))):
            assert check.expected is not None
            expected = 6 - check.expected if mirrored else check.expected
            place = round(number * n / (len(self.checks) + 1))
            placed.insert(place, Placed(check, not mirrored, expected))
        return placed

    def for_rater(self, slot: int, src: Mapping[str, str]) -> dict[str, Any]:
        """What the page of a rater holds: nothing in it tells which robot is which method.

        Args:
            slot: the rater's.
            src: where each picture is, by its file's name.
        """

        def shown(pictures: Sequence[Shown]) -> list[dict[str, str]]:
            return [{"src": src[one.file], "says": one.says} for one in pictures]

        questions = []
        for placed in self.plan(slot):
            one = placed.question
            sides = one.options if placed.first_left else one.options[::-1]
            questions.append(
                {
                    "id": one.id,
                    "asks": placed.says or ASKED[self.kind],
                    "shared": shown(one.shared),
                    "left": shown(sides[0]),
                    "right": shown(sides[1]),
                }
            )
        return {**self.front(), "slot": slot, "questions": questions}

    def front(self) -> dict[str, Any]:
        """What a page holds before anyone has agreed to anything."""
        return {
            "format": FORMAT,
            "study": self.id,
            "kind": self.kind,
            "title": self.title,
            "consent": list(self.consent),
            "instructions": list(self.instructions),
            "labels": list(LABELS),
            "count": len(self.questions),
        }

    def text(self) -> bytes:
        """What study.json holds."""
        return json.dumps({"id": self.id, **json.loads(self._content())}, indent=1).encode()

    def _content(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, default=str)


def latin_row(n: int, row: int) -> list[int]:
    """A row of the square in which, over n rows (2n for odd n), each follows each equally often."""
    zigzag = [0]
    for step in range(1, n):
        zigzag.append((zigzag[-1] + (step if step % 2 else -step)) % n)
    turned = [(one + row) % n for one in zigzag]
    return turned[::-1] if n % 2 and row // n % 2 else turned


def read_questionnaire(folder: str | Path) -> Questionnaire:
    """The questionnaire of a folder that `build` made, checked.

    Raises:
        StudyError: there is none, it was changed, or it is not one.
    """
    path = Path(folder) / NAME
    try:
        if path.stat().st_size > LARGEST:
            raise StudyError(f"{path}: is too large for a questionnaire")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise StudyError(
            f"{path}: cannot be read ({error.strerror}); a study is a folder that "
            f"`whyalike study build` made"
        ) from error
    except ValueError as error:
        raise StudyError(f"{path}: is no JSON: {error}") from error
    try:
        given, format_ = content.pop("id"), content.pop("format")
        if format_ != FORMAT:
            raise StudyError(f"{path}: has format {format_}; this version reads {FORMAT}")
        read = Questionnaire(
            **{
                **content,
                "questions": tuple(_question(one) for one in content["questions"]),
                "consent": tuple(map(str, content["consent"])),
                "instructions": tuple(map(str, content["instructions"])),
            }
        )
        if read.kind not in ASKED or read.id != given:
            raise ValueError("its id is not that of what it holds")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StudyError(
            f"{path}: is no questionnaire, or was changed by hand ({error}); build it again"
        ) from error
    return read


def _question(one: dict[str, Any]) -> Question:
    def shown(pictures: Sequence[Mapping[str, str]]) -> tuple[Shown, ...]:
        found = tuple(Shown(**picture) for picture in pictures)
        for picture in found:
            # Names are opened and served: nothing but what `build` writes.
            if not re.fullmatch(r"[0-9a-f]{24}\.jpg", picture.file):
                raise ValueError(f"a picture called {picture.file!r}")
        return found

    first, second = one["options"]
    made = Question(
        **{**one, "shared": shown(one["shared"]), "options": (shown(first), shown(second))}
    )
    if (made.check is None) != (made.expected is None) or made.expected not in (None, *range(1, 6)):
        raise ValueError(f"the expected answer of {made.id}")
    return replace(made, id=str(made.id))
