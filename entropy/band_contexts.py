"""Scales and means of integer grids from what is decoded around them, by small networks of integers that come with the package.

    neighbours of passes before ──┐
    other channels ───────────────┼─magnitudes─► hidden layer ──► scale index
    row before, coarser grid ─────┘
    neighbours, row before ───────────values──────────────────► mean        (of grids that vary smoothly)

Grids are decoded in passes, every position of one at once. Bands of wavelets have four: of each square of 2×2 positions the first, the
one across, and the other two, which then have neighbours on all sides. Grids that vary smoothly, of motion and means, have the same at
distances 4, 2, 1, so that most is known to lie between values around it.

Everything is integers: inputs in 0 … 255, weights in -127 … 127, every sum below 2^24 and so exact in float32, whatever the order.
Passes: He et al. 2022, https://arxiv.org/abs/2203.10886. Interlaced prediction: HINT (Endoh and Yamazaki 1986). Networks trained on many
signals instead of each: Minnen, Ballé and Toderici 2018, https://arxiv.org/abs/1809.02736; integers: Ballé, Johnston and Minnen 2019,
https://openreview.net/forum?id=S1zz2i0cY7.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from neuralcodec.entropy.laplace import SCALES

WEIGHTS = Path(__file__).parent / "band_contexts.safetensors"
INPUT_UNIT, WEIGHT_UNIT, HIDDEN_UNIT = 32, 64, 16  # inputs, weights and hidden values stand for so many times their value
INPUT_LIMIT, VALUE_LIMIT, HIDDEN_LIMIT, WEIGHT_LIMIT = 255, 1023, 255, 127
INDEXES = 4  # that an output of one is
PARITIES, PLACES = 4, 24  # of a position, and of a grid in its family: eight for each kind of picture
NONE: tuple[tuple[int, int], ...] = ()
CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
SIDES = ((-1, 0), (1, 0), (0, -1), (0, 1))
KNOWN = (NONE, CORNERS, SIDES, SIDES + CORNERS)  # neighbours that each parity has
OPPOSITE = (((-1, 0), (1, 0)), ((0, -1), (0, 1)), ((-1, -1), (1, 1)), ((-1, 1), (1, -1)))
AROUND = ((0, 0), *SIDES, *CORNERS)


class Family(NamedTuple):
    """Grids that share networks."""

    sets: tuple[tuple[int, int], ...]  # first channel and end of those that are decoded together
    distances: tuple[int, ...]  # of neighbours, coarse to fine
    smooth: bool

    @property
    def inputs(self) -> int:
        return 16 if self.smooth else 27

    @property
    def margin(self) -> int:
        """What neighbours reach beyond a grid."""
        return self.distances[0]


FAMILIES = {
    "bands": Family(((0, 3), (3, 9)), (1,), False),
    "low": Family(((0, 1), (1, 2), (2, 3)), (4, 2, 1), True),
    "motion": Family(((0, 1), (1, 2)), (4, 2, 1), True),
    "ways": Family(((0, 1), (1, 2), (2, 3), (3, 4), (4, 5)), (4, 2, 1), True),
}


class Turn(NamedTuple):
    """Positions that are decoded together: those of one parity, in some channels."""

    begin: int
    end: int
    which: int  # set of the family
    parity: int
    level: int  # of the distances
    distance: int
    stride: int
    top: int
    left: int

    def places(self, margin: int, height: int, width: int, down: int = 0, right: int = 0) -> tuple[slice, slice]:
        """Rows and columns of a plane with a margin, shifted by so many distances."""
        rows, columns = margin + down * self.distance, margin + right * self.distance
        return slice(rows + self.top, rows + height, self.stride), slice(columns + self.left, columns + width, self.stride)


@cache
def turns(name: str, channels: int) -> list[Turn]:
    """In the order of decoding."""
    family = FAMILIES[name]
    made = []
    for which, (begin, end) in enumerate(family.sets):
        if begin >= channels:
            break
        for level, distance in enumerate(family.distances):
            parities = ((0, 0), (distance, distance), (0, distance), (distance, 0))
            made += [
                Turn(begin, end, which, parity, level, distance, 2 * distance, *place)
                for parity, place in enumerate(parities)
                if parity or not level
            ]
    return made


def magnitude(sizes: Tensor) -> Tensor:
    """About ``log₂(1 + size)`` of integers from 0 up, as inputs: exponent and leading bits of the float32, which is exact everywhere."""
    bits = (sizes + 1).view(torch.int32) >> 18  # 5 bits of mantissa are left: a logarithm in 32nds, linear in between
    return (bits - (127 << 5)).clamp_(max=INPUT_LIMIT).float()


class Seen(NamedTuple):
    """What of some rows is context, each (channels, rows, height, width) with a margin of zeros."""

    values: Tensor  # sizes, unless the family is smooth
    magnitudes: Tensor


def seen(values: Tensor, name: str, margin: int | None = None) -> Seen:
    """
    Args:
        values: (channels, rows, height, width), integers.
        margin: that of the family, unless given.
    """
    family = FAMILIES[name]
    limited = values.clamp(-VALUE_LIMIT, VALUE_LIMIT)
    padded = F.pad(limited if family.smooth else limited.abs(), (family.margin if margin is None else margin,) * 4)
    return Seen(padded, magnitude(padded.abs() if family.smooth else padded))


class Inputs(NamedTuple):
    magnitudes: Tensor  # (channels, inputs, positions)
    values: Tensor | None  # (channels, 9, positions)


def inputs(name: str, turn: Turn, here: Seen, before: Seen, parent: Seen | None, chosen: Sequence[int], size: tuple[int, int]) -> Inputs:
    """Of a turn's positions in some of its channels, of rows that do not depend on each other.

    Args:
        here: these rows, as far as they are decoded.
        before: the rows before.
        parent: of the coarser grid.
        size: height and width of the grid.
    """
    family = FAMILIES[name]
    channels = list(chosen)
    own = slice(channels[0], channels[-1] + 1) if channels == list(range(channels[0], channels[-1] + 1)) else channels  # views are faster

    def at(plane: Tensor, which: Sequence[int] | slice = own, place: tuple[int, int] = (0, 0)) -> Tensor:
        return plane[(which, slice(None), *turn.places(family.margin, *size, *place))]

    zero = torch.zeros_like(at(here.values))
    known = KNOWN[turn.parity]
    found = [at(here.magnitudes, place=place) if place in known else zero for place in SIDES + CORNERS]
    if family.smooth:
        signed = [at(here.values, place=place) if place in known else zero for place in SIDES + CORNERS]
        earlier = at(before.values)
        for pair in OPPOSITE:
            found.append(magnitude((at(here.values, place=pair[0]) - at(here.values, place=pair[1])).abs()) if pair[0] in known else zero)
        mean = torch.floor(torch.stack(signed).sum(0) / len(known) + 0.5) if known else zero
        found += [at(before.magnitudes), magnitude((earlier - mean).abs())]
        others = list(range(turn.begin))
        both = at(here.values, others) if others else zero[:0]
        around = sum((at(here.values, others, place) for place in known), torch.zeros_like(both))
        rest = both - torch.floor(around / max(len(known), 1) + 0.5)
        found += [magnitude(each.abs().sum(0, keepdim=True)).expand_as(zero) for each in (both, rest)]
        values = torch.stack([*signed, earlier], 1).flatten(2)
        return Inputs(torch.stack(found, 1).flatten(2), values)
    rows, columns = zero.shape[2:]
    if parent is None:
        found += [zero] * 11
    else:
        near = [parent.magnitudes[own, :, 1 + down : 1 + down + rows, 1 + right : 1 + right + columns] for down, right in AROUND]
        found += near
        found += [parent.magnitudes[other, :, 1 : 1 + rows, 1 : 1 + columns] for other in _others(turn, channels)]
    for other in _others(turn, channels):
        total = sum((at(here.values, other, place) for place in known), zero)
        found.append(magnitude(total))
    found += [at(before.magnitudes), magnitude(sum((at(before.values, place=place) for place in SIDES), zero))]
    if turn.begin:  # chroma
        luma = [channel % 3 for channel in channels]
        found += [at(here.magnitudes, luma), magnitude(sum((at(here.values, luma, place) for place in SIDES + CORNERS), zero))]
        found.append(magnitude(sum((at(here.values, other) for other in _others(turn, luma, 0)), zero)))
        twin = [3 + (channel % 6) for channel in channels]
        found.append(magnitude(sum((at(here.values, twin, place) for place in known), zero)))
    else:
        found += [zero] * 4
    return Inputs(torch.stack(found, 1).flatten(2), None)


def _others(turn: Turn, channels: Sequence[int], begin: int | None = None) -> list[list[int]]:
    """The other two bands of each channel's colour."""
    first = [channel // 3 * 3 if begin is None else begin for channel in channels]
    return [[one + (channel - one + shift) % 3 for one, channel in zip(first, channels)] for shift in (1, 2)]


class Network(NamedTuple):
    """Integers, as float32, of one set of a family."""

    first: Tensor  # (parities, channels, hidden, inputs)
    first_bias: Tensor  # (parities, places, channels, hidden)
    second: Tensor  # (parities, channels, hidden)
    second_bias: Tensor  # (parities, places, channels)
    skip: Tensor  # (parities, channels, 9)

    def __call__(self, turn: Turn, place: int, chosen: Sequence[int], given: Inputs) -> tuple[Tensor, Tensor]:
        """Scale indexes, before any limit, and means, both (channels, positions)."""
        channels = [channel - turn.begin for channel in chosen]
        parity = turn.parity
        total = torch.baddbmm(self.first_bias[parity, place, channels, :, None], self.first[parity, channels], given.magnitudes)
        shift = INPUT_UNIT * WEIGHT_UNIT // HIDDEN_UNIT
        hidden = torch.floor((total + shift // 2) * (1 / shift)).clamp_(0, HIDDEN_LIMIT)
        out = torch.bmm(self.second[parity, channels, None], hidden)[:, 0] + self.second_bias[parity, place, channels, None]
        unit = WEIGHT_UNIT * HIDDEN_UNIT // INDEXES
        index = torch.floor((out + unit // 2) * (1 / unit))
        if given.values is None:
            return index, torch.zeros_like(index)
        mean = torch.bmm(self.skip[parity, channels, None], given.values)[:, 0]
        return index, torch.floor((mean + WEIGHT_UNIT // 2) * (1 / WEIGHT_UNIT))


@cache
def networks() -> dict[str, list[Network]]:
    """Of every family, set by set."""
    tensors = load_file(WEIGHTS)
    return {
        name: [Network(*(tensors[f"{name}.{which}.{field}"].float() for field in Network._fields)) for which in range(len(family.sets))]
        for name, family in FAMILIES.items()
    }


def limited(index: Tensor) -> Tensor:
    return index.clamp(0, SCALES - 1)
