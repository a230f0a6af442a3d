"""The hyperprior family of image codecs, as configurations of shared parts.

* :class:`FactorizedPrior`: Ballé, Laparra, Simoncelli 2017, https://arxiv.org/abs/1611.01704
* :class:`Hyperprior`, scales only: Ballé et al. 2018, https://arxiv.org/abs/1802.01436
* :class:`Hyperprior`, means and scales: Minnen, Ballé, Toderici 2018, https://arxiv.org/abs/1809.02736
* the same with one of the :mod:`~neuralcodec.codecs.image.contexts`, from raster order to quadtrees

All differ from the papers in serving a range of rates with one model (gains on the latent that are learned per level) and in choosing
probability tables by integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from neuralcodec.codecs.base import Codec, Compressed, Decompressed, Output, sum_per_item
from neuralcodec.codecs.blocks import LevelVectors, pad_to_multiple
from neuralcodec.codecs.image import hyper
from neuralcodec.codecs.image.latents import UnderGaussians
from neuralcodec.codecs.image.transforms import PATCH, STRIDE, LappedAnalysis, LappedSynthesis, LinearLapped
from neuralcodec.entropy import models, rans
from neuralcodec.entropy.quantizers import Quantized, ScalarQuantizer
from neuralcodec.entropy.tables import IntegerTables

# Where errors weigh less, more rounds to zero: side information speaks of y · weight^SHRINK. With a weight of 1/16 around a quarter of a
# picture, an exponent of 1/4 saves 14 % of the bytes over none, and costs 1.7 dB there; 1/2 saves 5 % more for another 1.6 dB.
SHRINK = 0.25


class DecodedLatent(NamedTuple):
    y_hat: Tensor  # (1, C, rows, columns), in quantization steps
    symbols: dict[str, Tensor]  # by stream name


class Side(NamedTuple):
    """What an encoder tells of a latent before its symbols."""

    tables: Tensor  # table index of every latent value, broadcastable to the latent
    z: Tensor | None = None  # symbols of the side information
    prediction: hyper.Prediction | None = None  # what follows from them


# (residuals, the integers below them, bits of these, bits of the integers above, how much errors count) to chances of the integers above,
# differentiable
Draw = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class Relaxed(NamedTuple):
    """A stand-in for a coded latent, with gradients."""

    values: Tensor  # for ŷ, same shape as y
    bits: Tensor  # of all its symbols, a scalar


class ImageCodec(Codec):
    """What the family shares: transforms around a latent at 1/16, and gains that turn it into quantization steps of a level.

    x ──g_a──(× gain)──► y ──quantize──► ŷ ──(× inverse gain)──g_s──► x̂
    """

    modality = "image"
    decoder_parameters = ("g_s.", "inverse_gain.")

    def __init__(
        self,
        analysis: nn.Module,
        synthesis: nn.Module,
        latent: int,
        levels: int = 64,
        knots: int = 8,
        lmbda: Sequence[float] = (0.0013, 0.18),
        quantizer: ScalarQuantizer | None = None,
    ):
        super().__init__(levels, lmbda)
        if not isinstance(analysis, nn.Module) or not isinstance(synthesis, nn.Module):
            raise TypeError("analysis and synthesis are transforms, each with a class_path")
        self.g_a = analysis
        self.g_s = synthesis
        self.multiple = max(getattr(transform, "multiple", STRIDE) for transform in (analysis, synthesis))  # of the images' sides
        self.quantizer = quantizer or ScalarQuantizer("mixed")
        self.gain = LevelVectors(levels, latent, knots)
        self.inverse_gain = LevelVectors(levels, latent, knots)
        with torch.no_grad():
            steps = torch.log(self.fine_steps())[:, None]
            self.gain.rows.copy_(-steps.expand_as(self.gain.rows))
            self.inverse_gain.rows.copy_(steps.expand_as(self.gain.rows))

    def knot_levels(self) -> Tensor:
        return torch.arange(len(self.gain.rows)) * float(self.gain.spacing)

    def fine_steps(self) -> Tensor:
        """The step of an orthonormal transform of pixels in 0…1 that minimises R + λD at high rate, for every learned level.

        From D = step²/12 and R = -3 log2(step) per pixel.
        """
        return torch.sqrt(18 / (np.log(2) * self.lmbda(self.knot_levels()) * 255**2))

    @torch.inference_mode()
    def compress(self, x: Tensor, level: float, weight: Tensor | None = None) -> Compressed:
        """One image (1, 3, H, W) in 0…1 to streams of bytes.

        Args:
            weight: how much errors count at each position of the latent's :meth:`grid`, (1, 1, rows, columns); 1 everywhere if omitted.
        """
        at = self._level(level, x.device)
        return self.code_latent(self.analyse(x, at), at, weight)

    @torch.inference_mode()
    def decompress(self, streams: Sequence[bytes], size: tuple[int, ...], level: float) -> Decompressed:
        height, width = size
        at = self._level(level, self._device)
        latent = self.decode_latent(streams, *self.grid(height, width), at)
        return Decompressed(self.synthesise(latent.y_hat, at, height, width), latent.symbols)

    def code_latent(self, y: Tensor, level: Tensor, weight: Tensor | None = None, side: Side | None = None) -> Compressed:
        """A latent (1, C, rows, columns) of :meth:`analyse` to streams.

        Args:
            weight: how much errors count, (1, 1, rows, columns).
            side: what is told of the latent; that of :meth:`side` if omitted.
        """
        raise NotImplementedError

    def side(self, y: Tensor, level: Tensor, weight: Tensor | None = None) -> Side:
        """What is told of a latent (1, C, rows, columns) before its symbols, weighted as in :meth:`code_latent`."""
        raise NotImplementedError

    def relax(self, y: Tensor, side: Side, draw: Draw, weight: Tensor) -> Relaxed:
        """:meth:`code_latent` with a gradient: points between integers in the place of symbols, bits by the tables that code."""
        raise NotImplementedError

    def decode_latent(self, streams: Sequence[bytes], rows: int, columns: int, level: Tensor) -> DecodedLatent:
        """Undo :meth:`code_latent`, but for the rounding."""
        raise NotImplementedError

    def analyse(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, 3, H, W) in 0…1 to a latent in quantization steps, (B, latent, rows, columns of :meth:`grid`)."""
        return self.g_a(pad_to_multiple(x, self.multiple), level) * self.gain(level).exp()[:, :, None, None]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the latent of an image."""
        rows, columns = (-(-side // self.multiple) * (self.multiple // STRIDE) for side in (height, width))
        return rows, columns

    def synthesise(self, y_hat: Tensor, level: Tensor, height: int, width: int) -> Tensor:
        x_hat = self.g_s(y_hat * self.inverse_gain(level).exp()[:, :, None, None], level)
        return x_hat[..., :height, :width]

    def learning_rate_scale(self, name: str) -> float:
        """Slow for transforms that were found in closed form, fast for the few numbers that describe levels and densities."""
        if name.startswith(("g_a.linear.", "g_s.linear.")):
            return 0.1
        return 5.0 if name.endswith(".rows") or "prior." in name else 1.0

    def _linear(self) -> tuple[LinearLapped, LinearLapped] | None:
        """The linear parts of both transforms, which closed forms are known for, if there are any."""
        if isinstance(self.g_a, LappedAnalysis) and isinstance(self.g_s, LappedSynthesis) and self.g_a.linear and self.g_s.linear:
            return self.g_a.linear, self.g_s.linear
        return None

    def _level(self, level: float, device: torch.device) -> Tensor:
        return torch.full((1,), float(level), device=device)

    @property
    def _device(self) -> torch.device:
        return self.gain.rows.device


class FactorizedPrior(ImageCodec):
    """A latent coded with one learned density per channel.

    Args:
        analysis, synthesis: transforms of :mod:`~neuralcodec.codecs.image.transforms`.
        latent: channels of the latent.
        levels, knots, lmbda: rate levels; see :class:`~neuralcodec.codecs.base.Codec` and :class:`~neuralcodec.codecs.blocks.LevelVectors`.
    """

    streams = ("y",)

    def __init__(
        self,
        analysis: nn.Module,
        synthesis: nn.Module,
        latent: int,
        levels: int = 64,
        knots: int = 8,
        lmbda: Sequence[float] = (0.0013, 0.18),
        quantizer: ScalarQuantizer | None = None,
    ):
        super().__init__(analysis, synthesis, latent, levels, knots, lmbda, quantizer)
        self.prior = models.FactorizedPrior(latent, len(self.gain.rows))

    def forward(self, x: Tensor, level: Tensor) -> Output:
        y = self.quantizer(self.analyse(x, level))
        bits = self.prior.bits(y.proxy, self.gain.nearest_knot(level))
        x_hat = self.synthesise(y.values, level, *x.shape[-2:])
        return Output(x_hat, {"y": sum_per_item(bits)}, {}, {"y": y.symbols})

    def code_latent(self, y: Tensor, level: Tensor, weight: Tensor | None = None, side: Side | None = None) -> Compressed:
        if weight is None:
            symbols = self.quantizer(y).symbols
        else:
            tables = (side or self.side(y, level)).tables.expand_as(y)
            symbols = models.round_for_rate(y, tables, self.prior.tables.bits, weight).int()
        indexes = self.prior.indexes(int(self.gain.nearest_knot(level)), *symbols.shape[-2:])
        return Compressed([rans.encode(symbols.cpu().numpy(), indexes, self.prior.tables)], {"y": symbols})

    def side(self, y: Tensor, level: Tensor, weight: Tensor | None = None) -> Side:
        first = int(self.gain.nearest_knot(level)) * self.prior.channels
        return Side(torch.arange(first, first + self.prior.channels, device=y.device)[:, None, None])

    def relax(self, y: Tensor, side: Side, draw: Draw, weight: Tensor) -> Relaxed:
        values, bits = _between_integers(y, side.tables.expand_as(y), self.prior.tables, draw, weight)
        return Relaxed(values, bits.sum())

    def decode_latent(self, streams: Sequence[bytes], rows: int, columns: int, level: Tensor) -> DecodedLatent:
        indexes = self.prior.indexes(int(self.gain.nearest_knot(level)), rows, columns)
        symbols = torch.from_numpy(rans.decode(streams[0], indexes, self.prior.tables))[None].to(self._device)
        return DecodedLatent(symbols.float(), {"y": symbols})

    def freeze(self) -> None:
        self.prior.build_tables()

    @torch.no_grad()
    def initialise(self, signals: Tensor) -> None:
        if linear := self._linear():
            linear[0].initialise(signals - 0.5)
            linear[1].invert(linear[0])


class Hyperprior(UnderGaussians, ImageCodec):
    """A latent under Gaussians whose scales, and means if wanted, come from side information.

        y ──────────────(−)──round──► rANS ──► (+)──► ŷ
        │                ▲             ▲        ▲
        │              mean      scale index   mean ◄─ context, of the ŷ so far
        └──h_a──round──► ẑ ──► rANS ──► ẑ ──h_s─┘

    Args:
        analysis, synthesis: transforms of :mod:`~neuralcodec.codecs.image.transforms`.
        latent: channels of the latent.
        hyper_channels: channels of the side information, at 1/64.
        patterns, hyper_width: inner widths of :class:`~neuralcodec.codecs.image.hyper.HyperSynthesis`.
        means: predict means as well as scales.
        context: refines the means from what is already decoded; one of :mod:`~neuralcodec.codecs.image.contexts`.
        levels, knots, lmbda: rate levels; see :class:`~neuralcodec.codecs.base.Codec` and :class:`~neuralcodec.codecs.blocks.LevelVectors`.
    """

    streams = ("z", "y")

    def __init__(
        self,
        analysis: nn.Module,
        synthesis: nn.Module,
        latent: int,
        hyper_channels: int,
        patterns: int,
        hyper_width: int,
        means: bool = True,
        context: nn.Module | None = None,
        levels: int = 64,
        knots: int = 8,
        lmbda: Sequence[float] = (0.0013, 0.18),
        quantizer: ScalarQuantizer | None = None,
    ):
        super().__init__(analysis, synthesis, latent, levels, knots, lmbda, quantizer)
        self.describe(latent, hyper_channels, patterns, hyper_width, means, context, levels, knots)

    def forward(self, x: Tensor, level: Tensor) -> Output:
        y = self.analyse(x, level)
        z = self.told(y, level)
        prediction = self.h_s(z.values, level, *y.shape[-2:])
        quantized = self.quantize(y, prediction)
        x_hat = self.synthesise(quantized.values, level, *x.shape[-2:])
        return Output(x_hat, self.bits(z, quantized, prediction.scale_index, level), {}, {"z": z.symbols, "y": quantized.symbols})

    def side(self, y: Tensor, level: Tensor, weight: Tensor | None = None) -> Side:
        told = y if weight is None else y * weight**SHRINK
        z = self.told(told, level).symbols
        prediction = self.h_s(z.float(), level, *y.shape[-2:])
        return Side(prediction.scale_index, z, prediction)

    def relax(self, y: Tensor, side: Side, draw: Draw, weight: Tensor) -> Relaxed:
        assert side.prediction is not None

        def quantize(latent: Tensor, mean: Tensor | None, scale_index: Tensor, weight: Tensor | None) -> Quantized:
            residual = latent if mean is None else latent - mean
            assert weight is not None
            values, bits = _between_integers(residual, scale_index, self.y_model.tables, draw, weight)
            return Quantized(self.quantizer.dequantize(values, mean), values.detach().round().int(), bits)

        if self.context is None:
            quantized = quantize(y, side.prediction.mean, side.tables, weight)
        else:
            quantized = self.context.relax(y, side.prediction, quantize, weight)
        return Relaxed(quantized.values, quantized.proxy.sum())

    def code_latent(self, y: Tensor, level: Tensor, weight: Tensor | None = None, side: Side | None = None) -> Compressed:
        _, z, prediction = side or self.side(y, level, weight)
        assert z is not None and prediction is not None
        symbols = self.quantize(y, prediction, weight).symbols
        z_indexes = self.z_prior.indexes(int(self.gain.nearest_knot(level)), *z.shape[-2:])
        streams = [
            rans.encode(z.cpu().numpy(), z_indexes, self.z_prior.tables),
            rans.encode(symbols.cpu().numpy(), _as_bytes(prediction.scale_index), self.y_model.tables),
        ]
        return Compressed(streams, {"z": z, "y": symbols})

    def decode_latent(self, streams: Sequence[bytes], rows: int, columns: int, level: Tensor) -> DecodedLatent:
        z_indexes = self.z_prior.indexes(int(self.gain.nearest_knot(level)), -(-rows // PATCH), -(-columns // PATCH))
        z = self.read_side(rans.decode(streams[0], z_indexes, self.z_prior.tables))[None]
        prediction = self.h_s(z.float(), level, rows, columns)
        decoded = rans.decode(streams[1], _as_bytes(prediction.scale_index), self.y_model.tables)
        symbols = torch.from_numpy(decoded).to(self._device)
        return DecodedLatent(self.dequantize(symbols, prediction), {"z": z, "y": symbols})

    @torch.no_grad()
    def calibrate(self, signals: Sequence[Tensor]) -> None:
        counts = models.no_counts()
        for x in signals:
            for level in self.knot_levels().tolist():
                at = self._level(level, x.device)
                y = self.analyse(x, at)
                side = self.side(y, at)
                assert side.prediction is not None
                counts += models.counts(self.quantize(y, side.prediction).symbols, side.tables)
        self.y_model.build_tables(counts)

    @torch.no_grad()
    def initialise(self, signals: Tensor) -> None:
        """Karhunen–Loève transform, then the statistics of its coefficients' magnitudes; the sides of the images are multiples of 64."""
        if not (linear := self._linear()):
            return
        linear[0].initialise(signals - 0.5)
        linear[1].invert(linear[0])
        y = torch.cat([linear[0](part - 0.5) for part in signals.split(16)])
        hyper.initialise(self.h_a, self.h_s, y, self.gain.rows.exp())


def _between_integers(residual: Tensor, indexes: Tensor, tables: IntegerTables, draw: Draw, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Points between the two integers next to each residual, and what they are expected to cost, both of the residuals' shape."""
    below = torch.floor(residual.detach())
    low, high = tables.bits(below, indexes), tables.bits(below + 1, indexes)
    chance = draw(residual, below, low, high, weight)
    return below + chance, low + chance * (high - low)


def _as_bytes(index: Tensor) -> np.ndarray:
    return index.to(torch.uint8).cpu().numpy()
