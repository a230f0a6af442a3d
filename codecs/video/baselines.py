"""Networks that others have published as codecs of video, on the same rails: fitted, quantized and coded as everything here is.

* :class:`ConvolutionalNeRV`, by its arguments:
  NeRV (Chen et al. 2021, https://arxiv.org/abs/2110.13903): frame number → MLP → convolutions with pixel shuffle;
  HNeRV (Chen et al. 2023, https://arxiv.org/abs/2304.02633): an embedding of each frame → the same, with kernels that grow;
  NeRV++ (Ghorbel et al. 2024, https://arxiv.org/abs/2402.18305): separable convolutions beside a bilinear skip;
  HNeRV-Boost (Zhang et al. 2024, https://arxiv.org/abs/2402.18152): sinusoidal activations, features scaled and shifted by time.
* :class:`Siren` (Sitzmann et al. 2020, https://arxiv.org/abs/2006.09661): coordinates → MLP of sines.

Differs from all in that pictures are packed 4:2:0, in that weights and embeddings have learned steps and a rate while they are fitted, and
in initial weights that a decoder knows. Embeddings are latents (an auto-decoder), where HNeRV has an encoder network that no file needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.fixed import fixed_values, set_fixed
from neuralcodec.codecs.video.networks import MIDDLE, PLANES, Grid, Pointwise, Start, VideoNetwork, started
from neuralcodec.entropy.grids import GridShape

FREQUENCY = 1.25  # by which the positional encoding of time grows
OMEGA = 30.0  # of the first layer of sines
ROWS_AT_ONCE = 2**16  # positions that a coordinate network is asked for together
EMBEDDING_STEP = 0.125


class Plain(nn.Module):
    """Convolution, pixel shuffle, GELU."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, kernel: int, time: int):
        super().__init__()
        self.stride = stride
        self.convolution = nn.Conv2d(channels_in, channels_out * stride**2, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return F.gelu(F.pixel_shuffle(self.convolution(x), self.stride))


class Separable(nn.Module):
    """Depthwise and 1×1 before the pixel shuffle, added to a bilinear skip."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, kernel: int, time: int):
        super().__init__()
        self.stride = stride
        self.depthwise = nn.Conv2d(channels_in, channels_in, kernel, padding=kernel // 2, groups=channels_in)
        self.pointwise = Pointwise(channels_in, channels_out * stride**2)
        self.skip = Pointwise(channels_in, channels_out)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        skip = F.interpolate(self.skip(x), scale_factor=self.stride, mode="bilinear", align_corners=False)
        return F.gelu(F.pixel_shuffle(self.pointwise(self.depthwise(x)), self.stride) + skip)


class Modulated(nn.Module):
    """As :class:`Plain` with a sine, then a residual block whose features time scales and shifts."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, kernel: int, time: int):
        super().__init__()
        self.stride = stride
        self.convolution = nn.Conv2d(channels_in, channels_out * stride**2, kernel, padding=kernel // 2)
        self.affine = nn.Linear(time, 2 * channels_out)
        self.first = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = torch.sin(F.pixel_shuffle(self.convolution(x), self.stride))
        scale, shift = self.affine(time)[:, :, None, None].chunk(2, 1)
        return x + self.second(torch.sin(self.first(x * (1 + scale) + shift)))


BLOCKS: dict[str, type[nn.Module]] = {"plain": Plain, "separable": Separable, "modulated": Modulated}


class ConvolutionalNeRV(VideoNetwork):
    """Time or an embedding to a picture, stage by stage.

    Args:
        widths: channels before the first stage, and after each.
        strides: of the stages; their product is half the stride of the embedding.
        kernels: of the stages.
        block: what a stage is made of.
        embedding: channels of each frame's own; 0 for none, so that time alone says what to draw (and ``base`` where).
        base: rows and columns of the features that time turns into.
        time: frequencies of the positional encoding of time.
    """

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[int],
        kernels: Sequence[int],
        block: Literal["plain", "separable", "modulated"] = "plain",
        embedding: int = 0,
        base: Sequence[int] = (8, 13),
        time: int = 20,
    ):
        super().__init__()
        if len(widths) != len(strides) + 1 or len(kernels) != len(strides) or block not in BLOCKS:
            raise ValueError("every stage has a stride, a kernel and a width more than there are stages; blocks are " + ", ".join(BLOCKS))
        self.stride, self.embedding, self.base, self.time = 2 * math.prod(strides), embedding, tuple(base), time
        self.grids = [Grid(self.stride, 1, embedding)] if embedding else []
        if embedding:
            self.stem: nn.Module = Pointwise(embedding, widths[0])
        else:
            self.stem = nn.Sequential(nn.Linear(2 * time, 4 * widths[0]), nn.GELU(), nn.Linear(4 * widths[0], math.prod(base) * widths[0]))
        sizes = zip(widths[:-1], widths[1:], strides, kernels)
        self.stages = nn.ModuleList(BLOCKS[block](one, other, stride, kernel, 2 * time) for one, other, stride, kernel in sizes)
        self.head = nn.Conv2d(widths[-1], PLANES, 3, padding=1)
        set_fixed(self)

    def shapes(self, frames: int, height: int, width: int) -> list[GridShape]:
        return [GridShape(frames, grid.channels, -(-height // grid.stride), -(-width // grid.stride)) for grid in self.grids]

    def spans(self, begin: int, end: int, frames: int) -> list[tuple[int, int]]:
        return [(begin, end) for _ in self.grids]

    def forward(self, rows: Sequence[Tensor], firsts: Sequence[int], vectors: Tensor, frames: Tensor, height: int, width: int) -> Tensor:
        moments = (frames.to(torch.float32) + 0.5) / len(vectors)
        angles = moments[:, None] * math.pi * FREQUENCY ** torch.arange(self.time)
        time = torch.cat((torch.sin(angles), torch.cos(angles)), 1)
        if self.grids:
            x = self.stem(rows[0][frames - firsts[0]])
        else:
            x = self.stem(time).reshape(len(frames), -1, *self.base)
        for stage in self.stages:
            x = stage(x, time)
        size = (-(-height // 2), -(-width // 2))
        if not self.grids:  # the base has a shape of its own
            x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        return self.head(x)[..., : size[0], : size[1]] + MIDDLE

    @torch.no_grad()
    def initial(self, pictures: Tensor, height: int, width: int, step: float) -> list[Start]:
        """Embeddings that differ a little from each other."""
        shapes = self.shapes(len(pictures), height, width)
        return [started(fixed_values(math.prod(shape[:4]), 1).reshape(shape[:4]) * 0.5, EMBEDDING_STEP, 0.0) for shape in shapes]


class Siren(VideoNetwork):
    """Coordinates (time, row, column) of each 2×2 square to its packed samples.

    Args:
        width, depth: of the hidden layers.
    """

    def __init__(self, width: int = 64, depth: int = 3):
        super().__init__()
        self.grids: list[Grid] = []
        layers = [nn.Linear(3, width), *(nn.Linear(width, width) for _ in range(depth - 1))]
        self.layers: Sequence[nn.Linear] = nn.ModuleList(layers)  # type: ignore[assignment]
        self.head = nn.Linear(width, PLANES)
        set_fixed(self)
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.mul_(2**0.5)

    def shapes(self, frames: int, height: int, width: int) -> list[GridShape]:
        return []

    def spans(self, begin: int, end: int, frames: int) -> list[tuple[int, int]]:
        return []

    def forward(self, rows: Sequence[Tensor], firsts: Sequence[int], vectors: Tensor, frames: Tensor, height: int, width: int) -> Tensor:
        size = (-(-height // 2), -(-width // 2))
        axes = [(2 * frames + 1) / len(vectors) - 1, *((2 * torch.arange(each) + 1) / each - 1 for each in size)]
        positions = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        parts = []
        for x in positions.split(ROWS_AT_ONCE):
            for number, layer in enumerate(self.layers):
                x = torch.sin(layer(x) * (OMEGA / 2 if number == 0 else 1))
            parts.append(self.head(x))
        return torch.cat(parts).reshape(len(frames), *size, PLANES).movedim(-1, 1) + MIDDLE

    def initial(self, pictures: Tensor, height: int, width: int, step: float) -> list[Start]:
        return []


__all__ = ["ConvolutionalNeRV", "Siren"]
