"""Fitting a network and its latents to a group of pictures: gradient descent on R + λD, with R of what the file will hold.

    latents ──soft rounding──► ŷ ──┐
    weights ──soft rounding──► ŵ ──┴─network─► pictures ──► D
                    └──────────────► bits of the tables ──► R

Quantization is soft at first, with noise, ever sharper (Agustsson and Theis 2020, https://arxiv.org/abs/2006.09952; Kim et al. 2023 (C3),
https://arxiv.org/abs/2312.02753), then exact, with the gradient of the identity, for latents, and for a growing share of the weights
(Fan et al. 2020, https://arxiv.org/abs/2004.07320; so NVRC, https://arxiv.org/abs/2409.07414).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from neuralcodec.codecs.video.networks import VideoNetwork
from neuralcodec.entropy.grids import KEEP_UNIT, GridCoder, Window
from neuralcodec.entropy.weights import EXACT, Rounding, WeightCoder

PLANE_WEIGHTS = (3 / 16,) * 4 + (1 / 8,) * 2  # of the squared errors: Y counts six times as much as U and V
PEAK = 255.0
BETAS, EPSILON = (0.9, 0.99), 1e-8  # of Adam

Report = Callable[[int, int, str], None]  # steps done, of how many, how good it is


def nothing(done: int, of: int, state: str) -> None:
    """Reports to nobody."""


class Plan(NamedTuple):
    """How a group of pictures is fitted.

    ``steps``, or ``seconds`` if given, of which each sees ``batch`` frames; learning rates of weights, latents (in steps of quantization)
    and side information (in its integers); ``exact``: the share of the fit, at its end, with exact rounding. ``sharpness`` of soft rounding
    at the start and where that ends; without it, values are rounded exactly from the start, and only their rate is that of unrounded ones.
    """

    steps: int = 2000
    seconds: float | None = None
    batch: int = 4
    weights: float = 1e-3
    latents: float = 0.01
    side: float = 0.05
    exact: float = 0.2
    sharpness: tuple[float, float] | None = None


DEFAULT = Plan()


class Rows:
    """Adam on latents of which each step touches a few rows: no row moves while nothing is known of it."""

    def __init__(self, values: Tensor):
        self.values = values
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)
        self.count = torch.zeros(len(values))

    def window(self, first: int, end: int) -> tuple[Tensor, Window]:
        """A leaf with rows ``first … end - 1``, and the same behind the two before."""
        leaf = self.values[first:end].clone().requires_grad_(True)
        before = self.values[max(first - 2, 0) : first]
        return leaf, Window(torch.cat((before, leaf)), len(before))

    @torch.no_grad()
    def step(self, first: int, gradient: Tensor, rate: float) -> None:
        rows = slice(first, first + len(gradient))
        self.count[rows] += 1
        mean = self.mean[rows].lerp_(gradient, 1 - BETAS[0])
        square = self.square[rows].lerp_(gradient.square(), 1 - BETAS[1])
        count = self.count[rows].reshape(-1, 1, 1, 1).to(gradient)
        size = rate * (1 - BETAS[1] ** count).sqrt() / (1 - BETAS[0] ** count)
        self.values[rows] -= size * mean / (square.sqrt() + EPSILON)


class Piece(nn.Module):
    """Everything that a group of pictures is: a network, its latents, and how both are coded.

    What is coded of the weights is their difference to those that the network comes with, which a decoder knows: its initial ones, or
    those of the group before.

    Args:
        frames, height, width: of the group, in pixels of luma.
    """

    def __init__(self, network: VideoNetwork, frames: int, height: int, width: int):
        super().__init__()
        self.network = network
        self.frames, self.height, self.width = frames, height, width
        self.vectors = nn.Parameter(torch.zeros(frames, network.vector))
        self.grid_shapes = network.shapes(frames, height, width)
        self.grids = GridCoder(self.grid_shapes)
        self.base = {name: value.detach().clone() for name, value in self.tensors().items()}
        self.weights = WeightCoder({name: value.shape for name, value in self.base.items()})

    def tensors(self) -> dict[str, Tensor]:
        """What is coded as weights, by name."""
        network: dict[str, Tensor] = dict(self.network.named_parameters())
        return {**network, "vectors": self.vectors} if self.vectors.numel() else network

    def differences(self) -> dict[str, Tensor]:
        """What the weight coder codes, by name."""
        return {name: value - self.base[name] for name, value in self.tensors().items()}

    def whole(self, differences: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Undo :meth:`differences`."""
        return {name: self.base[name] + value for name, value in differences.items()}

    def draw(self, tensors: Mapping[str, Tensor], latents: Sequence[Tensor], firsts: Sequence[int], frames: Tensor) -> Tensor:
        """Pictures (frames, 6, …) from decoded weights and latents, the latter rows from ``firsts`` on."""
        network = {name: value for name, value in tensors.items() if name != "vectors"}
        return functional_call(
            self.network, network, (latents, firsts, tensors.get("vectors", self.vectors), frames, self.height, self.width)
        )


class Fitted(NamedTuple):
    piece: Piece
    latents: list[Tensor]  # in steps


def start(piece: Piece, pictures: Tensor, lmbda: float) -> list[Tensor]:
    """Initial latents in steps, and the steps: such that a step costs as much error as it saves bits, where few are zero.

    Args:
        lmbda: bits per pixel and unit of mean squared error on a 0…255 scale.
    """
    step = math.sqrt(6 / math.log(2) / lmbda) / PEAK  # D = step² / 12 of a sample, R = -log2(step)
    latents = []
    for number, begun in enumerate(piece.network.initial(pictures, piece.height, piece.width, step)):
        nn.init.constant_(piece.grids.steps[number], begun.exponent)
        nn.init.constant_(piece.grids.keeps[number], KEEP_UNIT if begun.keep else 0)
        latents.append(begun.latent)
    return latents


