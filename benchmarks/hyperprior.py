"""Compress and decompress a 768×512 image: our codecs against CompressAI's ``MeanScaleHyperprior(128, 192)``.

Run: ``python benchmarks/hyperprior.py``. The config image/mean-scale has the same transforms as CompressAI's (GDN, 128 and 192 channels);
image/nano and image/small are what we would rather use. Weights are random, but latents are scaled, and predicted scales with them, so
that all files are about as large. All write and read real bytes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
import yaml
from compressai.models import MeanScaleHyperprior
from timing import interleaved, table

from neuralcodec.codecs import CONFIGS
from neuralcodec.codecs.base import Codec, build
from neuralcodec.entropy.models import INDEX_PER_NAT, SCALE_MIN

LEVEL = 32.0
THEIRS = "CompressAI"
TOLERANCE = 0.02


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


def ready(config: str, x: torch.Tensor, deviation: float) -> Codec:
    """A codec of a shipped config with random weights, its latents that many quantization steps large."""
    torch.manual_seed(0)
    codec = build(yaml.safe_load(CONFIGS[config].read_text())["model"]["codec"]).requires_grad_(False)
    with torch.no_grad():
        codec.gain.rows.sub_((codec.analyse(x, torch.tensor([LEVEL])).std() / deviation).log())
        codec.h_s.offset.rows.fill_(INDEX_PER_NAT * math.log(deviation / SCALE_MIN))
    codec.freeze()
    return codec


def ready_peer(x: torch.Tensor, deviation: float) -> MeanScaleHyperprior:
    """CompressAI's, with random weights, its latents that many quantization steps large."""
    torch.manual_seed(0)
    model = MeanScaleHyperprior(128, 192).eval().requires_grad_(False)
    with torch.no_grad():
        model.g_a[-1].weight.mul_(deviation / model.g_a(x).std())
        model.h_s[-1].bias[:192] = deviation
    model.update(force=True)
    return model


def of_size(target: int, size: Callable[[float], int]) -> float:
    """The deviation for which a growing size meets a target, in bytes."""
    low, high = 0.05, 20.0
    for _ in range(20):
        middle = math.sqrt(low * high)
        if abs(found := size(middle) - target) <= TOLERANCE * target:
            break
        low, high = (low, middle) if found > 0 else (middle, high)
    return middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", nargs="+", default=["image/mean-scale", "image/nano", "image/small"])
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--bpp", type=float, default=1.0, help="of all files, within 2 %%")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x, size = picture(options.height, options.width), (options.height, options.width)
    target = round(options.bpp * options.height * options.width / 8)

    def their_size(deviation: float) -> int:
        return sum(len(strings[0]) for strings in ready_peer(x, deviation).compress(x)["strings"])

    with torch.inference_mode():
        theirs = ready_peer(x, of_size(target, their_size))
        their_coded = theirs.compress(x)
        tasks = {(THEIRS, "encode"): lambda: theirs.compress(x), (THEIRS, "decode"): lambda: theirs.decompress(**their_coded)}
        sizes = {THEIRS: sum(len(strings[0]) for strings in their_coded["strings"])}

        for config in options.configs:

            def our_size(deviation: float, config: str = config) -> int:
                return sum(map(len, ready(config, x, deviation).compress(x, LEVEL).streams))

            ours = ready(config, x, of_size(target, our_size))
            coded = ours.compress(x, LEVEL)
            decoded = ours.decompress(coded.streams, size, LEVEL)
            assert all(torch.equal(coded.symbols[name], decoded.symbols[name]) for name in coded.symbols)
            assert decoded.signal.shape == x.shape
            tasks[config, "encode"] = partial(ours.compress, x, LEVEL)
            tasks[config, "decode"] = partial(ours.decompress, coded.streams, size, LEVEL)
            sizes[config] = sum(map(len, coded.streams))

        seconds = interleaved(tasks, options.repetitions)
    rows = [("", "encode s", "decode s", "encode / theirs", "decode / theirs", "bytes")]
    for name, count in sizes.items():
        encode, decode = seconds[name, "encode"], seconds[name, "decode"]
        ratios = (encode / seconds[THEIRS, "encode"], decode / seconds[THEIRS, "decode"])
        rows.append((name, f"{encode:.3f}", f"{decode:.3f}", *(f"{ratio:.2f}" for ratio in ratios), str(count)))
    print(f"{options.width}×{options.height}, {options.threads} threads, {options.repetitions} interleaved repetitions, medians")
    print(table(rows))


if __name__ == "__main__":
    main()
