"""A picture as grids of integers from full resolution down, a small synthesis network, and a context network that codes the grids.

    grid 6 ─upsampling─► ┐
    grid 5 ────────────► ┴─upsampling─► ┐
    grid 4 ───────────────────────────► ┴─ … ─► 7 planes ─perceptron─► R, G, B ─3×3─► ─3×3─►(+)─► picture
                                                    └──────────────────linear────────────────┘

Every grid has half the rows and columns of the one before. Each sample is the nonlinear function of seven numbers, one of each grid, and of
what is next to it; all weights are fitted to the picture.

Ladune et al. 2023 (Cool-chic), https://arxiv.org/abs/2212.05458; Leguay et al. 2023, https://arxiv.org/abs/2307.12706; Kim et al. 2023
(C3), https://arxiv.org/abs/2312.02753. Differs in weights that come with the package, in initial latents by descent on the error before
rates are looked at, in contexts (:mod:`~neuralcodec.codecs.image.overfitted_context`), and in integers that are moved one by one at the end
(:mod:`~neuralcodec.codecs.image.overfitted_search`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.fixed import fixed_values
from neuralcodec.codecs.image.overfitted_context import COARSER, PADDING, GridContext, compressed, doubled, stripe_rows
from neuralcodec.codecs.image.overfitted_function import Band, Drawn, Moves, PictureFunction
from neuralcodec.codecs.image.overfitted_integers import NARROW, SHORT, WIDE, Tables, tables
from neuralcodec.codecs.image.overfitted_waves import GridCoder
from neuralcodec.codecs.image.stencils import Perceptron, stencil
from neuralcodec.entropy import container, rans
from neuralcodec.entropy.quantizers import SYMBOL_LIMIT
from neuralcodec.entropy.rans import CorruptStream

BICUBIC = (-0.035, 0.262, 0.879, -0.106)  # taps of a sample a quarter before that of the coarser grid, from two before it to one after it
FIRST_STEP = 1 / 4  # of every grid, before anything is learned
MOST_GRIDS, WIDEST = 12, 256
MOST_POSITIONS = 2**27  # of a picture with eight rows and columns more: of narrow ones most is border
BAND = 2**16  # pixels of a band, about: of fewer, what a step costs besides is felt
REACHES = (2, 3, *[4] * (MOST_GRIDS - 2))  # rows of each grid that filters see beyond a band
NARROW_GRIDS = 3  # the finest ones, whose tables are short


class Grids(PictureFunction):
    """
    Args:
        grids: how many, the first one as large as the picture.
        hidden: width of the context network.
        width: of the synthesis network.
    """

    def __init__(self, grids: int = 7, hidden: int = 24, width: int = 48):
        super().__init__()
        if not (1 <= grids <= MOST_GRIDS and 1 <= hidden <= WIDEST and 1 <= width <= WIDEST):
            raise ValueError(f"there are 1 to {MOST_GRIDS} grids, and networks are 1 to {WIDEST} wide")
        self.grids = grids
        self.gain = nn.Parameter(torch.full((grids,), math.log(FIRST_STEP)))  # logarithms of steps
        self.upsampling = nn.Parameter(torch.tensor(BICUBIC).repeat(grids - 1, 1))
        self.synthesis_in = nn.Parameter(fixed_values(width * grids, 3).view(width, grids) / math.sqrt(grids))
        self.synthesis_in_bias = nn.Parameter(torch.zeros(width, 1))
        self.synthesis_out = nn.Parameter(fixed_values(3 * width, 4).view(3, width) / 20)
        self.synthesis_out_bias = nn.Parameter(torch.full((3, 1), 0.5))
        self.linear = nn.Parameter(torch.full((3, grids), 0.3))
        self.filters = nn.Parameter(torch.zeros(2, 3, 3, 3, 3))
        self.filters_bias = nn.Parameter(torch.zeros(2, 3))
        self.context = GridContext(grids, hidden)

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Rows and columns of every grid."""
        return [(-(-height // 2**number), -(-width // 2**number)) for number in range(self.grids)]

    def bands(self, height: int, width: int) -> list[Band]:
        """About as high as the stripes of the finest grid, or of so many rows that steps pay; about as high as each other."""
        sizes = self.sizes(height, width)
        unit = 2 ** (self.grids - 1)  # rows of a row of the coarsest grid
        usual = unit * max(1, round(max(stripe_rows(height, width), BAND / width) / unit))
        units = max(1, height // unit)
        count = min(units, max(1, round(height / usual)))
        edges = [unit * round(number * units / count) for number in range(count)]
        bands = []
        for top, bottom in itertools.pairwise([*edges, None]):
            ends = [rows if bottom is None else bottom // 2**number for number, (rows, _) in enumerate(sizes)]
            own = [slice(top // 2**number, end) for number, end in enumerate(ends)]
            seen = [slice(max(0, each.start - reach), min(rows, each.stop + reach)) for each, reach, (rows, _) in zip(own, REACHES, sizes)]
            bands.append(Band(own[0], seen, own))
        return bands

    def forward(
        self, latents: Sequence[Tensor], height: int, width: int, exact: bool = False, band: Band | None = None, **options: Any
    ) -> Drawn:
        picture = self.draw(latents, height, width, band, **options)
        values = [latent.detach().requires_grad_(latent.requires_grad) for latent in latents] if exact else list(latents)
        logarithms = [compressed(value) for value in values]
        if exact:
            logarithms = [each.detach().requires_grad_(each.requires_grad) for each in logarithms]
        bits = picture.new_zeros(())
        moves: list[Moves] = []
        coarser: list[Tensor] = []
        for number in range(self.grids - 1, -1, -1):
            rows, columns = latents[number].shape
            seen, own = (slice(0, rows),) * 2 if band is None else (band.seen[number], band.own[number])
            skipped = 0 if band is None or not coarser else seen.start - 2 * band.seen[number + 1].start
            coarser = [doubled(each, skipped + rows, columns)[skipped:] for each in coarser]
            part = slice(own.start - seen.start, own.stop - seen.start)
            above = min(PADDING[2], part.start)
            around = slice(part.start - above, min(part.stop + PADDING[3], rows))
            planes = self.context.planes(logarithms[number][part], values[number][part], [each[around] for each in coarser], above)
            rated = latents[number][part]
            cost, single, down, up = self.context.bits(planes, rated.detach() if exact else rated, number, exact)
            bits = bits + cost
            moves.append(Moves(single, down, up, values[number], logarithms[number]))
            coarser = [logarithms[number], *coarser][:COARSER]
        return Drawn(picture, bits, moves[::-1] if exact else ())

    def draw(self, latents: Sequence[Tensor], height: int, width: int, band: Band | None = None) -> Tensor:
        steps = self.gain.exp()
        x = (latents[-1] * steps[-1])[None, None]
        for number in range(self.grids - 2, -1, -1):
            rows, columns = latents[number].shape
            skipped = 0 if band is None else band.seen[number].start - 2 * band.seen[number + 1].start
            x = F.pixel_shuffle(stencil(x, self._kernel(number)), 2)[:, :, skipped : skipped + rows, :columns]
            x = torch.cat(((latents[number] * steps[number])[None, None], x))
        x = x.flatten(1)
        network = (self.synthesis_in, self.synthesis_in_bias, self.synthesis_out, self.synthesis_out_bias)
        picture = Perceptron.apply(x, *network).view(1, 3, *latents[0].shape)
        picture = picture + stencil(picture, self.filters[0], self.filters_bias[0])
        picture = picture + stencil(F.relu(picture), self.filters[1], self.filters_bias[1])
        picture = picture[0] + (self.linear @ x).view(picture.shape[1:])
        return picture if band is None else picture[:, band.own[0].start - band.seen[0].start :][:, : band.own[0].stop - band.own[0].start]

    def _kernel(self, number: int) -> Tensor:
        """From a sample and those around it to the square of 2×2 at twice the resolution, (4, 1, 5, 5): symmetric and separable."""
        zero = self.upsampling.new_zeros(1)
        taps = self.upsampling[number]
        phases = torch.stack((torch.cat((taps, zero)), torch.cat((zero, taps.flip(0)))))
        return torch.einsum("pi,qj->pqij", phases, phases).reshape(4, 1, 5, 5)

    def start(self, picture: Tensor, lmbda: float) -> list[Tensor]:
        """Descent on the error, with a price on magnitudes in the place of bits."""
        height, width = picture.shape[1:]
        latents = [picture.new_zeros(size) for size in self.sizes(height, width)]
        first, second = ([torch.zeros_like(latent) for latent in latents] for _ in range(2))
        for step in range(START_STEPS):
            leaves = [latent.detach().requires_grad_(True) for latent in latents]
            with torch.enable_grad():
                error = (self.draw(leaves, height, width) - picture).square().sum() * (lmbda * 255**2 / 3)
                slopes = torch.autograd.grad(error + START_PRICE * sum(leaf.abs().sum() for leaf in leaves), leaves)
            rate = START_RATE * 0.5 * (1 + math.cos(math.pi * step / START_STEPS))
            for latent, slope, mean, square in zip(latents, slopes, first, second):
                mean.lerp_(slope, 1 - START_BETAS[0])
                square.lerp_(slope.square(), 1 - START_BETAS[1])
                correction = math.sqrt(1 - START_BETAS[1] ** (step + 1)) / (1 - START_BETAS[0] ** (step + 1))
                latent -= rate * correction * mean / (square.sqrt() + 1e-12)
        return latents

    @torch.no_grad()
    def probe(self, latents: Sequence[Tensor], height: int, width: int) -> list[Tensor]:
        """By random signs (Hutchinson), blurred a little."""
        generator = torch.Generator().manual_seed(0)
        norms = [torch.zeros_like(latent) for latent in latents]
        for _ in range(PROBES):
            leaves = [latent.detach().requires_grad_(True) for latent in latents]
            with torch.enable_grad():
                drawn = self.draw(leaves, height, width)
            signs = (torch.randint(0, 2, drawn.shape, generator=generator) * 2 - 1).to(drawn)
            for norm, slope in zip(norms, torch.autograd.grad(drawn, leaves, signs)):
                norm += slope.square() / PROBES
        return [F.avg_pool2d(F.pad(norm[None, None], (1,) * 4, mode="replicate"), 3, 1)[0, 0] for norm in norms]

    def precision(self, name: str) -> float | None:
        return PRECISION.get(name)

    def speed(self, name: str) -> float:
        return 5.5

    @torch.no_grad()
    def encode(self, latents: Sequence[Tensor]) -> bytes:
        integers = [torch.round(latent).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT).cpu().numpy().astype(np.int32) for latent in latents]
        parts: dict[Tables, list] = {WIDE: [], NARROW: []}
        for number in range(self.grids - 1, -1, -1):
            rows, columns = integers[number].shape
            coder = self._coder(number, rows, columns, integers[number + 1 :])
            parts[coder.kind] += coder.encode(integers[number])
        streams = [rans.encode_rows(parts[kind], tables(kind), SHORT) for kind in (WIDE, NARROW)]
        return container.varint(len(streams[0])) + b"".join(streams)

    @torch.no_grad()
    def decode(self, data: bytes, height: int, width: int) -> list[Tensor]:
        if (height + 8) * (width + 8) > MOST_POSITIONS:
            raise CorruptStream(f"no fitted picture has {width}×{height} pixels")
        length, begin = container.read_varint(data, 0)
        decoders = {WIDE: rans.RowDecoder(data[begin : begin + length], tables(WIDE), SHORT)}
        decoders[NARROW] = rans.RowDecoder(data[begin + length :], tables(NARROW), SHORT)
        integers: list[np.ndarray] = []
        for number, size in reversed(list(enumerate(self.sizes(height, width)))):
            coder = self._coder(number, *size, integers)
            integers.insert(0, coder.decode(decoders[coder.kind]))
        for decoder in decoders.values():
            decoder.finish()
        return [torch.from_numpy(values).to(self.gain) for values in integers]

    def _coder(self, number: int, height: int, width: int, coarser: Sequence[np.ndarray]) -> GridCoder:
        return GridCoder(self.context, number, NARROW if number < NARROW_GRIDS else WIDE, height, width, coarser)

    def multiplications(self, height: int, width: int) -> float:
        sizes = [rows * columns for rows, columns in self.sizes(height, width)]
        contexts = sum(sizes) * self.context.multiplications()
        upsampling = sum(16 * (self.grids - 1 - number) * size for number, size in enumerate(sizes))
        pointwise = sum(weight.numel() for weight in (self.synthesis_in, self.synthesis_out, self.linear, self.filters))
        return contexts + upsampling + height * width * pointwise


START_STEPS, START_RATE, START_BETAS = 30, 1.0, (0.8, 0.95)
START_PRICE = 4.0  # bits a step
PROBES = 8
PRECISION = {  # of weights that are few, and move all of a picture
    **dict.fromkeys(("upsampling", "filters_bias", "synthesis_out_bias", "linear"), 2.0**-10),
    **dict.fromkeys(("gain", "synthesis_in_bias", "filters"), 2.0**-8),
}

__all__ = ["Grids"]
