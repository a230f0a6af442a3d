"""Compress and decompress a 768×512 image: our mean–scale hyperprior against CompressAI's. Run: ``python benchmarks/hyperprior.py``.

Both have the transforms of the paper (GDN, 128 and 192 channels) and random weights, and both write real bytes. The weights are scaled so that
latents have a typical size; what is left to differ is the hyper-transforms, the choice of tables and the coder, and how layers are run.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from compressai.models import MeanScaleHyperprior
from timing import interleaved, table

from neuralcodec.codecs.base import build

LEVEL = 32.0
SPEC = {
    "class_path": "neuralcodec.codecs.image.Hyperprior",
    "init_args": {
        "analysis": {"class_path": "neuralcodec.codecs.image.transforms.GDNAnalysis", "init_args": {"latent": 192, "width": 128}},
        "synthesis": {"class_path": "neuralcodec.codecs.image.transforms.GDNSynthesis", "init_args": {"latent": 192, "width": 128}},
        "latent": 192,
        "hyper_channels": 64,
        "patterns": 64,
        "hyper_width": 160,
    },
}


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
        # A latent whose values are a few quantization steps, in both.
        ours.gain.rows.sub_(ours.analyse(x, torch.tensor([LEVEL])).std().log() - 1)
        theirs.g_a[-1].weight.mul_(torch.e / theirs.g_a(x).std())
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
