"""Analysis and synthesis transforms of images: (B, 3, H, W) in 0…1 ⇄ a latent at 1/16 of the resolution.

Every transform takes ``(tensor, level)``; those of the papers ignore the level, which then acts through the gains on the latent alone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.blocks import DepthwiseBlock, LappedFilter, LevelVectors

STRIDE = 16
BLOCK_VALUES = 3 * STRIDE * STRIDE


class LappedAnalysis(nn.Module):
    """A linear lapped transform plus a small network, zero at first, that learns what linear cannot do.

        x ──lapped filter──space-to-depth 16──1×1──────────────────────────(+)──► y
        └──space-to-depth 8──1×1──blocks──(× gain of the level)──2×2, ÷2────┘

    The 1×1 layer is a Karhunen–Loève transform of the training images, found in closed form (:meth:`initialise`), so training starts
    from a working codec. The field's residual linear shortcuts (AuxT, Li et al. 2025, https://arxiv.org/abs/2502.05845) use wavelets there.

    Args:
        latent: channels of y, at most 768.
        width: channels of the network at 1/8.
        blocks: its depth.
        levels, knots: of the network's gain; see :class:`~neuralcodec.codecs.blocks.LevelVectors`.
    """

    def __init__(self, latent: int, width: int, blocks: int, levels: int = 64, knots: int = 8):
        super().__init__()
        self.lapped = LappedFilter(STRIDE)
        self.linear = nn.Conv2d(BLOCK_VALUES, latent, 1, bias=False)
        nn.init.orthogonal_(self.linear.weight)
        self.stem = nn.Conv2d(192, width, 1)
        self.blocks = nn.Sequential(*(DepthwiseBlock(width) for _ in range(blocks)))
        self.gain = LevelVectors(levels, width, knots)
        self.head = nn.Conv2d(4 * width, latent, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def blocks_of(self, x: Tensor) -> Tensor:
        """The values that the linear transform sees, (B, 768, H/16, W/16)."""
        return F.pixel_unshuffle(self.lapped(x - 0.5), STRIDE)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        hidden = self.blocks(self.stem(F.pixel_unshuffle(x - 0.5, 8))) * self.gain(level).exp()[:, :, None, None]
        return self.linear(self.blocks_of(x)) + self.head(F.pixel_unshuffle(hidden, 2))

    @torch.no_grad()
    def initialise(self, images: Tensor) -> Tensor:
        """Set the linear transform from images (n, 3, H, W).

        Returns:
            The variances of the latent's channels, descending.
        """
        values = self.blocks_of(images).movedim(1, -1).reshape(-1, BLOCK_VALUES).double()
        variances, vectors = torch.linalg.eigh(values.T @ values / len(values))
        latent = self.linear.out_channels
        basis = vectors.flip(1)[:, :latent].T
        self.linear.weight.copy_(basis.float()[:, :, None, None])
        return variances.flip(0)[:latent].clamp_min(1e-12).float()


class LappedSynthesis(nn.Module):
    """The inverse of :class:`LappedAnalysis`, then a small network that repairs the picture.

        ŷ ──1×1──depth-to-space 16──inverse lapped filter──┬─────────────────────────────────────(+)──► x̂
        └──1×1, ×2───────────(+)◄──1×1──space-to-depth 8───┘                                      │
                              └──blocks──(× gain of the level)──1×1──depth-to-space 8─────────────┘
    """

    def __init__(self, latent: int, width: int, blocks: int, levels: int = 64, knots: int = 8):
        super().__init__()
        self.lapped = LappedFilter(STRIDE)
        self.linear = nn.Conv2d(latent, BLOCK_VALUES, 1, bias=False)
        nn.init.orthogonal_(self.linear.weight)
        self.stem = nn.Conv2d(192, width, 1)
        self.latent_stem = nn.Conv2d(latent, 4 * width, 1)
        self.level_bias = LevelVectors(levels, width, knots)
        self.blocks = nn.Sequential(*(DepthwiseBlock(width) for _ in range(blocks)))
        self.gain = LevelVectors(levels, width, knots)
        self.head = nn.Conv2d(width, 192, 1)
        for layer in (self.latent_stem, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, y_hat: Tensor, level: Tensor) -> Tensor:
        linear = self.lapped.inverse(F.pixel_shuffle(self.linear(y_hat), STRIDE))
        hidden = self.stem(F.pixel_unshuffle(linear, 8)) + F.pixel_shuffle(self.latent_stem(y_hat), 2)
        hidden = self.blocks(hidden + self.level_bias(level)[:, :, None, None]) * self.gain(level).exp()[:, :, None, None]
        return linear + F.pixel_shuffle(self.head(hidden), 8) + 0.5

    @torch.no_grad()
    def initialise(self, analysis: LappedAnalysis) -> None:
        """Set the linear part to the transpose of an orthonormal analysis."""
        self.linear.weight.copy_(analysis.linear.weight.transpose(0, 1))


class GDNAnalysis(nn.Module):
    """Four 5×5 convolutions of stride 2 with generalised divisive normalisation between them.

    Ballé, Laparra, Simoncelli 2017, https://arxiv.org/abs/1611.01704; layer sizes as in Ballé et al. 2018. GDN is CompressAI's.
    """

    def __init__(self, latent: int, width: int):
        super().__init__()
        from compressai.layers import GDN  # on use: importing it takes seconds, which other codecs need not pay

        sizes = (3, width, width, width, latent)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(sizes, sizes[1:]):
            layers += [nn.Conv2d(inputs, outputs, 5, stride=2, padding=2), GDN(outputs)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.layers(x)


class GDNSynthesis(nn.Module):
    """The mirror of :class:`GDNAnalysis`: 5×5 transposed convolutions and inverse GDN."""

    def __init__(self, latent: int, width: int):
        super().__init__()
        from compressai.layers import GDN

        sizes = (latent, width, width, width, 3)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(sizes, sizes[1:]):
            layers += [nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1), GDN(outputs, inverse=True)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, y_hat: Tensor, level: Tensor) -> Tensor:
        return self.layers(y_hat)
