"""Published rate–distortion curves, and BD-rate between curves.

Bjøntegaard 2001, VCEG-M33: the mean difference of log rate over the range of quality that two curves share, as a percentage. Differs in
that log rate is interpolated piecewise, which follows curves of many points, not by one cubic: by PCHIP, as JCT-VC's own sheet does, and
beside it by Akima's method, which Herglotz et al. 2022, https://arxiv.org/abs/2202.12565, found closer to the points between (both by the
library ``bjontegaard``). Where the two differ, points are too far apart for either to be believed to that digit.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

from neuralcodec.eval.modalities import Modality
from neuralcodec.eval.results import Comparison, Curve, Point

PUBLISHED = {
    modality: {path.stem: path for path in sorted((Path(__file__).parent / "anchors" / modality).glob("*.json"))}
    for modality in ("image", "audio", "video")
}
METHODS = ("pchip", "akima")  # of interpolation
MIN_POINTS = 4
FULL_OVERLAP = 0.75  # share of both curves' range below which a BD-rate gets a note


def published(name: str, modality: Modality) -> Curve:
    """A curve that others have published: means over a test set.

    Raises:
        KeyError: no such curve.
    """
    content = json.loads(PUBLISHED[modality.name][name].read_text(encoding="utf-8"))
    results = {metric.replace("-", "_"): values for metric, values in content["results"].items()}
    rates = results.pop(modality.rate_unit)
    points = []
    for i, rate in enumerate(rates):
        quality = {metric: values[i] for metric, values in results.items() if values[i] is not None}
        points.append(Point(None, rate, quality | modality.metrics.derived(quality, {})))
    details = {"reference": content["reference"]} if "reference" in content else {}
    return Curve(name, "published", content["description"], points, content["protocol"], content["source"], details)


def bd_rate(curve: Curve, anchor: Curve, metric: str, least: int = MIN_POINTS) -> Comparison:
    """BD-rate of a curve against an anchor: percent of the anchor's rate at equal quality, negative is better.

    The result has no number, and a note that says why, where the curves are of different test sets, either has fewer points than ``least``,
    or they share no range of quality.
    """

    def verdict(
        value: float | None = None, low: float | None = None, high: float | None = None, note: str = "", akima: float | None = None
    ) -> Comparison:
        return Comparison(curve.name, curve.kind, anchor.name, anchor.kind, metric, value, low, high, note, akima)

    if curve.protocol != anchor.protocol:
        return verdict(note=f"not comparable: {curve.label} is of {curve.protocol}, {anchor.label} of {anchor.protocol}")
    sides, offered = [], []
    for side in (anchor, curve):
        if any(point.left_out.get(metric) for point in side.points):
            return verdict(note=f"not comparable: {metric} of {side.label} is a mean over those items only for which it is defined")
        pairs = [(point.rate, point.quality[metric]) for point in side.points if point.quality.get(metric) is not None]
        kept = _increasing(pairs)
        if len(kept) < least:
            return verdict(note=f"BD-rate needs {least} points; {side.label} has {len(kept)}")
        sides.append(kept)
        offered.append(len(pairs))
    (anchor_rates, anchor_quality), (rates, quality) = (zip(*side) for side in sides)
    low, high = max(min(quality), min(anchor_quality)), min(max(quality), max(anchor_quality))
    if low >= high:
        ranges = [f"{min(values):.4g}…{max(values):.4g}" for values in (quality, anchor_quality)]
        return verdict(note=f"the curves do not overlap: {curve.label} covers {ranges[0]}, {anchor.label} {ranges[1]}")
    import bjontegaard  # here, because it imports matplotlib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the overlap; the note says it
        options = {"require_matching_points": False, "min_overlap": 0}
        value, akima = (
            float(bjontegaard.bd_rate(anchor_rates, anchor_quality, rates, quality, method=method, **options)) for method in METHODS
        )
    share = (high - low) / (max(*quality, *anchor_quality) - min(*quality, *anchor_quality))
    notes = [f"the shared range is {share:.0%} of the two curves' range"] if share < FULL_OVERLAP else []
    for side, kept, count in zip((anchor, curve), sides, offered):
        if dropped := count - len(kept):
            notes.append(f"{dropped} point(s) of {side.label} left out that cost more and give no more")
    return verdict(value, low, high, "; ".join(notes), akima)


def compare(all_curves: Sequence[Curve], anchor: Curve, metrics: Sequence[str]) -> list[Comparison]:
    """BD-rates of all other curves by the first metric, and by those others that both curves have."""
    return [
        bd_rate(curve, anchor, metric)
        for metric in metrics
        for curve in all_curves
        if curve is not anchor
        and (metric == metrics[0] or all(metric in point.quality for each in (curve, anchor) for point in each.points))
    ]


def _increasing(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """In order of rate, without those that a cheaper point equals or beats: quality must rise for rate to be a function of it."""
    kept: list[tuple[float, float]] = []
    for rate, quality in sorted(pairs, key=lambda pair: (pair[0], -pair[1])):
        if not kept or quality > kept[-1][1]:
            kept.append((rate, quality))
    return kept
