"""Code Kodak as CompressAI did for its published curves of JPEG, WebP and AV1, and print how far from them, and from each other, that is.

JPEG and WebP are what Pillow does when told nothing but the quality. AV1 is aomenc (Debian package aom-tools) at its slowest, one
picture in 8-bit 4:4:4 BT.709 in a WebM file; the conversion from and to RGB cuts fractions off, and PSNR is against the converted picture,
so that what the conversion loses does not count. It takes some 10 seconds a file. ``av1-original`` is the same against the original, and
``avif``, ``avif-slow`` and ``avif-slow-8`` go from there to our own AVIF one step at a time. Only all 24 images compare with what is
published; fewer compare with each other: ``python benchmarks/anchors.py --limit 4 --codec av1 --codec av1-original --codec avif-slow-8 …``
"""

import argparse
import io
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image

from neuralcodec.datasets import colour
from neuralcodec.datasets.folders import kodak_folder, list_images, read_rgb
from neuralcodec.eval import curves
from neuralcodec.eval.classical.image import Avif
from neuralcodec.eval.metrics.image import mse, psnr_of_mse
from neuralcodec.eval.modalities import Images
from neuralcodec.eval.results import Curve, Point

AOMENC = [
    "--i444",
    "--input-bit-depth=8",
    "--bit-depth=8",
    "--fps=1/1",
    "--limit=1",
    "--passes=2",
    "--end-usage=q",
    "--cpu-used=0",
    "--threads=1",
    "--tune=psnr",
]
MIDDLE = np.array([0, 0.5, 0.5])  # of Y', Cb and Cr


def pillow(kind: str):
    def code(pixels: np.ndarray, quality: int) -> tuple[bytes, float]:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, quality=quality)
        with Image.open(buffer) as image:
            return buffer.getvalue(), psnr_of_mse(mse(pixels, np.array(image.convert("RGB"))))

    return code


def av1(pixels: np.ndarray, quality: int, original: bool = False) -> tuple[bytes, float]:
    planes = np.clip((colour.planes(pixels) + MIDDLE) * 255, 0, 255).astype(np.uint8)
    height, width = pixels.shape[:2]
    with tempfile.TemporaryDirectory() as folder:
        raw, coded, back = (Path(folder) / name for name in ("raw.yuv", "coded.webm", "back.yuv"))
        raw.write_bytes(np.moveaxis(planes, -1, 0).tobytes())
        size = ["-w", str(width), "-h", str(height)]
        subprocess.run(["aomenc", *size, *AOMENC, f"--cq-level={quality}", "-o", str(coded), str(raw)], check=True, capture_output=True)
        subprocess.run(["aomdec", str(coded), "--rawvideo", "-o", str(back)], check=True, capture_output=True)
        planes_hat = np.moveaxis(np.frombuffer(back.read_bytes(), np.uint8).reshape(3, height, width), 0, -1)
        return coded.read_bytes(), psnr_of_mse(mse(pixels if original else _rgb(planes), _rgb(planes_hat)))


def avif(pixels: np.ndarray, quality: int, bits: int = 10, speed: int = 4) -> tuple[bytes, float]:
    """As the codec ``avif`` of ``neuralcodec eval``, but for what is named."""
    codec = Avif("avif", "444")
    options = {**codec.options, "bitspersample": bits, "speed": speed}
    peak = 2**bits - 1
    deep = np.round(pixels * (peak / 255)).astype(np.uint16 if bits > 8 else np.uint8)
    data = bytes(imagecodecs.avif_encode(deep, level=quality, **options))
    pixels_hat = np.round(imagecodecs.avif_decode(data) * (255 / peak)).astype(np.uint8)
    return data, psnr_of_mse(mse(pixels, pixels_hat))


def _rgb(planes: np.ndarray) -> np.ndarray:
    rgb = (planes / 255 - MIDDLE) @ colour.INVERSE["bt709"].T
    return (rgb.clip(0, 1) * 255).astype(np.uint8)


CODECS = {
    "jpeg": (pillow("JPEG"), (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95)),
    "webp": (pillow("WEBP"), (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)),
    "av1": (av1, (63, 55, 45, 35, 25, 15)),
    "av1-original": (partial(av1, original=True), (63, 55, 45, 35, 25, 15)),
    "avif-slow-8": (partial(avif, bits=8, speed=0), (10, 25, 40, 55, 70, 85)),
    "avif-slow": (partial(avif, speed=0), (10, 25, 40, 55, 70, 85)),
    "avif": (avif, (10, 25, 40, 55, 70, 85)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", action="append", choices=list(CODECS), help="repeatable (default: jpeg and webp)")
    parser.add_argument("--limit", type=int, help="the first N images")
    options = parser.parse_args()
    pictures = [read_rgb(path) for path in list_images(kodak_folder())[: options.limit]]
    measured: list[Curve] = []
    for name in options.codec or ("jpeg", "webp"):
        code, qualities = CODECS[name]
        points = []
        for quality in qualities:
            coded = [(len(data) * 8 / pixels[..., 0].size, psnr) for pixels in pictures for data, psnr in [code(pixels, quality)]]
            rate, psnr = np.mean(coded, axis=0)
            points.append(Point(quality, float(rate), {"psnr_rgb": float(psnr)}))
            print(f"{name} {quality:2}: {rate:.4f} bpp, {psnr:.3f} dB", flush=True)
        measured.append(Curve(name, "measured", "", points, "kodak"))
        if options.limit is None and name in curves.PUBLISHED["image"]:
            tell(measured[-1], curves.published(name, Images()))
        elif len(measured) > 1:
            tell(measured[-1], measured[0])


def tell(curve: Curve, anchor: Curve) -> None:
    result = curves.bd_rate(curve, anchor, "psnr_rgb")
    print(
        f"{curve.name} against {anchor.label}: BD-rate {result.bd_rate:+.2f} % ({result.low:.2f}…{result.high:.2f} dB) {result.note}",
        flush=True,
    )


if __name__ == "__main__":
    main()
