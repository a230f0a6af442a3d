"""Grids of integers whose tables networks name that come with the package: bands of wavelets, and what varies smoothly.

    flags: channels that are not zero ─► passes of luma ─► passes of chroma ─► next row

:mod:`~neuralcodec.entropy.band_contexts` has the networks. All that a file says besides is, for each channel, its step and an offset to
the scale indexes, and for each row which channels are zero everywhere: these cost nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuralcodec.entropy import rans
from neuralcodec.entropy.band_contexts import FAMILIES, Inputs, Seen, Turn, inputs, limited, networks, seen, turns
from neuralcodec.entropy.laplace import SCALES, index_of, laplace_tables
from neuralcodec.entropy.latents import MAGNITUDE_LIMIT, LatentCoder, integers, prices, rounded, side_price, table_bits
from neuralcodec.entropy.quantizers import SYMBOL_LIMIT

FLAG_INDEX = round(index_of(0.45))  # of the table of flags, nine of ten of which are as expected
IDLE_INDEX = round(index_of(0.12))  # what a fit is told of channels that are zero, which cost nothing: nine bits for the first other value
OFFSETS = range(-10, 11)  # that an encoder tries
AT_ONCE = 2**18  # positions of rows that are decoded together, about


class Rows(NamedTuple):
    """Rows that are decoded together, and what is known of them."""

    rows: list[int]
    active: Tensor  # (channels, rows), whether a channel of a row is not zero
    here: Seen
    before: Seen  # of the row before each, or zeros
    parent: Seen | None


class Step(NamedTuple):
    """Of the walk through rows: a turn's positions."""

    turn: Turn
    channels: list[int]  # of which some row is not zero
    tables: Tensor  # before offsets, (channels, rows, height, width)
    mean: Tensor


