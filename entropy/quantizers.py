"""Scalar quantization of a latent: a differentiable stand-in while training, rounding when coding.

* additive noise: Ballé, Laparra, Simoncelli 2017, https://arxiv.org/abs/1611.01704
* straight-through rounding: Theis et al. 2017, https://arxiv.org/abs/1703.00395
* mixed (noise for the rate, rounding for the distortion): Minnen & Singh 2020, https://arxiv.org/abs/2007.08739
* soft rounding: Agustsson & Theis 2020, https://arxiv.org/abs/2006.09952. Differs in that the reconstruction is the soft-rounded noisy
  latent itself, without the conditional-mean correction.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

SYMBOL_LIMIT = 2**30  # symbols are int32; a value beyond this comes from a broken input, and is clamped

Mode = Literal["noise", "straight_through", "mixed", "soft"]


class Quantized(NamedTuple):
    values: Tensor  # what the synthesis transform sees, same shape as the latent
    symbols: Tensor  # int32, same shape: what is coded
    proxy: Tensor  # what the rate is computed on: latent minus mean, noisy while training, equal to the symbols when coding


def round_straight_through(x: Tensor) -> Tensor:
    """``round(x)`` whose gradient is that of the identity."""
    return x + (torch.round(x) - x).detach()


def soft_round(x: Tensor, alpha: float) -> Tensor:
    """A smooth step function: the identity for ``alpha`` → 0, rounding for ``alpha`` → ∞."""
    centre = torch.floor(x) + 0.5
    return centre + 0.5 * torch.tanh(alpha * (x - centre)) / math.tanh(alpha / 2)


class ScalarQuantizer(nn.Module):
    """Round ``y - mean`` to integers.

        y ──(−)──round──► symbols ──(+)──► values
             ▲                       ▲
            mean ────────────────────┘

    Args:
        mode: what stands in for rounding while training. Evaluation always rounds.
        alpha: sharpness of ``"soft"``; a trainer may anneal it (usual range 1 … 12).

    Steps other than one are the caller's gain on ``y``. NaN counts as 0, so that no input can produce an undefined symbol.
    """

    def __init__(self, mode: Mode = "mixed", alpha: float = 4.0):
        super().__init__()
        if mode not in ("noise", "straight_through", "mixed", "soft"):
            raise ValueError(f"unknown quantizer mode {mode!r}")
        self.mode = mode
        self.alpha = alpha

    def forward(self, y: Tensor, mean: Tensor | None = None) -> Quantized:
        residual = y if mean is None else y - mean
        if not self.training:
            rounded = torch.round(torch.nan_to_num(residual)).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT)
            return Quantized(self.dequantize(rounded, mean), rounded.int(), rounded)
        noise = torch.rand_like(residual) - 0.5
        if self.mode == "straight_through":
            proxy = values = round_straight_through(residual)
        elif self.mode == "soft":
            softened = soft_round(residual, self.alpha) + noise
            proxy = values = soft_round(softened, self.alpha)
        else:
            proxy = residual + noise
            values = round_straight_through(residual) if self.mode == "mixed" else proxy
        return Quantized(self.dequantize(values, mean), torch.round(residual.detach()).int(), proxy)

    @staticmethod
    def dequantize(symbols: Tensor, mean: Tensor | None = None) -> Tensor:
        """Symbols (any dtype) back to the latent's domain."""
        values = symbols.to(torch.float32 if mean is None else mean.dtype)
        return values if mean is None else values + mean
