"""Rate control: the level at which a codec meets a target, found in few encodes.

What is asked for, on the scale where it grows about linearly with the level (the logarithm of a rate, decibels), is bracketed and
interpolated: regula falsi with the Illinois rule (Dowell, Jarratt 1971, https://doi.org/10.1007/BF01934364), on the quarters of a level
that a file can name. Differs in starting from what is typical of a codec instead of from a bracket, and in not trusting that a higher level
always means more bytes: each trial becomes one end of the bracket, so that the search ends on any sequence of sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, Literal, NamedTuple, TypeVar

from neuralcodec.codecs.blocks import LEVEL_STEPS

Payload = TypeVar("Payload")

RATE_TOLERANCE = math.log(1.006)  # of the logarithm of a rate: half of what a quarter of a level usually makes
QUALITY_TOLERANCE = 0.03  # dB: the same of PSNR and MS-SSIM


class Trial(NamedTuple, Generic[Payload]):
    value: float  # what the target is about
    payload: Payload  # what came with it, such as the file


class Found(NamedTuple, Generic[Payload]):
    level: float
    value: float
    payload: Payload
    trials: int  # encodes that it took
    bound: Literal["lowest", "highest"] | None  # the end of the codec's range that keeps it from the target


def find_level(
    attempt: Callable[[float], Trial[Payload]],
    target: float,
    levels: int,
    start: float,
    slope: float,
    tolerance: float,
    ceiling: bool = False,
) -> Found[Payload]:
    """The level whose value is closest to the target, or the highest that does not exceed it.

    Ends at a value within ``tolerance``, or once two neighbouring quarters enclose the target.

    Args:
        attempt: codes at a level.
        target: on the scale of the trials' values.
        levels: of the codec.
        start: level of the first trial.
        slope: by which the value typically grows from a level to the next; positive.
        ceiling: never exceed the target. Then a value up to twice ``tolerance`` below it ends the search.

    Returns:
        The best trial. With ``ceiling`` and ``bound == "lowest"`` even that exceeds the target.
    """
    last = (levels - 1) * LEVEL_STEPS
    aim = target - tolerance if ceiling else target
    low, high = -1, last + 1  # quarters that enclose the aim; these two are beyond the range, and never tried
    gaps: dict[int, float] = {}  # from the trials to the aim; the Illinois rule halves some
    trials: dict[int, Trial[Payload]] = {}
    here, was_below = _between(start * LEVEL_STEPS, low, high), None
    while True:
        trials[here] = attempt(here / LEVEL_STEPS)
        gaps[here] = aim - trials[here].value
        if abs(gaps[here]) <= tolerance:
            break
        below = gaps[here] > 0
        low, high = (here, high) if below else (low, here)
        other = high if below else low
        if below == was_below and other in gaps:
            gaps[other] /= 2  # the same end moved twice: bring the other one nearer
        if high - low == 1:
            break
        here, was_below = _between(_guess(gaps, low, high, slope / LEVEL_STEPS), low, high), below

    def badness(quarter: int) -> tuple[bool, float]:
        value = trials[quarter].value
        return ceiling and value > target, abs(target - value)

    best = min(trials, key=badness)
    gap = target - trials[best].value
    bound: Literal["lowest", "highest"] | None = None
    if best == last and gap > tolerance:
        bound = "highest"
    elif best == 0 and gap < (0 if ceiling else -tolerance):
        bound = "lowest"
    return Found(best / LEVEL_STEPS, *trials[best], len(trials), bound)


def _guess(gaps: dict[int, float], low: int, high: int, slope: float) -> float:
    """Where the line through the ends of the bracket meets the aim; from a lone end, along the typical slope."""
    if low in gaps and high in gaps:
        return low + (high - low) * gaps[low] / (gaps[low] - gaps[high])
    end = low if low in gaps else high
    if len(gaps) > 1:  # two trials on the same side have a slope of their own
        nearest = min(gaps.keys() - {end}, key=lambda quarter: abs(quarter - end))
        slope = min(max((gaps[nearest] - gaps[end]) / (end - nearest), slope / 3), slope * 3)
    return end + gaps[end] / slope


def _between(quarter: float, low: int, high: int) -> int:
    """The nearest quarter strictly between two others."""
    return min(max(round(quarter), low + 1), high - 1)


__all__ = ["QUALITY_TOLERANCE", "RATE_TOLERANCE", "Found", "Trial", "find_level"]
