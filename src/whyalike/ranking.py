"""A ranking: a list that shows itself in a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

Ranked = TypeVar("Ranked")


class Ranking(list[Ranked]):
    """What a query was compared with, as a list; in a notebook it shows itself as one page.

    Args:
        ranked: pairs with one query, or hits of a search.
        gallery: that was searched, for hits.
        where, exact: as it was searched, to say it.
    """

    def __init__(
        self,
        ranked: Iterable[Ranked],
        *,
        gallery: Any = None,
        where: str | None = None,
        exact: bool = True,
    ) -> None:
        super().__init__(ranked)
        self._searched, self._where, self._exact = gallery, where, exact

    def view(self) -> Any:
        """The ranking in a notebook, as `whyalike.viewer.widget.RankingView`.

        Raises:
            ViewError: the package anywidget is missing, or there is nothing to show.
        """
        from whyalike.save import view_ranking  # the door upward, as in pair.py

        return view_ranking(self, self._searched, where=self._where, exact=self._exact)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        from whyalike.save import ranking_in_notebook

        if not self:
            return {}
        return ranking_in_notebook(self, self._searched, self.view)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """IPython's words for a list come before those of the bundle, but for this."""
        from whyalike.save import in_notebook, ranking_in_words

        if in_notebook():
            printer.text(ranking_in_words(self))
        else:
            printer.pretty(list(self))
