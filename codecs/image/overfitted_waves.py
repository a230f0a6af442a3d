"""Groups of bands ⇄ bytes, in waves: every position with the same ``column + 2 row + 4 band`` at once.

Planes are kept skewed: row ``column + 2 row`` of the skewed plane holds, in column ``row``, a position of the band. A neighbour is then
at a fixed distance in memory, whatever the step, and the context of a step is one gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np

from neuralcodec.codecs.image.overfitted_context import (
    INPUT_BITS,
    LAG,
    PADDING,
    PARTS,
    SIGNED,
    VALUE_LIMIT,
    VALUE_SHIFT,
    BandContext,
    IntegerContext,
    Place,
    Tables,
    magnitudes,
    named,
    tables,
)
from neuralcodec.entropy.quantizers import SYMBOL_LIMIT
from neuralcodec.entropy.rans import RowDecoder
from neuralcodec.entropy.tables import IntegerTables, Table, quantize_probabilities

LEFT, ABOVE, REACH = 5, 2, 8  # of skewed planes: steps before the first, rows before the first, and steps in all that neighbours add
POSITIONS = 2**15  # whose contexts are worked out at once, when encoding

Part = tuple[np.ndarray, np.ndarray]  # symbols, tables


class GroupCoder:
    """One group of bands, of ``active`` ones, the others being zero.

    Args:
        context: of this kind of group.
        scale: number of its biases.
        kind: of the tables.
        parent, guide: decoded already, (channels, rows, columns) of integers; see :meth:`BandContext.planes`.
    """

    def __init__(
        self,
        context: IntegerContext,
        scale: int,
        kind: Tables,
        active: Sequence[int],
        height: int,
        width: int,
        parent: np.ndarray | None,
        guide: np.ndarray | None,
    ):
        self.context, self.scale, self.kind, self.active = context, scale, kind, list(active)
        self.height, self.width = height, width
        module: BandContext = context.context
        self.places = module.places(active)
        self.channels = module.channels
        known = []
        if module.parent:
            assert parent is not None
            known.append(np.repeat(np.repeat(_magnitude(parent), 2, 1), 2, 2)[:, :height, :width])
        if module.guide:
            assert guide is not None
            known.append(_magnitude(guide))
        self.known = _padded(np.concatenate(known) if known else np.zeros((0, height, width)))
        self.unknown = 2 * self.channels + 1  # planes that are decoded on the way, and one of zeros
        when = 2 * np.arange(height)[:, None] + np.arange(width)  # step of each position
        self.when = when.reshape(-1).astype(np.int32)

    def encode(self, values: np.ndarray) -> list[Part]:
        """
        Args:
            values: (channels, rows, columns) of integers.
        """
        clipped = np.clip(values, -VALUE_LIMIT, VALUE_LIMIT)
        own = [_magnitude(values), clipped * 2.0 ** (INPUT_BITS - VALUE_SHIFT), np.zeros((1, self.height, self.width))]
        planes = np.concatenate((_padded(np.concatenate(own)), self.known))
        symbols, indexes = [], []
        block = max(1, POSITIONS // self.width)
        for number, channel in enumerate(self.active):
            for top in range(0, self.height, block):
                rows = min(block, self.height - top)
                x = np.stack([_window(planes, place, top, rows, self.width).reshape(-1) for place in self.places[number]], 1)
                first = x @ self.context.first[channel].T + self.context.first_bias[self.scale, channel]
                index, mean = self.context.outputs(first, x[:, :SIGNED], self.scale, [(channel, slice(None))])
                table, whole = named(index, mean, self.kind.last)
                symbols.append(values[channel, top : top + rows].reshape(-1).astype(np.int64) - whole)
                indexes.append(table)
        order, edges = self._steps()
        ordered = (np.concatenate(symbols)[order], np.concatenate(indexes)[order])
        return [(ordered[0][step[0] : step[-1]], ordered[1][step[0] : step[-1]]) for step in edges if step[0] < step[-1]]

    def decode(self, decoder: RowDecoder) -> np.ndarray:
        """The values that :meth:`encode` was given, int32."""
        stride = self.height + ABOVE + 1
        size = (self.width + 2 * self.height - 2 + REACH) * stride
        state = np.zeros((self.unknown + 1) * size)  # one plane more, so that no neighbour is beyond the end
        found = np.zeros(self.channels * size, np.int32)
        context, lookup = self.context, magnitudes()
        moving = [[place for place in places if place.plane < self.unknown] for places in self.places]
        offsets = np.array(
            [[place.plane * size + (place.column + 2 * place.row) * stride + place.row for place in each] for each in moving]
        )
        first = [np.ascontiguousarray(context.first[channel][:, : offsets.shape[1]].T) for channel in self.active]
        place = (self.when + LEFT) * stride + np.repeat(np.arange(self.height), self.width) + ABOVE
        order, edges = self._steps()
        bands, places = np.divmod(order, len(place))
        base = place[places]
        target = base + np.array(self.active)[bands] * size
        known = self._known_sums(bands, places)
        for step in edges:
            here = slice(step[0], step[-1])
            spans = enumerate(pairwise(step))
            parts = [(band, slice(low - step[0], high - step[0])) for band, (low, high) in spans if low < high]
            x = state.take(base[here, None] + offsets[bands[here]])
            sums = known[here]
            for band, part in parts:
                sums[part] += x[part] @ first[band]
            index, mean = context.outputs(sums, x[:, :SIGNED], self.scale, [(self.active[band], part) for band, part in parts])
            table, whole = named(index, mean, self.kind.last)
            symbols = np.add(decoder.take(table), whole, dtype=np.int64)
            clipped = np.maximum(np.minimum(symbols, VALUE_LIMIT), -VALUE_LIMIT)
            to = target[here]
            state[to] = lookup[np.abs(clipped)]
            state[to + self.channels * size] = clipped * 2.0 ** (INPUT_BITS - VALUE_SHIFT)
            found[to] = np.maximum(np.minimum(symbols, SYMBOL_LIMIT), -SYMBOL_LIMIT)
        return found.reshape(self.channels, size)[:, place].reshape(self.channels, self.height, self.width)

    def _steps(self) -> tuple[np.ndarray, list[list[int]]]:
        """Positions of all bands, one band after another, in the order of decoding; and where each band of each step starts there."""
        count = len(self.active)
        times = (self.when + LAG * np.arange(count, dtype=np.int32)[:, None]).reshape(-1)
        order = np.argsort(times, kind="stable")
        both = times[order] * np.int64(count) + order // len(self.when)
        edges = np.searchsorted(both, np.arange((int(times.max()) + 1) * count + 1)).tolist()
        return order, [edges[step * count : (step + 1) * count + 1] for step in range(int(times.max()) + 1)]

    def _known_sums(self, bands: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """What the first layers make of parents and guides, and their biases: (positions in the order of decoding, hidden)."""
        context = self.context
        total = context.first_bias[self.scale, self.active][bands]
        for number, channel in enumerate(self.active):
            places = [place._replace(plane=place.plane - self.unknown) for place in self.places[number] if place.plane >= self.unknown]
            if places:
                seen = np.stack([_window(self.known, place, 0, self.height, self.width).reshape(-1) for place in places])
                here = bands == number
                total[here] += (context.first[channel][:, -len(places) :] @ seen).T[positions[here]]
        return total


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


def _padded(planes: np.ndarray) -> np.ndarray:
    left, right, top, bottom = PADDING
    return np.pad(planes, ((0, 0), (top, bottom), (left, right)))


def _window(planes: np.ndarray, place: Place, top: int, height: int, width: int) -> np.ndarray:
    """Rows of a padded plane, as a neighbour sees them."""
    first, left = PADDING[2] + place.row + top, PADDING[0] + place.column
    return planes[place.plane, first : first + height, left : left + width]


__all__ = ["GroupCoder", "with_flags"]
