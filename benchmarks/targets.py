"""How close files come to rate targets, in how many encodes. Run: ``python benchmarks/targets.py [--model FILE] [--effort N]``.

On the 24 Kodak images, or a folder's. For each target: mean and largest deviation of the file's bits per pixel where the model's range
reaches the target, encodes for each file, and the images that it does not reach, with the end of the range that bounds them.
"""

from __future__ import annotations

import argparse

import numpy as np
from timing import table

from neuralcodec.codecs.files import load
from neuralcodec.codecs.image.files import encode_to_target
from neuralcodec.codecs.image.pictures import read_picture
from neuralcodec.codecs.image.targets import Target
from neuralcodec.datasets.folders import kodak_folder, list_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="image-tiny")
    parser.add_argument("--root", help="folder of images (default: Kodak)")
    parser.add_argument("--bpp", type=float, nargs="+", default=[0.1, 0.25, 0.5, 1.0])
    parser.add_argument("--effort", type=int, default=0)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    codec = load(options.model)
    files = list_images(kodak_folder(options.root))[: options.limit]
    rows = [("bpp", "reached", "mean deviation %", "largest %", "encodes, mean", "most", "out of reach")]
    for target in options.bpp:
        deviations, trials, missed = [], [], []
        for path in files:
            picture = read_picture(path)
            height, width = picture.pixels.shape[:2]
            hit = encode_to_target(codec, picture, Target("bpp", target), options.effort)
            bpp = len(hit.data) * 8 / (height * width)
            trials.append(hit.found.trials)
            if hit.miss:
                missed.append(f"{path.stem} ({hit.found.bound} level: {bpp:.3f})")
            else:
                deviations.append(abs(bpp / target - 1) * 100)
        worst, mean = (f"{f(deviations):.2f}" if deviations else "–" for f in (max, np.mean))
        reached = f"{len(deviations)} of {len(files)}"
        rows.append((f"{target:g}", reached, mean, worst, f"{np.mean(trials):.1f}", str(max(trials)), ", ".join(missed) or "–"))
    print(f"{codec.name}, effort {options.effort}" + (": encodes are those of the second search" if options.effort else ""))
    print(table(rows))


if __name__ == "__main__":
    main()
