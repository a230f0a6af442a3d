"""Initial weights of overfitted pictures: a function that is fitted to many pictures at once, for each of several rates.

    python -m neuralcodec.training.overfitted train/images image-overfitted.safetensors --seconds 600

A few pieces of pictures are worked on at a time, each with latents of its own that go on from visit to visit as in a fit; after so many
visits a piece makes room for another. The function is the same for all, and its weights cost nothing. The middle rate is trained first,
the others go on from it, outwards. It is what Nichol et al. 2018 (Reptile), https://arxiv.org/abs/1803.02999, do, with an inner loop of a
single step.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralcodec.codecs.base import build, save_weights
from neuralcodec.codecs.image.overfitted import FittedPicture
from neuralcodec.codecs.image.overfitted_fit import BETAS, LARGEST_GRADIENT, SOFT, Fit, Piece, Plan
from neuralcodec.codecs.image.overfitted_grids import Grids
from neuralcodec.codecs.soap import Soap
from neuralcodec.datasets.folders import list_images, read_rgb
from neuralcodec.datasets.images import to_tensor

SPEC = {
    "class_path": "neuralcodec.codecs.image.overfitted.FittedPicture",
    "init_args": {"knots": 5, "network": {"class_path": "neuralcodec.codecs.image.overfitted_grids.Grids", "init_args": {}}},
}
REPORT_EVERY = 30.0  # seconds
PLAIN = 0.06  # standard deviation of pixels below which a picture teaches little


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", help="files or folders")
    parser.add_argument("output", help="weights file")
    parser.add_argument("--seconds", type=float, default=600.0, help="of each knot")
    parser.add_argument("--together", type=int, default=16, help="pieces that are worked on at a time")
    parser.add_argument("--visits", type=int, default=24, help="steps that each piece is there for")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate, at its highest")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--shrink", type=float, default=1.0, help="factor that pictures are made smaller by: files with losses lack detail")
    parser.add_argument("--blank", action="store_true", help="latents begin at zero, for weights that know nothing yet")
    parser.add_argument("--init-from", help="weights to go on from")
    parser.add_argument("--knots", type=int, nargs="+", help="the only ones to train (default: all)")
    parser.add_argument("--spread", action="store_true", help="knots begin as their inner neighbours are, not as in --init-from")
    options = parser.parse_args()
    torch.manual_seed(0)
    codec = build(SPEC)
    assert isinstance(codec, FittedPicture)
    if options.init_from:
        from neuralcodec.codecs.files import load

        codec.load_state_dict(load(options.init_from).state_dict())
    files = [file for each in options.images for file in (list_images(each) if Path(each).is_dir() else [Path(each)])]
    middle = len(codec.knots) // 2
    levels = [number * (codec.levels - 1) / (len(codec.knots) - 1) for number in range(len(codec.knots))]
    lmbdas = [float(codec.lmbda(torch.tensor(level))) for level in levels]
    for number in sorted(range(len(levels)), key=lambda each: abs(each - middle)):
        knot = codec.knots[number]
        assert isinstance(knot, Grids)
        named = options.knots is None or number in options.knots
        if number != middle and (options.init_from is None or (options.spread and named)):
            inner = number + (1 if number < middle else -1)
            knot.load_state_dict(codec.knots[inner].state_dict())
            with torch.no_grad():
                knot.gain.add_(0.5 * math.log(lmbdas[inner] / lmbdas[number]))
        if named:
            train(knot, crops(files, options.side, options.shrink), lmbdas[number], options)
            codec.requires_grad_(False)
            print(f"{options.output}: {save_weights(codec, options.output).hex()}", flush=True)
            codec.requires_grad_(True)


def crops(files: Sequence[Path], side: int, shrink: float = 1.0) -> Iterator[Tensor]:
    """Squares from anywhere in pictures that were made smaller, (3, side, side) in 0…1, that are not plain, for ever."""
    whole = round(side * shrink)
    chosen = random.Random(0)
    while True:
        pixels = read_rgb(chosen.choice(files))
        height, width = pixels.shape[:2]
        if min(height, width) >= whole:
            top, left = chosen.randint(0, height - whole), chosen.randint(0, width - whole)
            square = to_tensor(pixels[top : top + whole, left : left + whole]).reshape(1, 3, whole, whole)
            square = F.interpolate(square, (side, side), mode="bicubic", antialias=True).clamp(0, 1)[0] if shrink != 1 else square[0]
            if float(square.std()) > PLAIN:
                yield square


def train(network: Grids, pictures: Iterator[Tensor], lmbda: float, options: argparse.Namespace) -> None:
    """SOAP on the function, a piece a step; each piece's latents as in a fit."""
    network.requires_grad_(True)
    optimiser = Soap(network.parameters(), options.rate, BETAS)
    fits: list[Fit] = []
    costs: list[float] = []
    passes = round(options.visits / SOFT / max(1, len(network.bands(options.side, options.side))))
    began, done = time.monotonic(), 0
    reported = began
    while (progress := (time.monotonic() - began) / options.seconds) < 1:
        place = done % options.together
        if place >= len(fits) or fits[place].progress >= SOFT:
            # Its own optimisers have nothing to move: the weights are everyone's. Pieces are not all replaced at the same time.
            fit = Fit(Piece(network), next(pictures), lmbda, Plan(steps=passes, weights=0.0, side=0.0), coded=False)
            fit.done = place * options.visits // options.together // 2 if place >= len(fits) else 0
            if options.blank:
                for latent in fit.latents:
                    latent.detach().zero_()
            fits[place : place + 1] = [fit]
        optimiser.zero_grad(set_to_none=True)
        fits[place].step()
        for group in optimiser.param_groups:
            group["lr"] = options.rate * min(1.0, progress / 0.02) * (0.02 + 0.49 * (1 + math.cos(math.pi * progress)))
        torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        done += 1
        if fits[place].progress >= SOFT:
            costs.append(fits[place].bpp + lmbda * 255**2 * fits[place].error)
        if time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            recent = costs[-2 * options.together :]
            mean = sum(recent) / max(len(recent), 1)
            print(f"λ {lmbda:.4f}, {done} steps, {len(costs)} pieces: R + λD = {mean:.4f} bits per pixel", flush=True)


if __name__ == "__main__":
    main()