class BandCoder(LatentCoder):
    """Grids of :data:`~neuralcodec.entropy.band_contexts.FAMILIES`."""

    @torch.no_grad()
    def indexes(self, latents: Sequence[Tensor]) -> list[Tensor]:
        wholes = [rounded(each) for each in latents]
        found = []
        for whole, (index, _), offsets in zip(wholes, self._contexts(wholes), self.offsets):
            idle = ~whole.flatten(2).any(2)[:, :, None, None]
            found.append(limited(index + torch.round(offsets)[:, None, None]).masked_fill(idle, IDLE_INDEX))
        return found

    @torch.no_grad()
    def symbols(self, latents: Sequence[Tensor]) -> list[Tensor]:
        wholes = [rounded(latent) for latent in latents]
        return [whole - self.expected(number, whole) for number, whole in enumerate(wholes)]

    @torch.no_grad()
    def expected(self, number: int, latent: Tensor) -> Tensor:
        if not FAMILIES[self.shapes[number].family].smooth:
            return torch.zeros_like(latent)
        return self._context(number, latent, None)[1]

    @torch.no_grad()
    def settle(self, latents: Sequence[Tensor]) -> None:
        wholes = [rounded(latent) for latent in latents]
        last = torch.zeros(())
        for number, (whole, (found, mean)) in enumerate(zip(wholes, self._contexts(wholes))):
            active = whole.flatten(2).any(2)
            for channel in range(whole.shape[1]):
                rows = active[:, channel]
                last = self._best_offset((whole - mean)[rows, channel], found[rows, channel], last)
                self.offsets[number][channel] = last

    def _best_offset(self, symbols: Tensor, index: Tensor, usual: Tensor) -> Tensor:
        """Of the scale indexes of a channel."""
        reach = MAGNITUDE_LIMIT
        cells = index.reshape(-1).long() * (2 * reach + 1) + symbols.reshape(-1).clamp(-reach, reach).long() + reach
        counts = torch.bincount(cells, minlength=SCALES * (2 * reach + 1)).reshape(SCALES, -1).float()
        costs = counts @ prices().to(counts).T  # of symbols of each index under every table
        tries = torch.tensor(OFFSETS, device=costs.device)
        tables = limited(torch.arange(SCALES, device=costs.device)[:, None] + tries)
        total = costs.gather(1, tables).sum(0) + side_price(tries - usual)
        return tries[total.argmin()].float()

    def latent_bits(self, latents: Sequence[Tensor], indexes: Sequence[Tensor]) -> float:
        wholes = [rounded(latent) for latent in latents]
        bits = 0.0
        for number, (whole, index) in enumerate(zip(wholes, indexes)):
            active = whole.flatten(2).any(2)
            bits += table_bits((whole - self.expected(number, whole))[active], index[active])
        flags = torch.from_numpy(np.concatenate(self._flags([each.flatten(2).any(2).cpu().numpy() for each in wholes])))
        return bits + table_bits(flags, torch.full(flags.shape, FLAG_INDEX))

    @torch.no_grad()
    def encode(self, latents: Sequence[Tensor]) -> tuple[bytes, list[np.ndarray]]:
        wholes = [rounded(latent) for latent in latents]
        parts = self._side_parts()
        flags = self._flags([each.flatten(2).any(2).cpu().numpy() for each in wholes])
        parts.append((np.concatenate(flags), np.full(sum(map(len, flags)), FLAG_INDEX)))
        every = []
        for number, whole in enumerate(wholes):
            symbols = torch.zeros_like(whole)
            for rows in self.rows(number, whole, wholes):
                for step in self._walk(number, rows):
                    places, active = self._places(number, rows, step), rows.active[step.channels]
                    coded = whole.transpose(0, 1)[places] - step.mean
                    symbols.transpose(0, 1)[places] = coded * active[:, :, None, None]
                    parts.append((integers(coded[active]), integers(self._shifted(number, step)[active])))
            every.append(integers(symbols))
        return rans.encode_parts(parts, laplace_tables()), every

    @torch.no_grad()
    def decode(self, data: bytes) -> tuple[list[Tensor], list[np.ndarray]]:
        decoder = rans.Decoder(data, laplace_tables())
        self._read_side(decoder)
        sizes = [shape.rows * shape.channels for shape in self.shapes]
        flags = np.split(decoder.take(np.full(sum(sizes), FLAG_INDEX)), np.cumsum(sizes)[:-1])
        wholes: list[Tensor] = []
        read: list[np.ndarray] = []
        for number, (shape, active) in enumerate(zip(self.shapes, self._actives(flags))):
            whole = torch.zeros(shape.rows, shape.channels, shape.height, shape.width, device=self._device)
            symbols = torch.zeros_like(whole)
            for rows in self.rows(number, whole, wholes, active):
                for step in self._walk(number, rows):
                    places, coded = self._places(number, rows, step), rows.active[step.channels]
                    taken = torch.zeros_like(step.mean)
                    index = self._shifted(number, step)[coded]
                    taken[coded] = torch.from_numpy(decoder.take(integers(index))).to(taken)
                    values = (taken + step.mean).clamp_(-SYMBOL_LIMIT, SYMBOL_LIMIT) * coded[:, :, None, None]
                    symbols.transpose(0, 1)[places], whole.transpose(0, 1)[places] = taken, values
                    there = (step.channels, slice(None), *step.turn.places(FAMILIES[shape.family].margin, shape.height, shape.width))
                    rows.here.values[there], rows.here.magnitudes[there] = seen(values, shape.family, 0)
            wholes.append(whole)
            read.append(integers(symbols))
        decoder.finish()
        return [whole * self.step(number)[:, None, None] for number, whole in enumerate(wholes)], read

    def _places(self, number: int, rows: Rows, step: Step) -> tuple:
        """Of a step in a grid of (channels, rows, height, width)."""
        shape = self.shapes[number]
        first = slice(rows.rows[0], rows.rows[-1] + 1) if len(rows.rows) == rows.rows[-1] + 1 - rows.rows[0] else rows.rows
        channels = step.channels if isinstance(first, slice) else np.array(step.channels)[:, None]
        return (channels, first, *step.turn.places(0, shape.height, shape.width))

    def _shifted(self, number: int, step: Step) -> Tensor:
        return limited(step.tables + torch.round(self.offsets[number])[step.channels, None, None, None])

    def _contexts(self, wholes: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Scale indexes before offsets, and means, of every grid."""
        for number, whole in enumerate(wholes):
            parent = self.shapes[number].parent
            yield self._context(number, whole, None if parent is None else wholes[parent])

    def _context(self, number: int, whole: Tensor, parent: Tensor | None) -> tuple[Tensor, Tensor]:
        """Of a grid; zero where a channel is."""
        index, mean = torch.zeros_like(whole), torch.zeros_like(whole)
        shape = self.shapes[number]
        for rows in self.rows(number, whole, {} if parent is None else {shape.parent: parent}):
            for step in self._walk(number, rows):
                places, active = self._places(number, rows, step), rows.active[step.channels][:, :, None, None]
                index.transpose(0, 1)[places], mean.transpose(0, 1)[places] = step.tables * active, step.mean * active
        return index, mean

    def rows(
        self, number: int, whole: Tensor, others: Sequence[Tensor] | dict[int | None, Tensor], active: np.ndarray | None = None
    ) -> Iterator[Rows]:
        """Rows that are not zero, of a whole that may fill on the way.

        Args:
            active: which channels of a row are not zero, (rows, channels), if the whole does not say so.
        """
        shape = self.shapes[number]
        if active is None:
            active = whole.flatten(2).any(2).cpu().numpy()
        living = np.flatnonzero(active.any(1)).tolist()
        together = max(1, AT_ONCE // (shape.height * shape.width)) if shape.alone else 1
        for first in range(0, len(living), together):
            rows = living[first : first + together]
            here = seen(whole[rows].transpose(0, 1), shape.family)
            if shape.alone or not rows[0]:
                before = Seen(*(torch.zeros_like(each) for each in here))
            else:
                before = seen(whole[rows[0] - 1, None].transpose(0, 1), shape.family)
            parent = None if shape.parent is None else seen(others[shape.parent][rows].transpose(0, 1), shape.family)
            yield Rows(rows, torch.from_numpy(active[rows].T.copy()), here, before, parent)

    def given(self, number: int, rows: Rows) -> Iterator[tuple[Turn, list[int], Inputs]]:
        """What networks are given, turn by turn, each from what is known after those before."""
        shape = self.shapes[number]
        channels = rows.active.any(1).nonzero()[:, 0].tolist()
        for turn in turns(shape.family, shape.channels):
            chosen = [channel for channel in channels if turn.begin <= channel < turn.end]
            if chosen and turn.top < shape.height and turn.left < shape.width:
                size = (shape.height, shape.width)
                yield turn, chosen, inputs(shape.family, turn, rows.here, rows.before, rows.parent, chosen, size)

    def _walk(self, number: int, rows: Rows) -> Iterator[Step]:
        shape = self.shapes[number]
        for turn, chosen, given in self.given(number, rows):
            index, mean = networks()[shape.family][turn.which](turn, self.place(number, turn), chosen, given)
            across = -(-(shape.width - turn.left) // turn.stride)
            form = (len(chosen), len(rows.rows), -1, across)
            yield Step(turn, chosen, limited(index).view(form), mean.view(form))

    def place(self, number: int, turn: Turn) -> int:
        """Of a grid in its family, which biases depend on."""
        shape = self.shapes[number]
        return shape.place + (turn.level if FAMILIES[shape.family].smooth else 0)

    def _flags(self, actives: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Whether a channel of a row is not what is expected, of every grid, row by row."""
        return [
            (active != np.stack([self._likely(number, row, actives, active) for row in range(len(active))])).reshape(-1).astype(np.int32)
            for number, active in enumerate(actives)
        ]

    def _actives(self, flags: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Undo :meth:`_flags`."""
        actives: list[np.ndarray] = []
        for number, (shape, each) in enumerate(zip(self.shapes, flags)):
            active = np.zeros((shape.rows, shape.channels), bool)
            actives.append(active)
            for row, flag in enumerate(each.reshape(active.shape)):
                active[row] = (flag != 0) != self._likely(number, row, actives, active)
        return actives

    def _likely(self, number: int, row: int, actives: Sequence[np.ndarray], active: np.ndarray) -> np.ndarray:
        """Which channels are expected not to be zero: those of the coarser grid, or else of the row before."""
        shape = self.shapes[number]
        if shape.parent is not None:
            return actives[shape.parent][row, : shape.channels]
        return active[row - 1] if row else np.ones(shape.channels, bool)


__all__ = ["BandCoder"]
