"""Fitting latents that are integers all the time: every sweep over the clip sets each where error and bits together are least.

    pictures ◄─network─ q ──► gradient of the error ──► y = q - gradient / 2 curvature ──► q: the integer near y that is worth its bits

A descent of small steps needs thousands to move a latent by one, and most are zero in the end. Where a latent changes the pictures about
linearly, its best integer follows from gradient and curvature: Newton's method, with rounding in it (iterative hard thresholding:
Blumensath and Davies 2008, https://doi.org/10.1007/s00041-008-9035-z). Curvature is that of Gauss and Newton, of which random pictures
give the diagonal (Hutchinson's estimate: Bekas, Kokiopoulou, Saad 2007, https://doi.org/10.1016/j.apnum.2007.01.003): it tells what a
picture is worth to all that are made of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralcodec.codecs.video.fit import PEAK, PLANE_WEIGHTS, Fitting, Moments, roundings, schedule, squared_error
from neuralcodec.entropy.laplace import laplace_bits

AT_ONCE = 2**22  # pixels that are drawn together: key pictures before them are drawn anew for every run
PROBES = 2  # random pictures for the curvature
AROUND = 7  # latents on each side of the square in which it is averaged
LEAST = 0.1  # of the mean curvature of a row, that each latent has
PACE = 0.3  # of the way to where Newton's method would go: latents of several pictures correct the same error
RATE = 0.05  # of the descent of other latents, in steps
ACTIVE = 0.35  # latents farther from zero are looked at
NEAR = (5, 1, 2)  # window, stride and padding of the square in which changes of gradients are compared
WORSE = 1.2  # a cost that is so many times the best one is given up
CAREFUL = 1.5  # by which curvatures are taken for larger at first, and whenever a cost was given up
MOST, FORGETTING = 8.0, 0.9  # by which a curvature grows in a sweep at most, and of which it keeps what it is above the estimate


class Best(NamedTuple):
    cost: float
    latents: list[Tensor]
    parameters: list[Tensor]


class Sweeping(Fitting):
    """A fit under way of a network whose pictures depend almost linearly on its latents."""

    def prepare(self) -> None:
        self.exact = [values.clone() for values in self.latents]  # where Newton's method is, of which `latents` are the integers
        self.gradients = [torch.zeros_like(values) for values in self.latents]
        self.runs = _together(self.piece.network.runs(self.piece.frames), AT_ONCE // (self.piece.height * self.piece.width))
        self.pixels = self.piece.frames * self.piece.height * self.piece.width
        self.total = 0.0
        self.best = Best(math.inf, [], [])
        self.moments = {number: Moments(values) for number, values in enumerate(self.latents) if not self.piece.network.linear[number]}
        self.earlier: dict[int, tuple[Tensor, Tensor]] = {}
        self.measured = self._curvatures() if self.plan.steps or self.plan.seconds else []
        self.curvatures = [CAREFUL * curvature for curvature in self.measured]
        if self.measured and any((values != torch.round(values)).any() for values in self.latents):
            chosen = self.piece.grids.choose(self.exact, self.measured)
            self.latents = [
                each if linear else torch.round(exact) for each, exact, linear in zip(chosen, self.exact, self.piece.network.linear)
            ]

    def step(self, progress: float) -> None:
        """With the frames of one run; after the last one, latents move."""
        self.queue = self.queue or list(self.runs)
        begin, end = self.queue.pop()
        self.counted = sum(begin <= first < end for first, _ in self.piece.network.runs(self.piece.frames))
        weights = self.piece.weights(self.piece.differences(), roundings(self.plan, progress)[1])
        leaves, spans, drawn = self._drawn(begin, end, weights.values)
        error = squared_error(drawn, self.pictures[begin:end]) * ((end - begin) / self.piece.frames)
        loss = self.lmbda * PEAK**2 * self.pixels * error + weights.bits / len(self.runs)
        gradients = torch.autograd.grad(loss, [*leaves, *self.tensors, *self.side], allow_unused=True)
        for total, (first, last), gradient in zip(self.gradients, spans, gradients):
            if gradient is not None:
                total[first:last] += gradient
        for parameter, gradient in zip([*self.tensors, *self.side], gradients[len(leaves) :]):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        self.total += float(error.detach())
        if self.queue:
            return
        self.error, self.total = self.total, 0.0
        self.rate = self._rate() + float(weights.bits.detach()) / self.pixels
        cost = self.rate + self.lmbda * PEAK**2 * self.error
        if cost < self.best.cost:
            self.best = self._kept(cost)
        if cost > self.best.cost * WORSE:  # too fast, as latents that a picture shares went the same way
            for number in range(len(self.latents)):
                self._learn(number)
            self.finish()
            self.exact = [values.clone() for values in self.latents]
            self.earlier = {}
            self.curvatures = [CAREFUL * curvature for curvature in self.curvatures]
            for gradient in self.gradients:
                gradient.zero_()
            self.optimiser.zero_grad()
            return
        self._move(schedule(progress))
        self.descend(schedule(progress))

    def finish(self) -> None:
        """Back to the best that there was."""
        if math.isfinite(self.best.cost):
            self.latents = [values.clone() for values in self.best.latents]
            with torch.no_grad():
                for parameter, values in zip([*self.tensors, *self.side], self.best.parameters):
                    parameter.copy_(values)

    def _kept(self, cost: float) -> Best:
        parameters = [parameter.detach().clone() for parameter in [*self.tensors, *self.side]]
        return Best(cost, [values.clone() for values in self.latents], parameters)

    def _rate(self) -> float:
        """Bits per pixel of latents, by the tables themselves, and of their side information."""
        bits = float(self.piece.grids.side_bits().detach()) + self.piece.grids.latent_bits(self.latents, self.indexes)
        return bits / self.pixels

    @torch.no_grad()
    def bits(self) -> float:
        """Of the file, as far as it depends on the fit."""
        self.indexes = self.piece.grids.indexes(self.latents)
        return self._rate() * self.pixels + float(self.piece.weights(self.piece.differences()).bits)

    @torch.no_grad()
    def cost(self) -> float:
        """Bits and weighed error of what there is, per pixel."""
        weights = self.piece.weights(self.piece.differences())
        parts = [(end - begin, self._drawn(begin, end, weights.values)[2], self.pictures[begin:end]) for begin, end in self.runs]
        error = sum(count * float(squared_error(drawn, pictures)) for count, drawn, pictures in parts) / self.piece.frames
        return self.bits() / self.pixels + self.lmbda * PEAK**2 * error

    def _drawn(self, begin: int, end: int, weights: dict[str, Tensor]) -> tuple[list[Tensor], list[tuple[int, int]], Tensor]:
        """Latents of a run, their places, and what is drawn of them."""
        piece = self.piece
        spans = piece.network.spans(begin, end, piece.frames)
        leaves = [values[first:last].clone().requires_grad_(True) for values, (first, last) in zip(self.latents, spans)]
        values = [leaf * piece.grids.step(number).detach()[:, None, None] for number, leaf in enumerate(leaves)]
        return leaves, spans, piece.draw(piece.whole(weights), values, [first for first, _ in spans], torch.arange(begin, end))

    @torch.no_grad()
    def _move(self, slow: float) -> None:
        """Latents to the integers that this sweep's gradients say."""
        for number, (exact, gradient) in enumerate(zip(self.exact, self.gradients)):
            if not self.piece.network.linear[number]:
                self._descend(number, slow)
                continue
            self._learn(number)
            curvature, latents = self.curvatures[number], self.latents[number]
            exact.lerp_(latents - gradient / (2 * curvature), PACE)
            self.earlier[number] = (gradient.clone(), latents)
            gradient.zero_()
            active = (exact.abs() > ACTIVE) | (latents != 0)
            near, worth, index = exact[active], curvature[active], self.indexes[number][active]
            expected = self.piece.grids.expected(number, latents)[active]
            nearest = torch.round(near)
            chosen, best = nearest, torch.full_like(near, torch.inf)
            for candidate in (nearest, nearest - torch.sign(nearest - expected), expected):
                cost = worth * (near - candidate).square() + laplace_bits(candidate - expected, index)
                chosen, best = torch.where(cost < best, candidate, chosen), torch.minimum(cost, best)
            self.latents[number] = torch.zeros_like(exact).masked_scatter_(active, chosen)

    def _descend(self, number: int, slow: float) -> None:
        """A step down the gradient of error and bits, the latter of the latents before they are rounded."""
        exact = self.exact[number]
        with torch.enable_grad():
            leaf = exact.clone().requires_grad_(True)
            bits = laplace_bits(leaf - self.piece.grids.expected(number, torch.round(exact)), self.indexes[number]).sum()
            (of_bits,) = torch.autograd.grad(bits, leaf)
        self.moments[number].step(exact, 0, self.gradients[number] + of_bits, RATE * slow)
        self.gradients[number].zero_()
        self.latents[number] = torch.round(exact)

    def _learn(self, number: int) -> None:
        """Larger curvatures where the last move changed gradients by more than those said: other latents move as well."""
        if number not in self.earlier:
            return
        gradient, latents = self.earlier[number]
        moved = self.latents[number] - latents
        change = F.avg_pool2d((self.gradients[number] - gradient) * moved, *NEAR)
        seen = change / (2 * F.avg_pool2d(moved.square(), *NEAR)).clamp_min(1e-9)
        base = self.curvatures[number]
        self.curvatures[number] = torch.maximum(
            base * FORGETTING + (1 - FORGETTING) * self.measured[number], torch.minimum(seen, base * MOST)
        )

    def _curvatures(self) -> list[Tensor]:
        """Bits of error that a step away from the best costs, for every latent."""
        totals = [torch.zeros_like(values) for values in self.latents]
        weights = self.piece.weights(self.piece.differences()).values
        weights = {name: value.detach() for name, value in weights.items()}
        scale = (4 * self.lmbda * PEAK**2 * torch.tensor(PLANE_WEIGHTS)).sqrt().reshape(-1, 1, 1)
        for _ in range(PROBES):
            squares = [torch.zeros_like(values) for values in self.latents]
            for begin, end in self.runs:
                leaves, spans, drawn = self._drawn(begin, end, weights)
                signs = torch.randint(0, 2, drawn.shape, generator=self.generator) * 2 - 1
                for total, (first, last), gradient in zip(
                    squares, spans, torch.autograd.grad(drawn, leaves, signs * scale, allow_unused=True)
                ):
                    if gradient is not None:
                        total[first:last] += gradient
            for total, square in zip(totals, squares):
                total += square.square() / PROBES
        return [_smooth(total) for total in totals]


def _together(runs: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Fewer and longer runs, of at most so many frames."""
    joined: list[tuple[int, int]] = []
    for begin, end in runs:
        if joined and end - joined[-1][0] <= most:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return joined


def _smooth(total: Tensor) -> Tensor:
    mean = total.mean((2, 3), keepdim=True)
    around = F.avg_pool2d(total, AROUND, 1, AROUND // 2, count_include_pad=False)
    return torch.maximum(around, LEAST * mean).clamp_min(1e-6)


__all__ = ["Sweeping"]
