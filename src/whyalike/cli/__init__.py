"""The command line: arguments only, one function a command.

torch and all that needs it is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import NoReturn

import click

from whyalike import __version__
from whyalike.cli import (
    diagnose,
    evaluate,
    explain,
    gallery,
    networks,
    orient,
    patterns,
    serve,
    study,
    train,
)  # fmt: skip
from whyalike.cli.terminal import say
from whyalike.errors import WhyalikeError, in_one_line


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="whyalike")
def cli() -> None:
    """Why are these two images alike?

    Shows, exactly, which regions of two images carry the similarity that an embedding model
    gives them.

    \b
    Examples:
      whyalike demo
      whyalike explain a.jpg b.jpg -o pair.html
      whyalike explain a.jpg b.jpg --model timm:resnet50 -o pair.html -o pair.png
      whyalike index photos/ -o photos.lance
      whyalike search photos.lance query.jpg --region 40,30,120,110
      whyalike serve photos.lance
      whyalike train photos/ -o model
      whyalike evaluate localization --data cub:CUB_200_2011 --limit 200
      whyalike evaluate correspondence
      whyalike diagnose --model first --model second --data cub:CUB_200_2011 -o models.html
      whyalike study build pairs.csv -o birds --methods sharp,grad-cam
      whyalike orient ground.jpg aerial.jpg --model towers
      whyalike patterns --data cvusa:CVUSA --model towers -o patterns.html
      whyalike models 'resnet*'
    """


for _command in (
    explain.demo, explain.explain, networks.models, networks.export, networks.import_checkpoint,
    gallery.index, gallery.search, gallery.remove, serve.serve, train.train, evaluate.evaluate,
    diagnose.diagnose, orient.orient, orient.world, patterns.patterns, study.study,
):  # fmt: skip
    cli.add_command(_command)


def main() -> None:
    """The entry point: an error is one line and exit code 2, or a traceback with WHYALIKE_DEBUG."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without × or →
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: say(str(message))
            # Third parties' deprecations are for us, not for a user at a terminal.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        _fail(error.format_message())
    except Exception as error:
        if os.environ.get("WHYALIKE_DEBUG"):
            raise
        if isinstance(error, WhyalikeError):
            _fail(str(error))
        _fail(f"unexpected {in_one_line(error)} (set WHYALIKE_DEBUG=1 for the traceback)")


def _fail(message: str) -> NoReturn:
    say(message)
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except OSError:  # what it holds has no place to go to; let the exit not complain of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(2)
