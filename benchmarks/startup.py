"""How long until it is there: importing it, and asking the command for help?"""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import whyalike
from benchmarks.tables import Table, verdict
from benchmarks.timing import alternate, ratio

ROUNDS = 10
IMPORT_BUDGET = 1.5
HELP_BUDGET = 0.5  # seconds

ABOUT = f"""\
Wall time of fresh Python processes, which take turns for {ROUNDS} rounds; the package is compiled
to bytecode, as pip leaves it. `import whyalike` alone brings in nothing heavy; its names are
imported when they are first used, and `load` brings timm and torchvision, whose own import is in
the table as well. The budgets are {IMPORT_BUDGET} × `import torch` and {HELP_BUDGET} s for the
command's help, which does not import torch (checked)."""

IMPORTS = {
    "python -c pass": "pass",
    "import torch": "import torch",
    "import whyalike": "import whyalike",
    "whyalike.explain_pair": "import whyalike; whyalike.explain_pair",
    "whyalike.load, whyalike.explain_pair": (
        "import whyalike; whyalike.load; whyalike.explain_pair"
    ),
    "import torch, torchvision, timm": "import torch, torchvision, timm",
}


def run() -> Table:
    """Time imports and the command."""
    with tempfile.TemporaryDirectory() as folder:
        python = _Python(Path(folder))
        python.check()
        codes = list(IMPORTS.values())
        tasks = [lambda code=code: python("-c", code) for code in codes]
        *imports, helped = alternate(
            *tasks, lambda: python("-m", "whyalike", "--help"), rounds=ROUNDS
        )
    base = imports[codes.index("import torch")]
    rows = []
    for name, seconds in zip(IMPORTS, imports, strict=True):
        cost = ratio(seconds, base)
        budget = verdict(cost.median, IMPORT_BUDGET) if "whyalike" in name else ""
        rows.append([f"`{name}`", f"{np.median(seconds):.2f}", str(cost), budget])
    seconds = float(np.median(helped))
    budget = verdict(seconds, HELP_BUDGET, " s")
    rows.append(["`whyalike --help`", f"{seconds:.2f}", str(ratio(helped, base)), budget])
    return Table("Starting", ABOUT, ["process", "s", "/ import torch", "budget"], rows)


class _Python:
    """Runs Python with a compiled copy of the package: a checkout may have been told to keep none.

    Args:
        folder: an empty folder for the copy.
    """

    def __init__(self, folder: Path) -> None:
        source = Path(whyalike.__file__).parent
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, folder / "whyalike", ignore=ignored)
        compileall.compile_dir(folder, quiet=1)
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": str(folder)}

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.environment,
            cwd=self.folder,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    def check(self) -> None:
        """The copy is what runs, the help is there, and does not wait for torch."""
        found = self("-c", "import whyalike; print(whyalike.__file__)").strip()
        assert Path(found).is_relative_to(self.folder.resolve()), found
        assert "Usage" in self("-m", "whyalike", "--help")
        code = "import sys, whyalike.cli; print('torch' in sys.modules)"
        assert self("-c", code).strip() == "False"
