"""Fitting a function to a picture: gradient descent on R + λD, with R of what the file will hold.

    latents ──soft rounding──► ŷ ──┐
    weights ──rounding───────► ŵ ──┴─function─► picture ──► D
                    └──────────────► bits of the tables ──► R

Latents are rounded softly at first, with noise, ever sharper (Agustsson and Theis 2020, https://arxiv.org/abs/2006.09952; Kim et al. 2023
(C3), https://arxiv.org/abs/2312.02753, section 3.2), then exactly, with the gradient of the identity. Differs from C3 in that latents start
as a transform of the picture, weights as those of a trained function, and in that what is coded of a weight is its difference from that,
quantized while fitting, with steps and scales that are learned. Bands that have become zero are left out of the rest of the fit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from neuralcodec.codecs.image.overfitted_function import PictureFunction
from neuralcodec.codecs.image.tiles import Report, nothing
from neuralcodec.entropy.laplace import index_of
from neuralcodec.entropy.models import BITS_PER_SQUARED_STEP
from neuralcodec.entropy.weights import EXACT, STEPS_PER_OCTAVE, Rounding, WeightCoder

PEAK = 255.0
AT_ONCE = 2**15  # pixels that each step draws of functions that can draw some alone
SIGN_AND_SIZE = 2.0  # bits of a symbol of which it is known that it is not zero
BETAS, EPSILON = (0.9, 0.99), 1e-8  # of Adam
UNCHANGED = 0.25  # standard deviation in steps that is assumed of a weight's difference before anything is known of it
LEAST_WEIGHT = 0.02  # of a tensor's root mean square, by which its steps are chosen
STEPS_OF_WEIGHT = 24.0  # to a tensor's root mean square
CHECKS = (0.05, 0.15, 0.3, 0.5, 0.7)  # parts of the fit after which bands that are zero are left out


class Plan(NamedTuple):
    """How long and how fast a function is fitted.

    It ends after ``seconds`` or ``steps``, whichever comes first; learning rates of weights, of latents (in steps of quantization) and of side information (in its
    integers); ``exact``: the share of the fit, at its end, with exact rounding; ``sharpness`` of soft rounding at the start and before that.
    """

    seconds: float | None = None
    steps: int | None = 300
    weights: float = 1e-3
    latents: float = 0.05
    side: float = 0.05
    exact: float = 0.15
    sharpness: tuple[float, float] = (3.0, 10.0)
    slowest: float = 0.02  # of the learning rates, at the end


DEFAULT = Plan()


class Piece(nn.Module):
    """A function, and how the difference of its weights from those that a decoder knows is coded."""

    def __init__(self, network: PictureFunction):
        super().__init__()
        self.network = network
        self.base = {name: value.detach().clone() for name, value in network.named_parameters()}
        self.coder = WeightCoder({name: value.shape for name, value in self.base.items()}, per_axis=2**30)
        with torch.no_grad():
            for number, (name, value) in enumerate(self.base.items()):
                step = network.precision(name) or max(float(value.square().mean().sqrt()), LEAST_WEIGHT) / STEPS_OF_WEIGHT
                self.coder.steps[number] = round(STEPS_PER_OCTAVE * math.log2(step))
                self.coder.scales[number] = round(index_of(UNCHANGED))

    def differences(self) -> dict[str, Tensor]:
        return {name: value - self.base[name] for name, value in self.network.named_parameters()}

    def whole(self, differences: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Undo :meth:`differences`."""
        return {name: self.base[name] + value for name, value in differences.items()}


