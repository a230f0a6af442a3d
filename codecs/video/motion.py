"""Motion of a plane: where each block of a picture comes from, and pictures moved so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

MOTION_STEP = 0.5  # pixels: of motion, to start with
REACH = 24  # pixels up, down, left and right that are searched
REFINING_STEPS, REFINING_RATE = 16, 0.15  # of gradient descent, pixels


def moved(planes: Tensor, motion: Tensor) -> Tensor:
    """Planes (n, c, h, w), each position from where it was, bicubic: ``motion`` (n, 2, h, w) down and right, in samples."""
    return _sampled(planes, motion, "bicubic")


def _sampled(x: Tensor, motion: Tensor, mode: str) -> Tensor:
    height, width = x.shape[2:]
    rows = (torch.arange(height, device=x.device)[:, None] + motion[:, 0]) * (2 / height) + (1 / height - 1)
    columns = (torch.arange(width, device=x.device) + motion[:, 1]) * (2 / width) + (1 / width - 1)
    return F.grid_sample(x, torch.stack((columns, rows), -1), mode=mode, padding_mode="border", align_corners=False)


def price(motion: Tensor) -> Tensor:
    """Bits of what motion differs by from what is expected, about: (n, 2, …) to (n, 1, …)."""
    return 1.6 * torch.log2(1 + 2 / MOTION_STEP * motion.abs()).sum(1, keepdim=True)


def match(here: Tensor, there: Tensor, block: int, guess: Tensor, worth: float) -> Tensor:
    """Where in the plane ``there`` each block of ``here`` came from, in pixels, (1, 2, rows, columns), searched coarse to fine.

    Args:
        here, there: (1, 1, height, width).
        block: side in pixels.
        guess: motion that costs nothing, as (1, 2, rows, columns).
        worth: bits per squared error of a sample.
    """
    height, width = here.shape[2:]
    rows, columns = -(-height // block), -(-width // block)
    small_here, small_there = F.avg_pool2d(here, 4, ceil_mode=True), F.avg_pool2d(there, 4, ceil_mode=True)
    far = REACH // 4
    padded = F.pad(small_there, (far, far, far, far), mode="replicate")
    best = torch.full((1, 1, rows, columns), math.inf)
    motion = torch.zeros(1, 2, rows, columns)

    def consider(error: Tensor, candidate: Tensor) -> None:
        nonlocal best, motion
        factor = max(1, block * error.shape[3] // width)
        pooled = F.avg_pool2d(
            F.pad(error, (0, columns * factor - error.shape[3], 0, rows * factor - error.shape[2]), mode="replicate"), factor
        )
        total = (F.avg_pool2d(pooled, 3, 1, 1, count_include_pad=False) * 0.3 + pooled * 0.7) * (worth * block**2)
        total = total + price(candidate - guess)
        better = total < best
        motion, best = torch.where(better, candidate, motion), torch.minimum(total, best)

    for down, right in itertools.product(range(-far, far + 1), repeat=2):
        window = padded[..., far + down : far + down + small_here.shape[2], far + right : far + right + small_here.shape[3]]
        consider((window - small_here).square(), torch.tensor([down, right], dtype=torch.float32).reshape(1, 2, 1, 1).expand_as(motion) * 4)
    around, best = motion, torch.full_like(best, math.inf)
    for distance in (2.0, 1.0, 0.5):
        if distance < 2:
            around, best = motion, torch.full_like(best, math.inf)
        for down, right in sorted(itertools.product((-1, 0, 1), repeat=2), key=lambda each: abs(each[0]) + abs(each[1])):
            candidate = around + torch.tensor([down, right], dtype=torch.float32).reshape(1, 2, 1, 1) * distance
            whole = F.interpolate(candidate, scale_factor=block, mode="nearest")[..., :height, :width]
            consider((_sampled(there, whole, "bilinear") - here).square(), candidate)
        whole = F.interpolate(guess, scale_factor=block, mode="nearest")[..., :height, :width]
        consider((_sampled(there, whole, "bilinear") - here).square(), guess)
    return motion


def fitted(motion: Tensor, cost: Callable[[Tensor], Tensor]) -> Tensor:
    """Motion, in whole steps, that is worth its bits: a few steps of gradient descent from ``motion`` or from none.

    Args:
        cost: in bits, of motion.
    """
    tried = []
    with torch.enable_grad():
        values = motion.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([values], REFINING_RATE, betas=(0.8, 0.95))
        for step in range(REFINING_STEPS + 1):
            rounded = values + (torch.round(values / MOTION_STEP) * MOTION_STEP - values).detach()
            total = cost(rounded) + price(values).sum()
            tried.append((float(total.detach()), rounded.detach()))
            if step < REFINING_STEPS:
                optimiser.zero_grad()
                total.backward()
                optimiser.step()
    with torch.no_grad():
        still = torch.zeros_like(motion)
        tried.append((float(cost(still)), still))
    return min(tried, key=lambda each: each[0])[1]


__all__ = ["MOTION_STEP", "fitted", "match", "moved"]
