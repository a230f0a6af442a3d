"""Version 3 of the file format: segments one after another, written and read in constant memory, damaged and skipped one by one.

A file is a header, segments and an end. Each has a checksum of its own, and that of a segment starts from its number, so that a reader that
has lost its place finds it again and knows what is missing. The whole file has a checksum too. One description serves the writer, the
reader and docs/bitstream.md.
"""

from __future__ import annotations

import contextlib
import io
import zlib
from binascii import crc_hqx
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from neuralcodec.entropy.container import MAGIC, MODALITIES, SEGMENTED, ContainerError, Content, Field, read_varint, varint

CHECK_BYTES = 2
MAX_PAYLOAD = 2**22  # bytes: minutes of any codec; a length beyond this is damage
LOST_AT_MOST = 256  # segments that a reader which lost its place looks beyond
LOST_AT_THE_END = 2  # the same before the last segment
SHORT = 1024  # bytes of a payload that damage may hide, whatever came before
WINDOW = 2**16  # bytes read at a time
TABLE = [crc_hqx(bytes((byte,)), 0) for byte in range(256)]  # of the CRC-16
INDEX = {crc & 0xFF: byte for byte, crc in enumerate(TABLE)}  # the low bytes are all different

HEADER: tuple[Field, ...] = (
    Field("magic", f"bytes:{len(MAGIC)}", "`8e 4e 43 0a`", 3),
    Field("version", "u8", "of the format: 3", 3),
    Field("modality", "u8", "2: audio", 3),
    Field("fingerprint", "bytes:4", "first bytes of the SHA-256 over the codec's spec and weights", 3),
    Field("level", "u8", "rate level, in quarters: 4 · level", 3),
    Field("sampling_rate", "varint", "of the original, Hz", 3),
    Field("channels", "varint", "of the original", 3),
    Field("frames", "varint", "latent frames of each segment but the last", 3),
    Field("check", "bytes:2", "CRC-16 (as `binascii.crc_hqx`, starting from 0) of everything before it, little endian", 3),
)
SEGMENT: tuple[Field, ...] = (
    Field("length", "varint", "bytes of the payload, plus 1", 3),
    Field("payload", "bytes", "of the entropy coder", 3),
    Field("check", "bytes:2", "CRC-16 of length and payload, starting from the number of the segment modulo 2^16, the first being 1", 3),
)
END: tuple[Field, ...] = (
    Field("mark", "u8", "0, where a segment would have its length", 3),
    Field("samples", "varint", "of each channel of the original", 3),
    Field("checksum", "bytes:4", "CRC-32 (as in zlib) of everything before it, little endian", 3),
)


class Header(NamedTuple):
    fingerprint: bytes
    level: float
    sampling_rate: int  # Hz
    channels: int
    frames: int  # of each segment but the last


class Writer:
    """Header, then segments as they come, then the end.

    Args:
        file: binary, only ever written to.
    """

    def __init__(self, file: BinaryIO, header: Header):
        self._file = file
        self._crc = 0
        self._number = 0
        self.bytes = 0
        data = MAGIC + bytes((SEGMENTED, MODALITIES["audio"])) + header.fingerprint + bytes((round(header.level * 4),))
        data += b"".join(map(varint, (header.sampling_rate, header.channels, header.frames)))
        self._put(data + _check(data, 0))

    def write(self, payload: bytes) -> None:
        self._number += 1
        data = varint(len(payload) + 1) + payload
        self._put(data + _check(data, self._number))

    def finish(self, samples: int) -> None:
        self._put(b"\0" + varint(samples))
        self._put(self._crc.to_bytes(4, "little"))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._crc = zlib.crc32(data, self._crc)
        self.bytes += len(data)


