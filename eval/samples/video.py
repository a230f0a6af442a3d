"""Clips on the page: frames of the middle of the picture, as single pictures, so that all codecs are seen at the same frame."""

from __future__ import annotations

from neuralcodec.datasets.video import Clip
from neuralcodec.eval.samples.image import webp

SECONDS = 2.0
FRAMES = 60  # at most, coded
SIDES = 480, 272  # width and height at most, shown
HIGHEST_RATE = 30  # frames per second shown
QUALITY = 92  # of WebP, far above what is compared


def excerpt(clip: Clip) -> Clip:
    """The first frames."""
    return clip.first(max(1, min(FRAMES, round(SECONDS * clip.rate))))


def embedded(clip: Clip, original: Clip) -> dict:
    """Pictures, and how many of them are a second."""
    shown = clip.cropped(min(SIDES[0], clip.width), min(SIDES[1], clip.height))
    step = -(-clip.rate // HIGHEST_RATE)
    pictures = [webp(shown.rgb(index), quality=QUALITY, method=4) for index in range(0, len(shown), step)]
    return {"width": shown.width, "height": shown.height, "rate_of_frames": float(clip.rate / step), "pictures": pictures}
