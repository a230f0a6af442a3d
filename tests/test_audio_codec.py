"""Sounds through the codec that is trained on rate: streamed as at once, the same integers everywhere, the exact length back."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuralcodec.codecs.audio.codec import SegmentCodec
from neuralcodec.codecs.audio.files import Block, SoundDecoder, SoundEncoder, decode_sound, encode_sound
from neuralcodec.codecs.audio.layers import CausalConv1d, ConvNeXtBlock, InverseStft, Stft, streaming
from neuralcodec.codecs.audio.streams import Decoder, Encoder
from neuralcodec.codecs.audio.transforms import SpectralAnalysis, SpectralSynthesis
from neuralcodec.codecs.audio.waveform import Upsample
from neuralcodec.codecs.base import CodecError, load_weights
from neuralcodec.datasets.audio import Sound, resample
from neuralcodec.datasets.streamed import Resampler
from neuralcodec.entropy.causal import CausalPrior, _Stepper
from neuralcodec.entropy.rans import CorruptStream

SOME = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
RATE = 16000
KINDS = ("speech", "speech-pairs", "speech-ahead")
SIZES = {"latent": 4, "width": 6, "hidden": 8, "blocks": [1, 1], "window": 32, "hop": 8, "kernel": 3}


def sound(voice, samples: int, channels: int = 1, rate: int = RATE) -> Sound:
    return Sound(voice(samples, channels, rate), rate)


def cut(x, pieces: Sequence[int], unit: int = 1) -> list:
    """A signal (…, n) in pieces of so many units, again and again."""
    sizes, total = [], 0
    while total < x.shape[-1]:
        sizes.append(min(pieces[len(sizes) % len(pieces)] * unit, x.shape[-1] - total))
        total += sizes[-1]
    return [x[..., end - size : end] for end, size in zip(np.cumsum(sizes), sizes)]


# Layers

LAYERS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # how to make it, channels, samples that go in together
    "convolution": (lambda: CausalConv1d(3, 4, 5), 3, 1),
    "strided": (lambda: CausalConv1d(3, 4, 4, stride=2), 3, 2),
    "dilated": (lambda: CausalConv1d(3, 3, 3, dilation=4, groups=3), 3, 1),
    "pointwise": (lambda: CausalConv1d(3, 2, 1), 3, 1),
    "block": (lambda: ConvNeXtBlock(3, 6), 3, 1),
    "upsampling": (lambda: Upsample(3, 2, 4, True), 3, 1),
    "stft": (lambda: Stft(12, 4), 2, 4),
    "stft and back": (lambda: nn.Sequential(Stft(16, 4), InverseStft(16, 4)), 2, 4),
    "analysis": (lambda: SpectralAnalysis(**SIZES), 1, 16),
    "synthesis": (lambda: SpectralSynthesis(**SIZES), 4, 1),
}


def made(name: str) -> tuple[Callable[[Tensor], Tensor], nn.Module, Tensor, int]:
    """A layer far from its initial weights, the module itself, 24 units of signal, and samples in a unit."""
    make, channels, unit = LAYERS[name]
    torch.manual_seed(1)
    module = make().requires_grad_(False)
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    levels = name in ("analysis", "synthesis")
    return (lambda x: module(x, torch.tensor([20.25])) if levels else module(x)), module, torch.randn(1, channels, 24 * unit), unit


@pytest.mark.parametrize("name", LAYERS)
@SOME
@given(pieces=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_layers_streamed_in_any_pieces_equal_the_whole_signal(name, pieces):
    call, module, x, unit = made(name)
    with streaming(module):
        streamed = torch.cat([call(piece) for piece in cut(x, pieces, unit)], -1)
    torch.testing.assert_close(streamed, call(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_leaving_the_block_forgets_even_by_an_error(name):
    call, module, x, _ = made(name)
    whole = call(x)
    with pytest.raises(ZeroDivisionError), streaming(module):
        call(x * 3)
        raise ZeroDivisionError
    assert torch.equal(call(x), whole)
    with streaming(module):
        torch.testing.assert_close(call(x), whole, rtol=1e-5, atol=1e-5)


def test_layers_stream_one_signal_at_a_time(small):
    codec = small("speech")
    with streaming(codec.analysis):
        with pytest.raises(RuntimeError, match="already streaming"), codec.streaming():
            pass
        with pytest.raises(RuntimeError, match="already streaming"), streaming(codec.analysis.fine):
            pass
        with streaming(codec.synthesis):
            assert codec.analysis.stft.past is not None, "what others do is left alone"
    assert codec.analysis.stft.past is None


@pytest.mark.parametrize("name", LAYERS)
def test_layers_see_the_past_alone(name):
    call, _, x, unit = made(name)
    whole = call(x)
    changed = call(torch.cat((x[..., : 12 * unit], torch.randn_like(x[..., 12 * unit :])), -1))
    half = whole.shape[-1] // 2
    assert torch.equal(changed[..., :half], whole[..., :half])
    assert not torch.equal(changed[..., half:], whole[..., half:])


def test_the_inverse_transform_gives_the_signal_back_late_by_its_delay():
    x = torch.randn(2, 1, 640)
    forward, back = Stft(64, 16), InverseStft(64, 16)
    y = back(forward(x))
    torch.testing.assert_close(y[..., back.delay :], x[..., : -back.delay], rtol=1e-5, atol=1e-5)
    assert back.delay == 48


# The prior

PRIORS = {"one slice": ([7], 3), "two": ([2, 5], 4), "three, no memory to speak of": ([1, 2, 4], 1)}


def prior_of(slices: Sequence[int], memory: int, seed: int = 0) -> CausalPrior:
    torch.manual_seed(seed)
    prior = CausalPrior(sum(slices), slices, memory, width=12, levels=64).requires_grad_(False).eval()
    for name, parameter in prior.named_parameters():
        parameter.add_(torch.randn_like(parameter) * (2.0 if name.endswith("offset.rows") else 0.3))
    prior.freeze()
    return prior


def integers(shape: Sequence[int], scale: float, seed: int) -> Tensor:
    """Most of them small, some beyond what any table holds."""
    random = np.random.default_rng(seed)
    values = random.normal(0, scale, shape) * np.where(random.random(shape) < 0.02, 100, 1)
    return torch.from_numpy(np.round(values).astype(np.int32))


@pytest.mark.parametrize("kind", PRIORS)
@SOME
@given(quarters=st.integers(0, 252), scale=st.sampled_from([0.3, 2, 40, 3000]), seed=st.integers(0, 99), frames=st.integers(1, 14))
def test_the_decoders_arithmetic_picks_the_same_tables_as_the_encoders(kind, quarters, scale, seed, frames):
    prior = prior_of(*PRIORS[kind])
    symbols = integers((2, prior.channels, frames), scale, seed)
    tables, whole = (part.numpy() for part in prior(symbols.float(), torch.full((2,), quarters / 4)).tables())
    stepper = _Stepper(prior, 2, quarters / 4)
    for frame in range(frames):
        context = stepper.context()
        here = symbols[..., frame].numpy()
        first = 0
        for index, size in enumerate(prior.slices):
            part = slice(first, first + size)
            picked = stepper.slice(index, context, here[:, :first])
            assert np.array_equal(picked[0], tables[:, part, frame])
            assert np.array_equal(picked[1], whole[:, part, frame])
            first += size
        stepper.push(here)


@pytest.mark.parametrize("kind", PRIORS)
@SOME
@given(quarters=st.integers(0, 252), scale=st.sampled_from([0.3, 2, 3000]), seed=st.integers(0, 99), items=st.integers(1, 3))
def test_any_integers_come_back_from_streams_decoded_side_by_side(kind, quarters, scale, seed, items):
    prior = prior_of(*PRIORS[kind])
    pieces = [integers((items, prior.channels, 9), scale, seed + number) for number in range(3)]
    decoded = prior.decode([prior.encode(piece, quarters / 4) for piece in pieces], items, 9, quarters / 4)
    assert np.array_equal(decoded, torch.stack(pieces).numpy())


def test_coded_size_is_what_the_training_path_says():
    prior = prior_of(*PRIORS["two"])
    for level, scale in ((0.0, 0.4), (30.25, 1.5), (63.0, 4.0)):
        symbols = integers((1, 7, 600), scale, 3)
        bits = prior.bits(symbols.float(), symbols.float(), torch.tensor([level])).sum().item()
        assert len(prior.encode(symbols, level)) * 8 == pytest.approx(bits, rel=0.01)


def test_counted_tables_take_fewer_bits():
    prior = prior_of(*PRIORS["two"])
    symbols = integers((1, 7, 2000), 1.0, 3)
    before = len(prior.encode(symbols, 20))
    prior.build_tables(prior.count(symbols, 20))
    after = prior.encode(symbols, 20)
    assert len(after) < 0.9 * before
    assert np.array_equal(prior.decode([after], 1, 2000, 20)[0], symbols.numpy())


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=48))
def test_any_bytes_are_symbols_or_a_corrupt_stream(data):
    prior = prior_of(*PRIORS["one slice"])
    try:
        symbols = prior.decode([data], 1, 4, 12.0)
    except CorruptStream:
        return
    assert prior.encode(torch.from_numpy(symbols[0]), 12.0) == data


def test_weights_whose_sums_could_be_inexact_are_refused():
    prior = prior_of(*PRIORS["two"])
    prior.steer.rows.fill_(2.0**20)
    with pytest.raises(ValueError, match="exact range"):
        prior.freeze()
    with pytest.raises(ValueError, match="do not add up"):
        CausalPrior(7, [2, 4])


# The codec


@pytest.mark.parametrize("kind", KINDS)
@SOME
@given(
    samples=st.one_of(st.integers(1, 700), st.integers(1, 16000), st.sampled_from([6400, 6400 - 480, 12800, 320])),
    channels=st.sampled_from([1, 2, 6]),
    quarters=st.integers(0, 252),
)
def test_any_length_channels_and_level_round_trip(kind, small, voice, samples, channels, quarters):
    codec = small(kind)
    if channels % codec.channels:
        channels = 2
    coded = encode_sound(codec, sound(voice, samples, channels), quarters / 4)
    decoded = decode_sound(codec, coded.data)
    assert decoded.sound.samples.shape == (channels, samples) and decoded.sound.rate == RATE
    assert torch.equal(decoded.symbols["y"], coded.symbols["y"])
    assert np.isfinite(decoded.sound.samples).all()


def test_higher_levels_are_larger(small, voice):
    codec = small("speech")
    sizes = [len(encode_sound(codec, sound(voice, 16000), level).data) for level in (0, 21, 42, 63)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_path_at_evaluation_is_what_files_do(kind, small, voice):
    codec = small(kind)
    x = torch.from_numpy(voice(26000, codec.channels))[None]
    compressed = codec.compress(x, 40.25)
    with torch.inference_mode():
        output = codec(x, torch.tensor([40.25]))
    decompressed = codec.decompress(compressed.streams, (26000, codec.channels), 40.25)
    assert torch.equal(compressed.symbols["y"], decompressed.symbols["y"])
    assert (compressed.symbols["y"] != output.symbols["y"]).float().mean() < 1e-3, "but for values between two integers"
    torch.testing.assert_close(decompressed.signal, output.reconstruction, rtol=1e-3, atol=1e-4)
    bits = sum(map(len, compressed.streams)) * 8
    estimated = output.bits["y"].item()
    # A stream ends with a whole byte, and its first symbol takes as many bits as the coder is precise.
    assert 0.99 * estimated < bits < 1.01 * estimated + (8 + 24) * len(compressed.streams)


@pytest.mark.parametrize(
    ("kind", "rate", "channels"), [("speech", RATE, 1), ("speech", 44100, 2), ("speech-pairs", 8000, 2), ("speech-ahead", RATE, 1)]
)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.integers(1, 9000), min_size=1, max_size=6).filter(lambda sizes: max(sizes) > 99))
def test_any_way_to_cut_a_sound_gives_the_same_file(kind, rate, channels, small, voice, pieces):
    codec = small(kind)
    whole = sound(voice, round(1.3 * rate), channels, rate)
    file = io.BytesIO()
    with SoundEncoder(codec, file, 30.5, rate, channels) as encoder:
        for piece in cut(whole.samples, pieces):
            encoder.push(piece)
        encoder.finish()
    assert file.getvalue() == encode_sound(codec, whole, 30.5).data
    assert encoder.bytes == len(file.getvalue())


def test_single_samples_may_come(small, voice):
    codec = small("speech")
    x = sound(voice, 6500, rate=8000)
    file = io.BytesIO()
    with SoundEncoder(codec, file, 30, 8000, 1) as encoder:
        for piece in cut(x.samples, [1]):
            encoder.push(piece)
        encoder.finish()
    assert file.getvalue() == encode_sound(codec, x, 30).data


def test_frames_in_bytes_out(small, voice):
    """Segments are written as soon as they are complete, and heard as soon as they are read."""
    codec = small("speech")
    segment = codec.segment * codec.hop
    x = voice(3 * segment + 100)
    with Encoder(codec, 30, 1) as encoder:
        counts = [len(list(encoder.push(torch.from_numpy(piece)))) for piece in cut(x, [segment // 2])]
        payloads = list(encoder.finish())
    assert counts == [0, 0, 1, 0, 1, 0, 1] and len(payloads) == 1
    coded = codec.compress(torch.from_numpy(x)[None], 30)
    with Decoder(codec, 30, 1) as decoder:
        heard = [piece.signal.shape[1] for payload in coded.streams[:-1] for piece in decoder.push([payload])]
        (last,) = decoder.finish(coded.streams[-1], x.shape[1])
    assert heard == [segment - codec.delay, segment, segment] and last.signal.shape[1] == 100 + codec.delay


def test_a_sound_streamed_segment_by_segment_equals_that_decoded_at_once(small, voice):
    codec = small("speech")
    x = torch.from_numpy(voice(30000))[None]
    coded = codec.compress(x, 50)
    with torch.inference_mode():
        level = torch.tensor([50.0])
        at_once = codec.trimmed(codec.synthesise(codec.dequantize(coded.symbols["y"], level), level), 30000)
    for together in (1, 2, 5):
        with Decoder(codec, 50, 1) as decoder:
            streams = coded.streams[:-1]
            pieces = [piece for i in range(0, len(streams), together) for piece in decoder.push(streams[i : i + together])]
            pieces += decoder.finish(coded.streams[-1], 30000)
        torch.testing.assert_close(torch.cat([piece.signal for piece in pieces], -1)[None], at_once, rtol=1e-5, atol=1e-5)


def test_codecs_that_look_ahead_cannot_stream(small):
    with pytest.raises(CodecError, match="looks ahead"), small("speech-ahead").streaming():
        pass


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    yield lambda: torch.set_num_threads(2)
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_symbols_do_not_depend_on_the_number_of_threads(kind, weights, voice, two_threads):
    codec = load_weights(weights(kind))
    torch.set_num_threads(1)
    coded = encode_sound(codec, sound(voice, 20000, 2), 45)
    alone = decode_sound(codec, coded.data)
    two_threads()
    decoded = decode_sound(codec, coded.data)
    assert torch.equal(decoded.symbols["y"], coded.symbols["y"])
    scale = np.abs(alone.sound.samples).max()
    np.testing.assert_allclose(decoded.sound.samples / scale, alone.sound.samples / scale, atol=1e-5)


# Signals of all kinds

SIGNALS = {
    "silence": np.zeros((1, 20000), np.float32),
    "clipped": np.sign(np.sin(np.arange(20000) / 20)).astype(np.float32)[None],
    "far too loud": np.full((1, 20000), 1e4, np.float32) * np.sin(np.arange(20000) / 7).astype(np.float32),
    "as loud as numbers go": np.full((1, 9000), 3e38, np.float32),
    "hardly there": np.full((1, 9000), 1e-38, np.float32),
    "a click": np.eye(1, 9000, 4000, dtype=np.float32),
    "constant": np.ones((1, 9000), np.float32),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_of_all_kinds_come_back_finite(name, small):
    x = SIGNALS[name]
    coded = encode_sound(small("speech"), Sound(x, 22050), 63)
    decoded = decode_sound(small("speech"), coded.data)
    assert decoded.sound.samples.shape == x.shape and np.isfinite(decoded.sound.samples).all()
    assert torch.equal(decoded.symbols["y"], coded.symbols["y"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(value, small):
    x = np.zeros((1, 5000), np.float32)
    x[0, 1234] = value
    with pytest.raises(CodecError, match="not finite"):
        encode_sound(small("speech"), Sound(x, RATE), 20)


def test_sounds_that_no_file_can_hold_are_refused(small):
    codec = small("speech")
    with pytest.raises(CodecError):
        encode_sound(codec, Sound(np.zeros((1, 0), np.float32), RATE), 20)
    with pytest.raises(CodecError):
        encode_sound(codec, Sound(np.zeros((65, 9), np.float32), RATE), 20)
    with pytest.raises(CodecError):
        encode_sound(codec, Sound(np.zeros((1, 9), np.float32), 999), 20)
    with pytest.raises(CodecError, match="ratio"):
        encode_sound(codec, Sound(np.zeros((1, 9), np.float32), 44101), 20)
    with pytest.raises(CodecError, match="2 channels at a time, not 3"):
        encode_sound(small("speech-pairs"), Sound(np.zeros((3, 9), np.float32), RATE), 20)
    with pytest.raises(CodecError, match="without samples"), SoundEncoder(codec, io.BytesIO(), 20, RATE, 1) as encoder:
        encoder.finish()


# Other rates, and stretches of a sound

RATES = (8000, 11025, 22050, 44100, 48000)


@pytest.mark.parametrize("rate", RATES)
def test_the_original_rate_and_exact_length_come_back(rate, small, voice):
    for samples in (1, rate // 3 + 1):
        x = sound(voice, samples, 1, rate)
        coded = encode_sound(small("speech"), x, 40)
        decoded = decode_sound(small("speech"), coded.data)
        assert decoded.sound.rate == rate and decoded.sound.samples.shape == (1, samples)
        assert torch.equal(decoded.symbols["y"], coded.symbols["y"])


@pytest.mark.parametrize("rate", RATES)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.integers(1, 60000), min_size=1, max_size=5).filter(lambda sizes: max(sizes) > 99))
def test_resampling_in_any_pieces_is_resampling_at_once(rate, voice, pieces):
    x = voice(100_001, 2, rate)
    resampler = Resampler(2, rate, RATE)
    streamed = torch.cat([*(resampler.push(piece) for piece in cut(x, pieces)), resampler.finish()], 1).numpy()
    whole = resample(Sound(x, rate), RATE).samples
    assert streamed.shape == whole.shape
    np.testing.assert_allclose(streamed, whole, atol=1e-5)


def stretch(codec: SegmentCodec, data: bytes, **edges) -> list[Block]:
    return list(SoundDecoder(io.BytesIO(data), [codec], **edges))


@pytest.mark.parametrize(
    ("kind", "rate"), [("speech", RATE), ("speech", 8000), ("speech", 44100), ("speech-pairs", 11025), ("speech-ahead", 48000)]
)
def test_a_stretch_equals_that_of_the_whole(kind, rate, small, voice):
    codec = small(kind)
    seconds = 6 if rate <= RATE else 4
    x = sound(voice, seconds * rate + 77, codec.channels, rate)
    data = encode_sound(codec, x, 40).data
    whole = decode_sound(codec, data).sound.samples
    total = whole.shape[1] / rate
    for start, end in ((0.0, 0.5), (2.25, 2.26), (2.25, 3.5), (total - 1, None), (total - 0.01, total + 9), (0.0, None)):
        blocks = stretch(codec, data, start=start, end=end)
        low, high = round(start * rate), len(whole[0]) if end is None else round(end * rate)
        got = np.concatenate([block.samples for block in blocks], 1)
        assert got.shape == whole[:, low:high].shape
        np.testing.assert_allclose(got, whole[:, low:high], atol=1e-5)
        assert round(blocks[0].start * rate) == low
    assert np.abs(whole).max() > 1e-3


def test_stretches_that_are_empty_or_beyond_the_end_are_refused(small, voice):
    codec = small("speech")
    data = encode_sound(codec, sound(voice, 20000), 40).data
    for start, end in ((1.0, 1.0), (1.0, 0.5), (1.25, None), (400.0, 401.0)):
        with pytest.raises(CodecError):
            stretch(codec, data, start=start, end=end)


def test_what_is_not_asked_for_is_not_decoded(small, voice, monkeypatch):
    codec = small("speech")
    data = encode_sound(codec, sound(voice, 20 * 6400), 40).data
    decoded = []
    real = type(codec).decode_symbols
    monkeypatch.setattr(
        type(codec), "decode_symbols", lambda self, payloads, *rest: decoded.extend(payloads) or real(self, payloads, *rest)
    )
    stretch(codec, data, start=4.0, end=4.4)
    assert 2 <= len(decoded) <= 8
