"""whyalike study."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from whyalike.cli.gallery import gallery_model
from whyalike.cli.network import Network, network_options
from whyalike.cli.options import json_option, report_option, seed_option
from whyalike.cli.terminal import put, say, working
from whyalike.errors import StudyError
from whyalike.files import check_input, check_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from whyalike.apps.study.comparisons import Comparison
    from whyalike.gallery import Gallery

LOCAL = ("127.0.0.1", "localhost", "::1")


@click.group()
def study() -> None:
    """Ask people which of two robots is more reasonable, and sum up what they say.

    Two robots are two methods that explain the same pair, or two rankings for one region of a
    photograph. Raters do not learn which is which; order and sides change from rater to rater.

    \b
    Examples:
      whyalike study build pairs.csv -o birds --methods sharp,grad-cam --raters 20
      whyalike study run birds
      whyalike study report birds answers/ -o report.html
    """


@study.command()
@click.argument("source", metavar="PAIRS.csv|GALLERY")
@click.option("-o", "--out", "folder", required=True, metavar="FOLDER", help="New or empty.")
@click.option("--methods", metavar="NAME,NAME", help="The first is compared with each other: "
              "of `whyalike evaluate`, or with --regions region, whole, crop. Default: sharp,"
              "grad-cam, or region,whole.")  # fmt: skip
@click.option("--regions", metavar="FILE.csv", help="Compare rankings of GALLERY for: columns "
              "query, x0, y0, x1, y1.")  # fmt: skip
@click.option("--questions", type=click.IntRange(1), default=20, show_default=True, metavar="N",
              help="Pairs of a gallery, by lot; or the first rows of a table.")  # fmt: skip
@click.option("--raters", type=click.IntRange(1), default=10, show_default=True, metavar="N",
              help="So many pages, and rows for Mechanical Turk.")  # fmt: skip
@click.option("--checks", type=click.IntRange(0), default=2, show_default=True, metavar="N",
              help="Attention checks.")  # fmt: skip
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=0.02,
              show_default=True, help="Of the pixels that are highlighted.")  # fmt: skip
@click.option("-k", type=click.IntRange(1), default=5, show_default=True, help="Of each ranking.")
@click.option("--title", default="Two robots compared", show_default=True, help="Over the pages.")
@click.option("--consent", metavar="FILE", help="Your own text, with empty lines between "
              "paragraphs.")  # fmt: skip
@seed_option("Of order, sides and the lot.")
@click.option("--image-base", metavar="URL", help="Write a form and a batch for Mechanical Turk "
              "too, with pictures that you put below this address.")  # fmt: skip
@network_options
def build(
    source: str,
    folder: str,
    methods: str | None,
    regions: str | None,
    questions: int,
    raters: int,
    checks: int,
    share: float,
    k: int,
    title: str,
    consent: str | None,
    seed: int,
    image_base: str | None,
    network: Network,
) -> None:
    """Make a questionnaire of the pairs of a table (columns query, reference) or of a gallery.

    FOLDER/pages has a page for each rater that needs no server and saves a file. FOLDER/study.json
    says which robot is which: keep it to yourself.

    \b
    Examples:
      whyalike study build pairs.csv -o birds --methods sharp,grad-cam,grad-cam-no-norm
      whyalike study build photos.lance -o birds --questions 12
      whyalike study build photos.lance -o regions --regions regions.csv
      whyalike study build pairs.csv -o birds --image-base URL
    """
    if not methods:
        methods = "region,whole" if regions else "sharp,grad-cam"
    names = [one.strip() for one in methods.split(",") if one.strip()]
    paragraphs = None if consent is None else _paragraphs(consent)
    left_out: list[str] = []
    with working("making the questionnaire"):
        from whyalike.apps.study.build import build as write
        from whyalike.apps.study.questionnaire import CONSENT

        if regions is not None:
            found = _rankings(source, regions, names, questions, k, network, left_out.append)
        else:
            found = _explanations(source, names, questions, share, seed, network, left_out.append)
        made = write(
            found,
            folder,
            kind="explanations" if regions is None else "rankings",
            title=title,
            consent=CONSENT if paragraphs is None else paragraphs,
            checks=checks,
            raters=raters,
            seed=seed,
            image_base=image_base,
            settings={"methods": ", ".join(names), "source": Path(source).name,
                      **({"k": k} if regions else {"share of pixels": share})},
        )  # fmt: skip
    for one in left_out[:5]:
        say(f"left out: {one}")
    if len(left_out) > 5:
        say(f"... and {len(left_out) - 5:,} more")
    put(
        f"{len(made.comparisons)} comparisons and {len(made.checks)} attention checks for "
        f"{raters} raters",
        f"wrote {folder}/study.json (the key), {folder}/pages" + (", turk" if image_base else ""),
    )
    if image_base:
        put(f"put the files of {folder}/pictures at {image_base}")


@study.command()
@click.argument("folder", metavar="FOLDER")
@click.option("--answers", metavar="FILE.db", help="Where answers are kept; default: answers.db in "
              "FOLDER. A file with answers is gone on with.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen. Other "
              "than here, the page needs a key; the address that is said has it.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=8001, show_default=True)
@click.option("--name", "names", multiple=True, metavar="HOST", help="What raters call it "
              "in the address; needed with --host; may be given several times.")  # fmt: skip
def run(folder: str, answers: str | None, host: str, port: int, names: tuple[str, ...]) -> None:
    """Ask the questionnaire of FOLDER over the web; each answer is on disk at once.

    \b
    Examples:
      whyalike study run birds
      whyalike study run birds --host 0.0.0.0 --name study.example.org --answers birds.db
    """
    if host not in LOCAL and not names:
        raise click.UsageError(f"with --host {host}, say what raters call it: --name HOST")
    with working("reading the study"):
        from whyalike.apps.study.questionnaire import read_questionnaire

        made = read_questionnaire(folder)
        try:
            from whyalike.apps.study.server import serve
        except ImportError as error:
            raise StudyError(
                f"the package {error.name!r} is needed; install 'whyalike[serve]'"
            ) from error
    place = Path(folder, "answers.db") if answers is None else Path(answers)
    serve(made, folder, place, host=host, port=port, names=names, tell=put)


@study.command()
@click.argument("folder", metavar="FOLDER")
@click.argument("answers", nargs=-1, required=True, metavar="ANSWERS...")
@click.option("--fastest", type=click.FloatRange(0), default=1.0, show_default=True,
              metavar="SECONDS", help="Exclude who takes less for most answers.")  # fmt: skip
@click.option("--failed", type=click.IntRange(0), default=0, show_default=True, metavar="N",
              help="Attention checks that a rater may fail.")  # fmt: skip
@report_option
@json_option
def report(
    folder: str,
    answers: tuple[str, ...],
    fastest: float,
    failed: int,
    outputs: tuple[str, ...],
    as_json: bool,
) -> None:
    """Sum up ANSWERS to the questionnaire of FOLDER: files of pages, databases of `study run`,
    tables of Mechanical Turk's results, or folders of these.

    Shares of the five answers with Wilson's intervals (the paper's Figures 6 and 12), sign tests,
    Krippendorff's alpha, and who was excluded and why.

    \b
    Examples:
      whyalike study report birds answers/ -o report.html -o report.md
      whyalike study report birds birds/answers.db batch_results.csv --json
    """
    inputs = [one for one in answers if os.path.isfile(one)]
    paths = check_outputs(outputs, inputs, [".json", ".md", ".html"])
    with working("reading answers"):
        try:
            from whyalike.apps.study import counting
            from whyalike.apps.study import report as reports
        except ImportError as error:
            raise StudyError(
                f"the package {error.name!r} is needed; install 'whyalike[study]'"
            ) from error
        from whyalike.apps.study.answers import read_answers
        from whyalike.apps.study.questionnaire import read_questionnaire

        made = read_questionnaire(folder)
        raters = read_answers(made, answers)
        found = counting.summarise(made, raters, fastest=fastest, failed=failed)
        result = reports.report(made, found)
    if paths:
        result.save(*paths)
    if as_json:
        put(result.json())
        return
    put(result.lead, *("\n" + table.text() for table in result.tables))
    for path in paths:
        put(f"wrote {path}")


def _explanations(
    source: str, names: list[str], questions: int, share: float, seed: int, network: Network,
    left_out: Callable[[str], None],
) -> Iterator[Comparison]:  # fmt: skip
    from whyalike.apps.study.comparisons import (
        check_explanations,
        explanations,
        pairs_of_gallery,
        pairs_of_table,
    )

    check_explanations(names)
    if source.lower().endswith(".csv"):
        check_input(source, StudyError, "give a table with columns query and reference")
        pairs = pairs_of_table(source)[:questions]
        network.checked_files()
        model = network.load()
    else:
        opened = _opened(source, network)
        pairs = pairs_of_gallery(opened, questions, seed)
        assert opened.model is not None
        model = opened.model
    return explanations(model, pairs, names, share=share, seed=seed, left_out=left_out)


def _rankings(
    source: str, regions: str, names: list[str], questions: int, k: int, network: Network,
    left_out: Callable[[str], None],
) -> Iterator[Comparison]:  # fmt: skip
    from whyalike.apps.study.comparisons import check_rankings, rankings, regions_of_table

    check_rankings(names)
    check_input(regions, StudyError, "give a table with columns query, x0, y0, x1, y1")
    asked = regions_of_table(regions)[:questions]
    return rankings(_opened(source, network), asked, names, k=k, left_out=left_out)


def _opened(source: str, network: Network) -> Gallery:
    from whyalike.gallery import Gallery, open_manifest

    found = open_manifest(source)
    opened = Gallery.open(source)
    opened.use(gallery_model(found, network)[0])
    return opened


def _paragraphs(file: str) -> list[str]:
    check_input(file, StudyError, "give a text file")
    try:
        text = Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StudyError(f"{file}: is no text in UTF-8") from error
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]
