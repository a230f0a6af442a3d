"""Analysis and synthesis transforms of images: (B, 3, H, W) in 0…1 ⇄ a latent at 1/16 of the resolution.

Every transform takes ``(tensor, level)``; those of the papers ignore the level, which then acts through the gains on the latent alone.
``multiple`` is what the sides of an image must be a multiple of; ``reach`` is how far, in pixels, values of the
latent (analysis) or of the image (synthesis) depend on what lies beyond the blocks of that multiple that they are in.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.blocks import DepthwiseBlock, LappedFilter, LevelVectors, zero
from neuralcodec.entropy.integer import bounded

STRIDE = 16
PATCH = 4  # latent positions along each side of what the coarse transform takes together
BLOCK_VALUES = 3 * STRIDE * STRIDE
LAPPED_REACH = STRIDE // 2 + STRIDE * PATCH // 2  # half a block and half a patch


class LinearLapped(nn.Module):
    """A two-scale linear lapped transform, orthonormal as it starts.

        analysis:   image ──lapped filter──space-to-depth 16──1×1──► latent, whose first ``coarse`` channels, still alike from block
                    to block, go once more: ──lapped filter──space-to-depth 4──1×1──depth-to-space 4──►
        synthesis:  the same backwards, with weights of its own

    The 1×1 layers are Karhunen–Loève transforms of the training images, found in closed form (:meth:`initialise`).
    """

    def __init__(self, latent: int, coarse: int, inverse: bool = False, values: int = BLOCK_VALUES):
        super().__init__()
        self.coarse = coarse
        self.inverse = inverse
        self.fine_filter = LappedFilter(STRIDE)
        self.coarse_filter = LappedFilter(PATCH)
        self.fine = nn.Conv2d(*((latent, values) if inverse else (values, latent)), 1, bias=False)
        self.across = nn.Conv2d(coarse * PATCH**2, coarse * PATCH**2, 1, bias=False)
        for layer in (self.fine, self.across):
            nn.init.orthogonal_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) ⇄ (B, latent, H/16, W/16), sides multiples of 64. Never in half precision, which would show in the picture."""
        with torch.autocast(x.device.type, enabled=False):
            return self._transform(x)

    def _transform(self, x: Tensor) -> Tensor:
        if self.inverse:
            coarse = F.pixel_shuffle(self.across(F.pixel_unshuffle(x[:, : self.coarse], PATCH)), PATCH)
            y = torch.cat((self.coarse_filter.inverse(coarse), x[:, self.coarse :]), 1)
            return self._pictures(self.fine(y))
        y = self.fine(self._blocks(x))
        coarse = F.pixel_shuffle(self.across(self._patches(y)), PATCH)
        return torch.cat((coarse, y[:, self.coarse :]), 1)

    def _blocks(self, x: Tensor) -> Tensor:
        return F.pixel_unshuffle(self.fine_filter(x), STRIDE)

    def _pictures(self, blocks: Tensor) -> Tensor:
        return self.fine_filter.inverse(F.pixel_shuffle(blocks, STRIDE))

    def _patches(self, y: Tensor) -> Tensor:
        return F.pixel_unshuffle(self.coarse_filter(y[:, : self.coarse]), PATCH)

    @torch.no_grad()
    def initialise(self, images: Tensor) -> None:
        """Set an analysis from images (n, 3, H, W) around zero."""
        self.fine.weight.copy_(_karhunen_loeve(self._blocks(images), self.fine.out_channels))
        self.across.weight.copy_(_karhunen_loeve(self._patches(self.fine(self._blocks(images))), self.across.out_channels))

    @torch.no_grad()
    def invert(self, analysis: LinearLapped) -> None:
        """Set a synthesis to the transpose of an orthonormal analysis."""
        self.fine.weight.copy_(analysis.fine.weight.transpose(0, 1))
        self.across.weight.copy_(analysis.across.weight.transpose(0, 1))


def _karhunen_loeve(values: Tensor, count: int) -> Tensor:
    """Weights of the 1×1 layer that maps (n, C, H, W) to its ``count`` strongest principal components."""
    samples = values.movedim(1, -1).flatten(0, 2).double()
    _, vectors = torch.linalg.eigh(samples.T @ samples / len(samples))
    return vectors.flip(1)[:, :count].T.float()[:, :, None, None]


