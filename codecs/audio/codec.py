"""What audio codecs share: transforms around a latent, segments that are coded one by one, and streaming.

    x ──analysis──► y ──quantize──► symbols ──► payload of a segment        one second or so, decodable without the others
    x̂ ◄─synthesis── ŷ ◄──────────── symbols ◄─┘

Analysis and synthesis of causal codecs carry over from segment to segment, as convolutions do, so that there are no seams; entropy coding
starts afresh with each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.audio.layers import streaming
from neuralcodec.codecs.base import Codec, CodecError, Compressed, Decompressed

LONGEST_SEGMENT = 2**12  # frames


class SegmentCodec(Codec):
    """A codec of sounds that codes one segment after another.

    A subclass implements :meth:`forward`, :meth:`quantize`, :meth:`encode_symbols`, :meth:`decode_symbols`, :meth:`dequantize`,
    :meth:`synthesise` and :meth:`freeze`. Channels of a sound beyond those of the transforms are coded side by side, each like a sound of
    its own.

    Args:
        analysis, synthesis: transforms of :mod:`~neuralcodec.codecs.audio.transforms` or :mod:`~neuralcodec.codecs.audio.waveform`.
        sampling_rate: Hz.
        segment: latent frames that are coded together, and lost together.
        levels, lmbda: rate levels; λ in kbit/s per unit of distortion.
    """

    modality = "audio"
    decoder_parameters = ("synthesis.", "inverse_gain.")
    latent: int  # channels of ŷ
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
        if not 1 <= segment <= LONGEST_SEGMENT or not 1000 <= sampling_rate <= 768_000:
            raise ValueError(f"a segment has 1 … {LONGEST_SEGMENT} frames, a sampling rate lies between 1 and 768 kHz")
        self.analysis = analysis
        self.synthesis = synthesis
        self.sampling_rate = sampling_rate
        self.segment = segment
        self.hop: int = analysis.hop  # type: ignore[assignment]
        self.delay: int = analysis.delay + synthesis.delay  # type: ignore[assignment,operator]  # samples by which what comes out is late
        self.channels: int = analysis.channels  # type: ignore[assignment]
        self.causal = all(getattr(transform, "causal", True) for transform in (analysis, synthesis))

    # What a subclass provides

    def quantize(self, x: Tensor, level: Tensor) -> Tensor:
        """(B, channels, n · hop) and (B,) to int32 symbols (B, …, n)."""
        raise NotImplementedError

    def dequantize(self, symbols: Tensor, level: Tensor) -> Tensor:
        """Symbols (B, …, n) and (B,) to ŷ (B, latent, n)."""
        raise NotImplementedError

    def synthesise(self, y_hat: Tensor, level: Tensor) -> Tensor:
        """ŷ (B, latent, n) and (B,) to (B, channels, n · hop), late by ``delay`` samples."""
        raise NotImplementedError

    def encode_symbols(self, symbols: Tensor, level: float) -> bytes:
        """The symbols of one segment (B, …, n) to its payload."""
        raise NotImplementedError

    def decode_symbols(self, payloads: Sequence[bytes], items: int, frames: int, level: float) -> Tensor:
        """Undo :meth:`encode_symbols` for segments of so many items and frames: int32 (segments, items, …, frames).

        Raises:
            CorruptStream: a payload that no encoder writes.
        """
        raise NotImplementedError

    # What follows from it

    def frames(self, samples: int) -> int:
        """Latent frames of so many samples, up to the one that completes the last."""
        return -(-(samples + self.delay) // self.hop)

    def items(self, channels: int) -> int:
        """Signals that a sound of so many channels is to the transforms.

        Raises:
            CodecError: not a multiple of what the codec takes at a time.
        """
        if channels < 1 or channels % self.channels:
            raise CodecError(f"{self.name or 'the codec'} codes {self.channels} channels at a time, not {channels}")
        return channels // self.channels

    def seconds(self, frames: int) -> float:
        return frames * self.hop / self.sampling_rate

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

    def compress(self, x: Tensor, level: float) -> Compressed:
        """One sound (1, channels, n) to the payloads of its segments."""
        from neuralcodec.codecs.audio.streams import Encoder

        with Encoder(self, level, x.shape[1]) as encoder:
            segments = [*encoder.push(x[0]), *encoder.finish()]
        symbols = torch.cat([segment.symbols for segment in segments], -1)
        return Compressed([segment.payload for segment in segments], {self.streams[0]: symbols})

    def decompress(self, streams: Sequence[bytes], size: tuple[int, ...], level: float) -> Decompressed:
        """Undo :meth:`compress`; ``size``: (samples, channels)."""
        from neuralcodec.codecs.audio.streams import Decoder

        samples, channels = size
        with Decoder(self, level, channels) as decoder:
            pieces = [*decoder.push(streams[:-1]), *decoder.finish(streams[-1], samples)]
        x_hat = torch.cat([piece.signal for piece in pieces], -1)[None]
        return Decompressed(x_hat, {self.streams[0]: torch.cat([piece.symbols for piece in pieces], -1)})

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


__all__ = ["SegmentCodec"]
