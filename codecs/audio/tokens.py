"""An audio codec of tokens: every frame of a sound becomes a few integers, which is also what language models of sound are made of.

    x ──analysis──► y ──vector quantizer──► tokens ──lookup──► ŷ ──synthesis──► x̂
                                               │
                           categorical prior ──┴──► bytes, or packed where no prior has been trained

The quantizers of :mod:`~neuralcodec.entropy.vector` make it a SoundStream, an EnCodec, a DAC, …; the transforms are those of every audio
codec. The level is the number of stages in use, less one, and what fewer stages say is the beginning of what more do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from neuralcodec.codecs.audio.codec import SegmentCodec
from neuralcodec.codecs.base import CodecError, Output
from neuralcodec.entropy.categorical import CategoricalPrior
from neuralcodec.entropy.rans import CorruptStream
from neuralcodec.entropy.vector import VectorQuantizer


class Tokens(NamedTuple):
    """A sound as integers."""

    indexes: np.ndarray  # int32 (codebooks, frames), or (signals, codebooks, frames) if the sound is more than one to the codec
    frame_rate: float  # frames a second
    codebook_sizes: tuple[int, ...]


class TokenCodec(SegmentCodec):
    """
    Args:
        analysis, synthesis, sampling_rate, segment: see :class:`~neuralcodec.codecs.audio.codec.SegmentCodec`.
        quantizer: of :mod:`~neuralcodec.entropy.vector`; its channels are the latent's.
        dropout: how often training leaves an item the number of stages that its level asks for; all are used otherwise (SoundStream).
        lmbda: λ of every level: with a rate that is fixed, what distortion weighs beside the quantizer's own losses. With 100, a mel
            distance of weight 1 weighs about what it does in DAC.
        classes: of the tokens before and above, and before in the first codebook; see
            :class:`~neuralcodec.entropy.categorical.CategoricalPrior`.
    """

    streams = ("tokens",)
    calibration_sounds = 1024  # of ten seconds, at most: tables of a thousand entries want to see many

    def __init__(
        self,
        analysis: nn.Module,
        synthesis: nn.Module,
        quantizer: nn.Module,
        sampling_rate: int,
        segment: int = 50,
        dropout: float = 0.5,
        lmbda: float = 100.0,
        classes: Sequence[int] = (8, 8, 256),
    ):
        if not isinstance(quantizer, VectorQuantizer):
            raise TypeError("the quantizer is one of neuralcodec.entropy.vector")
        super().__init__(analysis, synthesis, sampling_rate, segment, quantizer.stages, (lmbda, lmbda))
        self.quantizer = quantizer
        self.latent = quantizer.channels
        self.dropout = dropout
        self.prior = CategoricalPrior(quantizer.codebook_sizes, *classes)

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sampling_rate / self.hop

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Of all codebooks, in coding order."""
        return self.quantizer.codebook_sizes

    def nearest_level(self, level: float) -> float:
        """A whole one: there is nothing between two numbers of stages."""
        return float(min(max(round(level), 0), self.levels - 1))

    def codebooks(self, level: float) -> int:
        """Codebooks in use at a level.

        Raises:
            CorruptStream: a level that the codec has not, as a file may name one.
        """
        if level != self.nearest_level(level):
            raise CorruptStream("the file's level is none that its codec has")
        return self.quantizer.codebooks(int(level) + 1)

    def tokens(self, x: Tensor, level: float | None = None) -> Tokens:
        """A sound (channels, n), or (n,), at the codec's rate to the integers that its file would hold.

        Args:
            level: stages in use, less one; all if omitted.
        """
        if not 1 <= x.ndim <= 2 or not x.numel():
            raise CodecError(f"a sound is (channels, n) or (n,), and not empty: not {tuple(x.shape)}")
        x = x.reshape(-1, x.shape[-1])[None]
        level = self.levels - 1 if level is None else self.nearest_level(level)
        indexes = self.compress(x, level).symbols["tokens"].cpu().numpy()
        return Tokens(indexes[0] if len(indexes) == 1 else indexes, self.frame_rate, self.codebook_sizes[: indexes.shape[1]])

    @torch.inference_mode()
    def from_tokens(self, indexes: np.ndarray, samples: int | None = None) -> Tensor:
        """The sound (channels, n) of integers as :meth:`tokens` gives them.

        Args:
            samples: of the sound; as many as the frames hold if omitted.

        Raises:
            CodecError: a shape or values that the codec does not have.
        """
        array = np.asarray(indexes)
        if array.ndim == 2:
            array = array[None]
        stages = array.shape[1] * self.levels / len(self.codebook_sizes) if array.ndim == 3 else 0
        if not 1 <= stages <= self.levels or stages % 1 or not array.size or array.dtype.kind not in "iu":
            raise CodecError(f"tokens of this codec are integers (codebooks, frames), not {np.shape(indexes)} of {array.dtype}")
        if (array < 0).any() or (array >= np.array(self.codebook_sizes[: array.shape[1]])[:, None]).any():
            raise CodecError("there are tokens that their codebooks do not have")
        level = torch.full((len(array),), stages - 1, device=self.device)
        symbols = torch.from_numpy(array.astype(np.int32)).to(self.device)
        x = self.synthesise(self.dequantize(symbols, level), level).flatten(0, 1)
        return self.trimmed(x, x.shape[-1] if samples is None else samples)

    def forward(self, x: Tensor, level: Tensor) -> Output:
        """(B, channels, n) of any length. While training, ``level`` is what items draw that do not use all stages."""
        stages = torch.round(level).long().clamp(0, self.levels - 1) + 1
        if self.training:
            stages = torch.where(torch.rand(len(x), device=x.device) < self.dropout, stages, self.levels)
        y = self._analyse(self.padded(x))
        if self.bypass:
            values, indexes, losses = y, y.new_full((len(y), len(self.codebook_sizes), y.shape[-1]), -1, dtype=torch.int32), {}
        else:
            values, indexes, loss = self.quantizer(y, stages)
            losses = {"quantizer": loss}
        x_hat = self.trimmed(self.synthesise(values, stages - 1.0), x.shape[-1])
        return Output(x_hat, {"tokens": self._bits(indexes)}, losses, {"tokens": indexes})

    def _bits(self, indexes: Tensor) -> Tensor:
        """Of each item; every segment starts without a past."""
        return torch.stack([self.prior.bits(piece).flatten(1).sum(1) for piece in indexes.split(self.segment, -1)]).sum(0)

    def _analyse(self, x: Tensor) -> Tensor:
        # What a level leaves out are stages, so that the others stay what they are: the analysis knows of one level only.
        return self.analysis(x, torch.zeros(len(x), device=x.device))

    def quantize(self, x: Tensor, level: Tensor) -> Tensor:
        stages = torch.round(level).long() + 1
        return self.quantizer(self._analyse(x), stages).indexes[:, : self.quantizer.codebooks(int(stages.max()))]

    def dequantize(self, symbols: Tensor, level: Tensor) -> Tensor:
        return self.quantizer.lookup(symbols)

    def synthesise(self, y_hat: Tensor, level: Tensor) -> Tensor:
        return self.synthesis(y_hat, level)

    def encode_symbols(self, symbols: Tensor, level: float) -> bytes:
        return self.prior.encode(symbols.cpu().numpy())

    def decode_symbols(self, payloads: Sequence[bytes], items: int, frames: int, level: float) -> Tensor:
        codebooks = self.codebooks(level)
        return torch.from_numpy(np.stack([self.prior.decode(each, items, codebooks, frames) for each in payloads])).to(self.device)

    def freeze(self) -> None:
        self.quantizer.freeze()
        if self.prior.trained:
            self.prior.check()

    @torch.no_grad()
    def calibrate(self, signals: Sequence[Tensor]) -> None:
        """Count the prior's tables in the tokens of example sounds, each (1, channels, n)."""
        top = torch.full((1,), self.levels - 1.0, device=self.device)
        tokens = [self.quantize(self.padded(x.to(self.device)), top) for x in signals]
        pieces = [piece for one in tokens for piece in one.split(self.segment, -1)]
        try:
            self.prior.fit([item.cpu().numpy() for piece in pieces for item in piece])
        except ValueError as error:
            raise CodecError(str(error)) from None


__all__ = ["TokenCodec", "Tokens"]
