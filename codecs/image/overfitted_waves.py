"""Groups of bands ⇄ bytes, in waves: every position with the same ``column + 2 row + 4 band`` at once.

Planes are kept skewed: row ``column + 2 row`` of the skewed plane holds, in column ``row``, a position of the band. A neighbour is then
at a fixed distance in memory, whatever the step, and the context of a step is one gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

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
        self.order = np.argsort(self.when, kind="stable")

    def encode(self, values: np.ndarray) -> list[Part]:
        """
        Args:
            values: (channels, rows, columns) of integers.
        """
        clipped = np.clip(values, -VALUE_LIMIT, VALUE_LIMIT)
        own = [_magnitude(values), clipped * 2.0 ** (INPUT_BITS - VALUE_SHIFT), np.zeros((1, self.height, self.width))]
        planes = np.concatenate((_padded(np.concatenate(own)), self.known))
        symbols, indexes, times = [], [], []
        block = max(1, POSITIONS // self.width)
        for number, channel in enumerate(self.active):
            for top in range(0, self.height, block):
                rows = min(block, self.height - top)
                x = np.stack([_window(planes, place, top, rows, self.width).reshape(-1) for place in self.places[number]], 1)
                first = x @ self.context.first[channel].T + self.context.first_bias[self.scale, channel]
                index, mean = self.context.outputs(first[None], x[None, :, :SIGNED], self.scale, [channel])
                table, whole = named(index[0], mean[0], self.kind.last)
                symbols.append(values[channel, top : top + rows].reshape(-1).astype(np.int64) - whole)
                indexes.append(table)
                times.append(self.when[top * self.width : (top + rows) * self.width] + LAG * number)
        time = np.concatenate(times)
        order = np.argsort(time, kind="stable")
        edges = np.flatnonzero(np.diff(time[order])) + 1
        ordered = (np.concatenate(symbols)[order], np.concatenate(indexes)[order])
        return list(zip(*(np.split(part, edges) for part in ordered)))

    def decode(self, decoder: RowDecoder) -> np.ndarray:
        """The values that :meth:`encode` was given, int32."""
        steps, stride = self.width + 2 * self.height - 2, self.height + ABOVE + 1
        size = (steps + REACH) * stride
        state = np.zeros((self.unknown + 1) * size)  # one plane more, so that no neighbour is beyond the end
        found = np.zeros(self.channels * size, np.int32)
        context, lookup = self.context, magnitudes()
        known = self._known_sums()
        starts = np.searchsorted(self.when[self.order], np.arange(steps))
        moving = [[place for place in places if place.plane < self.unknown] for places in self.places]
        offsets = np.array(
            [[place.plane * size + (place.column + 2 * place.row) * stride + place.row for place in each] for each in moving]
        )
        first = np.ascontiguousarray(context.first[self.active][:, :, : offsets.shape[1]].transpose(0, 2, 1))
        own = np.array(self.active)[:, None] * size
        lags = LAG * np.arange(len(self.active))
        for step in range(steps + int(lags[-1])):
            times = step - lags
            low = np.maximum((times - self.width + 2) // 2, 0)
            counts = np.where((times >= 0) & (times < steps), np.minimum(times // 2, self.height - 1) - low + 1, 0)
            rows = np.arange(int(counts.max()))
            valid = rows < counts[:, None]
            base = np.where(valid, (times[:, None] + LEFT) * stride + low[:, None] + rows + ABOVE, LEFT * stride + ABOVE)
            x = state.take(base[:, :, None] + offsets[:, None])
            total = np.matmul(x, first)
            for number, count in enumerate(counts):
                if count:
                    total[number, :count] += known[number] if len(known[number]) == 1 else known[number][starts[times[number]] :][:count]
            index, mean = context.outputs(total, x[..., :SIGNED], self.scale, self.active)
            table, whole = named(index[valid], mean[valid], self.kind.last)
            symbols = np.clip(decoder.take(table).astype(np.int64) + whole, -SYMBOL_LIMIT, SYMBOL_LIMIT)
            clipped = np.clip(symbols, -VALUE_LIMIT, VALUE_LIMIT)
            target = (own + base)[valid]
            state[target] = lookup[np.abs(clipped)]
            state[target + self.channels * size] = clipped * 2.0 ** (INPUT_BITS - VALUE_SHIFT)
            found[target] = symbols
        inside = (self.when + LEFT) * stride + np.repeat(np.arange(self.height), self.width) + ABOVE
        return found.reshape(self.channels, size)[:, inside].reshape(self.channels, self.height, self.width)

    def _known_sums(self) -> list[np.ndarray]:
        """What each band's first layer makes of parents and guides, and its bias.

        (positions in the order of steps, hidden) each, or (1, hidden) where there are neither parents nor guides.
        """
        context, sums = self.context, []
        for number, channel in enumerate(self.active):
            bias = context.first_bias[self.scale, channel]
            places = [place for place in self.places[number] if place.plane >= self.unknown]
            if not places:
                sums.append(bias[None])
                continue
            weights = context.first[channel][:, -len(places) :]
            total = np.broadcast_to(bias, (len(self.order), len(bias))).copy()
            for place, column in zip(places, weights.T):
                moved = place._replace(plane=place.plane - self.unknown)
                total += _window(self.known, moved, 0, self.height, self.width).reshape(-1)[self.order, None] * column
            sums.append(total)
        return sums


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
