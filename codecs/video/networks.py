"""Networks that are a video: latent grids and a vector per frame to pictures.

Pictures are packed: (frames, 6, ⌈H/2⌉, ⌈W/2⌉), the four luma samples of each 2×2 square (row by row), Cb and Cr, in 0…1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.blocks import zero
from neuralcodec.codecs.fixed import set_fixed
from neuralcodec.entropy.grids import GridCoder
from neuralcodec.entropy.latents import GridShape, LatentCoder
from neuralcodec.entropy.weights import STEPS_PER_OCTAVE

PLANES = 6  # of a packed picture
MIDDLE = 0.5  # what a network of zeros draws
FROM_THREE = ((0, 1, 2, 3), (4,), (5,))  # packed planes of Y, Cb and Cr
HAAR = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2  # of the four luma samples
DEAD_ZONE = 0.5  # of a step: by which initial latents are shrunk, as little ones are not worth their bits


class Grid(NamedTuple):
    """A latent grid of a clip."""

    stride: int  # pixels of luma from one position to the next
    period: int  # frames from one row to the next
    channels: int


class Start(NamedTuple):
    """What a grid starts a fit with."""

    latent: Tensor  # (rows, channels, height, width), in steps
    exponent: int  # the step is 2^(exponent / 4)
    values: Tensor  # what this stands for once rounded


class Pointwise(nn.Module):
    """A 1×1 convolution as a matrix product, which small ones are three times faster as on a CPU."""

    def __init__(self, channels_in: int, channels_out: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in) / channels_in**0.5)
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.bmm(self.weight.expand(len(x), -1, -1), x.flatten(2)).unflatten(2, x.shape[2:])
        return y if self.bias is None else y + self.bias[:, None, None]


class Block(nn.Module):
    """ConvNeXt's block (Liu et al. 2022, https://arxiv.org/abs/2201.03545), without normalisation.

    x ──DW 3×3──1×1 (× expansion)──act──1×1──(+)──►
     └───────────────────────────────────────┘
    """

    def __init__(self, channels: int, expansion: int):
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.expand = Pointwise(channels, channels * expansion)
        self.project = Pointwise(channels * expansion, channels, bias=False)
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Mostly the position itself is what the block sees first, and it changes nothing."""
        zero(self.project)
        self.spatial.weight.mul_(0.3)
        self.spatial.weight[:, 0, 1, 1] += 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.leaky_relu(self.expand(self.spatial(x)), 0.1))


class VideoNetwork(nn.Module):
    """What draws a clip: the part of a codec that is fitted. Its initial weights follow from its arguments alone.

    Attributes:
        grids: its latents, in coding order.
        coder: of these.
        vector: numbers that each frame has besides; 0 for none.
        linear: of each grid, whether pictures depend almost linearly on it, if :mod:`~neuralcodec.codecs.video.sweeps` is to fit it.
    """

    grids: list[Grid]
    coder: type[LatentCoder] = GridCoder
    vector: int = 0
    linear: Sequence[bool] = ()

    def shapes(self, frames: int, height: int, width: int) -> list[GridShape]:
        """Of the grids of a clip."""
        raise NotImplementedError

    def spans(self, begin: int, end: int, frames: int) -> list[tuple[int, int]]:
        """First row and end of the rows of each grid that frames ``begin … end - 1`` of so many are drawn from."""
        raise NotImplementedError

    def runs(self, frames: int) -> list[tuple[int, int]]:
        """Runs of frames that are drawn together without waste; they cover all, in order."""
        return [(frame, frame + 1) for frame in range(frames)]

    def forward(self, rows: Sequence[Tensor], firsts: Sequence[int], vectors: Tensor, frames: Tensor, height: int, width: int) -> Tensor:
        """
        Args:
            rows: of each grid, those that the frames are drawn from: (rows, channels, ⌈height / stride⌉, ⌈width / stride⌉).
            firsts: number of each grid's first row among these.
            vectors: (frames of the clip, vector).
            frames: which to draw, in order.
            height, width: of luma.

        Returns:
            (frames, 6, ⌈height/2⌉, ⌈width/2⌉)
        """
        raise NotImplementedError

    def initial(self, pictures: Tensor, height: int, width: int, step: float) -> list[Start]:
        """Latents to start from, of every grid.

        Args:
            pictures: (frames, 6, ⌈height/2⌉, ⌈width/2⌉), to be drawn.
            step: of a sample of luma at the rate in question; that of a latent follows from how many it stands for.
        """
        raise NotImplementedError


