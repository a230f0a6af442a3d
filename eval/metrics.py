"""Quality metrics, each with its definition."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

PSNR_OF_EQUAL = 99.0  # dB, where nothing differs

DEFINITIONS = {
    "bpp": "bits of the whole file, header and checksum included, per pixel; mean over images",
    "psnr_rgb": "dB; 10·log10(255² / MSE), MSE over all samples of the 8-bit R, G and B planes of one image; mean over images; 99 if equal",
    "psnr_rgb_of_mean_mse": "dB; as psnr_rgb, of the mean of the images' MSE",
    "encode_seconds": "wall clock, from 8-bit RGB in memory to the bytes of a file; mean over images",
    "decode_seconds": "wall clock, from the bytes of a file to 8-bit RGB in memory; mean over images",
    "estimated_bpp": "bits per pixel by the codec's own probabilities, without coding; mean over images",
}


def psnr(x: Tensor, x_hat: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all samples and RGB channels, on 8-bit values (clipped, rounded); 99 where they are equal.

    Args:
        x, x_hat: same shape, 0…1.
    """
    difference = torch.round(x.double().clamp(0, 1) * 255) - torch.round(x_hat.double().clamp(0, 1) * 255)
    return psnr_of_mse(float(difference.square().mean()))


def mse(pixels: np.ndarray, pixels_hat: np.ndarray) -> float:
    """Mean squared error over all samples.

    Args:
        pixels, pixels_hat: same shape, uint8.
    """
    if pixels.shape != pixels_hat.shape:
        raise ValueError(f"shapes differ: {pixels.shape} and {pixels_hat.shape}")
    return float(np.square(pixels.astype(np.float64) - pixels_hat).mean())


def psnr_of_mse(mse: float, peak: float = 255.0) -> float:
    """dB; 99 for an error of zero."""
    return 10 * math.log10(peak**2 / mse) if mse else PSNR_OF_EQUAL