class Reader:
    """A file, segment by segment.

    Args:
        file: binary, only ever read forward.
        forgive: go on after damage. What is missing or altered is None then; otherwise damage is an error.

    Raises:
        ContainerError: not such a file, or a damaged header, which nothing can do without.
    """

    def __init__(self, file: BinaryIO, forgive: bool = False):
        self._read = getattr(file, "read1", file.read)  # from a pipe: what there is, rather than waiting for more
        self.forgive = forgive
        self._window = bytearray()
        self._ended = False
        self._crc = 0
        self._length = 0  # bytes of the segment that was found last
        self._longest = 0  # payload so far
        self._damaged = False  # so far
        self.bytes = 0  # consumed
        self.number = 0  # of the latest segment, from 1
        self.samples: int | None = None  # of each channel of the original; known at the end, unless that is lost
        self.doubtful = False  # no segment is damaged, but the file is: either the end is, or whole segments before it are missing
        self.header = self._header()

    def __iter__(self) -> Iterator[bytes | None]:
        """Payloads in order; None for each segment that is lost.

        Raises:
            ContainerError: damage or an end that is missing; with ``forgive`` only what makes the rest useless.
        """
        while True:
            found = self._at(0, self.number + 1)
            if isinstance(found, bytes):
                self._consume(self._length)
                self._longest = max(self._longest, len(found))
                self.number += 1
                yield found
            elif isinstance(found, int):
                self._end(found)
                return
            else:
                if not self.forgive:
                    raise ContainerError("the file is damaged or truncated (checksum mismatch)")
                self._damaged = True
                lost = self._resynchronise()
                for _ in range(lost):
                    self.number += 1
                    yield None
                if not self._fill(1):
                    return

    def _header(self) -> Header:
        self._fill(64)
        data = bytes(self._window[:64])
        if not data:
            raise ContainerError("the file is empty")
        if data[: len(MAGIC)] != MAGIC[: len(data)]:
            raise ContainerError("not a neuralcodec file")
        if len(data) > len(MAGIC) and data[len(MAGIC)] != SEGMENTED:
            raise ContainerError(f"the file has format version {data[len(MAGIC)]}, not {SEGMENTED}")
        position = len(MAGIC) + 7
        numbers = []
        for _ in range(3):
            value, position = read_varint(data, position)
            numbers.append(value)
        if data[position : position + CHECK_BYTES] != _check(data[:position], 0):
            raise ContainerError("the file's header is damaged (checksum mismatch)")
        if data[len(MAGIC) + 1] != MODALITIES["audio"]:
            raise ContainerError("the file holds a signal of unknown kind")
        self._consume(position + CHECK_BYTES)
        return Header(data[len(MAGIC) + 2 : len(MAGIC) + 6], data[len(MAGIC) + 6] / 4, *numbers)

    def _at(self, offset: int, number: int) -> bytes | int | None:
        """The payload of segment ``number`` if it stands there; samples of the whole sound if the end does; otherwise None."""
        self._fill(offset + 16)
        try:
            value, start = read_varint(bytes(self._window[offset : offset + 16]), 0)
        except ContainerError:
            return None
        if not value:
            return self._end_at(offset)
        if value - 1 > (MAX_PAYLOAD if offset == 0 and number == self.number + 1 else self._longest * 4):
            return None
        length = start + value - 1 + CHECK_BYTES
        if not self._fill(offset + length):
            return None
        data = bytes(self._window[offset : offset + length])
        if data[-CHECK_BYTES:] != _check(data[:-CHECK_BYTES], number):
            return None
        self._length = length
        return data[start:-CHECK_BYTES]

    def _end_at(self, offset: int) -> int | None:
        if self._fill(offset + 13):  # nothing follows the end
            return None
        data = bytes(self._window[offset:])
        try:
            samples, position = read_varint(data, 1)
        except ContainerError:
            return None
        return samples if len(data) == position + 4 else None

    def _end(self, samples: int) -> None:
        before = len(self._window) - 4
        checksum = zlib.crc32(bytes(self._window[:before]), self._crc).to_bytes(4, "little")
        intact = bytes(self._window[before:]) == checksum
        if not intact and not self.forgive:
            raise ContainerError("the file is damaged (checksum mismatch)")
        self._consume(len(self._window))
        self.samples = samples
        self.doubtful = not intact and not self._damaged

    def _resynchronise(self) -> int:
        """Forget damaged bytes up to the next segment that stands where it should, and say how many segments were lost.

        A segment counts if what follows it does too: 16 bits of checksum alone would be met by chance, the more so as they may mean any of
        many numbers. The end has no number, so what it follows has to have one of the next few. At the end none is said to be lost: the
        length that stands there tells how many are missing.
        """
        self._longest = max(self._longest, SHORT)
        for offset in self._suspects():
            if not self._fill(offset + 1):
                break
            missing = self._missing_at(offset)
            found = self._at(offset, self.number + 1 + missing)
            if isinstance(found, bytes):
                behind = self._at(offset + self._length, self.number + 2 + missing)
                if behind is None or (isinstance(behind, int) and missing > LOST_AT_THE_END):
                    continue
            if found is not None:
                self._consume(offset)
                return 0 if isinstance(found, int) else missing
        self._consume(len(self._window))
        return 0

    def _missing_at(self, offset: int) -> int:
        """How many segments there would be before what stands there, for its checksum to be right; 0 if none could make it so."""
        self._fill(offset + 16)
        with contextlib.suppress(ContainerError):
            value, start = read_varint(bytes(self._window[offset : offset + 16]), 0)
            length = start + value - 1 + CHECK_BYTES
            if 0 < value <= self._longest * 4 + 1 and self._fill(offset + length):
                data = bytes(self._window[offset : offset + length])
                missing = (_start(data[:-CHECK_BYTES], data[-CHECK_BYTES:]) - self.number - 1) & 0xFFFF
                return missing if missing <= LOST_AT_MOST else 0
        return 0

    def _suspects(self) -> Iterator[int]:
        """Where the next segment may stand: right here, if one is missing, or where the damaged one says that it ends."""
        yield 0
        with contextlib.suppress(ContainerError):
            value, start = read_varint(bytes(self._window[:16]), 0)
            claimed = start + value - 1 + CHECK_BYTES
            if 0 < value - 1 <= self._longest * 4 and self._fill(claimed + 1):
                yield claimed
        offset = 1
        while True:
            yield offset
            offset += 1
            if offset > WINDOW:  # none of that was a segment: memory for no more than this
                self._consume(offset)
                offset = 0

    def _fill(self, count: int) -> bool:
        """Whether so many bytes wait, after reading."""
        while len(self._window) < count and not self._ended:
            data = self._read(max(WINDOW, count - len(self._window)))
            self._ended = not data
            self._window += data
        return len(self._window) >= count

    def _consume(self, count: int) -> None:
        self._crc = zlib.crc32(bytes(self._window[:count]), self._crc)
        del self._window[:count]
        self.bytes += count


