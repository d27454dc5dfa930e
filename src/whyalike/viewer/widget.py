"""Pairs and rankings in a notebook: the page's own module as an anywidget, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from whyalike.errors import RegionError
from whyalike.geometry import XY, XYXY, Frame
from whyalike.pair import Pair, Side
from whyalike.viewer import results
from whyalike.viewer.export import below, static, viewer_data

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float
    from torch import Tensor


def module() -> str:
    """The page's modules and what ties them to a notebook, as one module."""
    return results.module() + below("widget.js", imports=2)


class _Marked(anywidget.AnyWidget):
    """A viewer whose mark, a point or a region of one photograph, is the same here and there."""

    _esm = module()
    _css = static("viewer.css") + static("results.css")
    _data = traitlets.Dict().tag(sync=True)
    _state = traitlets.Dict().tag(sync=True)

    point: XY | None = traitlets.Any(None, allow_none=True)  # type: ignore[assignment]
    region: XYXY | None = traitlets.Any(None, allow_none=True)  # type: ignore[assignment]
    side: Side = traitlets.Enum(("query", "reference"), "query")  # type: ignore[assignment]
    _following = False

    def mark(
        self,
        *,
        point: Sequence[float] | None = None,
        region: Sequence[float] | None = None,
        side: Side = "query",
    ) -> None:
        """Mark a point or a region of one photograph, or, with neither, nothing.

        Args:
            point: (x, y) in pixels of the photograph.
            region: (x1, y1, x2, y2), the same; give one of the two.
            side: the photograph, "query" or "reference".

        Raises:
            RegionError: it does not lie on what the network saw of the photograph.
        """
        if point is not None and region is not None:
            raise RegionError("a mark is a point or a region; came both")
        point, region = self._checked(side, point, region)
        with self._held():
            self.point, self.region, self.side = point, region, side
        mark: dict[str, Any] | None = None
        if point is not None or region is not None:
            where = {"xyxy": list(region)} if point is None else {"xy": list(point)}  # type: ignore[arg-type]
            mark = {"side": side, **where}
        self._state = {**self._state, "mark": mark, "pinned": mark is not None, "view": "point"}

    def map(self) -> Float[Tensor, "h w"]:
        """What the picture shows: the map of the mark over the other photograph, signed.

        Without a mark, the overall map of the reference.
        """
        pair = self._pair()
        if self.point is not None:
            return pair.point_map(**{f"{self.side}_xy": self.point})
        if self.region is not None:
            return pair.region_map(**{f"{self.side}_xyxy": self.region})  # type: ignore[arg-type]
        return pair.overall_map("reference")

    def _pair(self) -> Pair:
        raise NotImplementedError

    def _shown(self, side: Side) -> dict[str, Any]:
        raise NotImplementedError

    def _checked(self, side: Side, point: Any, region: Any) -> tuple[XY | None, XYXY | None]:
        photo = self._shown(side)
        frame = Frame(tuple(photo["size_wh"]), tuple(photo["view_xyxy"]), (1, 1))
        if point is not None:
            frame.point_weights(point)
            point = tuple(map(float, point))
        if region is not None:
            frame.box_coverage(region)
            region = tuple(map(float, region))
        return point, region

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Traits change together, and what watches them here does not answer."""
        before, self._following = self._following, True
        try:
            with self.hold_trait_notifications():
                yield
        finally:
            self._following = before

    @traitlets.validate("point", "region")
    def _check(self, proposal: Any) -> XY | XYXY | None:
        is_point = proposal.trait.name == "point"
        given = (proposal.value, None) if is_point else (None, proposal.value)
        point, region = self._checked(self.side, *given)
        return point if is_point else region

    @traitlets.observe("point", "region")
    def _marked_here(self, change: Any) -> None:
        if not self._following:
            self.mark(**{change.name: change.new}, side=self.side)

    @traitlets.observe("_state")
    def _marked_there(self, change: Any) -> None:
        mark = change.new.get("mark")
        side, point, region = self.side, None, None
        if mark is not None:
            side = mark.get("side")
            if side not in ("query", "reference"):
                raise RegionError(f'a mark lies on "query" or "reference"; came {side!r}')
            point, region = self._checked(side, mark.get("xy"), mark.get("xyxy"))
        with self._held():
            self.point, self.region, self.side = point, region, side


class PairView(_Marked):
    """A pair in a notebook.

    >>> view = pair.view()  # doctest: +SKIP
    >>> view.region = (40, 30, 120, 110)  # doctest: +SKIP

    `point` (x, y) or `region` (x1, y1, x2, y2), and `side`, the photograph that it lies on, are
    what was chosen in the picture last, by a click, a drag or keys, in pixels of the photograph;
    None where nothing is. Setting one moves the picture: `point` and `region` on the photograph of
    `side`, `mark(region=..., side="reference")` on the one named. `observe(function, "region")`
    tells of changes.

    Args:
        pair: to show.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        super().__init__(_data=viewer_data(pair.at_hand()))

    def _pair(self) -> Pair:
        return self.pair

    def _shown(self, side: Side) -> dict[str, Any]:
        shown: dict[str, Any] = self._data[side]
        return shown


class RankingView(_Marked):
    """A ranking in a notebook, with each of its pairs a click away.

    `opened` is the rank, from 1, of the pair that is open, or None for the list; it can be set.
    `point`, `region` and `side` are as in `PairView`, of the pair that is open, and are kept when
    the next one is opened: a region of the query is shown in one hit after another.

    Args:
        pair: gives the pair at a place of the ranking.
        data: as `whyalike.viewer.results` makes them.
    """

    opened: int | None = traitlets.Int(None, allow_none=True).tag(sync=True)  # type: ignore[assignment]

    def __init__(self, pair: Callable[[int], Pair], data: dict[str, Any]) -> None:
        self._pair_at, self._count = pair, len(data["hits"])
        self._known: tuple[int, Pair] | None = None
        asked = data["query"]
        state: dict[str, Any] = {"view": "overall", "mark": None, "pinned": False}
        alone = len(asked["boxes"]) + len(asked["points"]) + asked["masks"] == 1
        if alone and not (asked["masks"] or asked["without"] or asked["without_masks"]):
            where = {"xyxy": asked["boxes"][0]} if asked["boxes"] else {"xy": asked["points"][0]}
            state = {"view": "point", "mark": {"side": "query", **where}, "pinned": True}
        super().__init__(_data=data, _state=state)

    def _shown(self, side: Side) -> dict[str, Any]:
        hit = self._data["hits"][(self.opened or 1) - 1]
        shown: dict[str, Any] = self._data["query"]
        return shown if side == "query" else self._data["photos"][hit["photo"]]

    def _pair(self) -> Pair:
        index = (self.opened or 1) - 1
        if self._known is None or self._known[0] != index:
            self._known = index, self._pair_at(index)
        return self._known[1]

    @traitlets.validate("opened")
    def _check_opened(self, proposal: Any) -> int | None:
        rank: int | None = proposal.value
        if rank is not None and not 1 <= rank <= self._count:
            raise traitlets.TraitError(
                f"opened is a rank from 1 to {self._count}, or None; came {rank}"
            )
        return rank
