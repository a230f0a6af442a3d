"""Measuring audio codecs: sounds are read as they are, files counted whole, decoded sounds aligned, and no metric's value is made up."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import soundfile
import torch

from neuralcodec.datasets import audio
from neuralcodec.datasets.audio import Sound, read_sound, resample
from neuralcodec.eval import command, curves, modalities, results, sweep
from neuralcodec.eval.classical.audio import CODECS
from neuralcodec.eval.metrics import audio as metrics
from neuralcodec.eval.metrics import pesq_process
from neuralcodec.eval.results import Item

KIND = modalities.MODALITIES["audio"]()
BY_NAME = {codec.name: codec for codec in CODECS}


def voice(seconds: float = 1.5, rate: int = 16000, channels: int = 1, seed: int = 0) -> Sound:
    """Syllables of a buzzing tone with formants and a little noise: enough like speech for PESQ to find utterances."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(110 + 25 * np.sin(2 * np.pi * 1.3 * time)) / rate
    harmonics = [np.exp(-(((k * 120 - 600) / 500) ** 2)) + 0.5 * np.exp(-(((k * 120 - 1800) / 700) ** 2)) for k in range(1, 30)]
    tone = sum(weight * np.sin(k * phase) for k, weight in enumerate(harmonics, 1))
    syllables = np.clip(np.sin(2 * np.pi * 2.7 * time), 0, None)
    samples = [(tone * syllables * 0.1 + random.normal(0, 0.002, time.shape)) * (1 - 0.4 * c) for c in range(channels)]
    return Sound(np.stack(samples).astype(np.float32), rate)


def lag(sound: Sound, decoded: Sound) -> int:
    """Samples by which the second follows the first, where their cross-correlation peaks."""
    x, y = sound.samples[0].astype(np.float64), decoded.samples[0].astype(np.float64)
    correlation = np.fft.irfft(np.fft.rfft(y, 2 * len(x)) * np.conj(np.fft.rfft(x, 2 * len(x))))
    peak = int(np.argmax(correlation))
    return peak if peak < len(x) else peak - 2 * len(x)


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory):
    """A folder with the tree of LibriSpeech and three utterances in it."""
    root = tmp_path_factory.mktemp("data")
    for i, name in enumerate(("61/70968/61-70968-0000", "61/70968/61-70968-0001", "121/121726/121-121726-0000")):
        path = root / "LibriSpeech" / "test-clean" / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, voice(seed=i).samples.T, 16000)
    return root


@pytest.mark.parametrize(
    ("subtype", "error"), [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("FLOAT", 0)], ids=["8 bits", "16", "24", "float"]
)
def test_every_depth_is_read_as_the_same_sound(tmp_path, subtype, error):
    original = voice(0.1, 22050, 2)
    soundfile.write(tmp_path / "a.wav", original.samples.T, 22050, subtype=subtype)
    read = read_sound(tmp_path / "a.wav")
    assert read.rate == 22050 and read.samples.dtype == np.float32 and read.samples.shape == original.samples.shape
    assert np.abs(read.samples - original.samples).max() <= error


def test_what_libsndfile_cannot_read_ffmpeg_does(tmp_path):
    import av

    original = voice(1.0, 44100, 2)
    with av.open(tmp_path / "a.m4a", "w") as file:
        stream = file.add_stream("aac", rate=44100, layout="stereo")
        frame = av.AudioFrame.from_ndarray(original.samples, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 44100, 0
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    read = read_sound(tmp_path / "a.m4a")
    assert read.rate == 44100 and read.samples.shape[0] == 2
    assert 0 <= read.samples.shape[1] - 44100 < 1024 and lag(original, Sound(read.samples[:, :44100], 44100)) == 0
    assert audio.list_sounds(tmp_path) == [tmp_path / "a.m4a"]


def test_what_is_no_sound_is_refused_in_one_line(tmp_path, capfd):
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "text.m4a").write_text("no sound")
    (tmp_path / "nothing.flac").write_bytes(b"")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 1)), 16000)
    soundfile.write(tmp_path / "nan.wav", np.full((10, 1), np.nan), 16000, subtype="FLOAT")
    whole = tmp_path / "whole.flac"
    soundfile.write(whole, voice(0.2).samples.T, 16000)
    (tmp_path / "cut.flac").write_bytes(whole.read_bytes()[:60])
    for name, message in (
        ("empty.wav", "no samples"),
        ("nan.wav", "not finite"),
        ("text.wav", None),
        ("text.m4a", None),
        ("nothing.flac", None),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            read_sound(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="nothing"):
        read_sound(io.BytesIO(), "nothing")
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ValueError, match=r"cut\.flac"):
        read_sound(tmp_path / "cut.flac")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_sound(tmp_path / "missing.wav")


