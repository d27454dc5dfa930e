"""The frame of every html file, which asks nothing of any other and runs only what is in it."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="whyalike">
<title>{title}</title>
<style>{css}</style>
</head>
<body{kind}>
{body}
{script}</body>
</html>
"""


def page(
    title: str,
    css: str,
    body: str,
    *,
    module: str = "",
    kind: str = "",
    allow: Sequence[str] = ("img-src data:",),
) -> str:
    """A whole page, with a Content-Security-Policy that allows its own style and script alone.

    Both are allowed by their hashes, so nothing that a file name says can run.

    Args:
        title: as text; it is escaped here.
        css: the style.
        body: html, in which whatever a stranger wrote is escaped already.
        module: the script, an ES module; none by default.
        kind: a class of the body.
        allow: what else is allowed; pages that a server gives may ask it for pictures.
    """
    css = "\n" + css
    policy = ["default-src 'none'", *allow, f"style-src {_hash(css)}"]
    script = ""
    if module:
        module = "\n" + module
        policy.append(f"script-src {_hash(module)}")
        script = f'<script type="module">{module}</script>\n'
    policy += ["base-uri 'none'", "form-action 'none'"]
    return _PAGE.format(
        policy=html.escape("; ".join(policy), quote=False),
        # A name that is not text on disk comes with lone surrogates, which no file can hold.
        title=html.escape(title.encode("utf-8", "replace").decode("utf-8")),
        css=css,
        kind=f' class="{kind}"' if kind else "",
        body=body,
        script=script,
    )


def _hash(block: str) -> str:
    digest = hashlib.sha256(block.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
