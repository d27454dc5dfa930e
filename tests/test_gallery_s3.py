"""Galleries on object storage: an S3 server of this process, and what a kill leaves there."""

import gc
import json
import logging
import multiprocessing
import os
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from pyarrow import parquet

import whyalike as wa
from galleries import from_parts, photographs, picture
from whyalike.cli import cli
from whyalike.errors import GalleryError
from whyalike.gallery import list_images
from whyalike.gallery.build import Settings
from whyalike.gallery.fragments import Commits
from whyalike.gallery.worker import Worker

pytest.importorskip("moto.server", reason="needs the extra `s3`")
boto3 = pytest.importorskip("boto3", reason="needs the extra `s3`")

BOX = (7.0, 4.0, 31.0, 22.0)
NAME = "s3://bucket/photos.lance"


@pytest.fixture(scope="module")
def server():
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def options(server):
    given = {
        "aws_endpoint": server,
        "allow_http": "true",
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
        "aws_region": "us-east-1",
    }
    s3 = _client(given)
    s3.create_bucket(Bucket="bucket")
    yield given
    for one in _names(given):
        s3.delete_object(Bucket="bucket", Key=one)
    s3.delete_bucket(Bucket="bucket")


def _client(options):
    return boto3.client(
        "s3",
        endpoint_url=options["aws_endpoint"],
        aws_access_key_id=options["aws_access_key_id"],
        aws_secret_access_key=options["aws_secret_access_key"],
        region_name=options["aws_region"],
    )


def _names(options):
    pages = _client(options).get_paginator("list_objects_v2").paginate(Bucket="bucket")
    return [one["Key"] for page in pages for one in page.get("Contents", [])]


@pytest.fixture
def photos(tmp_path):
    photographs(tmp_path / "photos", 9)
    (tmp_path / "photos" / "a" / "broken.jpg").write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def model():
    return from_parts("mean", 8)


def test_a_gallery_there_is_as_one_here(model, photos, options, tmp_path):
    query = picture(100, (47, 33))
    local = wa.Gallery.build(model, photos, tmp_path / "photos.lance", commit_rows=4)
    made = wa.Gallery.build(model, photos, NAME, commit_rows=4, storage_options=options)
    assert len(made) == 9
    assert not os.path.exists("s3:")
    cache = tmp_path / "cache"
    there = wa.Gallery.open(NAME, model, storage_options=options, cache=cache)
    ours, theirs = (g.search(query, region=BOX, k=9) for g in (there, local))
    key = [(hit.path, hit.score, hit.rank_without_region) for hit in theirs]
    assert [(hit.path, hit.score, hit.rank_without_region) for hit in ours] == key
    assert list(cache.glob("*.f32"))
    assert not any(name.endswith(".f32") for name in _names(options))
    for a, b in zip(there.explain_ranking(ours), local.explain_ranking(theirs), strict=True):
        assert torch.equal(a.overall_map(), b.overall_map())
        assert a.similarity == b.similarity
    assert there.explain(ours[3]).terms == local.explain(theirs[3]).terms
    label = {hit.path for hit in there.search(query, where="label = 'a'")}
    assert label == {hit.path for hit in theirs if hit.label == "a"} != set()


def test_it_is_added_to_and_taken_from(model, photos, options, tmp_path):
    gallery = wa.Gallery.build(model, photos, NAME, storage_options=options)
    new = photographs(tmp_path / "photos", 3, start=20)
    report = gallery.add(photos)
    assert (report.added, report.replaced, report.unchanged) == (3, 0, 9)
    picture(50).save(new[0])
    os.utime(new[0], ns=(1, 1))
    assert gallery.add(photos).replaced == 1
    assert gallery.remove([new[1]]) == 1
    new[2].unlink()
    assert gallery.reindex(prune=True).pruned == 1
    again = wa.Gallery.open(NAME, model, storage_options=options)
    paths = {hit.path for hit in again.search(picture(3), k=20)}
    assert len(paths) == len(again) == 10
    assert str(new[0]) in paths
    assert not {str(new[1]), str(new[2])} & paths
    again.compact()
    assert {hit.path for hit in again.search(picture(3), k=20)} == paths


def test_what_could_not_be_read_is_listed_there(model, photos, options, tmp_path):
    gallery = wa.Gallery.build(model, photos, NAME, storage_options=options)
    broken = photos / "a" / "broken.jpg"
    assert list(gallery.failures()) == [str(broken)]
    _client(options).download_file("bucket", "photos.lance/errors.parquet", tmp_path / "errors")
    assert parquet.read_table(tmp_path / "errors")["path"].to_pylist() == [str(broken)]
    Image.new("RGB", (50, 30), "red").save(broken)
    gallery.add(photos)
    assert gallery.failures() == {}
    assert len(gallery) == 10


@pytest.mark.parametrize("maps", ["none", "pq"])
def test_with_other_maps(model, photos, options, maps):
    gallery = wa.Gallery.build(model, photos, NAME, maps=maps, storage_options=options)
    hits = wa.Gallery.open(NAME, model, storage_options=options).search(picture(3), k=9)
    assert hits[0].file == str(photos / "a" / "0003.png")
    if maps == "pq":
        assert gallery.explain(hits[0]).similarity == pytest.approx(1, abs=1e-5)


