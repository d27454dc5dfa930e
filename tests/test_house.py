"""The house stays in order: public names, import contract, types, style, no remote hosts."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import whyalike as wa

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(sysconfig.get_path("scripts"))


def test_public_names_are_pinned():
    assert sorted(wa.__all__) == [
        "Contributions",
        "Depth",
        "EmbeddingModel",
        "Gallery",
        "Hit",
        "Match",
        "Pair",
        "Preprocess",
        "Terms",
        "WhyalikeError",
        "__version__",
        "contrast",
        "explain_pair",
        "explain_ranking",
        "load",
    ]
    for name in wa.__all__:
        assert getattr(wa, name) is not None
    assert dir(wa) == sorted(wa.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        wa.nothing  # noqa: B018


@pytest.mark.parametrize(
    "command",
    [["lint-imports"], ["mypy"], ["ruff", "check", "."], ["ruff", "format", "--check", "."]],
    ids=" ".join,
)
def test_tools_are_content(command):
    program = str(SCRIPTS / command[0])
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_importing_brings_nothing_heavy():
    heavy = {"torch", "timm", "transformers", "PIL", "lance", "pyarrow"}
    code = f"import whyalike, sys; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_in_the_changelog():
    assert f"## {wa.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_page_and_its_parts_name_no_host():
    for path in (ROOT / "src").rglob("*"):
        if path.suffix in {".py", ".js", ".css"}:
            hosts = re.findall(r"https?://[^\s\"'`)]+", path.read_text())
            own = "://{"  # the local web app's, whatever it is
            assert all("www.w3.org/2000/svg" in h or own in h for h in hosts), (path, hosts)
