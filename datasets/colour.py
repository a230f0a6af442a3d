"""RGB ⇄ Y'CbCr by a stated matrix and range, rounded once, at the depth that a codec takes; chroma at full and at half resolution.

The matrices are those of ITU-R BT.601, BT.709 and BT.2020, the scaling is H.273's (MatrixCoefficients and VideoFullRangeFlag). Full range
at 10 bits, there and back, gives 8-bit RGB unchanged; at 8 bits, or with truncation instead of rounding, it costs a codec up to some dB
at high quality. In 4:2:0, chroma samples sit on even columns of luma, midway between two rows (H.273 chroma sample type 0). They are made
by the filters [1 2 1] / 4 along rows and [1 1] / 2 along columns, and interpolated linearly; edges are repeated.
"""

from __future__ import annotations

import numpy as np

WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}  # of red and blue in luma
H273 = {"bt601": 6, "bt709": 1, "bt2020": 9}  # MatrixCoefficients


def _matrix(red: float, blue: float) -> np.ndarray:
    green = 1 - red - blue
    return np.array(
        [
            [red, green, blue],
            [-red / (2 * (1 - blue)), -green / (2 * (1 - blue)), 0.5],
            [0.5, -green / (2 * (1 - red)), -blue / (2 * (1 - red))],
        ]
    )


FORWARD = {name: _matrix(*weights) for name, weights in WEIGHTS.items()}
INVERSE = {name: np.linalg.inv(matrix) for name, matrix in FORWARD.items()}


def planes(pixels: np.ndarray, matrix: str = "bt709") -> np.ndarray:
    """(H, W, 3) uint8 RGB to Y' in 0…1, Cb and Cr in -½…½, unrounded, (H, W, 3) float64."""
    return pixels.astype(np.float64) / 255 @ FORWARD[matrix].T


def to_ycbcr(pixels: np.ndarray, bits: int = 10, matrix: str = "bt709", full_range: bool = True) -> np.ndarray:
    """(H, W, 3) uint8 RGB to integers of ``bits`` bits, (H, W, 3), uint8 or uint16."""
    gain, offset = _scaling(bits, full_range)
    return _rounded(planes(pixels, matrix) * gain + offset, bits)


def to_rgb(ycbcr: np.ndarray, bits: int = 10, matrix: str = "bt709", full_range: bool = True) -> np.ndarray:
    """Undo :func:`to_ycbcr`."""
    gain, offset = _scaling(bits, full_range)
    return _rounded((ycbcr - offset) / gain @ INVERSE[matrix].T * 255, 8)


def to_420(pixels: np.ndarray, bits: int = 8, matrix: str = "bt709", full_range: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB to Y', (H, W), and Cb and Cr, (⌈H/2⌉, ⌈W/2⌉) each, uint8 or uint16."""
    gain, offset = _scaling(bits, full_range)
    unrounded = planes(pixels, matrix) * gain + offset
    y, u, v = (_rounded(each, bits) for each in (unrounded[..., 0], halved(unrounded[..., 1]), halved(unrounded[..., 2])))
    return y, u, v


def from_420(y: np.ndarray, u: np.ndarray, v: np.ndarray, bits: int, matrix: str, full_range: bool) -> np.ndarray:
    """Planes as :func:`to_420` gives them to (H, W, 3) uint8 RGB, by way of 32-bit floats."""
    gain, offset = (each.astype(np.float32) for each in _scaling(bits, full_range))
    luma = (y - offset[0]) * (255 / gain[0])
    blue, red = (doubled((plane - offset[1]) * (255 / gain[1]), *y.shape) for plane in (u, v))
    inverse = INVERSE[matrix].astype(np.float32)
    rgb = np.empty((3, *y.shape), np.float32)  # one plane after the other, which is twice as fast
    rgb[0] = luma + inverse[0, 2] * red
    rgb[1] = luma + inverse[1, 1] * blue + inverse[1, 2] * red
    rgb[2] = luma + inverse[2, 1] * blue
    return np.moveaxis(_rounded(rgb, 8), 0, -1)


def halved(plane: np.ndarray) -> np.ndarray:
    """(H, W) to (⌈H/2⌉, ⌈W/2⌉), unrounded."""
    padded = np.pad(plane, ((0, plane.shape[0] % 2), (1, 1 + plane.shape[1] % 2)), mode="edge")
    rows = (padded[::2] + padded[1::2]) / 2
    return (rows[:, :-2:2] + 2 * rows[:, 1:-1:2] + rows[:, 2::2]) / 4


def doubled(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """(⌈height/2⌉, ⌈width/2⌉) to (height, width), unrounded, of the plane's own type."""
    padded = np.pad(plane, ((1, 1), (0, 1)), mode="edge")
    rows = np.empty((2 * plane.shape[0], padded.shape[1]), plane.dtype)
    rows[::2] = padded[1:-1] * 0.75 + padded[:-2] * 0.25
    rows[1::2] = padded[1:-1] * 0.75 + padded[2:] * 0.25
    out = np.empty((rows.shape[0], 2 * plane.shape[1]), plane.dtype)
    out[:, ::2] = rows[:, :-1]
    out[:, 1::2] = (rows[:, :-1] + rows[:, 1:]) * 0.5
    return out[:height, :width]


def _scaling(bits: int, full_range: bool) -> tuple[np.ndarray, np.ndarray]:
    """Gain and offset of Y', Cb and Cr, (3,) each."""
    middle = 2.0 ** (bits - 1)
    if full_range:
        return np.full(3, 2.0**bits - 1), np.array([0.0, middle, middle])
    step = 2.0 ** (bits - 8)
    return np.array([219.0, 224.0, 224.0]) * step, np.array([16 * step, middle, middle])


def _rounded(values: np.ndarray, bits: int) -> np.ndarray:
    return np.clip(np.round(values), 0, 2**bits - 1).astype(np.uint8 if bits <= 8 else np.uint16)
