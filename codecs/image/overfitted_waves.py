"""Bands of a scale ⇄ bytes, in waves: every position with the same ``column + 2 row + 4 band`` at once.

From one position of a wave to the next, a row down and two columns to the left, it is always as far in memory. So what a wave decodes, and
each input of its contexts, is a piece of memory with a stride, whose beginning is always as far from the beginning of the wave.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from neuralcodec.codecs.image.overfitted_context import LAG, PADDING, VALUE_LIMIT, BandContext, Place
from neuralcodec.codecs.image.overfitted_integers import PARTS, VALUE_SCALE, IntegerContext, Tables, magnitudes, named, tables
from neuralcodec.entropy.quantizers import SYMBOL_LIMIT
from neuralcodec.entropy.rans import RowDecoder
from neuralcodec.entropy.tables import IntegerTables, Table, quantize_probabilities

BEHIND = LAG // 2  # rows by which a band is behind the one before
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
        left, right, top, bottom = PADDING
        beyond = BEHIND * (self.count - 1)  # rows that a wave reaches beyond bands: there is nothing to decode
        length = left + self.width + right
        size = (self.height + 2 * beyond + top + bottom) * length
        parents = sum(len(source.active) for source in self.sources if source.parent is not None)
        # Magnitudes, values, parents, zeros; float32 holds every input exactly.
        memory = np.zeros((2 * self.count + parents + 1) * size, np.float32)
        found = np.zeros(self.count * size, np.int32)
        contexts, distances = self._contexts(memory.reshape(-1, size // length, length), beyond)
        begin = (top + beyond) * length + left
        bands = np.arange(self.count)[:, None]
        lookup = magnitudes().astype(np.float32)

        down = length - 2  # from one position of a wave to the next
        strides = (size - BEHIND * length, down)
        for step in range(self.width + 2 * (self.height + beyond - 1)):
            low, high = max(0, (step - self.width + 2) // 2), min(self.height + beyond, step // 2 + 1)
            if low >= high:
                continue
            first = begin + low * length + step - 2 * low
            seen = _view(memory, 0, (memory.size - (high - low - 1) * down, high - low), (1, down))  # pieces that begin anywhere
            shape = (self.count, high - low)
            out = [context(seen[first + distance].astype(np.float64)) for context, distance in zip(contexts, distances)]
            table, whole = named(np.concatenate(out) if len(out) > 1 else out[0], self.kind.last)
            if low < beyond or high > self.height:
                rows = np.arange(low, high) - BEHIND * bands
                there = (rows >= 0) & (rows < self.height)
                symbols = np.zeros(table.shape, np.int64)
                symbols[there] = np.add(decoder.take(table[there]), whole[there], dtype=np.int64)
            else:
                symbols = np.add(decoder.take(table), whole, dtype=np.int64)
            clipped = np.maximum(np.minimum(symbols, VALUE_LIMIT), -VALUE_LIMIT)
            _view(memory, first, shape, strides)[:] = lookup[np.abs(clipped)]
            _view(memory, first + self.count * size, shape, strides)[:] = clipped * VALUE_SCALE
            _view(found, first, shape, strides)[:] = np.maximum(np.minimum(symbols, SYMBOL_LIMIT), -SYMBOL_LIMIT)
        whole_planes = found.reshape(self.count, -1, length)[:, top + beyond :][:, : self.height, left : left + self.width]
        result, band = [], 0
        for source in self.sources:
            result.append(np.zeros((source.context.channels, self.height, self.width), np.int32))
            result[-1][list(source.active)] = whole_planes[band : band + len(source.active)]
            band += len(source.active)
        return result

    def _contexts(self, memory: np.ndarray, beyond: int) -> tuple[list[IntegerContext], list[np.ndarray]]:
        """Of each source; and how far its bands' inputs are from where a wave begins, (bands, inputs). Puts parents into memory.

        Args:
            memory: (planes, rows, columns).
            beyond: rows before the first of a band, besides those of neighbours.
        """
        left, _, top, _ = PADDING
        size, length = memory[0].size, memory.shape[2]
        contexts, distances = [], []
        luma = {channel: number for number, channel in enumerate(self.sources[0].active)}
        band, parent, zeros = 0, 2 * self.count, len(memory) - 1
        for source in self.sources:
            if not source.active:
                continue
            own = {channel: band + number for number, channel in enumerate(source.active)}
            parents = dict.fromkeys(source.active, zeros)
            if source.parent is not None:
                parents = {channel: parent + number for number, channel in enumerate(source.active)}
                known = _doubled(_magnitude(source.parent[list(source.active)]), self.height, self.width)
                rows = slice(top + beyond, top + beyond + self.height)
                memory[parent : parent + len(known), rows, left : left + self.width] = known
                parent += len(known)
            found = []
            for channel, places in zip(source.active, source.context.places(source.active)):
                inputs = []
                for place in places:
                    kind, of = source.context.seen(place.plane)
                    if kind == "value" and of in own:
                        plane = own[of] + self.count
                    else:
                        plane = {"magnitude": own, "guide": luma, "parent": parents}.get(kind, {}).get(of, zeros)
                    inputs.append(plane * size + (place.row - BEHIND * own[channel]) * length + place.column)
                found.append(inputs)
            contexts.append(IntegerContext(source.context, source.scale, source.active))
            distances.append(np.array(found))
            band += len(source.active)
        return contexts, distances


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


def _view(memory: np.ndarray, begin: int, shape: tuple[int, int], strides: tuple[int, int]) -> np.ndarray:
    """Elements of flat memory."""
    bytes_each = memory.itemsize
    return np.ndarray(shape, memory.dtype, memory, bytes_each * begin, (bytes_each * strides[0], bytes_each * strides[1]))


def _doubled(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.repeat(np.repeat(planes, 2, 1), 2, 2)[:, :height, :width]


def _window(planes: np.ndarray, place: Place, top: int, height: int, width: int) -> np.ndarray:
    """Rows of a padded plane, as a neighbour sees them."""
    first, left = PADDING[2] + place.row + top, PADDING[0] + place.column
    return planes[place.plane, first : first + height, left : left + width]


__all__ = ["ScaleCoder", "Source", "with_flags"]
