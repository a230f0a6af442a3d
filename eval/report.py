"""``report.html``: one page that needs nothing else: plot, tables, and decoded images side by side at about the same rate."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image

from neuralcodec.datasets.images import read_rgb
from neuralcodec.eval.candidates import Candidate
from neuralcodec.eval.metrics import image as metrics
from neuralcodec.eval.modalities import MODALITIES, Source
from neuralcodec.eval.results import Results, write

TEMPLATE = Path(__file__).with_name("report.html")
CROP = 512, 384  # width and height at most of an image shown
SAMPLE_BPP = 0.25  # where differences between codecs are easy to see
SEARCH_STEPS = 7


class Coded(NamedTuple):
    pixels: np.ndarray
    bpp: float


def save(results: Results, samples: Sequence[dict], path: str | Path) -> None:
    """Write the page.

    Args:
        samples: of :func:`sample`.
    """
    kind = MODALITIES[results.dataset.modality]
    content = {**asdict(results), "rate_title": kind.rate_title, "cost_unit": kind.cost_unit, "samples": list(samples)}
    text = json.dumps(content, ensure_ascii=False, allow_nan=False).replace("</", "<\\/")  # no text may end the script element
    write(Path(path), TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/", text))


def sample(codecs: Sequence[Candidate], image: Source, advance: Callable[[], None] | None = None) -> dict:
    """An image's crop as it is, and as every codec gives it back at about :data:`SAMPLE_BPP`."""
    pixels = read_rgb(image.path)
    shown: list[dict[str, str | float | None]] = [{"name": "original", "bpp": None, "psnr_rgb": None, "source": _embedded(pixels)}]
    for codec in codecs:
        coded = at_rate(codec, pixels, SAMPLE_BPP)
        psnr = metrics.psnr_of_mse(metrics.mse(pixels, coded.pixels))
        shown.append({"name": codec.name, "bpp": coded.bpp, "psnr_rgb": psnr, "source": _embedded(coded.pixels)})
        if advance:
            advance()
    return {"item": image.item.name, "images": shown}


def at_rate(codec: Candidate, pixels: np.ndarray, bpp: float) -> Coded:
    """Bisect the codec's settings for the file whose size comes nearest to ``bpp``."""
    count = pixels.shape[0] * pixels.shape[1]
    small, large = codec.settings[0], codec.settings[-1]
    tried: dict[float, bytes] = {}
    for _ in range(SEARCH_STEPS):
        setting = (small + large) / 2
        tried[setting] = codec.encode(pixels, setting).data
        if len(tried[setting]) * 8 / count < bpp:
            small = setting
        else:
            large = setting
    best = min(tried.values(), key=lambda data: abs(np.log(len(data) * 8 / count / bpp)))
    return Coded(codec.decode(best).signal, len(best) * 8 / count)


def _embedded(pixels: np.ndarray) -> str:
    """The middle of an image, losslessly, as a data URL."""
    height, width = pixels.shape[:2]
    left, top = max(0, (width - CROP[0]) // 2), max(0, (height - CROP[1]) // 2)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels[top : top + CROP[1], left : left + CROP[0]]).save(buffer, "WEBP", lossless=True, exact=True)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
