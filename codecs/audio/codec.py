"""What audio codecs share: transforms around a latent, segments that are coded one by one, and streaming.

    x ──analysis──► y ──quantize──► symbols ──► payload of a segment        one second or so, decodable without the others
    x̂ ◄─synthesis── ŷ ◄──────────── symbols ◄─┘

Analysis and synthesis of causal codecs carry over from segment to segment, as convolutions do, so that there are no seams; entropy coding
starts afresh with each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.audio.layers import Streamed, streaming
from neuralcodec.codecs.base import Codec, CodecError, Compressed, Decompressed


class Segment(NamedTuple):
    payload: bytes
    symbols: Tensor  # int32, (channels of the sound, …, frames): what was coded


class SegmentCodec(Codec):
    """A codec of sounds that codes one segment after another.

    A subclass implements :meth:`forward`, :meth:`quantize`, :meth:`encode_symbols`, :meth:`decode_symbols`, :meth:`dequantize` and
    :meth:`freeze`. Channels of a sound beyond those of the transforms are coded like sounds of their own, side by side.

    Args:
        analysis, synthesis: transforms of :mod:`~neuralcodec.codecs.audio.transforms` or :mod:`~neuralcodec.codecs.audio.waveform`.
        sampling_rate: Hz.
        segment: latent frames that are coded together, and lost together.
        levels, lmbda: rate levels; λ in kbit/s per unit of distortion.
    """

    modality = "audio"
    decoder_parameters = ("synthesis.", "inverse_gain.")
    bypass = False  # forward skips the quantizer: how training may begin

    def __init__(
        self,
        analysis: nn.Module,
        synthesis: nn.Module,
        sampling_rate: int,
        segment: int = 50,
        levels: int = 64,
        lmbda: Sequence[float] = (0.1, 10.0),
    ):
        super().__init__(levels, lmbda)
        if not isinstance(analysis, nn.Module) or not isinstance(synthesis, nn.Module):
            raise TypeError("analysis and synthesis are transforms, each with a class_path")
        if analysis.hop != synthesis.hop or analysis.channels != synthesis.channels:
            raise ValueError("analysis and synthesis disagree about the hop or the channels")
        if not 1 <= segment <= 2**15 or not 1000 <= sampling_rate <= 768_000:
            raise ValueError("a segment has 1 … 32768 frames, a sampling rate lies between 1 and 768 kHz")
        self.analysis = analysis
        self.synthesis = synthesis
        self.sampling_rate = sampling_rate
        self.segment = segment
        self.hop: int = analysis.hop
        self.delay: int = analysis.delay + synthesis.delay  # samples by which what comes out is late
        self.channels: int = analysis.channels
        self.causal = all(getattr(transform, "causal", True) for transform in (analysis, synthesis))

    # What a subclass provides

    def quantize(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, channels, n · hop) to int32 symbols (B, …, n), by the analysis, whatever it is told to remember."""
        raise NotImplementedError

    def encode_symbols(self, symbols: Tensor, level: float) -> bytes:
        """One segment's symbols (B, …, n) to its payload."""
        raise NotImplementedError

    def decode_symbols(self, payloads: Sequence[bytes], items: int, frames: Sequence[int], level: float) -> list[Tensor]:
        """Undo :meth:`encode_symbols` for several segments, each of ``items`` and so many frames.

        Raises:
            CorruptStream: a payload that no encoder writes.
        """
        raise NotImplementedError

    def dequantize(self, symbols: Tensor, level: Tensor) -> Tensor:
        """Symbols (B, …, n) to ŷ, (B, latent, n): what the synthesis takes."""
        raise NotImplementedError

    # What follows from it

    def frames(self, samples: int) -> int:
        """Latent frames of so many samples, up to the one that completes the last."""
        return -(-(samples + self.delay) // self.hop)

    def items(self, channels: int) -> int:
        """Signals that a sound of so many channels is to the transforms."""
        if channels % self.channels:
            raise CodecError(f"{self.name or 'the codec'} codes {self.channels} channels at a time, not {channels}")
        return channels // self.channels

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Within the block, calls of the transforms are consecutive pieces of one signal.

        Raises:
            CodecError: the codec looks ahead.
        """
        if not self.causal:
            raise CodecError(f"{self.name or 'the codec'} looks ahead, and so cannot stream")
        with streaming(self.analysis, self.synthesis):
            yield

    def padded(self, x: Tensor) -> Tensor:
        """A signal (B, channels, n) with silence behind it, to whole frames that complete its last sample."""
        return F.pad(x, (0, self.frames(x.shape[-1]) * self.hop - x.shape[-1]))

    def trimmed(self, x_hat: Tensor, samples: int) -> Tensor:
        return x_hat[..., self.delay : self.delay + samples]

    @torch.inference_mode()
    def compress(self, x: Tensor, level: float) -> Compressed:
        """One sound (1, channels, n) to the payloads of its segments."""
        from neuralcodec.codecs.audio.streams import SegmentEncoder

        encoder = SegmentEncoder(self, level, x.shape[1])
        with encoder:
            segments = [*encoder.push(x[0]), *encoder.finish()]
        return Compressed([segment.payload for segment in segments], {self.streams[0]: joined([segment.symbols for segment in segments])})

    @torch.inference_mode()
    def decompress(self, streams: Sequence[bytes], size: tuple[int, ...], level: float) -> Decompressed:
        """Undo :meth:`compress`; ``size``: (samples, channels)."""
        from neuralcodec.codecs.audio.streams import SegmentDecoder

        samples, channels = size
        decoder = SegmentDecoder(self, level, channels)
        with decoder:
            pieces = list(decoder.push_all(streams, self.frames(samples)))
        x_hat = torch.cat([piece.signal for piece in pieces], -1)[None, :, :samples]
        return Decompressed(x_hat, {self.streams[0]: joined([piece.symbols for piece in pieces])})

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def receptive_field(self) -> float:
        """Seconds of the past that a sample of the synthesis depends on, its own frame included; found by asking for gradients."""
        frames = 4 * self.segment
        latent = torch.zeros(1, self.latent, frames, requires_grad=True)
        level = torch.zeros(1)
        with torch.enable_grad():
            out = self.synthesis.double()(latent.double(), level)
        raise NotImplementedError


def joined(symbols: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(symbols), -1)


__all__ = ["Segment", "SegmentCodec", "Streamed"]
