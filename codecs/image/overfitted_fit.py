"""Fitting a function to a picture: descent on R + λD, with R of what the file will hold, over weights and integers together.

    integers ──────────┐
    weights ─rounding─►┴─function─► picture ──► D ──┐
                └──────────────► bits of the tables ──► R + λD ──► gradient of the weights: Adam
                                                    └──► what each integer ± 1 would change: the best are taken

Latents are integers at all times. One backward pass gives every latent the slope of the error, and of the bits of those that it is context
of. With the curvature of the error, which a transform near orthonormal has in closed form, and the bits of its own neighbours on the scale
of integers, which the tables say, it knows what a step up or down is worth. A random part of those that gain take it, so that
neighbours do not all correct the same error. This differs from Cool-chic (Ladune et al. 2023, https://arxiv.org/abs/2212.05458) and C3 (Kim
et al. 2023, https://arxiv.org/abs/2312.02753), which descend on soft-rounded latents with noise for ten thousands of steps: here the
bits that a step sees are those of the file from the first step on, and tens of steps already make a usable file.

What is coded of a weight is its difference from that which comes with the package, quantized with steps and scales that are learned.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.func import functional_call

from neuralcodec.codecs.base import CodecError, first_line
from neuralcodec.codecs.image.overfitted_function import Moves, PictureFunction
from neuralcodec.codecs.image.tiles import Report, nothing
from neuralcodec.codecs.writing import write_whole
from neuralcodec.entropy.laplace import index_of
from neuralcodec.entropy.weights import EXACT, STEPS_PER_OCTAVE, Rounding, WeightCoder

PEAK = 255.0
SAVE_EVERY = 20.0  # seconds
AT_ONCE = 2**15  # pixels that each step draws of functions that can draw some alone
BETAS, EPSILON = (0.9, 0.99), 1e-8  # of Adam
UNCHANGED = 0.15  # standard deviation in steps that is assumed of a weight's difference before anything is known of it
LEAST_WEIGHT = 0.02  # of a tensor's root mean square, by which its steps are chosen
STEPS_OF_WEIGHT = 24.0  # to a tensor's root mean square
UNROUNDED = Rounding(share=0.0, mixed=True)  # of weights that hardly change: only their rate counts before the end
HALF_ROUNDED = Rounding(share=0.5)  # of weights that say all there is
TAUGHT = 30  # steps after which trained weights rest: the farther they get, the more is lost when they are rounded; integers go on
FASTER_SIDE = 3.0  # factor on the learning rate of their side information
CURVATURE = 1.1  # factor on that of one latent alone, as many move at once
SHARES = (0.6, 0.01)  # of the steps of latents that gain something which are taken: at first and at most, and at least
FEWER, MORE = 0.7, 1.03  # what becomes of that after a step that has made R + λD larger, or smaller


class Plan(NamedTuple):
    """How long and how fast a function is fitted.

    It ends after ``seconds`` or ``steps``, whichever comes first; learning rates of weights and of side information (in its
    integers).
    """

    seconds: float | None = None
    steps: int | None = 300
    weights: float = 2e-3
    side: float = 0.05
    slowest: float = 0.02  # of the learning rates, at the end


DEFAULT = Plan()


class State(NamedTuple):
    """A file that a fit can go on from."""

    path: Path
    key: str  # of what is being fitted, and how


class Piece(nn.Module):
    """A function, and how the difference of its weights from those that a decoder knows is coded."""

    def __init__(self, network: PictureFunction):
        super().__init__()
        self.network = network
        self.base = {name: value.detach().clone() for name, value in network.named_parameters()}
        usual = {name: (self._step(name), round(index_of(UNCHANGED))) for name in self.base}
        self.coder = WeightCoder({name: value.shape for name, value in self.base.items()}, per_axis=2**30, usual=usual)

    def _step(self, name: str) -> int:
        """In parts of an octave: what a parameter's differences are quantized with at first, the same on every machine."""
        size = self.base[name].detach().double().square().mean().sqrt()
        step = self.network.precision(name) or 2.0 ** math.frexp(max(float(size), LEAST_WEIGHT) / STEPS_OF_WEIGHT)[1]
        return round(STEPS_PER_OCTAVE * math.log2(step))

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
        side = list(piece.coder.parameters()) if network.fresh else [piece.coder.scales]  # steps whose weights are not rounded only grow
        groups: list[dict[str, Any]] = [{"params": side, "speed": plan.side * (FASTER_SIDE if network.fresh else 1)}]
        for name, parameter in network.named_parameters():
            groups.append({"params": [parameter], "speed": plan.weights * network.speed(name)})
            if coded and not network.speed(name):
                parameter.requires_grad_(False)
        self.optimiser = torch.optim.Adam(groups, betas=BETAS, eps=EPSILON, fused=True)
        self.generator = torch.Generator().manual_seed(seed)
        self.done, self.spent = 0, 0.0
        self.bpp, self.error = math.nan, math.nan
        self.share = SHARES[0]

    @property
    def progress(self) -> float:
        """0…1."""
        of_steps = self.done / max(self.plan.steps, 1) if self.plan.steps is not None else 0.0
        of_seconds = self.spent / max(self.plan.seconds, 1e-3) if self.plan.seconds is not None else 0.0
        return 1.0 if self.plan.steps == 0 else max(of_steps, of_seconds)

    def run(self, report: Report = nothing, state: State | None = None, steer: Callable[[Fit], None] | None = None) -> None:
        """To the end of the plan.

        Args:
            state: where to keep it, and to go on from, if it is there.
            steer: is called after every step, and may change λ.
        """
        if state is not None and state.path.exists():
            self.load(state.path, state.key)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.generator.initial_seed())  # of noise on weights, so that the same picture gives the same bytes
            self._run(report, state, steer)

    def _run(self, report: Report, state: State | None, steer: Callable[[Fit], None] | None) -> None:
        saved = time.monotonic()
        while self.progress < 1:
            self.step()
            if steer is not None:
                steer(self)
            if state is not None and time.monotonic() - saved > SAVE_EVERY:
                self.save(state.path, state.key)
                saved = time.monotonic()
            total = max(self.done, round(self.done / max(self.progress, 1e-9)))
            left = self.spent / self.done * (total - self.done)
            psnr = -10 * math.log10(max(self.error, 1e-10))
            report(self.done, total, f"{self.bpp:.4f} bpp, {psnr:.2f} dB, {int(left) // 60}:{int(left) % 60:02} left")

    def save(self, path: Path, key: str) -> None:
        """Everything that :meth:`load` needs to go on.

        Args:
            key: of what is being fitted, and how.
        """
        tensors = {f"latent {number}": latent.detach().int() for number, latent in enumerate(self.latents)}
        tensors["random"] = self.generator.get_state()
        for number, (name, parameter) in enumerate(self._parameters()):
            tensors[f"weight {number} {name}"] = parameter.detach()
            for kind, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"{kind} {number}"] = value
        text = {"key": key, "done": str(self.done), "spent": repr(self.spent), "active": json.dumps(self.active)}
        text["known"] = json.dumps([self.bpp, self.error, self.share, self.lmbda])
        write_whole(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, text))

    @torch.no_grad()
    def load(self, path: Path, key: str) -> None:
        """Go on from what :meth:`save` wrote.

        Raises:
            CodecError: not such a file, or of another fit.
        """
        try:
            with safe_open(path, framework="pt") as file:
                text = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            if text.get("key") != key:
                raise CodecError(f"{path} holds the fit of another picture, model, level or time; remove it to start anew")
            for number, latent in enumerate(self.latents):
                latent.copy_(tensors[f"latent {number}"])
            for number, (name, parameter) in enumerate(self._parameters()):
                parameter.copy_(tensors[f"weight {number} {name}"])
                state = {kind: tensors[f"{kind} {number}"] for kind in ("step", "exp_avg", "exp_avg_sq") if f"{kind} {number}" in tensors}
                if state:
                    self.optimiser.state[parameter] = state
            self.generator.set_state(tensors["random"])
            self.bpp, self.error, self.share, self.lmbda = json.loads(text["known"])
            self.done, self.spent, self.active = int(text["done"]), float(text["spent"]), json.loads(text["active"])
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise CodecError(f"{path} is not the state of a fit ({first_line(error)})") from None

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [*self.piece.coder.named_parameters(prefix="coder"), *self.piece.network.named_parameters()]

    def step(self) -> None:
        began = time.monotonic()
        progress = self.progress
        network = self.piece.network
        taught = progress if network.fresh else min(1.0, max(progress, self.done / TAUGHT))
        network.advance(progress)
        picture, options = self.picture, {}
        if network.pointwise:
            stride = max(1, round(math.sqrt(self.height * self.width / AT_ONCE)))
            row, column = (int(torch.randint(stride, (1,), generator=self.generator)) for _ in range(2))
            picture, options = picture[:, row::stride, column::stride], {"every": (row, column, stride)}
        if self.coded:
            early = HALF_ROUNDED if network.fresh else UNROUNDED
            weights = self.piece.coder(self.piece.differences(), early if taught < 1 - network.settled else EXACT)
            values, bits = self.piece.whole(weights.values), weights.bits
        else:
            values, bits = dict(network.named_parameters()), torch.zeros(())
        drawn = functional_call(network, values, (self.latents, self.height, self.width, self.active), options)
        error = (drawn.picture - picture).square().mean()
        rate = (drawn.bits + bits) / (self.height * self.width)
        before = self.bpp + self.lmbda * PEAK**2 * self.error  # no number before the first step
        self.bpp, self.error = float(rate.detach()), float(error.detach())
        factor = FEWER if self.bpp + self.lmbda * PEAK**2 * self.error > before else MORE
        self.share = min(max(self.share * factor, SHARES[1]), SHARES[0])
        self.optimiser.zero_grad(set_to_none=True)
        for latent in self.latents:
            latent.grad = None
        (rate + self.lmbda * PEAK**2 * error).backward()
        slow = min(1.0, 0.1 + taught / 0.03) * (self.plan.slowest + (1 - self.plan.slowest) * 0.5 * (1 + math.cos(math.pi * taught)))
        slow *= taught < 1
        for group in self.optimiser.param_groups:
            group["lr"] = group["speed"] * slow
        self.optimiser.step()
        if self.latents:
            self._move(drawn.moves)
        self.done += 1
        self.spent += time.monotonic() - began

    @torch.no_grad()
    def _move(self, moves: Sequence[Moves | None]) -> None:
        """Take steps of latents that gain something; leave out bands that have become zero."""
        pixels = self.height * self.width
        for latent, active, move, bend in zip(self.latents, self.active, moves, self.piece.network.curvature(self.lmbda)):
            if move is None or latent.grad is None:
                continue
            which = slice(None) if len(active) == len(latent) else list(active)
            values, slope = latent[which], latent.grad[which] * pixels
            curve = bend[which] * CURVATURE
            down, up = move.down.add_(curve).sub_(slope), move.up.add_(curve).add_(slope)
            if move.seen.grad is not None:
                others, seen = move.seen.grad[which] * pixels, move.seen.detach()[which]
                down += _around(others, torch.log2(1 + (values - 1).abs()) - seen)
                up += _around(others, torch.log2(1 + (values + 1).abs()) - seen)
            chosen = torch.rand(down.shape, generator=self.generator) < self.share
            latent[which] += ((up < 0) & (up < down) & chosen).float() - ((down < 0) & (down <= up) & chosen).float()
            for channel in [channel for channel in active if not latent[channel].any()]:
                active.remove(channel)


def _around(slope: Tensor, change: Tensor) -> Tensor:
    """What bits around a latent change by with its magnitude. No gain is expected of larger ones: tangents promise far too much."""
    return torch.where(change > 0, (slope * change).clamp_(min=0), slope * change)


__all__ = ["DEFAULT", "Fit", "Piece", "Plan", "State"]
