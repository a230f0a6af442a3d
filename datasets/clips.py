"""Short clips to train on: pieces of real ones, and of pictures that are made to move. Packed as codecs take them: see :func:`packed`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from neuralcodec.datasets import colour
from neuralcodec.datasets.images import PackedImages
from neuralcodec.datasets.packed import Packed
from neuralcodec.datasets.sounds import spread
from neuralcodec.datasets.video import Clip, find_clips, read_clip

RATE, MATRIX = Fraction(25), "bt601"  # of folders of pictures, which say neither
LONGEST = 96  # frames of a clip that are kept
# Of made-up motion, standard deviations or largest values; sizes are shares of the crop's side, speeds those of a frame.
PAN, ZOOM, TURN = 0.02, 0.006, 0.006
OBJECT_CHANCE, OBJECT_SIZE = 0.6, (0.12, 0.4)
NOISE_CHANCE, NOISE = 0.3, 3.0  # of 255
FADE_CHANCE, FADE = 0.15, 0.02  # of the brightness, a frame


def packed(y: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Planes (n, H, W) and twice (n, H/2, W/2), sides even, to (n, 6, H/2, W/2): the four luma samples of each 2×2 square, Cb, Cr."""
    count, height, width = y.shape
    squares = y.reshape(count, height // 2, 2, width // 2, 2).transpose(0, 2, 4, 1, 3).reshape(count, 4, height // 2, width // 2)
    return np.concatenate((squares, u[:, None], v[:, None]), 1)


class PackedClips(Packed):
    """Beginnings of clips, (frames, 6, H/2, W/2) uint8 each, decoded once.

    Args:
        places: files, or folders of clips and of folders of pictures; relative ones also below ``NEURALCODEC_DATA``.
        cache: see :class:`~neuralcodec.datasets.packed.Packed`.
    """

    def __init__(self, places: Sequence[str | Path], cache: str | Path = ".cache/clips"):
        files = [path for place in places for path in find_clips(place)[1]]
        if not files:
            raise FileNotFoundError(f"no clips in {', '.join(map(str, places))}")
        super().__init__(files, _read, cache, np.uint8, "clips", recipe=f"{LONGEST} {RATE} {MATRIX}")


def _read(path: Path) -> np.ndarray:
    clip = _first(path, LONGEST)
    if clip.bits != 8:
        raise ValueError("of more than 8 bits")
    clip = clip.cropped(clip.width // 2 * 2, clip.height // 2 * 2)
    return packed(clip.y, clip.u, clip.v)


def _first(path: Path, frames: int) -> Clip:
    """So many frames of a clip, at most."""
    return read_clip(path, frames, rate=RATE, matrix=MATRIX) if path.is_dir() else read_clip(path, frames)


class RandomClips(IterableDataset):
    """Endless batches (batch, frames, 6, size / 2, size / 2) uint8.

    Args:
        clips: real ones, drawn in proportion to their samples, forwards or backwards; none if ``stills`` are all.
        stills: pictures that are moved, drawn likewise; none if there are only clips.
        share: how many of a batch come from ``stills``, where there is both.
        size: side of luma.
        seed: each process and worker derives its own stream from it.
    """

    def __init__(
        self,
        clips: PackedClips | None,
        stills: PackedImages | None,
        batch_size: int,
        frames: int,
        size: int,
        share: float = 0.5,
        seed: int = 0,
        rank: int = 0,
    ):
        if size % 2 or frames < 1:
            raise ValueError("clips to train on have an even size, and at least one frame")
        self.clips, self.stills = clips, stills
        self.batch_size, self.frames, self.size, self.seed, self.rank = batch_size, frames, size, seed, rank
        self.share = share if clips is not None and stills is not None else float(stills is not None)
        half = size // 2
        self.clip_weights = (
            np.array([]) if clips is None else _weights(clips.shapes, clips.shapes[:, 2:].min(1), half, clips.shapes[:, 0], frames)
        )
        self.still_weights = np.array([]) if stills is None else _weights(stills.shapes, stills.shapes[:, :2].min(1), size)
        if (clips is not None and not self.clip_weights.sum()) or (stills is not None and not self.still_weights.sum()):
            raise ValueError(f"no clip has {frames} frames of {size}×{size}, or no picture that size")

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        random = np.random.default_rng((self.seed, self.rank, worker.id if worker else 0))
        while True:
            yield torch.from_numpy(np.stack([self._one(random) for _ in range(self.batch_size)]))

    def _one(self, random: np.random.Generator) -> np.ndarray:
        if random.random() < self.share:
            assert self.stills is not None
            return moved(self.stills[_drawn(self.still_weights, random)], self.frames, self.size, random)
        assert self.clips is not None
        clip, half = self.clips[_drawn(self.clip_weights, random)], self.size // 2
        begin, top, left = (
            random.integers(1 + longer - ours) for longer, ours in zip((len(clip), *clip.shape[2:]), (self.frames, half, half))
        )
        return _turned(clip[begin : begin + self.frames, :, top : top + half, left : left + half], random)


def _weights(shapes: np.ndarray, sides: np.ndarray, side: int, lengths: np.ndarray | int = 0, frames: int = 0) -> np.ndarray:
    """Of what is long and large enough, its number of samples."""
    return np.where((sides >= side) & (np.asarray(lengths) >= frames), shapes.prod(1, dtype=np.float64), 0.0)


def _drawn(weights: np.ndarray, random: np.random.Generator) -> int:
    return int(random.choice(len(weights), p=weights / weights.sum()))


def _turned(x: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Backwards, mirrored, transposed or not."""
    backwards, mirrored, transposed = random.random(3) < 0.5
    x = x[::-1] if backwards else x
    x = x[:, [1, 0, 3, 2, 4, 5], :, ::-1] if mirrored else x
    return np.ascontiguousarray(x[:, [0, 2, 1, 3, 4, 5]].swapaxes(2, 3) if transposed else x)


def moved(pixels: np.ndarray, frames: int, size: int, random: np.random.Generator) -> np.ndarray:
    """A picture (H, W, 3) uint8 that pans, zooms and turns, often with a piece of it that moves its own way in front: (frames, 6, …) uint8.

    What appears from behind that piece, or at the edges, is new, as in real clips. Noise and fading at times.
    """
    picture = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float()
    ahead = torch.arange(frames, dtype=torch.float32)
    axis = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    places = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    whole = _sampled(picture, _paths(places, ahead, size, pixels.shape[:2], random))
    if random.random() < OBJECT_CHANCE:
        centre = torch.from_numpy(random.uniform(-size / 2, size / 2, 2)).float()
        path = _paths(places - centre, ahead, size, pixels.shape[:2], random, 2 * PAN)
        piece = _sampled(picture, path)
        own = path - path.mean((0, 1, 2))  # coordinates that the piece keeps, so that its outline moves with it
        radii = torch.from_numpy(random.uniform(*OBJECT_SIZE, 2) * size).float()
        outline = torch.sigmoid((1 - (own / radii).square().sum(-1).sqrt()) * radii.min())[:, None]
        whole = whole + (piece - whole) * outline
    if random.random() < FADE_CHANCE:
        whole = whole * (1 + random.uniform(-FADE, FADE) * ahead)[:, None, None, None]
    if random.random() < NOISE_CHANCE:
        whole = whole + torch.from_numpy(random.normal(0, random.uniform(0, NOISE), whole.shape)).float()
    rgb = whole.clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
    y, u, v = zip(*(colour.to_420(frame, 8, MATRIX) for frame in rgb), strict=True)
    return packed(np.stack(y), np.stack(u), np.stack(v))


def _paths(places: Tensor, ahead: Tensor, size: int, limits: tuple[int, ...], random: np.random.Generator, pan: float = PAN) -> Tensor:
    """Where in a picture every place of every frame is seen, (frames, size, size, 2) in pixels; from inside it as the motion begins."""
    height, width = limits
    margins = [max((side - size) / 2, 0) for side in (width, height)]
    start = torch.tensor([random.uniform(-margin, margin) for margin in margins])
    speed = torch.from_numpy(random.normal(0, pan * size, 2)).float() * float(random.random() < 0.8)
    zoom, turn = (random.normal(0, each) * (random.random() < 0.5) for each in (ZOOM, TURN))
    scale, angle = torch.exp(zoom * ahead), turn * ahead
    turned = (
        torch.stack((torch.cos(angle), -torch.sin(angle), torch.sin(angle), torch.cos(angle)), -1).reshape(-1, 2, 2) * scale[:, None, None]
    )
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2])
    return torch.einsum("hwc,fdc->fhwd", places, turned) + (centre + start + ahead[:, None] * speed)[:, None, None]


def _sampled(picture: Tensor, where: Tensor) -> Tensor:
    """(1, 3, H, W) at (frames, h, w, 2), to (frames, 3, h, w)."""
    sides = torch.tensor([picture.shape[-1] - 1, picture.shape[-2] - 1])
    grid = 2 * where / sides.clamp_min(1) - 1
    frames = picture.expand(len(where), -1, -1, -1)
    return F.grid_sample(frames, grid, mode="bicubic", padding_mode="reflection", align_corners=True)


class WholeClips(Dataset):
    """The first frames of clips, to validate on.

    Args:
        limit: how many clips, spread evenly over the sorted names.
        crop: width and height of the middle of each, at most.
    """

    def __init__(self, place: str | Path, frames: int = 8, limit: int | None = None, crop: tuple[int, int] = (416, 240)):
        files = find_clips(place)[1]
        if not files:
            raise FileNotFoundError(f"no clips in {place}")
        self.files = files if limit is None else spread(files, limit)
        self.frames, self.crop = frames, crop

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Clip:
        clip = _first(self.files[index], self.frames)
        return clip.cropped(min(clip.width, self.crop[0]), min(clip.height, self.crop[1]))


__all__ = ["PackedClips", "RandomClips", "WholeClips", "moved", "packed"]
