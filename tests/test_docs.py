"""Every block of Python and every command in the README and in docs/ runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from whyalike.data.samples import demo_pair
from whyalike.data.synthetic import digit_scenes, write_scenes

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "all-of-whyalike.md",
    ROOT / "docs" / "across-views.md",
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the pages take for granted in the folder that one is in: photographs, a data set."""
    for name, source in zip(("query.jpg", "reference.jpg"), demo_pair(), strict=True):
        shutil.copy(source, tmp_path / name)
    write_scenes(tmp_path / "digits", digit_scenes(12, seed=0))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(page.read_text()) if kind == language]


def test_only_languages_that_are_run_are_used():
    for page in ROOT.glob("docs/*.md"):
        kinds = {kind for kind, _ in BLOCK.findall(page.read_text())}
        assert kinds <= {"python", "bash"}, page
        assert page in PAGES or not kinds, page


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks(page, folder):
    found = blocks(page, "python")
    assert found
    namespace: dict = {}
    for code in found:
        exec(compile(code, str(page), "exec"), namespace)


LONG = [pytest.param(page, marks=[pytest.mark.slow] if page != PAGES[0] else []) for page in PAGES]


@pytest.mark.parametrize("page", LONG, ids=lambda p: p.name)
def test_commands(page, folder):
    lines = [line for code in blocks(page, "bash") for line in code.splitlines() if line]
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "whyalike"
        done = subprocess.run(
            [sys.executable, "-m", "whyalike", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        assert done.returncode == 0, (line, done.stderr)


def test_links_and_pictures_are_there():
    for page in ROOT.glob("**/*.md"):
        if any(part.startswith(".") for part in page.relative_to(ROOT).parts):
            continue
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), (page, target)


def test_the_readme_begins_with_the_two_commands_and_a_picture():
    text = (ROOT / "README.md").read_text()
    assert text.index("make demo") < text.index("make test") < text.index("![")
    assert text.index("![") < text.index("```python")
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", text):
        assert f"\n{target}:" in makefile
