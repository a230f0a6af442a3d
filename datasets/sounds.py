"""Sounds to train on: folders decoded once at one rate, random crops of them; and the files that validation hears, held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from neuralcodec.codecs.errors import CodecError
from neuralcodec.datasets.audio import Sound, list_sounds, read_sound, resample
from neuralcodec.datasets.augment import Augmentation
from neuralcodec.datasets.folders import resolve_folder
from neuralcodec.datasets.packed import Packed

FULL_SCALE = 32767  # of 16-bit samples


def read_at(path: str | Path, rate: int, channels: int = 1, seconds: float | None = None) -> np.ndarray:
    """A file, or its first seconds, at a rate: (channels, n) float32, scaled down where it goes beyond -1…1.

    One channel is the mean of all; more are the file's first ones, or its only one several times.
    """
    sound = read_sound(path)
    if seconds is not None:
        sound = Sound(sound.samples[:, : max(1, round(seconds * sound.rate))], sound.rate)
    available = len(sound.samples)
    if channels == 1:
        samples = sound.samples.mean(0, keepdims=True)
    else:
        samples = sound.samples[[min(channel, available - 1) for channel in range(channels)]]
    samples = resample(Sound(samples, sound.rate), rate).samples
    return samples / max(float(np.abs(samples).max()), 1.0)


class PackedSounds(Packed):
    """Sounds at one rate, (channels, n) int16 each, decoded once.

    Args:
        files: any that :func:`~neuralcodec.datasets.audio.read_sound` reads.
        rate: Hz.
        channels: of each; see :func:`read_at`.
        cache: see :class:`~neuralcodec.datasets.packed.Packed`.
        budget: bytes that they may take.

    Raises:
        FileNotFoundError: none of them is readable.
        CodecError: they take more than the budget.
    """

    def __init__(self, files: Sequence[Path], rate: int, channels: int = 1, cache: str | Path = ".cache/audio", budget: float = 16 * 2**30):
        self.rate = rate

        def read(path: Path) -> np.ndarray:
            return np.round(read_at(path, rate, channels) * FULL_SCALE).astype(np.int16)

        def check(files: Sequence[Path]) -> None:
            needed = sum(map(_seconds, files)) * rate * channels * 2
            if needed > budget:
                raise CodecError(
                    f"{len(files)} sounds take {needed / 2**30:.1f} GiB at {rate} Hz, more than the budget of {budget / 2**30:.1f}: "
                    "raise it, or name fewer folders"
                )

        super().__init__(files, read, cache, np.int16, "sounds", recipe=f"{rate} Hz {channels}\n", check=check)


def _seconds(path: Path) -> float:
    """What a file's header says; 0 where libsndfile cannot read it."""
    import soundfile

    try:
        info = soundfile.info(path)
        return info.frames / max(info.samplerate, 1)
    except (soundfile.LibsndfileError, OSError):
        return 0.0


class RandomSounds(IterableDataset):
    """Endless batches of random crops, varied, (batch, channels, samples) float32.

    Args:
        sounds: drawn in proportion to their length within a group.
        groups: indexes of sounds that are drawn from together.
        shares: how often each group is drawn from; by default in proportion to its length.
        batch_size: crops in a batch.
        samples: of a crop; sounds that are shorter lie somewhere in silence.
        augmentation: how crops are varied.
        seed: each process and worker derives its own stream from it.
    """

    def __init__(
        self,
        sounds: PackedSounds,
        groups: Sequence[Sequence[int]],
        shares: Sequence[float] | None,
        batch_size: int,
        samples: int,
        augmentation: Augmentation,
        seed: int = 0,
        rank: int = 0,
    ):
        lengths = sounds.shapes[:, 1].astype(np.float64)
        totals = np.array([lengths[list(group)].sum() for group in groups])
        wanted = totals if shares is None else np.array(shares, dtype=np.float64)
        if len(wanted) != len(groups) or (wanted < 0).any() or not (wanted * (totals > 0)).sum() > 0:
            raise CodecError(f"there must be as many shares as folders ({len(groups)}), none below 0, and not all of them 0")
        wanted = np.where(totals > 0, wanted, 0)
        weights = np.zeros(len(sounds))
        for group, total, share in zip(groups, totals, wanted / wanted.sum()):
            weights[list(group)] += lengths[list(group)] / max(total, 1.0) * share
        self.sounds, self.batch_size, self.samples, self.augmentation = sounds, batch_size, samples, augmentation
        self.thresholds = np.cumsum(weights) / weights.sum()
        self.seed, self.rank = seed, rank

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        random = np.random.default_rng((self.seed, self.rank, worker.id if worker else 0))

        def crop(samples: int) -> np.ndarray:
            return self._crop(samples, random)

        while True:
            batch = [self.augmentation(crop, crop, self.samples, self.sounds.rate, random) for _ in range(self.batch_size)]
            yield torch.from_numpy(np.stack(batch))

    def _crop(self, samples: int, random: np.random.Generator) -> np.ndarray:
        """So many samples of some sound, (channels, samples) float32."""
        sound = self.sounds[min(int(np.searchsorted(self.thresholds, random.random(), side="right")), len(self.sounds) - 1)]
        spare = sound.shape[1] - samples
        if spare >= 0:
            start = int(random.integers(spare + 1))
            return sound[:, start : start + samples].astype(np.float32) / FULL_SCALE
        before = int(random.integers(1 - spare))
        return np.pad(sound.astype(np.float32) / FULL_SCALE, ((0, 0), (before, -spare - before)))


class WholeSounds(Dataset):
    """Files for validation: ``(name, (channels, n))``, each at one rate, whole or its first seconds."""

    def __init__(self, files: Sequence[Path], rate: int, channels: int = 1, seconds: float | None = 10.0):
        self.files, self.rate, self.channels, self.seconds = list(files), rate, channels, seconds

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        return self.files[index].stem, torch.from_numpy(read_at(self.files[index], self.rate, self.channels, self.seconds))


def folder_sounds(folder: str | Path) -> list[Path]:
    """The sounds below a folder, as given or below ``NEURALCODEC_DATA``.

    Raises:
        FileNotFoundError: there is no such folder, or no sound in it.
    """
    files = list_sounds(resolve_folder(folder))
    if not files:
        raise FileNotFoundError(f"no sounds below {folder}")
    return files


def spread(files: Sequence[Path], count: int) -> list[Path]:
    """``count`` of them, evenly from first to last."""
    return [files[i] for i in sorted({round(i) for i in np.linspace(0, len(files) - 1, min(count, len(files)))})]