def test_a_header_that_claims_more_than_the_file_holds_allocates_no_more(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, voice(0.2).samples.T, 16000)
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # the upper bits of the 36 that count samples, in STREAMINFO
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    try:
        assert read_sound(path).samples.shape[1] <= 3200
    except ValueError as error:
        assert "\n" not in str(error)


def test_too_long_a_sound_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "MAX_VALUES", 1000)
    soundfile.write(tmp_path / "a.wav", voice(0.1).samples.T, 16000)
    with pytest.raises(ValueError, match="longer than 1000 samples"):
        read_sound(tmp_path / "a.wav")


def test_librispeech_is_found_by_any_of_its_folders(librispeech, monkeypatch):
    folder = librispeech / "LibriSpeech" / "test-clean"
    for root in (librispeech, librispeech / "LibriSpeech", folder):
        assert audio.librispeech_folder(root) == folder
    monkeypatch.setenv("NEURALCODEC_DATA", str(librispeech))
    assert audio.librispeech_folder() == folder
    assert [path.name for path in audio.list_sounds(folder)][:2] == ["121-121726-0000.flac", "61-70968-0000.flac"]
    with pytest.raises(FileNotFoundError, match="LibriSpeech/dev-other"):
        audio.librispeech_folder(split="dev-other")


def test_resampling_there_and_back_keeps_length_place_and_low_frequencies():
    original = voice(0.5)
    for rate in (8000, 22050, 44100, 48000):
        there = resample(original, rate)
        assert there.samples.shape[1] == math.ceil(original.samples.shape[1] * rate / 16000)
        back = resample(there, 16000)
        assert back.samples.shape[1] - original.samples.shape[1] in (0, 1)
        back = Sound(back.samples[:, : original.samples.shape[1]], 16000)
        assert lag(original, back) == 0 and metrics.si_sdr(original, back) > (20 if rate > 16000 else 10)
    with pytest.raises(ValueError, match="small numbers"):
        resample(original, 65537)


@pytest.mark.parametrize("name", list(BY_NAME))
def test_classical_files_are_whole_files_and_decode_in_place(name):
    codec, original = BY_NAME[name], voice()
    if codec.missing:
        pytest.skip(f"needs {codec.missing}")
    rates = []
    for setting in (codec.settings[0], codec.settings[-1]):
        data = codec.encode(original, setting).data
        decoded = KIND.conform(codec.decode(data).signal, original)
        assert KIND.shape(decoded) == KIND.shape(original) == (1, 24000, 16000)
        assert abs(lag(original, decoded)) <= 2
        assert 0 < codec.header_bytes(data) < len(data)
        file = sweep.measure_file(codec, KIND, Item("one", "", KIND.size(original)), original, setting)
        assert file.rate == pytest.approx(file.file_bytes * 8 / 1500) and file.file_bytes == len(data)
        rates.append(file.rate)
    assert rates[0] < rates[1]
    assert file.quality["si_sdr"] > 3


@pytest.mark.parametrize(("rate", "channels", "count"), [(44100, 2, 20011), (8000, 1, 4001), (16000, 1, 5), (96000, 1, 9600)])
def test_classical_codecs_give_back_any_rate_and_length(rate, channels, count):
    original = Sound(voice(count / rate + 0.1, rate, channels).samples[:, :count], rate)
    for codec in CODECS:
        if codec.missing or (codec.name == "amr-wb" and channels > 1):
            continue
        decoded = codec.decode(codec.encode(original, codec.settings[-1]).data).signal
        assert KIND.shape(KIND.conform(decoded, original)) == (channels, count, rate), codec.name


def test_the_share_of_ogg_in_a_file_is_known():
    codec, original = BY_NAME["opus"], voice()
    data = codec.encode(original, 8).data
    pages, place = [], 0
    while place < len(data):  # https://www.rfc-editor.org/rfc/rfc3533, section 6
        assert data[place : place + 4] == b"OggS"
        table = data[place + 27 : place + 27 + data[place + 26]]
        pages.append((27 + len(table), sum(table)))
        place += sum(pages[-1])
    heads = sum(size for _, size in pages[:2])  # OpusHead and OpusTags have a page each
    assert codec.header_bytes(data) == sum(header for header, _ in pages) + heads


def test_amr_wb_frames_have_their_modes_sizes():
    codec, original = BY_NAME["amr-wb"], voice(0.2)
    if codec.missing:
        pytest.skip(f"needs {codec.missing}")
    for setting, size in ((6.6, 18), (12.65, 33), (23.85, 61)):  # RFC 4867, section 5.3: bits of a mode, and the byte that names it
        data = codec.encode(original, setting).data
        assert data.startswith(b"#!AMR-WB\n") and (len(data) - 9) % size == 0 and (len(data) - 9) // size == 11
        assert {data[9 + i * size] for i in range(11)} == {codec.MODES.index(setting) << 3 | 4}


