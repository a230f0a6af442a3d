"""The file format: one description, read by the writer, the reader and docs/bitstream.md.

A file is a header, the codec's streams and a checksum. Ids are explicit and only ever appended to.

Version 2 adds extras, named pieces of bytes that say what the streams do not, and more than 64 streams. A writer uses version 1 for
everything that it can say. Version 3 is for sounds that are coded segment by segment: :mod:`~neuralcodec.entropy.segments`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

MAGIC = b"\x8eNC\n"  # a byte no text starts with, and a newline that text-mode transfers would mangle
VERSION = 2
SEGMENTED = 3  # the version of entropy/segments.py
CHECKSUM_BYTES = 4

MODALITIES = {"image": 1, "audio": 2, "video": 3}
SUFFIXES = {"image": ".nci", "audio": ".nca", "video": ".ncv"}
SIZES: dict[str, tuple[str, ...]] = {  # varints that describe the signal, by modality
    "image": ("height", "width", "channels"),
    "audio": ("samples", "sampling_rate", "channels"),
    "video": ("frames", "height", "width", "rate_numerator", "rate_denominator", "bits", "colour"),
}
MAX_STREAMS = 64  # of version 1; those of version 2 are as many as the file has bytes to say how long they are
MAX_PROFILE = 2**24  # bytes of an ICC profile


class Extra(NamedTuple):
    """What a file may say besides its streams. A reader that does not know the id skips an odd one and refuses an even one."""

    name: str
    number: int
    meaning: str


EXTRAS: tuple[Extra, ...] = (
    Extra("icc_profile", 1, "the picture's ICC profile in zlib's format, at most 2^24 bytes once inflated"),
    Extra("sample_bits", 2, "one byte, bits of each sample of the picture: 16. Without it, 8"),
    Extra(
        "frame_times", 3, "of a clip: ticks of a second (numerator, denominator) and ticks from each frame to the next, in zlib's format"
    ),
    Extra("alpha", 4, "opacity: a PNG or lossless WebP file of the picture's size, greyscale of 8 or 16 bits (0 is transparent)"),
    Extra("sound", 5, "of a clip: a Matroska file with one track of sound, from the first frame on"),
    Extra("tiles", 6, "one varint: side in pixels of the squares that are coded one by one, row by row"),
    Extra("coded_sound", 7, "of a clip: a file of ours that holds its sound, from the first frame on"),
    Extra("spec", 8, "the codec's spec as JSON in zlib's format, of a codec that is fitted to the signal and not shipped"),
)


class Field(NamedTuple):
    name: str
    kind: str  # "bytes:N", "u8", "varint", "varints", "pairs" (of varints)
    meaning: str
    since: int = 1  # version


HEADER: tuple[Field, ...] = (
    Field("magic", f"bytes:{len(MAGIC)}", "`8e 4e 43 0a`"),
    Field("version", "u8", "of the format: 1, or 2 if there are extras or more streams"),
    Field("modality", "u8", ", ".join(f"{number} {name}" for name, number in MODALITIES.items())),
    Field("fingerprint", "bytes:4", "first bytes of the SHA-256 over the codec's spec and weights"),
    Field("level", "u8", "rate level, in quarters: 4 · level"),
    Field("size", "varints", "of the signal; " + "; ".join(f"{name}: {', '.join(names)}" for name, names in SIZES.items())),
    Field("stream_count", "varint", f"number of streams, at least 1; at most {MAX_STREAMS} in version 1"),
    Field("stream_lengths", "varints", "bytes of each stream but the last, in coding order; the last one takes the rest"),
    Field("extra_count", "varint", "number of extras", since=2),
    Field("extra_lengths", "pairs", "id and bytes of each extra, ids ascending", since=2),
)
TRAILER: tuple[Field, ...] = (
    Field("extras", "bytes", "the extras, one after another", since=2),
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
    header_bytes: int  # header, extras and checksum: what the file costs beyond its streams
    extras: Mapping[str, bytes] = MappingProxyType({})  # by the names of EXTRAS
    version: int = 1
    frames: int | None = None  # of each segment but the last, in version 3


class ImageHeader(NamedTuple):
    """What a file says of its picture, before anything of it is decoded."""

    height: int
    width: int
    channels: int  # of colour: 1 or 3
    alpha: bool
    sample_bits: int  # 8 or 16
    icc_profile: bytes | None


def write(
    modality: str,
    fingerprint: bytes,
    level: float,
    size: Sequence[int],
    streams: Sequence[bytes],
    extras: Mapping[str, bytes] = MappingProxyType({}),
) -> bytes:
    """The bytes of a file. ``extras`` go by the names of :data:`EXTRAS`."""
    if len(size) != len(SIZES[modality]) or not streams:
        raise ValueError(f"{modality} files have {len(SIZES[modality])} size fields and at least one stream")
    numbers = {extra.name: extra.number for extra in EXTRAS}
    contents = dict(sorted((numbers[name], content) for name, content in extras.items()))
    version = 2 if extras or len(streams) > MAX_STREAMS else 1
    values = {
        "magic": MAGIC,
        "version": version,
        "modality": MODALITIES[modality],
        "fingerprint": fingerprint,
        "level": round(level * 4),
        "size": size,
        "stream_count": len(streams),
        "stream_lengths": [len(stream) for stream in streams[:-1]],
        "extra_count": len(contents),
        "extra_lengths": [(number, len(content)) for number, content in contents.items()],
    }
    header = [_pack(field, values[field.name]) for field in HEADER if field.since <= version]
    data = b"".join([*header, *contents.values(), *streams])
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
    if len(data) > len(MAGIC) and data[len(MAGIC)] == SEGMENTED:
        from neuralcodec.entropy import segments

        return segments.read(data)
    if len(data) > len(MAGIC) and not 1 <= data[len(MAGIC)] <= VERSION:
        raise ContainerError(f"the file has format version {data[len(MAGIC)]}; this program reads versions up to {SEGMENTED}")
    body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if len(data) <= len(MAGIC) + 1 + CHECKSUM_BYTES or zlib.crc32(body).to_bytes(CHECKSUM_BYTES, "little") != checksum:
        raise ContainerError("the file is damaged or truncated (checksum mismatch)")
    values: dict[str, Any] = {"extra_lengths": []}
    position = 0
    for field in HEADER:
        if field.since <= values.get("version", 1):
            values[field.name], position = _unpack(field, body, position, values)
    modality = _modality(values["modality"])
    extras, position = _extras(values["extra_lengths"], body, position)
    streams = []
    for length in values["stream_lengths"]:
        streams.append(body[position : position + length])
        position += length
    streams.append(body[position:])
    if position > len(body):
        raise ContainerError("the lengths of the file's streams do not add up")
    header_bytes = len(data) - sum(map(len, streams))
    level, size = values["level"] / 4, tuple(values["size"])
    return Content(modality, values["fingerprint"], level, size, streams, header_bytes, extras, values["version"])


def image_header(content: Content) -> ImageHeader:
    """
    Raises:
        ContainerError: the file holds no picture, or what it says of it makes no sense.
    """
    if content.modality != "image":
        raise ContainerError(f"the file holds {content.modality}, not a picture")
    height, width, channels = content.size
    bits = content.extras.get("sample_bits", b"\x08")
    if not height or not width or channels not in (1, 3) or bits not in (b"\x08", b"\x10"):
        raise ContainerError("the file's header makes no sense")
    profile = _inflated(content.extras["icc_profile"]) if "icc_profile" in content.extras else None
    return ImageHeader(height, width, channels, "alpha" in content.extras, bits[0], profile)


def document() -> tuple[str, str]:
    """The tables of docs/bitstream.md: fields, and extras."""
    fields = ["| field | type | since version | meaning |", "|---|---|---|---|"]
    fields += [f"| {field.name} | {field.kind} | {field.since} | {field.meaning} |" for field in (*HEADER, *TRAILER)]
    extras = ["| id | extra | what it holds |", "|---|---|---|"]
    extras += [f"| {extra.number} | {extra.name} | {extra.meaning} |" for extra in EXTRAS]
    return "\n".join(fields), "\n".join(extras)


def _inflated(data: bytes) -> bytes:
    """A profile, its size bounded."""
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(data, MAX_PROFILE)
    except zlib.error:
        raise ContainerError("the file's ICC profile is damaged") from None
    if not inflate.eof or inflate.unused_data:
        raise ContainerError("the file's ICC profile is damaged or too large")
    return profile


def _extras(lengths: Sequence[tuple[int, int]], body: bytes, position: int) -> tuple[dict[str, bytes], int]:
    """Those that this version knows, and where they end."""
    names = {extra.number: extra.name for extra in EXTRAS}
    found = {}
    before = -1
    for number, length in lengths:
        if number <= before:
            raise ContainerError("the file's extras are not in the order of their ids")
        if number not in names and number % 2 == 0:
            raise ContainerError(f"the file holds something that this program does not know (extra {number}); a newer one may read it")
        content = _take(body, position, length)
        if number in names:
            found[names[number]] = content
        before, position = number, position + length
    return found, position


def _pack(field: Field, value) -> bytes:
    if field.kind == "u8":
        return int(value).to_bytes(1, "little")
    if field.kind == "varint":
        return varint(value)
    if field.kind == "varints":
        return b"".join(varint(one) for one in value)
    if field.kind == "pairs":
        return b"".join(varint(one) for pair in value for one in pair)
    if len(value) != int(field.kind.removeprefix("bytes:")):
        raise ValueError(f"{field.name} must be {field.kind.removeprefix('bytes:')} bytes")
    return bytes(value)


def _unpack(field: Field, data: bytes, position: int, before: dict):
    if field.kind == "u8":
        return _take(data, position, 1)[0], position + 1
    if field.kind == "varint":
        value, position = read_varint(data, position)
        # Each stream but the last takes a byte for its length, so the file's own length bounds their number.
        if field.name == "stream_count" and not 1 <= value <= (MAX_STREAMS if before["version"] == 1 else len(data) - position + 1):
            raise ContainerError(f"the file claims {value} streams")
        return value, position
    if field.kind == "varints":
        count = before["stream_count"] - 1 if field.name == "stream_lengths" else len(SIZES[_modality(before["modality"])])
        return _read_varints(data, position, count)
    if field.kind == "pairs":
        values, position = _read_varints(data, position, 2 * before["extra_count"])
        return list(zip(values[::2], values[1::2])), position
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


def varint(value: int) -> bytes:
    """Little-endian base 128, the high bit says that more follows."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varints(data: bytes, position: int, count: int) -> tuple[list[int], int]:
    values = []
    for _ in range(count):
        value, position = read_varint(data, position)
        values.append(value)
    return values, position


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """A number and where it ends."""
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
