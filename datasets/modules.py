"""Lightning data modules: what a training config names under ``data``."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from neuralcodec.datasets.augment import Augmentation
from neuralcodec.datasets.clips import PackedClips, RandomClips, WholeClips
from neuralcodec.datasets.folders import kodak_folder, resolve_folder
from neuralcodec.datasets.images import ImageFolder, PackedImages, RandomCrops, augment
from neuralcodec.datasets.sounds import PackedSounds, RandomSounds, WholeSounds, folder_sounds, spread


class ImageDataModule(L.LightningDataModule):
    """Random crops of image folders to train on, whole images to validate on.

    Args:
        train: folders, searched recursively; relative ones also below ``NEURALCODEC_DATA``.
        validation: a folder, or ``kodak``.
        validation_limit: number of validation images.
        size: side of a training crop.
        scales: crops are taken at these multiples of ``size`` and downscaled.
        batch_size: crops in a batch, on each device.
        workers: loader processes.
        cache: folder of the decoded images.
    """

    def __init__(
        self,
        train: list[str],
        validation: str = "kodak",
        validation_limit: int | None = None,
        size: int = 256,
        scales: tuple[float, ...] = (1.0, 1.5, 2.0),
        batch_size: int = 16,
        workers: int = 1,
        cache: str = ".cache/images",
        seed: int = 0,
    ):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str | None = None) -> None:
        options = self.hparams
        rank = self.trainer.global_rank if self.trainer else 0
        if stage in (None, "fit"):
            images = PackedImages(options.train, options.cache)
            self.crops = RandomCrops(images, options.batch_size, options.size, options.scales, options.seed, rank)
        folder = kodak_folder() if options.validation == "kodak" else resolve_folder(options.validation)
        self.whole = ImageFolder(folder, options.validation_limit)

    def train_dataloader(self) -> DataLoader:
        workers, pin = self.hparams.workers, torch.cuda.is_available()
        return DataLoader(self.crops, batch_size=None, num_workers=workers, persistent_workers=workers > 0, pin_memory=pin)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.whole, batch_size=1)

    def on_after_batch_transfer(self, batch, dataloader_idx: int):
        """Finish the augmentation on the device that the batch is on."""
        return augment(batch, self.hparams.size) if isinstance(batch, Tensor) else batch

    def examples(self, count: int, size: int = 256) -> Tensor:
        """Training crops for a codec's closed-form initialisation, (count, 3, size, size)."""
        parts = [
            augment(next(iter(RandomCrops(self.crops.images, count, size, (scale,), self.hparams.seed + 1))), size)
            for scale in self.hparams.scales
        ]
        return torch.cat(parts)[torch.randperm(count * len(parts))[:count]]


class AudioDataModule(L.LightningDataModule):
    """Random crops of folders of sounds to train on, whole files to validate on.

    Args:
        train: folders, searched recursively, LibriSpeech's tree as downloaded or any other; relative ones also below
            ``NEURALCODEC_DATA``.
        shares: how often each folder is drawn from; by default in proportion to the length of what it holds.
        validation: a folder; by default ``validation_limit`` files are held out of ``train``.
        validation_limit: number of validation files, spread evenly over the sorted names.
        validation_seconds: of each that are coded.
        seconds: of a training crop.
        batch_size: crops in a batch, on each device.
        workers: loader processes.
        rate: Hz; by default what the codec takes.
        channels: of the sounds; by default what the codec takes.
        cache: folder of the decoded sounds.
        budget_gb: GiB that they may take there, and in memory while there is room.
        speed, equaliser, mix, noise, level, polarity: probabilities; see :class:`~neuralcodec.datasets.augment.Augmentation`.
    """

    def __init__(
        self,
        train: list[str],
        shares: list[float] | None = None,
        validation: str | None = None,
        validation_limit: int = 8,
        validation_seconds: float = 10.0,
        seconds: float = 1.0,
        batch_size: int = 16,
        workers: int = 1,
        rate: int | None = None,
        channels: int | None = None,
        cache: str = ".cache/audio",
        budget_gb: float = 16.0,
        speed: float = 0.5,
        equaliser: float = 0.5,
        mix: float = 0.2,
        noise: float = 0.2,
        level: float = 1.0,
        polarity: float = 0.5,
        seed: int = 0,
    ):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str | None = None) -> None:
        options = self.hparams
        codec: Any = self.trainer.lightning_module.codec if self.trainer else None
        rate: int = options.rate or codec.sampling_rate
        channels: int = options.channels or getattr(codec, "channels", 1)
        folders = [folder_sounds(folder) for folder in options.train]
        every = [path for files in folders for path in files]
        held = spread(every if options.validation is None else folder_sounds(options.validation), options.validation_limit)
        aside = set(held)
        self.whole = WholeSounds(held, rate, channels, options.validation_seconds)
        if stage in (None, "fit"):
            kept = [[path for path in files if path not in aside] for files in folders]
            if not any(kept):
                raise FileNotFoundError("nothing is left to train on: all sounds are held out for validation")
            self._pack(kept, rate, channels)

    def _pack(self, folders: list[list[Path]], rate: int, channels: int) -> None:
        options = self.hparams
        sounds = PackedSounds([path for files in folders for path in files], rate, channels, options.cache, options.budget_gb * 2**30)
        ends = np.cumsum([len(files) for files in folders])
        folder_of = np.searchsorted(ends, sounds.kept, side="right")  # of each sound that could be decoded
        groups = [np.flatnonzero(folder_of == index).tolist() for index in range(len(folders))]
        names = ("speed", "equaliser", "mix", "noise", "level", "polarity")
        augmentation = Augmentation(**{name: options[name] for name in names})
        rank = self.trainer.global_rank if self.trainer else 0
        samples = round(options.seconds * rate)
        self.crops = RandomSounds(sounds, groups, options.shares, options.batch_size, samples, augmentation, options.seed, rank)

    def train_dataloader(self) -> DataLoader:
        workers, pin = self.hparams.workers, torch.cuda.is_available()
        return DataLoader(self.crops, batch_size=None, num_workers=workers, persistent_workers=workers > 0, pin_memory=pin)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.whole, batch_size=1)

    def examples(self, count: int) -> Tensor:
        """Training crops for a codec's closed-form initialisation, (count, channels, n)."""
        crops = copy.copy(self.crops)
        crops.batch_size, crops.seed = count, self.hparams.seed + 1
        return next(iter(crops))


