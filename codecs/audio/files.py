"""Sounds ⇄ ``.nca`` files. A codec works at one sampling rate; sounds of another are resampled to it and back.

Codecs of segments read and write sounds of any length in constant memory (:class:`SoundEncoder`, :class:`SoundDecoder`); whole sounds pass
through the same code.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuralcodec.codecs.audio.codec import SegmentCodec
from neuralcodec.codecs.audio.streams import Decoder, Encoder, Piece, Segment
from neuralcodec.codecs.base import Codec, CodecError
from neuralcodec.codecs.files import MAX_SAMPLES, UNSAVED, Coded, codec_for, decode_signal, encode_signal
from neuralcodec.datasets.audio import HIGHEST_RATE, LOWEST_RATE, MAX_CHANNELS, Sound, resample
from neuralcodec.datasets.streamed import Resampler
from neuralcodec.entropy import container, segments
from neuralcodec.entropy.rans import CorruptStream

TOGETHER = 8  # segments that are entropy-decoded side by side


class DecodedSound(NamedTuple):
    sound: Sound  # of the original's length, rate and channels
    symbols: dict[str, Tensor]


class Block(NamedTuple):
    """A stretch of a decoded sound."""

    samples: np.ndarray  # (channels, n) float32, at the original's rate
    start: float  # seconds from the beginning of the sound


def to_tensor(sound: Sound, rate: int) -> Tensor:
    """(1, channels, n) at a codec's rate."""
    return torch.from_numpy(resample(sound, rate).samples.copy())[None]


def as_sound(samples: np.ndarray | Tensor, rate: int) -> Sound:
    """
    Raises:
        CodecError: not (n,) or (channels, n) of finite floating-point numbers or int16.
    """
    array = samples.detach().cpu().numpy() if isinstance(samples, Tensor) else np.asarray(samples)
    if array.ndim not in (1, 2) or (array.dtype.kind != "f" and array.dtype != np.int16):
        raise CodecError(f"a sound is (n,) or (channels, n) of floating point or int16, not {array.shape} of {array.dtype}")
    array = np.atleast_2d(array).astype(np.float32) / (32768 if array.dtype == np.int16 else 1)
    if not np.isfinite(array).all():
        raise CodecError("the sound holds samples that are not finite")
    return Sound(array, rate)


def codec_of(data: bytes, candidates: Sequence[str | Path | Codec] = ()) -> Codec:
    """The codec that wrote a file; see :func:`~neuralcodec.codecs.files.codec_for`.

    Raises:
        CodecError: not such a file, a damaged one, or unknown weights.
    """
    try:
        return codec_for(container.read(data), candidates)
    except container.ContainerError as error:
        raise CodecError(str(error)) from None


class SoundEncoder:
    """A sound, piece by piece, to a file.

        with SoundEncoder(codec, file, level, rate, channels) as encoder:
            for samples in blocks:
                encoder.push(samples)
            encoder.finish()

    Args:
        file: binary; only ever written to.
        rate: of the sound, Hz.

    Raises:
        CodecError: a rate or channels that the codec cannot code.
    """

    def __init__(self, codec: SegmentCodec, file: BinaryIO, level: float, rate: int, channels: int):
        if not 1 <= channels <= MAX_CHANNELS or not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise CodecError(f"a sound has 1 … {MAX_CHANNELS} channels at {LOWEST_RATE} … {HIGHEST_RATE} Hz, not {channels} at {rate}")
        self.samples = 0  # of each channel, so far
        self._encoder = Encoder(codec, level, channels)
        try:
            self._resampler = Resampler(channels, rate, codec.sampling_rate)
        except ValueError as error:
            raise CodecError(str(error)) from None
        header = segments.Header(codec.fingerprint or UNSAVED, self._encoder.level, rate, channels, codec.segment)
        self._writer = segments.Writer(file, header)
        self._stack = ExitStack()

    def __enter__(self) -> SoundEncoder:
        self._stack.enter_context(self._encoder)
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    @property
    def bytes(self) -> int:
        return self._writer.bytes

    def push(self, samples: np.ndarray) -> list[Segment]:
        """(channels, n); returns the segments that this completes, which are in the file by then.

        Raises:
            CodecError: samples that are not finite.
        """
        if not np.isfinite(samples).all():
            raise CodecError("a sound with samples that are not finite cannot be coded")
        self.samples += samples.shape[1]
        return self._write(self._encoder.push(self._resampler.push(samples)))

    def finish(self) -> list[Segment]:
        """
        Raises:
            CodecError: there were no samples.
        """
        if not self.samples:
            raise CodecError("a sound without samples cannot be coded")
        written = self._write(self._encoder.push(self._resampler.finish())) + self._write(self._encoder.finish())
        self._writer.finish(self.samples)
        return written

    def _write(self, coded: Iterator[Segment]) -> list[Segment]:
        written = []
        for segment in coded:
            self._writer.write(segment.payload)
            written.append(segment)
        return written


