"""Quality metrics, each with its definition."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def psnr(x: Tensor, x_hat: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all samples and RGB channels, on 8-bit values (clipped, rounded); 99 where they are equal.

    Args:
        x, x_hat: same shape, 0…1.
    """
    difference = torch.round(x.double().clamp(0, 1) * 255) - torch.round(x_hat.double().clamp(0, 1) * 255)
    mse = float(difference.square().mean())
    return 10 * math.log10(255**2 / mse) if mse else 99.0
