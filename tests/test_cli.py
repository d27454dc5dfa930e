"""The command line, as people run it: in a process of its own, but for the many bad inputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import whyalike
from whyalike.cli import cli, main
from whyalike.errors import LayerError

FACTORY = """
import torch, whyalike as wa
torch.manual_seed(0)
def model():
    return wa.EmbeddingModel(torch.nn.Conv2d(3, 8, 8, 8), "mean", torch.nn.Linear(8, 4),
                             wa.Preprocess(size=(24, 40)))
def broken():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, 8)).eval()
def grey():
    return wa.EmbeddingModel(torch.nn.Conv2d(1, 8, 8, 8), "mean", None, wa.Preprocess(size=32))
def grey_net():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 8, 8, 8), torch.nn.AdaptiveAvgPool2d(1),
                               torch.nn.Flatten())
def raises():
    raise ValueError("no weights\\nanywhere")
def leaves():
    raise SystemExit("bye")
def needs(weights):
    pass
class Late(torch.nn.Conv2d):
    made = False
    def forward(self, x):
        if self.made:
            raise KeyError("late")
        return super().forward(x)
def late():
    net = Late(3, 8, 8, 8).eval()
    model = wa.EmbeddingModel(net, "mean", None, wa.Preprocess(size=32))
    net.made = True
    return model
class Exp(torch.nn.Module):
    def forward(self, x):
        return x.exp()
def taylor():
    return wa.EmbeddingModel(torch.nn.Conv2d(3, 8, 8, 8), "mean", Exp().eval(),
                             wa.Preprocess(size=(24, 40)))
def talks():
    print("hello from the factory")
    return model()
def finer():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.ReLU(),
                              torch.nn.Conv2d(8, 8, 2, 2), torch.nn.ReLU(),
                              torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                              torch.nn.Linear(8, 4, bias=False))
    return wa.EmbeddingModel.from_module(net.eval(), "3", wa.Preprocess(size=(24, 40)))
instance = model()
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
    (tmp_path / "wrong.py").write_text("def model(:")
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)")
    (tmp_path / "link.png").symlink_to("b.png")
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capfd):
    """The command in this process, which has torch already; `apart` is as people run it."""

    def run_(*arguments: str) -> subprocess.CompletedProcess:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        monkeypatch.setattr(sys, "argv", ["whyalike", *arguments])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
        sys.modules.pop("mine", None)
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return run_


