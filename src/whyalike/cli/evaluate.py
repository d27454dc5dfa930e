"""whyalike evaluate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import click

from whyalike.cli.network import Network, network_options, two_network_options
from whyalike.cli.options import Sample, json_option, report_option, sample_options, seed_option
from whyalike.cli.terminal import put, say, steps, working
from whyalike.files import check_outputs

if TYPE_CHECKING:
    from whyalike.evaluate.report import Report
    from whyalike.model import EmbeddingModel

Tell = Callable[[str, int, int], None]


@click.group()
def evaluate() -> None:
    """Measure a model, or its maps, on data of which the truth is known.

    \b
    Data sets are named LAYOUT:PATH, in the layout in which they unpack: cub, cars, sop, inshop,
    market1501, lfw, fiw, casia, cvusa, cvact, vigor, folder, and manifest:FILE, a table (.csv,
    .parquet) with columns path, label, split, x0, y0, x1, y1, mask.

    \b
    Examples:
      whyalike evaluate localization --data cub:CUB_200_2011 --limit 200 -o maps.html
      whyalike evaluate faithfulness --help
    """


@evaluate.command()
@sample_options(None)
@click.option("--methods", metavar="NAME,NAME", help="Maps to measure, such as decomposition, "
              "sharp, grad-cam; default: ours, and others that take no minutes.")  # fmt: skip
@report_option
@network_options
@json_option
def localization(
    sample: Sample,
    methods: str | None,
    outputs: tuple[str, ...],
    network: Network,
    as_json: bool,
) -> None:
    """Do maps lie on the object? Boxes of photographs, found by thresholds of their maps.

    Each photograph is compared with another of its class. A box in the middle and random maps
    are always measured, too. The same command gives the same numbers.

    \b
    Examples:
      whyalike evaluate localization --data cub:CUB_200_2011 --limit 200
      whyalike evaluate localization --data cub:CUB_200_2011 --split unseen -o birds.html
      whyalike evaluate localization --data manifest:images.csv --methods sharp,grad-cam --json
    """
    paths = report_paths(outputs, network)
    with working("reading the data set"):
        from whyalike.evaluate.methods import USUAL

        names = _methods(methods, USUAL)
        found = sample.read()
    with _running(network) as (loaded, tell):
        from whyalike.evaluate.localization import evaluate_localization
        from whyalike.evaluate.localization_report import report

        measured = evaluate_localization(loaded, found, names, **sample.drawn, tell=tell)
        made = report(measured, pictures=pictured(paths))  # runs the network, too
    finish(made, measured.left_out, paths, as_json)


@evaluate.command()
@sample_options(10)
@click.option("--methods", metavar="NAME,NAME", help="Maps to measure; default: decomposition, "
              "sharp, grad-cam.")  # fmt: skip
@click.option("--fills", metavar="NAME,NAME", default="grey,blur", show_default=True,
              help="What hides pixels: grey, mean (the image's own), blur.")  # fmt: skip
@report_option
@network_options
@json_option
def faithfulness(
    sample: Sample,
    methods: str | None,
    fills: str,
    outputs: tuple[str, ...],
    network: Network,
    as_json: bool,
) -> None:
    """Do scores hang on what maps show? Pixels are hidden, and the network is asked again.

    Deletion and insertion, of the query alone and of both images; ROAD; and the change of the score
    that a map predicts for hidden boxes against the change measured. Hundreds of passes through the
    network for each pair and method. The same command gives the same numbers.

    \b
    Examples:
      whyalike evaluate faithfulness --data cub:CUB_200_2011
      whyalike evaluate faithfulness --data folder:photos --methods decomposition -o faithful.html
      whyalike evaluate faithfulness --data manifest:images.csv --fills grey,mean,blur --json
    """
    paths = report_paths(outputs, network)
    with working("reading the data set"):
        from whyalike.evaluate import faithfulness as faithful
        from whyalike.evaluate.perturbation import Fill

        names = _methods(methods, faithful.USUAL)
        kinds = [name.strip() for name in fills.split(",") if name.strip()]
        if not kinds or {*kinds} - {*get_args(Fill)}:
            raise click.UsageError(f"--fills: some of {', '.join(get_args(Fill))}; came {fills!r}")
        found = sample.read()
    with _running(network) as (loaded, tell):
        from whyalike.evaluate.faithfulness_report import report

        measured = faithful.evaluate_faithfulness(
            loaded, found, names, fills=cast(Any, kinds), **sample.drawn, tell=tell,
        )  # fmt: skip
    made = report(measured, pictures=pictured(paths))
    finish(made, measured.left_out, paths, as_json)


@evaluate.command()
@sample_options(10, "two")
@click.option("--methods", metavar="NAME,NAME", help="Maps to measure; default: decomposition, "
              "sharp, grad-cam.")  # fmt: skip
@report_option
@network_options
@json_option
def sanity(
    sample: Sample,
    methods: str | None,
    outputs: tuple[str, ...],
    network: Network,
    as_json: bool,
) -> None:
    """Are maps of the network, and of the pair? They are compared as either is another.

    As weights are drawn anew from the head down; as the reference is an impostor, the nearest of
    another class; and as there is noise in the query. The same command gives the same numbers.

    \b
    Examples:
      whyalike evaluate sanity --data cub:CUB_200_2011
      whyalike evaluate sanity --data folder:photos --methods decomposition,grad-cam -o sane.html
    """
    paths = report_paths(outputs, network)
    with working("reading the data set"):
        from whyalike.evaluate.sanity import USUAL, evaluate_sanity

        names = _methods(methods, USUAL)
        found = sample.read()
    with _running(network) as (loaded, tell):
        from whyalike.evaluate.sanity_report import report

        measured = evaluate_sanity(loaded, found, names, **sample.drawn, tell=tell)
    made = report(measured, pictures=pictured(paths))
    finish(made, measured.left_out, paths, as_json)


@evaluate.command()
@click.option("--data", metavar="LAYOUT:PATH", help="Photographs for homographies; default: the "
              "demo's two.")  # fmt: skip
@click.option("--methods", metavar="NAME,NAME", help="Some of decomposition, sharp, drawn (as "
              "explain draws), direction (the nearest v), cosine (the nearest features); default: "
              "all.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), metavar="N", default=10, show_default=True,
              help="So many photographs, spread evenly over all.")  # fmt: skip
@seed_option("Of the homographies.")
@report_option
@two_network_options("the second pictures")
@json_option
def correspondence(
    data: str | None,
    methods: str | None,
    limit: int,
    seed: int,
    outputs: tuple[str, ...],
    network: Network,
    as_json: bool,
) -> None:
    """Do point maps find what a point shows? Against matches that are known.

    Of a stereo pair that is here already, and of photographs under random homographies; beside the
    nearest features, a point left where it was, and chance. The same command gives the same
    numbers.

    \b
    Examples:
      whyalike evaluate correspondence
      whyalike evaluate correspondence --data folder:photos --limit 5 -o points.html
      whyalike evaluate correspondence --model my:sketch --reference-model my:photograph
    """
    paths = report_paths(outputs, network)
    with working("reading the data set"):
        from whyalike.evaluate.correspondence import METHODS, evaluate_correspondence

        names = None
        if methods is not None:
            names = [name.strip() for name in methods.split(",") if name.strip()]
        if bad := [name for name in names or () if name not in METHODS]:
            raise click.UsageError(
                f"--methods: a method is one of {', '.join(METHODS)}; came {bad[0]!r}"
            )
        photographs = None
        if data is not None:
            from whyalike.data import read

            found = read(data)
            count = min(limit, len(found))
            photographs = [found[i * len(found) // count].path for i in range(count)]
    with _running_two(network) as (loaded, other, tell):
        from whyalike.evaluate.correspondence_report import report

        measured = evaluate_correspondence(loaded, photographs, names, reference_model=other,
                                           seed=seed, tell=tell)  # fmt: skip
    made = report(measured, pictures=pictured(paths))
    finish(made, measured.left_out, paths, as_json)


def report_paths(outputs: Sequence[str], network: Network | None = None) -> list[Path]:
    """The files that a report is to be written to, none of which may be one that is read."""
    read = [] if network is None else network.checked_files()
    return check_outputs(outputs, read, [".json", ".md", ".html"])


@contextmanager
def _running(network: Network) -> Iterator[tuple[EmbeddingModel, Tell]]:
    """The network, to be run while a bar is shown."""
    with _running_two(network) as (loaded, _, tell):
        yield loaded, tell


@contextmanager
def _running_two(network: Network) -> Iterator[tuple[EmbeddingModel, EmbeddingModel, Tell]]:
    """The query's network and the reference's, to be run while a bar is shown."""
    with working("loading the network"):
        two = network.load_two()
    with steps() as tell:
        from whyalike.zoo import blaming

        with blaming("running the network"):
            yield *two, tell


def pictured(paths: Sequence[Path]) -> bool:
    return any(path.suffix.lower() == ".html" for path in paths)


def _methods(given: str | None, usual: Sequence[str]) -> list[str]:
    """Names of methods, checked; the usual ones where none are given."""
    from whyalike.evaluate.methods import named

    if given is None:
        return [*usual]
    names = [name.strip() for name in given.split(",") if name.strip()]
    try:
        named(names)
    except ValueError as error:
        raise click.UsageError(f"--methods: {error}") from error
    return names


def finish(
    made: Report, left_out: Sequence[tuple[str, str]], paths: Sequence[Path], as_json: bool
) -> None:
    from whyalike.images import printable

    made.save(*paths)
    if as_json:
        put(made.json())
        return
    for path, reason in left_out[:5]:
        say(f"left out: {printable(path)}: {reason}")
    if len(left_out) > 5:
        say(f"... and {len(left_out) - 5:,} more; --json has them all")
    tables = [line for table in made.tables for line in (table.text(), "")]
    put(made.lead, "", *tables, *(f"wrote {path}" for path in paths))
