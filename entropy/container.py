"""The file format: one description, read by the writer, the reader and docs/bitstream.md.

A file is a header, the codec's streams and a checksum. Ids are explicit and only ever appended to.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

MAGIC = b"\x8eNC\n"  # a byte no text starts with, and a newline that text-mode transfers would mangle
VERSION = 1
CHECKSUM_BYTES = 4

MODALITIES = {"image": 1, "audio": 2, "video": 3}
SUFFIXES = {"image": ".nci", "audio": ".nca", "video": ".ncv"}
SIZES: dict[str, tuple[str, ...]] = {  # varints that describe the signal, by modality
    "image": ("height", "width", "channels"),
    "audio": ("samples", "sampling_rate", "channels"),
}
MAX_STREAMS = 64


class Field(NamedTuple):
    name: str
    kind: str  # "bytes:N", "u8", "varint", "varints"
    meaning: str


HEADER: tuple[Field, ...] = (
    Field("magic", f"bytes:{len(MAGIC)}", "`8e 4e 43 0a`"),
    Field("version", "u8", f"of the format; {VERSION} here"),
    Field("modality", "u8", ", ".join(f"{number} {name}" for name, number in MODALITIES.items())),
    Field("fingerprint", "bytes:4", "first bytes of the SHA-256 over the codec's spec and weights"),
    Field("level", "u8", "rate level, in quarters: 4 · level"),
    Field("size", "varints", "of the signal; " + "; ".join(f"{name}: {', '.join(names)}" for name, names in SIZES.items())),
    Field("stream_count", "varint", f"number of streams, at most {MAX_STREAMS}"),
    Field("stream_lengths", "varints", "bytes of each stream but the last, in coding order; the last one takes the rest"),
)
TRAILER: tuple[Field, ...] = (
    Field("streams", "bytes", "the streams, one after another"),
    Field("checksum", f"bytes:{CHECKSUM_BYTES}", "CRC-32 (as in zlib) of everything before it, little endian"),
)


class ContainerError(ValueError):
    """Not a file of this format, or a damaged one; the message is one line for people."""


class Content(NamedTuple):
    modality: str
    fingerprint: bytes
    level: float
    size: tuple[int, ...]  # as SIZES names them
    streams: list[bytes]
    header_bytes: int  # header and checksum: what the file costs beyond its streams


def write(modality: str, fingerprint: bytes, level: float, size: Sequence[int], streams: Sequence[bytes]) -> bytes:
    """The bytes of a file."""
    if len(size) != len(SIZES[modality]) or not 1 <= len(streams) <= MAX_STREAMS:
        raise ValueError(f"{modality} files have {len(SIZES[modality])} size fields and 1 … {MAX_STREAMS} streams")
    values = {
        "magic": MAGIC,
        "version": VERSION,
        "modality": MODALITIES[modality],
        "fingerprint": fingerprint,
        "level": round(level * 4),
        "size": size,
        "stream_count": len(streams),
        "stream_lengths": [len(stream) for stream in streams[:-1]],
    }
    data = b"".join(_pack(field, values[field.name]) for field in HEADER) + b"".join(streams)
    return data + zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little")


def read(data: bytes) -> Content:
    """Undo :func:`write`. Allocates no more than the file itself is long.

    Raises:
        ContainerError: whatever is wrong with the file.
    """
    if not data:
        raise ContainerError("the file is empty")
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise ContainerError("not a neuralcodec file")
    if len(data) > len(MAGIC) and data[len(MAGIC)] != VERSION:
        raise ContainerError(f"the file has format version {data[len(MAGIC)]}; this program reads version {VERSION}")
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if len(data) <= len(MAGIC) + 1 + CHECKSUM_BYTES or zlib.crc32(body).to_bytes(CHECKSUM_BYTES, "little") != checksum:
        raise ContainerError("the file is damaged or truncated (checksum mismatch)")
    values: dict[str, Any] = {}
    position = 0
    for field in HEADER:
        values[field.name], position = _unpack(field, body, position, values)
    modality = _modality(values["modality"])
    streams = []
    for length in values["stream_lengths"]:
        streams.append(body[position : position + length])
        position += length
    streams.append(body[position:])
    if position > len(body):
        raise ContainerError("the lengths of the file's streams do not add up")
    header_bytes = len(data) - sum(map(len, streams))
    return Content(modality, values["fingerprint"], values["level"] / 4, tuple(values["size"]), streams, header_bytes)


def document() -> str:
    """The table of docs/bitstream.md."""
    rows = ["| field | type | meaning |", "|---|---|---|"]
    rows += [f"| {field.name} | {field.kind} | {field.meaning} |" for field in (*HEADER, *TRAILER)]
    return "\n".join(rows)


def _pack(field: Field, value) -> bytes:
    if field.kind == "u8":
        return int(value).to_bytes(1, "little")
    if field.kind == "varint":
        return _varint(value)
    if field.kind == "varints":
        return b"".join(_varint(one) for one in value)
    if len(value) != int(field.kind.removeprefix("bytes:")):
        raise ValueError(f"{field.name} must be {field.kind.removeprefix('bytes:')} bytes")
    return bytes(value)


def _unpack(field: Field, data: bytes, position: int, before: dict):
    if field.kind == "u8":
        return _take(data, position, 1)[0], position + 1
    if field.kind == "varint":
        value, position = _read_varint(data, position)
        if field.name == "stream_count" and not 1 <= value <= MAX_STREAMS:
            raise ContainerError(f"the file claims {value} streams")
        return value, position
    if field.kind == "varints":
        count = before["stream_count"] - 1 if field.name == "stream_lengths" else len(SIZES[_modality(before["modality"])])
        values = []
        for _ in range(count):
            value, position = _read_varint(data, position)
            values.append(value)
        return values, position
    length = int(field.kind.removeprefix("bytes:"))
    return _take(data, position, length), position + length


def _modality(number: int) -> str:
    for name, known in MODALITIES.items():
        if number == known and name in SIZES:
            return name
    raise ContainerError(f"the file holds a signal of unknown kind {number}")


def _take(data: bytes, position: int, count: int) -> bytes:
    if position + count > len(data):
        raise ContainerError("the file ends within its header")
    return data[position : position + count]


def _varint(value: int) -> bytes:
    """Little-endian base 128, the high bit says that more follows."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 35, 7):
        byte = _take(data, position, 1)[0]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if shift and not byte:
                raise ContainerError("a number in the header is not in its shortest form")
            return value, position
    raise ContainerError("a number in the header is too large")