class LappedAnalysis(nn.Module):
    """A linear transform that works from the start, plus a small network, zero at first, that learns what linear cannot do.

        x ──linear lapped transform───────────────────────────────────────(+)──► y
        └──space-to-depth 8──1×1──blocks──(× gain of the level)──2×2, ÷2───┘

    Linear shortcuts beside nonlinear transforms as in AuxT, Li et al. 2025, https://arxiv.org/abs/2502.05845, which uses wavelets there.

    Args:
        latent: channels of y, at most 768.
        width: channels of the network at 1/8.
        blocks: its depth.
        coarse: channels that the linear transform takes once more; see :class:`LinearLapped`.
        levels, knots: of the network's gain; see :class:`~neuralcodec.codecs.blocks.LevelVectors`.
        shortcut: whether there is a linear transform at all; without it the network has to learn everything.
    """

    multiple = STRIDE * PATCH

    def __init__(self, latent: int, width: int, blocks: int, coarse: int = 3, levels: int = 64, knots: int = 8, shortcut: bool = True):
        super().__init__()
        self.reach = max(LAPPED_REACH, 8 * blocks)
        self.linear = LinearLapped(latent, coarse) if shortcut else None
        self.stem = nn.Conv2d(192, width, 1)
        self.blocks = nn.Sequential(*(DepthwiseBlock(width) for _ in range(blocks)))
        self.gain = LevelVectors(levels, width, knots)
        self.head = nn.Conv2d(4 * width, latent, 1)
        if shortcut:
            zero(self.head)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        hidden = self.blocks(self.stem(F.pixel_unshuffle(x - 0.5, 8))) * self.gain(level).exp()[:, :, None, None]
        learned = self.head(F.pixel_unshuffle(hidden, 2))
        return learned if self.linear is None else self.linear(x - 0.5) + learned


class LappedSynthesis(nn.Module):
    """The inverse of :class:`LappedAnalysis`, then a small network that repairs the picture.

    ŷ ──linear lapped synthesis──┬──────────────────────────────────────────────────────────(+)──► x̂
    │                  space-to-depth 8, 1×1                                                 │
    └──1×1, depth-to-space 2────(+)──blocks──(× gain of the level)──1×1──depth-to-space 8────┘
    """

    multiple = STRIDE * PATCH

    def __init__(self, latent: int, width: int, blocks: int, coarse: int = 3, levels: int = 64, knots: int = 8, shortcut: bool = True):
        super().__init__()
        self.reach = LAPPED_REACH + 8 * blocks
        self.linear = LinearLapped(latent, coarse, inverse=True) if shortcut else None
        self.stem = nn.Conv2d(192, width, 1) if shortcut else None
        self.latent_stem = nn.Conv2d(latent, 4 * width, 1)
        self.level_bias = LevelVectors(levels, width, knots)
        self.blocks = nn.Sequential(*(DepthwiseBlock(width) for _ in range(blocks)))
        self.gain = LevelVectors(levels, width, knots)
        self.head = nn.Conv2d(width, 192, 1)
        if shortcut:
            zero(self.latent_stem, self.head)

    def forward(self, y_hat: Tensor, level: Tensor) -> Tensor:
        linear = self.linear(y_hat) if self.linear is not None else None
        hidden = F.pixel_shuffle(self.latent_stem(y_hat), 2)
        if linear is not None and self.stem is not None:
            hidden = self.stem(F.pixel_unshuffle(linear, 8)) + hidden
        hidden = self.blocks(hidden + self.level_bias(level)[:, :, None, None]) * self.gain(level).exp()[:, :, None, None]
        x_hat = F.pixel_shuffle(self.head(hidden), 8)
        return (x_hat if linear is None else linear + x_hat) + 0.5