def fit(piece: Piece, pictures: Tensor, lmbda: float, plan: Plan = DEFAULT, report: Report = nothing, seed: int = 0) -> Fitted:
    """A piece fitted to pictures (frames, 6, ⌈H/2⌉, ⌈W/2⌉) in 0…1."""
    latents = [Rows(latent) for latent in start(piece, pictures, lmbda)]
    tensors: list[Any] = list(piece.tensors().values())
    side = [*piece.weights.parameters(), *(each for each in piece.grids.parameters() if each.requires_grad)]
    optimiser = torch.optim.Adam([{"params": tensors}, {"params": side}], betas=BETAS)
    pixels = piece.height * piece.width
    batch = min(plan.batch, piece.frames)
    generator = torch.Generator().manual_seed(seed)
    planes = torch.tensor(PLANE_WEIGHTS).reshape(-1, 1, 1)
    visits = _visits(piece, batch)
    began, done = time.monotonic(), 0
    queue: list[tuple[int, int]] = []
    error = rate = 0.0
    while (progress := _progress(plan, done, began)) < 1:
        rounding, rounding_weights = _roundings(plan, progress)
        slow = _schedule(progress)
        queue = queue or _batches(piece.frames, batch, generator)
        begin, end = queue.pop()
        frames = torch.arange(begin, end)
        spans = piece.network.spans(begin, end, piece.frames)
        leaves, windows = [], []
        for rows, (first, last) in zip(latents, spans):
            leaf, window = rows.window(first, last)
            leaves.append(leaf)
            windows.append(window)
        coded = piece.grids(windows, rounding)
        weights = piece.weights(piece.differences(), rounding_weights)
        drawn = piece.draw(piece.whole(weights.values), [each.values for each in coded], [first for first, _ in spans], frames)
        squares = ((drawn - pictures[begin:end]).square() * planes).sum((1, 2, 3)) / (pixels / 4)
        bits = weights.bits + piece.grids.side_bits()
        for each, often, (first, last) in zip(coded, visits, spans):
            bits = bits + (each.bits / often[first:last]).sum()
        loss = bits / (piece.frames * pixels) + lmbda * PEAK**2 * squares.mean()
        gradients = torch.autograd.grad(loss, [*leaves, *tensors, *side])
        for rows, (first, _), gradient in zip(latents, spans, gradients):
            rows.step(first, gradient, plan.latents * slow)
        for parameter, gradient in zip([*tensors, *side], gradients[len(leaves) :]):
            parameter.grad = gradient
        optimiser.param_groups[0]["lr"], optimiser.param_groups[1]["lr"] = plan.weights * slow, plan.side * slow
        optimiser.step()
        done += 1
        error += (float(squares.detach().mean()) - error) * max(0.05, 1 / done)
        rate += (float(bits.detach()) / (piece.frames * pixels) - rate) * max(0.05, 1 / done)
        total = plan.steps if plan.seconds is None else max(done, round(done / max(_progress(plan, done, began), 1e-9)))
        report(done, total, f"{rate:.4f} bpp, {-10 * math.log10(max(error, 1e-10)):.2f} dB")
    return Fitted(piece, [rows.values for rows in latents])


def _progress(plan: Plan, done: int, began: float) -> float:
    if plan.seconds is None:
        return done / plan.steps if plan.steps else 1.0
    return (time.monotonic() - began) / plan.seconds


def _schedule(progress: float) -> float:
    """Factor on the learning rates: a quick rise, then a cosine."""
    return min(1.0, progress / 0.02 + 0.05) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def _roundings(plan: Plan, progress: float) -> tuple[Rounding, Rounding]:
    """Of latents and of weights."""
    soft = 1 - plan.exact
    if progress < soft:
        if plan.sharpness is None:
            return Rounding(mixed=True), Rounding(mixed=True)
        low, high = plan.sharpness
        rounding = Rounding(low * (high / low) ** (progress / soft))
        return rounding, rounding
    return EXACT, Rounding(share=0.5 + 0.5 * min(1.0, (progress - soft) / plan.exact * 2))


def _batches(frames: int, batch: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Runs of neighbouring frames that cover all, from a random offset, in random order."""
    runs = _runs(frames, batch, int(torch.randint(batch, (1,), generator=generator)) if frames > batch else 0)
    return [runs[each] for each in torch.randperm(len(runs), generator=generator).tolist()]


def _runs(frames: int, batch: int, offset: int) -> list[tuple[int, int]]:
    edges = sorted({0, *range(offset, frames, batch), frames})
    return list(itertools.pairwise(edges))


def _visits(piece: Piece, batch: int) -> list[Tensor]:
    """How often a step sees each row of each grid, on average: what it sees of the rate stands for so much more."""
    counts = [torch.zeros(shape.rows) for shape in piece.grid_shapes]
    offsets = batch if piece.frames > batch else 1
    for offset in range(offsets):
        runs = _runs(piece.frames, batch, offset)
        for begin, end in runs:
            for count, (first, last) in zip(counts, piece.network.spans(begin, end, piece.frames)):
                count[first:last] += 1 / len(runs) / offsets
    return counts


__all__ = ["DEFAULT", "Fitted", "Piece", "Plan", "Report", "fit", "nothing"]
