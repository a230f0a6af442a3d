"""Fitting a function to a picture: descent on R + λD, with R of what the file will hold, over weights and latents together.

    latents ──soft rounding──┐
    weights ─────────────────┴─function─► picture ──► D ──┐
       └────────────────────────────► bits of the tables ─┴─► R + λD ──► Adam, SOAP

    at the end:  integers ──► what each integer ± 1 would change: the best are taken (:mod:`~neuralcodec.codecs.image.overfitted_search`)

For most of a fit, latents are real numbers that are rounded softly, twice, with uniform noise in between, ever more sharply and with less
noise (Agustsson and Theis 2020, https://arxiv.org/abs/2006.09952; Kim et al. 2023 (C3), https://arxiv.org/abs/2312.02753, section 3.1), and
become integers one by one. Each step looks at a band of rows, not at all of the picture, where the function allows it: weights move so much
more often. What a band's gradients say of latents that belong to its neighbours is kept until it is their turn.

What is coded of a weight is its difference from that which comes with the package, under scales that are learned. Where nothing comes with
it, steps are learned as well, and half of the weights are rounded from the start; otherwise all of them are in the last part of a fit.
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
from torch.optim.adam import adam

from neuralcodec.codecs.base import CodecError, first_line
from neuralcodec.codecs.image.overfitted_function import Band, Drawn, PictureFunction
from neuralcodec.codecs.image.overfitted_search import Search
from neuralcodec.codecs.image.tiles import Report, nothing
from neuralcodec.codecs.soap import Soap
from neuralcodec.codecs.writing import write_whole
from neuralcodec.entropy.laplace import index_of
from neuralcodec.entropy.weights import EXACT, STEPS_PER_OCTAVE, Rounding, WeightCoder

PEAK = 255.0
SAVE_EVERY = 20.0  # seconds
AT_ONCE = 2**15  # pixels that each step draws of functions that can draw some alone
BETAS, EPSILON = (0.9, 0.99), 1e-8  # of Adam and SOAP
UNCHANGED, FRESH_UNCHANGED = 4.0, 0.15  # standard deviation, in steps, that is assumed of what weights differ by at first
LEAST_WEIGHT = 0.02  # of a tensor's root mean square, by which its steps are chosen
STEPS_OF_WEIGHT, FRESH_STEPS = 50.0, 24.0  # to a tensor's root mean square; of fresh functions it is what learning begins with
UNROUNDED = Rounding(share=0.0, mixed=True)  # of weights that are known about: only their rate counts before the end
HALF_ROUNDED = Rounding(share=0.5)  # of weights that say all there is
SOFT = 0.75  # share of a fit in which latents are real numbers
FREEZING = 0.7  # share of that time after which latents become integers one by one, in random order
SHARPNESS = (0.5, 0.14)  # of soft rounding: width of its steps, at first and at last
NOISE = (1.0, 0.45)  # width of its uniform distribution, in steps
LARGEST_GRADIENT = 0.1  # norm, of weights
SETTLED = 0.15  # share of the fit of a function without latents, at its end, in which every weight is rounded
FASTER_SIDE = 3.0  # factor on the learning rate of the weights' side information


class Plan(NamedTuple):
    """How long and how fast a function is fitted.

    It ends after ``seconds`` or ``steps`` over the whole picture, whichever comes first; learning rates of weights, of latents (in steps)
    and of side information (in its integers).
    """

    seconds: float | None = None
    steps: int | None = 300
    weights: float = 2e-3
    latents: float = 0.16
    side: float = 0.05
    slowest: float = 0.02  # of the learning rates, at the end

    def shortened(self, share: float) -> Plan:
        seconds, steps = self.seconds, self.steps
        return self._replace(seconds=seconds and seconds * share, steps=steps and max(1, round(steps * share)))


DEFAULT = Plan()


class State(NamedTuple):
    """A file that a fit can go on from."""

    path: Path
    key: str  # of what is being fitted, and how


class Memory(NamedTuple):
    """What is remembered of a latent's gradients."""

    pending: Tensor  # their sum since it last moved
    mean: Tensor
    square: Tensor


