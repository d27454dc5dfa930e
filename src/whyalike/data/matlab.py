"""Lists in .mat files, read in a process of their own.

scipy's reader is compiled code that a spoilt file can crash (a byte changed is enough), and takes
the process with it; so another one reads, and hands over plain JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from whyalike.errors import DataError
from whyalike.files import check_input
from whyalike.images import printable

MAX_BYTES = 1 << 28
"""Of a file, and of what it holds: the lists of public data sets take a tenth of it."""
MAX_MEMORY = 1 << 32
"""Of the other process, where the system can limit it."""
SECONDS = 300


def variables(file: Path, lacking: str) -> dict[str, Any]:
    """The variables of a .mat file of version 4 to 7, as plain lists, dicts, numbers and texts.

    A matrix is a list of rows, a struct array a list of dicts, a cell array a list, and what has
    one element is that element; text is a str, and a matrix of text a list of its rows.

    Args:
        file: the .mat file.
        lacking: what to do where it is not there, or not what it should be.

    Raises:
        DataError: it is not there, is too large, or cannot be read.
    """
    check_input(file, DataError, lacking)
    name = printable(str(file))
    if file.stat().st_size > MAX_BYTES:
        raise DataError(
            f"{name}: is larger than {MAX_BYTES:,} bytes; this is not the list expected"
        )
    program = str(Path(__file__).with_name("loadmat.py"))
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(
            [sys.executable, "-P", program, os.path.abspath(file), str(MAX_MEMORY), str(MAX_BYTES)],
            capture_output=True,
            timeout=SECONDS,
            env={**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
            check=True,
        )
        found = json.loads(done.stdout)
        if not isinstance(found, dict):
            raise ValueError(f"{type(found).__name__} instead of variables")
    except (subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", None) or b""
        lines = said.decode("utf-8", "replace").strip().splitlines() or ["its reader crashed"]
        raise DataError(
            f"{name}: cannot be read as a .mat file: {printable(lines[-1])[:200]}; {lacking}"
        ) from error
    return found
