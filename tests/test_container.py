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
    text = document.read_text(encoding="utf-8")
    assert all(table in text for table in container.document())


def test_ids_of_extras_are_explicit_and_taken_once():
    numbers = {extra.name: extra.number for extra in container.EXTRAS}
    assert {"icc_profile": 1, "sample_bits": 2, "alpha": 4, "tiles": 6}.items() <= numbers.items()
    assert len(set(numbers.values())) == len(container.EXTRAS)


EXTENDED = container.write(
    "image", b"\x01\x02\x03\x04", 31.75, (512, 768, 3), [b"side", b"latent!!"], {"sample_bits": b"\x10", "icc_profile": b"icc"}
)


def test_bytes_of_a_fixed_file_with_extras_never_change():
    start = b"\x8eNC\n" + b"\x02" + FIXED[5:-4].removesuffix(b"sidelatent!!")
    assert with_checksum(start + b"\x02" + b"\x01\x03" + b"\x02\x01" + b"icc" + b"\x10" + b"sidelatent!!") == EXTENDED


def test_extras_read_back():
    content = container.read(EXTENDED)
    assert (content.version, content.extras, content.streams) == (
        2,
        {"icc_profile": b"icc", "sample_bits": b"\x10"},
        [b"side", b"latent!!"],
    )
    assert content.header_bytes == len(EXTENDED) - 12


def test_what_version_1_can_say_is_written_as_version_1():
    assert container.read(FIXED).version == 1
    assert container.read(container.write("image", bytes(4), 0, (1, 1, 3), [b"x"] * 64)).version == 1
    many = container.read(container.write("image", bytes(4), 0, (1, 1, 3), [b"x"] * 1000))
    assert (many.version, many.streams, many.extras) == (2, [b"x"] * 1000, {})


def extended(extras: bytes, tail: bytes = b"xyzlatent!!") -> bytes:
    start = EXTENDED[: -4 - len(b"\x02\x01\x03\x02\x01icc\x10sidelatent!!")]
    return with_checksum(start + extras + tail)


def test_an_unknown_odd_extra_is_skipped_and_an_even_one_refused():
    content = container.read(extended(b"\x01\x65\x03"))
    assert (content.extras, content.streams) == ({}, [b"late", b"nt!!"])
    with pytest.raises(container.ContainerError, match="extra 100"):
        container.read(extended(b"\x01\x64\x03"))


@pytest.mark.parametrize("extras", [b"\x02\x02\x01\x01\x01", b"\x02\x01\x01\x01\x01"])
def test_extras_out_of_order_or_twice_are_refused(extras):
    with pytest.raises(container.ContainerError, match="order"):
        container.read(extended(extras))


@pytest.mark.parametrize("extras", [b"\x01\x01\x7f", b"\x7f\x01\x01", b"\xff\xff\xff\xff\x7f", b"\x01\x01\xff\xff\xff\xff\x7f"])
def test_extras_beyond_the_file_are_refused(extras):
    with pytest.raises(container.ContainerError, match=r"ends within|order|do not add up"):
        container.read(extended(extras))


@settings(max_examples=50, deadline=None)
@given(
    st.binary(min_size=4, max_size=4),
    st.integers(0, 255),
    st.tuples(*[st.integers(0, 2**35 - 1)] * 3),
    st.lists(st.binary(max_size=300), min_size=1, max_size=container.MAX_STREAMS),
    st.dictionaries(st.sampled_from([extra.name for extra in container.EXTRAS]), st.binary(max_size=300)),
)
def test_what_is_written_is_read(fingerprint, quarters, size, streams, extras):
    data = container.write("image", fingerprint, quarters / 4, size, streams, extras)
    content = container.read(data)
    beyond = len(data) - sum(map(len, streams))
    assert content == container.Content("image", fingerprint, quarters / 4, size, streams, beyond, extras, 2 if extras else 1)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.integers(1, container.VERSION))
def test_any_bytes_behind_a_valid_checksum_are_read_or_refused(tail, version):
    try:
        content = container.read(with_checksum(container.MAGIC + bytes([version]) + tail))
    except container.ContainerError as error:
        assert "\n" not in str(error)
        return
    assert sum(map(len, content.streams)) + content.header_bytes == len(tail) + 9


def test_every_altered_byte_is_refused():
    for file in (FIXED, EXTENDED):
        for position in range(len(file)):
            for flip in (0x01, 0x80, 0xFF):
                altered = bytearray(file)
                altered[position] ^= flip
                with pytest.raises(container.ContainerError):
                    container.read(bytes(altered))


def test_every_truncation_and_trailing_bytes_are_refused():
    for file in (FIXED, EXTENDED):
        for length in range(len(file)):
            with pytest.raises(container.ContainerError):
                container.read(file[:length])
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
    with pytest.raises(container.ContainerError, match="version 4"):
        container.read(with_checksum(FIXED[:4] + b"\x04" + FIXED[5:-4]))


def test_an_unknown_modality_is_refused():
    with pytest.raises(container.ContainerError, match="unknown kind 9"):
        container.read(with_checksum(FIXED[:5] + b"\x09" + FIXED[6:-4]))


def test_a_number_has_only_one_form():
    padded = FIXED[:15] + b"\x83\x00" + FIXED[16:-4]  # three channels, in two bytes
    with pytest.raises(container.ContainerError, match="shortest form"):
        container.read(with_checksum(padded))


@pytest.mark.parametrize("streams", [0, 65, 2**30])
def test_stream_counts_out_of_range_are_refused_without_reading_them(streams):
    body = FIXED[:16] + container.varint(streams) + b"\x01" * 70
    with pytest.raises(container.ContainerError, match=f"claims {streams} streams"):
        container.read(with_checksum(body))


@pytest.mark.parametrize("streams", [0, 72, 2**30])
def test_version_2_has_no_more_streams_than_bytes_to_say_how_long_they_are(streams):
    body = FIXED[:4] + b"\x02" + FIXED[5:16] + container.varint(streams) + b"\x01" * 70
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
    [((1, 1), [b""], bytes(4)), ((1, 1, 3), [], bytes(4)), ((1, 1, 3), [b""], bytes(5))],
)
def test_what_a_reader_would_refuse_is_not_written(size, streams, fingerprint):
    with pytest.raises(ValueError, match=r"size fields|must be"):
        container.write("image", fingerprint, 0, size, streams)
