"""A Ray cluster of two machines, here: what is lost in the middle, and the rows all the same."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import whyalike as wa
from galleries import PREPROCESS, check_same, photographs, trunk
from whyalike.errors import GalleryError
from whyalike.gallery import Cluster, open_manifest

pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = [
    pytest.mark.slow,
    # Starting a machine forks, for a program that takes the process's place at once.
    pytest.mark.filterwarnings("ignore:lance is not fork-safe"),
]

OPTIONS = {"batch_size": 4, "commit_rows": 8}

# Of a driver: each call of a worker is committed at once, not when half a minute is over.
AT_ONCE = """
import whyalike.gallery.build as build
from whyalike.cli import main
build.COMMIT_SECONDS = 0
main()
"""

FACTORY = """
import time, torch, whyalike as wa
class Slow(torch.nn.Sequential):
    def forward(self, images):
        time.sleep(0.05)
        return super().forward(images)
def model():
    torch.manual_seed(0)
    features = Slow(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.ReLU()).eval()
    return wa.EmbeddingModel(features, "mean", torch.nn.Linear(8, 6), wa.Preprocess(size=(12, 20)))
"""


class Told(nn.Module):
    """Leaves the number of its process in a folder, and is slow; white images end the process."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__()
        self.inner, self.folder, self.seconds = trunk(), str(folder), seconds

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        open(os.path.join(self.folder, str(os.getpid())), "w").close()
        if (images.amin((1, 2, 3)) > 2).any():
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        return self.inner(images)


def told(folder: Path, seconds: float = 0.0) -> wa.EmbeddingModel:
    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    project = nn.Sequential(nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 6))
    return wa.EmbeddingModel(Told(folder, seconds).eval(), "mean", project.eval(), PREPROCESS)


class Machines:
    """A head with one CPU and another machine with two, as Ray sees it."""

    def __init__(self) -> None:
        from ray import cluster_utils

        options = {"object_store_memory": 10**8}
        self.cluster = cluster_utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, **options}
        )
        self.other = self.cluster.add_node(num_cpus=2, **options)
        self.address: str = self.cluster.address


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    made = Machines()
    yield made
    made.cluster.shutdown()


def cli(folder: Path, *arguments: str, code: str = AT_ONCE) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_worker_and_a_machine_are_lost_in_the_middle(tmp_path):
    photos, folder = tmp_path / "photos", tmp_path / "pids"
    photographs(photos, 240)
    (photos / "a" / "broken.jpg").write_bytes(b"no image")
    model = told(folder, seconds=0.05)
    local = wa.Gallery.build(model, photos, tmp_path / "local.lance", **OPTIONS)
    machines = Machines()
    events = []

    def disturb(now):
        workers = {int(path.name) for path in folder.iterdir()} - {os.getpid()}
        if not events and len(workers) >= 3:
            os.kill(min(workers), signal.SIGKILL)
            events.append(now.done)
        elif len(events) == 1 and now.done > events[0] + 24:
            machines.cluster.remove_node(machines.other, allow_graceful=False)
            events.append(now.done)

    try:
        made = wa.Gallery.build(
            model, photos, tmp_path / "g.lance", ray=machines.address, progress=disturb, **OPTIONS
        )
    finally:
        machines.cluster.shutdown()
    assert len(events) == 2
    assert events[1] < 200, "the machine was lost after the work was done"
    assert (made.report.added, len(made.report.failed)) == (240, 1)
    assert made.failures().keys() == {str(photos / "a" / "broken.jpg")}
    check_same(made, local)