class SoundDecoder:
    """A file of segments to a sound, piece by piece.

    Args:
        file: binary; only ever read forward.
        candidates: codecs that may have written it; by default the shipped ones.
        forgive, conceal: see :class:`~neuralcodec.codecs.audio.streams.Decoder`. What is lost is listed in :attr:`lost`.
        start, end: seconds; the rest is neither entropy-decoded nor synthesised, but for what the synthesis remembers.

    Raises:
        CodecError: not such a file, a damaged header, unknown weights, a senseless stretch.
    """

    def __init__(
        self,
        file: BinaryIO,
        candidates: Sequence[str | Path | Codec] = (),
        device: str = "cpu",
        forgive: bool = False,
        conceal: bool = False,
        start: float = 0.0,
        end: float | None = None,
    ):
        forgive = forgive or conceal
        try:
            self._reader = segments.Reader(file, forgive)
        except container.ContainerError as error:
            raise CodecError(str(error)) from None
        header = self._reader.header
        codec = codec_for(header, candidates)
        sensible = isinstance(codec, SegmentCodec) and header.level <= codec.levels - 1 and header.frames == codec.segment
        sensible = sensible and LOWEST_RATE <= header.sampling_rate <= HIGHEST_RATE and 1 <= header.channels <= MAX_CHANNELS
        if not sensible:
            raise CodecError("the file's header makes no sense")
        if not 0 <= start < (math.inf if end is None else end):
            raise CodecError(f"there is nothing between {start:g} and {end or 0:g} seconds")
        assert isinstance(codec, SegmentCodec)
        self.codec = codec.to(device)
        self.rate, self.channels = header.sampling_rate, header.channels
        self.lost: list[tuple[float, float]] = []  # stretches, in seconds
        self.cut_off = False  # the end is lost, and how long the sound was
        self.symbols: list[Tensor] | None = None  # a list put here gets those of every segment
        self._start, self._end = start, end
        self._forgive, self._conceal = forgive, conceal
        self._length = codec.segment * codec.hop  # samples of a segment, at the codec's rate
        try:
            self._resampler = Resampler(self.channels, codec.sampling_rate, self.rate)
        except ValueError:
            raise CodecError("the file's header makes no sense") from None
        if codec.items(self.channels) * codec.latent * codec.segment > MAX_SAMPLES:
            raise CodecError("the file's header makes no sense")

    @property
    def samples(self) -> int | None:
        """Of each channel of the original; None before the end has been read."""
        return self._reader.samples

    def __iter__(self) -> Iterator[Block]:
        """
        Raises:
            CodecError: damage, unless it is forgiven.
        """
        first = self._first_segment()
        decoder = Decoder(self.codec, self._reader.header.level, self.channels, self._forgive, self._conceal, first)
        try:
            with decoder:
                yield from self._cut(self._resampled(self._pieces(decoder, first), first))
        except (CorruptStream, container.ContainerError) as error:
            raise CodecError(str(error)) from None

    def _first_segment(self) -> int:
        """Where to start so that what is asked for comes out as from the beginning."""
        if not self.codec.causal:
            return 0
        memory = math.ceil(getattr(self.codec.synthesis, "memory", 4 * self.codec.segment) / self.codec.segment)
        together = self.codec.sampling_rate // math.gcd(self.codec.sampling_rate, self.rate)
        step = together // math.gcd(together, self._length)  # segments that the resampler's rhythm fits into
        first = math.floor(self._start * self.codec.sampling_rate / self._length) - memory - 1
        return max(first // step * step, 0)

    def _pieces(self, decoder: Decoder, first: int) -> Iterator[Piece]:
        """From segment ``first`` to the end of the sound, or a little beyond the end that was asked for."""
        enough = None
        if self._end is not None and self.codec.causal:
            enough = math.ceil(self._end * self.codec.sampling_rate / self._length) + 2
        waiting: list[bytes | None] = []
        for payload in self._reader:
            if self._reader.number <= first:
                continue
            if len(waiting) > TOGETHER:
                yield from decoder.push(waiting[:-1])
                waiting = waiting[-1:]
            if enough is not None and self._reader.number > enough:
                yield from decoder.push(waiting)
                return
            waiting.append(payload)
        samples = self._codec_samples()
        missing = 0 if samples is None else math.ceil(self.codec.frames(samples) / self.codec.segment) - self._reader.number
        if missing and not self._forgive:
            raise CorruptStream("the sound's length and its segments do not add up")
        if missing and (self._reader.doubtful or not 0 < missing <= segments.LOST_AT_MOST):
            self._reader.samples = samples = None  # damaged too
        elif missing:
            waiting += [None] * missing
        self.cut_off = samples is None
        if waiting:
            yield from decoder.push(waiting[:-1])
            yield from decoder.finish(waiting[-1], samples)

    def _codec_samples(self) -> int | None:
        """Of each channel, at the codec's rate."""
        return None if self.samples is None else -(-self.samples * self.codec.sampling_rate // self.rate)

    def _resampled(self, pieces: Iterator[Piece], first: int) -> Iterator[Block]:
        """At the original's rate, and no longer than it."""
        resampler = self._resampler
        position = first * self._length * self.rate // self.codec.sampling_rate
        at = first * self._length
        for piece in pieces:
            length = piece.signal.shape[1]
            if piece.symbols is None:
                self._report((at / self.codec.sampling_rate, (at + length) / self.codec.sampling_rate))
            elif self.symbols is not None:
                self.symbols.append(piece.symbols)
            at += length
            samples = resampler.push(piece.signal.cpu().numpy()).numpy()
            yield Block(samples, position / self.rate)
            position += samples.shape[1]
        samples = resampler.finish().numpy()
        if self.samples is not None:
            samples = samples[:, : max(self.samples - position, 0)]
        yield Block(samples, position / self.rate)

    def _report(self, stretch: tuple[float, float]) -> None:
        if self.lost and abs(self.lost[-1][1] - stretch[0]) < 1e-6:
            stretch = (self.lost.pop()[0], stretch[1])
        self.lost.append(stretch)

    def _cut(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """What was asked for."""
        start = round(self._start * self.rate)
        end = None if self._end is None else round(self._end * self.rate)
        found = False
        for block in blocks:
            here = round(block.start * self.rate)
            low = max(start - here, 0)
            high = block.samples.shape[1] if end is None else min(max(end - here, 0), block.samples.shape[1])
            if low < high:
                found = True
                yield Block(block.samples[:, low:high], (here + low) / self.rate)
        if not found:
            raise CodecError(f"the sound ends before {self._start:g} seconds")


def encode_sound(codec: Codec, sound: Sound, level: float) -> Coded:
    """A sound to the bytes of a file.

    Raises:
        CodecError: what no file can hold: no samples, too many, too many channels, a rate out of range.
    """
    channels, samples = sound.samples.shape
    if not samples or not 1 <= channels <= MAX_CHANNELS or not LOWEST_RATE <= sound.rate <= HIGHEST_RATE:
        raise CodecError(f"a sound has samples of 1 … {MAX_CHANNELS} channels, not {sound.samples.shape} at {sound.rate} Hz")
    if isinstance(codec, SegmentCodec):
        file = io.BytesIO()
        with SoundEncoder(codec, file, level, sound.rate, channels) as encoder:
            coded = encoder.push(sound.samples) + encoder.finish()
        return Coded(file.getvalue(), {codec.streams[0]: torch.cat([segment.symbols for segment in coded], -1)})
    try:
        x = to_tensor(sound, codec.sampling_rate)
    except ValueError as error:
        raise CodecError(str(error)) from None
    if max(samples, x.shape[-1]) * channels > MAX_SAMPLES:
        raise CodecError(f"sounds of more than {MAX_SAMPLES} samples are not supported by this codec")
    return encode_signal(codec, x, level, (samples, sound.rate, channels))


def decode_sound(codec: Codec, data: bytes, limit: int | None = None) -> DecodedSound:
    """The bytes of a file to a sound.

    Args:
        limit: samples of all channels that a file may ask for.

    Raises:
        CodecError: a damaged file, another codec's, or one that asks for more samples than allowed.
    """
    if isinstance(codec, SegmentCodec):
        return _decode_segments(codec, data, MAX_SAMPLES if limit is None else limit)
    try:
        content = container.read(data)
        decoded = decode_signal(codec, content, limit)
        samples, rate, channels = content.size
        sound = resample(Sound(decoded.signal[0].cpu().numpy(), codec.sampling_rate), rate)
    except ValueError as error:
        raise CodecError(str(error)) from None
    if sound.samples.shape[0] != channels or sound.samples.shape[1] < samples:
        raise CodecError("the file's header makes no sense")
    return DecodedSound(Sound(sound.samples[:, :samples], rate), decoded.symbols)


def _decode_segments(codec: SegmentCodec, data: bytes, limit: int) -> DecodedSound:
    decoder = SoundDecoder(io.BytesIO(data), [codec])
    decoder.symbols = []
    blocks: list[np.ndarray] = []
    count = 0
    for block in decoder:
        count += block.samples.size
        if count > limit:
            raise CodecError(f"the file asks for more than the limit of {limit} samples")
        blocks.append(block.samples)
    return DecodedSound(Sound(np.concatenate(blocks, 1), decoder.rate), {codec.streams[0]: torch.cat(decoder.symbols, -1)})
