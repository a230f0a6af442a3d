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
from neuralcodec.entropy.grids import Window
from neuralcodec.entropy.weights import EXACT, STEPS_PER_OCTAVE, Rounding, WeightCoder

PLANE_WEIGHTS = (1 / 8,) * 4 + (
    1 / 4,
) * 2  # of the squared errors: Y half, U and V a quarter each, as about both RGB and decibels of 6:1:1 want it
PEAK = 255.0
SETTLED, REFRESHED = 8, 10  # times that contexts' tables are chosen anew in a fit, and steps after which contexts are
BETAS, EPSILON = (0.9, 0.99), 1e-8  # of Adam
STEPS = (150, 400, 1000, 2500, 6000, 20000)  # of the fit of each group of pictures, by effort
USUAL_EFFORT = 2

clock = time.monotonic  # by which a plan's seconds are counted

Report = Callable[[int, int, str], None]  # steps done, of how many, how good it is


def nothing(done: int, of: int, state: str) -> None:
    """Reports to nobody."""


class Plan(NamedTuple):
    """How a group of pictures is fitted.

    ``steps``, or ``seconds`` if given, of which each sees ``batch`` frames; learning rates of weights, latents (in steps of quantization)
    and side information (in its integers); ``exact``: the share of the fit, at its end, with exact rounding. ``sharpness`` of soft rounding
    at the start and where that ends; without it, values are rounded exactly from the start, and only their rate is that of unrounded ones.
    """

    steps: int = STEPS[USUAL_EFFORT]
    seconds: float | None = None
    batch: int = 4
    weights: float = 1e-3
    latents: float = 0.01
    side: float = 0.05
    exact: float = 0.2
    sharpness: tuple[float, float] | None = None


DEFAULT = Plan()


class Moments:
    """Adam's, of latents of which each step touches a few rows: no row moves while nothing is known of it."""

    def __init__(self, values: Tensor):
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)
        self.count = torch.zeros(len(values))

    @torch.no_grad()
    def step(self, values: Tensor, first: int, gradient: Tensor, rate: float) -> None:
        rows = slice(first, first + len(gradient))
        self.count[rows] += 1
        mean = self.mean[rows].lerp_(gradient, 1 - BETAS[0])
        square = self.square[rows].lerp_(gradient.square(), 1 - BETAS[1])
        count = self.count[rows].reshape(-1, 1, 1, 1).to(gradient)
        size = rate * (1 - BETAS[1] ** count).sqrt() / (1 - BETAS[0] ** count)
        values[rows] -= size * mean / (square.sqrt() + EPSILON)


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
        self.grids = network.coder(self.grid_shapes)
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
        latents.append(begun.latent)
    return latents


