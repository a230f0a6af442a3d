"""A rate in kbit/s as a level of a codec: found on the whole of a short sound, and on an excerpt of a long one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np

from neuralcodec.codecs.audio.files import encode_sound
from neuralcodec.codecs.base import Codec, CodecError
from neuralcodec.codecs.rate import RATE_TOLERANCE, Found, Trial, find_level
from neuralcodec.datasets.audio import Sound

LONGEST = 60.0  # seconds of an excerpt; a shorter sound is taken whole
PIECE = 2.0  # seconds: what an excerpt is made of
NOTEWORTHY = math.log(1.01)  # of the logarithm of a rate: the next byte or level of a short sound may be further away than that
TYPICAL_SPAN = math.log(8)  # by which the rate grows, as a logarithm, from the lowest level to the highest


def level_of_rate(codec: Codec, sound: Sound, kbps: float) -> Found[bytes]:
    """The level at which a file of the sound comes closest to a rate, whole-file bytes counted; its payload is that file.

    Raises:
        CodecError: the rate is not positive, or the sound cannot be coded.
    """
    if not 0 < kbps < math.inf:
        raise CodecError(f"a rate is a positive number of kbit/s, not {kbps:g}")

    def attempt(level: float) -> Trial[bytes]:
        data = encode_sound(codec, sound, level).data
        return Trial(math.log(len(data) * 8 / sound.seconds / 1000), data)

    steps = max(codec.levels - 1, 1)
    return find_level(attempt, math.log(kbps), codec.levels, codec.levels / 2, TYPICAL_SPAN / steps, RATE_TOLERANCE)


def miss(found: Found[bytes], kbps: float) -> str | None:
    """One line for people where the rate is not met."""
    if found.bound is None and abs(found.value - math.log(kbps)) <= NOTEWORTHY:
        return None
    which = found.bound or "closest"
    return f"{math.exp(found.value):.2f} kbit/s is the {which} that this codec gives here, not {kbps:g}"


def excerpt(blocks: Iterable[np.ndarray], rate: int) -> Sound:
    """All of a sound that is not too long, else pieces from all over it, (channels, n), in memory that does not grow with the sound.

    Every second piece is dropped whenever there are too many, and only every second of what follows is taken up.
    """
    length = round(PIECE * rate)
    most = round(LONGEST / PIECE)
    kept: list[np.ndarray] = []
    every = 1
    for number, piece in enumerate(_pieces(blocks, length)):
        if number % every:
            continue
        if len(kept) == most:
            kept, every = kept[::2], every * 2
            if number % every:
                continue
        kept.append(piece)
    if not kept:
        raise CodecError("a sound without samples cannot be coded")
    return Sound(np.concatenate(kept, 1), rate)


def opening(blocks: Iterator[np.ndarray], rate: int) -> tuple[Sound, Iterator[np.ndarray]]:
    """The first minute of a sound that passes only once, and all of it again."""
    first: list[np.ndarray] = []
    while sum(block.shape[1] for block in first) < LONGEST * rate and (block := next(blocks, None)) is not None:
        first.append(block)
    if not first:
        raise CodecError("a sound without samples cannot be coded")
    return Sound(np.concatenate(first, 1), rate), itertools.chain(first, blocks)


def _pieces(blocks: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """(channels, length) each, but for the last."""
    waiting: list[np.ndarray] = []
    held = 0
    for block in blocks:
        waiting.append(block)
        held += block.shape[1]
        if held >= length:
            joined = np.concatenate(waiting, 1)
            whole = held // length * length
            yield from np.split(joined[:, :whole], range(length, whole, length), 1)
            waiting, held = [joined[:, whole:]], held - whole
    if held:
        yield np.concatenate(waiting, 1)
