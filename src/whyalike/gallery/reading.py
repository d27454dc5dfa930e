"""Files read, hashed and preprocessed by threads ahead of the network."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from whyalike.errors import ImageError
from whyalike.gallery.listing import Failed, Listed
from whyalike.gallery.rows import Seen
from whyalike.images import open_regular_file, pillow_silenced, read_image
from whyalike.preprocess import Preprocess


def see(listed: Listed, preprocess: Preprocess) -> Seen | Failed:
    """Read one file; what cannot be read is returned with the reason."""
    path = os.fsdecode(listed.file)
    try:
        with open_regular_file(path, listed.path) as file:
            status = os.fstat(file.fileno())
            content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            file.seek(0)
            image = read_image(file)
        tensor, view_xyxy = preprocess(image)
    except ImageError as error:
        reason = str(error).removeprefix(f"{listed.path}: ")
        return Failed(listed.file, reason)
    except OSError as error:  # a disk or a network folder that fails while it is read
        return Failed(listed.file, f"cannot be read: {error.strerror or error}")
    return Seen(listed, tensor, image.size, view_xyxy, content, status.st_size, status.st_mtime_ns)


def batches(
    files: Sequence[Listed], preprocess: Preprocess, batch_size: int, workers: int
) -> Iterator[tuple[list[Seen], list[Failed]]]:
    """Read files in their order, up to a few batches ahead.

    Threads, not processes: decoding, hashing and resizing release the interpreter, no file is read
    twice, and Lance does not outlive a fork.
    """
    # Warning filters are the process's: swapped by a thread that reads while another one swaps
    # them, too, they would be lost. Held here, no thread swaps them.
    with (
        pillow_silenced(),
        ThreadPoolExecutor(workers, thread_name_prefix="whyalike-read") as pool,
    ):
        todo = iter(files)
        ahead: deque[Future[Seen | Failed]] = deque()

        def more(count: int) -> None:
            ahead.extend(pool.submit(see, one, preprocess) for one in islice(todo, count))

        try:
            more(2 * batch_size + workers)
            while ahead:
                read = []
                for _ in range(min(batch_size, len(ahead))):
                    read.append(ahead.popleft().result())
                    more(1)
                yield (
                    [one for one in read if isinstance(one, Seen)],
                    [one for one in read if isinstance(one, Failed)],
                )
        finally:
            pool.shutdown(cancel_futures=True)
