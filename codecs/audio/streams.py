"""Sounds ⇄ segments, as they come: samples in, payloads out, and back, in memory that does not grow with the sound.

Offline coding is the same thing with all samples at once. The analysis always sees whole segments, whatever pieces the samples come in, so
that the symbols, and with them the file, are the same for every way to cut a sound.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor

from neuralcodec.codecs.audio.codec import SegmentCodec
from neuralcodec.entropy.rans import CorruptStream

FADE = 0.9  # by which what conceals a lost segment grows quieter from one latent frame to the next


class Segment(NamedTuple):
    payload: bytes
    symbols: Tensor  # int32, (items, …, frames)


class Piece(NamedTuple):
    signal: Tensor  # (channels, n) at the codec's rate
    symbols: Tensor | None  # int32, (items, …, frames); None where a segment was lost


class _Stream:
    """What both directions share: a codec in streaming mode, for one sound."""

    def __init__(self, codec: SegmentCodec, level: float, channels: int):
        self.codec = codec
        self.level = codec.nearest_level(level)
        self.channels = channels
        self.items = codec.items(channels)
        self.samples = 0  # that have come in, or gone out, or been left out
        self._levels = torch.full((self.items,), self.level, device=codec.device)
        self._stack = ExitStack()

    def __enter__(self):
        if self.codec.causal:
            self._stack.enter_context(self.codec.streaming())
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()


class Encoder(_Stream):
    """Samples to segments.

        with Encoder(codec, level, channels) as encoder:
            for samples in blocks:
                for segment in encoder.push(samples): …
            for segment in encoder.finish(): …

    Args:
        level: rounded to the nearest that a file can name.
        channels: of the sound; a multiple of the codec's.

    A codec that looks ahead gives all of its segments at the end.
    """

    def __init__(self, codec: SegmentCodec, level: float, channels: int):
        super().__init__(codec, level, channels)
        self._waiting: list[Tensor] = []
        self._held = 0  # samples that wait
        self._done = 0  # frames that are coded

    @torch.inference_mode()
    def push(self, samples: Tensor) -> Iterator[Segment]:
        """(channels, n) at the codec's rate, any n."""
        self._waiting.append(samples.to(self.codec.device))
        self._held += samples.shape[1]
        self.samples += samples.shape[1]
        block = self.codec.segment * self.codec.hop
        if not self.codec.causal or self._held <= block:  # what may be the last segment waits for finish()
            return
        waiting = torch.cat(self._waiting, 1)
        whole = (waiting.shape[1] - 1) // block * block
        self._waiting, self._held = [waiting[:, whole:].clone()], waiting.shape[1] - whole
        for piece in waiting[:, :whole].split(block, 1):
            yield self._segment(self._quantize(piece))

    @torch.inference_mode()
    def finish(self) -> Iterator[Segment]:
        """The rest: at least one segment."""
        frames = self.codec.frames(self.samples) - self._done
        waiting = torch.cat([*self._waiting, torch.zeros(self.channels, frames * self.codec.hop - self._held, device=self.codec.device)], 1)
        self._waiting, self._held = [], 0
        if not self.codec.causal:
            yield from map(self._segment, self._quantize(waiting).split(self.codec.segment, -1))
            return
        for piece in waiting.split(self.codec.segment * self.codec.hop, 1):
            yield self._segment(self._quantize(piece))

    def _quantize(self, samples: Tensor) -> Tensor:
        return self.codec.quantize(samples.unflatten(0, (self.items, self.codec.channels)), self._levels)

    def _segment(self, symbols: Tensor) -> Segment:
        self._done += symbols.shape[-1]
        return Segment(self.codec.encode_symbols(symbols, self.level), symbols)


