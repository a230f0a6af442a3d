"""Initial weights of overfitted pictures: a function that is fitted to many pictures at once, for each of several rates.

    python -m neuralcodec.training.overfitted train/images image-overfitted.safetensors --seconds 600

Every picture keeps latents of its own from step to step, as in a fit of its own; the function is the same for all, and its weights cost
nothing. A step sees one picture. The middle rate is trained first, the others go on from it, outwards. It is what Nichol et al. 2018
(Reptile), https://arxiv.org/abs/1803.02999, do, with an inner loop of a single step.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from neuralcodec.codecs.base import build, save_weights
from neuralcodec.codecs.image.overfitted import FittedPicture
from neuralcodec.codecs.image.overfitted_bands import Bands
from neuralcodec.codecs.image.overfitted_fit import BETAS, Fit, Piece, Plan
from neuralcodec.datasets.folders import list_images, read_rgb
from neuralcodec.datasets.images import to_tensor

SPEC = {
    "class_path": "neuralcodec.codecs.image.overfitted.FittedPicture",
    "init_args": {"knots": 5, "network": {"class_path": "neuralcodec.codecs.image.overfitted_bands.Bands", "init_args": {}}},
}
RATE = 3e-3  # learning rate, at its highest
PLAIN = 0.06  # standard deviation of pixels below which a picture teaches little


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", help="files or folders")
    parser.add_argument("output", help="weights file")
    parser.add_argument("--seconds", type=float, default=600.0, help="of each knot")
    parser.add_argument("--crops", type=int, default=32)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--init-from", help="weights to go on from")
    parser.add_argument("--knots", type=int, nargs="+", help="the only ones to train (default: all)")
    options = parser.parse_args()
    torch.manual_seed(0)
    codec = build(SPEC)
    assert isinstance(codec, FittedPicture)
    if options.init_from:
        from neuralcodec.codecs.files import load

        codec.load_state_dict(load(options.init_from).state_dict())
    pictures = crops(options.images, options.crops, options.side)
    middle = len(codec.knots) // 2
    levels = [number * (codec.levels - 1) / (len(codec.knots) - 1) for number in range(len(codec.knots))]
    lmbdas = [float(codec.lmbda(torch.tensor(level))) for level in levels]
    for number in sorted(range(len(levels)), key=lambda each: abs(each - middle)):
        knot = codec.knots[number]
        assert isinstance(knot, Bands)
        if options.init_from is None:
            if number == middle:
                knot.set_steps(lmbdas[number])
            else:
                inner = number + (1 if number < middle else -1)
                knot.load_state_dict(codec.knots[inner].state_dict())
                knot.scale_steps(math.sqrt(lmbdas[inner] / lmbdas[number]))
        if options.knots is None or number in options.knots:
            train(knot, pictures, lmbdas[number], options.seconds)
            codec.requires_grad_(False)
            print(f"{options.output}: {save_weights(codec, options.output, {'images': str(len(pictures))}).hex()}", flush=True)
            codec.requires_grad_(True)


def crops(images: Sequence[str], count: int, side: int) -> list[Tensor]:
    """Squares from the middle of pictures, (3, side, side) in 0…1, that are not plain."""
    chosen = random.Random(0)
    files = [file for each in images for file in (list_images(each) if Path(each).is_dir() else [Path(each)])]
    chosen.shuffle(files)
    found: list[Tensor] = []
    for file in files:
        if len(found) == count:
            break
        pixels = read_rgb(file)
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        if min(top, left) >= 0:
            square = to_tensor(pixels[top : top + side, left : left + side]).reshape(3, side, side)
            if float(square.std()) > PLAIN:
                found.append(square)
    return found


def train(network: Bands, pictures: Sequence[Tensor], lmbda: float, seconds: float) -> None:
    """Adam on the function, a picture a step; each picture's latents as in a fit."""
    network.requires_grad_(True)
    fits = [Fit(Piece(network), picture, lmbda, Plan(seconds=seconds, steps=None), coded=False) for picture in pictures]
    groups = [{"params": [parameter], "speed": network.speed(name)} for name, parameter in network.named_parameters()]
    optimiser = torch.optim.Adam(groups, RATE, BETAS)
    for fit in fits:
        del fit.optimiser.param_groups[1:]  # what one picture would do to the weights of all
    began, done = time.monotonic(), 0
    while (progress := (time.monotonic() - began) / seconds) < 1:
        fit = fits[done % len(fits)]
        fit.spent = progress * seconds
        optimiser.zero_grad(set_to_none=True)
        fit.step()
        for group in optimiser.param_groups:
            group["lr"] = group["speed"] * RATE * min(1.0, 0.1 + progress / 0.02) * (0.01 + 0.495 * (1 + math.cos(math.pi * progress)))
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimiser.step()
        done += 1
        if done % (4 * len(fits)) == 0:
            cost = sum(fit.bpp + lmbda * 255**2 * fit.error for fit in fits) / len(fits)
            print(f"λ {lmbda:.4f}, {done} steps: R + λD = {cost:.4f} bits per pixel", flush=True)


if __name__ == "__main__":
    main()
