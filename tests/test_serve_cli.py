"""`whyalike serve` from the command line: it starts, it stops, or says in one line why not."""

from __future__ import annotations

import builtins
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import whyalike as wa
from galleries import photographs
from serving import Client
from whyalike.cli import cli, main

FACTORY = """
import torch, whyalike as wa
def model():
    torch.manual_seed(0)
    trunk = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.ReLU())
    return wa.EmbeddingModel(trunk, "mean", None, wa.Preprocess(size=(24, 40)))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gallery of a model of one's own, in the folder that one is in."""
    (tmp_path / "mine.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "photos", 4)
    done = CliRunner().invoke(
        cli, ["index", "photos", "-o", "photos.lance", "--model", "mine:model"],
        catch_exceptions=False,
    )  # fmt: skip
    assert done.exit_code == 0
    return tmp_path


def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> str:
    """The one line that is said, with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["whyalike", "serve", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.strip().splitlines()
    assert len(lines) == 1, said.err
    return lines[0]


def test_it_serves_until_it_is_told_to_stop(folder: Path) -> None:
    """What was begun before is finished."""
    with subprocess.Popen(
        [sys.executable, "-m", "whyalike", "serve", "photos.lance", "--model", "mine:model",
         "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
             "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            address = re.fullmatch(r"serving photos\.lance at (http://127\.0\.0\.1:\d+/)\n", line)
            assert address, (line, process.communicate(timeout=5))
            assert "Ctrl-C" in process.stdout.readline()
            client = Client(address[1])
            assert client.ask("/").status == 200
            one = client.photos()[0]["id"]

            def slowly() -> Iterator[bytes]:
                yield b'{"query": {"photo": '
                process.send_signal(signal.SIGTERM)
                time.sleep(0.5)
                yield f'"{one}"}}}}'.encode()

            kind = {"Content-Type": "application/json"}
            found = client.ask("/api/search", slowly(), headers=kind)
            assert (found.status, len(found.json()["hits"])) == (200, 4)
            _, err = process.communicate(timeout=60)
            assert (process.returncode, err) == (0, "whyalike: stopped\n")
        finally:
            process.kill()
    with pytest.raises(ConnectionRefusedError):
        client.ask("/")


def test_why_it_cannot_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = refused(capsys, monkeypatch, "nothing.lance")
    assert "there is no gallery; make one with `whyalike index" in said
    assert "made with --model mine:model; give that again" in refused(
        capsys, monkeypatch, "photos.lance"
    )
    mine = ("photos.lance", "--model", "mine:model")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(capsys, monkeypatch, *mine, "--port", str(port))
        assert f"127.0.0.1:{port} cannot be listened at: Address already in use; give" in said
    said = refused(capsys, monkeypatch, *mine, "--host", "no.such.host.invalid")
    assert "--host no.such.host.invalid: is no address of this machine" in said
    assert "16 to 200 letters" in refused(capsys, monkeypatch, *mine, "--token", "short")


def test_without_the_extra_it_says_what_to_install(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("whyalike.viewer.server")]:
        monkeypatch.delitem(sys.modules, name)
    usual = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] in ("starlette", "uvicorn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return usual(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    said = refused(capsys, monkeypatch, "photos.lance", "--model", "mine:model")
    assert "needs uvicorn; pip install 'whyalike[serve]'" in said


def test_help_has_examples_and_brings_nothing_heavy() -> None:
    done = CliRunner().invoke(cli, ["serve", "--help"])
    assert "whyalike serve photos.lance --port 0 --open" in done.output
    code = (
        "import sys; from whyalike.cli import cli\n"
        "try: cli(['serve', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'starlette', 'uvicorn', 'lance', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert wa.__version__
