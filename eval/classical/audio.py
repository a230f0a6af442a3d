"""Classical audio codecs, as files that players open.

Every decoded sound starts where the original does: what encoders put before the first sample is left out, by the file's own word (the
pre-skip of Opus, the LAME tag of MP3, Vorbis's granule positions) or, for AMR-WB, whose files do not say, by a constant.

Opus and Vorbis are decoded by their reference libraries (in libsndfile): FFmpeg's decoder of Opus costs 0.04 to 0.1 of PESQ at 6 and 8
kbps. FFmpeg's own encoders of AAC and Vorbis are far behind the formats' best, so they are no anchors; Vorbis is libvorbis (in libsndfile).

Opus has ``application=audio``: ``voip`` filters low frequencies away, which costs 3 dB of SI-SDR on speech at 6 kbps and 10 dB at 24, and
moves PESQ by less than 0.05 (docs/audio.md).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from neuralcodec.codecs.errors import CodecError
from neuralcodec.datasets.audio import Sound, read_by_ffmpeg, read_sound, resample
from neuralcodec.eval.candidates import Candidate, Decoded, Encoded

LAYOUTS = {1: "mono", 2: "stereo"}


class AudioCodec(Candidate):
    """A codec that takes certain sampling rates: other sounds are resampled to the next higher of them (the highest at most).

    Attributes:
        container: of the files, as FFmpeg names it.
        rates: in Hz, rising; empty if the codec takes any.
    """

    modality = "audio"
    exact = False  # a decoded sound may be at a rate that the codec takes, and longer by a part of a frame
    container: str
    rates: tuple[int, ...] = ()
    library: str
    options: dict

    @property
    def details(self) -> dict:
        details = {"library": self.library, "options": self.options}
        if self.rates:
            details["resampled"] = f"sounds of other rates than {', '.join(map(str, self.rates))} Hz: to the next higher one and back"
        return details

    def refusal(self, size: Mapping[str, int]) -> str | None:
        return None if size["channels"] in LAYOUTS else f"is measured on sounds of one or two channels, not {size['channels']}"

    def encode(self, signal: Sound, setting: float) -> Encoded:
        rate = next((rate for rate in self.rates if rate >= signal.rate), self.rates[-1]) if self.rates else signal.rate
        return Encoded(self.file(resample(signal, rate), setting))

    def file(self, sound: Sound, setting: float) -> bytes:
        """A sound at one of the codec's rates to the bytes of a file."""
        raise NotImplementedError

    def header_bytes(self, data: bytes) -> int:
        """All but the packets of sound: page headers, tags, the tables that a Vorbis file starts with."""
        import av

        with av.open(io.BytesIO(data), "r", format=self.container) as file:
            return len(data) - sum(packet.size for packet in file.demux(audio=0))


class FFmpeg(AudioCodec):
    """An encoder in PyAV. The setting is kbps for each channel.

    Args:
        name: as people ask for it.
        encoder: as FFmpeg names it; with the sample format that it takes.
        options: of the encoder.
        settings, rates, continuous: see :class:`AudioCodec`.
    """

    def __init__(
        self,
        name: str,
        encoder: str,
        sample_format: str,
        container: str,
        options: dict[str, str],
        description: str,
        settings: Sequence[float],
        rates: tuple[int, ...],
        continuous: bool = True,
    ):
        self.name, self.encoder, self.sample_format, self.container = name, encoder, sample_format, container
        self.options, self.settings, self.rates, self.continuous = options, settings, rates, continuous
        self.description = f"{description}; setting: kbps for each channel"

    @property
    def library(self) -> str:  # type: ignore[override]
        import av
        import soundfile

        return f"{self.encoder} in PyAV {av.__version__}, decoded by libsndfile {soundfile.__libsndfile_version__}"

    def file(self, sound: Sound, setting: float) -> bytes:
        import av

        channels = sound.samples.shape[0]
        planar = self.sample_format.endswith("p")
        samples = np.ascontiguousarray(sound.samples if planar else sound.samples.T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(samples, format=self.sample_format, layout=LAYOUTS[channels])
        frame.sample_rate, frame.pts = sound.rate, 0
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="opus" if self.encoder == "libopus" else self.container) as file:
            stream: Any = file.add_stream(self.encoder, rate=sound.rate, options=dict(self.options))
            stream.layout, stream.format = LAYOUTS[channels], self.sample_format
            stream.bit_rate = round(setting * 1000) * channels
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        return buffer.getvalue()

    def decode(self, data: bytes) -> Decoded:
        return Decoded(read_sound(io.BytesIO(data), self.name))


class Vorbis(AudioCodec):
    """libvorbis in libsndfile, at a quality. Its files start with some 4 kB of tables."""

    name, container = "vorbis", "ogg"
    description = "Ogg Vorbis, libvorbis, variable rate; setting: quality"
    settings = (0, 0.1, 0.3, 0.5)
    BLOCK = 2**16  # samples
    options: dict = {}  # noqa: RUF012

    @property
    def library(self) -> str:  # type: ignore[override]
        import soundfile

        return f"libsndfile {soundfile.__libsndfile_version__}"

    def file(self, sound: Sound, setting: float) -> bytes:
        import soundfile

        buffer = io.BytesIO()
        options = {"format": "OGG", "subtype": "VORBIS", "compression_level": 1 - setting}
        with soundfile.SoundFile(buffer, "w", sound.rate, sound.samples.shape[0], **options) as file:
            for start in range(0, sound.samples.shape[1], self.BLOCK):  # more than some 10⁶ samples at once overflow libvorbis' stack
                file.write(sound.samples[:, start : start + self.BLOCK].T)
        return buffer.getvalue()

    def decode(self, data: bytes) -> Decoded:
        return Decoded(read_sound(io.BytesIO(data), self.name))


