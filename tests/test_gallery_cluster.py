"""Galleries that a cluster writes, but for the cluster: workers, their fragments, the commits."""

import copy
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner

import whyalike as wa
from galleries import HEADS, check_same, photographs, picture
from whyalike.cli import cli
from whyalike.errors import GalleryError, OutputError
from whyalike.gallery import Cluster, cluster, fragments, list_images, rows
from whyalike.gallery.build import Settings, embed
from whyalike.gallery.fragments import Commits
from whyalike.gallery.listing import Listed
from whyalike.gallery.manifest import describe
from whyalike.gallery.pool import Pool
from whyalike.gallery.reading import see
from whyalike.gallery.store import Store
from whyalike.gallery.worker import Worker, Written
from whyalike.zoo.nodes import SLOT, Call

SETTINGS = Settings(batch_size=4, commit_rows=8)


@pytest.fixture(scope="module")
def model():
    return HEADS["mean"]()


@pytest.fixture
def photos(tmp_path):
    photographs(tmp_path / "photos", 12)
    return tmp_path / "photos"


@pytest.fixture
def store(model, tmp_path):
    """A gallery without rows."""
    made = Store(str(tmp_path / "photos.lance"))
    made.create(describe(model, "full"), rows.Packing(), pa.schema([]))
    return made


def worker(model, store, settings=SETTINGS, **changed):
    """One that needs no cluster."""
    arguments = {
        "blob": pickle.dumps(model),
        "made_with": store.manifest(store.open()),
        "device": "cpu",
        "version": wa.__version__,
        **changed,
    }
    return Worker(store=store, settings=settings, threads=2, **arguments)


def written(model, store, paths):
    """Fragments of some files, and the ids of their rows."""
    seen = [see(Listed(bytes(path)), model.preprocess) for path in paths]
    schema = store.open().schema
    batch = embed(model, seen, rows.Packing(), "full", schema)
    return fragments.write([batch], store, schema), batch["id"].to_pylist()


def paths_of(store):
    return sorted(store.open().to_table(columns=["path"])["path"].to_pylist())


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    ["", "ray://head:10001", "head", "head:port", "head:6379; ls", "--block", "head:6379\n",
     "a b:1", "http://head:6379", "[::1", "head:123456"],
)  # fmt: skip
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(GalleryError, match=r"'auto', HOST:PORT or 'local'; came"):
        Cluster(address)


def test_devices_are_cpu_and_cuda():
    with pytest.raises(GalleryError, match=r"the device is cpu, or cuda .* came 'cuda:1'"):
        Cluster("auto", "cuda:1")
    with pytest.raises(GalleryError, match="1 or more; came 0"):
        Cluster("auto", workers=0)


