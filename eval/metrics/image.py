"""Quality of images: 8-bit RGB against 8-bit RGB."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from pytorch_msssim import ms_ssim
from torch import Tensor

from neuralcodec.datasets import colour

MS_SSIM_SIDE = 160  # an image must be larger for five scales of an 11-tap window
PSNR_OF_EQUAL = 99.0  # dB, where nothing differs

DEFINITIONS = {
    "psnr_rgb": "dB; 10·log10(255² / MSE), MSE over all samples of the 8-bit R, G and B planes of one image; mean over images; 99 if equal",
    "psnr_rgb_of_mean_mse": "dB; as psnr_rgb, of the mean of the images' MSE",
    "psnr_y": "dB; of the luma plane of unrounded full-range BT.709 Y'CbCr of the 8-bit RGB image; mean over images",
    "psnr_u": "dB; as psnr_y, of Cb",
    "psnr_v": "dB; as psnr_y, of Cr",
    "psnr_yuv611": "dB; (6 psnr_y + psnr_u + psnr_v) / 8, chroma at full resolution; mean over images",
    "ms_ssim_rgb": "Wang et al. 2003, five scales, 8-bit R, G, B; mean over planes and images (pytorch-msssim); sides above 160 only",
    "ms_ssim_rgb_db": "dB; -10·log10(1 - ms_ssim_rgb), of the mean over images",
}

TITLES = {"psnr_rgb": "RGB PSNR, dB", "ms_ssim_rgb_db": "RGB MS-SSIM, dB", "psnr_yuv611": "YUV 6:1:1 PSNR, dB"}


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


@torch.inference_mode()
def quality(pixels: np.ndarray, pixels_hat: np.ndarray) -> dict[str, float]:
    """Every metric of one image, by the names of :data:`DEFINITIONS`; MS-SSIM only where the image is large enough.

    Args:
        pixels, pixels_hat: (H, W, 3) uint8 RGB.
    """
    values = {"psnr_rgb": psnr_of_mse(mse(pixels, pixels_hat))}
    errors = np.square(colour.planes(pixels) - colour.planes(pixels_hat)).mean((0, 1))
    y, u, v = (psnr_of_mse(float(error), peak=1.0) if error > 1e-12 else PSNR_OF_EQUAL for error in errors)
    values |= {"psnr_y": y, "psnr_u": u, "psnr_v": v, "psnr_yuv611": (6 * y + u + v) / 8}
    if min(pixels.shape[:2]) > MS_SSIM_SIDE:
        x, x_hat = (torch.from_numpy(np.array(each)).permute(2, 0, 1)[None].float() for each in (pixels, pixels_hat))
        values["ms_ssim_rgb"] = float(ms_ssim(x, x_hat, data_range=255))
    return values


def errors(pixels: np.ndarray, pixels_hat: np.ndarray) -> dict[str, float]:
    """Mean squared error on a 0…255 scale."""
    return {"rgb": mse(pixels, pixels_hat)}


def derived(quality: Mapping[str, float], errors: Mapping[str, float]) -> dict[str, float]:
    """What follows from the means over images."""
    values = {"psnr_rgb_of_mean_mse": psnr_of_mse(errors["rgb"])} if errors else {}
    if "ms_ssim_rgb" in quality:
        values["ms_ssim_rgb_db"] = decibels(quality["ms_ssim_rgb"])
    return values


def decibels(similarity: float) -> float:
    """-10·log10(1 - similarity); 99 for equality."""
    return -10 * math.log10(1 - similarity) if similarity < 1 - 1e-9 else PSNR_OF_EQUAL
