"""Lightning data modules: what a training config names under ``data``."""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from neuralcodec.datasets.folders import kodak_folder, resolve_folder
from neuralcodec.datasets.images import ImageFolder, PackedImages, RandomCrops, augment


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
