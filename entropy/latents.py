"""Latents in integer steps as bytes: what every coder of grids has, whatever tells it where values are large."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from neuralcodec.entropy import rans
from neuralcodec.entropy.laplace import SCALES, index_of, laplace_bits, laplace_tables
from neuralcodec.entropy.quantizers import SYMBOL_LIMIT, round_straight_through
from neuralcodec.entropy.weights import STEP_LIMIT, STEPS_PER_OCTAVE

MAGNITUDE_LIMIT = 255
SIDE_PRICE = 3.0  # bits of a table or an offset that is not as usual, about; as much again for every four by which it differs
FIRST_INDEX = round(index_of(12.0))  # table of the scale of each list of side information
SIDE_LIMIT = 2**12  # of one of them


class GridShape(NamedTuple):
    rows: int
    channels: int
    height: int
    width: int
    parent: int | None = None  # grid before this one, of as many rows, whose magnitudes are context
    family: str = ""  # of :data:`~neuralcodec.entropy.band_contexts.FAMILIES`, and its place in there
    place: int = 0
    alone: bool = False  # whether its rows know nothing of each other


class LatentCoder(nn.Module):
    """Steps of grids, learned while latents are; offsets of scale indexes, chosen for the latents.

    Args:
        shapes: of the grids, in coding order.
    """

    def __init__(self, shapes: Sequence[GridShape]):
        super().__init__()
        self.shapes = [GridShape(*shape) for shape in shapes]
        for number, shape in enumerate(self.shapes):
            if shape.parent is not None and not (0 <= shape.parent < number and self.shapes[shape.parent].rows == shape.rows):
                raise ValueError("a grid's parent comes before it and has as many rows")
        channels = [shape.channels for shape in self.shapes]
        self.steps = nn.ParameterList(torch.zeros(each) for each in channels)  # in quarters of an octave
        self.offsets = chosen(torch.zeros(each) for each in channels)  # of scale indexes

    @property
    def _device(self) -> torch.device:
        return next(iter(self.steps), torch.zeros(())).device

    def step(self, number: int) -> Tensor:
        """Of a grid's channels, (channels,)."""
        return torch.exp2(round_straight_through(self.steps[number]).clamp(-STEP_LIMIT, STEP_LIMIT) / STEPS_PER_OCTAVE)

    def indexes(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """Scale index of every latent, given the rounded ones around it: of the grids' shapes."""
        raise NotImplementedError

    def symbols(self, latents: Sequence[Tensor]) -> list[Tensor]:
        """What is coded of latents in steps: differences of whole ones to what is expected."""
        raise NotImplementedError

    def expected(self, number: int, latent: Tensor) -> Tensor:
        """What each value of a whole latent is predicted to be by those before it."""
        raise NotImplementedError

    def settle(self, latents: Sequence[Tensor]) -> None:
        """Choose everything that no gradient changes by what these very latents cost."""
        raise NotImplementedError

    def encode(self, latents: Sequence[Tensor]) -> tuple[bytes, list[np.ndarray]]:
        """A stream of latents (rows, channels, height, width) in steps, and the integers in it."""
        raise NotImplementedError

    def decode(self, data: bytes) -> tuple[list[Tensor], list[np.ndarray]]:
        """Undo :meth:`encode`: dequantized latents, and their integers. Steps and all that was chosen become the file's.

        Raises:
            CorruptStream: not such a stream.
        """
        raise NotImplementedError

    @torch.no_grad()
    def integers(self, latents: Sequence[Tensor]) -> list[np.ndarray]:
        """What is coded of latents in steps, int32."""
        return [integers(symbols) for symbols in self.symbols(latents)]

    @torch.no_grad()
    def latent_bits(self, latents: Sequence[Tensor], indexes: Sequence[Tensor]) -> float:
        """Bits of latents in steps by the tables themselves."""
        return sum(table_bits(symbols, index) for symbols, index in zip(self.symbols(latents), indexes))

    @torch.no_grad()
    def choose(self, values: Sequence[Tensor], worth: Sequence[Tensor], turns: int = 2) -> list[Tensor]:
        """Integers for real-valued latents in steps such that bits + worth · error² is least, as far as each can tell on its own.

        Args:
            worth: bits per squared error of a step, of each grid's channels: (channels, 1, 1).
        """
        nearest = [torch.round(value) for value in values]
        chosen = [torch.sign(value) * torch.floor(value.abs() + 0.3) for value in values]
        for _ in range(turns):
            for number, index in enumerate(self.indexes(chosen)):
                expected = self.expected(number, chosen[number])
                choice, best = nearest[number], torch.full_like(index, math.inf)
                for candidate in (choice, choice - torch.sign(choice - expected), expected):
                    cost = laplace_bits(candidate - expected, index) + worth[number] * (values[number] - candidate).square()
                    choice, best = torch.where(cost < best, candidate, choice), torch.minimum(cost, best)
                chosen[number] = choice
        return chosen

    def side_bits(self) -> Tensor:
        """Of everything but the latents, scalar."""
        lists = self._side()
        spreads = [self._spread(each) for each in lists]
        ahead = torch.tensor(spreads, dtype=torch.float32, device=self._device)
        bits = laplace_bits(ahead, torch.full_like(ahead, FIRST_INDEX)).sum()
        for each, spread in zip(lists, spreads):
            bits = bits + laplace_bits(each, torch.full_like(each, spread)).sum()
        return bits

    def _side(self) -> list[Tensor]:
        """Lists of side information, each as what it differs by from the channel or grid before."""
        every = [torch.cat([each[0].new_zeros(1), *each]) for each in self._by_channel()] if self.shapes else []
        return [(each[1:] - each[:-1]).reshape(-1) for each in map(round_straight_through, every)]

    def _by_channel(self) -> list[nn.ParameterList]:
        """What every channel has."""
        return [self.steps, self.offsets]

    @torch.no_grad()
    def _spread(self, rest: Tensor) -> int:
        """The scale index under which side information costs least."""
        places = torch.round(rest).clamp(-MAGNITUDE_LIMIT, MAGNITUDE_LIMIT).long() + MAGNITUDE_LIMIT
        counts = torch.bincount(places, minlength=2 * MAGNITUDE_LIMIT + 1).float()
        return int((prices().to(counts.device) @ counts).argmin())

    def _side_parts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Side information, as :func:`~neuralcodec.entropy.rans.encode_parts` takes it."""
        lists = [integers(each) for each in self._side()]
        spreads = np.array([self._spread(torch.from_numpy(each)) for each in lists])
        return [
            (spreads, np.full(len(spreads), FIRST_INDEX)),
            *((each, np.full(len(each), spread)) for each, spread in zip(lists, spreads)),
        ]

    def _read_side(self, decoder: rans.Decoder) -> None:
        lengths = [len(each) for each in self._side()]
        spreads = np.clip(decoder.take(np.full(len(lengths), FIRST_INDEX)), 0, SCALES - 1)
        self._take_side([decoder.take(np.full(length, spread)) for length, spread in zip(lengths, spreads)])

    def _take_side(self, lists: Sequence[np.ndarray]) -> None:
        """Undo :meth:`_side`; nothing that a file says may become infinite later."""
        for parts, each in zip(self._by_channel(), lists):
            limited = torch.from_numpy(each).to(parts[0].device, torch.float64).clamp(-SIDE_LIMIT, SIDE_LIMIT)
            for part, values in zip(parts, limited.cumsum(0).split([shape.channels for shape in self.shapes])):
                part.copy_(values)


def side_price(difference: Tensor) -> Tensor:
    """Bits of integers of side information, about."""
    return SIDE_PRICE * (difference.abs().clamp(max=1) + difference.abs() / 4)


def chosen(values: Iterable[Tensor]) -> nn.ParameterList:
    """What no gradient changes."""
    return nn.ParameterList(nn.Parameter(value, requires_grad=False) for value in values)


def rounded(latent: Tensor) -> Tensor:
    """Latents as integers that a coder takes."""
    return torch.round(torch.nan_to_num(latent)).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)


def table_bits(symbols: Tensor, index: Tensor) -> float:
    """Of integers under the tables that the indexes name; nearly all are zero."""
    free = laplace_tables().bits(torch.zeros(SCALES, dtype=torch.long), torch.arange(SCALES))
    places, index = symbols != 0, index.long()
    coded = laplace_tables().bits(symbols[places].long(), index[places])
    return float(free[index[~places]].double().sum() + coded.double().sum())


@cache
def prices() -> Tensor:
    """Bits of the symbols -MAGNITUDE_LIMIT … MAGNITUDE_LIMIT under every table."""
    symbols = torch.arange(-MAGNITUDE_LIMIT, MAGNITUDE_LIMIT + 1).expand(SCALES, -1)
    return laplace_tables().bits(symbols, torch.arange(SCALES)[:, None].expand_as(symbols))


def integers(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.int32)
