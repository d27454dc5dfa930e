"""whyalike patterns."""

from __future__ import annotations

import click

from whyalike.cli.evaluate import finish, pictured, report_paths
from whyalike.cli.network import Network, two_network_options
from whyalike.cli.options import json_option, report_option, seed_option, split_of
from whyalike.cli.terminal import steps, working


@click.command()
@click.option("--data", required=True, metavar="LAYOUT:PATH", help="Pairs of two views: "
              "cvusa:PATH and the like, or manifest:FILE, a table with columns query and "
              "reference.")  # fmt: skip
@click.option("--split", metavar="NAME", help="Only this split; default: val, where there is one.")
@click.option("--limit", type=click.IntRange(1), default=500, show_default=True, metavar="N",
              help="At most so many pairs, evenly spread.")  # fmt: skip
@click.option("--kinds", type=click.IntRange(1, 26), default=8, show_default=True, metavar="N",
              help="Of region, of each view, at most.")  # fmt: skip
@click.option("--each", type=click.IntRange(1, 1000), default=8, show_default=True, metavar="N",
              help="Strongest matches of a pair, at most.")  # fmt: skip
@seed_option("Of the kinds.")
@report_option
@two_network_options("the references")
@json_option
def patterns(
    data: str,
    split: str | None,
    limit: int,
    kinds: int,
    each: int,
    seed: int,
    outputs: tuple[str, ...],
    network: Network,
    as_json: bool,
) -> None:
    """Which kinds of region answer which across two views, over many pairs.

    The cells that carry most together, of each pair, are sorted into kinds by what they give; a
    table says what any two kinds carry of the score, and rows of patches show what they are: road
    to road, roof to facade.

    \b
    Examples:
      whyalike patterns --data cvusa:CVUSA --model towers -o patterns.html
      whyalike patterns --data manifest:pairs.csv --model my:seen --reference-model my:infrared
      whyalike patterns --data cvusa:CVUSA --model towers --kinds 12 --json
    """
    paths = report_paths(outputs, network)
    with working("reading the data set"):
        from whyalike.data import read

        found = split_of(read(data), split)
    with working("loading the networks"):
        query_model, of_reference = network.load_two()
    with steps() as tell:
        from whyalike.apps.patterns import find_patterns
        from whyalike.apps.patterns_report import report
        from whyalike.zoo import blaming

        with blaming("running the network"):
            measured = find_patterns(query_model, of_reference, found, kinds=kinds, each=each,
                                     limit=limit, seed=seed, tell=tell)  # fmt: skip
        made = report(measured, pictures=pictured(paths))
    finish(made, measured.left_out, paths, as_json)
