"""Latents under Gaussians that side information describes: what codecs of pictures, still and moving, have in common.

Ballé et al. 2018, https://arxiv.org/abs/1802.01436; Minnen, Ballé, Toderici 2018, https://arxiv.org/abs/1809.02736.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from neuralcodec.codecs.base import sum_per_item
from neuralcodec.codecs.blocks import LevelVectors
from neuralcodec.codecs.image import hyper
from neuralcodec.codecs.image.contexts import Context
from neuralcodec.entropy import models, rans
from neuralcodec.entropy.integer import bounded
from neuralcodec.entropy.quantizers import Quantized, ScalarQuantizer


class UnderGaussians(nn.Module):
    """A latent under Gaussians whose scales, and means if wanted, come from side information.

    A subclass has ``gain``, of which the number of learned levels is taken, and a ``quantizer``, and calls :meth:`describe`.
    """

    gain: LevelVectors
    quantizer: ScalarQuantizer

    def describe(
        self,
        latent: int,
        hyper_channels: int,
        patterns: int,
        hyper_width: int,
        means: bool = True,
        context: nn.Module | None = None,
        levels: int = 64,
        knots: int = 8,
    ) -> None:
        """Make the parts."""
        if context is not None and not (isinstance(context, Context) and means):
            raise TypeError("a context is one of neuralcodec.codecs.image.contexts, and refines means")
        self.context = context
        self.h_a = hyper.HyperAnalysis(latent, patterns, hyper_channels, levels, knots)
        self.h_s = hyper.HyperSynthesis(latent, patterns, hyper_channels, hyper_width, means, levels, knots)
        self.z_prior = models.FactorizedPrior(hyper_channels, len(self.gain.rows))
        self.y_model = models.GaussianConditional()
        self.z_quantizer = ScalarQuantizer("mixed")  # the integer layers need integers, in training too

    def told(self, y: Tensor, level: Tensor) -> Quantized:
        """The side information of a latent."""
        return self.z_quantizer(bounded(self.h_a(y, level), -hyper.Z_LIMIT, hyper.Z_LIMIT))

    def quantize(self, y: Tensor, prediction: hyper.Prediction, weight: Tensor | None = None) -> Quantized:
        quantize = self._soften if self.training else self._round
        if self.context is None:
            return quantize(y, prediction.mean, prediction.scale_index, weight)
        return self.context.quantize(y, prediction, quantize, weight)

    def _soften(self, y: Tensor, mean: Tensor | None, scale_index: Tensor, weight: Tensor | None) -> Quantized:
        return self.quantizer(y, mean)

    def _round(self, y: Tensor, mean: Tensor | None, scale_index: Tensor, weight: Tensor | None) -> Quantized:
        symbols = self.y_model.round(y if mean is None else y - mean, scale_index, weight)
        return Quantized(self.quantizer.dequantize(symbols, mean), symbols.int(), symbols)

    def dequantize(self, symbols: Tensor, prediction: hyper.Prediction) -> Tensor:
        if self.context is None:
            return self.quantizer.dequantize(symbols, prediction.mean)
        return self.context.dequantize(symbols, prediction)

    def bits(self, z: Quantized, y: Quantized, scale_index: Tensor, level: Tensor) -> dict[str, Tensor]:
        """Of every item, (B,), by stream: differentiable while training, else those of the coder."""
        bits_of = self.y_model.bits if self.training else self.y_model.coded_bits
        z_bits = self.z_prior.bits(z.proxy, self.gain.nearest_knot(level))
        return {"z": sum_per_item(z_bits), "y": sum_per_item(bits_of(y.proxy, scale_index))}

    def read_side(self, symbols: np.ndarray) -> Tensor:
        """
        Raises:
            CorruptStream: symbols that no encoder writes.
        """
        z = torch.from_numpy(symbols).to(self.gain.rows.device)
        if int(z.min()) < -hyper.Z_LIMIT or int(z.max()) > hyper.Z_LIMIT:
            raise rans.CorruptStream("side information out of range")
        return z

    def freeze(self) -> None:
        self.h_s.check_exact()
        self.z_prior.build_tables()
        self.y_model.build_tables()


__all__ = ["UnderGaussians"]
