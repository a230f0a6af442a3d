"""The file format: exact bytes, the document that describes it, and the refusal of everything that is not a whole file."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralcodec.entropy import container

FIXED = container.write("image", b"\x01\x02\x03\x04", 31.75, (512, 768, 3), [b"side", b"latent!!"])


def with_checksum(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def test_bytes_of_a_fixed_file_never_change():
    body = b"\x8eNC\n" + b"\x01" + b"\x01" + b"\x01\x02\x03\x04" + b"\x7f" + b"\x80\x04\x80\x06\x03" + b"\x02" + b"\x04" + b"sidelatent!!"
    assert with_checksum(body) == FIXED
    assert FIXED.hex() == "8e4e430a0101010203047f80048006030204736964656c6174656e7421212efdd5d2"


def test_fixed_file_reads_back():
    content = container.read(FIXED)
    assert content == container.Content("image", b"\x01\x02\x03\x04", 31.75, (512, 768, 3), [b"side", b"latent!!"], 22)


def test_overhead_of_a_small_image_is_at_most_24_bytes():
    data = container.write("image", bytes(4), 63, (2**14 - 1, 2**14 - 1, 3), [b"z" * (2**14 - 1), b"y" * 2**20])
    assert container.read(data).header_bytes <= 24


def test_document_holds_the_description():
    document = Path(__file__).parent.parent / "docs" / "bitstream.md"
    assert container.document() in document.read_text(encoding="utf-8")


@settings(max_examples=50, deadline=None)
@given(
    st.binary(min_size=4, max_size=4),
    st.integers(0, 255),
    st.tuples(*[st.integers(0, 2**35 - 1)] * 3),
    st.lists(st.binary(max_size=300), min_size=1, max_size=container.MAX_STREAMS),
)
def test_what_is_written_is_read(fingerprint, quarters, size, streams):
    data = container.write("image", fingerprint, quarters / 4, size, streams)
    content = container.read(data)
    assert content == container.Content("image", fingerprint, quarters / 4, size, streams, len(data) - sum(map(len, streams)))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_behind_a_valid_checksum_are_read_or_refused(tail):
    try:
        content = container.read(with_checksum(container.MAGIC + bytes([container.VERSION]) + tail))
    except container.ContainerError as error:
        assert "\n" not in str(error)
        return
    assert sum(map(len, content.streams)) + content.header_bytes == len(tail) + 9


def test_every_altered_byte_is_refused():
    for position in range(len(FIXED)):
        for flip in (0x01, 0x80, 0xFF):
            altered = bytearray(FIXED)
            altered[position] ^= flip
            with pytest.raises(container.ContainerError):
                container.read(bytes(altered))


def test_every_truncation_and_trailing_bytes_are_refused():
    for length in range(len(FIXED)):
        with pytest.raises(container.ContainerError):
            container.read(FIXED[:length])
    with pytest.raises(container.ContainerError):
        container.read(FIXED + b"\0")


def test_bytes_behind_the_last_stream_belong_to_it():
    """So they are refused by the coder, which must end where its stream does."""
    assert container.read(with_checksum(FIXED[:-4] + b"\0")).streams == [b"side", b"latent!!\0"]


def test_stream_lengths_beyond_the_file_are_refused():
    altered = FIXED[:17] + b"\x0d" + FIXED[18:-4]
    with pytest.raises(container.ContainerError, match="do not add up"):
        container.read(with_checksum(altered))


def test_another_version_is_named():
    with pytest.raises(container.ContainerError, match="version 2"):
        container.read(with_checksum(FIXED[:4] + b"\x02" + FIXED[5:-4]))


def test_an_unknown_modality_is_refused():
    with pytest.raises(container.ContainerError, match="unknown kind 9"):
        container.read(with_checksum(FIXED[:5] + b"\x09" + FIXED[6:-4]))


def test_a_number_has_only_one_form():
    padded = FIXED[:15] + b"\x83\x00" + FIXED[16:-4]  # three channels, in two bytes
    with pytest.raises(container.ContainerError, match="shortest form"):
        container.read(with_checksum(padded))


@pytest.mark.parametrize("streams", [0, 65, 2**30])
def test_stream_counts_out_of_range_are_refused_without_reading_them(streams):
    body = FIXED[:16] + container._varint(streams) + b"\x01" * 70
    with pytest.raises(container.ContainerError, match=f"claims {streams} streams"):
        container.read(with_checksum(body))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"plain text\n", "not a neuralcodec file"),
        (b"\x89PNG\r\n\x1a\n", "not a neuralcodec file"),
        (b"\x8eNC\r\n\x01", "not a neuralcodec file"),
        (b"\x8e", "truncated"),
    ],
)
def test_what_is_no_file_of_this_format_is_said_so(data, message):
    with pytest.raises(container.ContainerError, match=message):
        container.read(data)


@pytest.mark.parametrize(
    ("size", "streams", "fingerprint"),
    [((1, 1), [b""], bytes(4)), ((1, 1, 3), [], bytes(4)), ((1, 1, 3), [b""] * 65, bytes(4)), ((1, 1, 3), [b""], bytes(5))],
)
def test_what_a_reader_would_refuse_is_not_written(size, streams, fingerprint):
    with pytest.raises(ValueError, match=r"size fields|must be"):
        container.write("image", fingerprint, 0, size, streams)