def test_a_killed_driver_is_gone_on_with(machines, tmp_path):
    photos, made = tmp_path / "photos", tmp_path / "g.lance"
    paths = photographs(photos, 160)
    (photos / "b" / "broken.jpg").write_bytes(paths[0].read_bytes()[:100])
    (tmp_path / "mine.py").write_text(FACTORY)
    arguments = ["index", "photos", "-o", "g.lance", "--model", "mine:model", "--ray",
                 machines.address, "--batch-size", "4", "--commit-rows", "8", "--json"]  # fmt: skip
    driver = cli(tmp_path, *arguments)
    while not (open_manifest(made) and len(wa.Gallery.open(made)) >= 24):
        assert driver.poll() is None, driver.communicate()[1]
        time.sleep(0.1)
    driver.kill()
    driver.communicate()
    kept = set(wa.Gallery.open(made)._now.table.to_table()["id"].to_pylist())
    assert 24 <= len(kept) < 160
    out, err = cli(tmp_path, *arguments).communicate(timeout=300)
    found = json.loads(out)
    assert (found["images"], found["added"], found["unchanged"]) == (
        160,
        160 - len(kept),
        len(kept),
    )
    assert [Path(one["path"]).name for one in found["failed"]] == ["broken.jpg"]
    assert "160 to read" not in err
    # In this process, too, it is changed, and not all is new.
    sys.path.insert(0, str(tmp_path))
    try:
        model = wa.load("mine:model")
    finally:
        sys.path.remove(str(tmp_path))
    paths[5].write_bytes(paths[7].read_bytes())
    os.utime(paths[5], ns=(1, 1))
    gallery = wa.Gallery.open(made, model)
    assert gallery.add(photos, ray=machines.address, **OPTIONS).replaced == 1
    local = wa.Gallery.build(model, photos, tmp_path / "local.lance", **OPTIONS)
    check_same(gallery, local, batches=False)


def test_a_file_that_ends_its_process_is_set_aside(machines, tmp_path):
    photos = tmp_path / "photos"
    photographs(photos, 23)
    Image.new("RGB", (50, 30), "white").save(photos / "b" / "deadly.png")
    model = told(tmp_path / "pids")
    gallery = wa.Gallery.build(
        model, photos, tmp_path / "g.lance", ray=machines.address, batch_size=2, commit_rows=4
    )
    assert len(gallery) == 23
    ((path, reason),) = gallery.failures().items()
    assert path.endswith("deadly.png")
    assert "each worker of the cluster that was given it ended" in reason


def test_that_there_is_no_room_is_said(machines, tmp_path):
    photographs(tmp_path / "photos", 3)
    model, at = told(tmp_path / "pids"), machines.address
    with pytest.raises(GalleryError, match="no machine of the cluster has 1 CPU and a GPU"):
        wa.Gallery.build(model, tmp_path / "photos", tmp_path / "g.lance", ray=Cluster(at, "cuda"))
    with pytest.raises(GalleryError, match="no machine of the cluster has 3 CPUs for a worker"):
        wa.Gallery.build(model, tmp_path / "photos", tmp_path / "g.lance", ray=at, workers=3)


def test_workers_write_to_object_storage(machines, tmp_path):
    moto = pytest.importorskip("moto.server", reason="needs the extra `s3`")
    boto3 = pytest.importorskip("boto3", reason="needs the extra `s3`")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    options = {**keys, "aws_endpoint": endpoint, "allow_http": "true", "aws_region": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
    s3.create_bucket(Bucket="bucket")
    photographs(tmp_path / "photos", 30)
    (tmp_path / "photos" / "a" / "broken.jpg").write_bytes(b"no image")
    model, name = told(tmp_path / "pids"), "s3://bucket/g.lance"
    try:
        made = wa.Gallery.build(
            model, tmp_path / "photos", name, ray=machines.address, storage_options=options,
            **OPTIONS,
        )  # fmt: skip
        local = wa.Gallery.build(model, tmp_path / "photos", tmp_path / "local.lance", **OPTIONS)
        check_same(made, local)
    finally:
        server.stop()


def test_a_program_that_is_part_of_a_cluster_stays_so(machines, tmp_path):
    import ray

    photographs(tmp_path / "photos", 5)
    model, photos = told(tmp_path / "pids"), tmp_path / "photos"
    ray.init(machines.address, log_to_driver=False)
    try:
        with pytest.raises(GalleryError, match=r"is part of the Ray cluster .* already; came 'lo"):
            wa.Gallery.build(model, photos, tmp_path / "g.lance", ray="local")
        assert len(wa.Gallery.build(model, photos, tmp_path / "g.lance", ray="auto")) == 5
        assert ray.is_initialized()
    finally:
        ray.shutdown()


def test_code_of_the_folder_that_one_is_in_travels_with_the_model(tmp_path):
    (tmp_path / "mine.py").write_text(FACTORY)
    made = "import sys; sys.path.insert(0, '.'); import whyalike as wa; m = wa.load('mine:model');"
    made += "from whyalike.gallery.worker import pickled; open('blob', 'wb').write(pickled(m))"
    _, err = cli(tmp_path, code=made).communicate()
    (tmp_path / "mine.py").unlink()
    read = "import pickle, torch; m = pickle.load(open('blob', 'rb')); print(m)"
    out, err = cli(tmp_path, code=read).communicate()
    assert "map of features → mean → Linear(8→6)" in out, err
