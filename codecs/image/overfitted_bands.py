"""A picture as subbands: a learned wavelet synthesis, a small restoration network, and contexts that code the bands.

    low ─┐
    bands of scale 6 ─synthesis─► low of scale 5 ─┐
    bands of scale 5 ──────────────────synthesis──► … ─► three planes ──colour──► R, G, B
                                    (+ restoration of luma at the three finest scales)

Every scale halves the rows and columns; it has three bands for each of three colours. The synthesis starts as the 9/7 wavelet (Cohen,
Daubechies, Feauveau 1992, https://doi.org/10.1002/cpa.3160450502) on orthonormal colours, and all of it is learned. Cool-chic
(https://arxiv.org/abs/2212.05458) and C3 (https://arxiv.org/abs/2312.02753), which this follows in all else, have one plane for each scale
instead: a third more numbers than there are pixels of luma, none with a direction. Bands are as many numbers as samples, start as a
transform of the picture, and the finest are at half resolution, where all costs a quarter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.image.overfitted_context import BandContext, magnitude
from neuralcodec.codecs.image.overfitted_function import Drawn, Moves, PictureFunction
from neuralcodec.codecs.image.overfitted_integers import NARROW, SHORT, WIDE, Tables, tables
from neuralcodec.codecs.image.overfitted_waves import ScaleCoder, Source, with_flags
from neuralcodec.entropy import container, rans
from neuralcodec.entropy.models import BITS_PER_SQUARED_STEP
from neuralcodec.entropy.quantizers import SYMBOL_LIMIT

COLOURS = ((3**-0.5, 3**-0.5, 3**-0.5), (2**-0.5, 0.0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))  # rows: planes; orthonormal
LOW = {0: 1.115087052456994, 1: 0.591271763114247, 2: -0.05754352622849957, 3: -0.09127176311424948}  # synthesis, sum 2
HIGH = {0: 0.6029490182363579, 1: -0.2668641184428723, 2: -0.07822326652898785, 3: 0.01686411844287495, 4: 0.02674875741080976}
TAPS = 5
NARROW_SCALES = 3  # the finest ones, whose tables are short


class Sensitivity(NamedTuple):
    precision: float | None  # quantization step; by default one that follows from the size of the values
    speed: float  # factor on the learning rate of a fit


# By what is in the names of weights, the first that fits. Most are the same for every picture: few pay for their bits. Steps of latents do
# not even move in training: with integers as they are, their slope holds the error but no bits, and makes them too fine (those trained so
# were best 13 % coarser at level 31.5, by 0.4 % of R + λD, and 20 % at 47.25).
SENSITIVE = {
    "gain": Sensitivity(2**-6, 0.0),
    "colour": Sensitivity(2**-10, 0.1),
    "offset": Sensitivity(2**-9, 0.1),
    "synthesis": Sensitivity(2**-11, 0.0),
    "restore_in_bias": Sensitivity(2**-7, 0.3),
    "restore_out_bias": Sensitivity(2**-7, 0.3),
    "restore": Sensitivity(2**-7, 0.0),
    "bias": Sensitivity(None, 1.0),
    "first": Sensitivity(None, 0.0),
    "second": Sensitivity(None, 0.0),
}


class Group(NamedTuple):
    """Bands that are decoded together."""

    kind: str  # low, luma, chroma
    scale: int  # 1 is the finest
    channels: int
    height: int
    width: int

    @property
    def tables(self) -> Tables:
        return WIDE if self.kind == "low" or self.scale > NARROW_SCALES else NARROW


def _expected(number: int, active: Sequence[Sequence[int]], channel: int) -> bool:
    """Whether a band is likely to be there: whether that of the coarser scale is."""
    return number < 3 or channel in active[number - 2]


def sizes(height: int, width: int, scales: int) -> list[tuple[int, int]]:
    """Rows and columns of every scale, from the finest."""
    found = []
    for _ in range(scales):
        height, width = -(-height // 2), -(-width // 2)
        found.append((height, width))
    return found


class Bands(PictureFunction):
    """
    Args:
        scales: of the wavelet.
        hidden, chroma_hidden: width of the contexts of luma and low bands, and of chroma.
        restoration: widths of the networks that restore what quantization has taken from luma, from the finest scale on. Nine tenths of
            the squared error are luma's.
    """

    settled = 0.5

    def __init__(self, scales: int = 6, hidden: int = 16, chroma_hidden: int = 8, restoration: Sequence[int] = (56, 40, 32)):
        super().__init__()
        self.scales = scales
        self.synthesis = nn.Parameter(wavelet().repeat(scales, 1, 1, 1, 1))
        self.low_gain = nn.Parameter(torch.zeros(3))  # logarithms of steps
        self.luma_gain = nn.Parameter(torch.zeros(scales, 3))
        self.chroma_gain = nn.Parameter(torch.zeros(scales, 6))
        self.restore_in = nn.ParameterList(torch.randn(width, 4, 3, 3) / math.sqrt(4 * 9) for width in restoration)
        self.restore_in_bias = nn.ParameterList(torch.zeros(width) for width in restoration)
        self.restore_out = nn.ParameterList(torch.zeros(4, width, 3, 3) for width in restoration)
        self.restore_out_bias = nn.ParameterList(torch.zeros(4) for _ in restoration)
        self.colour = nn.Parameter(torch.tensor(COLOURS).T.contiguous())
        self.offset = nn.Parameter(torch.full((3,), 0.5))
        self.norms: list[Tensor] = []
        self.low = BandContext(3, ((), (0,), (0, 1)), 1, hidden, parent=False)
        self.luma = BandContext(3, ((), (0,), (0, 1)), scales, hidden)
        self.chroma = BandContext(6, ((), (0,), (1,), (0,), (1, 3), (2, 4)), scales, chroma_hidden, guide=True)

    def groups(self, height: int, width: int) -> list[Group]:
        levels = sizes(height, width, self.scales)
        found = [Group("low", self.scales, 3, *levels[-1])]
        for scale in range(self.scales, 0, -1):
            found += [Group("luma", scale, 3, *levels[scale - 1]), Group("chroma", scale, 6, *levels[scale - 1])]
        return found

    def forward(
        self, latents: Sequence[Tensor], height: int, width: int, active: Sequence[Sequence[int]] | None = None, **options: Any
    ) -> Drawn:
        groups = self.groups(height, width)
        active = active or [range(group.channels) for group in groups]
        latents = [latent if which else latent.detach() for latent, which in zip(latents, active)]
        seen = [magnitude(latent.detach()).requires_grad_(latent.requires_grad) for latent in latents]
        bits = latents[0].new_zeros(())
        moves: list[Moves | None] = []
        for number, (group, which) in enumerate(zip(groups, active)):
            if not which:
                moves.append(None)
                continue
            context, parent, guide, scale = self._around(number, group, seen)
            cost, down, up = context.bits(latents[number], seen[number], parent, guide, scale, which, group.tables.last)
            bits = bits + cost
            moves.append(Moves(down, up, seen[number]))
        return Drawn(self.draw(latents, height, width), bits, moves)

    def draw(self, latents: Sequence[Tensor], height: int, width: int) -> Tensor:
        planes = F.pixel_shuffle(self._squares(latents, height, width, restored=True), 2)[0, :, :height, :width]
        return torch.addmm(self.offset[:, None], self.colour, planes.flatten(1)).unflatten(1, (height, width))

    def _squares(self, values: Sequence[Tensor], height: int, width: int, restored: bool = False) -> Tensor:
        """What the wavelet alone, which is linear, or all of it makes of latents: squares of 2×2 pixels, (1, 12, ⌈H/2⌉, ⌈W/2⌉)."""
        levels = [(height, width), *sizes(height, width, self.scales)]
        x = (values[0] * self.low_gain.exp()[:, None, None])[:, None]
        for scale in range(self.scales, 0, -1):
            luma, chroma = values[2 * (self.scales - scale) + 1 :][:2]
            kernel = self.synthesis[scale - 1]
            x_luma = torch.cat((x[0], luma * self.luma_gain[scale - 1].exp()[:, None, None]))[None]
            if chroma.requires_grad or chroma.any():
                details = (chroma * self.chroma_gain[scale - 1].exp()[:, None, None]).unflatten(0, (2, 3))
                x_chroma, kernel_chroma = torch.cat((x[1:], details), 1), kernel
            else:
                x_chroma, kernel_chroma = x[1:], kernel[:, :1]
            padded = [F.pad(part, (TAPS // 2,) * 4, mode="replicate") for part in (x_luma, x_chroma)]
            drawn = F.conv2d(padded[0], kernel)
            if restored and scale <= len(self.restore_in):
                drawn = self._restored(drawn, scale - 1)
            x = torch.cat((drawn, F.conv2d(padded[1], kernel_chroma)))
            if scale > 1:
                x = F.pixel_shuffle(x, 2)[..., : levels[scale - 1][0], : levels[scale - 1][1]]
        return x.flatten(0, 1)[None]

    def _restored(self, x: Tensor, place: int) -> Tensor:
        hidden = F.relu(F.conv2d(x, self.restore_in[place], self.restore_in_bias[place], padding=1), inplace=True)
        return x + F.conv2d(hidden, self.restore_out[place], self.restore_out_bias[place], padding=1)

    def precision(self, name: str) -> float | None:
        return next((kind.precision for known, kind in SENSITIVE.items() if known in name), None)

    def speed(self, name: str) -> float:
        return next((kind.speed for known, kind in SENSITIVE.items() if known in name), 1.0)

    def multiplications(self, height: int, width: int) -> float:
        levels = sizes(height, width, self.scales)
        positions = sum(rows * columns for rows, columns in levels)
        coarsest = levels[-1][0] * levels[-1][1]
        contexts = positions * (self.luma.multiplications() + self.chroma.multiplications()) + coarsest * self.low.multiplications()
        synthesis = positions * len(self.colour) * self.synthesis[0].numel()
        restoration = sum(
            rows * columns * (first.numel() + second.numel())
            for (rows, columns), first, second in zip(levels, self.restore_in, self.restore_out)
        )
        return contexts + synthesis + restoration + height * width * self.colour.numel()

    def _around(self, number: int, group: Group, seen: Sequence[Tensor]) -> tuple[BandContext, Tensor | None, Tensor | None, int]:
        """The context of a group, magnitudes of its parent and of its guide, and the number of its scale."""
        if group.kind == "low":
            return self.low, None, None, 0
        parent = seen[number - 2] if group.scale < self.scales else torch.zeros_like(seen[number])
        guide = seen[number - 1] if group.kind == "chroma" else None
        return (self.luma if group.kind == "luma" else self.chroma), parent, guide, group.scale - 1

    @torch.no_grad()
    def encode(self, latents: Sequence[Tensor]) -> bytes:
        integers = [torch.round(latent).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT).cpu().numpy().astype(np.int32) for latent in latents]
        active = [[channel for channel, plane in enumerate(planes) if plane.any()] for planes in integers]
        flags = np.array(
            [
                _expected(number, active, channel) != (channel in which)
                for number, which in enumerate(active)
                for channel in range(len(integers[number]))
            ]
        )
        wide: list = [(flags.astype(np.int32), np.full(len(flags), len(with_flags(WIDE)) - 1))]
        narrow: list = []
        for numbers in self._together():
            if any(active[number] for number in numbers):
                group, coder = self._coder(numbers, active, integers)
                (wide if group.tables is WIDE else narrow).extend(coder.encode([integers[number] for number in numbers]))
        streams = rans.encode_rows(wide, with_flags(WIDE), SHORT), rans.encode_rows(narrow, tables(NARROW), SHORT)
        return container.varint(len(streams[0])) + b"".join(streams)

    @torch.no_grad()
    def decode(self, data: bytes, height: int, width: int) -> list[Tensor]:
        groups = self.groups(height, width)
        length, begin = container.read_varint(data, 0)
        wide = rans.RowDecoder(data[begin : begin + length], with_flags(WIDE), SHORT)
        narrow = rans.RowDecoder(data[begin + length :], tables(NARROW), SHORT)
        count = sum(group.channels for group in groups)
        flags = iter(wide.take(np.full(count, len(with_flags(WIDE)) - 1)).tolist())
        active: list[list[int]] = []
        for number, group in enumerate(groups):
            active.append([])
            for channel in range(group.channels):
                if _expected(number, active, channel) != bool(next(flags)):
                    active[-1].append(channel)
        integers = [np.zeros((group.channels, group.height, group.width), np.int32) for group in groups]
        for numbers in self._together():
            if any(active[number] for number in numbers):
                group, coder = self._coder(numbers, active, integers)
                for number, values in zip(numbers, coder.decode(wide if group.tables is WIDE else narrow)):
                    integers[number] = values
        wide.finish()
        narrow.finish()
        return [torch.from_numpy(values).to(self.offset) for values in integers]

    def _together(self) -> list[list[int]]:
        """Numbers of the groups of each scale, from the coarsest."""
        return [[0], *([number, number + 1] for number in range(1, 2 * self.scales, 2))]

    def _coder(self, numbers: Sequence[int], active: Sequence[Sequence[int]], integers: Sequence[np.ndarray]) -> tuple[Group, ScaleCoder]:
        """Of the groups of a scale, given the integers of those before, and the first group."""
        sources = []
        for number in numbers:
            context = self.low if number == 0 else self.luma if number % 2 else self.chroma
            parent = integers[number - 2] if number > 2 else None
            sources.append(Source(context, self._scale(number) - 1 if number else 0, active[number], parent))
        group = Group("luma" if numbers[0] else "low", self._scale(numbers[0]), *integers[numbers[0]].shape)
        return group, ScaleCoder(sources, group.tables, group.height, group.width)

    @torch.no_grad()
    def set_steps(self, lmbda: float) -> None:
        """Steps that minimise R + λD of an orthonormal transform at high rates: D = step²/12, R = -3 log₂(step) a pixel."""
        for gain in (self.low_gain, self.luma_gain, self.chroma_gain):
            gain.fill_(0.5 * math.log(18 / (math.log(2) * lmbda)) - math.log(255))

    @torch.no_grad()
    def scale_steps(self, factor: float) -> None:
        for gain in (self.low_gain, self.luma_gain, self.chroma_gain):
            gain.add_(math.log(factor))

    def start(self, picture: Tensor, lmbda: float) -> list[Tensor]:
        """What the wavelet makes the picture of, by conjugate gradients; of an orthonormal transform, one step would do."""
        height, width = picture.shape[1:]
        groups = self.groups(height, width)
        target = self._planes(picture)
        shapes = [(group.channels, group.height, group.width) for group in groups]
        zero = [torch.zeros(shape, device=picture.device) for shape in shapes]

        def flat(parts: Sequence[Tensor]) -> Tensor:
            return torch.cat([part.reshape(-1) for part in parts])

        def split(values: Tensor) -> list[Tensor]:
            pieces = values.split([math.prod(shape) for shape in shapes])
            return [piece.reshape(shape) for piece, shape in zip(pieces, shapes)]

        def adjoint(error: Tensor) -> Tensor:
            leaves = [each.requires_grad_(True) for each in zero]
            with torch.enable_grad():
                return flat(torch.autograd.grad(self._squares(leaves, height, width), leaves, error))

        with torch.no_grad():
            error = F.pixel_unshuffle(F.pad(target[None], (0, width % 2, 0, height % 2), mode="replicate"), 2)
            found = torch.zeros(sum(map(math.prod, shapes)), device=picture.device)
            residual = adjoint(error)
            direction, power = residual, residual.square().sum()
            for _ in range(START_STEPS):
                image = self._squares(split(direction), height, width)
                length = power / image.square().sum().clamp_min(1e-12)
                found = found + length * direction
                error = error - length * image
                residual = adjoint(error)
                direction, power = residual + residual.square().sum() / power.clamp_min(1e-12) * direction, residual.square().sum()
            gains = torch.cat([gain.detach().exp().repeat_interleave(math.prod(shape[1:])) for gain, shape in zip(self._gains(), shapes)])
            generator = torch.Generator().manual_seed(0)
            norms = torch.zeros_like(found)
            for _ in range(PROBES):
                signs = torch.randint(0, 2, found.shape, generator=generator).to(found) * 2 - 1
                norms += adjoint(self._squares(split(signs / gains), height, width)) / gains * signs / PROBES
            self.norms = split(norms.clamp(1.0, LARGEST_NORM))
        latents, speeds = split(found), [torch.zeros_like(part) for part in split(found)]
        for _ in range(DESCENT_STEPS):  # with the restoration, which is not linear
            leaves = [latent.detach().requires_grad_(True) for latent in latents]
            with torch.enable_grad():
                slopes = torch.autograd.grad(0.5 * (self.draw(leaves, height, width) - picture).square().sum(), leaves)
            for latent, speed, slope, gain in zip(latents, speeds, slopes, self._gains()):
                speed.mul_(MOMENTUM).sub_(slope * (DESCENT_RATE * gain.detach().exp() ** -2)[:, None, None])
                latent += speed
        return [torch.round(shrunk(latent)) for latent in latents]

    def _gains(self) -> list[Tensor]:
        """Logarithms of the steps of every group."""
        return [self.low_gain, *(gain[scale - 1] for scale in range(self.scales, 0, -1) for gain in (self.luma_gain, self.chroma_gain))]

    def curvature(self, lmbda: float) -> list[Tensor]:
        """Of the wavelet, whose squared norms :meth:`start` has probed: 1 if it were orthonormal, more near borders."""
        scale = lmbda * 255**2 / 3
        return [gain.detach().exp().square()[:, None, None] * scale * norms for gain, norms in zip(self._gains(), self.norms)]

    def _scale(self, number: int) -> int:
        """Of a group."""
        return self.scales - (number - 1) // 2 if number else self.scales

    def _planes(self, picture: Tensor) -> Tensor:
        """Undo the colour transform of :meth:`draw`."""
        inverse = torch.linalg.inv(self.colour.detach())
        return (inverse @ (picture.flatten(1) - self.offset.detach()[:, None])).reshape(picture.shape)


LARGEST_SHRINKAGE = 0.6  # steps
PROBES, LARGEST_NORM = 6, 8.0  # of the diagonal of the wavelet's Gramian, by random signs (Hutchinson)
DESCENT_STEPS, DESCENT_RATE, MOMENTUM = 12, 0.3, 0.6
START_STEPS = 8  # of conjugate gradients


def shrunk(latent: Tensor) -> Tensor:
    """Latents, in steps, nearer to zero by what balances their rate and their error where values around are as large as these are."""
    around = F.avg_pool2d(F.pad(latent.abs()[None], (2, 2, 2, 2), mode="replicate"), 5, 1)[0]
    amount = (1 / (math.log(2) * 2 * BITS_PER_SQUARED_STEP) / around.clamp_min(1e-3)).clamp(max=LARGEST_SHRINKAGE)
    return latent.sign() * (latent.abs() - amount).clamp_min(0)


def wavelet() -> Tensor:
    """Synthesis of the 9/7 wavelet as a convolution from four bands to the four pixels of a square: (4, 4, TAPS, TAPS)."""
    taps = torch.zeros(2, 2, TAPS)  # (parity of the pixel, band, tap)
    for tap in range(TAPS):
        shift = 2 * (TAPS // 2 - tap)
        for parity in range(2):
            taps[parity, 0, tap] = LOW.get(abs(shift + parity), 0.0) / math.sqrt(2)
            taps[parity, 1, tap] = HIGH.get(abs(shift + parity - 1), 0.0) * math.sqrt(2)
    return torch.einsum("pbi,qcj->pqbcij", taps, taps).reshape(4, 4, TAPS, TAPS)
