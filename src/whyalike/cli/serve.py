"""whyalike serve."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from whyalike.cli.gallery import gallery_network
from whyalike.cli.network import Network, network_options
from whyalike.cli.options import storage_option
from whyalike.cli.terminal import put, say, working
from whyalike.errors import WhyalikeError, in_one_line

if TYPE_CHECKING:
    from whyalike.gallery import Gallery
    from whyalike.model import EmbeddingModel
    from whyalike.viewer.server.running import Serving


class _Token(click.ParamType[str]):
    """What goes into an address and a cookie as it is."""

    name = "TOKEN"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if not re.fullmatch(r"[A-Za-z0-9._~-]{16,200}", str(value)):
            self.fail("a token is 16 to 200 letters, digits and ._~-")
        return str(value)


@click.command()
@click.argument("gallery", metavar="GALLERY")
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Where to listen; 0.0.0.0 is every address of this machine.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True,
              help="0 is any that is free.")  # fmt: skip
@click.option("--token", type=_Token(), envvar="WHYALIKE_TOKEN", metavar="TOKEN",
              help="What a browser must know; made and printed where other machines can reach "
              "HOST. Better in WHYALIKE_TOKEN, as others can see a command line.")  # fmt: skip
@click.option("--name", "names", multiple=True, metavar="NAME",
              help="Another name that browsers know this machine by.")  # fmt: skip
@click.option("--open/--no-open", "opened", default=False, show_default=True,
              help="Open a browser.")  # fmt: skip
@network_options
@storage_option
def serve(
    gallery: str,
    host: str,
    port: int,
    token: str | None,
    names: tuple[str, ...],
    opened: bool,
    network: Network,
    storage: tuple[tuple[str, str], ...],
) -> None:
    """Look around in GALLERY, in a browser: search by any region, open pairs, compare hits.

    Only this machine can reach it, unless --host says otherwise. Photographs that are dropped into
    the page are held in memory alone. The model is the one that made the gallery; a function of
    yours, or one with a checkpoint, must be named again. Ctrl-C stops it.

    \b
    Examples:
      whyalike serve photos.lance
      whyalike serve photos.lance --port 0 --open
      whyalike serve photos.lance --model mymodels:make
      whyalike serve photos.lance --host 0.0.0.0 --name gallery.example
    """
    made = _serving(gallery, host, port, token, names, network, dict(storage) or None)
    put(f"serving {gallery} at {made.address}", "stop it with Ctrl-C")
    if made.token is not None:
        say("whoever knows the address with the token can see the gallery; it is not encrypted")
    if opened:
        import webbrowser

        webbrowser.open(made.address)
    made.run()
    say("stopped")
    made.leave()


def _serving(
    path: str,
    host: str,
    port: int,
    token: str | None,
    names: tuple[str, ...],
    network: Network,
    storage: dict[str, str] | None,
) -> Serving:
    with working("opening the gallery"):
        from whyalike.gallery import Gallery, open_manifest

        try:
            from whyalike.viewer.server.running import serve as serving
        except ModuleNotFoundError as error:
            raise WhyalikeError(
                f"whyalike serve needs {error.name}; pip install 'whyalike[serve]'"
            ) from error
        found = open_manifest(path, storage)
        named = None if found is None else gallery_network(found, network)

        def reopen() -> Gallery:
            return Gallery.open(path, storage_options=storage)

        def load() -> EmbeddingModel:
            assert named is not None
            try:
                return named.load()
            except Exception as error:
                reason = str(error) if isinstance(error, WhyalikeError) else in_one_line(error)
                say(f"the network could not be loaded: {reason}")
                raise

        return serving(reopen, load, host=host, port=port, token=token, names=names)
