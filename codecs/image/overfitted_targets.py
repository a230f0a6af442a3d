"""Sizes and qualities that a fitted picture is to have: λ follows them while the fit goes on, so that one fit is enough.

The multiplier is moved by what the rate, or the error, is off by, on logarithmic scales, as in rate control of video encoders. What is left
at the end, real bytes against estimated ones, another stretch of the fit puts right, and then a few more steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from neuralcodec.codecs.image.overfitted_fit import Fit
from neuralcodec.codecs.image.tiles import Report, nothing

SETTLED = 0.1  # share of a fit after which λ begins to follow
EVERY = 3  # steps between its moves
RATE_PER_NAT, DECIBELS_PER_NAT = 0.58, 2.75  # by which the logarithm of the rate, and PSNR, grow with that of λ
CAUTION, HASTE, BOLDEST = 0.05, 6.0, 0.5  # share of what is missing that λ moves for: each step, in all of a short fit; at most at once
WIDEST = 1.5  # nats that λ may get away from that of the level: steps of latents and initial weights are of the level
CLOSE = {"bytes": math.log(1.015), "psnr": 0.05}  # within which an aim is met
FIRST = 0.45  # share of a fit's time that is taken before anything is corrected
STRETCH, STRETCHES = 0.35, 2  # how far a fit is taken to be when it goes on with another λ, and how often it may
FAR = {"bytes": 0.03, "psnr": 0.12}  # what is worth that
CORRECTIONS, CORRECTION_STEPS = 10, 8
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


class Steering:
    """Moves a fit's λ towards an aim."""

    def __init__(self, aim: Aim, fit: Fit):
        self.aim, self.usual = aim, fit.lmbda
        self.slope = RATE_PER_NAT if aim.kind == "bytes" else DECIBELS_PER_NAT
        self.softly: float | None = None  # what was missing when latents were real numbers last
        self.gap = 0.0  # what is missing besides once they are integers

    def __call__(self, fit: Fit) -> None:
        if fit.progress > SETTLED and fit.done % (EVERY * len(fit.bands)) == 0:
            missing = self.aim.missing(fit.bpp * fit.height * fit.width / 8, fit.error)
            if fit.search is None:
                self.softly = missing
                missing += self.gap
            steps = fit.done / len(fit.bands) / fit.progress  # in all
            self.move(fit, missing, min(BOLDEST, EVERY * max(CAUTION, HASTE / steps)))

    def learn(self, missing: float) -> None:
        """What is missing at the end."""
        if self.softly is not None:
            self.gap = missing - self.softly

    def move(self, fit: Fit, missing: float, caution: float) -> None:
        nats = math.log(fit.lmbda / self.usual) + caution * missing / self.slope
        fit.lmbda = self.usual * math.exp(min(max(nats, -WIDEST), WIDEST))
        if fit.search is not None:
            fit.search.forget()


def correct(
    fit: Fit, steering: Steering, measure: Callable[[], tuple[int, float]], report: Report = nothing, deadline: float = math.inf
) -> None:
    """Another stretch of the fit or two while it is far off, and a few more steps, until what a file holds meets the aim.

    Args:
        measure: bytes and mean squared error (of 0…1) of the real streams.
        report: told of the steps of that stretch.
        deadline: of :func:`time.monotonic`, after which there are no corrections.
    """
    for number in range(CORRECTIONS):
        size, error = measure()
        if steering.aim.met(size, error) or time.monotonic() > deadline:
            return
        missing = steering.aim.missing(size, error)
        steering.learn(missing)
        steering.move(fit, missing, IMPATIENCE ** max(number - STRETCHES, 0))
        if number < STRETCHES and abs(missing) > FAR[steering.aim.kind]:
            fit.go_back(STRETCH)
            fit.run(report, None, steering)
        else:
            for _ in range(CORRECTION_STEPS):
                fit.step()
            fit.finish()


__all__ = ["FIRST", "Aim", "Steering", "correct"]
