"""Items to look at or to listen to in the report: the original, and what every codec makes of it at about the same rate.

Each modality has a module with two functions: ``excerpt(signal)``, what of an item is coded, and ``embedded(signal, original)``, what of a
decoded signal (or the original) the page holds, as JSON with data URLs.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from neuralcodec.eval.candidates import Candidate
from neuralcodec.eval.modalities import Modality, Source
from neuralcodec.eval.results import Curve

SHARE = 0.1  # of the shared range of rates, from its lower end, where differences are easy to see or hear
CLOSE = 0.02  # relative error of a rate that is close enough
STEPS = 4  # files coded in search of a rate


class Coded(NamedTuple):
    signal: Any
    rate: float  # of the whole file


def sample(
    modality: Modality,
    codecs: Sequence[Candidate],
    source: Source,
    curves: Sequence[Curve] = (),
    rate: float | None = None,
    advance: Callable[..., object] | None = None,
) -> dict:
    """One item for the page.

    Args:
        curves: of the codecs, whose points say where to begin to look for the rate.
        rate: in the modality's unit; by default low in the range that the curves share.
        advance: called after each codec.
    """
    module = importlib.import_module(f"neuralcodec.eval.samples.{modality.name}")
    signal = module.excerpt(modality.read(source.path))
    known = {curve.name: rates(curve, source.item.name) for curve in curves if curve.kind == "measured"}
    rate = rate or shared_rate([list(each.values()) for each in known.values() if each])
    versions = [{"name": "original", "rate": None, "quality": {}, **module.embedded(signal, signal)}]
    for codec in codecs:
        coded = at_rate(codec, modality, signal, rate, known.get(codec.name, {}))
        values = modality.metrics.quality(signal, coded.signal)
        values |= modality.metrics.derived(values, modality.metrics.errors(signal, coded.signal))
        quality = {metric: values[metric] for metric in modality.metrics.TITLES if metric in values}
        versions.append({"name": codec.name, "rate": coded.rate, "quality": quality, **module.embedded(coded.signal, signal)})
        if advance:
            advance()
    return {"item": source.item.name, "rate": rate, "versions": versions}


def rates(curve: Curve, item: str) -> dict[float, float]:
    """Setting → rate of one item, as measured."""
    files = [(point.setting, file) for point in curve.points for file in point.files if file.item == item]
    return {setting: file.rate for setting, file in files if setting is not None}


def shared_rate(measured: Sequence[Sequence[float]]) -> float:
    """A rate low in the range that all have, or midway between the ranges if they share none."""
    low, high = max(map(min, measured)), min(map(max, measured))
    return low * (high / low) ** SHARE if low < high else math.sqrt(low * high)


def at_rate(codec: Candidate, modality: Modality, signal: Any, rate: float, known: Mapping[float, float] | None = None) -> Coded:
    """Interpolate between the codec's settings, again and again, for the file whose rate comes nearest to ``rate``.

    Args:
        known: setting → rate, of this signal or a similar one.
    """
    extent = modality.extent(signal)
    places = {setting: float(place) for place, setting in enumerate(codec.settings)}
    points = {places[setting]: math.log(each) for setting, each in (known or {}).items() if setting in places}
    tried: dict[float, bytes] = {}
    for _ in range(STEPS):
        place = _crossing(points, math.log(rate), len(codec.settings) - 1)
        if not codec.continuous:
            place = float(round(place))
        if place in tried:
            break
        tried[place] = codec.encode(signal, float(np.interp(place, range(len(codec.settings)), codec.settings))).data
        points[place] = math.log(len(tried[place]) * 8 / extent)
        if abs(points[place] - math.log(rate)) < CLOSE:
            break
    best = min(tried, key=lambda place: abs(points[place] - math.log(rate)))
    decoded = codec.decode(tried[best]).signal
    return Coded(decoded if codec.exact else modality.conform(decoded, signal), len(tried[best]) * 8 / extent)


def _crossing(points: Mapping[float, float], target: float, last: float) -> float:
    """Where log rate is ``target``: between the nearest points below and above, linearly; midway to the end on whose side there is none."""
    below = max((place for place, value in points.items() if value <= target), default=None)
    above = min((place for place, value in points.items() if value > target), default=None)
    if below is None or above is None or above < below:  # the last: rates that do not rise with the setting
        return ((0.0 if below is None else below) + (last if above is None else above)) / 2
    share = (target - points[below]) / (points[above] - points[below])
    return below + (above - below) * min(0.95, max(0.05, share))