class Decoder(_Stream):
    """Segments to samples, the reverse of :class:`Encoder`.

    Args:
        forgive: go on where a segment is missing or senseless, with silence in its place.
        conceal: let what was last heard fade away there instead.
        first: number of the first segment that will come; the sound is taken up there as after silence.

    Raises:
        CorruptStream: a segment that is missing or senseless, unless ``forgive``.
    """

    def __init__(self, codec: SegmentCodec, level: float, channels: int, forgive: bool = False, conceal: bool = False, first: int = 0):
        super().__init__(codec, level, channels)
        self.forgive = forgive or conceal
        self.conceal = conceal
        self._frames = first * codec.segment  # that have come in, or been left out
        self.samples = self._frames * codec.hop
        self._early = codec.delay  # samples still to come out before the sound begins
        self._last = torch.zeros(self.items, codec.latent, 1, device=codec.device)  # frame of ŷ
        self._missing = 0  # samples of the stretch that is lost, so far
        self._kept: list[Piece] = []  # by a codec that looks ahead: ŷ in the place of signals

    def push(self, payloads: Sequence[bytes | None]) -> Iterator[Piece]:
        """Whole segments, none of them the last of the sound; None where one is lost."""
        yield from self._pieces(payloads, self.codec.segment)

    def finish(self, payload: bytes | None, samples: int | None) -> Iterator[Piece]:
        """The last segment.

        Args:
            samples: of the whole sound, at the codec's rate; None if that is lost. Then what comes out is longer by less than a frame.

        Raises:
            CorruptStream: so many samples do not end in this segment.
        """
        frames = self._frames_in(payload) if samples is None else self.codec.frames(samples) - self._frames
        if not 1 <= frames <= self.codec.segment:
            raise CorruptStream("the sound's length and its segments do not add up")
        pieces = list(self._pieces([payload], frames))
        if not self.codec.causal:
            pieces = list(self._all_at_once())
        first = self.samples - sum(piece.signal.shape[1] for piece in pieces)
        for piece in pieces:
            length = piece.signal.shape[1] if samples is None else max(samples - first, 0)
            yield piece._replace(signal=piece.signal[:, :length])
            first += piece.signal.shape[1]

    def _frames_in(self, payload: bytes | None) -> int:
        """Of a last segment: the fewest whose symbols are coded as it is. Decoders of more find a stream that is empty, not an error."""
        try:
            symbols = None if payload is None else self.codec.decode_symbols([payload], self.items, self.codec.segment, self.level)[0]
        except CorruptStream:
            symbols = None
        if symbols is None:
            return self.codec.segment

        def enough(frames: int) -> bool:
            return self.codec.encode_symbols(symbols[..., :frames], self.level) == payload

        return 1 + bisect_left(range(1, self.codec.segment), True, key=enough)

    @torch.inference_mode()
    def _pieces(self, payloads: Sequence[bytes | None], frames: int) -> Iterator[Piece]:
        for symbols in self._decoded(payloads, frames):
            self._frames += frames
            if symbols is None:
                y_hat = self._last.expand(-1, -1, frames)
            else:
                y_hat = self.codec.dequantize(symbols, self._levels)
                self._last = y_hat[..., -1:].clone()
            if not self.codec.causal:
                self._kept.append(Piece(y_hat, symbols))
                continue
            signal = self.codec.synthesise(y_hat, self._levels).flatten(0, 1)
            yield Piece(self._begun(self._heard(signal, symbols)), symbols)

    def _decoded(self, payloads: Sequence[bytes | None], frames: int) -> list[Tensor | None]:
        """Symbols of each segment, or None."""
        present = [payload for payload in payloads if payload is not None]
        if len(present) < len(payloads) and not self.forgive:
            raise CorruptStream("a segment is missing")
        try:
            decoded = iter(self.codec.decode_symbols(present, self.items, frames, self.level) if present else ())
        except CorruptStream:
            if not self.forgive:
                raise
            # One at a time, to lose those alone that make no sense.
            return [None] if len(payloads) == 1 else [one for payload in payloads for one in self._decoded([payload], frames)]
        return [None if payload is None else next(decoded) for payload in payloads]

    def _all_at_once(self) -> Iterator[Piece]:
        y_hat = torch.cat([piece.signal for piece in self._kept], -1)
        with torch.inference_mode():
            whole = self.codec.synthesise(y_hat, self._levels).flatten(0, 1)
        position = 0
        for kept in self._kept:
            length = kept.signal.shape[-1] * self.codec.hop
            signal = whole[:, position : position + length]
            yield Piece(self._begun(self._heard(signal, kept.symbols)), kept.symbols)
            position += length

    def _heard(self, signal: Tensor, symbols: Tensor | None) -> Tensor:
        """What there is of a signal, or in its place where its symbols are lost."""
        if symbols is not None:
            self._missing = 0
            return signal
        before, self._missing = self._missing, self._missing + signal.shape[1]
        if not self.conceal:
            return torch.zeros_like(signal)
        return signal * FADE ** (torch.arange(before, self._missing, device=signal.device) / self.codec.hop)

    def _begun(self, signal: Tensor) -> Tensor:
        """Without what comes out before the sound begins."""
        early = min(self._early, signal.shape[1])
        self._early -= early
        self.samples += signal.shape[1] - early
        return signal[:, early:]


__all__ = ["Decoder", "Encoder", "Piece", "Segment"]