def read(data: bytes) -> Content:
    """A whole file as :class:`~neuralcodec.entropy.container.Content`, its segments as streams.

    Raises:
        ContainerError: whatever is wrong with the file.
    """
    reader = Reader(io.BytesIO(data))
    payloads = [payload for payload in reader if payload is not None]
    header = reader.header
    assert reader.samples is not None
    if not payloads:
        raise ContainerError("the file holds no segments")
    size = (reader.samples, header.sampling_rate, header.channels)
    overhead = len(data) - sum(map(len, payloads))
    return Content("audio", header.fingerprint, header.level, size, payloads, overhead, version=SEGMENTED, frames=header.frames)


def document() -> str:
    """The tables of docs/bitstream.md."""
    rows = ["| part | field | type | meaning |", "|---|---|---|---|"]
    for part, fields in (("header", HEADER), ("each segment", SEGMENT), ("end", END)):
        rows += [f"| {part} | {field.name} | {field.kind} | {field.meaning} |" for field in fields]
    return "\n".join(rows)


def _check(data: bytes, start: int) -> bytes:
    return crc_hqx(data, start & 0xFFFF).to_bytes(CHECK_BYTES, "little")


def _start(data: bytes, check: bytes) -> int:
    """What :func:`_check` started from, to arrive at this: each byte undone, last byte first."""
    crc = int.from_bytes(check, "little")
    for byte in reversed(data):
        index = INDEX[crc & 0xFF]
        crc = (crc ^ TABLE[index]) >> 8 | (index ^ byte) << 8
    return crc


def write(header: Header, payloads: Sequence[bytes], samples: int) -> bytes:
    """The bytes of a whole file."""
    file = io.BytesIO()
    writer = Writer(file, header)
    for payload in payloads:
        writer.write(payload)
    writer.finish(samples)
    return file.getvalue()