def test_a_missing_library_is_named(monkeypatch, librispeech, capsys):
    monkeypatch.setattr(type(BY_NAME["amr-wb"]), "missing", property(lambda self: "libvo-amrwbenc"))
    arguments = ["librispeech", "--root", librispeech, "--limit", 1, "--codec", "amr-wb", "--codec", "opus", "--points", 1]
    assert command.main([str(each) for each in arguments]) == 0
    captured = capsys.readouterr()
    assert "amr-wb left out; it needs libvo-amrwbenc" in captured.err and "amr-wb" not in captured.out


def test_equal_sounds_have_the_best_quality():
    values = metrics.quality(voice(), voice())
    assert values["mel_distance"] == 0 and values["si_sdr"] > 90
    for metric, best in (("pesq_wb", 4.6), ("stoi", 0.999), ("visqol_speech", 4.3)):
        if metric not in metrics.MISSING:
            assert values[metric] > best, metric


def test_metrics_fall_with_noise():
    original, random = voice(), np.random.default_rng(1)
    noise = random.normal(0, 1, original.samples.shape).astype(np.float32)
    levels = [metrics.quality(original, Sound(original.samples + level * noise, 16000)) for level in (0.001, 0.01, 0.1)]
    assert set(levels[0]) & set(metrics.TITLES) == set(metrics.TITLES) - {"visqol_audio"}
    for metric in set(metrics.TITLES) & set(levels[0]):
        values = [quality[metric] for quality in levels]
        assert values == sorted(values, reverse=True) and values[0] > values[2], metric
    assert levels[0]["mel_distance"] < levels[2]["mel_distance"]


@pytest.mark.skipif("visqol_speech" in metrics.MISSING, reason="needs visqol-python[lattice]")
def test_the_two_modes_of_visqol_are_two_metrics():
    for rate, ours, others in ((16000, "visqol_speech", "visqol_audio"), (44100, "visqol_audio", "visqol_speech")):
        values = metrics.quality(voice(1.5, rate), voice(1.5, rate))
        assert values[ours] > 4 and others not in values
    assert curves.published("opus-dac-mixed", KIND).points[0].quality["visqol_audio"] == 2.06


@pytest.mark.skipif("pesq_wb" in metrics.MISSING, reason="needs the package pesq")
def test_a_sound_that_ends_pesq_has_no_score_and_the_next_one_has():
    random = np.random.default_rng(0)
    burst = np.concatenate([random.normal(0, 0.2, 4800), random.normal(0, 1e-6, 4800)]).astype(np.float32)
    choppy = Sound(np.tile(burst, 80)[None], 16000)  # 80 utterances, where the package's C code has room for 50
    worker = pesq_process.PesqProcess()
    before = worker.score(voice().samples[0], voice().samples[0])
    assert before > 4.6
    assert worker.score(choppy.samples[0], choppy.samples[0]) is None and worker.process is None
    assert worker.score(voice().samples[0], voice().samples[0]) == before
    assert worker.score(np.zeros(100, np.float32), np.ones(100, np.float32)) is None and worker.process.poll() is None
    worker.end()
    values = metrics.quality(choppy, choppy)
    assert "pesq_wb" not in values and values["stoi"] > 0.999


def test_si_sdr_by_hand():
    x = voice().samples.astype(np.float64)
    noise = np.random.default_rng(2).normal(size=x.shape)
    noise -= x * (noise * x).sum() / (x * x).sum()  # at right angles
    noise *= np.sqrt((x * x).sum() / (noise * noise).sum()) / 10  # 20 dB below
    decoded = Sound((3 * (x + noise)).astype(np.float32), 16000)
    assert metrics.si_sdr(voice(), decoded) == pytest.approx(20, abs=0.01)


