"""Files decoded once: their arrays in one memory-mapped file, which processes share and the system keeps in memory while it can."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from neuralcodec.codecs.writing import whole_file, write_whole


class Packed:
    """Arrays of one type and number of dimensions.

    Args:
        files: what they are made of, by ``read``.
        read: the array of one file.
        cache: where the packed file lives; one for each set of files (names, sizes, times), found again by its hash.
        dtype: of the arrays.
        kind: what the files are called in messages.
        recipe: whatever else the arrays depend on.
        unreadable: errors of ``read`` that a file is skipped for, with a warning; ``skipped`` counts them.
        check: called with the files before they are decoded.

    Raises:
        FileNotFoundError: none of the files could be decoded.
    """

    def __init__(
        self,
        files: Sequence[Path],
        read: Callable[[Path], np.ndarray],
        cache: str | Path,
        dtype: type[np.generic],
        kind: str,
        recipe: str = "",
        unreadable: tuple[type[Exception], ...] = (OSError, ValueError),
        check: Callable[[Sequence[Path]], None] = lambda files: None,
    ):
        description = recipe + "\n".join(f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)
        base = Path(cache) / hashlib.sha256(description.encode()).hexdigest()[:16]
        suffix = f".{np.dtype(dtype).kind}{8 * np.dtype(dtype).itemsize}"

        def read_or_skip(path: Path) -> np.ndarray | None:
            try:
                return read(path)
            except unreadable as error:
                warnings.warn(f"skipping {path}: {error}", stacklevel=2)
                return None

        if not base.with_suffix(".json").exists():
            check(files)
            shapes, kept = [], []
            with ThreadPoolExecutor(os.cpu_count()) as pool, whole_file(base.with_suffix(suffix)) as out:
                for number, array in enumerate(pool.map(read_or_skip, files)):
                    if array is not None:
                        shapes.append(array.shape)
                        kept.append(number)
                        out.write(np.ascontiguousarray(array, dtype).data)
                if len(kept) < len(files):
                    warnings.warn(f"skipped {len(files) - len(kept)} of {len(files)} {kind} that could not be decoded", stacklevel=3)
                if not shapes:
                    raise FileNotFoundError(f"none of the {kind} could be decoded")
            index = {"shapes": shapes, "kept": kept, "skipped": len(files) - len(kept)}
            write_whole(base.with_suffix(".json"), json.dumps(index))  # last: its presence says that the pack is complete
        index = json.loads(base.with_suffix(".json").read_text())
        self.skipped: int = index["skipped"]
        self.kept: list[int] = index.get("kept", [])  # positions in ``files``; packs of earlier versions lack them
        self.shapes = np.array(index["shapes"], dtype=np.int64)
        self.offsets = np.concatenate(([0], np.cumsum(self.shapes.prod(1))))
        self.values = np.memmap(base.with_suffix(suffix), dtype=dtype, mode="r")

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> np.ndarray:
        """One array, a view of the file."""
        return self.values[self.offsets[index] : self.offsets[index + 1]].reshape(self.shapes[index])
