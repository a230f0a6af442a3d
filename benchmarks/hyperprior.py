"""Compress and decompress a 768×512 image: our mean–scale hyperprior against CompressAI's. Run: ``python benchmarks/hyperprior.py``.

Ours is the shipped config image/mean-scale, theirs ``MeanScaleHyperprior(128, 192)``: the same transforms (GDN, 128 and 192 channels).
Weights are random, but scaled so that in both a latent is a few quantization steps large and the predicted scale fits it. What is left to
differ is the hyper-transforms, the choice of tables, the coder, and how layers are run. Both write and read real bytes.
"""

from __future__ import annotations

import argparse
import math

import torch
import torch.nn.functional as F
import yaml
from compressai.models import MeanScaleHyperprior
from timing import interleaved, table

from neuralcodec.codecs import CONFIGS
from neuralcodec.codecs.base import build
from neuralcodec.entropy.models import INDEX_PER_NAT, SCALE_MIN

LEVEL = 32.0
SPEC = yaml.safe_load(CONFIGS["image/mean-scale"].read_text())["model"]["codec"]
STEPS = 2.7  # standard deviation of the latents


def picture(height: int, width: int) -> torch.Tensor:
    """Noise with the spectrum of photographs, (1, 3, height, width) in 0…1."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(1, 3, height, width)
    side = 4
    while side <= max(height, width):
        octave = torch.randn(1, 3, max(side * height // max(height, width), 1), side, generator=generator)
        x += F.interpolate(octave, (height, width), mode="bicubic") * 0.15 * (8 / side) ** 0.7
        side *= 2
    return (x + 0.5).clamp(0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x = picture(options.height, options.width)

    ours = build(SPEC).requires_grad_(False)
    theirs = MeanScaleHyperprior(128, 192).eval().requires_grad_(False)
    with torch.no_grad():
        ours.gain.rows.sub_((ours.analyse(x, torch.tensor([LEVEL])).std() / STEPS).log())
        ours.h_s.offset.rows.fill_(INDEX_PER_NAT * math.log(STEPS / SCALE_MIN))
        theirs.g_a[-1].weight.mul_(STEPS / theirs.g_a(x).std())
        theirs.h_s[-1].bias[:192] = STEPS
    ours.freeze()
    theirs.update(force=True)

    coded, their_coded = ours.compress(x, LEVEL), theirs.compress(x)
    size = (options.height, options.width)
    decoded = ours.decompress(coded.streams, size, LEVEL)
    assert all(torch.equal(coded.symbols[name], decoded.symbols[name]) for name in coded.symbols)
    assert decoded.signal.shape == x.shape == theirs.decompress(**their_coded)["x_hat"].shape

    with torch.inference_mode():
        seconds = interleaved(
            {
                "ours compress": lambda: ours.compress(x, LEVEL),
                "theirs compress": lambda: theirs.compress(x),
                "ours decompress": lambda: ours.decompress(coded.streams, size, LEVEL),
                "theirs decompress": lambda: theirs.decompress(**their_coded),
            },
            options.repetitions,
        )
    rows = [("", "ours s", "CompressAI s", "ours / CompressAI")]
    for who in ("ours", "theirs"):
        seconds[f"{who} both"] = seconds[f"{who} compress"] + seconds[f"{who} decompress"]
    for task in ("compress", "decompress", "both"):
        our, their = seconds[f"ours {task}"], seconds[f"theirs {task}"]
        rows.append((task, f"{our:.3f}", f"{their:.3f}", f"{our / their:.2f}"))
    print(f"{options.width}×{options.height}, {options.threads} threads, {options.repetitions} interleaved repetitions, medians")
    print(table(rows))
    print(f"bytes: ours {sum(map(len, coded.streams))}, CompressAI {sum(len(s[0]) for s in their_coded['strings'])}")


if __name__ == "__main__":
    main()
