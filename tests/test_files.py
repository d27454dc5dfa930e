"""Places to write, and files that appear whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from whyalike.errors import ImageError, OutputFileError
from whyalike.files import check_input, check_outputs, write_whole


def hello(path: Path, file) -> None:
    file.write(b"hello")


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "pair.html").symlink_to("there/real.html")
    for _ in range(2):  # one that leads to nothing yet, and one that leads to a file
        write_whole(check_outputs([tmp_path / "pair.html"]), hello)
        assert (tmp_path / "pair.html").is_symlink()
        assert (tmp_path / "there/real.html").read_bytes() == b"hello"
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["real.html"]


def test_the_mode_of_a_file_that_was_there_is_kept(tmp_path):
    (tmp_path / "pair.html").touch()
    (tmp_path / "pair.html").chmod(0o604)
    write_whole([tmp_path / "pair.html"], hello)
    assert stat.S_IMODE((tmp_path / "pair.html").stat().st_mode) == 0o604


def test_a_place_counts_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.html").symlink_to("a.html")
    names = ["a.html", "./a.html", tmp_path / "a.html", "link.html", "b.html"]
    assert check_outputs(names) == [Path("a.html"), Path("b.html")]


def test_inputs_are_not_overwritten(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a photograph")
    (tmp_path / "soft.png").symlink_to("a.png")
    (tmp_path / "hard.png").hardlink_to(tmp_path / "a.png")
    for name in ("a.png", "soft.png", "hard.png"):
        with pytest.raises(OutputFileError, match="is one of the inputs"):
            check_outputs([tmp_path / name], [tmp_path / "none.jpg", tmp_path / "a.png"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pair.bmp", "the ending says what to write, one of .html, .png, .pdf, .npz"),
        ("none/pair.html", "there is no folder"),
        ("file/pair.html", "there is no folder"),
        ("folder.html", "it is a folder"),
        ("pipe.html", "it is not a regular file"),
        ("null.html", "it is not a regular file"),
        ("n" * 300 + ".html", "cannot be written: File name too long"),
        ("nul\0.html", "cannot be written: "),
    ],
)
def test_places_that_are_refused(name, reason, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.html").mkdir()
    os.mkfifo(tmp_path / "pipe.html")
    (tmp_path / "null.html").symlink_to("/dev/null")
    with pytest.raises(OutputFileError, match=reason):
        check_outputs([tmp_path / name])


def test_a_look_that_fails_is_refused(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(OutputFileError, match="cannot be written: Permission denied"):
        check_outputs([tmp_path / "pair.html"])


def test_a_write_or_a_move_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(path: Path, file) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputFileError, match=r"a\.html: cannot be written: No space left"):
        write_whole([tmp_path / "a.html"], full)

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputFileError, match=r"a\.html: cannot be written: Operation not"):
        write_whole([tmp_path / "a.html"], hello)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none", "there is no such file; look again"),
        (".", "is a folder; look again"),
        ("pipe", "is not a regular file"),
        ("n" * 300, "cannot be opened: File name too long"),
    ],
)
def test_inputs_that_are_refused(name, reason, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match=reason):
        check_input(tmp_path / name, ImageError, "look again")
