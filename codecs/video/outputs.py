"""Clips to files that others read."""

from __future__ import annotations

import io
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from neuralcodec.codecs.base import CodecError
from neuralcodec.codecs.video.soundtrack import Track
from neuralcodec.datasets import colour
from neuralcodec.datasets.video import Clip, to_frames

SUFFIXES = (".y4m", ".yuv", ".mp4", ".mkv")
FORMATS = {".mp4": "mp4", ".mkv": "matroska"}  # those that hold times of frames and sound
TICK = Fraction(1, 90000)  # seconds: of the times of frames in them


def write_clip(clip: Clip, out: BinaryIO, suffix: str, sound: bytes | None = None) -> None:
    """A clip as ``.y4m``, ``.yuv`` or, without loss, ``.mp4`` or ``.mkv`` (H.264, with matrix, range, times of frames, and sound).

    Args:
        sound: of :func:`~neuralcodec.codecs.video.soundtrack.playable`.

    Raises:
        CodecError: another suffix, or no encoder.
    """
    if suffix in (".y4m", ".yuv"):
        if suffix == ".y4m":
            kind = "420mpeg2" if clip.bits == 8 else f"420p{clip.bits}"
            said = f"YUV4MPEG2 W{clip.width} H{clip.height} F{clip.rate.numerator}:{clip.rate.denominator} Ip A0:0 C{kind}"
            out.write(f"{said} XCOLORRANGE={'FULL' if clip.full_range else 'LIMITED'}\n".encode())
        for index in range(len(clip)):
            out.write(b"FRAME\n" if suffix == ".y4m" else b"")
            for plane in clip.frame(index):
                out.write(np.ascontiguousarray(plane, plane.dtype.newbyteorder("<")).tobytes())
    elif suffix in FORMATS:
        out.write(_film(clip, suffix, sound))
    else:
        raise CodecError(
            f"clips are written as {', '.join(SUFFIXES)}, or as a folder of pictures, not as {suffix or 'nothing that is named'}"
        )


def write_pictures(clip: Clip, folder: Path, force: bool) -> None:
    """A PNG file of RGB, 8 bits, of each frame: ``00000.png``, …; the whole folder or nothing.

    Raises:
        OSError: it exists, and is not to be replaced, or cannot be written.
    """
    if folder.exists() and not force and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; -f replaces what is in it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name[:64]}.", dir=folder.parent))
    try:
        for index in range(len(clip)):
            Image.fromarray(clip.rgb(index)).save(part / f"{index:05}.png")
        part.chmod(0o755)
        if folder.exists():
            for old in folder.glob("[0-9]" * 5 + ".png"):
                old.unlink()
            for made in part.iterdir():
                made.replace(folder / made.name)
        else:
            part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _film(clip: Clip, suffix: str, sound: bytes | None) -> bytes:
    import av

    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format=FORMATS[suffix]) as file:
            stream: Any = file.add_stream("libx264", rate=clip.rate)
            stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, clip.pixel_format
            context = stream.codec_context
            context.options = {"qp": "0", "preset": "veryfast"}
            context.colorspace = colour.H273[clip.matrix]
            context.color_range = 2 if clip.full_range else 1
            if clip.times is not None:
                context.time_base = TICK
            track = None if sound is None else Track(file, sound)
            for frame in itertools.chain(_timed(clip), [None]):  # None: what the encoder still holds
                file.mux(stream.encode(frame))
            if track is not None:
                track.copy()
    except (av.error.FFmpegError, ValueError) as error:
        raise CodecError(f"FFmpeg cannot write this clip as {suffix} ({error})") from None
    return buffer.getvalue()


def _timed(clip: Clip) -> Iterator[Any]:
    for index, frame in enumerate(to_frames(clip)):
        if clip.times is not None:
            frame.pts, frame.time_base = round(clip.times[index] / TICK), TICK
        yield frame


__all__ = ["FORMATS", "SUFFIXES", "write_clip", "write_pictures"]