class Fit:
    """One picture being fitted, step by step.

    Args:
        piece: whose weights move; without coding them if ``coded`` is false.
        picture: (3, H, W) in 0…1.
        lmbda: bits per pixel and unit of mean squared error on a 0…255 scale.
    """

    def __init__(self, piece: Piece, picture: Tensor, lmbda: float, plan: Plan = DEFAULT, seed: int = 0, coded: bool = True):
        self.piece, self.picture, self.lmbda, self.plan, self.coded = piece, picture, lmbda, plan, coded
        self.height, self.width = picture.shape[1:]
        network = piece.network
        self.latents = [latent.requires_grad_(True) for latent in network.start(picture, lmbda)]
        self.active = [list(range(len(latent))) for latent in self.latents]
        groups = [{"params": list(piece.coder.parameters()), "speed": plan.side}, {"params": self.latents, "speed": plan.latents}]
        for name, parameter in network.named_parameters():
            groups.append({"params": [parameter], "speed": plan.weights * network.speed(name)})
        self.optimiser = torch.optim.Adam(groups, betas=BETAS, eps=EPSILON, fused=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.done, self.spent, self.checked = 0, 0.0, 0
        self.bpp, self.error = math.nan, math.nan
        self._leave_out()

    @property
    def progress(self) -> float:
        """0…1."""
        of_steps = self.done / max(self.plan.steps, 1) if self.plan.steps is not None else 0.0
        of_seconds = self.spent / max(self.plan.seconds, 1e-3) if self.plan.seconds is not None else 0.0
        return 1.0 if self.plan.steps == 0 else max(of_steps, of_seconds)

    def run(self, report: Report = nothing) -> None:
        """To the end of the plan."""
        while self.progress < 1:
            self.step()
            total = max(self.done, round(self.done / max(self.progress, 1e-9)))
            left = self.spent / self.done * (total - self.done)
            psnr = -10 * math.log10(max(self.error, 1e-10))
            report(self.done, total, f"{self.bpp:.4f} bpp, {psnr:.2f} dB, {int(left) // 60}:{int(left) % 60:02} left")

    def step(self) -> None:
        began = time.monotonic()
        progress = self.progress
        rounding, of_weights = self._roundings(progress)
        network = self.piece.network
        network.advance(progress)
        picture, options = self.picture, {}
        if network.pointwise:
            stride = max(1, round(math.sqrt(self.height * self.width / AT_ONCE)))
            row, column = (int(torch.randint(stride, (1,), generator=self.generator)) for _ in range(2))
            picture, options = picture[:, row::stride, column::stride], {"every": (row, column, stride)}
        if self.coded:
            weights = self.piece.coder(self.piece.differences(), of_weights)
            values, bits = self.piece.whole(weights.values), weights.bits
        else:
            values, bits = dict(network.named_parameters()), torch.zeros(())
        drawn = functional_call(network, values, (self.latents, self.height, self.width, rounding, self.active), options)
        error = (drawn.picture - picture).square().mean()
        rate = (drawn.bits + bits) / (self.height * self.width)
        self.optimiser.zero_grad(set_to_none=True)
        (rate + self.lmbda * PEAK**2 * error).backward()
        slow = min(1.0, 0.1 + progress / 0.03) * (self.plan.slowest + (1 - self.plan.slowest) * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self.optimiser.param_groups:
            group["lr"] = group["speed"] * slow
        self.optimiser.step()
        self.done += 1
        self.spent += time.monotonic() - began
        self.bpp, self.error = float(rate.detach()), float(error.detach())
        while self.checked < len(CHECKS) and self.progress >= CHECKS[self.checked]:
            self.checked += 1
            self._leave_out()

    def _roundings(self, progress: float) -> tuple[Rounding, Rounding]:
        """Of latents and of weights."""
        soft = 1 - self.plan.exact
        if progress >= soft:
            return EXACT, EXACT
        low, high = self.plan.sharpness
        return Rounding(low * (high / low) ** (progress / soft)), Rounding(share=0.0, mixed=True)

    @torch.no_grad()
    def _leave_out(self) -> None:
        """Bands whose symbols cost more than they are worth, if alone."""
        for latent, active in zip(self.latents, self.active):
            for channel in list(active):
                size = latent[channel].abs()
                symbols = torch.round(size)
                count = int((symbols > 0).sum())
                worth = BITS_PER_SQUARED_STEP * float((size.square() - (size - symbols).square()).sum())
                if worth <= count * (math.log2(max(size.numel() / max(count, 1), 2.0)) + SIGN_AND_SIZE):
                    latent[channel] = 0
                    active.remove(channel)


def fit(piece: Piece, picture: Tensor, lmbda: float, plan: Plan = DEFAULT, report: Report = nothing, seed: int = 0) -> list[Tensor]:
    """Latents in steps, fitted together with the piece's weights to a picture (3, H, W) in 0…1."""
    fitting: Any = Fit(piece, picture, lmbda, plan, seed)
    fitting.run(report)
    return [latent.detach() for latent in fitting.latents]


__all__ = ["DEFAULT", "Fit", "Piece", "Plan", "fit"]
