"""Published rate–distortion curves, and BD-rate between curves.

Bjøntegaard 2001, VCEG-M33: the mean difference of log rate over the range of quality that two curves share, as a percentage. Differs in
that log rate is interpolated piecewise (PCHIP, by the library ``bjontegaard``), which follows curves of many points, not by one cubic.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

from neuralcodec.eval.metrics import decibels
from neuralcodec.eval.results import Comparison, Curve, Dataset, Point

PUBLISHED = {path.stem: path for path in sorted((Path(__file__).parent / "anchors" / "image").glob("*.json"))}
METRICS = {"psnr-rgb": "psnr_rgb", "ms-ssim-rgb": "ms_ssim_rgb"}  # as anchor files name them: as results do
KODAK_ITEMS = 24
COMPARED = ("psnr_rgb", "ms_ssim_rgb_db", "psnr_yuv611")  # metrics that get BD-rates
MIN_POINTS = 4
FULL_OVERLAP = 0.75  # share of both curves' range below which a BD-rate gets a note


def published(name: str) -> Curve:
    """A curve that others have published: means over all of Kodak.

    Raises:
        KeyError: no such curve.
    """
    content = json.loads(PUBLISHED[name].read_text(encoding="utf-8"))
    results = content["results"]
    metrics = {ours: results[theirs] for theirs, ours in METRICS.items() if theirs in results}
    if "ms_ssim_rgb" in metrics:
        metrics["ms_ssim_rgb_db"] = [decibels(value) for value in metrics["ms_ssim_rgb"]]
    points = [Point(None, bpp, {metric: values[i] for metric, values in metrics.items()}) for i, bpp in enumerate(results["bpp"])]
    details = {"dataset": content["dataset"]} | ({"reference": content["reference"]} if "reference" in content else {})
    return Curve(name, "published", content["description"], points, content["source"], details)


def whole_kodak(dataset: Dataset) -> bool:
    """Whether the published curves are of these images."""
    return sorted(item.name for item in dataset.items) == [f"kodim{number:02d}" for number in range(1, KODAK_ITEMS + 1)]


def bd_rate(curve: Curve, anchor: Curve, metric: str = "psnr_rgb") -> Comparison:
    """BD-rate of a curve against an anchor: percent of the anchor's rate at equal quality, negative is better.

    The result has no number, and a note that says why, where either curve has fewer than four points or they share no range of quality.
    """

    def verdict(value: float | None = None, low: float | None = None, high: float | None = None, note: str = "") -> Comparison:
        return Comparison(curve.name, curve.kind, anchor.name, anchor.kind, metric, value, low, high, note)

    sides = []
    for side in (anchor, curve):
        pairs = [(point.bpp, point.quality[metric]) for point in side.points if point.quality.get(metric) is not None]
        kept = _increasing(pairs)
        if len(kept) < MIN_POINTS:
            return verdict(note=f"BD-rate needs {MIN_POINTS} points; {side.label} has {len(kept)}")
        sides.append(kept)
    (anchor_rates, anchor_quality), (rates, quality) = (zip(*side) for side in sides)
    low, high = max(min(quality), min(anchor_quality)), min(max(quality), max(anchor_quality))
    if low >= high:
        ranges = [f"{min(values):.4g}…{max(values):.4g}" for values in (quality, anchor_quality)]
        return verdict(note=f"the curves do not overlap: {curve.label} covers {ranges[0]}, {anchor.label} {ranges[1]}")
    import bjontegaard  # here, because it imports matplotlib

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the overlap; the note says it
        options = {"method": "pchip", "require_matching_points": False, "min_overlap": 0}
        value = float(bjontegaard.bd_rate(anchor_rates, anchor_quality, rates, quality, **options))
    share = (high - low) / (max(*quality, *anchor_quality) - min(*quality, *anchor_quality))
    notes = [f"the shared range is {share:.0%} of the two curves' range"] if share < FULL_OVERLAP else []
    for side, kept in zip((anchor, curve), sides):
        if dropped := len(side.points) - len(kept):
            notes.append(f"{dropped} point(s) of {side.label} left out that cost more and give no more")
    return verdict(value, low, high, "; ".join(notes))


def compare(all_curves: Sequence[Curve], anchor: Curve) -> list[Comparison]:
    """BD-rates of all other curves by RGB PSNR, and by the other metrics that both curves have."""
    return [
        bd_rate(curve, anchor, metric)
        for metric in COMPARED
        for curve in all_curves
        if curve is not anchor
        and (metric == COMPARED[0] or all(metric in point.quality for each in (curve, anchor) for point in each.points))
    ]


def _increasing(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """In order of rate, without those that a cheaper point equals or beats: quality must rise for rate to be a function of it."""
    kept: list[tuple[float, float]] = []
    for rate, quality in sorted(pairs, key=lambda pair: (pair[0], -pair[1])):
        if not kept or quality > kept[-1][1]:
            kept.append((rate, quality))
    return kept
