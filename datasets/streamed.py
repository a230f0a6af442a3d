"""Sounds in pieces: read, resampled and written in memory that does not grow with them, from and to pipes too."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from neuralcodec.datasets import media
from neuralcodec.datasets.audio import BLOCK, MAX_RATIO, SHARP, SOUNDFILE_EXTENSIONS, check_format

OUTPUTS = {".wav": "WAV", ".flac": "FLAC"}  # suffix to libsndfile's name
ENDLESS = 2**32 - 1  # bytes that a WAV file claims whose length nobody knows yet
STEP, SHORTEST_STEP = 2**16, 2**10  # samples of all channels that come out of resampling at a time, about; and at least as many go in


class Incoming(NamedTuple):
    rate: int  # Hz
    channels: int
    samples: int | None  # of each channel, where the file says
    blocks: Iterator[np.ndarray]  # (channels, n) float32


@contextlib.contextmanager
def open_sound(source: str | Path | IO[bytes], name: str | None = None) -> Iterator[Incoming]:
    """A sound, block by block: by libsndfile, and by FFmpeg what that cannot read or what cannot be sought in, such as a pipe.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a sound, or a damaged one, whenever that shows; samples that are not finite.
    """
    import soundfile

    name = name or str(source)
    path = Path(source) if isinstance(source, (str, Path)) else None
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"there is no file {name}")
    with contextlib.ExitStack() as stack:
        file = None
        if not isinstance(source, (str, Path)) and not source.seekable():
            yield stack.enter_context(_by_ffmpeg(source, name))
            return
        try:
            file = stack.enter_context(soundfile.SoundFile(source))
        except soundfile.LibsndfileError as error:
            if path is not None and path.suffix.lower() in SOUNDFILE_EXTENSIONS:
                raise ValueError(f"{name}: {str(error).rpartition(': ')[2]}") from None
            if not isinstance(source, (str, Path)):
                source.seek(0)
        if file is None:
            yield stack.enter_context(_by_ffmpeg(source, name))
            return
        check_format(file.channels, file.samplerate, name)
        blocks = (block.T for block in file.blocks(BLOCK // file.channels, dtype="float32", always_2d=True))
        yield Incoming(file.samplerate, file.channels, file.frames, _finite(blocks, name))


@contextlib.contextmanager
def _by_ffmpeg(source: str | Path | IO[bytes], name: str) -> Iterator[Incoming]:
    import av

    try:
        with media.opened(source, media.AUDIO) as file:
            if not file.streams.audio:
                raise ValueError(f"{name} has no sound track")
            stream = file.streams.audio[0]
            check_format(stream.channels, stream.rate, name)
            resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)

            def blocks() -> Iterator[np.ndarray]:
                for frame in file.decode(stream):
                    for planar in resampler.resample(frame):
                        yield planar.to_ndarray()
                for planar in resampler.resample(None):
                    yield planar.to_ndarray()

            yield Incoming(stream.rate, stream.channels, None, _finite(blocks(), name))
    except av.FFmpegError as error:
        raise ValueError(f"{name}: not a sound that can be read ({error.strerror or type(error).__name__})") from None


def _finite(blocks: Iterator[np.ndarray], name: str) -> Iterator[np.ndarray]:
    for block in blocks:
        if not np.isfinite(block).all():
            raise ValueError(f"{name} holds samples that are not finite")
        yield block


class Resampler:
    """:func:`~neuralcodec.datasets.audio.resample` of a sound that comes in pieces, the same for every way to cut it.

    Args:
        channels: of the sound.
        source, target: Hz.

    Raises:
        ValueError: the two rates have no ratio of small numbers.
    """

    def __init__(self, channels: int, source: int, target: int):
        import torch
        from torchaudio.transforms import Resample

        divisor = math.gcd(source, target)
        self._in, self._out = source // divisor, target // divisor  # samples that come in and go out together
        if self._in * self._out > MAX_RATIO:
            raise ValueError(f"sounds at {source} Hz cannot be resampled to {target} Hz: their ratio is not one of small numbers")
        self._same = source == target
        self._resample = Resample(source, target, resampling_method="sinc_interp_kaiser", **SHARP)
        reach = math.ceil(SHARP["lowpass_filter_width"] * self._in / (min(self._in, self._out) * SHARP["rolloff"]))
        self._around = (math.ceil(reach / self._in) + 1) * self._in  # samples on either side that the filter sees
        step = max(STEP // (channels * math.ceil(self._out / self._in)), SHORTEST_STEP)
        self._step = math.ceil(step / self._in) * self._in
        self._waiting = [torch.zeros(channels, 0)]
        self._held = 0  # samples that wait
        self._before = 0  # those at the start of them that are done

    def push(self, samples: np.ndarray):
        """(channels, n) float32 to a tensor (channels, m); m may be 0."""
        import torch

        x = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.float32))
        if self._same:
            return x
        self._waiting.append(x)
        self._held += x.shape[1]
        needed = self._step + self._around
        if self._held < self._before + needed:
            return x[:, :0]
        waiting = torch.cat(self._waiting, 1)
        pieces = []
        while waiting.shape[1] >= self._before + needed:
            pieces.append(self._take(waiting[:, : self._before + needed], self._step))
            drop = max(self._before + self._step - self._around, 0)
            self._before += self._step - drop
            waiting = waiting[:, drop:]
        self._waiting, self._held = [waiting.clone()], waiting.shape[1]
        return torch.cat(pieces, 1)

    def finish(self):
        """What is left, so that there are ``ceil(n · target / source)`` samples in all."""
        import torch

        waiting = torch.cat(self._waiting, 1)
        if self._same or self._held <= self._before:
            return waiting[:, :0]
        return self._take(waiting, self._held - self._before)

    def _take(self, x, count: int):
        """The resampled form of ``count`` samples of ``x`` behind those that are done."""
        first = self._before // self._in * self._out
        return self._resample(x)[:, first : first + math.ceil(count * self._out / self._in)]


class SoundWriter:
    """Samples to a WAV or FLAC file of 16 bits, as they come.

    Args:
        target: binary, open for writing.
        suffix: ``.wav`` or ``.flac``.
        samples: of each channel, where the caller knows.
        pipe: the target can only be written to, as WAV. Its header says how long the sound is, or that it may be as long as there is.

    Raises:
        ValueError: another suffix, or channels or a rate that such files do not have.
    """

    def __init__(self, target: IO[bytes], rate: int, channels: int, suffix: str = ".wav", samples: int | None = None, pipe: bool = False):
        import soundfile

        if suffix.lower() not in OUTPUTS:
            raise ValueError(f"sounds are written as {' or '.join(OUTPUTS)}, not {suffix}")
        self._pipe = target if pipe else None
        if not pipe:
            kind = OUTPUTS[suffix.lower()]
            try:
                self._file = soundfile.SoundFile(target, "w", rate, channels, "PCM_16", format=kind)
            except soundfile.LibsndfileError:
                raise ValueError(f"{kind} files cannot hold {channels} channels at {rate} Hz") from None
            return
        size = ENDLESS - 36 if samples is None else min(ENDLESS - 36, samples * channels * 2)
        fields = (b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, channels, rate, rate * channels * 2, channels * 2, 16, b"data", size)
        target.write(struct.pack("<4sI4s4sIHHIIHH4sI", *fields))

    def __enter__(self) -> SoundWriter:
        return self

    def __exit__(self, *_) -> None:
        if self._pipe is not None:
            self._pipe.flush()
        else:
            self._file.close()

    def write(self, samples: np.ndarray) -> None:
        """(channels, n), clipped to -1…1."""
        pcm = np.clip(np.round(samples.T * 32768.0), -32768, 32767).astype("<i2")
        if self._pipe is not None:
            self._pipe.write(pcm.tobytes())
        else:
            self._file.write(pcm)
