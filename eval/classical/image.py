"""Classical image codecs, at settings that serve RGB PSNR as well as the libraries can at bearable speed.

Formats that code Y'CbCr beyond 8 bits get 10-bit samples, converted with rounding (:mod:`neuralcodec.datasets.colour`), and all are
compared with the original RGB. JPEG XL and AVIF come from ``imagecodecs``, which ``pip install neuralcodec[measure]`` brings.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Sequence

import numpy as np
import PIL
from PIL import Image, features

from neuralcodec.datasets import colour
from neuralcodec.eval.candidates import Candidate, Decoded, Encoded

BITS = 10


class Pillow(Candidate):
    """A format of Pillow at 8 bits.

    Args:
        name: as people ask for it.
        kind: the format, as Pillow names it.
        options: of ``Image.save``.
        settings: from the smallest files to the largest.
        feature: of ``PIL.features``, whose version is reported.
    """

    def __init__(self, name: str, kind: str, options: dict, description: str, settings: Sequence[float], feature: str):
        self.name, self.kind, self.options, self.settings = name, kind, options, settings
        self.description = f"{description}; setting: quality"
        self.feature = feature

    @property
    def details(self) -> dict:
        library = f"Pillow {PIL.__version__}, {self.feature} {features.version(self.feature)}"
        return {"library": library, "options": self.options}

    def encode(self, signal: np.ndarray, setting: float) -> Encoded:
        buffer = io.BytesIO()
        Image.fromarray(signal).save(buffer, self.kind, **self.save_options(setting))
        return Encoded(buffer.getvalue())

    def save_options(self, setting: float) -> dict:
        return {"quality": round(setting), **self.options}

    def decode(self, data: bytes) -> Decoded:
        with Image.open(io.BytesIO(data), formats=[self.kind]) as image:
            return Decoded(np.array(image.convert("RGB")))


class Jpeg2000(Pillow):
    """OpenJPEG: 9/7 wavelet, colour transform, a bare codestream. The setting is the PSNR that its rate control aims at, in dB."""

    def __init__(self):
        options = {"irreversible": True, "mct": 1, "no_jp2": True}
        settings = (22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42)
        super().__init__("jpeg2000", "JPEG2000", options, "JPEG 2000, 9/7 wavelet", settings, "jpg_2000")
        self.description = "JPEG 2000 codestream, 9/7 wavelet; setting: target PSNR in dB"

    def save_options(self, setting: float) -> dict:
        return {"quality_mode": "dB", "quality_layers": [setting], **self.options}


class ImageCodecs(Candidate):
    """A codec of the optional package ``imagecodecs``. Using it raises ``ModuleNotFoundError`` where :attr:`missing` names it."""

    @property
    def missing(self) -> str | None:
        return None if importlib.util.find_spec("imagecodecs") else "imagecodecs (pip install 'neuralcodec[measure]')"

    @property
    def details(self) -> dict:
        import imagecodecs

        version = next((part for part in imagecodecs.version().split(", ") if part.startswith(self.library)), self.library)
        return {"library": f"imagecodecs {imagecodecs.__version__}, {version}", "options": self.options}

    library: str
    options: dict


class JpegXl(ImageCodecs):
    """libjxl, lossy. It codes XYB and aims at perceived quality, not at PSNR. The setting is its Butteraugli distance."""

    name, library = "jpegxl", "libjxl"
    description = "JPEG XL codestream, effort 7, tuned for perceived quality; setting: distance"
    settings = (25, 15, 10, 7, 5, 3, 2, 1, 0.5, 0.2)
    options = {"effort": 7, "usecontainer": False}  # noqa: RUF012

    def encode(self, signal: np.ndarray, setting: float) -> Encoded:
        import imagecodecs

        return Encoded(bytes(imagecodecs.jpegxl_encode(signal, distance=setting, numthreads=os.cpu_count(), **self.options)))

    def decode(self, data: bytes) -> Decoded:
        import imagecodecs

        return Decoded(imagecodecs.jpegxl_decode(data, numthreads=os.cpu_count()))


class Avif(ImageCodecs):
    """libaom in an AVIF file: 10 bits, BT.709 matrix, converted by libavif.

    Args:
        name: as people ask for it.
        chroma: ``444`` or ``420``.
    """

    library = "libavif"
    settings = (10, 20, 30, 40, 50, 60, 70, 80, 90)

    def __init__(self, name: str, chroma: str):
        self.name = name
        self.options = {
            "pixelformat": chroma,
            "bitspersample": BITS,
            "codec": "aom",
            "speed": 4,
            "numthreads": 2,  # the bytes depend on it
            "primaries": 1,
            "transfer": 13,
            "matrix": 1,
        }
        self.description = f"AVIF, libaom speed 4, 10 bits, {':'.join(chroma)}; setting: quality"

    def encode(self, signal: np.ndarray, setting: float) -> Encoded:
        import imagecodecs

        deep = np.round(signal * ((2**BITS - 1) / 255)).astype(np.uint16)
        return Encoded(bytes(imagecodecs.avif_encode(deep, level=round(setting), **self.options)))

    def decode(self, data: bytes) -> Decoded:
        import imagecodecs

        deep = imagecodecs.avif_decode(data, numthreads=os.cpu_count())
        return Decoded(np.round(deep * (255 / (2**BITS - 1))).astype(np.uint8))


class Hevc(Candidate):
    """x265 by PyAV: one intra picture, 4:4:4 at 10 bits, as a bare stream whose header names matrix and range. The setting is the QP."""

    name = "hevc"
    description = "HEVC intra, bare stream, x265 veryslow tuned for PSNR, 10 bits, 4:4:4; setting: QP"
    settings = (46, 42, 38, 34, 30, 26, 22, 18)
    preset, tune, parameters = "veryslow", "psnr", "keyint=1:ipratio=1:info=0:log-level=none:range=full:colormatrix=bt709"

    @property
    def details(self) -> dict:
        import av

        return {"library": f"PyAV {av.__version__}", "options": {"preset": self.preset, "tune": self.tune, "x265-params": self.parameters}}

    def encode(self, signal: np.ndarray, setting: float) -> Encoded:
        import av

        height, width = signal.shape[:2]
        frame = av.VideoFrame(width, height, "yuv444p10le")
        for plane, samples in zip(frame.planes, np.moveaxis(colour.to_ycbcr(signal, BITS), -1, 0)):
            padded = np.zeros((height, plane.line_size // 2), np.uint16)
            padded[:, :width] = samples
            plane.update(padded.tobytes())
        frame.pts = 0
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="hevc") as file:
            stream = file.add_stream("libx265", rate=1)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p10le"
            stream.codec_context.options = {
                "preset": self.preset,
                "tune": self.tune,
                "x265-params": f"qp={round(setting)}:{self.parameters}",
            }
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        return Encoded(buffer.getvalue())

    def decode(self, data: bytes) -> Decoded:
        import av

        with av.open(io.BytesIO(data), "r", format="hevc") as file:
            frame = next(file.decode(video=0))
        planes = [np.frombuffer(memoryview(plane), np.uint16).reshape(frame.height, -1)[:, : frame.width] for plane in frame.planes]
        return Decoded(colour.to_rgb(np.stack(planes, -1), BITS))


_JPEG = Pillow(
    "jpeg",
    "JPEG",
    {"optimize": True, "subsampling": 2},
    "JPEG, 4:2:0, optimised Huffman tables",
    (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95),
    "libjpeg_turbo",
)
_WEBP = Pillow("webp", "WEBP", {"method": 6}, "WebP, lossy, method 6", (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100), "webp")

CODECS = (_JPEG, _WEBP, Jpeg2000(), JpegXl(), Avif("avif", "444"), Avif("avif-420", "420"), Hevc())
