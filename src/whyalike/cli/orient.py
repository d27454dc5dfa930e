"""whyalike orient, world."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from whyalike.cli.evaluate import finish, report_paths
from whyalike.cli.network import Network, two_network_options
from whyalike.cli.options import Numbers, json_option, report_option, seed_option, split_of
from whyalike.cli.terminal import put, steps, working
from whyalike.errors import ImageError, in_one_line
from whyalike.files import check_input, check_outputs

if TYPE_CHECKING:
    from whyalike.apps.orientation import Compass
    from whyalike.model import EmbeddingModel

DIRECTIONS = {"north": 0.0, "east": 90.0, "south": 180.0, "west": 270.0}
Towers = tuple["EmbeddingModel", "EmbeddingModel"]


@click.command()
@click.argument("photographs", nargs=-1, metavar="[GROUND AERIAL]")
@click.option("--data", metavar="LAYOUT:PATH", help="Measure on the pairs of a data set, such as "
              "cvusa:PATH, in the place of one pair.")  # fmt: skip
@click.option("--split", metavar="NAME", help="Only this split; default: val, where there is one.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many pairs.")
@click.option("--turn", type=click.Choice(["panorama", "tile", "none"]), default="panorama",
              show_default=True, help="What is turned by angles by lot, so that there is something "
              "to find.")  # fmt: skip
@seed_option("Of the lot.")
@click.option("--camera", type=Numbers("X,Y"), help="Where AERIAL has the camera, in pixels; "
              "default: its middle.")  # fmt: skip
@click.option("--zero", type=click.Choice([*DIRECTIONS]), default="south", show_default=True,
              help="The direction told as 0°.")  # fmt: skip
@click.option("--clockwise/--counterclockwise", default=True, help="How angles grow; default: "
              "clockwise.")  # fmt: skip
@click.option("--animate", "animations", multiple=True, metavar="FILE", help="Write the moving "
              "point of GROUND AERIAL as .html or .gif; may be given several times.")  # fmt: skip
@report_option
@two_network_options("the views from above")
@json_option
def orient(
    photographs: tuple[str, ...],
    data: str | None,
    split: str | None,
    limit: int | None,
    turn: Literal["panorama", "tile", "none"],
    seed: int,
    camera: tuple[float, float] | None,
    zero: str,
    clockwise: bool,
    animations: tuple[str, ...],
    outputs: tuple[str, ...],
    network: Network,
    as_json: bool,
) -> None:
    """Which way a street camera looks, read out of the maps of a pair across views.

    GROUND is a panorama of 360°, AERIAL the view from above, north up. The heading is that of the
    panorama's middle column, told as in the paper: 0° south, 90° west, 180° north. Of a data set,
    each panorama begins at a column by lot, and the headings found are held to it.

    \b
    Examples:
      whyalike orient ground.jpg aerial.jpg --model towers --animate heading.html
      whyalike orient ground.jpg aerial.jpg --model towers --camera 300,280 --zero north --json
      whyalike orient --data cvusa:CVUSA --model towers -o headings.html
      whyalike orient --data cvusa:CVUSA --model published:siamese_vgg16 --checkpoint w.safetensors
    """
    if (len(photographs) != 2) if data is None else bool(photographs):
        raise click.UsageError("give GROUND and AERIAL, or --data LAYOUT:PATH; not both")
    if data is None:
        if outputs:
            raise click.UsageError("-o writes what --data finds; of one pair, --animate writes")
        moving = _Moving(photographs, camera, DIRECTIONS[zero], clockwise, animations)
        moving.run(network, as_json)
        return
    if animations or camera:
        raise click.UsageError("--animate and --camera are for one pair, GROUND AERIAL")
    paths = report_paths(outputs, network)
    with working("reading the data set"):
        from whyalike.data import read

        found = split_of(read(data), split)
    ground, aerial = _load(network)
    with steps() as tell:
        from whyalike.apps.orientation_evaluation import evaluate_orientation
        from whyalike.apps.orientation_report import report
        from whyalike.zoo import blaming

        with blaming("running the network"):
            measured = evaluate_orientation(ground, aerial, found, turn=turn, limit=limit,
                                            seed=seed, tell=tell)  # fmt: skip
    finish(report(measured), measured.left_out, paths, as_json)


class _Moving:
    """One pair: what is said of it and written."""

    def __init__(
        self,
        photographs: Sequence[str],
        camera: tuple[float, float] | None,
        zero: float,
        clockwise: bool,
        animations: Sequence[str],
    ) -> None:
        self.photographs, self.camera = photographs, camera
        self.compass = zero, clockwise
        for path in photographs:
            check_input(path, ImageError, "give photographs")
        self.paths = check_outputs(animations, photographs, [".html", ".gif"])

    def run(self, network: Network, as_json: bool) -> None:
        network.checked_files()
        ground, aerial = _load(network)
        with working("explaining"):
            from whyalike.apps import moving_point
            from whyalike.apps.orientation import Compass, estimate, told, votes
            from whyalike.pair import explain_pair

            compass: Compass = Compass(*self.compass)
            pair = explain_pair(ground, *self.photographs, reference_model=aerial)
            found = estimate(pair, self.camera)
            if self.paths:
                moving_point.save_moving(pair, *self.paths, camera_xy=self.camera, compass=compass,
                                         found=found["votes"])  # fmt: skip
        if as_json:
            put(json.dumps({"similarity": pair.similarity, "terms": pair.terms._asdict(),
                            "voted": float(votes(pair, self.camera)[0].real),
                            "zero": compass.zero,
                            "clockwise": compass.clockwise, "estimates": told(found, compass),
                            "written": [str(path) for path in self.paths]}))  # fmt: skip
            return
        lines = [f"similarity {pair.similarity:.4f}"]
        for name, one in found.items():
            modes = [f"{compass.angle(m.heading):6.1f}° ({100 * m.probability:.0f} %)"
                     for m in one.modes]  # fmt: skip
            lines.append(f"{name:8} " + " or ".join(modes))
        put(*lines, *(f"wrote {path}" for path in self.paths))


def _load(network: Network) -> Towers:
    with working("loading the networks"):
        return network.load_two()


@click.command()
@click.argument("folder", metavar="FOLDER")
@click.option("--seen", type=click.IntRange(1), default=3000, show_default=True, metavar="N",
              help="Places to train on.")  # fmt: skip
@click.option("--unseen", type=click.IntRange(1), default=1000, show_default=True, metavar="N",
              help="Places to measure on.")  # fmt: skip
@seed_option("Of the world.")
@click.option("--aerial-size", type=click.IntRange(16, 2048), default=224, show_default=True,
              metavar="PIXELS", help="Side of a view from above, which shows 96 m.")  # fmt: skip
@click.option("--panorama-size", type=Numbers("WIDTH,HEIGHT"), default="512,96", show_default=True,
              help="Of a panorama.")  # fmt: skip
@json_option
def world(
    folder: str,
    seen: int,
    unseen: int,
    seed: int,
    aerial_size: int,
    panorama_size: tuple[float, ...],
    as_json: bool,
) -> None:
    """Write a world by lot: places from the street and from above, in the layout of CVUSA.

    Roads, houses, trees, fields and water, in two seasons and lights; north is known. To try
    `whyalike train --pairs` and `whyalike orient` on, where CVUSA is not at hand.

    \b
    Examples:
      whyalike world world
      whyalike world world --seen 2000 --unseen 500 --aerial-size 96 --panorama-size 256,40
    """
    sides: list[Any] = [int(side) for side in panorama_size]
    if not all(16 <= side <= 4096 for side in sides):
        raise click.UsageError(f"--panorama-size: 16 to 4096 pixels a side; came {sides}")
    if Path(folder).exists() and (not Path(folder).is_dir() or any(Path(folder).iterdir())):
        raise click.UsageError(f"{folder}: is there already; give a new folder")
    with steps() as tell:
        from whyalike.data.worlds import write_world
        from whyalike.errors import OutputFileError

        try:
            for done in write_world(folder, seen, unseen, seed=seed, aerial=aerial_size,
                                    panorama_wh=(sides[0], sides[1])):  # fmt: skip
                tell("places", done, seen + unseen)
        except OSError as error:
            raise OutputFileError(f"{folder}: cannot be written: {in_one_line(error)}") from error
    if as_json:
        put(json.dumps({"folder": folder, "seen": seen, "unseen": unseen, "seed": seed}))
        return
    put(f"wrote {seen + unseen:,} places to {folder}, for cvusa:{folder}")