def apart(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
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
    done = apart(folder, "explain", "a.jpg", "b.png", "--model", "mine:model", *where, *outputs)
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


def test_json_is_all_numbers_and_nothing_else(run):
    done = run("explain", "a.jpg", "b.png", "--model", "mine:model", "--bias", "--json",
               "--point", "50,30")  # fmt: skip
    found = json.loads(done.stdout)
    assert sum(found["terms"].values()) == pytest.approx(found["similarity"], abs=1e-6)
    overall = np.array(found["query"]["overall_map"])
    expected = found["terms"]["pairs"] + found["terms"]["reference_bias"]
    assert overall.sum() == pytest.approx(expected, abs=1e-6)
    assert np.array(found["points"][0]["reference_map"]).shape == (3, 5)
    assert found["query"]["size_wh"] == [100, 60]
    assert found["taylor"] == {}


def test_what_is_expanded_to_first_order_is_told_with_its_size(run, folder):
    where = ("explain", "a.jpg", "b.png", "--model", "mine:taylor")
    size = json.loads(run(*where, "--json").stdout)["taylor"]["exp"]
    assert size > 1e-3
    said = run(*where).stdout
    assert f"first order only: exp ({size:.1%} of the embedding)\n" in said


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
    "checkpoint": (["a.jpg", "b.png", "--checkpoint", "text.png"], "text.png: is not a torch file"),
    "option": (["a.jpg", "b.png", "--nonsense"], "No such option"),
    "one image": (["a.jpg"], "Missing argument 'REFERENCE'"),
    "factory raises": (["--model", "mine:raises"], "mine:raises() raised ValueError: no weights"),
    "factory leaves": (["--model", "mine:leaves"], "mine:leaves() raised SystemExit: bye"),
    "factory needs": (
        ["--model", "mine:needs"],
        "called without arguments, and missing a required",
    ),
    "one channel": (["--model", "mine:grey"], "mine:grey() raised RuntimeError: Given groups=1"),
    "its probe": (["--model", "mine:grey_net"], "running the network raised RuntimeError: Given"),
    "it fails later": (["--model", "mine:late"], "running the network raised KeyError: 'late'"),
    "no folder": (["--model", "transformers:./away"], "there is no folder './away'"),
    "no embedding": (["--model", "transformers:.#first"], "#mean; came #first"),
    "no module": (["--model", ":x"], "came ':x'"),
    "relative module": (["--model", ".mine:model"], "came '.mine:model'"),
    "import fails": (
        ["--model", "wrong:model"],
        "for the model 'wrong:model' raised SyntaxError: ",
    ),
    "import leaves": (["--model", "leaving:model"], "raised SystemExit: 3"),
    "long name": (["-o", "n" * 300 + ".html"], "cannot be written: File name too long"),
    "the photograph": (["-o", "./b.png"], "b.png: is one of the inputs"),
    "the same by a link": (["-o", "link.png"], "link.png: is one of the inputs"),
    "checkpoint is a folder": (["--checkpoint", "."], ".: is a folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(name, folder, monkeypatch, capsys):
    arguments, message = BAD[name]
    arguments = ["a.jpg", "b.png", *arguments] if arguments[0].startswith("-") else arguments
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
    done = apart(
        folder, "explain", "broken.jpg", "b.png", "--model", "mine:model", "-o", "out.html"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("whyalike: broken.jpg: ")
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / "out.html").exists()


def test_an_output_that_cannot_be_written_leaves_the_others_unwritten(run, folder):
    (folder / "taken.html").mkdir()
    done = run("explain", "a.jpg", "b.png", "--model", "mine:model",
               "-o", "pair.png", "-o", "taken.html")  # fmt: skip
    assert done.returncode == 2
    assert not (folder / "pair.png").exists()
    assert not list(folder.glob(".whyalike-*"))


HEAVY = (
    "assert not {'torch', 'timm', 'transformers', 'numpy', 'matplotlib', 'rich'} & set(sys.modules)"
)


def test_help_does_not_wait_for_torch(folder):
    code = (
        "import sys; from whyalike.cli import cli\n"
        "try: cli(['--help'])\n"
        f"except SystemExit: pass\n{HEAVY}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "whyalike explain a.jpg b.jpg" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["a.jpg", "no.jpg"], ["a.jpg", "."], ["a.jpg", "b.png", "-o", "pair.bmp"],
     ["a.jpg", "b.png", "-o", "no/pair.html"], ["a.jpg", "b.png", "-o", "b.png"],
     ["a.jpg", "b.png", "--checkpoint", "no.pt"]],
    ids=" ".join,
)  # fmt: skip
def test_files_are_looked_at_before_torch_is_there(arguments, folder):
    code = (
        "import sys; from whyalike.cli import cli, main\n"
        "sys.argv = ['whyalike', 'explain', *sys.argv[1:]]\n"
        f"try: main()\nexcept SystemExit as stopped: assert stopped.code == 2\n{HEAVY}"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", [None, *cli.commands])
def test_each_example_of_the_help_is_a_line(name):
    command = cli.commands[name] if name else cli
    printed = CliRunner().invoke(cli, [name, "--help"] if name else ["--help"]).output
    assert "\\" not in printed
    assert "\b" not in printed
    examples = [line.strip() for line in command.help.splitlines() if "  whyalike " in line]
    assert examples
    for example in examples:
        assert f"\n    {example}\n" in printed


def test_what_a_factory_prints_is_not_among_the_numbers(folder):
    done = apart(folder, "explain", "a.jpg", "b.png", "--model", "mine:talks", "--json")
    assert json.loads(done.stdout)["similarity"]
    assert done.stderr == "hello from the factory\n"


def test_a_module_may_be_named_as_it_is(run):
    done = run("explain", "a.jpg", "b.png", "--model", "mine:instance")
    assert done.returncode == 0, done.stderr


def test_one_output_named_twice_is_written_once(run, folder):
    done = run("explain", "a.jpg", "b.png", "--model", "mine:model",
               "-o", "pair.npz", "-o", "./pair.npz", "-o", str(folder / "pair.npz"))  # fmt: skip
    assert done.stdout.count("wrote") == 1


def test_standard_output_that_is_full_or_closed(folder):
    explain = f"{sys.executable} -m whyalike explain a.jpg b.png --model mine:model --json"
    endings = ["</dev/null | true", ">&-"] + ["> /dev/full"] * os.path.exists("/dev/full")
    for ending in endings:
        command = f"set -o pipefail; {explain} {ending}"
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2, (ending, done)
        assert done.stderr.startswith("whyalike: standard output cannot be written: "), done
        assert len(done.stderr.splitlines()) == 1


def in_process(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["whyalike", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


def test_what_nobody_foresaw_is_one_line_too(monkeypatch, capsys):
    def fail(*_):
        raise LookupError("first\nsecond")

    monkeypatch.setattr("whyalike.cli.explain._folder", fail)
    monkeypatch.delenv("WHYALIKE_DEBUG", raising=False)
    assert in_process(monkeypatch, "demo") == 2
    assert capsys.readouterr().err == (
        "whyalike: unexpected LookupError: first (set WHYALIKE_DEBUG=1 for the traceback)\n"
    )
    monkeypatch.setenv("WHYALIKE_DEBUG", "1")
    with pytest.raises(LookupError):
        main()


def test_where_sharp_maps_cannot_be_had_plain_ones_are_offered(monkeypatch, capsys, folder):
    monkeypatch.chdir(folder)

    def fail(_, **options):
        raise LayerError("no finer map")

    monkeypatch.setattr("whyalike.model.EmbeddingModel.sharp", fail)
    monkeypatch.delenv("WHYALIKE_DEBUG", raising=False)
    assert in_process(monkeypatch, "explain", "a.jpg", "b.png") == 2
    assert capsys.readouterr().err == (
        "whyalike: no finer map (--plain explains the last map, and may do)\n"
    )
    assert in_process(monkeypatch, "explain", "a.jpg", "b.png", "--sharp") == 2
    assert capsys.readouterr().err == "whyalike: no finer map\n"


@pytest.mark.parametrize("pattern", ["[", "nothing*"])
def test_a_pattern_that_matches_nothing(pattern, monkeypatch, capsys):
    assert in_process(monkeypatch, "models", pattern) == 2
    assert f"no network of timm matches '{pattern}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("timm:resnet10t", "timm cannot make 'resnet10t' with its weights: "),
        ("transformers:some/network", "transformers cannot find 'some/network': "),
    ],
)
def test_without_a_network_a_hub_fails_soon_and_in_one_line(model, message, folder):
    """A name that nobody may have (RFC 2606) stands for the hub."""
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": "http://hub.invalid", "HF_HOME": str(folder / "cache")}
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "whyalike", "explain", "a.jpg", "b.png"]
    done = subprocess.run(
        [*command, "--model", model],
        cwd=folder, capture_output=True, text=True, check=False, timeout=90, env=environment,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"whyalike: {message}")
    assert len(done.stderr.splitlines()) == 1


def test_version_and_models(run):
    assert run("--version").stdout.strip().endswith(whyalike.__version__)
    listed = run("models", "resnet1?").stdout
    assert "  timm:resnet18\n" in listed
    assert "EfficientNet-Lite0" in listed
    assert "\ntransformers:NAME " in listed
    as_json = json.loads(run("models", "resnet1?", "--json").stdout)
    assert {"model": "timm:resnet18", "pretrained": True} in as_json


@pytest.mark.parametrize("form", ["plain", pytest.param("sharp", marks=pytest.mark.slow)])
def test_demo_explains_two_photographs_that_are_here(form, run, folder, monkeypatch):
    if form == "plain":  # a tenth of the time; the README's commands draw a sharp page
        monkeypatch.setattr("whyalike.model.EmbeddingModel.drawn", lambda model: model)
    (folder / "new/demo").mkdir(parents=True)
    (folder / "new/demo/pair.html").write_text("of an earlier one")
    done = run("demo", "--out", "new/demo", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert ("affinity" in found["model"]) == (form == "sharp")
    assert sum(found["terms"].values()) == pytest.approx(found["similarity"], abs=1e-6)
    assert found["query"]["name"] == "grace_hopper.jpg"
    assert (folder / "new/demo/pair.html").stat().st_size > 100_000
    with Image.open(folder / "new/demo/pair.png") as figure:
        assert figure.width > 1000


def test_finer_maps_and_the_curve_over_depth(run):
    where = ("explain", "a.jpg", "b.png", "--model", "mine:finer")
    done = run(*where, "--sharp", "--gamma", "0.25", "--finer", "1", "--depths", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "(gamma 0.25, biases located, affinity 2)" in found["model"]
    assert found["depths"][-1]["cells"] == pytest.approx(1)
    for step in found["depths"]:
        assert step["cells"] + step["prefix"] + step["bias"] == pytest.approx(1)
    ledger = sum(value for row in found["ledger"].values() for value in row.values())
    assert ledger == pytest.approx(found["similarity"])
    assert found["ledger"]["cells"]["cells"] == pytest.approx(found["similarity"], abs=1e-4)
    done = run(*where, "--plain", "--depths")
    assert "what carries the query's embedding, cut behind each layer" in done.stdout
    assert "gamma" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sharp", "--layer", "x"), "--sharp chooses layer"),
        (("--gamma", "0.1"), "--gamma is of --sharp"),
        (("--finer", "4"), "--finer is of --sharp"),
        (("--sharp", "--finer", "0"), "0"),
        (("--surrogate", "gamma", "--gamma", "-1"), "-1"),
        (("--surrogate", "gamma", "--gamma", "nan"), "came nan"),
        (("--biases", "away"), "away"),
    ],
)
def test_options_that_do_not_go_together(run, arguments, message):
    done = run("explain", "a.jpg", "b.png", "--model", "mine:model", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
