"""Encoder effort: the latent of one image, improved by gradient descent on the bits and the error that this image ends up with.

    y ──draw between the two nearest integers──► ŷ ──g_s──► x̂
    ▲                                            └──► bits of the tables that code it
    └────────── gradient of R + λD ◄─────────────┘

Stochastic Gumbel annealing: Yang, Bamler, Mandt 2020, https://arxiv.org/abs/2006.04240, section 3.2. Differs in that an integer's chance
follows from what it costs, in bits of the coder's own tables and in error, instead of from its distance alone (where 25 steps with the
paper's draw lost 0.7 % of R + λD of a crop, as many with this one gained 0.8 %); in the rate, which is the expected cost of the draw in
these tables; and in that side information stays as analysed. The coder's own rate–distortion optimised rounding has the last word.
Decoder and file format know nothing of any of this.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neuralcodec.codecs.base import Compressed
from neuralcodec.codecs.image import regions
from neuralcodec.codecs.image.hyperprior import ImageCodec, Side
from neuralcodec.codecs.image.tiles import Report, nothing
from neuralcodec.entropy.integer import bounded
from neuralcodec.entropy.models import BITS_PER_SQUARED_STEP

STEPS = (0, 10, 25, 50, 100, 200)  # of gradient descent, by effort
PATH, FASTEST = 7.0, 0.1  # Adam's learning rates: quantization steps to go in all, and at most in one step
TEMPERATURES = (4.0, 2.0)  # bits; at the first and the last step, falling geometrically


def compress(codec: ImageCodec, x: Tensor, level: float, steps: int, weight: Tensor | None = None, report: Report = nothing) -> Compressed:
    """One image (1, 3, H, W) in 0…1 to streams of bytes, never with a larger R + λD than :meth:`ImageCodec.compress` gives.

    The same image gives the same bytes each time on the same machine.

    Args:
        steps: of gradient descent.
        weight: how much errors count, (1, 1, H, W); 1 everywhere if omitted.
        report: told after every step.
    """
    coarse = None if weight is None else regions.on_grid(weight, codec)
    plain = codec.compress(x, level, coarse)
    if not steps:
        return plain
    at = torch.full((1,), float(level), device=x.device)
    with torch.no_grad():  # inference mode would make tensors that no gradient may touch
        y = codec.analyse(x, at)
        side = codec.side(y, at, coarse)
    coarse = torch.ones_like(y[:, :1]) if coarse is None else coarse
    improved = _descend(codec, x, y, side, at, steps, weight, coarse, report)
    with torch.inference_mode():
        refined = codec.code_latent(improved, at, coarse, side)
    return min(plain, refined, key=lambda coded: cost(codec, x, coded, level, weight))


@torch.inference_mode()
def cost(codec: ImageCodec, x: Tensor, coded: Compressed, level: float, weight: Tensor | None = None) -> float:
    """R + λD of streams, in bits: of real bytes and 8-bit pixels."""
    x_hat = codec.decompress(coded.streams, (x.shape[-2], x.shape[-1]), level).signal
    squares = (torch.round(x_hat.clamp(0, 1) * 255) - x * 255).square()
    error = float((squares if weight is None else squares * weight).sum()) / x.shape[1]
    return 8 * sum(map(len, coded.streams)) + float(codec.lmbda(torch.tensor(level))) * error


@torch.enable_grad()
def _descend(
    codec: ImageCodec,
    x: Tensor,
    y: Tensor,
    side: Side,
    level: Tensor,
    steps: int,
    weight: Tensor | None,
    coarse: Tensor,
    report: Report,
) -> Tensor:
    """A latent like ``y`` that codes to less R + λD; ``coarse`` is ``weight`` on the latent's grid."""
    height, width = x.shape[-2:]
    lmbda = float(codec.lmbda(level)) * 255**2 / x.shape[1]  # bits per squared error of a sample in 0…1
    y = y.clone().requires_grad_(True)
    rate = min(PATH / steps, FASTEST)
    optimiser = torch.optim.Adam([y], rate)
    draw = Annealing(y.device)
    for step in range(steps):
        progress = step / max(steps - 1, 1)
        draw.temperature = TEMPERATURES[0] * (TEMPERATURES[1] / TEMPERATURES[0]) ** progress
        optimiser.param_groups[0]["lr"] = rate / (3 if progress > 2 / 3 else 1)  # settles in the end
        relaxed = codec.relax(y, side, draw, coarse)
        squares = (bounded(codec.synthesise(relaxed.values, level, height, width), 0, 1) - x).square()
        error = (squares if weight is None else squares * weight).sum()
        (y.grad,) = torch.autograd.grad(relaxed.bits + lmbda * error, y)  # of nothing else: weights may be shared with a trainer
        optimiser.step()
        psnr = -10 * math.log10(max(float(squares.detach().mean()), 1e-10))
        report(step + 1, steps, f"{float(relaxed.bits.detach()) / (height * width):.3f} bpp, {psnr:.2f} dB")
    return y.detach()


class Annealing:
    """Draws one of the two integers next to a residual, by what each costs in bits and error, as a point close to it: differentiable.

    The chances are Boltzmann's: the lower the temperature, the more certain the better integer, until this is the coder's own rounding.
    """

    def __init__(self, device: torch.device):
        self.temperature = TEMPERATURES[0]
        self.random = torch.Generator(device).manual_seed(0)

    def __call__(self, residual: Tensor, below: Tensor, low: Tensor, high: Tensor, weight: Tensor) -> Tensor:
        part = residual - below
        saved = low - high + BITS_PER_SQUARED_STEP * weight * (2 * part - 1)  # by the integer above; part² - (1 - part)² = 2 part - 1
        noise = torch.rand(residual.shape, generator=self.random, device=residual.device).clamp(1e-7, 1 - 1e-7)
        return torch.sigmoid(saved / self.temperature + torch.logit(noise))  # two Gumbels differ by a logistic


__all__ = ["STEPS", "compress", "cost"]
