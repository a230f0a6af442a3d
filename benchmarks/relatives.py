"""Functions that a picture can be fitted with, for equally long: PSNR at equal bytes of real files, and how long decoding takes.

Run: ``python benchmarks/relatives.py [--seconds 60]``. On Kodak 05 and 23, or other pictures. PSNR between two fits is interpolated over
the logarithm of the rate; a function that does not reach the rate at any level gets none.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path

import numpy as np
import torch
from timing import table

from neuralcodec.codecs.files import load
from neuralcodec.codecs.image.files import decode_picture, encode_picture
from neuralcodec.codecs.image.overfitted import FittedPicture
from neuralcodec.codecs.image.pictures import read_picture
from neuralcodec.datasets.folders import kodak_folder

RELATIVES = ("coin", "spder", "sape", "ani", "doh", "cam", "shacira", "gaussians")
COLUMNS = ("model", "picture", "level", "seconds", "bytes", "bpp", "psnr", "encode", "decode")


def measure(name: str, path: Path, level: float, seconds: float) -> dict[str, float | str]:
    """One file: its size, its quality and the time it took."""
    codec, picture = load(name), read_picture(path)
    began = time.perf_counter()
    data = encode_picture(codec, picture, level, seconds=seconds)
    encoded = time.perf_counter()
    decoded = decode_picture(data, [codec]).pixels
    error = np.square(decoded.astype(float) - picture.pixels).mean()
    return {
        "model": name,
        "picture": path.stem,
        "level": level,
        "seconds": seconds,
        "bytes": len(data),
        "bpp": 8 * len(data) / decoded[..., 0].size,
        "psnr": 10 * math.log10(255**2 / error),
        "encode": encoded - began,
        "decode": time.perf_counter() - encoded,
    }


def at_rate(fits: list[dict], bpp: float) -> float | None:
    """PSNR at a rate, if fits lie on both sides of it."""
    points = sorted((math.log(float(fit["bpp"])), float(fit["psnr"])) for fit in fits)
    rates, quality = zip(*points)
    return float(np.interp(math.log(bpp), rates, quality)) if rates[0] <= math.log(bpp) <= rates[-1] else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["image-overfitted", *(f"image/{name}" for name in RELATIVES)])
    parser.add_argument("--pictures", type=Path, nargs="+")
    parser.add_argument("--levels", type=float, nargs="+", default=[0, 12, 24])
    parser.add_argument("--seconds", type=float, default=60, help="of every fit")
    parser.add_argument("--bpp", type=float, nargs="+", default=[0.1, 0.2])
    parser.add_argument("--save", type=Path, default=Path("runs/relatives.csv"), help="finished fits, which are not repeated")
    options = parser.parse_args()
    pictures = options.pictures or [kodak_folder() / f"kodim{number:02d}.png" for number in (5, 23)]
    options.save.parent.mkdir(parents=True, exist_ok=True)
    done: list[dict] = list(csv.DictReader(options.save.open())) if options.save.exists() else []
    with options.save.open("a", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS)
        if not done:
            writer.writeheader()
        for path in pictures:
            for name in options.models:
                for level in options.levels:
                    key = (name, path.stem, f"{level}", f"{options.seconds}")
                    if not any((fit["model"], fit["picture"], str(fit["level"]), str(fit["seconds"])) == key for fit in done):
                        done.append(measure(name, path, level, options.seconds))
                        writer.writerow(done[-1])
                        out.flush()
    rows = [("", *(f"{path.stem}, dB at {bpp:g} bpp" for path in pictures for bpp in options.bpp), "decode s", "kMAC/pixel")]
    for name in options.models:
        fits = [fit for fit in done if fit["model"] == name and float(fit["seconds"]) == options.seconds]
        cells = [at_rate([fit for fit in fits if fit["picture"] == path.stem], bpp) for path in pictures for bpp in options.bpp]
        codec = load(name)
        assert isinstance(codec, FittedPicture)
        cost = codec.network(0.0).multiplications(512, 768) / (512 * 768) / 1e3
        decode = float(np.median([float(fit["decode"]) for fit in fits]))
        rows.append((name, *("–" if cell is None else f"{cell:.2f}" for cell in cells), f"{decode:.2f}", f"{cost:.2f}"))
    print(f"{options.seconds:g} s a fit, {torch.get_num_threads()} threads")
    print(table(rows))


if __name__ == "__main__":
    main()
