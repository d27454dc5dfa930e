"""A program, not a module: prints the variables of a .mat file as JSON; see `matlab`."""

import json
import sys

import numpy as np
from scipy.io import loadmat


def plain(value: object) -> object:
    """What scipy makes of Matlab's arrays, without its many wrappings."""
    if not isinstance(value, np.ndarray):
        return value.item() if isinstance(value, np.generic) else value
    if value.dtype.names:
        names = value.dtype.names
        entries = [{name: plain(entry[name]) for name in names} for entry in value.ravel()]
        return entries[0] if len(entries) == 1 else entries
    if value.dtype == object:
        elements = [plain(element) for element in value.ravel()]
        return elements[0] if len(elements) == 1 else elements
    return value.reshape(-1)[0].item() if value.size == 1 else value.tolist()


def limit(memory: int) -> None:
    """Let this process take no more memory than that, and leave no core behind when it crashes."""
    try:
        import resource
    except ImportError:  # not everywhere
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    limit(int(sys.argv[2]))
    found = loadmat(sys.argv[1])
    text = json.dumps({name: plain(found[name]) for name in found if not name.startswith("_")})
    if len(text) > int(sys.argv[3]):
        sys.exit(f"it holds {len(text):,} characters; this is not the list expected")
    sys.stdout.write(text)
