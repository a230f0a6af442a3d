"""What a context is worth, by how it predicts latents of image-nano: none, two steps, four, and four that refine scales too.

Run: ``python benchmarks/contexts.py``. Transforms and side information stay as they are, so that distortion hardly moves and training
is short; each variant has a fresh context and its own copy of the hyper-synthesis. Bits are estimates, by Gaussians of 64 scales. Scales
that follow from a context are what a file that decodes on every machine cannot have; the last variant says what that costs.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass

import torch
from timing import table
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from neuralcodec.codecs.blocks import zero
from neuralcodec.codecs.files import load
from neuralcodec.codecs.image.contexts import Quadtree
from neuralcodec.codecs.image.hyperprior import Hyperprior
from neuralcodec.datasets.folders import kodak_folder, list_images, read_rgb
from neuralcodec.datasets.images import PackedImages, RandomCrops, augment, to_tensor
from neuralcodec.entropy.models import BITS_PER_SQUARED_STEP, SCALES

LEVELS = (8.0, 24.0, 40.0, 56.0)
BATCH, SIDE = 8, 256
VARIANTS = (("no context", 0, False), ("two steps", 2, False), ("four steps", 4, False), ("four steps, scales too", 4, True))


@dataclass
class Latents:
    """Of images of one size, at one level each."""

    y: Tensor  # (n, latent, H, W)
    z: Tensor
    level: Tensor  # (n,)

    def pick(self, which: Tensor) -> Latents:
        return Latents(self.y[which], self.z[which], self.level[which])


class Predictor(nn.Module):
    """Side information, and a context that is told all values decoded before, as side information alone would have rounded them."""

    def __init__(self, codec: Hyperprior, count: int, scales: bool):
        super().__init__()
        assert isinstance(codec.context, Quadtree)
        latent, width = codec.context.latent, codec.context.enter[0].out_channels
        self.h_s = copy.deepcopy(codec.h_s).requires_grad_(True)
        self.model = codec.y_model
        self.context = Quadtree(latent, codec.context.features, width, count=count) if count else None
        self.scales = nn.ModuleList(nn.Conv2d(width, latent, 1) for _ in range(count if scales else 0))
        zero(*self.scales)

    def forward(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """Bits, and squared error in quantization steps, each summed over all values; while training bits are of noisy values."""
        y, (rows, columns) = latents.y, latents.y.shape[-2:]
        prediction = self.h_s(latents.z, latents.level, rows, columns)
        assert prediction.mean is not None
        mean, index = prediction.mean, prediction.scale_index
        if self.context is not None:
            decoded = torch.round(y - mean).detach() / prediction.scale
            order = self.context.steps(rows, columns)
            shift, growth = torch.zeros_like(y), torch.zeros_like(y)
            for step in range(self.context.count):
                seen = torch.cat((torch.where(order < step, decoded, 0), prediction.features), 1)
                hidden = self.context.trunk(self.context.enter[step](seen))
                shift = torch.where(order == step, self.context.leave[step](hidden), shift)
                if self.scales:
                    growth = torch.where(order == step, self.scales[step](hidden), growth)
            mean = mean + shift * prediction.scale
            index = index + growth if self.training else torch.round(index + growth).clamp(0, SCALES - 1)
        residual = y - mean
        symbols = torch.round(residual)
        coded = residual + torch.rand_like(residual) - 0.5 if self.training else symbols
        return self.model.bits(coded, index).sum(), (residual - symbols).square().sum()


@torch.no_grad()
def latents_of(codec: Hyperprior, images: Tensor, level: Tensor) -> Latents:
    y = codec.analyse(images, level)
    return Latents(y, codec.z_quantizer(codec.h_a(y, level)).values, level)


def training_latents(codec: Hyperprior, folders: list[str], count: int) -> Latents:
    parts = []
    crops = iter(RandomCrops(PackedImages(folders), BATCH, SIDE))
    for _ in range(0, count, BATCH):
        images = augment(next(crops), SIDE)
        parts.append(latents_of(codec, images, torch.rand(BATCH) * (codec.levels - 1)))
    return Latents(*(torch.cat([getattr(part, name) for part in parts]) for name in ("y", "z", "level")))


def train(predictor: Predictor, latents: Latents, steps: int) -> None:
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=1e-3)
    schedule = CosineAnnealingLR(optimizer, steps)
    predictor.train()
    for _ in range(steps):
        chosen = latents.pick(torch.randint(len(latents.y), (BATCH,)))
        bits, _ = predictor(chosen)
        optimizer.zero_grad()
        (bits / chosen.y.numel()).backward()
        nn.utils.clip_grad_norm_(predictor.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def measure(predictor: Predictor, images: list[Latents]) -> tuple[float, float]:
    """Bits and squared error of whole images."""
    predictor.eval()
    bits, error = (sum(float(part) for part in parts) for parts in zip(*(predictor(latents) for latents in images)))
    return bits, error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", nargs="+", default=["train/images"])
    parser.add_argument("--crops", type=int, default=1600)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--images", type=int, default=24, help="of Kodak")
    options = parser.parse_args()
    torch.manual_seed(0)
    codec = load("image-nano").requires_grad_(False)
    assert isinstance(codec, Hyperprior)
    latents = training_latents(codec, options.train, options.crops)
    paths = list_images(kodak_folder())[: options.images]
    levels = [torch.tensor([level]) for level in LEVELS]
    kodak = [[latents_of(codec, to_tensor(read_rgb(path)), level) for path in paths] for level in levels]

    rows = [("", *(f"level {level:g}" for level in LEVELS))]
    base: list[tuple[float, float]] = []
    for name, count, scales in VARIANTS:
        torch.manual_seed(0)
        predictor = Predictor(codec, count, scales)
        train(predictor, latents, options.steps)
        found = [measure(predictor, images) for images in kodak]
        base = base or found
        changes = [
            (bits - bits_before + BITS_PER_SQUARED_STEP * (error - error_before)) / bits_before
            for (bits, error), (bits_before, error_before) in zip(found, base)
        ]
        rows.append((name, *(f"{change:+.1%}" for change in changes)))
        print(table([rows[0], rows[-1]]), flush=True)
    print(f"{options.steps} steps; bits of {len(paths)} Kodak images at equal error, against no context")
    print(table(rows))


if __name__ == "__main__":
    main()
