"""Quality of video: planes of Y'CbCr 4:2:0 as they are coded, and 8-bit RGB made from them, frame by frame."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import numpy as np
import torch
from pytorch_msssim import ms_ssim
from torch import Tensor

from neuralcodec.datasets import colour
from neuralcodec.datasets.video import Clip
from neuralcodec.eval.metrics.image import MS_SSIM_SIDE, decibels, psnr_of_mse

_RGB = (
    "dB; 10·log10(255² / MSE) over all samples of a frame's 8-bit R, G and B; mean over frames, then over clips. Both clips are converted "
    "by the matrix that the name says, in the range of the original, chroma interpolated linearly from positions level with even columns "
    "(H.273 type 0), in 32-bit floats, rounded. The matrix is the original's: names differ so that numbers by different matrices never meet"
)
DEFINITIONS = {
    "psnr_y": "dB; 10·log10(peak² / MSE) of the luma plane, peak 2^bits - 1; mean over frames, then over clips; 99 if a frame is equal",
    "psnr_u": "dB; as psnr_y, of the Cb plane at its own resolution",
    "psnr_v": "dB; as psnr_y, of the Cr plane at its own resolution",
    "psnr_yuv611": "dB; (6 psnr_y + psnr_u + psnr_v) / 8",
    **{f"psnr_rgb_{matrix}": _RGB for matrix in colour.WEIGHTS},
    **{f"psnr_{plane}_of_mean_mse": f"dB; as psnr_{plane}, of the mean over clips of the mean MSE over frames" for plane in "yuv"},
    "psnr_yuv611_of_mean_mse": "dB; as psnr_yuv611, of the three PSNRs of mean MSE",
    **{f"psnr_rgb_{matrix}_of_mean_mse": f"dB; as psnr_rgb_{matrix}, of mean MSE, as with the planes" for matrix in colour.WEIGHTS},
    "psnr_rgb": "dB; of published curves only: RGB PSNR whose conversion from the planes is not stated",
    "ms_ssim_y": "Wang et al. 2003, five scales, luma plane; mean over frames, then clips (pytorch-msssim); sides above 160 only",
    "ms_ssim_y_db": "dB; -10·log10(1 - ms_ssim_y), of the mean over clips",
}

_known: WeakKeyDictionary[Clip, WeakKeyDictionary[Clip, np.ndarray]] = WeakKeyDictionary()  # quality and errors start from the same

TOGETHER = 4  # frames in one call of MS-SSIM, which is four times as fast as one by one

TITLES = {
    "psnr_yuv611": "YUV 6:1:1 PSNR, dB",
    "psnr_rgb_bt709": "RGB PSNR by BT.709, dB",
    "psnr_rgb_bt601": "RGB PSNR by BT.601, dB",
    "ms_ssim_y_db": "luma MS-SSIM, dB",
    "psnr_rgb": "RGB PSNR, conversion not stated, dB",
}


@torch.inference_mode()
def quality(clip: Clip, decoded: Clip) -> dict[str, float]:
    """Every metric of one clip, by the names of :data:`DEFINITIONS`; MS-SSIM only where frames are large enough.

    Args:
        clip, decoded: of the same shape and depth.
    """
    psnrs = [[psnr_of_mse(float(error)) for error in frame] for frame in _frame_errors(clip, decoded)]
    values = {f"psnr_{plane}": float(mean) for plane, mean in zip(_names(clip), np.mean(psnrs, 0))}
    values["psnr_yuv611"] = _weighted(values["psnr_y"], values["psnr_u"], values["psnr_v"])
    if min(clip.height, clip.width) > MS_SSIM_SIDE:
        peak = 2**clip.bits - 1
        groups = [slice(t, t + TOGETHER) for t in range(0, len(clip), TOGETHER)]
        scores = [ms_ssim(_luma(clip, some), _luma(decoded, some), data_range=peak) * len(clip.y[some]) for some in groups]
        values["ms_ssim_y"] = float(sum(scores)) / len(clip)
    return values


def errors(clip: Clip, decoded: Clip) -> dict[str, float]:
    """Mean squared errors over all frames, on a 0…255 scale whatever the depth."""
    return {plane: float(mean) for plane, mean in zip(_names(clip), _frame_errors(clip, decoded).mean(0))}


def derived(quality: Mapping[str, float], errors: Mapping[str, float]) -> dict[str, float]:
    """What follows from the means over clips."""
    values = {f"psnr_{plane}_of_mean_mse": psnr_of_mse(error) for plane, error in errors.items()}
    if errors:  # published curves have none
        values["psnr_yuv611_of_mean_mse"] = _weighted(*(values[f"psnr_{plane}_of_mean_mse"] for plane in "yuv"))
    if "ms_ssim_y" in quality:
        values["ms_ssim_y_db"] = decibels(quality["ms_ssim_y"])
    return values


def _frame_errors(clip: Clip, decoded: Clip) -> np.ndarray:
    """(T, 4): mean squared errors of the planes of every frame, Y, U, V and RGB, on a 0…255 scale; kept as long as both clips are."""
    by_decoded = _known.setdefault(clip, WeakKeyDictionary())
    if decoded not in by_decoded:
        by_decoded[decoded] = _measured_errors(clip, decoded)
    return by_decoded[decoded]


def _measured_errors(clip: Clip, decoded: Clip) -> np.ndarray:
    if decoded.y.shape != clip.y.shape or decoded.bits != clip.bits:
        raise ValueError(f"clips differ: {clip.y.shape} at {clip.bits} bits and {decoded.y.shape} at {decoded.bits}")
    to_eight_bits = (255 / (2**clip.bits - 1)) ** 2
    rows = np.empty((len(clip), 4))
    for t in range(len(clip)):
        pairs = zip(clip.frame(t), decoded.frame(t))
        rows[t, :3] = [_mse(plane, plane_hat) * to_eight_bits for plane, plane_hat in pairs]
        rgb, rgb_hat = (colour.from_420(*each.frame(t), clip.bits, clip.matrix, clip.full_range) for each in (clip, decoded))
        rows[t, 3] = _mse(rgb, rgb_hat)
    return rows


def _names(clip: Clip) -> tuple[str, ...]:
    return "y", "u", "v", f"rgb_{clip.matrix}"


def _mse(samples: np.ndarray, samples_hat: np.ndarray) -> float:
    return float(np.square(np.subtract(samples, samples_hat, dtype=np.int32)).mean())


def _weighted(y: float, u: float, v: float) -> float:
    return (6 * y + u + v) / 8


def _luma(clip: Clip, frames: slice) -> Tensor:
    """(1, frames, H, W) of floats: MS-SSIM treats channels apart and takes their mean."""
    return torch.from_numpy(clip.y[frames].astype(np.float32))[None].contiguous(memory_format=torch.channels_last)
