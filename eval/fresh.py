"""Code one item in a fresh process and print its peak memory in MiB: ``python -m neuralcodec.eval.fresh encode|decode CODEC SETTING FILE``.

FILE is a pickle that the calling process has just written: the signal, or the bytes of its file. Kept free of imports that the codec does
not need itself, since they would count.
"""

from __future__ import annotations

import json
import pickle
import re
import sys
from pathlib import Path

from neuralcodec.eval.candidates import candidate


def main(direction: str, name: str, setting: str, path: str) -> None:
    codec = candidate(name)
    content = pickle.loads(Path(path).read_bytes())
    if direction == "encode":
        codec.encode(content, float(setting))
    else:
        codec.decode(content)
    print(json.dumps(high_water()))


def high_water() -> float | None:
    """VmHWM where the system has it (Linux); not getrusage, whose peak a child inherits from its parent."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return int(found[1]) / 1024 if found else None


if __name__ == "__main__":
    main(*sys.argv[1:])
