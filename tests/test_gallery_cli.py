"""Galleries from the command line: index, kill, resume, add, delete, search, explain."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import whyalike as wa
from galleries import photographs, picture
from whyalike.cli import cli, main
from whyalike.gallery import open_manifest

FACTORY = """
import torch, whyalike as wa
def model():
    torch.manual_seed(0)
    trunk = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.ReLU())
    project = torch.nn.Sequential(torch.nn.Linear(8, 7), torch.nn.ReLU(), torch.nn.Linear(7, 16))
    return wa.EmbeddingModel(trunk, "mean", project, wa.Preprocess(size=(24, 40)))
def other():
    return wa.EmbeddingModel(torch.nn.Conv2d(3, 8, 8, 8), "max", None, wa.Preprocess(size=32))
"""
MINE = ("--model", "mine:model")


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "whyalike", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
    )


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return subprocess.CompletedProcess(arguments, 0, out, err)


def run_here(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """In this process, as importing torch takes seconds; the folder is the one that we are in."""
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return subprocess.CompletedProcess(arguments, 0, done.stdout, done.stderr)


def rows(path: Path) -> int:
    """How many a gallery that another process may be writing has."""
    return len(wa.Gallery.open(path)) if open_manifest(path) is not None else 0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    picture(7, (50, 33)).save(tmp_path / "query.png")
    return tmp_path


def lives(folder: Path, count: int, commit: int, run: Callable[..., Any]) -> None:
    """Index, kill, resume, add, change, delete, search, explain, all as a person does it."""
    photos, made = folder / "photos", folder / "photos.lance"
    paths = photographs(photos, count)
    (photos / "a" / "broken.jpg").write_bytes(paths[0].read_bytes()[:100])
    arguments = ("index", "photos", "-o", "photos.lance", *MINE, "--commit-rows", str(commit))
    process = start(folder, *arguments, "--batch-size", "8")
    while process.poll() is None and rows(made) < commit:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = rows(made)
    assert 0 < kept <= count

    done = json.loads(run(folder, *arguments, "--json").stdout)
    assert (done["images"], done["added"], done["unchanged"]) == (count, count - kept, kept)
    assert [Path(one["path"]).name for one in done["failed"]] == ["broken.jpg"]
    undisturbed = json.loads(
        run(folder, "index", "photos", "-o", "other.lance", *MINE, "--json").stdout
    )
    assert undisturbed["images"] == count
    tables = [
        wa.Gallery.open(folder / name)._now.table.to_table(columns=["id", "content", "embedding"])
        .sort_by("id") for name in ("photos.lance", "other.lance")
    ]  # fmt: skip
    assert tables[0].select(["id", "content"]) == tables[1].select(["id", "content"])
    E = [np.array(table["embedding"].to_pylist()) for table in tables]
    np.testing.assert_allclose(E[0], E[1], atol=1e-6)

    photographs(photos, 10, start=count)
    picture(5000).save(paths[0])
    paths[1].unlink()
    done = run(folder, "index", "photos", "-o", "photos.lance", *MINE)
    assert f"{count + 10:,} photographs: 10 added, 1 read again, " in done.stdout
    assert "1 are gone from disk; --prune removes them" in done.stdout
    assert "broken.jpg: " in done.stderr
    done = json.loads(run(folder, "index", "-o", "photos.lance", *MINE, "--prune", "--json").stdout)
    assert (done["images"], done["pruned"]) == (count + 9, 1)
    done = json.loads(run(folder, "remove", "photos.lance", str(paths[2]), "--json").stdout)
    assert done == {"removed": 1, "images": count + 8}

    found = json.loads(
        run(
            folder, "search", "photos.lance", "query.png", *MINE, "--region", "8,4,30,22", "--json",
            "-k", "5", "--where", "label = 'b'", "--explain", "1", "pair.npz",
            "--explain", "2", "pair.png", "-o", "results.html",
        ).stdout
    )  # fmt: skip
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3, 4, 5]
    assert {hit["label"] for hit in found["hits"]} == {"b"}
    first = found["hits"][0]
    assert found["files"] == ["pair.npz", "pair.png", "results.html"]
    assert "<!doctype html>" in (folder / "results.html").read_text()
    with np.load(folder / "pair.npz") as arrays:
        assert arrays["similarity"] == pytest.approx(first["whole"], abs=1e-5)
        assert arrays["reference_name"] == Path(first["path"]).name
    with Image.open(folder / "pair.png") as figure:
        assert figure.width > 1000


def test_a_gallery_lives(folder):
    lives(folder, count=150, commit=40, run=run_here)


@pytest.mark.slow
def test_a_gallery_of_2000_lives(folder):
    lives(folder, count=2000, commit=300, run=run)


BAD = {
    "no gallery": (("search", "none.lance", "query.png"), "none.lance: there is no gallery"),
    "no query": (("search", "g.lance", "none.png"), "none.png: there is no such file"),
    "off the photograph": (
        ("search", "g.lance", "query.png", *MINE, "--region", "900,900,950,950"), "outside"),
    "no box": (("search", "g.lance", "query.png", "--region", "1,2,3"), "expected X1,Y1,X2,Y2"),
    "another model": (("search", "g.lance", "query.png", "--model", "mine:other"), "another model"),
    "a factory that is not named again": (
        ("search", "g.lance", "query.png"), "was made with --model mine:model; give that again"),
    "no condition": (
        ("search", "g.lance", "query.png", *MINE, "--where", "colour = 1"), "no condition"),
    "no index": (("search", "g.lance", "query.png", *MINE, "--approximate"), "has no index"),
    "no such rank": (
        ("search", "g.lance", "query.png", *MINE, "-k", "2", "--explain", "3", "x.png"),
        "--explain takes the rank"),
    "over the query": (
        ("search", "g.lance", "query.png", *MINE, "--explain", "1", "query.png"),
        "is one of the inputs"),
    "a page of another kind": (
        ("search", "g.lance", "query.png", *MINE, "-o", "results.png"), "one of .html"),
    "a page over a pair": (
        ("search", "g.lance", "query.png", *MINE, "--explain", "1", "a.html", "-o", "./a.html"),
        "give them other names"),
    "a page of nothing": (
        ("search", "g.lance", "query.png", *MINE, "-o", "results.html", "--where", "label = 'x'"),
        "the search found none"),
    "nothing matches": (("index", "*.gif", "-o", "h.lance", *MINE), "nothing matches"),
    "no images": (("index", "empty", "-o", "h.lance", *MINE), "no images are there"),
    "a folder of something else": (
        ("index", "photos", "-o", "photos", *MINE), "is a folder that is no gallery"),
    "a file": (("index", "photos", "-o", "mine.py", *MINE), "mine.py: "),
    "other maps": (
        ("index", "photos", "-o", "g.lance", *MINE, "--maps", "none"), "keeps maps 'full'"),
    "no photographs yet": (("index", "-o", "h.lance", *MINE), "there is no gallery yet"),
    "nothing to remove": (("remove", "g.lance"), "name photographs or give --where"),
    "not there": (("remove", "g.lance", "photos/none.png"), "has no such file"),
}  # fmt: skip


def test_bad_input_is_one_line_and_code_2(folder, monkeypatch, capsys):
    """In one process, as each would take seconds to import torch."""
    photographs(folder / "photos", 4)
    (folder / "empty").mkdir()
    before = sorted(path.name for path in folder.iterdir())
    monkeypatch.setattr(sys, "argv", ["whyalike", "index", "photos", "-o", "g.lance", *MINE])
    main()
    capsys.readouterr()
    for what, (arguments, message) in BAD.items():
        monkeypatch.setattr(sys, "argv", ["whyalike", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        assert (stopped.value.code, out, err.count("\n")) == (2, "", 1), (what, err)
        assert message in err, what
    after = sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
    assert after == sorted([*before, "g.lance"])


def test_the_default_network_needs_not_be_named(folder):
    photographs(folder / "photos", 3)
    (folder / "table.csv").write_text("path,year\nphotos/a/0000.png,1999\nphotos/b/0001.png,2020\n")
    done = run_here(folder, "index", "table.csv", "-o", "g.lance", "--maps", "none")
    assert "2 to read; maps none: 10.5 kB an image, 21 kB in all" in done.stderr
    mask = np.zeros((33, 50), np.uint8)
    mask[:, 25:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    done = run_here(folder, "search", "g.lance", "query.png", "--mask", "mask.png", "--without",
               "0,0,10,10", "--json")  # fmt: skip
    found = json.loads(done.stdout)
    assert found["model"].startswith("1280×7×7 map of EfficientNet")
    assert sorted(hit["metadata"]["year"] for hit in found["hits"]) == [1999, 2020]
    done = run_here(
        folder, "search", "g.lance", "query.png", "--mask", "mask.png", "--weight", "-1"
    )
    assert len(done.stdout.splitlines()) == 3
