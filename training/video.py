"""The fit of a network to a group of pictures as a Lightning run: the same steps as ``neuralcodec encode``, with its logs, for research.

    neuralcodec train fit --config video/tiny --data.clip clip.y4m --data.frames 32 --data.steps 1000 --model.level 30

At the end ``clip.ncv`` stands in the folder of the run, and its rate and quality among the logs.
"""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from neuralcodec.codecs.base import CodecError
from neuralcodec.codecs.fitted import from_spec
from neuralcodec.codecs.video import files
from neuralcodec.codecs.video.fit import Fitting, Piece, Plan, fitting
from neuralcodec.codecs.video.fitted import FittedVideo
from neuralcodec.codecs.writing import write_whole
from neuralcodec.datasets.video import read_clip
from neuralcodec.entropy import container
from neuralcodec.eval.metrics.video import quality

FILE = "clip.ncv"


class ClipData(L.LightningDataModule):
    """The first frames of a clip, once for each step.

    Args:
        clip: a film, a raw file whose name says its size and rate, or a folder of pictures.
        frames: to fit, one group of pictures.
        steps: of the fit.
        fps: frames per second, where the clip does not say.
        matrix: as ``--matrix`` of the command line.
    """

    def __init__(self, clip: str, frames: int = 32, steps: int = 1000, fps: str | None = None, matrix: str | None = None):
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str | None = None) -> None:
        options = self.hparams
        try:
            self.clip = read_clip(options.clip, options.frames, rate=Fraction(options.fps) if options.fps else None, matrix=options.matrix)
        except ValueError as error:
            raise CodecError(str(error)) from None

    def train_dataloader(self) -> DataLoader:
        return DataLoader(range(self.hparams.steps), batch_size=None)  # type: ignore[arg-type]


class ClipFitting(L.LightningModule):
    """
    Args:
        codec: its spec.
        level: of the file.
    """

    def __init__(self, codec: dict, level: float = 30.0):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False  # a fit has an optimiser of its own
        fresh = from_spec(codec)
        if not isinstance(fresh, FittedVideo):
            raise CodecError(f"{type(fresh).__name__} is not fitted to clips")
        self.codec = fresh
        self.fitting: list[Fitting] = []  # no submodule: it is no part of what Lightning saves and averages

    def configure_optimizers(self) -> None:
        return None

    def on_fit_start(self) -> None:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        clip, level = data.clip, self.codec.nearest_level(self.hparams.level)
        if len(clip) > self.codec.group:
            raise CodecError(f"one group of at most {self.codec.group} pictures is fitted; --data.frames is {len(clip)}")
        piece = Piece(copy.deepcopy(self.codec.network).requires_grad_(True), len(clip), clip.height, clip.width)
        plan = self.codec.paced(Plan(steps=data.hparams.steps))
        lmbda = float(self.codec.lmbda(torch.tensor(level)))
        self.fitting = [fitting(piece, files.pack(clip)[0], lmbda, plan)]

    def training_step(self, batch: Any, batch_index: int) -> None:
        (under_way,) = self.fitting
        under_way.advance()
        self.log("bpp", under_way.rate, prog_bar=True)
        self.log("mse", 255**2 * under_way.error, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        """The plan is one epoch."""
        self.trainer.should_stop = True
        (under_way,) = self.fitting
        clip = self.trainer.datamodule.clip  # type: ignore[attr-defined]
        fitted = under_way.fitted()
        streams = [fitted.piece.weights.encode(fitted.piece.differences())[0], fitted.piece.grids.encode(fitted.latents)[0]]
        data = files.to_file(self.codec, clip, self.hparams.level, streams)
        write_whole(Path(self.trainer.default_root_dir) / FILE, data)
        reached = quality(clip, files.decode_clip(container.read(data)))
        self.log("file_bpp", 8 * len(data) / clip.y.size)
        self.log("file_psnr_yuv611", reached["psnr_yuv611"])


__all__ = ["ClipData", "ClipFitting"]