class GridDecoder(VideoNetwork):
    """Grids enter where the features have their resolution; each stage doubles it.

        grids at 1/16 ──(+)──blocks──1×1──bilinear ×2──(+)──blocks── … ──at 1/2──1×1──► four luma samples, Cb, Cr
                         ▲                              ▲
        vector ──1×1─────┘              grids at 1/8 ──1×1

    After Kwan et al. 2023 (HiNeRV), https://arxiv.org/abs/2306.09818: bilinear upsampling, ConvNeXt blocks, grids at every stage. Differs
    in that grids are latents with a rate, of any period in time, and in starting as a linear pyramid: with its initial weights the
    network adds up what its grids hold (:meth:`initial`), so that a fit begins with a picture.

    Args:
        widths: channels of the features at every stage, coarse to fine; the last is at half the resolution of luma.
        depths: blocks of each.
        grids: ``[stride, period, channels]``, strides powers of two from 2 up. Coarser ones than the first stage's are interpolated.
        vector: numbers that each frame has of its own, which shift the features of the first stage; may be 0.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int], grids: Sequence[Sequence[int]], vector: int = 8, expansion: int = 2):
        super().__init__()
        if len(widths) != len(depths) or not widths or min(widths) < PLANES:
            raise ValueError(f"every stage has a width, at least {PLANES}, and a depth")
        self.grids = sorted((Grid(*grid) for grid in grids), key=lambda grid: (-grid.period, -grid.stride))
        if not self.grids or any(grid.stride & (grid.stride - 1) or grid.stride < 2 or min(grid) < 1 for grid in self.grids):
            raise ValueError("strides of grids are powers of two from 2 up, periods and channels positive")
        self.strides = [2 ** (len(widths) - stage) for stage in range(len(widths))]
        self.vector = vector
        self.shift = nn.Linear(vector, widths[0]) if vector else None
        self.enter: Sequence[Pointwise] = nn.ModuleList(  # type: ignore[assignment]
            Pointwise(grid.channels, widths[self.stage_of(grid)], bias=False) for grid in self.grids
        )
        self.stages, narrow = nn.ModuleList(), []
        for stage, (width, depth) in enumerate(zip(widths, depths)):
            self.stages.append(nn.Sequential(*(Block(width, expansion) for _ in range(depth))))
            if stage:
                narrow.append(Pointwise(widths[stage - 1], width))
        self.narrow: Sequence[Pointwise] = nn.ModuleList(narrow)  # type: ignore[assignment]
        self.head = Pointwise(widths[-1], PLANES)
        self._start_linear()

    def stage_of(self, grid: Grid) -> int:
        """The stage that a grid enters at."""
        return max(0, self.strides.index(min(grid.stride, self.strides[0])))

    def spans(self, begin: int, end: int, frames: int) -> list[tuple[int, int]]:
        return [(begin // grid.period, min((end - 1) // grid.period + 2, (frames - 1) // grid.period + 1)) for grid in self.grids]

    def shapes(self, frames: int, height: int, width: int) -> list[GridShape]:
        made: list[GridShape] = []
        for number, grid in enumerate(self.grids):
            parent = number - 1 if number and self.grids[number - 1].period == grid.period else None
            rows = (frames - 1) // grid.period + 1
            made.append(GridShape(rows, grid.channels, -(-height // grid.stride), -(-width // grid.stride), parent))
        return made

    def forward(self, rows: Sequence[Tensor], firsts: Sequence[int], vectors: Tensor, frames: Tensor, height: int, width: int) -> Tensor:
        latents = [at_frames(each, grid.period, frames, first) for each, grid, first in zip(rows, self.grids, firsts)]
        return self.decode(latents, vectors[frames], height, width)

    def decode(self, latents: Sequence[Tensor | None], vectors: Tensor | None, height: int, width: int) -> Tensor:
        """The same from latents and vectors at the frames; a grid of zeros may be left out."""
        x: Tensor | None = None
        for stage, stride in enumerate(self.strides):
            rows, columns = -(-height // stride), -(-width // stride)
            if x is not None:
                x = doubled(self.narrow[stage - 1](x), rows, columns)
            for grid, latent, enter in zip(self.grids, latents, self.enter):
                if latent is not None and self.stage_of(grid) == stage:
                    entering = enter(enlarged(latent, grid.stride // stride, rows, columns))
                    x = entering if x is None else x + entering
            if stage == 0 and self.shift is not None and vectors is not None and x is not None:
                x = x + self.shift(vectors)[:, :, None, None]
            if x is not None:
                x = self.stages[stage](x)
        assert x is not None
        return self.head(x) + MIDDLE

    @torch.no_grad()
    def initial(self, pictures: Tensor, height: int, width: int, step: float) -> list[Start]:
        """A pyramid in space and time, which the initial network adds up."""
        rest = pictures - MIDDLE
        made = []
        frames = torch.arange(len(pictures))
        for grid, shape in zip(self.grids, self.shapes(len(pictures), height, width)):
            pooled = pooled_planes(rest, grid, shape)
            nearest = torch.div(frames + grid.period // 2, grid.period, rounding_mode="floor").clamp(max=shape.rows - 1)
            latent = torch.stack([pooled[nearest == row].mean(0) for row in range(shape.rows)])
            start = started(latent, step / math.sqrt(samples(grid, len(pictures))))
            made.append(start)
            rest = rest - drawn_planes(at_frames(start.values, grid.period, frames), grid, *pictures.shape[2:])
        return made

    @torch.no_grad()
    def _start_linear(self) -> None:
        set_fixed(self)
        for module in self.modules():
            if isinstance(module, Block):
                module.start()
        last = len(self.strides) - 1
        for grid, enter in zip(self.grids, self.enter):
            final = self.stage_of(grid) == last
            enter.weight[: PLANES if final else 3] = 0
            for plane in range(min(grid.channels, PLANES if grid.stride == 2 else 3)):
                enter.weight[:, plane] = 0
                enter.weight[[plane] if grid.stride == 2 or not final else FROM_THREE[plane], plane] = 1
            if grid.stride == 2:
                enter.weight[:4, : min(4, grid.channels)] = HAAR[:, : min(4, grid.channels)]
        for stage, narrow in enumerate(self.narrow):
            narrow.weight[: PLANES if stage == last - 1 else 3] = 0
            for plane in range(3):
                narrow.weight[FROM_THREE[plane] if stage == last - 1 else [plane], plane] = 1
        if self.shift is not None:
            zero(self.shift)
        self.head.weight[:] = 0
        for plane in range(PLANES):
            self.head.weight[plane, plane] = 1


def samples(grid: Grid, frames: int) -> int:
    """Of luma that a latent stands for."""
    return (1 if grid.stride == 2 else grid.stride**2) * min(grid.period, frames)


def started(values: Tensor, step: float, dead_zone: float = DEAD_ZONE) -> Start:
    """Values as latents to start from, with about this step."""
    exponent = round(STEPS_PER_OCTAVE * math.log2(step))
    latent = values / 2 ** (exponent / STEPS_PER_OCTAVE)
    latent = torch.sign(latent) * (latent.abs() - dead_zone).clamp_min(0)
    return Start(latent, exponent, torch.round(latent) * 2 ** (exponent / STEPS_PER_OCTAVE))


def pooled_planes(pictures: Tensor, grid: Grid, shape: GridShape) -> Tensor:
    """Packed pictures (n, 6, …) at the resolution of a grid, as many channels as it has: those beyond Y, Cb and Cr are zero."""
    luma = torch.einsum("ij,njhw->nihw", HAAR, pictures[:, :4]) if grid.stride == 2 else pictures[:, :4].mean(1, keepdim=True)
    planes = torch.cat((luma, pictures[:, 4:]), 1)[:, : grid.channels]
    half = grid.stride // 2
    overhang = (0, shape.width * half - planes.shape[3], 0, shape.height * half - planes.shape[2])
    pooled = F.avg_pool2d(F.pad(planes, overhang, mode="replicate"), half)
    return F.pad(pooled, (0, 0, 0, 0, 0, grid.channels - pooled.shape[1]))


def drawn_planes(latents: Tensor, grid: Grid, height: int, width: int) -> Tensor:
    """What the initial network makes of a grid: (n, 6, height, width)."""
    drawn = enlarged(latents[:, : PLANES if grid.stride == 2 else 3], grid.stride // 2, height, width)
    if grid.stride > 2:
        drawn = torch.cat((drawn[:, :1].expand(-1, 4, -1, -1), drawn[:, 1:]), 1)
    drawn = F.pad(drawn, (0, 0, 0, 0, 0, PLANES - drawn.shape[1]))
    return drawn if grid.stride > 2 else torch.cat((torch.einsum("ij,njhw->nihw", HAAR, drawn[:, :4]), drawn[:, 4:]), 1)


def at_frames(rows: Tensor, period: int, frames: Tensor, first: int = 0) -> Tensor:
    """Rows of a grid (from ``first`` on) at frames: (frames, …), linear in between, the last one held."""
    before = torch.div(frames, period, rounding_mode="floor") - first
    if period == 1:
        return rows[before]
    after = (before + 1).clamp(max=len(rows) - 1)
    share = ((frames % period).to(rows) / period).reshape(-1, *(1,) * (rows.ndim - 1))
    return rows[before] * (1 - share) + rows[after] * share


def doubled(x: Tensor, height: int, width: int) -> Tensor:
    """Twice the resolution, less what hangs over."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]


def enlarged(x: Tensor, factor: int, height: int, width: int) -> Tensor:
    if factor == 1:
        return x[..., :height, :width]
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)[..., :height, :width]
