"""Seconds and peak memory of coding a picture of 12.6 megapixels with the default model. Run: ``python benchmarks/large.py``."""

from __future__ import annotations

import resource
import time

import numpy as np
from skimage import data as photographs

import neuralcodec


def main() -> None:
    pixels = np.tile(photographs.astronaut(), (6, 8, 1))
    start = time.perf_counter()
    coded = neuralcodec.encode(pixels)
    encoded = time.perf_counter()
    neuralcodec.decode(coded)
    decoded = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{pixels.shape[1]}×{pixels.shape[0]}; loading the model counts as encoding")
    print(f"encode {encoded - start:.1f} s, decode {decoded - encoded:.1f} s, peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
