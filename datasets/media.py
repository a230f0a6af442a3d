"""FFmpeg on files from anywhere: only formats that hold their own samples are recognised, and nothing but the file itself is opened.

FFmpeg goes by content, not by name: what is called ``clip.mp4`` may be a playlist (HLS, DASH, concat, SDP, …) that has it read other files
or ask the network, and put what it finds into the result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from av.container import InputContainer

VIDEO = ("mov", "matroska", "avi", "yuv4mpegpipe", "h264", "hevc", "ivf", "obu", "av1", "mpegts", "mpeg", "flv", "ogg")
AUDIO = (
    *("wav", "w64", "aiff", "au", "caf", "flac", "ogg", "mp3", "aac", "ac3", "eac3", "amr", "amrnb", "amrwb", "asf", "mov", "matroska"),
    *("avi", "mpegts", "mpeg", "flv"),
)  # as FFmpeg names demuxers


@contextlib.contextmanager
def opened(source: str | Path | IO[bytes], formats: Sequence[str]) -> Iterator[InputContainer]:
    """A media file. FFmpeg gets an open file, never a name, which it could take for an address.

    Args:
        source: a path or a binary file object, seekable or a pipe.
        formats: those allowed, as FFmpeg names them.

    Raises:
        av.FFmpegError: it is of no such format, or damaged.
        OSError: it cannot be read.
    """
    import av

    options = {"format_whitelist": ",".join(formats), "protocol_whitelist": "none"}  # there is no protocol of that name
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(Path(source).open("rb")) if isinstance(source, (str, Path)) else source
        yield stack.enter_context(av.open(_Seekable(data) if data.seekable() else data, "r", container_options=options))


class _Seekable:
    """A file in which going where nothing is, as damaged ones ask, is FFmpeg's error: PyAV would print the exception, then raise it."""

    def __init__(self, file: IO[bytes]):
        self.read, self.tell = file.read, file.tell
        self._seek = file.seek

    def seek(self, offset: int, whence: int) -> int:
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError):
            return -1
