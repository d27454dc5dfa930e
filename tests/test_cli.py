"""The command line, as people run it: in a process of its own, but for the many bad inputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import whyalike
from whyalike.cli import main

FACTORY = """
import torch, whyalike as wa
torch.manual_seed(0)
def model():
    return wa.EmbeddingModel(torch.nn.Conv2d(3, 8, 8, 8), "mean", torch.nn.Linear(8, 4),
                             wa.Preprocess(size=(24, 40)))
def broken():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, 8)).eval()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photographs, a damaged one, and a model of one's own."""
    for name, seed in (("a.jpg", 3), ("b.png", 4)):
        noise = np.random.default_rng(seed).integers(0, 255, (60, 100, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:400])
    (tmp_path / "text.png").write_text("not an image\nat all")
    (tmp_path / "mine.py").write_text(FACTORY)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "whyalike", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )


def test_explain_prints_and_writes_everything(folder):
    outputs = ("-o", "pair.html", "-o", "pair.png", "-o", "pair.npz", "-o", "pair.pdf")
    where = ("--point", "50,30", "--region", "10,10,50.5,50")
    done = run(folder, "explain", "a.jpg", "b.png", "--model", "mine:model", *where, *outputs)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    numbers = [float(line.split()[-1]) for line in done.stdout.splitlines() if line[:3] in
               ("sim", "  r", "  q", "  b")]  # fmt: skip
    assert numbers[0] == pytest.approx(sum(numbers[1:]), abs=1e-6)
    assert "wrote pair.html" in done.stdout
    with Image.open(folder / "pair.png") as figure:
        assert figure.width > 1000
    assert (folder / "pair.pdf").read_bytes().startswith(b"%PDF")
    with np.load(folder / "pair.npz") as arrays:  # allow_pickle is off
        assert arrays["similarity"] == pytest.approx(arrays["terms"].sum(), abs=1e-6)
        assert arrays["matrix"].shape == (3, 5, 3, 5)
        assert arrays["point_maps"].shape == (1, 3, 5)
        e, v, b = (arrays[f"query_{name}"] for name in ("embedding", "values", "bias"))
        np.testing.assert_allclose(v.sum((0, 1)) + b, e, rtol=1e-5, atol=1e-6)
    mode = (folder / "pair.html").stat().st_mode & 0o777
    assert mode == (folder / "mine.py").stat().st_mode & 0o777
    assert not list(folder.glob(".whyalike-*"))


def test_json_is_all_numbers_and_nothing_else(folder):
    done = run(folder, "explain", "a.jpg", "b.png", "--model", "mine:model", "--bias", "--json",
               "--point", "50,30")  # fmt: skip
    found = json.loads(done.stdout)
    assert sum(found["terms"].values()) == pytest.approx(found["similarity"], abs=1e-6)
    overall = np.array(found["query"]["overall_map"])
    expected = found["terms"]["pairs"] + found["terms"]["reference_bias"]
    assert overall.sum() == pytest.approx(expected, abs=1e-6)
    assert np.array(found["points"][0]["reference_map"]).shape == (3, 5)
    assert found["query"]["size_wh"] == [100, 60]


BAD = {
    "no such file": (["a.jpg", "c.jpg"], "c.jpg: "),
    "damaged": (["broken.jpg", "b.png"], "broken.jpg: "),
    "not an image": (["a.jpg", "text.png"], "text.png: "),
    "a folder": (["a.jpg", "."], ".: "),
    "point outside": (["a.jpg", "b.png", "--point", "101,5"], "(101, 5) lies outside"),
    "point of one number": (["a.jpg", "b.png", "--point", "101"], "expected X,Y in pixels"),
    "empty region": (["a.jpg", "b.png", "--region", "9,9,9,20"], "x1 < x2"),
    "ending": (["a.jpg", "b.png", "-o", "x.html", "-o", "pair.bmp"], "pair.bmp: the ending says"),
    "folder for output": (["a.jpg", "b.png", "-o", "no/pair.html"], "no/pair.html: cannot be"),
    "layer": (["a.jpg", "b.png", "--layer", "0"], "already cut at"),
    "model": (["a.jpg", "b.png", "--model", "nothing"], "came 'nothing'"),
    "model fails": (["a.jpg", "b.png", "--model", "mine:broken"], "must return embeddings (N, d)"),
    "checkpoint": (["a.jpg", "b.png", "--checkpoint", "text.png"], "text.png: cannot be read"),
    "option": (["a.jpg", "b.png", "--nonsense"], "No such option"),
    "one image": (["a.jpg"], "Missing argument 'REFERENCE'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(name, folder, monkeypatch, capsys):
    arguments, message = BAD[name]
    model = [] if "--model" in arguments else ["--model", "mine:model"]
    before = sorted(p.name for p in folder.iterdir())
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(sys, "argv", ["whyalike", "explain", *model, "-o", "out.html", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.startswith("whyalike: ")
    assert len(printed.err.splitlines()) == 1
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == before


def test_bad_input_in_a_process_of_its_own(folder):
    done = run(folder, "explain", "broken.jpg", "b.png", "--model", "mine:model", "-o", "out.html")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("whyalike: broken.jpg: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "out.html").exists()


def test_an_output_that_cannot_be_written_leaves_the_others_unwritten(folder):
    (folder / "taken.html").mkdir()
    done = run(folder, "explain", "a.jpg", "b.png", "--model", "mine:model",
               "-o", "pair.png", "-o", "taken.html")  # fmt: skip
    assert done.returncode == 2
    assert not (folder / "pair.png").exists()
    assert not list(folder.glob(".whyalike-*"))


def test_help_does_not_wait_for_torch(folder):
    code = (
        "import sys; from whyalike.cli import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'timm', 'numpy', 'matplotlib', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "whyalike explain a.jpg b.jpg" in done.stdout


def test_version_and_models(folder):
    assert run(folder, "--version").stdout.strip().endswith(whyalike.__version__)
    listed = run(folder, "models", "resnet1?").stdout
    assert "  timm:resnet18\n" in listed
    assert "EfficientNet-Lite0" in listed
    as_json = json.loads(run(folder, "models", "resnet1?", "--json").stdout)
    assert {"model": "timm:resnet18", "pretrained": True} in as_json


def test_demo_explains_two_photographs_that_are_here(folder):
    done = run(folder, "demo", "--out", "new/demo", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert sum(found["terms"].values()) == pytest.approx(found["similarity"], abs=1e-6)
    assert found["query"]["name"] == "grace_hopper.jpg"
    assert (folder / "new/demo/pair.html").stat().st_size > 100_000
    with Image.open(folder / "new/demo/pair.png") as figure:
        assert figure.width > 1000
    again = run(folder, "demo", "--out", "new/demo")
    assert again.returncode == 0
    assert "wrote new/demo/pair.html" in again.stdout.replace(os.sep, "/")
