"""Bands of a scale ⇄ bytes, in waves: every position with the same ``column + 2 row + 4 band`` at once.

What is decoded is kept skewed: in the row of a step, and in column ``row + 2 band``. What a step decodes is then a piece of a row, the
same one for every band; a neighbour is at a fixed distance in memory, whatever the step; and a step's context is pieces of other rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from neuralcodec.codecs.image.overfitted_context import LAG, PADDING, VALUE_LIMIT, BandContext, Place
from neuralcodec.codecs.image.overfitted_integers import PARTS, VALUE_SCALE, IntegerContext, Tables, magnitudes, named, tables
from neuralcodec.entropy.quantizers import SYMBOL_LIMIT
from neuralcodec.entropy.rans import RowDecoder
from neuralcodec.entropy.tables import IntegerTables, Table, quantize_probabilities

BEHIND = LAG // 2  # columns of the skewed memory by which a band is behind the one before
ABOVE, BELOW, EARLIER, LATER = 3, 2, 6, 3  # what neighbours add to it: columns, and rows
POSITIONS = 2**15  # whose contexts are worked out at once, when encoding

Part = tuple[np.ndarray, np.ndarray]  # symbols, tables


class Source(NamedTuple):
    """Some bands of one kind at a scale.

    Attributes:
        scale: number of the context's biases.
        active: those of its bands that are not zero everywhere.
        parent: of the coarser scale, (channels, ⌈rows/2⌉, ⌈columns/2⌉) integers, where there is one.
    """

    context: BandContext
    scale: int
    active: Sequence[int]
    parent: np.ndarray | None


class ScaleCoder:
    """All bands of one scale: luma, then chroma, whose guide luma is; or the low bands.

    Args:
        kind: of the tables.
    """

    def __init__(self, sources: Sequence[Source], kind: Tables, height: int, width: int):
        self.sources, self.kind = sources, kind
        self.height, self.width = height, width
        self.count = sum(len(source.active) for source in sources)

    def encode(self, values: Sequence[np.ndarray]) -> list[Part]:
        """One part a step.

        Args:
            values: (channels, rows, columns) of integers, of each source.
        """
        symbols, indexes = [], []
        block = max(1, POSITIONS // self.width)
        for source, own in zip(self.sources, values):
            planes = [_magnitude(own), np.clip(own, -VALUE_LIMIT, VALUE_LIMIT) * VALUE_SCALE, np.zeros((1, self.height, self.width))]
            if source.context.parent:
                parent = np.zeros_like(own) if source.parent is None else source.parent
                planes.append(_doubled(_magnitude(parent), self.height, self.width))
            if source.context.guide:
                planes.append(_magnitude(values[0]))
            left, right, top, bottom = PADDING
            padded = np.pad(np.concatenate(planes), ((0, 0), (top, bottom), (left, right)))
            for channel, places in zip(source.active, source.context.places(source.active)):
                context = IntegerContext(source.context, source.scale, [channel])
                for row in range(0, self.height, block):
                    rows = min(block, self.height - row)
                    x = np.stack([_window(padded, place, row, rows, self.width).reshape(-1) for place in places])
                    table, whole = named(context(x[None]), self.kind.last)
                    symbols.append(own[channel, row : row + rows].reshape(-1).astype(np.int64) - whole[0])
                    indexes.append(table[0])
        times = np.add.outer(LAG * np.arange(self.count), np.add.outer(2 * np.arange(self.height), np.arange(self.width))).reshape(-1)
        order = np.argsort(times, kind="stable")
        ordered, named_ = (np.concatenate(each)[order] for each in (symbols, indexes))
        edges = np.cumsum(np.bincount(times))[:-1]
        return list(zip(np.split(ordered, edges), np.split(named_, edges)))

    def decode(self, decoder: RowDecoder) -> list[np.ndarray]:
        """The values that :meth:`encode` was given, int32."""
        lag = BEHIND * (self.count - 1)
        columns = self.height + lag + ABOVE + BELOW
        steps = self.width + 2 * (self.height + lag - 1)
        parents = sum(len(source.active) for source in self.sources if source.parent is not None)
        planes = 2 * self.count + parents + 1  # magnitudes, values, parents, zeros
        row = planes * columns
        early = LAG * (self.count - 1) + EARLIER
        memory = np.zeros((early + steps + LATER) * row, np.float32)
        found = np.zeros((steps, self.count, columns), np.int32)
        start = early * row + ABOVE  # of the first position
        contexts, distances = self._contexts(memory, start, row, columns)
        state = memory.reshape(-1, planes, columns)
        lookup = magnitudes().astype(np.float32)
        bands = np.arange(self.count)[:, None]
        for step in range(steps):
            low, high = max(0, (step - self.width + 2) // 2), min(self.height + lag, step // 2 + 1)
            length = high - low
            if length <= 0:
                continue
            pieces = np.ndarray((len(memory) - length + 1, length), np.float32, memory, 0, (4, 4))  # by where they begin
            here = start + step * row + low
            out = [context(pieces[here + distance].astype(np.float64)) for context, distance in zip(contexts, distances)]
            table, whole = named(np.concatenate(out) if len(out) > 1 else out[0], self.kind.last)
            if low < lag or high > self.height:  # positions that not all bands have
                places = np.arange(low, high) - BEHIND * bands
                there = (places >= 0) & (places < self.height)
                symbols = np.zeros(table.shape, np.int64)
                symbols[there] = np.add(decoder.take(table[there]), whole[there], dtype=np.int64)
            else:
                symbols = np.add(decoder.take(table), whole, dtype=np.int64)
            clipped = np.maximum(np.minimum(symbols, VALUE_LIMIT), -VALUE_LIMIT)
            to = state[early + step, :, ABOVE + low : ABOVE + high]
            to[: self.count] = lookup[np.abs(clipped)]
            to[self.count : 2 * self.count] = clipped * VALUE_SCALE
            found[step, :, low:high] = np.maximum(np.minimum(symbols, SYMBOL_LIMIT), -SYMBOL_LIMIT)
        return self._unskewed(found)

    def _contexts(self, memory: np.ndarray, start: int, row: int, columns: int) -> tuple[list[IntegerContext], list[np.ndarray]]:
        """Of each source; and where its bands' inputs begin, seen from where a step does, (bands, inputs). Puts parents into memory."""
        contexts, distances = [], []
        luma = {channel: number for number, channel in enumerate(self.sources[0].active)}
        band, parent, zeros = 0, 2 * self.count, row - columns
        for source in self.sources:
            if not source.active:
                continue
            own = {channel: band + number for number, channel in enumerate(source.active)}
            if source.parent is not None:
                known = _doubled(_magnitude(source.parent[list(source.active)]), self.height, self.width)
                for number, plane in enumerate(known):
                    begin = start + (parent + number) * columns + (band + number) * (LAG * row + BEHIND)
                    as_strided(memory[begin:], plane.shape, (4 * (2 * row + 1), 4 * row))[:] = plane
            found = []
            for number, (channel, places) in enumerate(zip(source.active, source.context.places(source.active))):
                inputs = []
                for place in places:
                    kind, of = source.context.seen(place.plane)
                    move = (place.column + 2 * place.row) * row + place.row
                    there = {"magnitude": own, "value": own, "guide": luma}.get(kind, {}).get(of)
                    if kind == "parent" and source.parent is not None:
                        inputs.append((parent + number) * columns + move)
                    elif there is not None:
                        plane = there + self.count * (kind == "value")
                        inputs.append(plane * columns + move - (own[channel] - there) * (LAG * row + BEHIND))
                    else:
                        inputs.append(zeros)
                found.append(inputs)
            contexts.append(IntegerContext(source.context, source.scale, source.active))
            distances.append(np.array(found))
            band += len(source.active)
            parent += len(source.active) if source.parent is not None else 0
        return contexts, distances

    def _unskewed(self, found: np.ndarray) -> list[np.ndarray]:
        """What was found, (steps, bands, columns), as the sources have it."""
        count, columns = found.shape[1:]
        result, band = [], 0
        for source in self.sources:
            result.append(np.zeros((source.context.channels, self.height, self.width), np.int32))
            for channel in source.active:
                flat = found.reshape(-1)[band * (LAG * count * columns + columns + BEHIND) :]
                shape, strides = (self.height, self.width), (4 * (2 * count * columns + 1), 4 * count * columns)
                result[-1][channel] = as_strided(flat, shape, strides)
                band += 1
        return result


def flags_table() -> Table:
    """Whether a band is as expected: there if it is at the coarser scale."""
    return Table(0, quantize_probabilities(np.array([0.9, 0.0999, 0.0001])))


@cache
def with_flags(kind: Tables) -> IntegerTables:
    """The tables of a kind, and one more at the end: of :func:`flags_table`."""
    both = IntegerTables((kind.last + 1) * PARTS + 1)
    both.set([*tables(kind).arrays, flags_table()])
    return both


def _magnitude(values: np.ndarray) -> np.ndarray:
    return magnitudes()[np.minimum(np.abs(values), VALUE_LIMIT).astype(np.int64)]


def _doubled(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.repeat(np.repeat(planes, 2, 1), 2, 2)[:, :height, :width]


def _window(planes: np.ndarray, place: Place, top: int, height: int, width: int) -> np.ndarray:
    """Rows of a padded plane, as a neighbour sees them."""
    first, left = PADDING[2] + place.row + top, PADDING[0] + place.column
    return planes[place.plane, first : first + height, left : left + width]


__all__ = ["ScaleCoder", "Source", "with_flags"]
