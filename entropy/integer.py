"""Integer-exact layers: the arithmetic that picks probability tables, the same on every machine.

A range decoder that disagrees with its encoder about one table loses the rest of the file, and floating-point convolutions do disagree
between libraries, thread counts and devices. These layers compute on integers only: int8-range weights, int8- or uint8-range
activations, a power-of-two rescale, held in floating-point tensors whose every partial sum stays below 2^24 (float32's exact range). Every
order of summation then gives the same result. Training runs the very same arithmetic, with straight-through rounding.

After Ballé, Johnston, Minnen 2019, "Integer networks for data compression with latent-variable models",
https://openreview.net/forum?id=S1zz2i0cY7. Differs in power-of-two scales fixed per layer instead of learned divisors, and in needing no
integer kernels.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.entropy.quantizers import round_straight_through

EXACT = 2**24  # float32 represents every integer up to here
WEIGHT_LIMIT = 127
RANGES: dict[str, tuple[int, int]] = {"int8": (-127, 127), "uint8": (0, 255)}

Activation = Literal["int8", "uint8", "none"]


class BoundedIdentity(torch.autograd.Function):
    """``clamp`` that still lets a gradient through where it points back into the range."""

    @staticmethod
    def forward(ctx, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((x < low), (x > high))
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        (gradient,) = gradients
        below, above = ctx.saved_tensors
        # A descent step moves against the gradient: below the range only negative gradients lead back, above it only positive ones.
        blocked = (below & (gradient > 0)) | (above & (gradient < 0))
        return gradient.masked_fill(blocked, 0.0), None, None


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    return BoundedIdentity.apply(x, low, high) if torch.is_grad_enabled() else x.clamp(low, high)


class IntegerConv2d(nn.Module):
    """Convolution on integers, then a rounded division by a power of two, then a clamp that is also the nonlinearity.

        integers (B, C, H, W) ──conv with round(weight · 2^w)──(+ bias)──(÷ 2^shift, round)──clamp──► integers

    Values are integers in floating-point tensors. Written as real numbers they carry ``fraction_in`` and ``fraction_out`` fractional
    bits, so ``weight`` and ``bias`` live on an ordinary scale and ordinary optimisers work.

    Args:
        activation: ``uint8`` clamps to 0…255 (a ReLU), ``int8`` to ±127 (linear in between), ``none`` leaves the sum as it is, unshifted,
            for a caller who still adds to it.
        activation_in: the range of the integers coming in; the 2^24 bound is derived from it.
        weight_fraction: weights are multiples of 2^-weight_fraction, within ±127 of them.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 1,
        *,
        activation: Activation,
        activation_in: Activation = "int8",
        fraction_in: int = 4,
        fraction_out: int = 4,
        weight_fraction: int = 6,
    ):
        super().__init__()
        self.activation = activation
        self.activation_in = activation_in
        self.fraction_in = fraction_in
        self.weight_fraction = weight_fraction
        self.fraction_sum = fraction_in + weight_fraction  # fractional bits of the accumulator
        self.shift = self.fraction_sum - fraction_out
        self.padding = kernel // 2
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        nn.init.normal_(self.weight, std=(2.0 / (channels_in * kernel * kernel)) ** 0.5)

    def integer_weight(self) -> Tensor:
        return bounded(round_straight_through(self.weight * 2**self.weight_fraction), -WEIGHT_LIMIT, WEIGHT_LIMIT)

    def integer_bias(self) -> Tensor:
        return round_straight_through(self.bias * 2**self.fraction_sum)

    def accumulate(self, x: Tensor) -> Tensor:
        """The exact sum, with ``fraction_sum`` fractional bits."""
        with torch.autocast(x.device.type, enabled=False):  # half precision has too few bits for the sums
            return F.conv2d(x, self.integer_weight().to(x.dtype), self.integer_bias().to(x.dtype), padding=self.padding)

    def forward(self, x: Tensor) -> Tensor:
        total = self.accumulate(x)
        if self.activation == "none":
            return total
        return bounded(round_half_up(total, self.shift), *RANGES[self.activation])

    @torch.no_grad()
    def largest_sum(self) -> int:
        """The largest magnitude that any partial sum can reach, over all inputs in range and all orders of summation."""
        largest_input = max(-RANGES[self.activation_in][0], RANGES[self.activation_in][1])
        per_output = self.integer_weight().abs().double().sum((1, 2, 3)) * largest_input + self.integer_bias().abs().double()
        return int(per_output.max())

    def check_exact(self, margin: int = 0) -> None:
        """Raise ``ValueError`` if a sum, plus ``margin`` that a caller adds, could leave the range that float32 holds exactly."""
        if (largest := self.largest_sum() + margin + 2 ** max(self.shift - 1, 0)) >= EXACT:
            raise ValueError(f"an integer layer could sum to {largest}, beyond the exact range of {EXACT}: train with smaller weights")


def round_half_up(total: Tensor, shift: int) -> Tensor:
    """``floor(total / 2^shift + 1/2)``: exact on integers below 2^24 (the product is a change of exponent), straight-through gradient."""
    scaled = total * 2.0**-shift
    return scaled + (torch.floor(scaled + 0.5) - scaled).detach()
