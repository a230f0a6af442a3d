"""Interleaved timing: contenders take turns, so that whatever else the machine does slows all of them alike. And what processes take."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Name = TypeVar("Name")


def interleaved(
    contenders: Mapping[Name, Callable[[], object]], repetitions: int, warmup: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[Name, float]:
    """Median seconds of one call of each contender; by ``time.process_time`` those of the processor, whatever else it does meanwhile."""
    seconds: dict[Name, list[float]] = {name: [] for name in contenders}
    for repetition in range(warmup + repetitions):
        for name, call in contenders.items():
            start = clock()
            call()
            if repetition >= warmup:
                seconds[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measured(*command: str) -> tuple[float, float]:
    """Seconds and peak gigabytes of a process.

    Raises:
        SystemExit: it failed.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1e6


def table(rows: list[tuple[str, ...]]) -> str:
    """Columns padded to their widest cell; the first row is the heading."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "  ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))) for row in rows
    ]
    return "\n".join([lines[0], "  ".join("─" * width for width in widths), *lines[1:]])