class AmrWb(AudioCodec):
    """3GPP AMR-WB by VisualOn's encoder, an optional system library, in the storage format of RFC 4867 section 5; decoded by FFmpeg.

    The constant delay (5 ms of the encoder's look-ahead and 0.9 ms of filters) is where the cross-correlation of 16 kHz speech with its
    decoded self peaks, in every mode. Files hold whole frames of 20 ms and do not say how long the original was.
    """

    name, container = "amr-wb", "amr"
    description = "AMR-WB, vo-amrwbenc, no DTX, as an .awb file; setting: kbps"
    MODES = (6.6, 8.85, 12.65, 14.25, 15.85, 18.25, 19.85, 23.05, 23.85)  # kbps, by number
    settings = (6.6, 8.85, 12.65, 15.85, 19.85, 23.85)
    continuous = False
    rates = (16000,)
    options = {"dtx": False, "delay_removed": 95}  # noqa: RUF012
    FRAME, DELAY = 320, 95  # samples
    MAGIC = b"#!AMR-WB\n"
    MAX_FRAME_BYTES = 64

    @property
    def missing(self) -> str | None:
        return None if _amrwbenc() else "the system library libvo-amrwbenc (Debian: apt install libvo-amrwbenc0)"

    @property
    def library(self) -> str:  # type: ignore[override]
        import av

        return f"libvo-amrwbenc, decoded by PyAV {av.__version__}"

    def refusal(self, size: Mapping[str, int]) -> str | None:
        return None if size["channels"] == 1 else f"codes one channel, not {size['channels']}"

    def file(self, sound: Sound, setting: float) -> bytes:
        library = _amrwbenc()
        if library is None:
            raise CodecError(f"{self.name} needs {self.missing}")
        mode = min(range(len(self.MODES)), key=lambda mode: abs(self.MODES[mode] - setting))
        count = sound.samples.shape[1]
        frames = -(-(count + self.DELAY) // self.FRAME)  # the last samples leave the decoder late by the delay
        padded = np.zeros(frames * self.FRAME, np.int16)
        padded[:count] = np.clip(np.round(sound.samples[0] * 2**15), -(2**15), 2**15 - 1)
        out = bytearray(self.MAGIC)
        coded = ctypes.create_string_buffer(self.MAX_FRAME_BYTES)
        state = library.E_IF_init()
        try:
            for start in range(0, len(padded), self.FRAME):
                speech = padded[start : start + self.FRAME].ctypes.data_as(ctypes.POINTER(ctypes.c_int16))
                length = library.E_IF_encode(state, mode, speech, coded, 0)
                out += coded.raw[:length]
        finally:
            library.E_IF_exit(state)
        return bytes(out)

    def decode(self, data: bytes) -> Decoded:
        sound = read_by_ffmpeg(io.BytesIO(data), self.name, self.container)
        return Decoded(Sound(sound.samples[:, self.DELAY :], sound.rate))


@cache
def _amrwbenc() -> ctypes.CDLL | None:
    """The encoder's library with the types of its three functions, if the system has it."""
    try:
        library = ctypes.CDLL(ctypes.util.find_library("vo-amrwbenc") or "libvo-amrwbenc.so.0")
        library.E_IF_init.restype = ctypes.c_void_p
        library.E_IF_encode.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int16), ctypes.c_char_p, ctypes.c_int]
        library.E_IF_exit.argtypes = [ctypes.c_void_p]
    except (OSError, AttributeError):
        return None
    return library


_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_OPUS_SETTINGS = (6, 8, 10, 12, 16, 20, 24, 32)
_OPUS = FFmpeg(
    "opus",
    "libopus",
    "flt",
    "ogg",
    {"application": "audio", "frame_duration": "20", "vbr": "on", "compression_level": "10"},
    "Ogg Opus, libopus, complexity 10, VBR, frames of 20 ms, application=audio",
    _OPUS_SETTINGS,
    _OPUS_RATES,
)
_OPUS_60 = FFmpeg(
    "opus-60ms",
    "libopus",
    "flt",
    "ogg",
    {"application": "voip", "frame_duration": "60", "vbr": "on", "compression_level": "10"},
    "Ogg Opus as for the lowest rates: frames of 60 ms, application=voip",
    _OPUS_SETTINGS[:5],
    _OPUS_RATES,
)
_MP3 = FFmpeg(
    "mp3",
    "libmp3lame",
    "fltp",
    "mp3",
    {"compression_level": "0"},
    "MP3, LAME at its slowest, constant rate",
    (8, 16, 24, 32),
    (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    continuous=False,  # the format knows a handful of rates
)

CODECS = (_OPUS, _OPUS_60, AmrWb(), _MP3, Vorbis())
