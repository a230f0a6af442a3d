"""A grid of integers ⇄ bytes, in waves: in every stripe, every position with the same ``column + 2 row`` at once.

From one position of a wave to the next, a row down and two columns to the left, it is always as far in memory. So what a wave decodes in a
stripe, and each input of its context, is a piece of memory with a stride, whose beginning is always as far from the beginning of the wave.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neuralcodec.codecs.image.overfitted_context import COARSER, PADDING, PLACES, VALUE_LIMIT, GridContext, stripe_rows
from neuralcodec.codecs.image.overfitted_integers import VALUE_SCALE, IntegerContext, Tables, magnitudes, named
from neuralcodec.entropy.quantizers import SYMBOL_LIMIT
from neuralcodec.entropy.rans import RowDecoder

POSITIONS = 2**15  # whose contexts are worked out at once, when encoding

Part = tuple[np.ndarray, np.ndarray]  # symbols, tables


class GridCoder:
    """
    Args:
        grid: number of the context's biases.
        kind: of the tables.
        coarser: integers of the next coarser grids, the nearest one first.
    """

    def __init__(self, context: GridContext, grid: int, kind: Tables, height: int, width: int, coarser: Sequence[np.ndarray]):
        self.context, self.kind = IntegerContext(context, grid), kind
        self.height, self.width = height, width
        self.rows = stripe_rows(height, width)
        self.stripes = -(-height // self.rows)
        _, _, top, bottom = PADDING
        self.coarser = np.zeros((COARSER, self.stripes, top + self.rows + bottom, width))
        for number, values in enumerate(coarser[:COARSER]):
            below = bottom + self.stripes * self.rows - height
            plane = np.pad(_enlarged(_logarithm(values), 2 << number, height, width), ((top, below), (0, 0)))
            for stripe in range(self.stripes):
                self.coarser[number, stripe] = plane[stripe * self.rows : stripe * self.rows + top + self.rows + bottom]

    def encode(self, values: np.ndarray) -> list[Part]:
        """One part a wave.

        Args:
            values: (rows, columns) of integers.
        """
        left, right, top, bottom = PADDING
        rows = self.stripes * self.rows
        own = np.stack((_logarithm(values), np.clip(values, -VALUE_LIMIT, VALUE_LIMIT) * VALUE_SCALE))
        own = np.pad(own, ((0, 0), (0, rows - self.height), (0, 0))).reshape(2, self.stripes, self.rows, self.width)
        own = np.pad(own, ((0, 0), (0, 0), (top, bottom), (0, 0)))
        planes = np.pad(np.concatenate((own, self.coarser)), ((0, 0), (0, 0), (0, 0), (left, right)))
        symbols, tables = np.empty((rows, self.width), np.int64), np.empty((rows, self.width), np.int32)
        block = max(1, POSITIONS // self.width)
        for stripe in range(self.stripes):
            for row in range(0, self.rows, block):
                count = min(block, self.rows - row)
                seen = [
                    planes[place.plane, stripe, top + row + place.row :, left + place.column :][:count, : self.width] for place in PLACES
                ]
                table, whole = named(self.context(np.stack(seen).reshape(len(PLACES), -1)), self.kind.last)
                first = stripe * self.rows + row
                tables[first : first + count] = table.reshape(count, -1)
                symbols[first : first + count] = -whole.reshape(count, -1)
        symbols[: self.height] += values
        times = np.add.outer(2 * (np.arange(self.height) % self.rows), np.arange(self.width)).reshape(-1)
        order = np.argsort(times, kind="stable")
        edges = np.cumsum(np.bincount(times))[:-1]
        ordered, named_ = (each[: self.height].reshape(-1)[order] for each in (symbols, tables))
        return list(zip(np.split(ordered, edges), np.split(named_, edges)))

    def decode(self, decoder: RowDecoder) -> np.ndarray:
        """The values that :meth:`encode` was given, int32."""
        left, right, top, bottom = PADDING
        length = left + self.width + right
        shape = (2 + COARSER, self.stripes, top + self.rows + bottom, length)
        memory = np.zeros(shape, np.float32)  # which holds every input exactly
        memory[2:, :, :, left : left + self.width] = self.coarser
        found = np.zeros(shape[1:], np.int32)
        flat, plane, stripe = memory.reshape(-1), found.size, found[0].size
        starts = np.array([place.plane * plane + place.row * length + place.column for place in PLACES])
        distances = starts[:, None] + stripe * np.arange(self.stripes)
        begin = top * length + left
        lookup = _logarithm(np.arange(-VALUE_LIMIT, VALUE_LIMIT + 1)).astype(np.float32)
        missing = self.stripes * self.rows - self.height  # rows of the last stripe that are not there
        down = length - 2  # from one position of a wave to the next
        for step in range(self.width + 2 * (self.rows - 1)):
            low, high = max(0, (step - self.width + 2) // 2), min(self.rows, step // 2 + 1)
            if low >= high:
                continue
            first, count = begin + low * length + step - 2 * low, high - low
            seen = _view(flat, 0, (flat.size - (count - 1) * down, count), (1, down))  # pieces that begin anywhere
            x = seen[first + distances].reshape(len(PLACES), -1)
            table, whole = named(self.context(x.astype(np.float64)), self.kind.last)
            there = len(table) - max(0, high - max(low, self.rows - missing))
            symbols = np.zeros(self.stripes * count, np.int64)
            np.add(decoder.take(table[:there]), whole[:there], out=symbols[:there], dtype=np.int64)
            wave = (self.stripes, count)
            symbols = symbols.reshape(wave)
            clipped = np.maximum(np.minimum(symbols, VALUE_LIMIT), -VALUE_LIMIT)
            strides = (stripe, down)
            _view(flat, first, wave, strides)[:] = lookup[clipped + VALUE_LIMIT]
            _view(flat, first + plane, wave, strides)[:] = clipped * VALUE_SCALE
            _view(found.reshape(-1), first, wave, strides)[:] = np.maximum(np.minimum(symbols, SYMBOL_LIMIT), -SYMBOL_LIMIT)
        return found[:, top : top + self.rows, left : left + self.width].reshape(-1, self.width)[: self.height]


def _logarithm(values: np.ndarray) -> np.ndarray:
    """log₂(1 + |value|) with its sign, in integers, float64."""
    return np.copysign(magnitudes()[np.minimum(np.abs(values), VALUE_LIMIT).astype(np.int64)], values)


def _enlarged(plane: np.ndarray, factor: int, height: int, width: int) -> np.ndarray:
    return np.repeat(np.repeat(plane, factor, 0)[:height], factor, 1)[:, :width]


def _view(memory: np.ndarray, begin: int, shape: tuple[int, int], strides: tuple[int, int]) -> np.ndarray:
    """Elements of flat memory."""
    size = memory.itemsize
    return np.ndarray(shape, memory.dtype, memory, size * begin, (size * strides[0], size * strides[1]))


__all__ = ["GridCoder"]
