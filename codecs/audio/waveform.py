"""Transforms of audio codecs by convolutions over samples: a waveform ⇄ a latent at some 50 frames a second, stride by stride.

The SEANet of SoundStream (Zeghidour et al. 2021, https://arxiv.org/abs/2107.03312) and EnCodec (Défossez et al. 2022,
https://arxiv.org/abs/2210.13438), and with Snake activations the network of DAC (Kumar et al. 2023, https://arxiv.org/abs/2306.06546).
Differs from EnCodec in having no LSTM, and from all in that weights are not normalised, and that causal layers stream. Layers that are not
causal see as far ahead as back.

They cost ten times what :mod:`~neuralcodec.codecs.audio.transforms` do and are here because most published codecs are made of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.audio.layers import CausalConv1d, Snake, Streamed

Activation = Literal["elu", "snake"]
ENDS = 7  # kernel of the first and the last layer


class CentredConv1d(nn.Module):
    """Convolution over time that looks ahead as far as back; (B, C, n) to (B, C', n / stride)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, kernel, stride=stride, dilation=dilation)
        around = (kernel - 1) * dilation - (stride - 1)
        self.before, self.behind = around - around // 2, around // 2

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (self.before, self.behind)))


class Upsample(Streamed):
    """Transposed convolution whose kernel is two strides; (B, C, n) to (B, C', n · stride).

    A sample depends on two frames: the one that it lies in, and the one before; if not causal, the one that is nearer of before and after.

        frame t, frame t + 1 ──1×1, C' · stride each──(+)──► the stride samples between
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, causal: bool):
        super().__init__()
        self.stride, self.causal = stride, causal
        self.conv = nn.ConvTranspose1d(channels_in, channels_out, 2 * stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        if self.causal:
            # The first stride is what the frame before the piece adds to it, the last what the next piece will add.
            return self.conv(self.recall(x, 1))[..., self.stride : -self.stride]
        before = self.stride // 2
        return self.conv(x)[..., before : before + x.shape[-1] * self.stride]


class ResidualUnit(nn.Module):
    """
    x ──act──dilated conv──act──1×1──(+)──►
     └────────────────────────────────┘
    """

    def __init__(self, channels: int, dilation: int, activation: Activation, causal: bool, kernel: int, squeeze: int):
        super().__init__()
        inner = max(channels // squeeze, 1)
        convolution = CausalConv1d if causal else CentredConv1d
        self.body = nn.Sequential(
            Snake(channels) if activation == "snake" else nn.ELU(),
            convolution(channels, inner, kernel, dilation=dilation),
            Snake(inner) if activation == "snake" else nn.ELU(),
            nn.Conv1d(inner, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Waveform(nn.Module):
    """What analysis and synthesis share.

    Args:
        latent: channels of y.
        width: channels at the sampling rate; after each stride there are twice as many as before.
        strides: from the samples to the latent; their product is the hop.
        dilations: of the residual units at each rate.
        kernel: of these.
        squeeze: by which they have fewer channels inside.
        activation: ``"elu"`` or ``"snake"``.
        causal: look at the past alone.
        channels: of the signal.
    """

    delay = 0

    def __init__(
        self,
        latent: int,
        width: int = 32,
        strides: Sequence[int] = (2, 4, 5, 8),
        dilations: Sequence[int] = (1, 3, 9),
        kernel: int = 3,
        squeeze: int = 2,
        activation: Activation = "elu",
        causal: bool = True,
        channels: int = 1,
    ):
        super().__init__()
        if activation not in ("elu", "snake"):
            raise ValueError(f"unknown activation {activation!r}")
        if not 1 <= len(strides) <= 8 or min(strides) < 2 or kernel < 2:
            raise ValueError("there are one to eight strides of at least 2, and kernels of at least 2")
        self.strides = tuple(strides)
        self.hop = math.prod(strides)
        self.channels = channels
        self.causal = causal
        self.activation: Activation = activation
        self.unit = {"kernel": kernel, "squeeze": squeeze}
        self.dilations = tuple(dilations)
        self.layers = nn.Sequential(*self.stack(latent, width))

    def stack(self, latent: int, width: int) -> list[nn.Module]:
        """The layers, in order."""
        raise NotImplementedError

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """The same at every level."""
        return self.layers(x)

    def convolution(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Module:
        return (CausalConv1d if self.causal else CentredConv1d)(channels_in, channels_out, kernel, stride=stride)

    def act(self, channels: int) -> nn.Module:
        return Snake(channels) if self.activation == "snake" else nn.ELU()

    def units(self, channels: int) -> list[nn.Module]:
        return [ResidualUnit(channels, dilation, self.activation, self.causal, **self.unit) for dilation in self.dilations]


class WaveformAnalysis(Waveform):
    """
        x ──conv 7──{residual units──act──conv 2s, stride s} for each stride s──act──conv 3──► y

    (B, channels, n · hop) to (B, latent, n). Arguments as of :class:`Waveform`.
    """

    def stack(self, latent: int, width: int) -> list[nn.Module]:
        layers = [self.convolution(self.channels, width, ENDS)]
        for stride in self.strides:
            layers += [*self.units(width), self.act(width), self.convolution(width, 2 * width, 2 * stride, stride)]
            width *= 2
        return [*layers, self.act(width), self.convolution(width, latent, 3)]


class WaveformSynthesis(Waveform):
    """
        ŷ ──conv 7──{act──transposed conv 2s, stride s──residual units} for each stride s, reversed──act──conv 7──► x̂

    (B, latent, n) to (B, channels, n · hop). Arguments as of :class:`Waveform`.
    """

    def stack(self, latent: int, width: int) -> list[nn.Module]:
        width *= 2 ** len(self.strides)
        layers = [self.convolution(latent, width, ENDS)]
        for stride in reversed(self.strides):
            layers += [self.act(width), Upsample(width, width // 2, stride, self.causal), *self.units(width // 2)]
            width //= 2
        return [*layers, self.act(width), self.convolution(width, self.channels, ENDS)]


__all__ = ["WaveformAnalysis", "WaveformSynthesis"]
