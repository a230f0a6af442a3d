"""Weights of a small network as bytes: quantized with learned steps, coded under learned scales, both per row and column.

    weights ──(÷ step)──round──► integers ──Laplace, scale index──► rANS
                  ▲                              ▲
       2^(base + row + column)/4      base + row + column           both integers, coded in front of the weights

Tensors are seen as matrices (outputs, the rest). Everything that picks a table is an integer that was decoded before.

After Kwan et al. 2024 (NVRC), https://arxiv.org/abs/2409.07414, section 3.3: steps and scales per axis, themselves quantized and coded, and
soft rounding while fitting. Differs in Laplace distributions (fitted weights are peaked), in scale indexes that are integer sums, so that
no floating-point number decides a table, and in a single stream.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from neuralcodec.entropy import rans
from neuralcodec.entropy.laplace import SCALES, index_of, laplace_bits, laplace_tables
from neuralcodec.entropy.quantizers import SYMBOL_LIMIT, round_straight_through, soft_round

STEPS_PER_OCTAVE = 4
STEP_LIMIT = 40 * STEPS_PER_OCTAVE  # steps lie within 2^±40, whatever a file says
STEP_CENTRE, SCALE_CENTRE, SPREAD_CENTRE = -24, 5, 10  # typical, so that side information is coded as what it differs by
SIDE_INDEX = round(index_of(8.0))  # table of that difference
USUAL_INDEX = round(index_of(0.4))  # the same where it is known what to expect
DEVIATION = 12.0  # initial standard deviation of a tensor's integers


class Rounding(NamedTuple):
    """What stands in for rounding at a moment of a fit.

    ``alpha``: sharpness of soft rounding with noise in between (Agustsson and Theis 2020, https://arxiv.org/abs/2006.09952); none for exact
    rounding with the gradient of the identity. ``share``: of the values that are rounded at all (quantization noise: Fan et al. 2020,
    https://arxiv.org/abs/2004.07320). ``mixed``: the rate is that of the unrounded values, whose gradient draws little ones to zero.
    """

    alpha: float | None = None
    share: float = 1.0
    mixed: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        if self.alpha is not None:
            return soft_round(soft_round(x, self.alpha) + torch.rand_like(x) - 0.5, self.alpha)
        rounded = round_straight_through(x)
        return rounded if self.share >= 1 else torch.where(torch.rand_like(x) < self.share, rounded, x)


EXACT = Rounding()


class Weights(NamedTuple):
    values: dict[str, Tensor]  # as the network is to use them
    bits: Tensor  # scalar, differentiable: of all of them and of their side information


class WeightCoder(nn.Module):
    """Steps and scales of the tensors of one network, learned while it is fitted.

    Args:
        shapes: of the tensors, by name, in coding order.
        per_axis: a row or a column gets a step and a scale of its own if it has at least so many weights.
        usual: each tensor's step and scale index, in this order, that a decoder expects: what is told is the difference. Without it, they
            are expected to be about what they often are.
    """

    owners: Tensor  # (3, weights): places in `steps` and `scales` that add up for each weight; the last place stays zero
    usual: Tensor  # (2 tensors + spreads,)
    vectors: Tensor  # (places,): row of `spreads` that each row's or column's place belongs to

    def __init__(self, shapes: Mapping[str, Sequence[int]], per_axis: int = 64, usual: Mapping[str, tuple[int, int]] | None = None):
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        matrices = [(shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape)) for shape in self.shapes.values()]
        place, vectors, owners = len(matrices), [], []
        for number, (rows, columns) in enumerate(matrices):
            parts = [np.full((rows, columns), number)]
            for length, elements, axis in ((rows, columns, 1), (columns, rows, 0)):
                if length > 1 and elements >= per_axis:
                    parts.append(np.broadcast_to(np.expand_dims(np.arange(place, place + length), axis), (rows, columns)))
                    vectors.append(length)
                    place += length
                else:
                    parts.append(np.full((rows, columns), -1))
            owners.append(np.stack([part.reshape(-1) for part in parts]))
        every = np.concatenate(owners, 1) if owners else np.zeros((3, 0), int)
        self.register_buffer("owners", torch.from_numpy(np.where(every < 0, place, every)), persistent=False)
        self.register_buffer("vectors", torch.repeat_interleave(torch.tensor(vectors, dtype=torch.long)), persistent=False)
        self.tensors = len(matrices)
        self.steps = nn.Parameter(torch.zeros(place))  # in quarters of an octave
        self.scales = nn.Parameter(torch.zeros(place))
        self.spreads = nn.Parameter(torch.zeros(2, len(vectors)))  # scale indexes of the rows' and columns' steps and scales
        self.side_index = SIDE_INDEX if usual is None else USUAL_INDEX
        expected = [(STEP_CENTRE, SCALE_CENTRE) if usual is None else usual[name] for name in self.shapes]
        steps, scales = ([each[part] for each in expected] for part in range(2))
        self.register_buffer("usual", torch.tensor([*steps, *scales, *[SPREAD_CENTRE] * (2 * len(vectors))]).float(), persistent=False)
        with torch.no_grad():
            self.steps[: self.tensors], self.scales[: self.tensors] = self.usual[: 2 * self.tensors].reshape(2, -1)

    @torch.no_grad()
    def initialise(self, values: Mapping[str, Tensor], smallest: float = 0.02) -> None:
        """Steps such that each tensor's integers have a standard deviation of ``DEVIATION``.

        Args:
            smallest: standard deviation that is assumed at least, of tensors that start at zero.
        """
        for number, name in enumerate(self.shapes):
            deviation = max(float(values[name].square().mean().sqrt()), smallest)
            self.steps[number] = STEPS_PER_OCTAVE * math.log2(deviation / DEVIATION)
            self.scales[number] = index_of(DEVIATION)
        self.steps[self.tensors :] = 0
        self.scales[self.tensors :] = 0

    def forward(self, values: Mapping[str, Tensor], rounding: Rounding = EXACT) -> Weights:
        """Tensors as they come out of coding, or nearly so, and what that costs."""
        flat = torch.cat([values[name].reshape(-1) for name in self.shapes])
        steps, scales, spreads = (round_straight_through(part) for part in (self.steps, self.scales, self.spreads))
        step = self._step(steps)
        unrounded = flat / step
        proxy = rounding(unrounded)
        bits = laplace_bits(unrounded if rounding.mixed else proxy, self._sum(scales)).sum() + self._side_bits(steps, scales, spreads)
        return Weights(self._shaped(proxy * step), bits)

    @torch.no_grad()
    def encode(self, values: Mapping[str, Tensor]) -> tuple[bytes, np.ndarray]:
        """A stream, and the integers in it."""
        flat = torch.cat([values[name].reshape(-1) for name in self.shapes])
        steps, scales, spreads = (torch.round(part) for part in (self.steps, self.scales, self.spreads))
        symbols = torch.round(flat / self._exact_step(steps)).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)
        header, places, tensors = self._header(steps, scales, spreads), self._places(steps, scales), self._index(scales)
        parts = [(header, torch.full_like(header, self.side_index)), (places, self._place_index(spreads)), (symbols, tensors)]
        arrays = [(_integers(part), _integers(index)) for part, index in parts]
        return rans.encode_parts(arrays, laplace_tables()), arrays[-1][0]

    @torch.no_grad()
    def decode(self, data: bytes) -> tuple[dict[str, Tensor], np.ndarray]:
        """Undo :meth:`encode`; steps and scales become the file's.

        Raises:
            CorruptStream: not such a stream.
        """
        decoder = rans.Decoder(data, laplace_tables())
        device = self.steps.device
        count = self.tensors

        def take(index: Tensor) -> Tensor:
            return torch.from_numpy(decoder.take(_integers(index))).to(device, torch.float64).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)

        header = take(torch.full((2 * count + self.spreads.numel(),), self.side_index)) + self.usual
        spreads = header[2 * count :].reshape(2, -1)
        steps, scales = take(self._place_index(spreads)).reshape(2, -1)
        for parameter, bases, rest in ((self.steps, header[:count], steps), (self.scales, header[count : 2 * count], scales)):
            parameter.copy_(torch.cat((bases, rest)).clamp(-(2**20), 2**20))
        self.spreads.copy_(spreads.clamp(-(2**20), 2**20))
        symbols = take(self._index(self.scales))
        decoder.finish()
        return self._shaped(symbols.to(self.steps.dtype) * self._exact_step(self.steps)), _integers(symbols)

    def _sum(self, places: Tensor) -> Tensor:
        """Base, row and column of every weight, added up."""
        padded = torch.cat((places, places.new_zeros(1)))
        return padded[self.owners[0]] + padded[self.owners[1]] + padded[self.owners[2]]

    def _step(self, steps: Tensor) -> Tensor:
        return torch.exp2(self._sum(steps).clamp(-STEP_LIMIT, STEP_LIMIT) / STEPS_PER_OCTAVE)

    def _exact_step(self, steps: Tensor) -> Tensor:
        """The same of integers, equal on every machine to the last bit: weights may go on to decide tables."""
        places = self._sum(steps).clamp(-STEP_LIMIT, STEP_LIMIT).long() + STEP_LIMIT
        return _steps().to(steps)[places]

    def _index(self, scales: Tensor) -> Tensor:
        return self._sum(scales).clamp(0, SCALES - 1)

    def _header(self, steps: Tensor, scales: Tensor, spreads: Tensor) -> Tensor:
        return torch.cat((steps[: self.tensors], scales[: self.tensors], spreads.reshape(-1))) - self.usual

    def _places(self, steps: Tensor, scales: Tensor) -> Tensor:
        return torch.cat((steps[self.tensors :], scales[self.tensors :]))

    def _place_index(self, spreads: Tensor) -> Tensor:
        return spreads[:, self.vectors].reshape(-1).clamp(0, SCALES - 1)

    def _side_bits(self, steps: Tensor, scales: Tensor, spreads: Tensor) -> Tensor:
        header = self._header(steps, scales, spreads)
        bits = laplace_bits(header, torch.full_like(header, self.side_index)).sum()
        return bits + laplace_bits(self._places(steps, scales), spreads[:, self.vectors].reshape(-1)).sum()

    def _shaped(self, flat: Tensor) -> dict[str, Tensor]:
        pieces = torch.split(flat, self.sizes)
        return {name: piece.reshape(shape) for piece, (name, shape) in zip(pieces, self.shapes.items())}


@cache
def _steps() -> Tensor:
    """2^(n / STEPS_PER_OCTAVE) for every n from -STEP_LIMIT on."""
    octave = [math.sqrt(math.sqrt(2.0**part)) for part in range(STEPS_PER_OCTAVE)]  # square roots are exact, as IEEE 754 has them
    every = range(-STEP_LIMIT, STEP_LIMIT + 1)
    return torch.tensor([math.ldexp(octave[each % STEPS_PER_OCTAVE], each // STEPS_PER_OCTAVE) for each in every])


def _integers(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.int32)


__all__ = ["EXACT", "Rounding", "WeightCoder", "Weights"]
