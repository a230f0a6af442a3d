"""Sounds on the command line: formats in and out, rates, pipes, stretches, damage, and one clear line when something is wrong."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from neuralcodec.cli import main
from neuralcodec.datasets.streamed import SoundWriter

RATE = 16000
PROGRAM = str(Path(sys.executable).with_name("neuralcodec"))


@pytest.fixture
def model(weights) -> str:
    return str(weights("speech"))


@pytest.fixture
def speech(tmp_path, voice) -> Path:
    soundfile.write(tmp_path / "in.wav", voice(30_000).T, RATE)
    return tmp_path / "in.wav"


def refusal(capsys, arguments: list) -> str:
    """The one line on stderr with which a command refuses; no traceback, exit code 1."""
    capsys.readouterr()
    assert main(list(map(str, arguments))) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("neuralcodec "), captured.err
    return lines[0]


def run(*arguments) -> None:
    assert main(list(map(str, arguments))) == 0


def kbps(file: Path, seconds: float) -> float:
    return file.stat().st_size * 8 / seconds / 1000


def test_a_sound_becomes_a_file_and_comes_back(tmp_path, speech, model):
    run("encode", speech, "-m", model)
    assert (tmp_path / "in.nca").read_bytes()[:6] == b"\x8eNC\n\x03\x02"
    for suffix in ("wav", "flac"):
        run("decode", tmp_path / "in.nca", "-m", model, "-o", tmp_path / f"out.{suffix}")
        info = soundfile.info(tmp_path / f"out.{suffix}")
        assert (info.frames, info.samplerate, info.channels, info.subtype) == (30_000, RATE, 1, "PCM_16")
    assert np.array_equal(soundfile.read(tmp_path / "out.wav")[0], soundfile.read(tmp_path / "out.flac")[0])


FORMATS = {  # name: libsndfile's subtype
    **{f"{subtype.lower()}.wav": subtype for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW")},
    **{"16.flac": "PCM_16", "24.flac": "PCM_24", "8.flac": "PCM_S8", "x.ogg": "VORBIS", "16.aiff": "PCM_16"},
}


def test_files_of_many_formats_come_in(tmp_path, voice, model):
    """What differs is their precision, not their sound: those of 16 bits or more make nearly the same file."""
    x = voice(8000, 2, 22050)
    for name, subtype in FORMATS.items():
        soundfile.write(tmp_path / name, x.T, 22050, subtype)
    sizes = []
    for name in FORMATS:
        run("encode", tmp_path / name, "-m", model, "-o", tmp_path / "x.nca", "-f")
        sizes.append((tmp_path / "x.nca").stat().st_size)
    run("decode", tmp_path / "x.nca", "-m", model, "-o", tmp_path / "y.wav")
    info = soundfile.info(tmp_path / "y.wav")
    assert (info.frames, info.samplerate, info.channels) == (8000, 22050, 2)
    assert max(sizes) < 1.2 * min(sizes)


def write_by_ffmpeg(path: Path, x: np.ndarray, rate: int, codec: str) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(x, format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        resampler = av.AudioResampler(stream.format, stream.layout, rate, frame_size=stream.codec_context.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))


@pytest.mark.parametrize(("name", "codec"), [("x.m4a", "aac"), ("x.mp3", "libmp3lame"), ("x.opus", "libopus"), ("x.flac", "flac")])
def test_compressed_files_come_in(tmp_path, voice, model, name, codec):
    rate = 48000
    write_by_ffmpeg(tmp_path / name, voice(24_000, 1, rate), rate, codec)
    run("encode", tmp_path / name, "-m", model)
    run("decode", tmp_path / "x.nca", "-m", model, "-o", tmp_path / "y.wav")
    info = soundfile.info(tmp_path / "y.wav")
    assert info.samplerate == rate and 24_000 <= info.frames <= 24_000 + 2 * 1152 + 1024


def test_surround_sound_is_coded_channel_by_channel(tmp_path, voice, model):
    soundfile.write(tmp_path / "x.wav", voice(9000, 6, 48000).T, 48000)
    run("encode", tmp_path / "x.wav", "-m", model)
    run("decode", tmp_path / "x.nca", "-m", model, "-o", tmp_path / "y.flac")
    info = soundfile.info(tmp_path / "y.flac")
    assert (info.frames, info.samplerate, info.channels) == (9000, 48000, 6)


def test_samples_that_are_not_finite_are_refused(tmp_path, voice, model, capsys):
    x = voice(9000)
    x[0, 5000] = np.nan
    soundfile.write(tmp_path / "x.wav", x.T, RATE, "FLOAT")
    assert "not finite" in refusal(capsys, ["encode", tmp_path / "x.wav", "-m", model])
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]


@pytest.mark.parametrize("content", ["empty", "no samples", "text", "a picture", "cut off"])
def test_what_is_no_sound_is_refused(tmp_path, speech, model, capsys, content):
    path = tmp_path / "x.wav"
    if content == "no samples":
        soundfile.write(path, np.zeros((0, 1)), RATE)
    elif content == "a picture":
        Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(path)
    else:
        path.write_bytes({"empty": b"", "text": b"this is a text\n" * 50, "cut off": speech.read_bytes()[:20]}[content])
    assert "x.wav" in refusal(capsys, ["encode", path, "-m", model])
    assert not (tmp_path / "x.nca").exists()


@pytest.mark.parametrize("aim", [0.7, 1.5, 2.5])
def test_a_rate_is_met_within_a_percent(tmp_path, voice, model, capsys, aim):
    soundfile.write(tmp_path / "x.wav", voice(5 * RATE).T, RATE)
    run("encode", tmp_path / "x.wav", "-m", model, "-b", aim)
    assert kbps(tmp_path / "x.nca", 5) == pytest.approx(aim, rel=0.01) or "this codec gives here" in capsys.readouterr().err


def test_rates_out_of_reach_are_said_to_be(tmp_path, speech, model, capsys):
    for aim, word in ((0.01, "lowest"), (100, "highest")):
        run("encode", speech, "-m", model, "-b", aim, "-f")
        assert word in capsys.readouterr().err
    assert "positive" in refusal(capsys, ["encode", speech, "-m", model, "-b", "-1", "-f"])
    assert "between 0 and 100" in refusal(capsys, ["encode", speech, "-m", model, "-q", "101", "-f"])


def test_pipes_carry_sounds_and_files(tmp_path, speech, model):
    """The real program, through real pipes; what goes through them is what files hold."""
    run("encode", speech, "-m", model, "-q", "60")
    piped = subprocess.run([PROGRAM, "encode", "-", "-o", "-", "-m", model, "-q", "60"], input=speech.read_bytes(), capture_output=True)
    assert (piped.returncode, piped.stderr) == (0, b"")
    assert piped.stdout == (tmp_path / "in.nca").read_bytes()
    run("decode", tmp_path / "in.nca", "-m", model, "-o", tmp_path / "out.wav")
    expected = soundfile.read(tmp_path / "out.wav")[0]
    decoded = subprocess.run([PROGRAM, "decode", "-", "-m", model], input=piped.stdout, capture_output=True)
    assert (decoded.returncode, decoded.stderr) == (0, b"")
    samples = np.frombuffer(decoded.stdout[44:], "<i2") / 32768
    assert np.array_equal(samples, expected)
    assert decoded.stdout[:4] == b"RIFF" and struct.unpack("<I", decoded.stdout[40:44])[0] > 2 * len(samples), "as long as there is"
    refused = subprocess.run([PROGRAM, "decode", "-", "-m", model], input=piped.stdout[:-1], capture_output=True)
    assert refused.returncode == 1 and len(refused.stderr.decode().strip().splitlines()) == 1


class Pipe(io.RawIOBase):
    """What can only be read forward."""

    def __init__(self, data: bytes):
        self.data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return self.data.readinto(buffer)


class Standard:
    """A standard stream of so many bytes."""

    def __init__(self, buffer):
        self.buffer = buffer

    def isatty(self) -> bool:
        return False


def through(monkeypatch, data: bytes, *arguments) -> bytes:
    """What a command writes to standard output when it reads that."""
    out = io.BytesIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", Standard(io.BufferedReader(Pipe(data))))
        patched.setattr(sys, "stdout", Standard(out))
        run(*arguments)
    return out.getvalue()


@pytest.mark.parametrize("name", ["pcm_24.wav", "float.wav", "16.flac", "endless.wav"])
def test_formats_come_through_pipes(tmp_path, voice, model, monkeypatch, name):
    x = voice(12_000, 2, 8000)
    path = tmp_path / name
    if name == "endless.wav":
        file = io.BytesIO()
        with SoundWriter(file, 8000, 2, pipe=True) as writer:
            writer.write(x)
        path.write_bytes(file.getvalue())
    else:
        soundfile.write(path, x.T, 8000, FORMATS[name])
    coded = through(monkeypatch, path.read_bytes(), "encode", "-", "-m", model)
    decoded = through(monkeypatch, coded, "decode", "-", "-m", model, "-o", "-")
    assert len(decoded) == 44 + 12_000 * 2 * 2
    assert struct.unpack("<HI", decoded[22:28]) == (2, 8000)


def test_a_rate_is_met_through_pipes(voice, model, monkeypatch):
    file = io.BytesIO()
    soundfile.write(file, voice(5 * RATE).T, RATE, "PCM_16", format="WAV")
    coded = through(monkeypatch, file.getvalue(), "encode", "-", "-m", model, "-b", "1.5")
    assert len(coded) * 8 / 5000 == pytest.approx(1.5, rel=0.01)


def test_a_pipe_is_told_how_long_a_stretch_of_a_file_is(tmp_path, speech, model, monkeypatch):
    run("encode", speech, "-m", model)
    for edges, seconds in (((), 1.875), (("--from", "0.5"), 1.375), (("--from", "0.5", "--to", "1.25"), 0.75), (("--to", "9"), 1.875)):
        decoded = through(monkeypatch, b"", "decode", tmp_path / "in.nca", "-m", model, "-o", "-", *edges)
        info = soundfile.info(io.BytesIO(decoded))
        assert info.frames == seconds * RATE == struct.unpack("<I", decoded[40:44])[0] / 2


def test_a_stretch_is_that_of_the_whole(tmp_path, speech, model, capsys):
    run("encode", speech, "-m", model)
    run("decode", tmp_path / "in.nca", "-m", model, "-o", tmp_path / "whole.wav")
    run("decode", tmp_path / "in.nca", "-m", model, "-o", tmp_path / "part.wav", "--from", "0:01", "--to", "0:0:1.5")
    whole, part = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("whole", "part"))
    assert len(part) == RATE // 2
    np.testing.assert_allclose(part, whole[RATE : RATE + RATE // 2], atol=1.5 / 32768)
    assert "ends before 9 seconds" in refusal(capsys, ["decode", tmp_path / "in.nca", "-m", model, "-o", tmp_path / "x.wav", "--from", "9"])
    assert "nothing between" in refusal(
        capsys, ["decode", tmp_path / "in.nca", "-m", model, "-o", tmp_path / "x.wav", "--from", "1", "--to", "1"]
    )
    assert not (tmp_path / "x.wav").exists()
    with pytest.raises(SystemExit):
        main(["decode", str(tmp_path / "in.nca"), "--from", "later"])


def test_damage_is_an_error_or_said_and_concealed(tmp_path, speech, model, capsys):
    run("encode", speech, "-m", model)
    data = bytearray((tmp_path / "in.nca").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "in.nca").write_bytes(data)
    command = ["decode", tmp_path / "in.nca", "-m", model, "-o", tmp_path / "out.wav"]
    assert "damaged" in refusal(capsys, command)
    assert not (tmp_path / "out.wav").exists()
    for how in ("fade", "silence"):
        run(*command, "--conceal", how, "-f")
        assert "damaged from" in capsys.readouterr().err
        assert soundfile.info(tmp_path / "out.wav").frames == 30_000
    run(*command, "--conceal", "-f")


def test_what_is_cut_off_is_said_to_be(tmp_path, speech, model, capsys):
    run("encode", speech, "-m", model)
    data = (tmp_path / "in.nca").read_bytes()
    (tmp_path / "in.nca").write_bytes(data[: len(data) // 2])
    assert "truncated" in refusal(capsys, ["decode", tmp_path / "in.nca", "-m", model, "-o", tmp_path / "out.wav"])
    run("decode", tmp_path / "in.nca", "-m", model, "-o", tmp_path / "out.wav", "--conceal")
    assert "the end is missing" in capsys.readouterr().err
    assert 5000 < soundfile.info(tmp_path / "out.wav").frames < 20_000


def test_folders_of_pictures_and_sounds_need_codecs_for_both(tmp_path, voice, weights, capsys):
    source = tmp_path / "mixed"
    (source / "deep").mkdir(parents=True)
    soundfile.write(source / "a.wav", voice(4000).T, RATE)
    soundfile.write(source / "deep" / "b.flac", voice(4000).T, RATE)
    Image.new("RGB", (16, 16)).save(source / "c.png")
    Image.new("RGB", (16, 16)).save(source / "d.png")

    def found(folder: str) -> list[str]:
        return sorted(str(path.relative_to(tmp_path / folder)) for path in (tmp_path / folder).rglob("*") if path.is_file())

    line = refusal(capsys, ["encode", source, "-o", f"{tmp_path}/coded/", "-m", weights("speech")])
    assert "c.png" in line and "codes audio, not image" in line
    assert found("coded") == ["a.nca", "deep/b.nca"]
    line = refusal(capsys, ["encode", source, "-o", f"{tmp_path}/coded/", "-m", weights("mean-scale")])
    assert "a.wav" in line and "codes image, not audio" in line
    assert found("coded") == ["a.nca", "c.nci", "d.nci", "deep/b.nca"]
    capsys.readouterr()
    assert main(["decode", f"{tmp_path}/coded", "-o", f"{tmp_path}/back/", "-m", str(weights("speech"))]) == 1
    assert found("back") == ["a.wav", "deep/b.wav"]


def test_options_of_the_other_modality_are_refused(tmp_path, speech, model, weights, capsys):
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png")
    for option in (["--bpp", 1], ["--psnr", 30], ["--max-bytes", 900], ["--effort", 2], ["--roi", "x.png"], ["--ms-ssim", 0.9]):
        assert f"{option[0]} is for pictures" in refusal(capsys, ["encode", speech, "-m", model, *option])
    assert "--kbps is for sounds" in refusal(capsys, ["encode", tmp_path / "x.png", "-m", weights("mean-scale"), "-b", 3])
    run("encode", tmp_path / "x.png", "-m", weights("mean-scale"))
    for option in (["--from", 1], ["--to", 1], ["--conceal"]):
        assert f"{option[0]} is for sounds" in refusal(capsys, ["decode", tmp_path / "x.nci", "-m", weights("mean-scale"), *option, "-f"])
    assert "codes image, not audio" in refusal(capsys, ["encode", speech, "-m", weights("mean-scale")])
    assert not (tmp_path / "in.nca").exists()


def test_existing_missing_and_unwritable_files_are_named(tmp_path, speech, model, capsys):
    assert "nowhere.wav" in refusal(capsys, ["encode", tmp_path / "nowhere.wav", "-m", model])
    assert "nowhere.nca" in refusal(capsys, ["decode", tmp_path / "nowhere.nca", "-m", model])
    run("encode", speech, "-m", model)
    before = (tmp_path / "in.nca").read_bytes()
    assert "-f" in refusal(capsys, ["encode", speech, "-m", model, "-q", 0])
    assert (tmp_path / "in.nca").read_bytes() == before
    assert "-f" in refusal(capsys, ["decode", tmp_path / "in.nca", "-m", model])
    run("encode", speech, "-m", model, "-q", 0, "-f")
    assert len((tmp_path / "in.nca").read_bytes()) < len(before)
    assert ".mp3" in refusal(capsys, ["decode", tmp_path / "in.nca", "-m", model, "-o", tmp_path / "y.mp3"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.nca", "in.wav"]


def test_what_flac_cannot_hold_is_refused(tmp_path, voice, model, capsys):
    soundfile.write(tmp_path / "x.wav", voice(3000, 10).T, RATE)
    run("encode", tmp_path / "x.wav", "-m", model)
    line = refusal(capsys, ["decode", tmp_path / "x.nca", "-m", model, "-o", tmp_path / "y.flac"])
    assert "FLAC files cannot hold 10 channels" in line and not (tmp_path / "y.flac").exists()


def test_info_reports_the_header(tmp_path, speech, model, capsys):
    run("encode", speech, "-m", model, "-q", 40)
    capsys.readouterr()
    run("info", tmp_path / "in.nca", "--json")
    report = json.loads(capsys.readouterr().out)
    assert (report["modality"], report["samples"], report["sampling_rate"], report["channels"]) == ("audio", 30_000, RATE, 1)
    assert (report["version"], report["level"]) == (3, 25.25)
    assert report["kbps"] == pytest.approx(kbps(tmp_path / "in.nca", 30_000 / RATE), abs=1e-4)
    assert report["bytes"] == report["header_bytes"] + sum(report["stream_bytes"])


def test_info_of_a_header_that_makes_no_sense_is_no_traceback(tmp_path, capsys):
    from neuralcodec.entropy import segments

    (tmp_path / "x.nca").write_bytes(segments.write(segments.Header(bytes(4), 1.0, 0, 0, 0), [b"x"], 0))
    run("info", tmp_path / "x.nca")
    assert "sampling_rate" in capsys.readouterr().out
