"""Pyramids of integer latents as bytes: four parity passes, tables chosen by the magnitudes of what is already decoded.

    previous row of time ──┐
    coarser grid ──────────┼──weighted sum of |integers|──class 0…15──► scale index ──► Laplace table
    passes before ─────────┘

A grid is (rows, channels, height, width); a row belongs to a moment. Rows are decoded one after the other, and in each the positions (even,
even), (odd, odd), (even, odd), (odd, even), every pass at once. What is coded is the difference to a share of the row before. All of it is
integer arithmetic on magnitudes up to 255: no network, the same on every machine, and vectorised.

The passes: He et al. 2021, https://arxiv.org/abs/2103.15306 (two of them), He et al. 2022, https://arxiv.org/abs/2203.10886 (four).
Context classes instead of a network: as in CALIC (Wu and Memon 1997, https://doi.org/10.1109/26.585919); here an encoder chooses the scale
of each class for the latents in question.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.entropy import rans
from neuralcodec.entropy.laplace import SCALES, index_of, laplace_bits, laplace_tables
from neuralcodec.entropy.latents import MAGNITUDE_LIMIT, SIDE_LIMIT, GridShape, LatentCoder, chosen, integers, prices, rounded, side_price
from neuralcodec.entropy.quantizers import SYMBOL_LIMIT, round_straight_through
from neuralcodec.entropy.weights import EXACT, Rounding

PASSES = ((0, 0), (1, 1), (0, 1), (1, 0))  # (row, column) parity of each
SETS = (0, 1, 1, 1)  # which of a grid's two sets of tables each pass uses: the first one knows less
SHARE = (0, 6, 3, 2)  # what makes the eight neighbours, weighted 2 and 1, add up to 24 with those that each pass knows
MIX_LIMIT = 63  # of the weights of the three kinds of neighbours, in sixteenths
UNIT = 24 * 16  # of a context: one, if every neighbour is
CLASSES = 16
# Contexts from which a class is the nearest one: of 2 log2(1 + 16 context), in units of 1 / UNIT.
THRESHOLDS = tuple(math.ceil((2 ** ((each - 0.5) / 2) - 1) * UNIT / 16) for each in range(1, CLASSES))
MIXES = ((8, 5, 3), (9, 7, 0), (16, 0, 0), (0, 16, 0), (8, 0, 8), (4, 10, 2), (3, 3, 10), (12, 2, 2))  # that an encoder tries
KEEP_UNIT = 16  # a row predicts the next by so many parts of itself at most
KEEPS = (0, 8, 12, 16)  # that an encoder tries
OFFSETS = range(-16, 17)  # of a channel's scale indexes, that an encoder tries


class Window(NamedTuple):
    """Consecutive rows of a grid in steps, (rows, channels, height, width), and those before them that they are predicted from."""

    values: Tensor
    before: int = 0  # how many of the values are rows before: two, or as many as there are


class Rows(NamedTuple):
    values: Tensor  # (rows, channels, height, width), dequantized
    bits: Tensor  # (rows,)


class _Choice(NamedTuple):
    tables: Tensor
    offsets: Tensor
    cost: float  # bits
    keep: int
    mix: Tensor


class GridCoder(LatentCoder):
    """Steps, predictions and context classes of a pyramid of grids. Steps are learned, the rest is chosen for the latents."""

    usual_mix: Tensor
    usual_classes: Tensor
    thresholds: Tensor

    def __init__(self, shapes: Sequence[GridShape]):
        super().__init__(shapes)
        channels = [shape.channels for shape in self.shapes]
        self.keeps = chosen(torch.zeros(each) for each in channels)  # sixteenths of the row before
        self.mixes, self.classes = chosen((torch.zeros(len(channels), 3), torch.zeros(len(channels), max(SETS) + 1, CLASSES)))
        # Sixteenths of passes, row before and parent, and scales of magnitudes that are about as large as their neighbours': what the
        # file says differs from them.
        usual_mix = [(8, 5, 3) if shape.parent is not None else (9, 7, 0) for shape in self.shapes]
        usual_classes = [round(index_of(0.15 + 1.2 * (2 ** (each / 2) - 1) / 16)) for each in range(CLASSES)]
        for name, values in (("usual_mix", usual_mix), ("usual_classes", usual_classes), ("thresholds", THRESHOLDS)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def forward(self, windows: Sequence[Window], indexes: Sequence[Tensor], rounding: Rounding = EXACT) -> list[Rows]:
        """Latents as they come out of coding, or nearly so, and the bits of each row.

        Args:
            indexes: scale indexes of the windows' rows, as :meth:`indexes` finds them.
        """
        results: list[Rows] = []
        for number, (window, index) in enumerate(zip(windows, indexes)):
            proxy = rounding(window.values)
            coded = window.values if rounding.mixed else proxy
            if self.keeps[number].any():
                whole = torch.cat((torch.zeros_like(proxy[:1]), proxy))
                coded = coded - self._predict(number, whole[:-1])
            bits = laplace_bits(coded[window.before :], index).flatten(1).sum(1)
            results.append(Rows(proxy[window.before :] * self.step(number)[:, None, None], bits))
        return results

    @torch.no_grad()
    def indexes(self, latents: Sequence[Tensor]) -> list[Tensor]:
        return self._indexes(self.symbols(latents))

    def _indexes(self, every: Sequence[Tensor]) -> list[Tensor]:
        found = []
        for number, classes in enumerate(self._all_classes(every)):
            index = torch.empty_like(every[number])
            for turn, (part, each) in enumerate(zip(_parities(index), classes)):
                part.copy_(self._index(number, turn, each)[..., : part.shape[2], : part.shape[3]])
            found.append(index)
        return found

    def _all_classes(self, every: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Of the symbols of every grid, by pass."""
        magnitudes = [symbols.abs().clamp(max=MAGNITUDE_LIMIT) for symbols in every]
        for number, shape in enumerate(self.shapes):
            before = torch.cat((torch.zeros_like(magnitudes[number][:1]), magnitudes[number][:-1]))
            yield self._classes(number, magnitudes[number], before, None if shape.parent is None else magnitudes[shape.parent])

    @torch.no_grad()
    def settle(self, latents: Sequence[Tensor]) -> None:
        magnitudes: list[Tensor] = []
        for number, (shape, latent) in enumerate(zip(self.shapes, latents)):
            whole = rounded(latent)
            parent = None if shape.parent is None else magnitudes[shape.parent]
            mixes = [mix for mix in MIXES if (shape.rows > 1 or not mix[1]) and (parent is not None or not mix[2])]
            keeps = KEEPS if shape.rows > 1 else KEEPS[:1]
            tried = [self._tried(number, whole, keep, mixes[0], parent) for keep in keeps]
            best = min(tried, key=lambda each: each.cost)
            others = [self._tried(number, whole, best.keep, mix, parent) for mix in mixes[1:]]
            best = min([best, *others], key=lambda each: each.cost)
            self.keeps[number].fill_(best.keep)
            self.mixes[number], self.classes[number] = best.mix, best.tables
            self.offsets[number].copy_(best.offsets)
            magnitudes.append(self._differences(number, whole).abs().clamp(max=MAGNITUDE_LIMIT))

    def _tried(self, number: int, whole: Tensor, keep: int, mix: tuple[int, int, int], parent: Tensor | None) -> _Choice:
        """The best tables of a grid for one prediction and one mix."""
        self.keeps[number].fill_(keep)
        self.mixes[number] = torch.tensor(mix, device=self.mixes.device) - self.usual_mix[number]
        symbols = self._differences(number, whole)
        magnitude = symbols.abs().clamp(max=MAGNITUDE_LIMIT)
        before = torch.cat((torch.zeros_like(magnitude[:1]), magnitude[:-1]))
        found = self._best_tables(number, symbols, self._classes(number, magnitude, before, parent))
        return _Choice(*found, keep, self.mixes[number].clone())

    def _best_tables(self, number: int, symbols: Tensor, classes: Sequence[Tensor]) -> tuple[Tensor, Tensor, float]:
        """Scale index of each class (sets, classes), to ``usual_classes``, offsets of the channels, and what latents and these cost."""
        channels = symbols.shape[1]
        reach = (prices().shape[1] - 1) // 2
        candidates = torch.arange(SCALES, device=symbols.device)
        channel = torch.arange(channels, device=symbols.device)[:, None, None]
        cells = [
            ((SETS[turn] * CLASSES + places[..., : part.shape[2], : part.shape[3]]) * channels + channel) * (2 * reach + 1)
            + (part.clamp(-reach, reach).long() + reach)
            for turn, (part, places) in enumerate(zip(_parities(symbols), classes))
        ]
        size = self.classes[number].numel() * channels
        counts = torch.bincount(torch.cat([cell.reshape(-1) for cell in cells]), minlength=size * (2 * reach + 1)).reshape(size, -1).float()
        costs = (counts @ prices().to(counts).T).reshape(-1, channels, SCALES)  # of each class and channel under every table
        usual = self.usual_classes.repeat(max(SETS) + 1).long()
        before = usual if number == 0 else usual + self.classes[number - 1].reshape(-1).long()
        side = side_price(candidates - before[:, None])
        offsets = torch.zeros(channels, dtype=torch.long, device=symbols.device)
        tries = torch.tensor(OFFSETS, device=symbols.device)
        for _ in range(2 if channels > 1 else 1):
            shifted = (candidates + offsets[:, None]).clamp(0, SCALES - 1)
            total = side + costs.gather(2, shifted.expand(len(usual), -1, -1)).sum(1)
            table = total.argmin(1)
            if channels > 1:
                index = (table[:, None] + tries).clamp(0, SCALES - 1)[:, None].expand(-1, channels, -1)
                by_offset = costs.gather(2, index).sum(0) + side_price(tries)
                offsets = tries[by_offset.argmin(1)]
        index = (table[:, None] + offsets).clamp(0, SCALES - 1)[:, :, None]
        price = float(costs.gather(2, index).sum() + side.gather(1, table[:, None]).sum() + side_price(offsets).sum())
        return (table - usual).reshape(-1, CLASSES).float(), offsets.float(), price

    @torch.no_grad()
    def encode(self, latents: Sequence[Tensor]) -> tuple[bytes, list[np.ndarray]]:
        every = self.symbols(latents)
        parts = self._side_parts()
        for symbols, index in zip(every, self._indexes(every)):
            wholes = (_parities(symbols), _parities(index))
            for row in range(len(symbols)):
                parts += [(integers(part[row]), integers(places[row])) for part, places in zip(*wholes)]
        return rans.encode_parts(parts, laplace_tables()), [integers(symbols) for symbols in every]

    @torch.no_grad()
    def decode(self, data: bytes) -> tuple[list[Tensor], list[np.ndarray]]:
        decoder = rans.Decoder(data, laplace_tables())
        self._read_side(decoder)
        values: list[Tensor] = []
        magnitudes: list[Tensor] = []
        read: list[np.ndarray] = []
        for number, shape in enumerate(self.shapes):
            size = (shape.channels, shape.height, shape.width)
            symbols = torch.zeros(shape.rows, *size, device=self.mixes.device)
            value, magnitude = torch.zeros_like(symbols), torch.zeros_like(symbols)
            zero = torch.zeros_like(symbols[0])
            for row in range(shape.rows):
                parent = None if shape.parent is None else magnitudes[shape.parent][row, None]
                wholes = _parities(_even(self._beside(number, (magnitude[row - 1] if row else zero)[None], parent)))
                seen: list[Tensor] = []
                for turn, (target, whole) in enumerate(zip(_parities(symbols[row, None]), wholes)):
                    index = self._index(number, turn, self._class(number, turn, seen, whole))
                    taken = decoder.take(integers(index[..., : target.shape[2], : target.shape[3]]))
                    target.copy_(torch.from_numpy(taken).to(target).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT))
                    plane = torch.zeros_like(whole)
                    plane[..., : target.shape[2], : target.shape[3]] = target.abs().clamp(max=MAGNITUDE_LIMIT)
                    seen.append(plane)
                magnitude[row] = symbols[row].abs().clamp(max=MAGNITUDE_LIMIT)
                value[row] = symbols[row] + (self._predict(number, value[row - 1, None])[0] if row else 0)
            magnitudes.append(magnitude)
            read.append(integers(symbols))
            values.append(value * self.step(number)[:, None, None])
        decoder.finish()
        return values, read

    def symbols(self, latents: Sequence[Tensor]) -> list[Tensor]:
        return [self._differences(number, rounded(latent)) for number, latent in enumerate(latents)]

    def _differences(self, number: int, whole: Tensor) -> Tensor:
        """To what the row before predicts."""
        if not self.keeps[number].any():
            return whole
        return whole - self.expected(number, whole)

    def expected(self, number: int, latent: Tensor) -> Tensor:
        return self._predict(number, torch.cat((torch.zeros_like(latent[:1]), latent[:-1])))

    def _predict(self, number: int, before: Tensor) -> Tensor:
        """What of a row carries over to the next: integers if the row is of integers."""
        keep = torch.round(self.keeps[number].clamp(0, KEEP_UNIT))[:, None, None]
        return round_straight_through(before * keep * (1 / KEEP_UNIT))

    def _classes(self, number: int, magnitude: Tensor, before: Tensor, parent: Tensor | None) -> list[Tensor]:
        """Class of every position, by pass: (rows, channels, ⌈height/2⌉, ⌈width/2⌉) each."""
        rest = _parities(_even(self._beside(number, before, parent)))
        planes = _parities(_even(magnitude))
        return [self._class(number, turn, planes[:turn], rest[turn]) for turn in range(len(PASSES))]

    def _beside(self, number: int, before: Tensor, parent: Tensor | None) -> Tensor:
        """The share of a context that the row before and the parent have: (rows, channels, height, width)."""
        mix = self._mix(number)
        across = F.pad(before, (1, 1))
        across = across[..., :-2] + 2 * before + across[..., 2:]
        around = F.pad(across, (0, 0, 1, 1))
        total = (around[..., :-2, :] + 2 * across + around[..., 2:, :] + 8 * before) * mix[1]
        if parent is None:
            return total
        shape = self.shapes[number]
        if parent.shape[1] < shape.channels:
            parent = parent.sum(1, keepdim=True).clamp(max=MAGNITUDE_LIMIT)
        parent = parent[:, : shape.channels]
        rows = torch.arange(shape.height, device=parent.device) * parent.shape[2] // shape.height
        columns = torch.arange(shape.width, device=parent.device) * parent.shape[3] // shape.width
        return total + 24 * mix[2] * parent[:, :, rows][..., columns]

    def _class(self, number: int, turn: int, planes: Sequence[Tensor], rest: Tensor) -> Tensor:
        """Classes of a pass's positions. ``planes``: magnitudes of the passes before; ``rest``: of :meth:`_beside`."""
        if turn == 1:  # corners only
            left, right = planes[0], _shifted(planes[0], 0, 1)
            around = left + right + _shifted(left + right, 1, 0)
        elif turn == 2:
            around = 2 * (planes[0] + _shifted(planes[0], 0, 1) + planes[1] + _shifted(planes[1], -1, 0))
        elif turn == 3:
            corners = planes[2] + _shifted(planes[2], 0, -1)
            around = (
                2 * (planes[1] + _shifted(planes[1], 0, -1) + planes[0] + _shifted(planes[0], 1, 0)) + corners + _shifted(corners, 1, 0)
            )
        context = rest + SHARE[turn] * self._mix(number)[0] * around if turn else rest
        return torch.bucketize(context.contiguous(), self.thresholds, right=True)

    def _mix(self, number: int) -> Tensor:
        return torch.round(self.mixes[number].detach() + self.usual_mix[number]).clamp(0, MIX_LIMIT)

    def _index(self, number: int, turn: int, classes: Tensor) -> Tensor:
        """Scale index of every class, for a coder."""
        table = torch.round(self.classes[number, SETS[turn]]) + self.usual_classes
        return (table[classes] + torch.round(self.offsets[number])[:, None, None]).clamp(0, SCALES - 1)

    def _by_channel(self) -> list[nn.ParameterList]:
        return [self.steps, self.keeps, self.offsets]

    def _side(self) -> list[Tensor]:
        """Steps, predictions, offsets, mixes and tables, each as what it differs by from the channel or grid before."""
        by_grid = [torch.cat((each.new_zeros(1, *each.shape[1:]), each)) for each in (self.mixes, self.classes)] if self.shapes else []
        return super()._side() + [(each[1:] - each[:-1]).reshape(-1) for each in map(round_straight_through, by_grid)]

    def _take_side(self, lists: Sequence[np.ndarray]) -> None:
        super()._take_side(lists)
        for table, each in zip((self.mixes, self.classes), lists[3:]):
            limited = torch.from_numpy(each).to(table.device, torch.float64).clamp(-SIDE_LIMIT, SIDE_LIMIT)
            table.copy_(limited.reshape(table.shape).cumsum(0))


def _even(x: Tensor) -> Tensor:
    """Zeros below and to the right, so that every parity has as many positions."""
    return F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2))


def _parities(x: Tensor) -> list[Tensor]:
    """What each pass codes of a plane: views."""
    return [x[..., top::2, left::2] for top, left in PASSES]


def _shifted(x: Tensor, down: int, right: int) -> Tensor:
    """``x`` at the position that lies so far down and to the right, zeros beyond the border. One of them is zero."""
    if down:
        return F.pad(x, (0, 0, 0, 1))[..., 1:, :] if down > 0 else F.pad(x, (0, 0, 1, 0))[..., :-1, :]
    return F.pad(x, (0, 1))[..., 1:] if right > 0 else F.pad(x, (1, 0))[..., :-1]


__all__ = ["GridCoder", "GridShape", "Rows", "Window"]
