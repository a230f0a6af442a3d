"""Folders of images for training, decoded once, and whole images for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from neuralcodec.datasets.folders import list_images, read_rgb, resolve_folder
from neuralcodec.datasets.packed import Packed


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W) in 0…1."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255


def to_pixels(x: Tensor) -> np.ndarray:
    """(1, 3, H, W) in 0…1, clipped and rounded, to (H, W, 3) uint8."""
    return (x[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


class PackedImages(Packed):
    """Images of several folders, (H, W, 3) uint8 each, decoded once.

    Args:
        folders: searched recursively; relative ones also below ``NEURALCODEC_DATA``.
        cache: see :class:`~neuralcodec.datasets.packed.Packed`.
    """

    def __init__(self, folders: Sequence[str | Path], cache: str | Path = ".cache/images"):
        files = [path for folder in folders for path in list_images(resolve_folder(folder))]
        if not files:
            raise FileNotFoundError(f"no images below {', '.join(map(str, folders))}")
        unreadable = (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError)
        super().__init__(files, read_rgb, cache, np.uint8, "images", unreadable=unreadable)


class RandomCrops(IterableDataset):
    """Endless batches of square crops, (batch, 3, side, side) uint8, where side is ``size`` times a random scale.

    Images are drawn in proportion to their area. All crops of a batch share a scale; :func:`augment` brings them to ``size`` on whatever
    device the batch has reached.

    Args:
        size: side of a training crop.
        scales: choices of the scale; scales that no image is large enough for are dropped.
        seed: each process and worker derives its own stream from it.
    """

    def __init__(
        self, images: PackedImages, batch_size: int, size: int, scales: Sequence[float] = (1.0, 1.5, 2.0), seed: int = 0, rank: int = 0
    ):
        shortest = images.shapes[:, :2].min(1)
        self.sides = [side for scale in scales if (side := round(size * scale)) <= shortest.max()]
        if not self.sides:
            raise ValueError(f"no image is large enough for crops of {size}×{size}")
        self.images, self.batch_size, self.size, self.seed, self.rank = images, batch_size, size, seed, rank
        self.shortest = shortest

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        random = np.random.default_rng((self.seed, self.rank, worker.id if worker else 0))
        area = self.images.shapes[:, :2].prod(1).astype(np.float64)
        while True:
            side = int(random.choice(self.sides))
            weights = np.where(self.shortest >= side, area, 0)
            chosen = random.choice(len(self.images), size=self.batch_size, p=weights / weights.sum())
            yield torch.from_numpy(np.stack([self._crop(self.images[i], side, random) for i in chosen])).permute(0, 3, 1, 2)

    @staticmethod
    def _crop(pixels: np.ndarray, side: int, random: np.random.Generator) -> np.ndarray:
        top = random.integers(pixels.shape[0] - side + 1)
        left = random.integers(pixels.shape[1] - side + 1)
        return pixels[top : top + side, left : left + side]


def augment(crops: Tensor, size: int) -> Tensor:
    """uint8 crops to (B, 3, size, size) in 0…1: downscaled if larger, each one flipped and turned at random."""
    x = crops.contiguous(memory_format=torch.channels_last).float() / 255
    if x.shape[-1] != size:
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    mirrored, transposed = (torch.rand(2, len(x), 1, 1, 1, device=x.device) < 0.5).unbind()
    x = torch.where(mirrored, x.flip(-1), x)
    return torch.where(transposed, x.transpose(-1, -2), x)


def central_crops(folder: str | Path, count: int = 48, size: int = 512) -> list[np.ndarray]:
    """The middles of ``count`` images, spread evenly over a folder's sorted list: (≤ size, ≤ size, 3) uint8 each."""
    files = list_images(folder)
    crops = []
    for index in sorted({round(i) for i in np.linspace(0, len(files) - 1, min(count, len(files)))}):
        pixels = read_rgb(files[index])
        top, left = (max(side - size, 0) // 2 for side in pixels.shape[:2])
        crops.append(pixels[top : top + size, left : left + size])
    return crops


class ImageFolder(Dataset):
    """Whole images of a folder for evaluation: ``(name, (3, H, W) in 0…1)``."""

    def __init__(self, folder: str | Path, limit: int | None = None):
        self.files = list_images(folder)[:limit]
        if not self.files:
            raise FileNotFoundError(f"no images below {folder}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        return self.files[index].stem, to_tensor(read_rgb(self.files[index]))[0]
