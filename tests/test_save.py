"""Saving: pairs of any sign, to every kind of file."""

import json

import numpy as np
import pytest
import torch

from whyalike.cli.explain import _report
from whyalike.contributions import Contributions
from whyalike.geometry import Frame
from whyalike.pair import Pair
from whyalike.viewer.export import viewer_data


def pair_of(similarity: int) -> Pair:
    """Cells of opposite and equal directions, whose sums meet at −1 or at a right angle."""
    x, y = torch.eye(2)
    frame = Frame((50, 30), (0.0, 0.0, 50.0, 30.0), (1, 2))
    values = {"query": [3 * x + y, x - y], "reference": [x, -3 * x]}  # 4x; −2x
    if similarity == 0:
        values["reference"] = [x + y, y - x]  # 2y
    return Pair(
        *(
            Contributions(torch.stack(v)[None], torch.zeros(2), sum(v), frame, name)
            for name, v in values.items()
        )
    )


@pytest.mark.parametrize("similarity", [0, -1])
def test_pairs_that_are_not_alike_are_saved(similarity, tmp_path, capsys):
    pair = pair_of(similarity)
    assert pair.similarity == similarity
    names = ("pair.html", "pair.png", "pair.npz")
    pair.save(*(tmp_path / name for name in names), points=[(25, 15)], regions=[(5, 5, 20, 20)])
    assert all((tmp_path / name).stat().st_size for name in names)
    with np.load(tmp_path / "pair.npz") as arrays:
        assert arrays["similarity"] == similarity

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    _report(pair, [], as_json=True)
    printed = json.loads(capsys.readouterr().out, parse_constant=refuse)
    for found in (printed["matches"], viewer_data(pair)["matches"]):
        assert {np.sign(match["value"]) for match in found} == {-1, 1}
        for match in found:
            expected = match["value"] / similarity if similarity else None
            assert match["share"] == pytest.approx(expected)
