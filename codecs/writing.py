"""Files that appear whole or not at all. Importing this imports no torch."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

LONGEST_STEM = 200  # characters of a name that its temporary name repeats: file systems allow 255 bytes


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A new file, open for writing, under a temporary name beside ``path``; renamed at the end, removed if anything goes wrong before.

    Folders that are missing are made. Two processes that write the same file do not meet: the last to finish remains.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:LONGEST_STEM]}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_whole(path: str | Path, content: bytes | str) -> None:
    """All of it or nothing; text as UTF-8."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
