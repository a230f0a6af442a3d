"""Wavelets of planes of any size: as many coefficients as samples, and steps that mean the same in every band.

The filters are those of Cohen, Daubechies and Feauveau 1992 with 9 and 7 taps, https://doi.org/10.1002/cpa.3160450502, by the lifting
steps of Daubechies and Sweldens 1998, https://doi.org/10.1007/BF02476026, as JPEG 2000 has them. Differs in its scaling, under which basis
functions have about unit norm, and in odd lengths, which get one more sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LIFTS = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)  # of odd and even samples by turns
GAIN = 1.149604398860241  # of the low band; the high band has its inverse
BANDS = 3  # of each plane at every scale: high across, high down, both


def analysed(planes: Tensor, scales: int) -> tuple[Tensor, list[Tensor]]:
    """Planes (…, height, width) to (…, ⌈height / 2^scales⌉, ⌈width / 2^scales⌉), and bands (…, 3, h, w), fine to coarse."""
    bands = []
    for _ in range(scales):
        low, high = _split(planes, -1)
        (planes, down), (across, both) = _split(low, -2), _split(high, -2)
        bands.append(torch.stack((across, down, both), -3))
    return planes, bands


def synthesised(low: Tensor, bands: Sequence[Tensor], height: int, width: int, lifts: Sequence[float] | Tensor = LIFTS) -> Tensor:
    """Undo :func:`analysed`, or nearly so with other lifting steps."""
    for number in reversed(range(len(bands))):
        rows, columns = -(-height >> number), -(-width >> number)
        across, down, both = bands[number].unbind(-3)
        low = _joined(_joined(low, down, -2, lifts)[..., :rows, :], _joined(across, both, -2, lifts)[..., :rows, :], -1, lifts)
        low = low[..., :columns]
    return low


def _split(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Low and high band along an axis."""
    if x.shape[axis] % 2:
        x = torch.cat((x, x.narrow(axis, x.shape[axis] - 1, 1)), axis)
    even, odd = x.unflatten(axis, (-1, 2)).unbind(axis)
    odd = odd + LIFTS[0] * (even + _next(even, axis))
    even = even + LIFTS[1] * (odd + _before(odd, axis))
    odd = odd + LIFTS[2] * (even + _next(even, axis))
    even = even + LIFTS[3] * (odd + _before(odd, axis))
    return even * GAIN, odd * (1 / GAIN)


def _joined(low: Tensor, high: Tensor, axis: int, lifts: Sequence[float] | Tensor) -> Tensor:
    """Undo :func:`_split`."""
    even, odd = low * (1 / GAIN), high * GAIN
    even = even - lifts[3] * (odd + _before(odd, axis))
    odd = odd - lifts[2] * (even + _next(even, axis))
    even = even - lifts[1] * (odd + _before(odd, axis))
    odd = odd - lifts[0] * (even + _next(even, axis))
    return torch.stack((even, odd), axis).flatten(axis - 1, axis)


def _next(x: Tensor, axis: int) -> Tensor:
    """Each sample's successor; the last one's is itself."""
    length = x.shape[axis]
    return torch.cat((x.narrow(axis, 1, length - 1), x.narrow(axis, length - 1, 1)), axis)


def _before(x: Tensor, axis: int) -> Tensor:
    return torch.cat((x.narrow(axis, 0, 1), x.narrow(axis, 0, x.shape[axis] - 1)), axis)
