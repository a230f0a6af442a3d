"""Transforms of audio codecs: a waveform ⇄ a latent of some 50 frames a second, by way of a spectrum.

ConvNeXt blocks over the frames of a short-time Fourier transform, as the vocoder Vocos (Siuzdak 2023, https://arxiv.org/abs/2306.00814)
has them behind its mel spectra, and with the power-compressed complex input of ESC (Gu, Diao 2024, https://arxiv.org/abs/2404.19441).
Differs from both in being causal throughout, in using the same trunk for analysis and synthesis, and in a head that gives each bin as a
point in the complex plane, its magnitude compressed, with a logarithmic gain on it: what is known well is a linear function of the latent,
and what is not can still be loud. Networks at the rate of frames cost a tenth of convolutions at that of samples.

Every transform has a ``hop``, samples per latent frame, and a ``delay``, samples by which its output is late.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neuralcodec.codecs.audio.layers import CausalConv1d, ConvNeXtBlock, InverseStft, Stft, compressed, expanded
from neuralcodec.codecs.blocks import LevelVectors

LARGEST_LOG_GAIN = 3.0


class SpectralAnalysis(nn.Module):
    """
        x ──STFT, |·|^0.3──conv 3──(+ level)──ConvNeXt × n──conv 4, stride 2──ConvNeXt × m──1×1──► y

    Args:
        latent: channels of y.
        width, hidden: channels of the blocks, and inside their feed-forward pairs.
        blocks: (n, m), at the rate of STFT frames and at that of the latent.
        window, hop: of the STFT, in samples; the latent's hop is twice that.
        channels: of the signal.
        levels, knots: of the rate levels that steer it; see :class:`~neuralcodec.codecs.blocks.LevelVectors`.
    """

    delay = 0

    def __init__(
        self,
        latent: int,
        width: int,
        hidden: int,
        blocks: Sequence[int] = (4, 5),
        kernel: int = 7,
        window: int = 640,
        hop: int = 160,
        channels: int = 1,
        levels: int = 64,
        knots: int = 8,
    ):
        super().__init__()
        self.channels = channels
        self.hop = 2 * hop
        self.stft = Stft(window, hop)
        self.enter = CausalConv1d((window + 2) * channels, width, 3)
        self.steer = LevelVectors(levels, width, knots)
        self.fine = nn.Sequential(*(ConvNeXtBlock(width, hidden, kernel) for _ in range(blocks[0])))
        self.halve = CausalConv1d(width, width, 4, stride=2)
        self.coarse = nn.Sequential(*(ConvNeXtBlock(width, hidden, kernel) for _ in range(blocks[1])))
        self.leave = nn.Conv1d(width, latent, 1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, channels, n · hop) and (B,) to (B, latent, n)."""
        with torch.autocast(x.device.type, enabled=False):
            spectrum = compressed(self.stft(x.float()))
        features = self.enter(spectrum.flatten(1, 3)) + self.steer(level)[:, :, None]
        return self.leave(self.coarse(self.halve(self.fine(features))))


class SpectralSynthesis(nn.Module):
    """
        ŷ ──1×1──(+ level)──ConvNeXt × m──1×1, two frames from one──ConvNeXt × n──1×1──gain, phase──|·|^(1/0.3)──inverse STFT──► x̂

    Arguments as of :class:`SpectralAnalysis`.
    """

    def __init__(
        self,
        latent: int,
        width: int,
        hidden: int,
        blocks: Sequence[int] = (4, 5),
        kernel: int = 7,
        window: int = 640,
        hop: int = 160,
        channels: int = 1,
        levels: int = 64,
        knots: int = 8,
    ):
        super().__init__()
        self.channels = channels
        self.hop = 2 * hop
        self.enter = CausalConv1d(latent, width, 3)
        self.steer = LevelVectors(levels, width, knots)
        self.coarse = nn.Sequential(*(ConvNeXtBlock(width, hidden, kernel) for _ in range(blocks[1])))
        self.split = nn.Conv1d(width, 2 * width, 1)
        self.fine = nn.Sequential(*(ConvNeXtBlock(width, hidden, kernel) for _ in range(blocks[0])))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3 * (window // 2 + 1) * channels)
        nn.init.trunc_normal_(self.head.weight, std=0.02)  # quiet: magnitudes grow with the power of 1/0.3 of what the head gives
        nn.init.zeros_(self.head.bias)
        self.istft = InverseStft(window, hop)
        self.delay = self.istft.delay
        # Latent frames of the past that are heard.
        self.memory = 2 + (kernel - 1) * (blocks[1] + -(-blocks[0] // 2)) + -(-self.delay // self.hop)

    def forward(self, y_hat: Tensor, level: Tensor) -> Tensor:
        """(B, latent, n) and (B,) to (B, channels, n · hop), late by ``delay`` samples."""
        features = self.coarse(self.enter(y_hat) + self.steer(level)[:, :, None])
        features = self.split(features).unflatten(1, (-1, 2)).transpose(2, 3).flatten(2)  # channel pairs to consecutive frames
        features = self.norm(self.fine(features).transpose(1, 2))
        with torch.autocast(y_hat.device.type, enabled=False):
            return self.istft(self._spectrum(self.head(features).float()))

    def _spectrum(self, parts: Tensor) -> Tensor:
        """(B, frames, channels · 3 · bins) to complex (B, channels, bins, frames)."""
        parts = parts.unflatten(-1, (self.channels, 3, -1)).movedim(1, -1)
        planes = parts[:, :, 1:] * torch.exp(parts[:, :, :1].clamp(max=LARGEST_LOG_GAIN))
        return expanded(planes)


__all__ = ["SpectralAnalysis", "SpectralSynthesis"]
