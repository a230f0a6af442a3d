"""Sounds: reading files of most formats, folders of them, LibriSpeech as downloaded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from neuralcodec.datasets import media
from neuralcodec.datasets.folders import data_root

SOUNDFILE_EXTENSIONS = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"}
FFMPEG_EXTENSIONS = {".m4a", ".m4b", ".aac", ".weba", ".mka", ".wma", ".amr", ".awb", ".ac3"}
EXTENSIONS = SOUNDFILE_EXTENSIONS | FFMPEG_EXTENSIONS
LIBRISPEECH = {"test-clean": 2620, "test-other": 2939, "dev-clean": 2703, "dev-other": 2864}  # utterances of each split
MAX_VALUES = 2**28  # samples of all channels: 4½ hours of mono at 16 kHz, one GiB; a file's header is not believed
MAX_CHANNELS = 64
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000  # Hz, of sounds that are read, and of those that a coded file can hold
LONGEST_FRAME = 0.06  # seconds, of any codec measured: a file of whole frames is longer than its sound by less
BLOCK = 2**18  # samples read at a time
SHARP = {"lowpass_filter_width": 64, "rolloff": 0.9475937167399596, "beta": 14.769656459379492}  # torchaudio's values for "kaiser_best"
MAX_RATIO = 2**20  # of two sampling rates in lowest terms, numerator times denominator: the resampling filter grows with it


class Sound(NamedTuple):
    samples: np.ndarray  # (channels, n) float32, -1…1; files of floating point may exceed that
    rate: int  # Hz

    @property
    def seconds(self) -> float:
        return self.samples.shape[1] / self.rate


def list_sounds(folder: str | Path) -> list[Path]:
    """All sound files below a folder, sorted."""
    return sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())


def librispeech_folder(root: str | Path | None = None, split: str = "test-clean") -> Path:
    """The folder of one split of LibriSpeech (https://www.openslr.org/12), whose tree is ``LibriSpeech/SPLIT/SPEAKER/CHAPTER/*.flac``.

    Args:
        root: the split's folder, ``LibriSpeech``, or what holds that, as given or below ``NEURALCODEC_DATA``; by default the latter.

    Raises:
        FileNotFoundError: not there.
    """
    data = data_root()
    bases = [Path(root)] if root is not None else []
    if data is not None:
        bases += [data / root] if root is not None else [data / "eval", data]
    for base in bases:
        for folder in (base / "LibriSpeech" / split, base / split, *([base] if base.name == split else [])):
            if folder.is_dir():
                return folder
    where = f"LibriSpeech/{split} is not below {' or '.join(map(str, bases))}" if bases else f"LibriSpeech/{split} is not here"
    raise FileNotFoundError(f"{where}: unpack https://www.openslr.org/resources/12/{split}.tar.gz and pass --root, or set NEURALCODEC_DATA")


def read_sound(source: str | Path | IO[bytes], name: str | None = None) -> Sound:
    """A sound file at its own rate, by libsndfile (WAV, FLAC, Ogg, MP3, AIFF, …), and what that cannot read by FFmpeg (M4A, MP4, WebM, …).

    Args:
        source: a path or a seekable binary file object.
        name: what to call it in messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a sound, an empty or damaged one, or one that is too long.
    """
    import soundfile

    name = name or str(source)
    if isinstance(source, (str, Path)) and not Path(source).is_file():
        raise FileNotFoundError(f"there is no file {name}")
    try:
        with soundfile.SoundFile(source) as file:
            check_format(file.channels, file.samplerate, name)
            blocks = (block.T for block in file.blocks(BLOCK, dtype="float32", always_2d=True))
            return Sound(_joined(blocks, name), file.samplerate)
    except soundfile.LibsndfileError as error:
        if not isinstance(source, (str, Path)):
            source.seek(0)
        try:
            return read_by_ffmpeg(source, name)
        except FileNotFoundError:
            raise
        except ValueError as other:
            recognised = isinstance(source, (str, Path)) and Path(source).suffix.lower() in SOUNDFILE_EXTENSIONS
            raise ValueError(f"{name}: {str(error).rpartition(': ')[2]}" if recognised else str(other)) from None


def read_by_ffmpeg(source: str | Path | IO[bytes], name: str = "the file", kind: str | None = None) -> Sound:
    """The first sound track of a file, by the FFmpeg in PyAV, which leaves out what encoders put before and behind the original samples.

    Args:
        kind: the container, as FFmpeg names it, where it is known; by default any of :data:`neuralcodec.datasets.media.AUDIO`.

    Raises:
        ValueError: not a sound, an empty or damaged one, or one that is too long.
    """
    import av

    try:
        with media.opened(source, [kind] if kind else media.AUDIO) as file:
            if not file.streams.audio:
                raise ValueError(f"{name} has no sound track")
            stream = file.streams.audio[0]
            rate = stream.rate
            check_format(stream.channels, rate, name)
            resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)

            def blocks():
                for frame in file.decode(stream):
                    for planar in resampler.resample(frame):
                        yield planar.to_ndarray()
                for planar in resampler.resample(None):
                    yield planar.to_ndarray()

            return Sound(_joined(blocks(), name), rate)
    except av.FFmpegError as error:
        raise ValueError(f"{name}: not a sound that can be read ({error.strerror or type(error).__name__})") from None


def resample(sound: Sound, rate: int) -> Sound:
    """A sound at another rate, by torchaudio's windowed sinc (Kaiser window, 64 zero crossings, passes 0.95 of the lower band).

    The result has ``ceil(n · rate / sound.rate)`` samples.

    Raises:
        ValueError: the two rates have no ratio of small numbers, so that the filter would not fit in memory.
    """
    if rate == sound.rate:
        return sound
    if rate * sound.rate // math.gcd(rate, sound.rate) ** 2 > MAX_RATIO:
        raise ValueError(f"sounds at {sound.rate} Hz cannot be resampled to {rate} Hz: their ratio is not one of small numbers")
    import torch  # here, because most of what reads sounds does without
    from torchaudio.functional import resample as by_torchaudio

    x = torch.from_numpy(np.ascontiguousarray(sound.samples))
    return Sound(by_torchaudio(x, sound.rate, rate, resampling_method="sinc_interp_kaiser", **SHARP).numpy(), rate)


def check_format(channels: int, rate: int, name: str) -> None:
    if not 1 <= channels <= MAX_CHANNELS or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise ValueError(f"{name} claims {channels} channels at {rate} Hz")


def _joined(blocks: Iterable[np.ndarray], name: str) -> np.ndarray:
    """(channels, n) pieces to one."""
    pieces: list[np.ndarray] = []
    values = 0
    for piece in blocks:
        values += piece.size
        if values > MAX_VALUES:
            raise ValueError(f"{name} is longer than {MAX_VALUES} samples")
        pieces.append(piece)
    if not values:
        raise ValueError(f"{name} holds no samples")
    samples = np.concatenate(pieces, 1)
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} holds samples that are not finite")
    return samples
