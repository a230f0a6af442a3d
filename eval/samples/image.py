"""Pictures on the page: the middle of an image, losslessly."""

from __future__ import annotations

import base64
import io

import numpy as np
import PIL.Image

SIDES = 768, 512  # width and height at most


def excerpt(pixels: np.ndarray) -> np.ndarray:
    """All of it."""
    return pixels


def embedded(pixels: np.ndarray, original: np.ndarray) -> dict:
    """One picture of the middle of (H, W, 3) uint8 RGB."""
    height, width = pixels.shape[:2]
    left, top = max(0, (width - SIDES[0]) // 2), max(0, (height - SIDES[1]) // 2)
    shown = pixels[top : top + SIDES[1], left : left + SIDES[0]]
    return {"width": shown.shape[1], "height": shown.shape[0], "pictures": [webp(shown, lossless=True, exact=True)]}


def webp(pixels: np.ndarray, **options) -> str:
    """A data URL."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "WEBP", **options)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
