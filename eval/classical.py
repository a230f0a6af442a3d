"""Classical image codecs, at the settings that make the smallest files for their quality."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import PIL
from PIL import Image, features

from neuralcodec.eval.candidates import Candidate, Decoded, Encoded


class Pillow(Candidate):
    """A format of Pillow at 8 bits.

    Args:
        name: as people ask for it.
        kind: the format, as Pillow names it.
        options: of ``Image.save``.
        feature: of ``PIL.features``, whose version is reported.
    """

    def __init__(self, name: str, kind: str, options: dict, description: str, settings: Sequence[float], feature: str):
        self.name, self.kind, self.options, self.settings = name, kind, options, settings
        self.description = f"{description}; setting: quality"
        self.details = {"library": f"Pillow {PIL.__version__}, {feature} {features.version(feature)}", "options": options}

    def encode(self, pixels: np.ndarray, setting: float) -> Encoded:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, self.kind, quality=round(setting), **self.options)
        return Encoded(buffer.getvalue())

    def decode(self, data: bytes) -> Decoded:
        with Image.open(io.BytesIO(data), formats=[self.kind]) as image:
            return Decoded(np.array(image.convert("RGB")))


_JPEG = Pillow(
    "jpeg",
    "JPEG",
    {"optimize": True, "subsampling": 2},
    "JPEG, 4:2:0, optimised Huffman tables",
    (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95),
    "libjpeg_turbo",
)
_WEBP = Pillow("webp", "WEBP", {"method": 6}, "WebP, lossy, method 6", (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100), "webp")

CLASSICAL: dict[str, Candidate] = {coder.name: coder for coder in (_JPEG, _WEBP)}