def test_without_ray_one_line_says_what_to_install(model, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(GalleryError, match=r"needs the package 'ray'; install 'whyalike\[ray\]'"):
        wa.Gallery.build(model, photos, tmp_path / "g.lance", ray="auto")
    assert not (tmp_path / "g.lance").exists()
    arguments = ["index", str(photos), "-o", str(tmp_path / "g.lance"), "--ray", "auto"]
    done = CliRunner().invoke(cli, arguments)
    assert isinstance(done.exception, GalleryError)
    assert "whyalike[ray]" in str(done.exception)


def test_where_nothing_answers_it_says_so(model, photos, tmp_path):
    pytest.importorskip("ray", reason="needs the extra `ray`")
    with pytest.raises(
        GalleryError, match=r"nothing answers at 127\.0\.0\.1:9: Connection refused;"
    ):
        wa.Gallery.build(model, photos, tmp_path / "g.lance", ray="127.0.0.1:9")
    assert not (tmp_path / "g.lance").exists()


# -- commits -------------------------------------------------------------------------------------


def test_fragments_are_rows_once_they_are_committed(model, store, photos):
    listed = [Path(one.path) for one in list_images(photos).files]
    commits = Commits(store, store.open(), ())
    first, second = (written(model, store, some) for some in (listed[:5], listed[5:]))
    assert paths_of(store) == []
    commits.add([*first[0], *second[0]], [*first[1], *second[1]])
    assert store.open().version == 2
    assert paths_of(store) == sorted(map(str, listed))
    gallery = wa.Gallery.open(store.root, model)
    hit = gallery.search(listed[3], k=1)[0]
    assert gallery.explain(hit).similarity == pytest.approx(1, abs=1e-5)


def test_rows_that_were_there_make_way_in_the_same_commit(model, store, photos):
    listed = [Path(one.path) for one in list_images(photos).files]
    Commits(store, store.open(), ()).add(*written(model, store, listed[:8]))
    before = store.open()
    commits = Commits(store, before, set(before.to_table()["id"].to_pylist()))
    for at, seed in ((0, 50), (1, 51)):
        picture(seed).save(listed[at])
    commits.add(*written(model, store, [*listed[:2], *listed[8:]]))
    assert store.open().version == before.version + 1
    assert paths_of(store) == sorted(map(str, listed))
    assert wa.Gallery.open(store.root, model).search(picture(50), k=1)[0].path == str(listed[0])
    commits.add(*written(model, store, listed))  # all of them: older fragments go whole
    assert paths_of(store) == sorted(map(str, listed))


def test_rows_that_another_writer_added_meanwhile_are_replaced(model, store, photos):
    listed = [Path(one.path) for one in list_images(photos).files]
    commits = Commits(store, store.open(), ())
    wa.Gallery.open(store.root, model).add(listed[:6])
    commits.add(*written(model, store, listed[3:9]))
    assert paths_of(store) == sorted(map(str, listed[:9]))


@pytest.mark.parametrize("other", ["append", "merge"])
def test_rows_that_came_within_a_commit_are_there_once(model, store, photos, monkeypatch, other):
    """Another writer comes between a commit's look at the table and the commit itself."""
    listed = [Path(one.path) for one in list_images(photos).files]
    ours, ids = written(model, store, listed[3:9])
    theirs, their_ids = written(model, store, listed[:6])
    commits, commit = Commits(store, store.open(), ()), Commits._commit
    came = []

    def late(self, *arguments):
        if not came:
            came.append(other)
            if other == "append":
                Commits(store, store.open(), ()).add(theirs, their_ids)
            else:
                wa.Gallery.open(store.root, model).add(listed[:6])
        return commit(self, *arguments)

    monkeypatch.setattr(Commits, "_commit", late)
    commits.add(ours, ids)
    assert came
    assert paths_of(store) == sorted(map(str, listed[:9]))
    commits.add(*written(model, store, listed[9:]))
    assert paths_of(store) == sorted(map(str, listed))


def test_two_drivers_that_replace_the_same_rows_at_once(model, store, photos):
    listed = [Path(one.path) for one in list_images(photos).files]
    Commits(store, store.open(), ()).add(*written(model, store, listed))
    table = store.open()
    ids = set(table.to_table()["id"].to_pylist())
    drivers = [(Commits(store, table, ids), *written(model, store, listed)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda one: one[0].add(one[1], one[2]), drivers))
    assert paths_of(store) == sorted(map(str, listed))


def test_a_driver_killed_before_it_took_its_rows_back_is_mended(model, store, photos, monkeypatch):
    listed = [Path(one.path) for one in list_images(photos).files]
    monkeypatch.setattr(Commits, "_look_at_others", lambda *_: None)
    monkeypatch.setattr(Commits, "_yield_to", lambda *_: None)
    commits = Commits(store, store.open(), ())
    commits.add(*written(model, store, listed[:6]))
    commits.add(*written(model, store, listed[3:9]))
    assert len(paths_of(store)) == 12
    monkeypatch.undo()
    wa.Gallery.open(store.root, model).add(listed[0])  # of another source
    assert paths_of(store) == sorted(map(str, listed[:9]))


# -- workers without a cluster -------------------------------------------------------------------


def test_a_worker_writes_the_rows_of_a_local_run(model, store, photos, tmp_path):
    (photos / "a" / "broken.png").write_bytes(b"no image")
    (photos / "a" / "empty.png").write_bytes(b"")
    local = wa.Gallery.build(model, photos, tmp_path / "local.lance", batch_size=4)
    one = worker(model, store)
    assert one.ready() is None
    done = one.embed(list_images(photos).files)
    assert [f.physical_rows for f in done.fragments] == [12]
    assert {f.file: f.reason for f in done.failed} == {
        f.file: f.reason for f in local.report.failed
    }
    assert not done.sees_none
    ids = local._now.table.to_table()["id"].to_pylist()
    Commits(store, store.open(), ()).add(done.fragments, ids)
    store.write_failures(done.failed)
    check_same(wa.Gallery.open(store.root, model), local)


def test_a_worker_of_files_that_cannot_be_read_writes_nothing(model, store, photos, tmp_path):
    one = worker(model, store)
    assert one.ready() is None
    (tmp_path / "broken.png").write_bytes(b"no image")
    done = one.embed([Listed(bytes(tmp_path / "broken.png"))])
    assert (done.fragments, len(done.failed), done.sees_none) == ([], 1, False)
    done = one.embed([Listed(bytes(tmp_path / "none.png"))])
    assert (done.fragments, len(done.failed), done.sees_none) == ([], 1, True)


def test_what_is_wrong_on_a_machine_is_said(model, store):
    def said(*arguments, **options):
        return str(worker(*arguments, **options).ready())

    assert "of the cluster: has whyalike" in said(model, store, version="0.0.1")
    other = wa.EmbeddingModel(model.net.features, "max", None, model.preprocess)
    assert "was made with another model" in said(other, store)
    there = describe(model, "none")
    assert "is another gallery there" in said(model, store, made_with=there)
    assert "cannot be loaded: UnpicklingError" in said(model, store, blob=b"no model")
    one = worker(model, store)
    shutil.rmtree(store.root)
    assert "has to reach the gallery as this machine does" in str(one.ready())


def test_networks_from_files_are_themselves_after_the_journey():
    call = Call(torch.sub, [SLOT, torch.ones(2)])
    for there in (pickle.loads(pickle.dumps(call)), copy.deepcopy(call)):
        assert there(torch.tensor([3.0, 5.0])).tolist() == [2, 4]


def test_an_error_within_a_batch_is_told_as_it_is(model, store, photos):
    one = worker(model, store)
    assert one.ready() is None
    one.model.net.head.project.register_forward_hook(lambda module, x, E: 0 * E)
    told = one.embed(list_images(photos).files)
    assert isinstance(told, OutputError)
    assert "an embedding of length zero" in str(told)
    one.model.net.head.project.register_forward_hook(lambda module, x, E: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one.embed(list_images(photos).files)
    assert paths_of(store) == []


def test_strict_workers_stop_at_the_first_file_that_cannot_be_read(model, store, photos):
    (photos / "a" / "broken.png").write_bytes(b"no image")
    one = worker(model, store, Settings(batch_size=2, strict=True))
    assert one.ready() is None
    done = one.embed(list_images(photos).files)
    assert len(done.failed) == 1
    assert sum(f.physical_rows for f in done.fragments) < 12


# -- the pool, with workers that die as they are told ----------------------------------------------


class LostError(Exception):
    """Ray's own errors, as far as the pool knows them."""


class Answer:
    """What Ray gives at once for an answer to come."""

    def __init__(self, files=None):
        self.files = files


class FakeRay:
    """Answers at once; a worker that is given one of the deadly files is lost."""

    exceptions = SimpleNamespace(RayError=LostError, RayTaskError=type("Task", (LostError,), {}))

    def __init__(self, deadly=(), strangers=False):
        self.deadly, self.strangers = set(deadly), strangers
        self.employed, self.killed, self.largest = 0, 0, 0

    def employ(self):
        self.employed += 1
        return SimpleNamespace(
            ready=SimpleNamespace(remote=Answer), embed=SimpleNamespace(remote=Answer)
        )

    def wait(self, calls, timeout):
        self.largest = max(self.largest, len(calls))
        return calls[:1], calls[1:]

    def get(self, call):
        if call.files is None:
            return None
        if self.deadly & {one.path for one in call.files}:
            raise LostError("it ended")
        return Written([list(call.files)], [], self.strangers, "stranger")

    def kill(self, worker):
        self.killed += 1


def files(count):
    return [Listed(f"/{number}".encode()) for number in range(count)]


def test_each_file_is_done_once():
    ray, given = FakeRay(), files(50)
    pool = Pool(ray, ray.employ, 3, [given[start : start + 8] for start in range(0, 50, 8)])
    done = list(pool.results())
    assert sorted(name for one in done for name in one.ids) == sorted(one.id for one in given)
    assert (ray.employed, ray.killed, ray.largest) == (3, 3, 3)


@pytest.mark.parametrize("deadly", [["/0"], ["/17"], ["/16", "/23", "/49"]])
def test_a_file_that_ends_every_worker_is_set_aside_alone(deadly):
    ray, given = FakeRay(deadly), files(50)
    pool = Pool(ray, ray.employ, 3, [given[start : start + 8] for start in range(0, 50, 8)])
    done = list(pool.results())
    failed = [one for some in done for one in some.failed]
    assert sorted(one.path for one in failed) == deadly
    assert all("each worker of the cluster that was given it ended" in one.reason for one in failed)
    ids = [name for one in done for name in one.ids]
    assert sorted(ids) == sorted(one.id for one in given if one.path not in deadly)
    assert ray.killed == ray.employed


def test_workers_that_all_die_end_the_run_and_set_nothing_aside():
    ray, given = FakeRay([one.path for one in files(400)]), files(400)
    pool = Pool(ray, ray.employ, 2, [given])
    with pytest.raises(GalleryError, match=r"die one after another, 21 by now: it ended; see Ray"):
        list(pool.results())


def test_a_machine_that_sees_no_photograph_ends_the_run(photos):
    ray = FakeRay(strangers=True)
    pool = Pool(ray, ray.employ, 2, [list_images(photos).files])
    with pytest.raises(GalleryError, match=r"stranger, of the cluster, does not see .*/photos/a"):
        list(pool.results())


@pytest.mark.parametrize(("count", "workers"), [(1, 8), (7, 1), (100, 3), (5000, 1), (5000, 64)])
def test_chunks_are_whole_batches_of_a_local_run(count, workers):
    given = files(count)
    made = cluster.chunks(given, Settings(batch_size=8, commit_rows=100), workers)
    assert [one for some in made for one in some] == given
    assert all(len(some) % 8 == 0 and len(some) <= 104 for some in made[:-1])


def test_room_is_counted_by_machine():
    def node(cpus, gpus=0, alive=True):
        return {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}

    nodes = [
        node(4),
        node(6, 2),
        node(16, 4),
        node(64, 8, alive=False),
        {"Alive": True, "Resources": {}},
    ]
    assert cluster._room(nodes, "cpu", None) == (1, 26)
    assert cluster._room(nodes, "cpu", 4) == (4, 6)
    assert cluster._room(nodes, "cuda", None) == (3, 6)
    assert cluster._room(nodes, "cuda", 8) == (8, 2)
    assert cluster._room(nodes[:1], "cuda", None) == (1, 0)
