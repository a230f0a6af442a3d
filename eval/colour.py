"""RGB ⇄ Y'CbCr, full range, BT.709, rounded at the depth that a codec takes.

ITU-R BT.709-6 item 3 (the matrix), H.273 MatrixCoefficients 1 with VideoFullRangeFlag 1 (the scaling). At 10 bits the way there and back
gives 8-bit RGB unchanged; at 8 bits, or with truncation instead of rounding, it costs a codec up to some dB at high quality.
"""

from __future__ import annotations

import numpy as np

_KR, _KB = 0.2126, 0.0722
_KG = 1 - _KR - _KB
FORWARD = np.array(
    [
        [_KR, _KG, _KB],
        [-_KR / (2 * (1 - _KB)), -_KG / (2 * (1 - _KB)), 0.5],
        [0.5, -_KG / (2 * (1 - _KR)), -_KB / (2 * (1 - _KR))],
    ]
)
INVERSE = np.linalg.inv(FORWARD)


def planes(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB to Y' in 0…1, Cb and Cr in -½…½, unrounded, (H, W, 3) float64."""
    return pixels.astype(np.float64) / 255 @ FORWARD.T


def to_ycbcr(pixels: np.ndarray, bits: int = 10) -> np.ndarray:
    """(H, W, 3) uint8 RGB to integers of ``bits`` bits, (H, W, 3) uint16."""
    peak = 2**bits - 1
    return np.clip(np.round(planes(pixels) * peak + _offset(bits)), 0, peak).astype(np.uint16)


def to_rgb(ycbcr: np.ndarray, bits: int = 10) -> np.ndarray:
    """Undo :func:`to_ycbcr`."""
    rgb = (ycbcr - _offset(bits)) / (2**bits - 1) @ INVERSE.T
    return np.clip(np.round(rgb * 255), 0, 255).astype(np.uint8)


def _offset(bits: int) -> np.ndarray:
    return np.array([0.0, 2.0 ** (bits - 1), 2.0 ** (bits - 1)])
