"""Networks that are a video: latent grids and a vector per frame to pictures.

Pictures are packed: (frames, 6, ⌈H/2⌉, ⌈W/2⌉), the four luma samples of each 2×2 square (row by row), Cb and Cr, in 0…1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.blocks import zero
from neuralcodec.entropy.grids import GridShape

PLANES = 6  # of a packed picture
MIDDLE = 0.5  # what a network of zeros draws


class Grid(NamedTuple):
    """A latent grid of a clip."""

    stride: int  # pixels of luma from one position to the next
    period: int  # frames from one row to the next
    channels: int


class Pointwise(nn.Module):
    """A 1×1 convolution as a matrix product, which small ones are three times faster as on a CPU."""

    def __init__(self, channels_in: int, channels_out: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels_out, channels_in) / channels_in**0.5)
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.matmul(self.weight, x.flatten(2)).unflatten(2, x.shape[2:])
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
        zero(self.project)
        with torch.no_grad():  # mostly the position itself: what a block sees first is what it got
            self.spatial.weight.mul_(0.3)
            self.spatial.weight[:, 0, 1, 1] += 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(F.gelu(self.expand(self.spatial(x))))


class GridDecoder(nn.Module):
    """Grids enter where the features have their resolution; each stage doubles it.

        grids at 1/16 ──(+)──blocks──1×1──bilinear ×2──(+)──blocks── … ──at 1/2──1×1──► four luma samples, Cb, Cr
                         ▲                              ▲
        vector ──1×1─────┘              grids at 1/8 ──1×1

    After Kwan et al. 2023 (HiNeRV), https://arxiv.org/abs/2306.09818: bilinear upsampling, ConvNeXt blocks, grids at every stage. Differs
    in that grids are latents with a rate, of any period in time, and in starting as a linear pyramid: with its initial weights the
    network adds up what its grids hold (:meth:`initial_latents`), so that a fit begins with a picture.

    Args:
        widths: channels of the features at every stage, coarse to fine; the last is at half the resolution of luma.
        depths: blocks of each.
        grids: ``[stride, period, channels]``, strides powers of two from 2 up. Coarser ones than the first stage's are interpolated.
        vector: numbers that each frame has of its own, which shift the features of the first stage.
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
        self.shift = nn.Linear(vector, widths[0], bias=False)
        self.enter, self.stages, self.narrow = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stage, (width, depth) in enumerate(zip(widths, depths)):
            channels = sum(self.grids[number].channels for number in self.entering(stage))
            self.enter.append(Pointwise(channels, width, bias=not stage) if channels else nn.Identity())
            self.stages.append(nn.Sequential(*(Block(width, expansion) for _ in range(depth))))
            if stage:
                self.narrow.append(Pointwise(widths[stage - 1], width))
        self.head = Pointwise(widths[-1], PLANES)
        self._start_linear()

    def entering(self, stage: int) -> list[int]:
        """The grids that enter at a stage."""
        finer = self.strides[stage]
        coarser = self.strides[stage - 1] if stage else 2**30
        return [number for number, grid in enumerate(self.grids) if finer <= grid.stride < coarser]

    def shapes(self, frames: int, height: int, width: int) -> list[GridShape]:
        """Of the grids of a clip, in coding order."""
        made: list[GridShape] = []
        for number, grid in enumerate(self.grids):
            parent = number - 1 if number and self.grids[number - 1].period == grid.period else None
            rows = (frames - 1) // grid.period + 1
            made.append(GridShape(rows, grid.channels, -(-height // grid.stride), -(-width // grid.stride), parent))
        return made

    def forward(self, rows: Sequence[Tensor], firsts: Sequence[int], vectors: Tensor, frames: Tensor, height: int, width: int) -> Tensor:
        """
        Args:
            rows: of each grid, those that the frames are drawn from: (rows, channels, ⌈height / stride⌉, ⌈width / stride⌉).
            firsts: number of each grid's first row among these.
            vectors: (frames of the clip, vector).
            frames: which to draw.
            height, width: of luma.

        Returns:
            (frames, 6, ⌈height/2⌉, ⌈width/2⌉)
        """
        latents = [at_frames(each, grid.period, frames, first) for each, grid, first in zip(rows, self.grids, firsts)]
        return self.decode(latents, vectors[frames], height, width)

    def decode(self, latents: Sequence[Tensor], vectors: Tensor, height: int, width: int) -> Tensor:
        """The same from latents and vectors at the frames."""
        x = self.shift(vectors)[:, :, None, None]
        for stage, stride in enumerate(self.strides):
            rows, columns = -(-height // stride), -(-width // stride)
            if stage:
                x = doubled(self.narrow[stage - 1](x), rows, columns)
            entering = [enlarged(latents[number], self.grids[number].stride // stride, rows, columns) for number in self.entering(stage)]
            if entering:
                x = x + self.enter[stage](torch.cat(entering, 1))
            x = self.stages[stage](x)
        return self.head(x) + MIDDLE

    @torch.no_grad()
    def initial_latents(self, pictures: Tensor, height: int, width: int) -> list[Tensor]:
        """What the initial network needs to draw these pictures about: a pyramid in space and time, (rows, channels, …) of each grid."""
        rest = pictures - MIDDLE
        made = []
        for grid, shape in zip(self.grids, self.shapes(len(pictures), height, width)):
            latent = torch.zeros(shape[:4])
            planes = rest if grid.stride == 2 else torch.cat((rest[:, :4].mean(1, keepdim=True), rest[:, 4:]), 1)
            planes = planes[:, : grid.channels]
            half = grid.stride // 2
            padded = F.pad(planes, (0, shape.width * half - planes.shape[3], 0, shape.height * half - planes.shape[2]), mode="replicate")
            pooled = F.avg_pool2d(padded, half)
            nearest = torch.div(torch.arange(len(pictures)) + grid.period // 2, grid.period, rounding_mode="floor").clamp(
                max=shape.rows - 1
            )
            for row in range(shape.rows):
                latent[row, : planes.shape[1]] = pooled[nearest == row].mean(0)
            made.append(latent)
            drawn = at_frames(latent, grid.period, torch.arange(len(pictures)))[:, : planes.shape[1]]
            drawn = enlarged(drawn, half, *pictures.shape[2:])
            if grid.stride > 2:
                drawn = torch.cat((drawn[:, :1].expand(-1, 4, -1, -1), drawn[:, 1:]), 1)
            rest = rest - F.pad(drawn, (0, 0, 0, 0, 0, PLANES - drawn.shape[1]))
        return made

    @torch.no_grad()
    def _start_linear(self) -> None:
        last = len(self.strides) - 1
        for stage, enter in enumerate(self.enter):
            if isinstance(enter, nn.Identity):
                continue
            enter.weight.mul_(0.5)
            if enter.bias is not None:
                enter.bias.zero_()
            first = 0
            for number in self.entering(stage):
                grid = self.grids[number]
                known = min(grid.channels, PLANES if grid.stride == 2 else 3)
                enter.weight[: PLANES if stage == last else 3, first : first + grid.channels] = 0
                for plane in range(known):
                    targets = [plane] if stage < last or grid.stride == 2 else [[0, 1, 2, 3], [4], [5]][plane]
                    enter.weight[:, first + plane] = 0
                    enter.weight[targets, first + plane] = 1
                first += grid.channels
        for stage, narrow in enumerate(self.narrow):
            narrow.weight[: PLANES if stage == last - 1 else 3] = 0
            narrow.bias.zero_()
            targets = [0, 0, 0, 0, 1, 2] if stage == last - 1 else [0, 1, 2]
            for target, source in enumerate(targets):
                narrow.weight[target, source] = 1
        self.shift.weight[:PLANES] = 0
        self.head.weight[:] = 0
        self.head.bias.zero_()
        for plane in range(PLANES):
            self.head.weight[plane, plane if last else [0, 0, 0, 0, 1, 2][plane]] = 1


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