class ClipDataModule(L.LightningDataModule):
    """Random pieces of clips, and of pictures that are made to move, to train on; beginnings of clips to validate on.

    Args:
        train: clips, or folders of them or of folders of pictures; relative ones also below ``NEURALCODEC_DATA``.
        stills: folders of pictures, searched recursively.
        share: how many of a batch are pictures that are made to move.
        validation: clips; by default those of ``train``.
        validation_limit, validation_frames: how many, and of each.
        frames: of a piece. Models learn best from few first and more later: train in stages, each with ``init_from`` the one before.
        size: side of a piece.
        batch_size: pieces in a batch, on each device.
        workers: loader processes.
        cache: folder of the decoded clips and pictures.
    """

    def __init__(
        self,
        train: list[str] | None = None,
        stills: list[str] | None = None,
        share: float = 0.5,
        validation: str | None = None,
        validation_limit: int = 3,
        validation_frames: int = 8,
        frames: int = 4,
        size: int = 256,
        batch_size: int = 8,
        workers: int = 1,
        cache: str = ".cache",
        seed: int = 0,
    ):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str | None = None) -> None:
        options = self.hparams
        if not options.train and not options.stills:
            raise FileNotFoundError("there is nothing to train on: name clips with --data.train, or pictures with --data.stills")
        if stage in (None, "fit"):
            clips = PackedClips(options.train, Path(options.cache) / "clips") if options.train else None
            stills = PackedImages(options.stills, Path(options.cache) / "images") if options.stills else None
            rank = self.trainer.global_rank if self.trainer else 0
            sizes = (options.batch_size, options.frames, options.size, options.share, options.seed, rank)
            self.pieces = RandomClips(clips, stills, *sizes)
        place = options.validation or (options.train or [None])[0]
        self.whole = WholeClips(place, options.validation_frames, options.validation_limit) if place else None

    def train_dataloader(self) -> DataLoader:
        workers, pin = self.hparams.workers, torch.cuda.is_available()
        return DataLoader(self.pieces, batch_size=None, num_workers=workers, persistent_workers=workers > 0, pin_memory=pin)

    def val_dataloader(self) -> DataLoader | list:
        return [] if self.whole is None else DataLoader(self.whole, batch_size=None, collate_fn=lambda clip: clip)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return super().transfer_batch_to_device(batch, device, dataloader_idx) if isinstance(batch, Tensor) else batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch.float() / 255 if isinstance(batch, Tensor) else batch

    def examples(self, count: int) -> Tensor:
        """Training pieces for a codec's closed-form initialisation, (count, frames, 6, size / 2, size / 2)."""
        pieces = copy.copy(self.pieces)
        pieces.batch_size, pieces.seed = count, self.hparams.seed + 1
        return next(iter(pieces)).float() / 255