class GDN(nn.Module):
    """Generalised divisive normalisation: ``x_i / sqrt(beta_i + sum_j gamma_ij x_j²)``, or times the root if ``inverse``.

    Ballé, Laparra, Simoncelli 2016, https://arxiv.org/abs/1511.06281. Square roots of beta and gamma are what is learned, as in CompressAI.
    Where no gradients are kept it may overwrite its input, a third of the time of writing elsewhere.
    """

    PEDESTAL = 2.0**-36  # keeps the gradient of a parameter at zero alive
    ROWS = 4096  # pixels at a time when there is no gradient to keep: what fits in a processor's cache

    def __init__(self, channels: int, inverse: bool = False, beta_min: float = 1e-6, gamma_init: float = 0.1):
        super().__init__()
        self.inverse = inverse
        self.smallest_beta = (beta_min + self.PEDESTAL) ** 0.5
        self.beta = nn.Parameter(torch.full((channels,), (1 + self.PEDESTAL) ** 0.5))
        self.gamma = nn.Parameter((gamma_init * torch.eye(channels) + self.PEDESTAL).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        beta = bounded(self.beta, self.smallest_beta, math.inf).square() - self.PEDESTAL
        gamma = bounded(self.gamma, self.PEDESTAL**0.5, math.inf).square() - self.PEDESTAL
        if torch.is_grad_enabled():
            norm = F.conv2d(x.square(), gamma[:, :, None, None], beta)
            return x * (norm.sqrt() if self.inverse else norm.rsqrt())
        x = x.contiguous(memory_format=torch.channels_last)
        for values in x.permute(0, 2, 3, 1).view(-1, x.shape[1]).split(self.ROWS):
            norm = torch.addmm(beta, values.square(), gamma.T)
            values.mul_(norm.sqrt_() if self.inverse else norm.rsqrt_())
        return x


class GDNAnalysis(nn.Module):
    """Four 5×5 convolutions of stride 2 with generalised divisive normalisation between them.

    Ballé, Laparra, Simoncelli 2017, https://arxiv.org/abs/1611.01704; layer sizes as in Ballé et al. 2018.
    """

    multiple = STRIDE
    reach = 32  # 2 · (1 + 2 + 4 + 8), rounded up

    def __init__(self, latent: int, width: int):
        super().__init__()
        sizes = (3, width, width, width, latent)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Conv2d(inputs, outputs, 5, stride=2, padding=2), GDN(outputs)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.layers(x.contiguous(memory_format=torch.channels_last)).contiguous()


class GDNSynthesis(nn.Module):
    """The mirror of :class:`GDNAnalysis`: 5×5 transposed convolutions and inverse GDN.

    Differs in the last layer, which computes the four pixels of each position side by side: one 3×3 convolution and depth-to-space, which
    holds every 5×5 transposed convolution of stride 2 and runs several times as fast with so few output channels.
    """

    multiple = STRIDE
    reach = 48

    def __init__(self, latent: int, width: int):
        super().__init__()
        sizes = (latent, width, width, width)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1), GDN(outputs, inverse=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 3 * 4, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, y_hat: Tensor, level: Tensor) -> Tensor:
        return self.layers(y_hat.contiguous(memory_format=torch.channels_last)).contiguous()


class ShallowSynthesis(nn.Module):
    """One linear layer, or two with a nonlinearity between them: decoders for the slowest machines beside any analysis.

    Yang, Mandt 2023, https://arxiv.org/abs/2304.06244 (JPEG-like and two-layer synthesis). Differs in that transposed convolutions with
    overlapping kernels are 3×3 convolutions at the latent's resolution and depth-to-space, which holds kernels of 48×48.

    Args:
        latent: channels of y.
        hidden: channels at 1/2 between two layers; none for a single linear layer.
    """

    multiple = STRIDE
    reach = 32

    def __init__(self, latent: int, hidden: int | None = None):
        super().__init__()
        if hidden is None:
            self.layers = nn.Sequential(nn.Conv2d(latent, BLOCK_VALUES, 3, padding=1), nn.PixelShuffle(STRIDE))
            return
        half = STRIDE // 2
        first = nn.Sequential(nn.Conv2d(latent, hidden * half * half, 3, padding=1), nn.PixelShuffle(half))
        self.layers = nn.Sequential(first, GDN(hidden, inverse=True), nn.Conv2d(hidden, 12, 5, padding=2), nn.PixelShuffle(2))

    def forward(self, y_hat: Tensor, level: Tensor) -> Tensor:
        return self.layers(y_hat) + 0.5
