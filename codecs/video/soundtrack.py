"""The sound of clips: copied as it is, or coded by a codec of sounds, and back into films."""

from __future__ import annotations

import io
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neuralcodec.codecs.base import CodecError
from neuralcodec.datasets import media
from neuralcodec.datasets.audio import Sound, read_by_ffmpeg

COPIED, CODED = "sound", "coded_sound"  # extras of a file
ENCODERS = {".mp4": ("aac", 160_000), ".mkv": ("flac", None)}  # of sounds that were coded, and bits per second
LARGEST_SHIFT = 60.0  # seconds between the beginnings of pictures and sound that are made up for


class Soundtrack(NamedTuple):
    """What a file holds of a sound: the name of the extra, and its bytes."""

    extra: str
    data: bytes


def copied(path: Path) -> Soundtrack | None:
    """The first track of sound in a film as it is, alone in a Matroska file; None if there is none.

    Raises:
        CodecError: it cannot be read, or not be held by Matroska.
    """
    import av

    buffer = io.BytesIO()
    try:
        with media.opened(path, media.VIDEO) as file:
            if not file.streams.audio:
                return None
            track = file.streams.audio[0]
            with av.open(buffer, "w", format="matroska") as out:
                copy = out.add_stream_from_template(track)
                for packet in file.demux(track):
                    if packet.dts is not None:
                        packet.stream = copy
                        out.mux(packet)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise CodecError(f"the sound of {path.name} cannot be copied ({error})") from None
    return Soundtrack(COPIED, buffer.getvalue())


def coded(path: Path, model: str, kbps: float | None = None) -> Soundtrack | None:
    """The first track of sound in a film as a file of ours, which begins with the pictures; None if there is none.

    Args:
        model: name or weights of a codec of sounds.
        kbps: kbit/s to aim at; by default the middle of what the model can do.

    Raises:
        CodecError: it cannot be read, or the model codes no sounds.
    """
    import av

    from neuralcodec.codecs.audio.files import encode_sound
    from neuralcodec.codecs.audio.targets import level_of_rate
    from neuralcodec.codecs.files import load

    codec = load(model)
    if codec.modality != "audio":
        raise CodecError(f"{model} codes no sounds")
    try:
        with media.opened(path, media.VIDEO) as file:
            if not file.streams.audio:
                return None
            late = _begin(file.streams.audio[0]) - _begin(file.streams.video[0]) if file.streams.video else 0.0
        sound = read_by_ffmpeg(path, path.name)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise CodecError(f"the sound of {path.name} cannot be read ({error})") from None
    sound = _shifted(sound, late)
    data = level_of_rate(codec, sound, kbps).payload if kbps is not None else encode_sound(codec, sound, codec.level_for_quality(50)).data
    return Soundtrack(CODED, data)


def _begin(stream: Any) -> float:
    return float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0


def _shifted(sound: Sound, late: float) -> Sound:
    """With silence in front of a sound that begins so many seconds after the pictures, or without its beginning."""
    count = round(max(-LARGEST_SHIFT, min(late, LARGEST_SHIFT)) * sound.rate)
    if count >= 0:
        return Sound(np.pad(sound.samples, ((0, 0), (count, 0))), sound.rate)
    return Sound(sound.samples[:, min(-count, sound.samples.shape[1] - 1) :], sound.rate)


def playable(extras: Mapping[str, bytes], suffix: str) -> bytes | None:
    """The sound of a file for :class:`Track`, of a film with that suffix: as it was, or decoded and coded as that film can have it.

    Raises:
        CodecError: it is damaged, or of a model that is not here.
    """
    if COPIED in extras:
        return extras[COPIED]
    if CODED not in extras:
        return None
    from neuralcodec.codecs.audio.files import codec_of, decode_sound

    data = extras[CODED]
    sound = decode_sound(codec_of(data), data).sound
    return _encoded(sound, *ENCODERS[suffix])


def _encoded(sound: Sound, encoder: str, bit_rate: int | None) -> bytes:
    import av

    buffer = io.BytesIO()
    channels = len(sound.samples)
    layout = {1: "mono", 2: "stereo"}.get(channels, f"{channels}c")
    kind, values = ("fltp", sound.samples) if encoder == "aac" else ("s16", np.clip(np.round(sound.samples.T * 32768), -32768, 32767))
    try:
        with av.open(buffer, "w", format="matroska") as file:
            stream: Any = file.add_stream(encoder, rate=sound.rate)
            stream.layout, stream.format = layout, kind
            if bit_rate:
                stream.bit_rate = bit_rate
            array = values.astype(np.float32) if kind == "fltp" else values.astype(np.int16).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(array), kind, layout)
            frame.sample_rate, frame.pts, frame.time_base = sound.rate, 0, Fraction(1, sound.rate)
            queue = av.AudioFifo()
            queue.write(frame)
            stream.codec_context.open(strict=False)  # which decides how many samples a frame has
            size = stream.codec_context.frame_size or 1024
            while (piece := queue.read(size, partial=True)) is not None:
                file.mux(stream.encode(piece))
            file.mux(stream.encode(None))
    except (av.error.FFmpegError, ValueError) as error:
        raise CodecError(f"the sound cannot be written ({error})") from None
    return buffer.getvalue()


class Track:
    """Sound that goes into a film beside its pictures; tracks are made before anything is written."""

    def __init__(self, file: Any, sound: bytes):
        import av

        self.file = file
        self.source = av.open(io.BytesIO(sound), "r", format="matroska")
        self.track = self.source.streams.audio[0]
        self.stream = file.add_stream_from_template(self.track)

    def copy(self) -> None:
        with self.source:
            for packet in self.source.demux(self.track):
                if packet.dts is not None:
                    packet.stream = self.stream
                    self.file.mux(packet)


__all__ = ["Soundtrack", "Track", "coded", "copied", "playable"]