class Piece(nn.Module):
    """A function, and how the difference of its weights from those that a decoder knows is coded."""

    def __init__(self, network: PictureFunction):
        super().__init__()
        self.network = network
        self.base = {name: value.detach().clone() for name, value in network.named_parameters()}
        usual = {name: self._usual(name) for name in self.base}
        self.coder = WeightCoder({name: value.shape for name, value in self.base.items()}, per_axis=2**30, usual=usual)

    def _usual(self, name: str) -> tuple[int, int]:
        """Of a parameter: in parts of an octave, the step its differences are quantized with at first; the index of their scale."""
        size = max(float(self.base[name].detach().double().square().mean().sqrt()), LEAST_WEIGHT)
        own = self.network.precision(name)
        if self.network.fresh:
            step, deviation = own or 2.0 ** math.frexp(size / FRESH_STEPS)[1], FRESH_UNCHANGED
        else:
            usual = 2.0 ** math.frexp(size / STEPS_OF_WEIGHT)[1]
            step, deviation = own or usual, UNCHANGED * usual / (own or usual)
        return round(STEPS_PER_OCTAVE * math.log2(step)), round(index_of(deviation))

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
        self.latents = network.start(picture, lmbda)
        self.bands: list[Band | None] = [*network.bands(self.height, self.width)] or [None]
        self.visits = [0] * len(self.bands)
        self.told = [(math.nan, math.nan)] * len(self.bands)  # bits per pixel and error of each when last seen
        self.memories = [Memory(*(torch.zeros_like(latent) for _ in Memory._fields)) for latent in self.latents]
        self.search: Search | None = None  # once latents are integers
        side = list(piece.coder.parameters()) if network.fresh else [piece.coder.scales]  # steps whose weights are not rounded only grow
        groups: list[dict[str, Any]] = [{"params": side, "speed": plan.side * FASTER_SIDE}]
        weights = [{"params": [value], "speed": plan.weights * network.speed(name)} for name, value in network.named_parameters()]
        if network.fresh:
            groups += weights
        self.optimisers: list[torch.optim.Optimizer] = [torch.optim.Adam(groups, betas=BETAS, eps=EPSILON, fused=True)]
        if coded and not network.fresh:
            self.optimisers.append(Soap(weights, betas=BETAS))
        self.generator = torch.Generator().manual_seed(seed)
        self.turns = [torch.rand(latent.shape, generator=self.generator).to(latent) for latent in self.latents]  # of becoming integers
        self.done, self.spent = 0, 0.0  # of steps, those that a band takes; of seconds
        self.slowest = plan.slowest if network.fresh else 0.0  # of the weights' learning rates: integers are undone by weights that move on
        self.bpp, self.error = math.nan, math.nan
        self.soft = math.nan, math.nan  # the same when latents were real numbers last

    @property
    def whole(self) -> bool:
        """Whether latents are integers."""
        return self.search is not None

    @property
    def progress(self) -> float:
        """0…1."""
        of_steps = self.done / (max(self.plan.steps, 1) * len(self.bands)) if self.plan.steps is not None else 0.0
        of_seconds = self.spent / max(self.plan.seconds, 1e-3) if self.plan.seconds is not None else 0.0
        return 1.0 if self.plan.steps == 0 else max(of_steps, of_seconds)

    def go_back(self, progress: float) -> None:
        """To where so much of the plan is done, with what has been found since."""
        share = progress / self.progress
        self.done = round(self.done / len(self.bands) * share) * len(self.bands)
        self.spent *= share
        self.search = None

    def run(self, report: Report = nothing, state: State | None = None, steer: Callable[[Fit], None] | None = None) -> None:
        """To the end of the plan.

        Args:
            state: where to keep it, and to go on from, if it is there.
            steer: is called after every step, and may change λ.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.generator.initial_seed())  # of noise on weights, so that the same picture gives the same bytes
            if state is not None and state.path.exists():
                self.load(state.path, state.key)
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
            done = self.done // len(self.bands)
            total = max(done, round(self.done / len(self.bands) / max(self.progress, 1e-9)))
            left = self.spent / max(self.progress, 1e-9) * max(0.0, 1 - self.progress)
            psnr = -10 * math.log10(max(self.error, 1e-10))
            report(done, total, f"{self.bpp:.4f} bpp, {psnr:.2f} dB, {int(left) // 60}:{int(left) % 60:02} left")
        self.finish()

    def save(self, path: Path, key: str) -> None:
        """Everything that :meth:`load` needs to go on.

        Args:
            key: of what is being fitted, and how.
        """
        tensors = {"random": self.generator.get_state(), "noise": torch.get_rng_state()}
        searched = None
        if self.search is not None:
            found, searched = self.search.save()
            tensors |= found
        tensors |= {
            f"memory {number} {kind}": value for number, memory in enumerate(self.memories) for kind, value in memory._asdict().items()
        }
        for number, (name, parameter) in enumerate(self._parameters()):
            tensors[f"weight {number} {name}"] = parameter.detach()
            for kind, value in self._optimiser_of(parameter).state.get(parameter, {}).items():
                tensors[f"state {number} {kind}"] = value
        text = {"key": key, "done": str(self.done), "spent": repr(self.spent), "search": json.dumps(searched)}
        text["known"] = json.dumps([self.bpp, self.error, self.soft, self.lmbda, self.told, self.visits])
        write_whole(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, text))

    @torch.no_grad()
    def load(self, path: Path, key: str) -> None:
        """Go on from what :meth:`save` wrote; PyTorch's own random numbers as well.

        Raises:
            CodecError: not such a file, or of another fit.
        """
        try:
            with safe_open(path, framework="pt") as file:
                text = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            if text.get("key") != key:
                raise CodecError(f"{path} holds the fit of another picture, model, level or time; remove it to start anew")
            for number, (name, parameter) in enumerate(self._parameters()):
                parameter.copy_(tensors[f"weight {number} {name}"])
                of_it = f"state {number} "
                # Copies, as products depend on where memory is aligned, in their last bits.
                found = {name.removeprefix(of_it): value for name, value in tensors.items() if name.startswith(of_it)}
                optimiser = self._optimiser_of(parameter)
                if found:
                    here = {"step"} if isinstance(optimiser, Soap) else set()  # what is read on the processor
                    optimiser.state[parameter] = {
                        kind: value.to("cpu" if kind in here else parameter.device, copy=True) for kind, value in found.items()
                    }
            self.generator.set_state(tensors["random"])
            torch.set_rng_state(tensors["noise"])
            for number, memory in enumerate(self.memories):
                for kind, value in memory._asdict().items():
                    value.copy_(tensors[f"memory {number} {kind}"])
            self.bpp, self.error, self.soft, self.lmbda, self.told, self.visits = json.loads(text["known"])
            self.done, self.spent, searched = int(text["done"]), float(text["spent"]), json.loads(text["search"])
            self.search = None if searched is None else Search.load(tensors, searched, self.latents, self._weights())
        except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
            raise CodecError(f"{path} is not the state of a fit ({first_line(error)})") from None

    def _optimiser_of(self, parameter: Tensor) -> torch.optim.Optimizer:
        first, *others = self.optimisers
        known = (value for optimiser in others for group in optimiser.param_groups for value in group["params"])
        return others[0] if any(value is parameter for value in known) else first

    def _parameters(self) -> list[tuple[str, Tensor]]:
        latents = [(f"latent {number}", latent) for number, latent in enumerate(self.latents)]
        return [*self.piece.coder.named_parameters(prefix="coder"), *latents, *self.piece.network.named_parameters()]

    def step(self) -> None:
        """A band; all of the picture once latents are integers.

        Raises:
            CodecError: what is drawn has become infinite.
        """
        began = time.monotonic()
        progress = min(1.0, self.progress)
        place = self.done % len(self.bands)
        self.piece.network.advance(progress)
        if self.latents and self.search is None and progress >= SOFT and place == 0:
            for latent in self.latents:
                latent.round_()
            self.search = Search(self.piece.network.probe(self.latents, self.height, self.width))
        if self._descend(progress, place):
            if self.latents and self.coded:
                torch.nn.utils.clip_grad_norm_(self.piece.network.parameters(), LARGEST_GRADIENT)
            factor = self._slow(progress, self.slowest) * (1.0 if self.search is None else self.search.trust)
            for optimiser in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = group["speed"] * factor
                optimiser.step()
        self.done += len(self.bands) if self.whole else 1
        self.spent += time.monotonic() - began

    def _descend(self, progress: float, place: int) -> bool:
        """Find what everything should move by, and move latents; false if weights have gone back instead."""
        network = self.piece.network
        taught = min(1.0, progress / SOFT) if self.latents else progress
        band = None if self.whole else self.bands[place]
        picture, options = self._part(band)
        values, weight_bits = self._values(progress)
        seen = self.latents if band is None else [latent[rows] for latent, rows in zip(self.latents, band.seen)]
        leaves, latents = self._leaves(seen, taught, band)
        drawn = functional_call(network, values, (latents, self.height, self.width, self.whole), options)
        error = (drawn.picture - picture).square().mean()
        share = 1.0 if band is None else len(picture[0]) / self.height
        rate = (drawn.bits / share + weight_bits) / (self.height * self.width)
        price = self.lmbda * PEAK**2
        known = float(rate.detach()), float(error.detach())
        if not all(map(math.isfinite, known)):
            raise CodecError("the fit has gone astray: its picture, or what it takes, is not finite")
        if self.search is not None and not self.search.judge(*known, price, self._weights()):
            return False
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        (rate + price * error).backward()
        self._tell(None if self.whole else place, *known)
        if self.search is not None:
            fixed = {name: value.detach() for name, value in values.items()}

            def draw(latents: Sequence[Tensor]) -> Drawn:
                return functional_call(network, fixed, (latents, self.height, self.width, True))

            self.search.step(self.latents, drawn, leaves, draw, picture, price)
        elif leaves:
            self._move(leaves, place, band, self.plan.latents * self._slow(taught, self.plan.slowest if network.fresh else 0.0))
        return True

    def _part(self, band: Band | None) -> tuple[Tensor, dict[str, Any]]:
        """What a step looks at of the picture, and how the function is told."""
        if self.piece.network.pointwise:
            stride = max(1, round(math.sqrt(self.height * self.width / AT_ONCE)))
            row, column = (int(torch.randint(min(stride, size), (1,), generator=self.generator)) for size in (self.height, self.width))
            return self.picture[:, row::stride, column::stride], {"every": (row, column, stride)}
        return (self.picture, {}) if band is None else (self.picture[:, band.rows], {"band": band})

    def _values(self, progress: float) -> tuple[dict[str, Tensor], Tensor]:
        """Weights as they come out of coding, or nearly so, and what they cost, in bits."""
        network = self.piece.network
        if not self.coded:
            return dict(network.named_parameters()), torch.zeros(())
        early = HALF_ROUNDED if network.fresh else UNROUNDED
        settled = self.whole if self.latents else progress >= 1 - SETTLED
        weights = self.piece.coder(self.piece.differences(), EXACT if settled else early)
        return self.piece.whole(weights.values), weights.bits

    @torch.no_grad()
    def finish(self) -> None:
        """Undo the last move of rounded weights, after which nothing has been looked at, if it was for the worse."""
        if self.search is not None and (best := self.search.best) is not None:
            weights = self.piece.coder(self.piece.differences(), EXACT)
            drawn = functional_call(self.piece.network, self.piece.whole(weights.values), (self.latents, self.height, self.width))
            bpp = float(drawn.bits + weights.bits) / (self.height * self.width)
            error = float((drawn.picture - self.picture).square().mean())
            good = self.search.judge(bpp, error, self.lmbda * PEAK**2, self._weights())
            self._tell(None, *((bpp, error) if good else best))

    def found(self) -> list[Tensor]:
        """Latents and weights as they are, for :meth:`restore`."""
        return [value.detach().clone() for _, value in self._parameters()]

    @torch.no_grad()
    def restore(self, found: Sequence[Tensor]) -> None:
        """Latents and weights as they were when :meth:`found` gave these."""
        for (_, value), old in zip(self._parameters(), found):
            value.copy_(old)

    def _weights(self) -> list[Tensor]:
        return [*self.piece.coder.parameters(), *self.piece.network.parameters()]

    @staticmethod
    def _slow(progress: float, slowest: float) -> float:
        """Factor on learning rates."""
        return min(1.0, 0.1 + progress / 0.03) * (slowest + (1 - slowest) * 0.5 * (1 + math.cos(math.pi * progress)))

    def _tell(self, place: int | None, bpp: float, error: float) -> None:
        """Keep what a band, or all of the picture, takes."""
        self.told = [(bpp, error) if place is None or place == number else old for number, old in enumerate(self.told)]
        heights = [self.height if band is None else len(self.picture[0, band.rows]) for band in self.bands]
        known = [(each, height) for each, height in zip(self.told, heights) if not math.isnan(each[0])]
        self.bpp, self.error = (
            sum(each[part] * height for each, height in known) / sum(height for _, height in known) for part in range(2)
        )
        if not self.whole:
            self.soft = self.bpp, self.error

    def _leaves(self, seen: Sequence[Tensor], progress: float, band: Band | None) -> tuple[list[Tensor], list[Tensor]]:
        """What gradients are asked of, and what the function is given: integers, or latents on their way there."""
        if self.whole:
            leaves = [latent.detach().requires_grad_(True) for latent in seen]
            return leaves, leaves
        share = (progress - FREEZING) / (1 - FREEZING)
        leaves, proxies = [], []
        for number, latent in enumerate(seen):
            frozen = None
            if share > 0:
                turn = self.turns[number]
                frozen = (turn if band is None else turn[band.seen[number]]) < share
                latent.copy_(torch.where(frozen, latent.round(), latent))
            leaf = latent.detach().requires_grad_(True)
            soft = softly_rounded(leaf, progress, self.generator)
            leaves.append(leaf)
            proxies.append(soft if frozen is None else torch.where(frozen, leaf.detach(), soft))
        return leaves, proxies

    @torch.no_grad()
    def _move(self, leaves: Sequence[Tensor], place: int, band: Band | None, rate: float) -> None:
        """A step of Adam for the latents of a band, with what other bands had to say of them in the meantime."""
        self.visits[place] += 1
        moved = []
        for number, (leaf, latent, memory) in enumerate(zip(leaves, self.latents, self.memories)):
            assert leaf.grad is not None
            seen, own = (slice(None),) * 2 if band is None else (band.seen[number], band.own[number])
            memory.pending[seen] += leaf.grad
            moved.append((latent[own], *(each[own] for each in memory)))
        values, pending, means, squares = map(list, zip(*moved))
        steps = [torch.tensor(float(self.visits[place] - 1), device=value.device) for value in values]
        first, second = BETAS
        adam(
            values, pending, means, squares, [], steps, fused=True,
            amsgrad=False, beta1=first, beta2=second, lr=rate, weight_decay=0.0, eps=EPSILON, maximize=False,
        )  # fmt: skip
        for each in pending:
            each.zero_()


def softly_rounded(x: Tensor, progress: float, generator: torch.Generator) -> Tensor:
    """Twice, with noise between; the more sharply the farther a fit is."""
    width, noise = ((1 - progress) * first + progress * last for first, last in (SHARPNESS, NOISE))

    def rounded(x: Tensor, width: float) -> Tensor:
        middle = torch.floor(x.detach()) + 0.5
        return middle + torch.tanh((x - middle) / width) * (0.5 / math.tanh(0.5 / width))

    return rounded(rounded(x, width) + noise * (torch.rand(x.shape, generator=generator).to(x) - 0.5), width)


__all__ = ["DEFAULT", "Fit", "Piece", "Plan", "State"]
