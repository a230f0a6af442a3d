"""Training of image codecs: bits per pixel and 255²·MSE; validation in real bpp and PSNR."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from neuralcodec.codecs.base import Codec, Output
from neuralcodec.codecs.files import decode_signal, encode_signal
from neuralcodec.eval.metrics.image import psnr
from neuralcodec.training.base import RateDistortion


class ImageTraining(RateDistortion):
    """R in bits per pixel, D in 255²·MSE. Arguments as of :class:`~neuralcodec.training.base.RateDistortion`."""

    def objective(self, x: Tensor, level: Tensor, output: Output) -> Tensor:
        pixels = x.shape[-2] * x.shape[-1]
        bpp = torch.stack(list(output.bits.values())).sum(0) / pixels
        mse = (output.reconstruction.float() - x).square().mean((1, 2, 3)) * 255**2
        with torch.no_grad():
            quality = (10 * torch.log10(255**2 / mse)).mean()
        self.log("bpp", bpp.mean(), prog_bar=True)
        self.log("psnr", quality, prog_bar=True)
        for name, bits in output.bits.items():
            self.log(f"bpp_{name}", bits.mean() / pixels)
        return self.total(level, bpp, mse)

    def validate(self, codec: Codec, batch: tuple[list[str], Tensor], level: float, index: int) -> dict[str, float]:
        _, x = batch
        pixels = x.shape[-2] * x.shape[-1]
        estimate = codec(x, torch.full((1,), level, device=self.device))
        coded = encode_signal(codec, x, level)
        decoded = decode_signal(codec, coded.data)
        self.compare(coded.symbols, decoded.symbols, level)
        if index == 0:
            for logger in self.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_image(f"level {level:g}", decoded.signal[0].clamp(0, 1).cpu(), self.global_step)
        return {
            "estimated_bpp": float(sum(estimate.bits.values())) / pixels,
            "bpp": len(coded.data) * 8 / pixels,
            "psnr": psnr(x, decoded.signal),
        }

    def validated(self, means: Mapping[str, float], lmbda: float) -> float:
        return means["bpp"] + lmbda * 255**2 / 10 ** (means["psnr"] / 10)