class Fitting:
    """A fit under way, by gradient descent on everything.

    Args:
        pictures: (frames, 6, ⌈H/2⌉, ⌈W/2⌉) in 0…1.
        lmbda: bits per pixel and unit of mean squared error on a 0…255 scale.
        state: to go on from, of :meth:`state`.
    """

    def __init__(
        self, piece: Piece, pictures: Tensor, lmbda: float, plan: Plan = DEFAULT, seed: int = 0, state: Mapping[str, Tensor] | None = None
    ):
        self.piece, self.pictures, self.lmbda, self.plan = piece, pictures, lmbda, plan
        self.tensors: list[Any] = list(piece.tensors().values())
        self.side = [each for each in (*piece.weights.parameters(), *piece.grids.parameters()) if each.requires_grad]
        self.latents = start(piece, pictures, lmbda) if state is None else self._restored(state)
        self.optimiser = torch.optim.Adam([{"params": self.tensors}, {"params": self.side}], betas=BETAS)
        self.generator = torch.Generator().manual_seed(seed)
        self.queue: list[tuple[int, int]] = []
        self.done, self.seconds = (0, 0.0) if state is None else (int(state["done"]), float(state["seconds"]))
        self.counted = 1  # steps that a call of `step` is
        self.before = self.progress
        self.error = self.rate = 0.0
        self.settled: int = self.done
        self.refreshed: int = self.done
        self.settle()
        self.prepare()

    def prepare(self) -> None:
        """Whatever else a fit has to remember."""
        self.batch = min(self.plan.batch, self.piece.frames)
        self.visits = _visits(self.piece, self.batch)
        self.moments = {number: Moments(values) for number, values in enumerate(self.latents)}

    @property
    def progress(self) -> float:
        if self.plan.seconds is None:
            return self.done / self.plan.steps if self.plan.steps else 1.0
        return self.seconds / self.plan.seconds

    def state(self) -> dict[str, Tensor]:
        """What a fit can go on from, nearly as if nothing had happened: moments and curvatures are found anew."""
        named = {f"latents.{number:03}": values.clone() for number, values in enumerate(self.latents)}
        named |= {f"parameter.{number:03}": each.detach().clone() for number, each in enumerate([*self.tensors, *self.side])}
        return {**named, "done": torch.tensor(self.done), "seconds": torch.tensor(self.seconds, dtype=torch.float64)}

    def _restored(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        """Latents; weights and steps go where they belong."""
        with torch.no_grad():
            for number, each in enumerate([*self.tensors, *self.side]):
                each.copy_(state[f"parameter.{number:03}"])
        return [state[f"latents.{number:03}"].clone() for number in range(len(self.piece.grid_shapes))]

    def run(self, report: Report = nothing, keep: Callable[[Fitting], None] | None = None) -> Fitted:
        """To the plan's end.

        Args:
            keep: told whenever the fit has a state.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.generator.initial_seed())  # of noise, so that the same clip gives the same bytes
            return self._run(report, keep)

    def _run(self, report: Report, keep: Callable[[Fitting], None] | None) -> Fitted:
        while self.progress < 1:
            self.advance()
            total = self.plan.steps if self.plan.seconds is None else max(self.done, round(self.done / max(self.progress, 1e-9)))
            left = round(self.seconds / self.done * (total - self.done))
            quality = -10 * math.log10(max(self.error, 1e-10))
            report(min(self.done, total), total, f"{self.rate:.4f} bpp, {quality:.2f} dB, {left // 60}:{left % 60:02} left")
            if keep is not None and (not self.queue or not self.piece.network.linear):
                keep(self)
        return self.fitted()

    def advance(self) -> None:
        """By a step."""
        began, progress = clock(), self.progress
        if int(progress * SETTLED) > int(self.before * SETTLED) and self.done - self.settled >= REFRESHED:
            self.settle()
        elif self.done - self.refreshed >= REFRESHED:
            self.indexes, self.refreshed = self.piece.grids.indexes(self.latents), self.done
        self.before = progress
        self.step(progress)
        self.done += self.counted
        self.seconds += clock() - began

    def fitted(self) -> Fitted:
        """What there is by now."""
        self.finish()
        self.piece.grids.settle(self.latents)
        return Fitted(self.piece, self.latents)

    def finish(self) -> None:
        """Whatever is left to do after the last step."""

    def settle(self) -> None:
        """Contexts and their tables to what the latents are by now."""
        self.settled = self.refreshed = self.done
        self.piece.grids.settle(self.latents)
        self.indexes = self.piece.grids.indexes(self.latents)

    def step(self, progress: float) -> None:
        """With the frames of one batch."""
        piece, plan, slow = self.piece, self.plan, schedule(progress)
        rounding, rounding_weights = roundings(plan, progress)
        self.queue = self.queue or _batches(piece.frames, self.batch, self.generator)
        begin, end = self.queue.pop()
        spans = piece.network.spans(begin, end, piece.frames)
        leaves = [values[first:last].clone().requires_grad_(True) for values, (first, last) in zip(self.latents, spans)]
        befores = [values[max(first - 2, 0) : first] for values, (first, _) in zip(self.latents, spans)]
        windows = [Window(torch.cat((before, leaf)), len(before)) for before, leaf in zip(befores, leaves)]
        coded = piece.grids(windows, [index[first:last] for index, (first, last) in zip(self.indexes, spans)], rounding)
        weights = piece.weights(piece.differences(), rounding_weights)
        seen = [each.values for each in coded]
        drawn = piece.draw(piece.whole(weights.values), seen, [first for first, _ in spans], torch.arange(begin, end))
        error = squared_error(drawn, self.pictures[begin:end])
        bits = weights.bits + piece.grids.side_bits()
        for each, often, (first, last) in zip(coded, self.visits, spans):
            bits = bits + (each.bits / often[first:last]).sum()
        rate = bits / (piece.frames * piece.height * piece.width)
        gradients = torch.autograd.grad(rate + self.lmbda * PEAK**2 * error, [*leaves, *self.tensors, *self.side], allow_unused=True)
        for number, ((first, _), gradient) in enumerate(zip(spans, gradients)):
            if gradient is not None:
                self.moments[number].step(self.latents[number], first, gradient, plan.latents * slow)
        for parameter, gradient in zip([*self.tensors, *self.side], gradients[len(leaves) :]):
            parameter.grad = gradient
        self.descend(slow)
        share = max(0.05, 1 / (self.done + 1))
        self.error += (float(error.detach()) - self.error) * share
        self.rate += (float(rate.detach()) - self.rate) * share

    def descend(self, slow: float) -> None:
        """By the gradients of weights and steps."""
        self.optimiser.param_groups[0]["lr"], self.optimiser.param_groups[1]["lr"] = self.plan.weights * slow, self.plan.side * slow
        self.optimiser.step()
        self.optimiser.zero_grad()


def fitting(
    piece: Piece, pictures: Tensor, lmbda: float, plan: Plan = DEFAULT, seed: int = 0, state: Mapping[str, Tensor] | None = None
) -> Fitting:
    """A fit as the network wants it: see :class:`Fitting`."""
    from neuralcodec.codecs.video.sweeps import Sweeping

    return (Sweeping if piece.network.linear else Fitting)(piece, pictures, lmbda, plan, seed, state)


def fit(piece: Piece, pictures: Tensor, lmbda: float, plan: Plan = DEFAULT, report: Report = nothing, seed: int = 0) -> Fitted:
    """A piece fitted to pictures (frames, 6, ⌈H/2⌉, ⌈W/2⌉) in 0…1."""
    return fitting(piece, pictures, lmbda, plan, seed).run(report)


def warmed(state: Mapping[str, Tensor], piece: Piece, factor: float) -> dict[str, Tensor]:
    """The state of a finished fit as the start of another, whose λ is ``factor`` times as large: with finer or coarser steps."""
    shift = -round(STEPS_PER_OCTAVE * math.log2(factor) / 2)  # λ goes with the inverse square of a step
    changed = {**state, "done": torch.tensor(0), "seconds": torch.tensor(0.0, dtype=torch.float64)}
    first = len(piece.tensors()) + sum(1 for each in piece.weights.parameters() if each.requires_grad)
    for number, linear in enumerate(piece.network.linear):
        if linear:
            steps, latents = f"parameter.{first + number:03}", f"latents.{number:03}"
            changed[steps] = state[steps] + shift
            changed[latents] = state[latents] * 2 ** (-shift / STEPS_PER_OCTAVE)
    return changed


def squared_error(drawn: Tensor, pictures: Tensor) -> Tensor:
    """Of packed pictures, mean over frames and pixels, scalar."""
    planes = torch.tensor(PLANE_WEIGHTS).reshape(-1, 1, 1)
    return ((drawn - pictures).square() * planes).sum((1, 2, 3)).mean() / math.prod(drawn.shape[2:])


def schedule(progress: float) -> float:
    """Factor on the learning rates: a quick rise, then a cosine."""
    return min(1.0, progress / 0.02 + 0.05) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def roundings(plan: Plan, progress: float) -> tuple[Rounding, Rounding]:
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


__all__ = ["DEFAULT", "Fitted", "Fitting", "Piece", "Plan", "Report", "fit", "fitting", "nothing", "warmed"]
