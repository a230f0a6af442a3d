"""Version 3 of the file format: exact bytes, refusal of everything that is not a whole file, and damage that costs what it touches."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from binascii import crc_hqx
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuralcodec.codecs import CONFIGS
from neuralcodec.codecs.audio.files import SoundDecoder, decode_sound, encode_sound
from neuralcodec.codecs.audio.streams import Decoder
from neuralcodec.codecs.audio.transforms import SpectralSynthesis
from neuralcodec.codecs.base import CodecError
from neuralcodec.codecs.files import codec_for
from neuralcodec.datasets.audio import Sound
from neuralcodec.datasets.streamed import Resampler
from neuralcodec.entropy import container, segments
from neuralcodec.entropy.container import ContainerError, varint

HEADER = segments.Header(b"\x01\x02\x03\x04", 31.75, 44100, 2, 50)
PAYLOADS = [b"first one", b"", b"3rd" * 50, b"last"]
FIXED = segments.write(HEADER, PAYLOADS, 123456)
RATE = 16000


def checked(data: bytes, start: int) -> bytes:
    return data + crc_hqx(data, start).to_bytes(2, "little")


def header_of(
    rate: int = RATE, channels: int = 1, frames: int = 50, level: int = 80, modality: int = 2, fingerprint: bytes = bytes(4)
) -> bytes:
    return checked(
        container.MAGIC + bytes((3, modality)) + fingerprint + bytes((level,)) + b"".join(map(varint, (rate, channels, frames))), 0
    )


def ended(data: bytes, samples: int) -> bytes:
    data += b"\0" + varint(samples)
    return data + zlib.crc32(data).to_bytes(4, "little")


def forgiven(data: bytes) -> tuple[list[bytes | None], int | None]:
    """What a reader that goes on after damage finds: payloads, and samples."""
    reader = segments.Reader(io.BytesIO(data), forgive=True)
    return list(reader), reader.samples


# The container


def test_bytes_of_a_fixed_file_never_change():
    data = checked(b"\x8eNC\n" + b"\x03" + b"\x02" + b"\x01\x02\x03\x04" + b"\x7f" + b"\xc4\xd8\x02" + b"\x02" + b"\x32", 0)
    for number, payload in enumerate(PAYLOADS, 1):
        data += checked((b"\x97\x01" if len(payload) == 150 else bytes([len(payload) + 1])) + payload, number)
    data += b"\0" + b"\xc0\xc4\x07"
    assert data + zlib.crc32(data).to_bytes(4, "little") == FIXED
    short = segments.write(HEADER, [b"ab", b""], 5)
    assert short.hex() == "8e4e430a0302010203047fc4d8020232a7290361629e1e012112000591185c69"


def test_fixed_file_reads_back():
    content = container.read(FIXED)
    overhead = len(FIXED) - sum(map(len, PAYLOADS))
    assert content == container.Content("audio", b"\x01\x02\x03\x04", 31.75, (123456, 44100, 2), PAYLOADS, overhead, version=3, frames=50)
    assert forgiven(FIXED) == (PAYLOADS, 123456)


def test_a_short_sound_has_at_most_30_bytes_beyond_its_segment():
    assert len(segments.write(segments.Header(bytes(4), 0, 16000, 1, 50), [b"x" * 100], 16000)) <= 130


def test_document_holds_the_description():
    document = Path(__file__).parent.parent / "docs" / "bitstream.md"
    assert segments.document() in document.read_text(encoding="utf-8")


def test_every_altered_byte_is_refused():
    for position in range(len(FIXED)):
        for flip in (0x01, 0x80, 0xFF):
            altered = bytearray(FIXED)
            altered[position] ^= flip
            with pytest.raises(ContainerError) as refusal:
                container.read(bytes(altered))
            assert str(refusal.value) and "\n" not in str(refusal.value)


def test_every_truncation_and_trailing_bytes_are_refused():
    for length in range(len(FIXED)):
        with pytest.raises(ContainerError):
            container.read(FIXED[:length])
    for tail in (b"\0", b"\n", b"x" * 20, FIXED):
        with pytest.raises(ContainerError):
            container.read(FIXED + tail)


@settings(max_examples=30, deadline=None)
@given(
    st.binary(min_size=4, max_size=4),
    st.integers(0, 255),
    st.tuples(*[st.integers(0, 2**35 - 1)] * 3),
    st.lists(st.binary(max_size=300), min_size=1, max_size=40),
    st.integers(0, 2**35 - 1),
)
def test_what_is_written_is_read(fingerprint, quarters, numbers, payloads, samples):
    header = segments.Header(fingerprint, quarters / 4, *numbers)
    reader = segments.Reader(io.BytesIO(segments.write(header, payloads, samples)))
    assert reader.header == header and list(reader) == payloads
    assert (reader.samples, reader.number) == (samples, len(payloads))


class OneByOne(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int):
        self.data, self.step = data, step

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        piece, self.data = self.data[: min(self.step, len(buffer))], self.data[self.step :]
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize("step", [1, 7, 100])
def test_files_are_read_as_they_come(step):
    assert list(segments.Reader(OneByOne(FIXED, step))) == PAYLOADS  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_behind_a_valid_header_are_read_or_refused(tail, forgive):
    reader = segments.Reader(io.BytesIO(header_of() + tail), forgive)
    try:
        found = list(reader)
    except ContainerError as error:
        assert not forgive and "\n" not in str(error)
        return
    assert sum(len(payload or b"") for payload in found) <= len(tail)


def test_a_length_beyond_the_file_takes_no_memory():
    for claim in (2**22, 2**32, 2**35 - 1):
        for forgive in (False, True):
            data = header_of() + varint(claim) + bytes(100)
            tracemalloc.start()
            try:
                list(segments.Reader(io.BytesIO(data), forgive))
            except ContainerError:
                assert not forgive
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 2**20


def test_files_without_segments_and_of_other_kinds_are_refused():
    with pytest.raises(ContainerError, match="no segments"):
        container.read(ended(header_of(), 0))
    with pytest.raises(ContainerError, match="unknown kind"):
        segments.Reader(io.BytesIO(header_of(modality=1)))
    with pytest.raises(ContainerError, match="version 1, not 3"):
        segments.Reader(io.BytesIO(container.write("audio", bytes(4), 0, (1, 8000, 1), [b"x"])))


# Damage


def blocks(count: int = 12, seed: int = 0) -> list[bytes]:
    random = np.random.default_rng(seed)
    return [random.bytes(int(size)) for size in random.integers(20, 150, count)]


def lost(found: Sequence[bytes | None], payloads: Sequence[bytes]) -> list[int]:
    """Which are None; the others must be where they were."""
    assert all(one is None or one == other for one, other in zip(found, payloads))
    return [number for number, one in enumerate(found) if one is None] + list(range(len(found), len(payloads)))


def starts(payloads: Sequence[bytes]) -> list[int]:
    """Where each segment starts in a file, and where the end does."""
    sizes = [len(header_of()), *(len(varint(len(payload) + 1)) + len(payload) + 2 for payload in payloads)]
    return [int(total) for total in np.cumsum(sizes)]


def file_of(payloads: Sequence[bytes], samples: int = 190_000) -> bytes:
    return segments.write(segments.Header(bytes(4), 20.0, RATE, 1, 50), payloads, samples)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 9), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_an_altered_byte_costs_the_segment_that_it_is_in(seed, place, flip):
    payloads = blocks(seed=seed)
    data = bytearray(file_of(payloads))
    first = starts(payloads)[0]
    position = first + int(place * (len(data) - first))
    data[position] ^= flip
    found, samples = forgiven(bytes(data))
    missing = lost(found, payloads)
    if position >= starts(payloads)[-1]:
        reader = segments.Reader(io.BytesIO(data), forgive=True)
        assert not missing and list(reader) == payloads and (reader.samples is None or reader.doubtful)
    else:
        assert missing == [int(np.searchsorted(starts(payloads), position, "right")) - 1] and samples == 190_000


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 9), st.floats(0, 1), st.integers(1, 400))
def test_lost_bytes_cost_the_segments_that_they_were_in(seed, place, count):
    payloads = blocks(seed=seed)
    data, edges = file_of(payloads), starts(payloads)
    position = edges[0] + int(place * (edges[-1] - edges[0] - 1))
    found, samples = forgiven(data[:position] + data[position + count :])
    touched = [n for n in range(len(payloads)) if edges[n] < position + count and position < edges[n + 1]]
    missing = lost(found, payloads)
    if position + count <= edges[-1]:
        assert samples == 190_000
        # One more where the first bytes of a segment that is whole are those of the one that was lost.
        assert set(missing) <= set(touched) | {touched[-1] + 1}
    else:
        assert missing == touched or len(missing) == len(touched)


def test_swapped_segments_are_both_lost():
    payloads = blocks()
    data, edges = file_of(payloads), starts(payloads)
    swapped = data[: edges[3]] + data[edges[4] : edges[5]] + data[edges[3] : edges[4]] + data[edges[5] :]
    found, samples = forgiven(swapped)
    assert set(lost(found, payloads)) <= {3, 4} and samples == 190_000
    with pytest.raises(ContainerError):
        container.read(swapped)


def test_a_missing_segment_and_one_that_comes_twice_are_noticed():
    payloads = blocks()
    data, edges = file_of(payloads), starts(payloads)
    found, samples = forgiven(data[: edges[5]] + data[edges[6] :])
    assert lost(found, payloads) == [5] and samples == 190_000
    found, samples = forgiven(data[: edges[6]] + data[edges[5] :])
    assert lost(found, payloads) == [] and samples == 190_000
    for altered in (data[: edges[5]] + data[edges[6] :], data[: edges[6]] + data[edges[5] :]):
        with pytest.raises(ContainerError):
            container.read(altered)


class Watched(io.BytesIO):
    """A file that knows how far ahead of what it has used a reader is."""

    reader: segments.Reader | None = None
    ahead = 0

    def read1(self, size: int | None = -1, /) -> bytes:
        if self.reader is not None:
            self.ahead = max(self.ahead, self.tell() - self.reader.bytes)
        return super().read1(size)


def test_junk_is_not_kept(monkeypatch):
    monkeypatch.setattr(segments, "WINDOW", 2**10)
    monkeypatch.setattr(segments, "MAX_PAYLOAD", 2**12)
    payloads = blocks()
    data, edges = file_of(payloads), starts(payloads)
    junk = np.random.default_rng(5).bytes(2**13) + bytes(2**15)
    file = Watched(data[: edges[4]] + junk + data[edges[4] :])
    file.reader = segments.Reader(file, forgive=True)
    assert lost(list(file.reader), payloads) == [] and file.reader.samples == 190_000
    assert file.ahead < 2**14


def test_junk_in_between_and_behind_is_skipped():
    payloads = blocks()
    data, edges = file_of(payloads), starts(payloads)
    junk = np.random.default_rng(5).bytes(500)
    found, samples = forgiven(data[: edges[4]] + junk + data[edges[4] :])
    assert lost(found, payloads) == [] and samples == 190_000
    found, samples = forgiven(data + junk)
    assert lost(found, payloads) == []


# Damage as it is heard


class Heard(NamedTuple):
    samples: np.ndarray  # (channels, n)
    lost: list[tuple[float, float]]


@pytest.fixture(scope="module")
def original(voice) -> Sound:
    return Sound(voice(50_000), RATE)


@pytest.fixture(scope="module")
def coded(small, original) -> bytes:
    return encode_sound(small("speech"), original, 40).data


def listen(codec, data: bytes, **how) -> Heard:
    decoder = SoundDecoder(io.BytesIO(data), [codec], **how)
    samples = np.concatenate([block.samples for block in decoder], 1)
    return Heard(samples, decoder.lost)


def differs(codec, heard: np.ndarray, intact: np.ndarray) -> float:
    """Seconds from the first to the last sample that is another."""
    count = min(heard.shape[1], intact.shape[1])
    where = np.flatnonzero(np.abs(heard[:, :count] - intact[:, :count]).max(0) > 1e-5)
    return (where[-1] - where[0] + 1) / RATE if len(where) else 0.0


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255), st.booleans())
def test_a_flipped_byte_costs_one_segment_and_what_the_synthesis_remembers(small, coded, place, flip, conceal):
    codec = small("speech")
    intact = decode_sound(codec, coded).sound.samples
    first = len(header_of(fingerprint=codec.fingerprint))
    data = bytearray(coded)
    data[first + int(place * (len(data) - first))] ^= flip
    with pytest.raises(CodecError):
        decode_sound(codec, bytes(data))
    heard = listen(codec, bytes(data), forgive=True, conceal=conceal)
    assert heard.samples.shape[1] - intact.shape[1] in range(2 * codec.hop)
    assert sum(end - start for start, end in heard.lost) <= codec.seconds(codec.segment) + 1e-6
    assert differs(codec, heard.samples, intact) <= codec.seconds(codec.segment + codec.synthesis.memory) < 2
    assert np.isfinite(heard.samples).all()


def test_real_presets_forget_damage_within_two_seconds():
    """A segment of one second, and what the largest synthesis among them remembers."""
    for name, path in CONFIGS.items():
        if name.startswith("audio/"):
            arguments = yaml.safe_load(path.read_text())["model"]["codec"]["init_args"]
            if arguments["synthesis"]["class_path"].endswith("SpectralSynthesis"):
                synthesis = SpectralSynthesis(**arguments["synthesis"]["init_args"])
                frames = arguments.get("segment", 50) + synthesis.memory
                assert frames * synthesis.hop / arguments["sampling_rate"] <= 2, name


def test_the_first_and_the_last_segment_may_be_lost(small, coded, original):
    codec = small("speech")
    reader = segments.Reader(io.BytesIO(coded))
    sizes = [len(varint(len(payload) + 1)) + len(payload) + 2 for payload in reader]
    first = len(header_of(fingerprint=codec.fingerprint))
    for cut in (slice(first, first + sizes[0]), slice(first + sum(sizes[:-1]), first + sum(sizes))):
        damaged = coded[: cut.start] + coded[cut.stop :]
        heard = listen(codec, damaged, conceal=True)
        if cut.start == first:
            assert heard.samples.shape == original.samples.shape and len(heard.lost) == 1
        else:  # as if the end said something wrong
            assert codec.segment * codec.hop > original.samples.shape[1] - heard.samples.shape[1] > 0


def test_concealment_fades_away_over_all_that_is_lost(small, original):
    codec = small("speech")
    coded = codec.compress(torch.from_numpy(original.samples)[None], 40)
    streams: list[bytes | None] = list(coded.streams)
    streams[2:5] = [None] * 3
    with Decoder(codec, 40, 1, conceal=True) as decoder:
        pieces = list(decoder.push(streams[:-1]))
    energy = [piece.signal.abs().max().item() for piece in pieces]
    assert [piece.symbols is None for piece in pieces] == [False, False, True, True, True, False, False]
    assert energy[2] > 4 * energy[3] > 16 * energy[4]
    with Decoder(codec, 40, 1, forgive=True) as decoder:
        assert not any(piece.signal.any() for piece in decoder.push(streams[:-1]) if piece.symbols is None)


def test_every_truncation_leaves_what_was_whole(small, coded, original):
    codec = small("speech")
    intact = decode_sound(codec, coded).sound.samples
    first = len(header_of(fingerprint=codec.fingerprint))
    for length in range(first):
        with pytest.raises(CodecError):
            SoundDecoder(io.BytesIO(coded[:length]), [codec], forgive=True)
    found = [len(forgiven(coded[:length])[0]) for length in range(first, len(coded))]
    assert found == sorted(found)
    for length in (*range(len(coded) - 12, len(coded)), *range(first + 60, len(coded), 200)):
        count = len(forgiven(coded[:length])[0])
        if count:
            heard = listen(codec, coded[:length], forgive=True).samples
            kept = min(codec.segment * codec.hop * count - codec.delay, intact.shape[1])
            assert kept <= heard.shape[1] <= kept + codec.hop + codec.delay
            np.testing.assert_allclose(heard[:, :kept], intact[:, :kept], atol=1e-5)


@pytest.mark.parametrize("kind", ["speech-pairs", "speech-ahead"])
def test_codecs_of_other_kinds_survive_damage(kind, small, voice):
    codec = small(kind)
    x = Sound(voice(30_000, codec.channels), RATE)
    data = bytearray(encode_sound(codec, x, 40).data)
    for position in (len(data) // 3, len(data) - 3, len(data) - 6, len(data) - 8):
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        with pytest.raises(CodecError):
            decode_sound(codec, bytes(damaged))
        heard = listen(codec, bytes(damaged), conceal=True)
        assert heard.samples.shape[1] - 30_000 in range(2 * codec.hop)


# Headers that lie


@pytest.mark.parametrize(
    "claims",
    [
        *({"channels": count} for count in (0, 65, 2**35 - 1)),
        *({"rate": rate} for rate in (0, 999, 2**34, 44101)),
        *({"frames": 0}, {"frames": 2**35 - 1}, {"level": 255}),
    ],
)
def test_headers_that_make_no_sense_are_refused_at_once(claims, small):
    codec = small("speech")
    data = ended(header_of(**{"fingerprint": codec.fingerprint, "frames": codec.segment, **claims}) + checked(b"\x02x", 1), 5)
    Resampler(1, RATE, 8000)  # imports what it needs
    tracemalloc.start()
    for forgive in (False, True):
        with pytest.raises(CodecError, match=r"makes no sense|channels at a time"):
            SoundDecoder(io.BytesIO(data), [codec], forgive=forgive)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("samples", [0, 10**6, 2**35 - 1])
def test_lengths_that_do_not_fit_the_segments_are_refused(samples, small, coded):
    codec = small("speech")
    reader = segments.Reader(io.BytesIO(coded))
    data = segments.write(reader.header, list(reader), samples)
    tracemalloc.start()
    with pytest.raises(CodecError, match="do not add up"):
        decode_sound(codec, data)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    heard = listen(codec, data, forgive=True)
    if samples == 10**6:
        assert heard.samples.shape[1] == samples and heard.lost[-1][1] > 60, "up to 256 segments may be missing"
    else:
        assert heard.samples.shape[1] < 51_000


def test_the_most_channels_at_the_highest_rate_stay_within_bounds(small):
    """Sixty-four channels at 768 kHz in a file of some hundred bytes: a second of that is what may be in memory."""
    codec = small("speech")
    payload = codec.encode_symbols(torch.zeros(64, codec.latent, 20, dtype=torch.int32), 20.0)
    header = segments.Header(codec.fingerprint, 20.0, 768_000, 64, codec.segment)
    data = segments.write(header, [payload] * 20, 48 * 100_000)
    count = 0
    for block in SoundDecoder(io.BytesIO(data), [codec], end=0.5):
        count += block.samples.shape[1]
        assert block.samples.nbytes < 2**28
    assert count == 384_000


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=3), st.integers(1, 19000))
def test_any_payloads_with_valid_checks_decode_or_are_refused(small, payloads, samples):
    codec = small("speech")
    data = segments.write(segments.Header(codec.fingerprint, 20.0, RATE, 1, codec.segment), payloads, samples)
    try:
        decoded = decode_sound(codec, data)
    except CodecError as error:
        assert "\n" not in str(error)
    else:
        assert decoded.sound.samples.shape == (1, samples) and np.isfinite(decoded.sound.samples).all()
    if codec.frames(samples) > codec.segment * (len(payloads) - 1):
        assert np.isfinite(listen(codec, data, conceal=True).samples).all()


def test_a_file_of_another_model_is_refused(small, coded):
    with pytest.raises(CodecError, match="--model"):
        SoundDecoder(io.BytesIO(coded), [small("speech-pairs")])
    assert codec_for(container.read(coded), [small("speech-pairs"), small("speech")]) is small("speech")
