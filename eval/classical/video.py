"""Classical video codecs: the encoders of the FFmpeg that PyAV brings, on the planes as they are, whole clip, one intra picture.

Files are elementary streams: Annex B for H.264 and H.265, the low-overhead OBU stream for AV1, IVF for VP9, which has no form without a
container. Streams name matrix and range. x264's and x265's message that lists their options, some 600 bytes, is left out: no decoder
needs it. Scene cuts get no intra picture, so that every codec has exactly one.

Files do not depend on how many cores the machine has.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

from neuralcodec.codecs.errors import CodecError
from neuralcodec.datasets import colour
from neuralcodec.datasets.video import Clip, from_frames, to_frames
from neuralcodec.eval.candidates import Candidate, Decoded, Encoded

IVF_HEADER, IVF_FRAME_HEADER = 32, 12  # bytes


class Encoder(Candidate):
    """An encoder of FFmpeg at one set of options.

    Args:
        name: as people ask for it.
        description: one line.
        options: of the encoder; ``{}`` in a value stands for the setting.
        settings: QP or CRF, from the smallest files to the largest; by default the encoder's own.

    Attributes:
        encoder: as FFmpeg names it.
        container: the muxer of its elementary stream.
        threads: a number that bits depend on; 0 lets the encoder choose.
        bitstream_filter: that removes what no decoder needs.
        even: whether sizes must be.
    """

    modality = "video"
    encoder: str
    container: str
    threads = 0
    bitstream_filter: str | None = None
    even = False

    def __init__(self, name: str, description: str, options: dict[str, str], settings: Sequence[float] | None = None):
        self.name, self.description, self.options = name, description, options
        self.settings = settings or self.settings

    @property
    def missing(self) -> str | None:
        import av

        return None if self.encoder in av.codecs_available else f"an FFmpeg with {self.encoder}"

    @property
    def details(self) -> dict:
        import av

        options = {**self.options, "threads": self.threads, "bitstream_filter": self.bitstream_filter}
        library = f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}, {_bundled(self.encoder)}"
        return {"library": library, "encoder": self.encoder, "options": options}

    def encode(self, signal: Clip, setting: float) -> Encoded:
        import av
        from av.bitstream import BitStreamFilterContext

        if reason := self.refusal({"width": signal.width, "height": signal.height, "bits": signal.bits}):
            raise CodecError(f"{self.name} {reason}")
        os.environ.setdefault("SVT_LOG", "1")  # errors only; it prints to stderr past every handler
        buffer = io.BytesIO()
        try:
            with av.open(buffer, "w", format=self.container) as file:
                stream: Any = file.add_stream(self.encoder, rate=signal.rate)
                stream.width, stream.height, stream.pix_fmt = signal.width, signal.height, signal.pixel_format
                context = stream.codec_context
                context.options = {key: value.format(f"{setting:g}") for key, value in self.options.items()}
                context.thread_count = self.threads
                context.colorspace, context.color_range = colour.H273[signal.matrix], 2 if signal.full_range else 1
                keep = BitStreamFilterContext(self.bitstream_filter, self.container) if self.bitstream_filter else None
                for frame in chain(to_frames(signal), [None]):  # None: what the encoder still holds
                    for packet in stream.encode(frame):
                        file.mux(keep.filter(packet) if keep else packet)
        except (av.error.FFmpegError, ValueError) as error:
            raise CodecError(f"{self.name} cannot code this clip ({error})") from None
        return Encoded(buffer.getvalue())

    def decode(self, data: bytes) -> Decoded:
        import av

        try:
            with av.open(io.BytesIO(data), "r", format=self.container) as file:
                stream = file.streams.video[0]
                stream.thread_type = "AUTO"
                rate = stream.average_rate or stream.guessed_rate or Fraction(1)  # bare streams need not say
                return Decoded(from_frames(file.decode(stream), rate))
        except (av.error.FFmpegError, ValueError, IndexError) as error:
            raise CodecError(f"this is no file of {self.name} ({error})") from None

    def header_bytes(self, data: bytes) -> int | None:
        if self.container != "ivf":
            return 0
        count = int.from_bytes(data[24:28], "little")
        return IVF_HEADER + IVF_FRAME_HEADER * count

    def refusal(self, size: Mapping[str, int]) -> str | None:
        import av

        known = {form.name for form in av.Codec(self.encoder, "w").video_formats or ()}
        if ("yuv420p" if size["bits"] == 8 else f"yuv420p{size['bits']}le") not in known:
            return f"codes no {size['bits']} bits in this FFmpeg"
        if self.even and (size["width"] % 2 or size["height"] % 2):
            return f"codes even sizes only, not {size['width']}×{size['height']}; --crop makes it even"
        return None


class X264(Encoder):
    """H.264. One thread: 24 frames of 640×320 at CRF 28 are 7 % larger with four."""

    encoder, container, threads, even = "libx264", "h264", 1, True
    bitstream_filter = "filter_units=remove_types=6"  # supplemental information
    settings = (43, 38, 33, 28, 23, 18)
    one_intra = {"crf": "{}", "x264-params": "keyint=infinite:scenecut=0"}  # noqa: RUF012


class X265(Encoder):
    """H.265. One frame at a time, whose rows share the cores."""

    encoder, container, threads, even = "libx265", "hevc", 1, True
    settings = (43, 38, 33, 28, 23, 18)
    one_intra = "keyint=-1:scenecut=0:info=0:log-level=none"


class SvtAv1(Encoder):
    """AV1. The same bytes with any number of threads."""

    encoder, container = "libsvtav1", "obu"
    settings = (59, 51, 43, 35, 27, 20)

    def encode(self, signal: Clip, setting: float) -> Encoded:
        with _priority_kept():
            return super().encode(signal, setting)


class Vp9(Encoder):
    """VP9. One thread, as rows in parallel change the bytes."""

    encoder, container, threads = "libvpx-vp9", "ivf", 1
    settings = (58, 50, 42, 34, 26, 18)


@contextlib.contextmanager
def _priority_kept() -> Iterator[None]:
    """Undo what SVT-AV1 does as root: the thread that calls it, and so all that this starts later, gets real-time priority."""
    known = hasattr(os, "sched_getscheduler")  # on Linux
    before = (os.sched_getscheduler(0), os.sched_getparam(0)) if known else None
    try:
        yield
    finally:
        if before:
            os.sched_setscheduler(0, *before)


def _bundled(encoder: str) -> str:
    """The encoder's library as PyAV's wheel names it, with its version; its bare name where PyAV was built otherwise."""
    stem = {"libsvtav1": "libSvtAv1Enc", "libvpx-vp9": "libvpx"}.get(encoder, encoder)
    names = [Path(str(path)).name for path in importlib.metadata.files("av") or ()]
    found = (re.fullmatch(rf"{stem}-\w+\.so\.([\d.]+)", name) for name in names)
    return next((f"{stem}.so.{match[1]}" for match in found if match), stem)


CODECS = (
    X264("x264", "H.264, x264 medium; setting: CRF", {"preset": "medium", **X264.one_intra}),
    X264(
        "x264-veryslow",
        "H.264, x264 veryslow tuned for PSNR; setting: CRF",
        {"preset": "veryslow", "tune": "psnr", **X264.one_intra},
    ),
    X264(
        "x264-lowdelay",
        "H.264, x264 medium at zero latency; setting: CRF",
        {"preset": "medium", "tune": "zerolatency", **X264.one_intra},
    ),
    X265("x265", "H.265, x265 medium; setting: CRF", {"preset": "medium", "x265-params": f"crf={{}}:{X265.one_intra}"}),
    X265(
        "x265-veryslow",
        "H.265, x265 veryslow tuned for PSNR; setting: QP",
        {"preset": "veryslow", "tune": "psnr", "x265-params": f"qp={{}}:{X265.one_intra}"},
        (44, 38, 32, 26, 20),
    ),
    X265(
        "x265-lowdelay",
        "H.265, x265 medium at zero latency, no B pictures; setting: CRF",
        {"preset": "medium", "tune": "zerolatency", "x265-params": f"crf={{}}:bframes=0:{X265.one_intra}"},
    ),
    SvtAv1(
        "svt-av1",
        "AV1, SVT-AV1 preset 4 tuned for PSNR; setting: CRF",
        {"preset": "4", "crf": "{}", "svtav1-params": "tune=1:keyint=-1"},
    ),
    Vp9(
        "vp9",
        "VP9, libvpx good quality at speed 1, one pass; setting: CRF",
        {"deadline": "good", "cpu-used": "1", "crf": "{}", "b": "0", "g": "9999", "auto-alt-ref": "1", "lag-in-frames": "25"},
    ),
)
