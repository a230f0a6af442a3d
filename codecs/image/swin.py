"""Transforms of windowed self-attention.

Zhu, Yang, Cohen 2022, "Transformer-based transform coding", https://openreview.net/forum?id=IDwN6xjHnK8 (SwinT-ChARM); blocks: Liu et al.
2021, https://arxiv.org/abs/2103.14030, as torchvision has them. Attention looks as far as its shifted windows carry, so tiles of a large
image (:mod:`~neuralcodec.codecs.image.tiles`) agree at their borders only approximately.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock

from neuralcodec.codecs.image.transforms import STRIDE

HEAD_CHANNELS = 16


class SwinStage(nn.Module):
    """Blocks of (shifted) window attention at one resolution, (B, C, H, W) to the same shape."""

    def __init__(self, channels: int, depth: int, window: int):
        super().__init__()
        if channels % HEAD_CHANNELS:
            raise ValueError(f"widths of attention are multiples of {HEAD_CHANNELS}")
        self.blocks = nn.Sequential(
            *(
                SwinTransformerBlock(channels, channels // HEAD_CHANNELS, [window] * 2, [window // 2 * (i % 2)] * 2, mlp_ratio=2.0)
                for i in range(depth)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x.movedim(1, -1)).movedim(-1, 1)


class SwinAnalysis(nn.Module):
    """Four times: merge 2×2 patches, then attend.

    Args:
        latent: channels of y.
        widths: channels at 1/2, 1/4, 1/8 and 1/16.
        depths: attention blocks there.
        window: side of the windows.
    """

    multiple = STRIDE
    reach = 256

    def __init__(self, latent: int, widths: Sequence[int], depths: Sequence[int], window: int = 8):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, depth in zip((3, *widths[:-1]), widths, depths, strict=True):
            layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * inputs, outputs, 1), SwinStage(outputs, depth, window)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], latent, 1))
        _check_stride(widths)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.layers(x - 0.5)


class SwinSynthesis(nn.Module):
    """The mirror of :class:`SwinAnalysis`: attend, then split each position into 2×2.

    Args:
        latent: channels of y.
        widths: channels at 1/16, 1/8, 1/4 and 1/2.
        depths: attention blocks there.
        window: side of the windows.
    """

    multiple = STRIDE
    reach = 256

    def __init__(self, latent: int, widths: Sequence[int], depths: Sequence[int], window: int = 8):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(latent, widths[0], 1)]
        for inputs, outputs, depth in zip(widths, (*widths[1:], 3), depths, strict=True):
            layers += [SwinStage(inputs, depth, window), nn.Conv2d(inputs, 4 * outputs, 1), nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers)
        _check_stride(widths)

    def forward(self, y_hat: Tensor, level: Tensor) -> Tensor:
        return self.layers(y_hat) + 0.5


def _check_stride(widths: Sequence[int]) -> None:
    if 2 ** len(widths) != STRIDE:
        raise ValueError(f"transforms to 1/{STRIDE} have {STRIDE.bit_length() - 1} stages, not {len(widths)}")
