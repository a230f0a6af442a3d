"""An audio codec trained on rate: scalar quantization under a causal prior, one model for a range of rates.

    x ──analysis──(× gain)──► y ──round──► integers ──(× inverse gain)──synthesis──► x̂
                                              │
                                causal prior ─┴─► rANS

Transform coding as of images, over time: the prior of :mod:`~neuralcodec.entropy.causal` has the place of the hyperprior, so that frames
can be coded as they come.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neuralcodec.codecs.audio.codec import SegmentCodec
from neuralcodec.codecs.base import Output
from neuralcodec.codecs.blocks import LevelVectors
from neuralcodec.entropy.causal import CausalPrior
from neuralcodec.entropy.quantizers import Quantized, ScalarQuantizer


class ScalarCodec(SegmentCodec):
    """
    Args:
        analysis, synthesis, sampling_rate, segment, levels, lmbda: see :class:`~neuralcodec.codecs.audio.codec.SegmentCodec`.
        latent: channels of the latent.
        prior: :class:`~neuralcodec.entropy.causal.CausalPrior` of as many channels.
        knots: see :class:`~neuralcodec.codecs.blocks.LevelVectors`.
        steps: quantization steps of the latent as it starts, at the lowest and the highest level.
    """

    streams = ("y",)

    def __init__(
        self,
        analysis: nn.Module,
        synthesis: nn.Module,
        prior: nn.Module,
        latent: int,
        sampling_rate: int,
        segment: int = 50,
        levels: int = 64,
        knots: int = 8,
        lmbda: Sequence[float] = (0.1, 10.0),
        steps: Sequence[float] = (2.0, 0.25),
    ):
        super().__init__(analysis, synthesis, sampling_rate, segment, levels, lmbda)
        if not isinstance(prior, CausalPrior) or prior.channels != latent:
            raise TypeError(f"the prior is a neuralcodec.entropy.causal.CausalPrior of {latent} channels")
        self.latent = latent
        self.prior = prior
        self.quantizer = ScalarQuantizer("mixed")
        self.gain = LevelVectors(levels, latent, knots)
        self.inverse_gain = LevelVectors(levels, latent, knots)
        rows = len(self.gain.rows)
        logs = torch.linspace(0, 1, rows) if rows > 1 else torch.tensor([0.5])
        logs = torch.log(torch.tensor(float(steps[0]))) * (1 - logs) + torch.log(torch.tensor(float(steps[1]))) * logs
        with torch.no_grad():
            self.gain.rows.copy_(-logs[:, None].expand_as(self.gain.rows))
            self.inverse_gain.rows.copy_(logs[:, None].expand_as(self.gain.rows))

    def forward(self, x: Tensor, level: Tensor) -> Output:
        """(B, channels, n) of any length."""
        y = self.analyse(self.padded(x), level)
        quantized = Quantized(y, torch.round(y.detach()).int(), y) if self.bypass else self.quantizer(y)
        bits = y.new_zeros(len(y)) if self.bypass else self._bits(quantized, level)
        x_hat = self.trimmed(self.synthesise(quantized.values, level), x.shape[-1])
        return Output(x_hat, {"y": bits}, {}, {"y": quantized.symbols})

    def _bits(self, quantized: Quantized, level: Tensor) -> Tensor:
        """Of each item; every segment starts without a past."""
        pieces = zip(quantized.values.split(self.segment, -1), quantized.proxy.split(self.segment, -1))
        return sum((self.prior.bits(values, proxy, level).flatten(1).sum(1) for values, proxy in pieces), level.new_zeros(len(level)))

    def analyse(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, channels, n · hop) to the latent in quantization steps, (B, latent, n)."""
        return self.analysis(x, level) * self.gain(level).exp()[:, :, None]

    def quantize(self, x: Tensor, level: Tensor) -> Tensor:
        return self.quantizer(self.analyse(x, level)).symbols

    def dequantize(self, symbols: Tensor, level: Tensor) -> Tensor:
        return symbols.float()  # in quantization steps

    def synthesise(self, y_hat: Tensor, level: Tensor) -> Tensor:
        return self.synthesis(y_hat * self.inverse_gain(level).exp()[:, :, None], level)

    def encode_symbols(self, symbols: Tensor, level: float) -> bytes:
        return self.prior.encode(symbols, level)

    def decode_symbols(self, payloads: Sequence[bytes], items: int, frames: int, level: float) -> Tensor:
        return torch.from_numpy(self.prior.decode(payloads, items, frames, level)).to(self.device)

    def freeze(self) -> None:
        self.prior.freeze()

    @torch.no_grad()
    def calibrate(self, signals: Sequence[Tensor]) -> None:
        """Shape the tables by what is coded for example sounds, each (1, channels, n), at every learned level."""
        counts = None
        for knot in range(len(self.gain.rows)):
            level = float(knot * self.gain.spacing)
            for x in signals:
                symbols = self.quantize(self.padded(x), torch.full((1,), level, device=x.device))
                for piece in symbols.split(self.segment, -1):
                    seen = self.prior.count(piece, level)
                    counts = seen if counts is None else counts + seen
        if counts is not None:
            self.prior.build_tables(counts)

    def learning_rate_scale(self, name: str) -> float:
        return 5.0 if name.endswith(".rows") else 1.0


__all__ = ["ScalarCodec"]