def test_mel_distance_of_a_scaled_sound_is_the_logarithm_of_its_scale():
    loud = Sound(np.random.default_rng(3).normal(0, 0.2, (1, 16000)).astype(np.float32), 16000)
    every_band = metrics.mel_distance(loud, Sound(loud.samples * 10, 16000))
    assert every_band == pytest.approx(7, abs=0.7)  # one for each scale, but for bands without a bin, which are empty in both
    assert every_band <= 7 + 1e-4
    single = metrics._mel(16000, 512, 80)
    x = torch.from_numpy(loud.samples)
    assert torch.allclose(single(10 * x), 10 * single(x), rtol=1e-4)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((1, 16000)),
        np.full((1, 16000), 1e-6),
        np.zeros((1, 10)),
        0.1 * np.ones((1, 1000)),
        0.1 * np.random.default_rng(0).normal(size=(1, 5)),
    ],
    ids=["silence", "almost silence", "short silence", "short", "a few samples"],
)
def test_where_a_metric_is_not_defined_there_is_no_value(samples):
    sound = Sound(samples.astype(np.float32), 16000)
    values = metrics.quality(sound, sound) | metrics.quality(sound, Sound(0 * sound.samples, 16000))
    assert all(math.isfinite(value) for value in values.values())
    assert "pesq_wb" not in values and "stoi" not in values


def test_items_without_a_value_are_counted_and_the_mean_is_over_the_others():
    def file(name: str, quality: dict[str, float]) -> results.File:
        return results.File(name, 100, 8.0, {"mse": 0.01, "power": 1.0}, quality, 0.1, 0.1)

    point = sweep.summarise(KIND, 8.0, [file("a", {"stoi": 0.5}), file("b", {"stoi": 0.7, "pesq_wb": 3.0}), file("c", {"stoi": 0.9})])
    assert point.quality["stoi"] == pytest.approx(0.7) and point.quality["pesq_wb"] == 3.0
    assert point.left_out == {"pesq_wb": 2}
    assert point.quality["snr_of_mean_mse"] == pytest.approx(20)


def test_a_metric_whose_package_is_missing_is_absent_and_named():
    assert set(metrics.DEFINITIONS) == (set(metrics._DEFINED) - set(metrics.MISSING)) | {"snr_of_mean_mse"}
    assert not set(metrics.TITLES) & set(metrics.MISSING)


def test_librispeech_is_measured_with_classical_codecs(librispeech, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["librispeech", "--root", librispeech, "--codec", "opus", "--codec", "mp3", "--points", 2, "--samples", 1, "-o", out]
    arguments += ["--published", "encodec-libritts-clean"]
    assert command.main([str(each) for each in arguments]) == 0
    read = results.load(out / "results.json")
    assert read.dataset.modality == "audio" and read.dataset.rate_unit == "kbps"
    assert read.dataset.protocol == "LibriSpeech test-clean, 3 utterances"
    assert read.dataset.items[0].size == {"samples": 24000, "sampling_rate": 16000, "channels": 1}
    assert [curve.name for curve in read.curves] == ["opus", "mp3", "encodec-libritts-clean"]
    for curve in read.curves[:2]:
        for point in curve.points:
            assert len(point.files) == 3 and point.payload_rate < point.rate
            assert point.rate == pytest.approx(np.mean([file.file_bytes * 8 / 1500 for file in point.files]))
    refused = [each for each in read.comparisons if each.curve == "encodec-libritts-clean"]
    assert refused and all(each.bd_rate is None and "not comparable" in each.note for each in refused)
    assert set(read.definitions) >= {"rate", "si_sdr", "mel_distance"}
    assert "kbps" in (out / "rd.csv").read_text().splitlines()[1]
    assert json.loads((out / "files.jsonl").read_text().splitlines()[0])["file"]["errors"].keys() == {"mse", "power"}
    assert "LibriSpeech" in capsys.readouterr().out and (out / "rd.svg").exists()


def test_every_published_curve_has_a_test_set_a_source_and_points():
    assert {"encodec-librispeech-clean", "opus-librispeech-other-30", "esc-large-esc"} <= set(curves.PUBLISHED["audio"])
    for name in curves.PUBLISHED["audio"]:
        curve = curves.published(name, KIND)
        assert curve.protocol and curve.source and curve.description and curve.points, name
        rates = [point.rate for point in curve.points]
        assert rates == sorted(rates) and all(0.3 < rate < 30 for rate in rates), name
        for point in curve.points:
            assert point.quality and set(point.quality) <= set(metrics._DEFINED), name
            assert 1 <= point.quality.get("pesq_wb", 2) < 4.65 and 0.5 < point.quality.get("stoi", 0.9) <= 1, name


def test_opus_agrees_with_itself_over_file_objects():
    data = BY_NAME["opus"].encode(voice(), 16).data
    assert np.array_equal(read_sound(io.BytesIO(data)).samples, BY_NAME["opus"].decode(data).signal.samples)


def test_real_utterances_are_found(data):
    folder = audio.librispeech_folder(data / "eval")
    assert len(audio.list_sounds(folder)) == 80
    sound = read_sound(audio.list_sounds(folder)[0])
    assert sound.rate == 16000 and sound.samples.shape[0] == 1 and 3 < sound.seconds < 12
