"""What may be read and written where: checked early, and written whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from whyalike.errors import OutputFileError, WhyalikeError

ENDINGS = (".html", ".png", ".pdf", ".npz")
TEMPORARY = ".whyalike-"
"""So begin the names of files that are being written; a kill may leave one."""

Name = str | os.PathLike[str]


def check_input(path: Name, refusal: type[WhyalikeError], advice: str) -> None:
    """Raise a refusal that says why a path is no regular file that can be read, if it is none."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise refusal(f"{path}: there is no such file; {advice}") from error
    except (OSError, ValueError) as error:
        raise refusal(f"{path}: cannot be opened: {_reason(error)}; {advice}") from error
    if stat.S_ISDIR(mode):
        raise refusal(f"{path}: is a folder; {advice}")
    if not stat.S_ISREG(mode):
        raise refusal(f"{path}: is not a regular file; {advice}")
    if not os.access(path, os.R_OK):
        raise refusal(f"{path}: may not be read; check the file's permissions")


def check_outputs(
    paths: Sequence[Name], inputs: Sequence[Name] = (), endings: Sequence[str] = ENDINGS
) -> list[Path]:
    """The files to write, each once.

    Args:
        paths: where to write; the ending says what.
        inputs: files that must stay as they are, such as the user's photographs.
        endings: those that can be written.

    Raises:
        OutputFileError: another ending, a place that cannot be written, or one of the inputs.
    """
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        if path.suffix.lower() not in endings:
            raise OutputFileError(
                f"{path}: the ending says what to write, one of {', '.join(endings)}"
            )
        try:
            target = _target(path)
            reason = _why_unwritable(target)
            same = target.exists() and any(
                os.path.samefile(target, other) for other in inputs if os.path.exists(other)
            )
        except (OSError, ValueError) as error:
            raise OutputFileError(f"{path}: cannot be written: {_reason(error)}") from error
        if reason:
            raise OutputFileError(f"{path}: cannot be written: {reason}")
        if same:
            raise OutputFileError(f"{path}: is one of the inputs; give another name to write to")
        found.setdefault(str(target), path)
    return list(found.values())


def write_whole(paths: Sequence[Path], write: Callable[[Path, BinaryIO], None]) -> None:
    """Write files beside their places, then put all in place: no reader sees half of one.

    A link stays, and what it leads to is written; a file that was there keeps its mode.
    """
    with ExitStack() as undo:
        done: list[tuple[Path, Path, Path]] = []
        for path in paths:
            try:
                target = _target(path)
                temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
                undo.callback(temporary.unlink, missing_ok=True)
                with temporary.open("xb") as file:
                    write(path, file)
                    file.flush()
                    os.fsync(file.fileno())
                if target.exists():
                    temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            except OSError as error:
                raise OutputFileError(f"{path}: cannot be written: {_reason(error)}") from error
            done.append((path, temporary, target))
        for path, temporary, target in done:
            try:
                os.replace(temporary, target)
            except OSError as error:
                raise OutputFileError(f"{path}: cannot be written: {_reason(error)}") from error


def _target(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _why_unwritable(target: Path) -> str | None:
    if not stat.S_ISDIR(_mode(target.parent)):
        return f"there is no folder {target.parent}"
    mode = _mode(target)
    if stat.S_ISDIR(mode):
        return "it is a folder"
    if mode and not stat.S_ISREG(mode):
        return "it is not a regular file"
    if not os.access(target.parent, os.W_OK | os.X_OK):
        return f"the folder {target.parent} is not writable"
    return None


def _mode(path: Path) -> int:
    """Kind and permissions of what is there; 0 for nothing."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
