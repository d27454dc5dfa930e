"""Failure on purpose: kills, full disks, hostile names and files, two writers at once."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

import galleries
import whyalike as wa
from galleries import HEADS, photographs, picture
from whyalike.errors import GalleryError
from whyalike.gallery import open_manifest, store
from whyalike.gallery.listing import list_images

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(  # once, and not Lance, which does not outlive a fork
    ["torch", "whyalike.model", "torch._dynamo", "torch._decomp.decompositions_for_jvp"]
)
# What to do at the n-th commit, or write of a file: "os.kill(os.getpid(), 9)" and the like.
PATCH = """
import os, whyalike.gallery.store as target, lance, pyarrow.parquet
count = 0
original = {what}
def patched(*arguments, **options):
    global count
    count += 1
    if count == {at} and {when!r} == "before":
        os.kill(os.getpid(), 9)
    found = original(*arguments, **options)
    if count == {at} and {when!r} == "after":
        os.kill(os.getpid(), 9)
    return found
{what} = patched
"""


class Indexing:
    """A process that indexes, killed by its number alone."""

    def __init__(self, folder: Path, before: str = "") -> None:
        ready, self._go = PROCESSES.Event(), PROCESSES.Event()
        arguments = (str(folder), before, ready, self._go)
        self.process = PROCESSES.Process(target=galleries.index, args=arguments)
        self.process.start()
        assert ready.wait(120)

    def begin(self) -> None:
        self._go.set()

    def wait(self) -> int:
        self.process.join(300)
        return self.process.exitcode


def table(path: Path):
    return wa.Gallery.open(path)._now.table.to_table().sort_by("id")


def check_whole(path: Path) -> set[str]:
    """Every committed row can be read, is there once, and is right; which there are."""
    if open_manifest(path) is None:
        return set()
    gallery = wa.Gallery.open(path, HEADS["mean"]())
    found = table(path)
    ids = found["id"].to_pylist()
    assert len(ids) == len(set(ids)) == len(gallery)
    if ids:
        some = gallery.search(found["path"][0].as_py(), k=len(ids))
        assert some[0].score == pytest.approx(1, abs=1e-5)
        assert len(gallery.explain_ranking(some)) == len(ids)
    return set(ids)


def check_same_as_undisturbed(folder: Path) -> None:
    undisturbed = wa.Gallery.build(HEADS["mean"](), folder / "photos", folder / "undisturbed.lance")
    a, b = table(folder / "photos.lance"), table(undisturbed._store.root)
    plain = [name for name in a.column_names if name not in ("embedding", "length", "maps")]
    assert a.select(plain).equals(b.select(plain))
    E = [np.array(one["embedding"].to_pylist()) for one in (a, b)]
    np.testing.assert_allclose(E[0], E[1], atol=1e-6)


@pytest.mark.parametrize(
    ("what", "at", "when"),
    [
        ("target.Store._write_arrays", 1, "before"),
        ("lance.write_dataset", 1, "before"),
        ("lance.write_dataset", 1, "after"),
        ("target.merge", 2, "before"),
        ("target.merge", 2, "after"),
        ("pyarrow.parquet.write_table", 1, "before"),
        ("pyarrow.parquet.write_table", 1, "after"),
    ],
)
def test_killed_at_a_chosen_point_it_goes_on(tmp_path, what, at, when):
    photographs(tmp_path / "photos", 24)
    process = Indexing(tmp_path, PATCH.format(what=what, at=at, when=when))
    process.begin()
    code = process.wait()
    assert code == -signal.SIGKILL or what == "target.Store._write_arrays"
    before = check_whole(tmp_path / "photos.lance")
    gallery = wa.Gallery.build(HEADS["mean"](), tmp_path / "photos", tmp_path / "photos.lance")
    assert gallery.report.added == 24 - len(before)
    check_same_as_undisturbed(tmp_path)


def killed_at_random(folder: Path, times: int, seed: int) -> None:
    """Killed after a random time, again and again, until a run is through."""
    moments = random.Random(seed)
    kept: set[str] = set()
    for _ in range(times):
        process = Indexing(folder)
        process.begin()
        time.sleep(moments.uniform(0.01, 0.8))
        process.process.kill()
        process.wait()
        now = check_whole(folder / "photos.lance")
        assert kept <= now
        kept = now
    wa.Gallery.build(HEADS["mean"](), folder / "photos", folder / "photos.lance")
    check_same_as_undisturbed(folder)


def test_killed_at_random_it_loses_nothing_that_was_committed(tmp_path):
    photographs(tmp_path / "photos", 120)
    killed_at_random(tmp_path, times=2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_many_moments(tmp_path, seed):
    photographs(tmp_path / "photos", 400)
    killed_at_random(tmp_path, times=12, seed=seed)


def two_writers(folder: Path, count: int) -> None:
    photographs(folder / "photos", count)
    processes = [Indexing(folder) for _ in range(2)]
    for process in processes:
        process.begin()
    assert [process.wait() for process in processes] == [0, 0]
    assert len(check_whole(folder / "photos.lance")) == count
    check_same_as_undisturbed(folder)


def test_two_writers_at_once_leave_each_row_once(tmp_path):
    two_writers(tmp_path, 64)


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(5))
def test_two_writers_at_once_again_and_again(tmp_path, attempt):
    two_writers(tmp_path, 400)


# -- a full disk ---------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, which takes root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_and_nothing_committed_is_lost(tmp_path, small_disk):
    photographs(tmp_path / "photos", 40)
    model, path = HEADS["mean"](), small_disk / "photos.lance"
    wa.Gallery.build(model, tmp_path / "photos" / "a", path)
    before = check_whole(path)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(2**20))
    with pytest.raises(GalleryError, match=r"cannot be written: no space left.*indexing goes on"):
        wa.Gallery.build(model, tmp_path / "photos", path, commit_rows=8, batch_size=8)
    ballast.unlink()
    assert check_whole(path) == before
    gallery = wa.Gallery.build(model, tmp_path / "photos", path)
    assert (len(gallery), gallery.report.added) == (40, 40 - len(before))


def test_a_file_size_limit_is_said_as_well(tmp_path):
    """Without root: a limit on file sizes fails writes in the middle, as a full disk does."""
    photographs(tmp_path / "photos", 64)
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))"
    process = Indexing(tmp_path, limit)
    process.begin()
    assert process.wait() == 1
    check_whole(tmp_path / "photos.lance")
    wa.Gallery.build(HEADS["mean"](), tmp_path / "photos", tmp_path / "photos.lance")
    check_same_as_undisturbed(tmp_path)


# -- what lies in folders ------------------------------------------------------------------------


def test_names_of_any_kind(tmp_path):
    photos = os.fsencode(tmp_path / "photos")
    names = [
        "π ☃ 𝔘.png", "line\nend.png", "quote'\".png", "a b.PNG", "\u00e4.png", "a\u0308.png",
        "\u202eright.png", "-o.png", "[glob]*.png", "%2F.png", "\\.png",
    ]  # fmt: skip
    os.makedirs(photos)
    raw = [os.fsencode(name) for name in names] + [b"latin \xe9.png", b"\xff\xfe.png"]
    for seed, name in enumerate(raw):
        with open(os.path.join(photos, name), "wb") as file:
            picture(seed).save(file, "PNG")
    model = HEADS["mean"]()
    gallery = wa.Gallery.build(model, tmp_path / "photos", tmp_path / "g.lance")
    assert (len(gallery), gallery.report.failed) == (len(raw), ())
    assert sorted(table(tmp_path / "g.lance")["file"].to_pylist()) == sorted(
        os.path.join(photos, name) for name in raw
    )
    for name in raw:
        path = os.fsdecode(os.path.join(photos, name))
        hit = gallery.search(path, k=1)[0]
        assert hit.score == pytest.approx(1, abs=1e-5)
        assert hit.path.isprintable()
        assert gallery.explain(hit).reference.picture is not None
    assert gallery.add(tmp_path / "photos").unchanged == len(raw)
    assert gallery.remove([os.fsdecode(os.path.join(photos, raw[-1]))]) == 1


def test_links_in_circles_end_and_each_folder_is_entered_once(tmp_path):
    photographs(tmp_path / "photos", 3)
    folder = tmp_path / "photos" / "a"
    (folder / "loop").symlink_to(tmp_path / "photos")
    (folder / "self").symlink_to(folder)
    (folder / "nowhere.png").symlink_to("nothing.png")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "again.png").symlink_to(folder / "0000.png")
    gallery = wa.Gallery.build(HEADS["mean"](), tmp_path / "photos", tmp_path / "g.lance")
    assert len(gallery) == 4
    assert gallery.report.same_content == 2
    assert sorted(Path(path).name for path in gallery.failures()) == ["circle.png", "nowhere.png"]


def test_what_cannot_be_read_is_set_aside_with_the_reason(tmp_path):
    photos = tmp_path / "photos"
    paths = photographs(photos, 6)
    (photos / "cut.png").write_bytes(paths[0].read_bytes()[:200])
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.jpg").write_text("not an image")
    (photos / "folder.png").mkdir()
    os.mkfifo(photos / "pipe.png")
    gallery = wa.Gallery.build(HEADS["mean"](), photos, tmp_path / "g.lance")
    errors = parquet.read_table(tmp_path / "g.lance" / "errors.parquet")
    reasons = dict(zip(errors["path"].to_pylist(), errors["reason"].to_pylist(), strict=True))
    assert {Path(path).name: reason.split(";")[0].split(" (")[0] for path, reason in
            reasons.items()} == {
        "cut.png": "damaged or cut short", "empty.jpg": "is empty", "text.jpg": "not an image",
        "pipe.png": "is not a regular file",
    }  # fmt: skip
    assert gallery.failures() == reasons
    assert (len(gallery), len(gallery.report.failed)) == (6, 4)
    picture(50).save(photos / "cut.png")  # put right
    (photos / "text.jpg").unlink()
    gallery.add(paths[0])  # says nothing of the others
    assert sorted(Path(path).name for path in gallery.failures()) == [
        "cut.png", "empty.jpg", "pipe.png"]  # fmt: skip
    gallery.add(photos)
    assert sorted(Path(path).name for path in gallery.failures()) == ["empty.jpg", "pipe.png"]
    assert len(gallery) == 7


def test_a_file_that_vanishes_between_listing_and_reading(tmp_path, monkeypatch):
    paths = photographs(tmp_path / "photos", 6)
    from whyalike.gallery import gallery as module

    def then_gone(sources):
        listing = list_images(sources)
        paths[2].unlink()
        return listing

    monkeypatch.setattr(module, "list_images", then_gone)
    gallery = wa.Gallery.build(HEADS["mean"](), tmp_path / "photos", tmp_path / "g.lance")
    assert len(gallery) == 5
    assert "there is no such file" in gallery.failures()[str(paths[2])]


def test_a_folder_that_cannot_be_read(tmp_path):
    photographs(tmp_path / "photos", 3)
    listing = "import os, sys\nsys.path[:0] = [{!r}]\n"
    listing += "from whyalike.gallery.listing import list_images\nos.setuid(65534)\n"
    listing += "found = list_images({!r})\n"
    listing += "print(len(found.files), [f.reason for f in found.failed])"
    shut = tmp_path / "photos" / "b"
    shut.chmod(0)
    if os.getuid() == 0:
        for above in tmp_path.parents:
            if above.is_relative_to("/tmp/pytest-of-root"):
                above.chmod(0o755)
        (tmp_path / "photos").chmod(0o755)
        tmp_path.chmod(0o755)
    else:
        listing = listing.replace("os.setuid(65534)\n", "")
    code = listing.format(str(Path(wa.__file__).parent.parent), str(tmp_path / "photos"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    shut.chmod(0o755)
    assert done.stdout.startswith("2 ['the folder cannot be read: Permission denied']"), done.stderr


def test_damage_to_the_gallery_is_said(tmp_path):
    photographs(tmp_path / "photos", 3)
    model, path = HEADS["mean"](), tmp_path / "g.lance"
    gallery = wa.Gallery.build(model, tmp_path / "photos", path)
    (data,) = (path / store.TABLE / "data").glob("*.lance")
    hit = gallery.search(tmp_path / "photos" / "a" / "0000.png")[0]
    assert gallery.explain(hit).similarity == pytest.approx(1, abs=1e-5)
    data.write_bytes(data.read_bytes()[:100])
    for file in (path / store.VECTORS).iterdir():
        file.unlink()
    again = wa.Gallery.open(path, model)
    with pytest.raises(GalleryError, match="cannot be read"):
        again.search(tmp_path / "photos" / "a" / "0000.png")