def test_what_is_not_there_is_said(model, options):
    with pytest.raises(GalleryError, match="there is no gallery"):
        wa.Gallery.open(NAME, model, storage_options=options)
    with pytest.raises(GalleryError, match=r"none/photos\.lance"):
        wa.Gallery.build(model, [], "s3://none/photos.lance", storage_options=options)


def _index(folder, options, commits):
    """Index, and be killed behind a few commits."""
    from whyalike.gallery import store

    torch.set_num_threads(1)
    whole, count = store.merge, 0

    def merge(table, batches):
        nonlocal count
        whole(table, batches)
        count += 1
        if count == commits:
            os.kill(os.getpid(), signal.SIGKILL)

    store.merge = merge
    wa.Gallery.build(
        from_parts("mean", 8), folder, NAME, batch_size=2, commit_rows=2, storage_options=options
    )


def test_one_that_was_killed_is_gone_on_with(model, photos, options):
    process = multiprocessing.get_context("spawn").Process(target=_index, args=(photos, options, 2))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    kept = wa.Gallery.open(NAME, model, storage_options=options)
    assert 0 < len(kept) < 9
    before = len(kept)
    gallery = wa.Gallery.build(model, photos, NAME, storage_options=options)
    assert len(gallery) == 9
    assert gallery.report.unchanged == before
    assert len({hit.path for hit in gallery.search(picture(3), k=20)}) == 9


def test_of_writers_at_once_none_loses_a_row(model, photos, options):
    wa.Gallery.build(model, photos / "a", NAME, storage_options=options)
    galleries = [wa.Gallery.open(NAME, model, storage_options=options) for _ in range(4)]
    sources = [photos / "b", photos / "c", photos / "b", photos / "c"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda g, source: g.add(source, commit_rows=1), galleries, sources))
    gallery = wa.Gallery.open(NAME, model, storage_options=options)
    hits = gallery.search(picture(3), k=20)
    assert len(gallery) == len(hits) == len({hit.path for hit in hits}) == 9


def test_a_worker_of_a_cluster_writes_there(model, photos, options, tmp_path):
    gallery = wa.Gallery.build(model, photos / "a", NAME, storage_options=options)
    store, listed = gallery._store, list_images(photos / "b").files
    about = (store, gallery.manifest, Settings(batch_size=2), 2, "cpu", wa.__version__)
    worker = Worker(pickle.dumps(model), *about)
    assert worker.ready() is None
    commits = Commits(store, store.open(), {one.id for one in listed[:1]})
    for _ in range(2):  # the second time, all make way
        done = worker.embed(listed)
        commits.add(done.fragments, [one.id for one in listed])
    gallery.refresh()
    hits = gallery.search(listed[1].path, k=9)
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    assert len(hits) == len({hit.path for hit in hits}) == 6
    assert gallery.explain(hits[0]).similarity == pytest.approx(1, abs=1e-5)


def test_a_commit_is_put_only_where_none_is(model, photos, options, monkeypatch):
    """What keeps writers apart; S3 itself has it since 2024, not every server that is like it."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication

    puts, whole = [], DomainDispatcherApplication.__call__

    def call(self, environ, start_response):
        if environ["REQUEST_METHOD"] == "PUT":
            puts.append((environ["PATH_INFO"], environ.get("HTTP_IF_NONE_MATCH")))
        return whole(self, environ, start_response)

    monkeypatch.setattr(DomainDispatcherApplication, "__call__", call)
    wa.Gallery.build(model, photos, NAME, storage_options=options)
    manifests = [condition for path, condition in puts if path.endswith(".manifest")]
    assert len(manifests) >= 2
    assert set(manifests) == {"*"}
    s3, name = _client(options), next(n for n in _names(options) if n.endswith(".manifest"))
    with pytest.raises(s3.exceptions.ClientError, match="PreconditionFailed"):
        s3.put_object(Bucket="bucket", Key=name, Body=b"", IfNoneMatch="*")


def test_the_folder_of_its_vectors_goes_with_it(model, photos, options):
    gallery = wa.Gallery.build(model, photos, NAME, storage_options=options)
    gallery.search(picture(3))
    folder = gallery._folder
    assert list(folder.glob("*.f32"))
    del gallery
    gc.collect()
    assert not folder.exists()


def test_the_command_line_takes_options(model, photos, options):
    wa.Gallery.build(model, photos, NAME, storage_options=options)
    given = [word for pair in options.items() for word in ("--storage", *pair)]
    args = ["remove", NAME, "--where", "label = 'a'", "--json", *given]
    result = CliRunner().invoke(cli, args)
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"removed": 3, "images": 6})


def test_options_may_come_from_the_environment(model, photos, options, monkeypatch):
    for name, value in options.items():
        monkeypatch.setenv(name.upper(), value)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    assert len(wa.Gallery.build(model, photos, NAME)) == 9
    assert len(wa.Gallery.open(NAME, model).search(picture(3), k=20)) == 9
