"""Networks that learn to tell decoded sounds from real ones: needed in training only, in no weights file.

Multi-period: Kong et al. 2020 (HiFi-GAN), https://arxiv.org/abs/2010.05646. Multi-resolution complex spectra: Zeghidour et al. 2021
(SoundStream), https://arxiv.org/abs/2107.03312, in the shape of Défossez et al. 2022 (EnCodec), https://arxiv.org/abs/2210.13438. Differs
in what the latter sees, spectra with magnitudes to the power 0.3, so that level matters less, and in sharing them with the losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from neuralcodec.codecs.audio.losses import Spectra

SLOPE = 0.1  # of leaky rectifiers, below zero
POWER = 0.3  # of magnitudes


class Judgements(NamedTuple):
    scores: list[Tensor]  # of each discriminator, (B, 1, …): high for what seems real
    features: list[list[Tensor]]  # of each discriminator's layers, (B, …)


class PeriodDiscriminator(nn.Module):
    """Looks at every ``period``-th sample: (B, channels, n) folded to (B · channels, 1, n / period, period), convolved along time alone.

    Args:
        period: in samples.
        width: channels of the first layer; the paper has 32.
    """

    def __init__(self, period: int, width: int = 16):
        super().__init__()
        self.period = period
        widths = [1, width, 4 * width, 16 * width, 32 * width]
        layers = [nn.Conv2d(before, after, (5, 1), (3, 1), (2, 0)) for before, after in pairwise(widths)]
        layers.append(nn.Conv2d(widths[-1], widths[-1], (5, 1), 1, (2, 0)))
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.leave = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), 1, (1, 0)))

    def forward(self, x: Spectra) -> tuple[Tensor, list[Tensor]]:
        batch = len(x.signal)
        signal = F.pad(x.signal, (0, -x.signal.shape[-1] % self.period), "reflect")
        return _layer_by_layer(signal.reshape(-1, 1, signal.shape[-1] // self.period, self.period), self.layers, self.leave, batch)


class SpectralDiscriminator(nn.Module):
    """Looks at complex spectra: (B · channels, 2, frames, bins), halved along frequency three times while it looks ever farther in time.

    Args:
        window: of the STFT, in samples; the hop is a quarter.
        width: channels of the layers; the paper has 32.
    """

    def __init__(self, window: int, width: int = 16):
        super().__init__()
        self.window = window
        layers = [nn.Conv2d(2, width, (3, 9), padding=(1, 4))]
        layers += [nn.Conv2d(width, width, (3, 9), (1, 2), (spread, 4), (spread, 1)) for spread in (1, 2, 4)]
        layers.append(nn.Conv2d(width, width, 3, padding=1))
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.leave = weight_norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Spectra) -> tuple[Tensor, list[Tensor]]:
        spectrum = x.compressed(self.window, POWER).flatten(0, 1)  # (B · channels, 2, bins, frames)
        return _layer_by_layer(spectrum.transpose(2, 3), self.layers, self.leave, len(x.signal))


class Discriminators(nn.Module):
    """Several of both kinds.

    Args:
        periods: in samples.
        windows: in samples.
        width: of each.
    """

    def __init__(self, periods: Sequence[int] = (2, 3, 5, 7, 11), windows: Sequence[int] = (1024, 512, 256), width: int = 16):
        super().__init__()
        if not periods and not windows:
            raise ValueError("discriminators have at least one period or window")
        judges: list[nn.Module] = [PeriodDiscriminator(period, width) for period in periods]
        judges += [SpectralDiscriminator(window, width) for window in windows]
        self.judges = nn.ModuleList(judges)

    def forward(self, x: Spectra) -> Judgements:
        """The signals as (B, channels, n), by their :class:`~neuralcodec.codecs.audio.losses.Spectra`."""
        judged = [judge(x) for judge in self.judges]
        return Judgements([score for score, _ in judged], [features for _, features in judged])


def _layer_by_layer(x: Tensor, layers: nn.ModuleList, leave: nn.Module, batch: int) -> tuple[Tensor, list[Tensor]]:
    """The score of each item, its channels together, and what every layer made of it."""
    features = []
    for layer in layers:
        x = F.leaky_relu(layer(x), SLOPE)
        features.append(x.unflatten(0, (batch, -1)))
    return leave(x).unflatten(0, (batch, -1)), features


__all__ = ["Discriminators", "Judgements", "PeriodDiscriminator", "SpectralDiscriminator"]
