"""A codec that fits a function to the picture: what the file holds is the function's latents, and what its weights differ by.

    picture ──fit──► weights ──(− those of the level)──WeightCoder──► stream
                └──► latents ──────────────────────────function──────► stream

Ladune et al. 2023 (Cool-chic), https://arxiv.org/abs/2212.05458; Kim et al. 2023 (C3), https://arxiv.org/abs/2312.02753. Differs in weights
that come with the package, learned on other pictures at several rates: a fit goes on from there, so that it may end at any time.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from neuralcodec.codecs.base import Codec, CodecError, Compressed, Decompressed
from neuralcodec.codecs.image.overfitted_fit import Fit, Piece, Plan, State
from neuralcodec.codecs.image.overfitted_function import PictureFunction
from neuralcodec.codecs.image.overfitted_targets import FIRST, Aim, Steering, correct
from neuralcodec.codecs.image.tiles import Report, nothing
from neuralcodec.entropy.rans import CorruptStream

STEPS = (50, 150, 400, 1000, 2500, 8000)  # of a fit, by effort
USUAL_EFFORT = 2
MOST_TIME = 1.2  # of what is asked for, that corrections may take


def plan_of(effort: int | None, seconds: float | None) -> Plan:
    """How long a fit is to take: an effort, or seconds.

    Raises:
        CodecError: no such effort, or no time at all.
    """
    if effort is not None and not 0 <= effort < len(STEPS):
        raise CodecError(f"effort must lie between 0 and {len(STEPS) - 1}, not {effort}")
    if seconds is not None and not seconds > 0:
        raise CodecError(f"a fit takes some time, not {seconds:g} seconds")
    return Plan(seconds, STEPS[USUAL_EFFORT if effort is None else effort] if seconds is None or effort is not None else None)


class FittedPicture(Codec):
    """
    Args:
        network: what is fitted.
        knots: levels, evenly spread, that have initial weights of their own; between them these are interpolated.
        levels, lmbda: as in :class:`~neuralcodec.codecs.base.Codec`.
    """

    modality = "image"
    fits = True
    streams = ("weights", "latents")
    decoder_parameters = ("knots",)

    def __init__(self, network: PictureFunction, knots: int = 1, levels: int = 64, lmbda: Sequence[float] = (0.0013, 0.18)):
        super().__init__(levels, lmbda)
        if not isinstance(network, PictureFunction) or not 1 <= knots <= levels:
            raise ValueError("the network is a function that draws pictures, with at least one knot")
        self.knots = nn.ModuleList([network, *(copy.deepcopy(network) for _ in range(knots - 1))])
        self.plan = plan_of(None, None)

    def fit_for(self, seconds: float) -> None:
        self.plan = plan_of(None, seconds)

    def freeze(self) -> None:
        """There is nothing to freeze: tables follow from arithmetic."""

    def network(self, level: float) -> PictureFunction:
        """A function as it is before a fit, the same on every machine to the last bit."""
        place = level / max(self.levels - 1, 1) * (len(self.knots) - 1)
        below = min(int(place), max(len(self.knots) - 2, 0))
        low, high = self.knots[below], self.knots[min(below + 1, len(self.knots) - 1)]
        network = copy.deepcopy(low).requires_grad_(True)
        with torch.no_grad():
            for value, first, second in zip(network.parameters(), low.parameters(), high.parameters()):
                ends = [each.detach().cpu().numpy().astype(np.float64) for each in (first, second)]
                value.copy_(torch.from_numpy(ends[0] + (ends[1] - ends[0]) * (place - below)))
        assert isinstance(network, PictureFunction)
        return network

    def compress(
        self,
        x: Tensor,
        level: float,
        plan: Plan | None = None,
        report: Report = nothing,
        aim: Aim | None = None,
        checkpoint: Path | None = None,
    ) -> Compressed:
        """One picture (1, 3, H, W) in 0…1 to streams of bytes.

        Args:
            plan: of the fit; by default that of the codec.
            report: told after every step.
            aim: what the streams are to be, instead of what the level's λ makes of them.
            checkpoint: file to keep the state of the fit in, and to go on from if it is there; removed at the end.
        """
        began = time.monotonic()
        plan = plan or self.plan
        piece = Piece(self.network(level)).to(x.device)
        with torch.inference_mode(False), torch.enable_grad():
            fit = Fit(piece, x[0].clone(), float(self.lmbda(torch.tensor(level))), plan if aim is None else plan.shortened(FIRST))
            state = None
            if checkpoint is not None:
                digest = hashlib.sha256(x.cpu().numpy().tobytes()).hexdigest()
                state = State(checkpoint, f"{digest} {(self.fingerprint or b'').hex()} {level} {plan} {aim}")
            steering = None if aim is None else Steering(aim, fit)
            fit.run(report, state, steering)
            if steering is not None:
                correct(fit, steering, lambda: self._measured(fit, level), report, began + MOST_TIME * (plan.seconds or math.inf))
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        return self.coded(piece, [latent.detach() for latent in fit.latents], level)

    def _measured(self, fit: Fit, level: float) -> tuple[int, float]:
        """Bytes and mean squared error of 8-bit pixels in 0…1 of what a fit has found so far."""
        streams = self.coded(fit.piece, [latent.detach() for latent in fit.latents], level).streams
        picture = self.decompress(streams, (fit.height, fit.width), level).signal[0]
        error = float((torch.round(picture.clamp(0, 1) * 255) - fit.picture * 255).square().mean()) / 255**2
        return sum(map(len, streams)), error

    @torch.no_grad()
    def coded(self, piece: Piece, latents: Sequence[Tensor], level: float) -> Compressed:
        """The streams of what was fitted."""
        weights, integers = piece.coder.encode(piece.differences())
        network = self._with_weights(weights, level)[0]
        symbols = {f"latents {number}": torch.round(latent).int().cpu() for number, latent in enumerate(latents)}
        return Compressed([weights, network.encode(latents)], {"weights": torch.from_numpy(integers), **symbols})

    @torch.inference_mode()
    def decompress(self, streams: Sequence[bytes], size: tuple[int, ...], level: float) -> Decompressed:
        height, width = size
        network, integers = self._with_weights(streams[0], level)
        latents = network.decode(streams[1], height, width)
        symbols = {f"latents {number}": latent.int().cpu() for number, latent in enumerate(latents)}
        picture = network.draw(latents, height, width)
        if not torch.isfinite(picture).all():
            raise CorruptStream("the weights in the file draw no picture")
        return Decompressed(picture[None], {"weights": torch.from_numpy(integers), **symbols})

    @torch.no_grad()
    def _with_weights(self, stream: bytes, level: float) -> tuple[PictureFunction, np.ndarray]:
        """The function with the weights of a stream, and the integers in it."""
        network = self.network(level)
        piece = Piece(network).to(next(network.parameters()).device)
        differences, integers = piece.coder.decode(stream)
        values = piece.whole(differences)
        for name, parameter in network.named_parameters():
            parameter.copy_(values[name])
        return network, integers


__all__ = ["FittedPicture", "Plan", "plan_of"]
