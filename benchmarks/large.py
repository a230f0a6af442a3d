"""Seconds and peak memory of coding large pictures with the default model, as the program does it, from PNG to PNG.

Run: ``python benchmarks/large.py [MEGAPIXELS …]``; by default 12 and 100. Each line is a process of its own: its start counts.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data as photographs
from timing import measured


def mosaic(megapixels: float) -> np.ndarray:
    """Two photographs, side by side and again and again: (side, side, 3) with so many pixels."""
    pair = np.concatenate((photographs.astronaut()[:400], photographs.coffee()), 1)
    side = round((megapixels * 1e6) ** 0.5)
    return np.tile(pair, (-(-side // pair.shape[0]), -(-side // pair.shape[1]), 1))[:side, :side]


def main() -> None:
    program = str(Path(sys.executable).with_name("neuralcodec"))
    for megapixels in map(float, sys.argv[1:] or ("12", "100")):
        with tempfile.TemporaryDirectory() as folder:
            original, coded, decoded = (str(Path(folder) / name) for name in ("original.png", "coded.nci", "decoded.png"))
            pixels = mosaic(megapixels)
            Image.fromarray(pixels).save(original, compress_level=1)
            print(f"{pixels.shape[1]}×{pixels.shape[0]}, {pixels.size / 3e6:.1f} megapixels")
            encode = measured(program, "encode", original, "-o", coded)
            bpp = os.path.getsize(coded) * 8 / (pixels.size / 3)
            print(f"  encode {encode[0]:6.1f} s  peak {encode[1]:.2f} GB  {bpp:.3f} bpp")
            decode = measured(program, "decode", coded, "-o", decoded)
            with Image.open(decoded) as image:
                rows = np.asarray(image.crop((0, 0, image.width, 2048))).astype(np.float32)
            psnr = 10 * np.log10(255**2 / np.square(rows - pixels[:2048]).mean())
            print(f"  decode {decode[0]:6.1f} s  peak {decode[1]:.2f} GB  PSNR {psnr:.2f} dB of the upper rows")


if __name__ == "__main__":
    Image.MAX_IMAGE_PIXELS = None
    main()
