"""The quickest look: a photograph becomes a small file and comes back; the Kodak curve is drawn if Kodak is at hand.

python benchmarks/demo.py [OUT_FOLDER]
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data as photographs

import neuralcodec
from neuralcodec.cli import main as neuralcodec_command
from neuralcodec.datasets.folders import kodak_folder
from neuralcodec.datasets.images import to_tensor
from neuralcodec.eval.metrics.image import psnr


def main() -> int:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo")
    out.mkdir(parents=True, exist_ok=True)
    photograph = photographs.astronaut()
    Image.fromarray(photograph).save(out / "original.png")
    neuralcodec.encode(photograph[:64, :64])  # the first call loads the weights
    print(f"astronaut, {photograph.shape[1]}×{photograph.shape[0]}, from scikit-image, through image-tiny:")
    print(f"{'quality':>8} {'bytes':>8} {'bpp':>7} {'PSNR dB':>8} {'encode s':>9} {'decode s':>9}")
    for quality in (10, 35, 60, 85):
        start = time.perf_counter()
        coded = neuralcodec.encode(photograph, quality=quality)
        encoded = time.perf_counter()
        decoded = neuralcodec.decode(coded)
        done = time.perf_counter()
        (out / f"quality{quality}.nci").write_bytes(coded)
        Image.fromarray(decoded).save(out / f"quality{quality}.png")
        pixels = photograph.shape[0] * photograph.shape[1]
        quality_db = psnr(to_tensor(photograph), to_tensor(np.ascontiguousarray(decoded)))
        print(f"{quality:8} {len(coded):8} {len(coded) * 8 / pixels:7.3f} {quality_db:8.2f} {encoded - start:9.2f} {done - encoded:9.2f}")
    print(f"files and pictures: {out}")
    try:
        kodak_folder(download=False)
    except FileNotFoundError:
        print("Kodak is not here, so there is no curve: set NEURALCODEC_DATA, or run `neuralcodec eval kodak`, which downloads it")
        return 0
    print("\nKodak, all 24 images:")
    codecs = [word for name in ("image-tiny", "jpeg", "webp") for word in ("--codec", name)]
    return neuralcodec_command(["eval", "kodak", *codecs, "--points", "5", "--anchor", "jpeg", "-f", "-o", str(out / "kodak")])


if __name__ == "__main__":
    raise SystemExit(main())
