"""whyalike models, export, import-checkpoint."""

from __future__ import annotations

import json
import os

import click

from whyalike.cli.network import Network, network_options
from whyalike.cli.options import json_option
from whyalike.cli.terminal import put, working
from whyalike.errors import CheckpointError, ModelError
from whyalike.files import check_input, check_outputs


@click.command()
@click.argument("pattern", default="*")
@json_option
def models(pattern: str, as_json: bool) -> None:
    """List the models that `--model` can name, those of timm by a PATTERN.

    \b
    Examples:
      whyalike models
      whyalike models 'convnext*'
    """
    with working("asking timm"):
        from whyalike.zoo import from_timm, published

        names = from_timm.names(pattern)
        weights = {name: from_timm.has_weights(name) for name in names}
    if not names:
        raise ModelError(f"no network of timm matches {pattern!r}; `whyalike models` lists them")
    if as_json:
        found = [{"model": f"timm:{n}", "pretrained": weights[n]} for n in names]
        found += [{"model": f"published:{n}", "pretrained": False} for n in published.SPECS]
        put(json.dumps([{"model": "default", "pretrained": True}, *found]))
        return
    put(
        "default                  EfficientNet-Lite0, ImageNet weights, no download",
        "package.module:factory   a function of yours that returns a network",
        "onnx:FILE, pt2:FILE      a network in an ONNX file, or in a program of torch.export.save",
        "published:NAME           the paper's networks; their weights are given as --checkpoint",
        *(f"  published:{n:<24}{what}" for n, what in published.SPECS.items()),
        "transformers:NAME        networks of Hugging Face's transformers, by hub name or folder",
        "FOLDER                   a network that `whyalike train` made",
        f"timm:NAME                {len(names)} networks of timm",
        *(f"  timm:{n}{'' if weights[n] else '   (no weights to download)'}" for n in names),
    )


@click.command()
@click.argument("output", metavar="FILE")
@network_options
@json_option
def export(
    output: str,
    network: Network,
    as_json: bool,
) -> None:
    """Write a model with its explanation as one network, to FILE.onnx or FILE.pt2.

    It takes preprocessed images (N, 3, H, W) and gives embedding (N, d), contributions
    (N, h, w, d) and bias (N, d) by plain operations. What is written has been checked against
    the model.

    \b
    Examples:
      whyalike export model.onnx
      whyalike export model.onnx --model timm:resnet50 --layer layer4
    """
    inputs = network.checked_files()
    if network.spec is not None:  # it may be in a file itself
        spec = network.spec
        inputs += [part.partition("#")[0] for part in (spec, spec.partition(":")[2])]
    (path,) = check_outputs([output], inputs, [".onnx", ".pt2"])
    with working("loading the network"):
        loaded = network.load()
    with working("exporting"):
        from whyalike.zoo import blaming, exporting

        with blaming("running the network"):
            exporting.export(loaded, path)
    if as_json:
        outputs = list(exporting.NAMES)
        put(json.dumps({"model": loaded.description, "outputs": outputs, "files": [str(path)]}))
    else:
        put(loaded.description, f"wrote {path}")


@click.command("import-checkpoint")
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option("-o", "--out", "output", required=True, metavar="FILE.safetensors", help="To write.")
@json_option
def import_checkpoint(checkpoint: str, output: str, as_json: bool) -> None:
    """Write the CHECKPOINT of a published network as safetensors.

    It is a torch file, or what comes before .index in the names of a TensorFlow checkpoint. No
    code in it is run, and what it holds is checked against the network.

    \b
    Examples:
      whyalike import-checkpoint model.ckpt -o siamese_vgg16.safetensors
      whyalike import-checkpoint baseline.pkl -o reid_baseline.safetensors
    """
    index = f"{checkpoint.removesuffix('.index')}.index"  # TensorFlow's
    read = index if os.path.isfile(index) else checkpoint
    check_input(read, CheckpointError, "a checkpoint is a torch file, or TensorFlow's")
    (path,) = check_outputs([output], [read], [".safetensors"])
    with working("converting"):
        from whyalike.zoo import importing

        name = importing.import_checkpoint(checkpoint, path)
    if as_json:
        put(json.dumps({"model": f"published:{name}", "files": [str(path)]}))
    else:
        put(f"wrote {path}, for --model published:{name}")
