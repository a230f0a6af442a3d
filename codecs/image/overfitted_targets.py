"""Sizes and qualities that a fitted picture is to have: λ follows them while the fit goes on, so that one fit is enough.

The multiplier is moved by what the rate, or the error, is off by, on logarithmic scales, as in rate control of video encoders. What is left
at the end, real bytes against estimated ones, another stretch of the fit puts right, and then a few more steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from neuralcodec.codecs.image.overfitted_fit import Fit
from neuralcodec.codecs.image.tiles import Report, nothing

SETTLED = 0.1  # share of a fit after which λ begins to follow
EVERY = 3  # steps between its moves
RATE_PER_NAT, DECIBELS_PER_NAT = 0.58, 2.75  # by which the logarithm of the rate, and PSNR, grow with that of λ
CAUTION, HASTE, BOLDEST = 0.05, 6.0, 0.5  # share of what is missing that λ moves for: each step, in all of a short fit; at most at once
WIDEST = 1.5  # nats that λ may get away from that of the level: steps of latents and initial weights are of the level
FORGOTTEN = 0.05  # nats that λ has moved by when integers that were refused are worth another try
CLOSE = {"bytes": math.log(1.015), "psnr": 0.05}  # within which an aim is met
FIRST = 0.45  # share of a fit's time that is taken before anything is corrected
STRETCH, STRETCHES = 0.35, 2  # how far a fit is taken to be when it goes on with another λ, and how often it may
FAR = {"bytes": 0.03, "psnr": 0.12}  # what is worth that
CORRECTIONS, CORRECTION_STEPS = 10, 8
LATE = 0.2  # of the learning rates of weights, in corrections
IMPATIENCE = 1.5  # factor on how far λ moves, from correction to correction: a few steps follow it only in part


class Aim(NamedTuple):
    kind: str  # bytes, psnr
    value: float  # bytes of the streams, or dB
    ceiling: bool = False  # never more

    def missing(self, size: float, error: float) -> float:
        """By how much a rate should grow, in nats, or PSNR, in dB."""
        if self.kind == "bytes":
            return math.log(self.value * (0.995 if self.ceiling else 1.0) / max(size, 1.0))
        return self.value + 10 * math.log10(max(error, 1e-12))

    def met(self, size: float, error: float) -> bool:
        missing = self.missing(size, error)
        return -0.004 <= missing <= 2 * CLOSE["bytes"] if self.ceiling else abs(missing) <= CLOSE[self.kind]

    def distance(self, size: float, error: float) -> tuple[bool, float]:
        """The smaller the better: whether it is above a ceiling, and by how much an aim is missed."""
        return self.ceiling and size > self.value, abs(self.missing(size, error))


class Steering:
    """Moves a fit's λ towards an aim."""

    def __init__(self, aim: Aim, fit: Fit):
        self.aim, self.usual = aim, fit.lmbda
        self.slope = RATE_PER_NAT if aim.kind == "bytes" else DECIBELS_PER_NAT
        self.gap = 0.0  # what is missing besides once latents are integers
        self.forgotten = fit.lmbda  # when what integers refused was forgotten last

    def __call__(self, fit: Fit) -> None:
        passes, within = divmod(fit.done, len(fit.bands))
        if fit.progress > SETTLED and within == 0 and passes % EVERY == 0:
            missing = self._missing(fit, fit.bpp, fit.error) + (0.0 if fit.whole else self.gap)
            self.move(fit, missing, min(BOLDEST, EVERY * max(CAUTION, HASTE * fit.progress / passes)))

    def _missing(self, fit: Fit, bpp: float, error: float) -> float:
        return self.aim.missing(bpp * fit.height * fit.width / 8, error)

    def learn(self, fit: Fit, missing: float) -> None:
        """What is missing at the end."""
        if math.isfinite(fit.soft[0]):
            self.gap = missing - self._missing(fit, *fit.soft)

    def move(self, fit: Fit, missing: float, caution: float) -> None:
        nats = math.log(fit.lmbda / self.usual) + caution * missing / self.slope
        fit.lmbda = self.usual * math.exp(min(max(nats, -WIDEST), WIDEST))
        if fit.search is not None and abs(math.log(fit.lmbda / self.forgotten)) > FORGOTTEN:
            fit.search.forget()
            self.forgotten = fit.lmbda


def correct(
    fit: Fit, steering: Steering, measure: Callable[[], tuple[int, float]], report: Report = nothing, deadline: float = math.inf
) -> None:
    """Another stretch of the fit or two while it is far off, and a few more steps, until what a file holds meets the aim.

    What came closest is what the fit has in the end.

    Args:
        measure: bytes and mean squared error (of 0…1) of the real streams.
        report: told of the steps of that stretch.
        deadline: of :func:`time.monotonic`, after which there are no corrections.
    """
    closest: tuple[tuple[bool, float], list[Tensor]] | None = None
    for number in range(CORRECTIONS + 1):
        size, error = measure()
        distance = steering.aim.distance(size, error)
        if closest is None or distance < closest[0]:
            closest = distance, fit.found()
        if steering.aim.met(size, error) or time.monotonic() > deadline or number == CORRECTIONS:
            break
        missing = steering.aim.missing(size, error)
        steering.learn(fit, missing)
        steering.move(fit, missing, IMPATIENCE ** max(number - STRETCHES, 0))
        if number < STRETCHES and abs(missing) > FAR[steering.aim.kind]:
            fit.go_back(STRETCH)
            fit.run(report, None, steering)
        else:
            fit.slowest = max(fit.slowest, LATE)
            for _ in range(CORRECTION_STEPS):
                fit.step()
            fit.finish()
    assert closest is not None
    fit.restore(closest[1])


__all__ = ["FIRST", "Aim", "Steering", "correct"]
