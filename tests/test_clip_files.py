"""What goes into and comes out of coded clips besides their frames: times, sound, pictures, sizes that are asked for, fits that go on."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from neuralcodec.cli import main
from neuralcodec.codecs.base import CodecError
from neuralcodec.codecs.fitted import from_spec
from neuralcodec.codecs.image.targets import Target
from neuralcodec.codecs.video import checkpoint, files, outputs, targets
from neuralcodec.codecs.video.fit import Plan
from neuralcodec.codecs.video.fitted import FittedVideo
from neuralcodec.datasets.video import Clip, read_clip
from neuralcodec.entropy import container

GOLDEN = Path(__file__).parent / "golden"
NETWORK = {"class_path": "neuralcodec.codecs.video.hybrid.HybridDecoder", "init_args": {"key": 4, "scales": 3, "block": 8}}
SPEC = {"class_path": "neuralcodec.codecs.video.FittedVideo", "init_args": {"network": NETWORK, "group": 6}}
TIMES = tuple(Fraction(milliseconds, 1000) for milliseconds in (0, 40, 80, 200, 240, 400))


def codec() -> FittedVideo:
    return from_spec(SPEC)


def clip(frames: int = 6, height: int = 48, width: int = 64, times: tuple[Fraction, ...] | None = None) -> Clip:
    """A ball on a slope of grey."""
    rows, columns = np.mgrid[:height, :width]
    made = []
    for frame in range(frames):
        ball = (rows - 20) ** 2 + (columns - 16 - 3 * frame) ** 2 < 90
        made.append(np.where(ball, 210 - rows, 60 + columns + rows // 2).astype(np.uint8))
    chroma = np.full((frames, -(-height // 2), -(-width // 2)), 120, np.uint8)
    return Clip(np.stack(made), chroma, chroma + 9, Fraction(25), matrix="bt601", times=times)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(files, "STEPS", (2,) * 6)


def film(path: Path, times: tuple[Fraction, ...] | None = None, sound: bool = False) -> Path:
    track = None
    if sound:
        import io

        buffer = io.BytesIO()
        with av.open(buffer, "w", format="matroska") as file:
            stream = file.add_stream("pcm_s16le", rate=8000)
            stream.layout = "mono"
            frame = av.AudioFrame.from_ndarray((np.sin(np.arange(1920) / 9) * 9000).astype(np.int16)[None], "s16", "mono")
            frame.sample_rate = 8000
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        track = buffer.getvalue()
    with path.open("wb") as out:
        outputs.write_clip(clip(times=times), out, path.suffix, track)
    return path


def samples(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.concatenate([frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)])


def test_times_that_are_not_steady_come_back(tmp_path: Path, short, capsys):
    source = film(tmp_path / "in.mkv", TIMES)
    assert read_clip(source).times == TIMES
    assert read_clip(source, rate=Fraction(25)).times is None
    coded = tmp_path / "clip.ncv"
    assert main(["encode", str(source), "-o", str(coded)]) == 0
    assert files.decode_clip(coded.read_bytes()).times == TIMES
    part = files.decode_clip(coded.read_bytes(), (2, 5)).times
    assert part == tuple(time - TIMES[2] for time in TIMES[2:5])
    for suffix in (".mkv", ".mp4"):
        assert main(["decode", str(coded), "-o", str(tmp_path / f"out{suffix}")]) == 0
        assert read_clip(tmp_path / f"out{suffix}").times == TIMES
    capsys.readouterr()
    assert main(["decode", str(coded), "-o", str(tmp_path / "out.y4m")]) == 0
    assert "steadily" in capsys.readouterr().err


def test_steady_times_cost_nothing(tmp_path: Path):
    assert read_clip(film(tmp_path / "in.mkv")).times is None
    assert "frame_times" not in container.read(files.encode_clip(codec(), clip(), 30, Plan(steps=1))).extras


@pytest.mark.parametrize("times", [b"no", b"", container.varint(1) * 9])
def test_damaged_times_are_refused(times):
    content = container.read(files.encode_clip(codec(), clip(), 30, Plan(steps=0)))
    extras = {**content.extras, "frame_times": times}
    data = container.write("video", content.fingerprint, content.level, content.size, content.streams, extras)
    with pytest.raises(CodecError, match="times of frames are damaged"):
        files.decode_clip(data)


def test_sound_is_kept_as_it_is(tmp_path: Path, short, capsys):
    source = film(tmp_path / "in.mkv", sound=True)
    coded = tmp_path / "clip.ncv"
    assert main(["encode", str(source), "-o", str(coded), "--audio", "copy"]) == 0
    assert main(["decode", str(coded), "-o", str(tmp_path / "out.mkv")]) == 0
    assert np.array_equal(samples(tmp_path / "out.mkv"), samples(source))
    capsys.readouterr()
    assert main(["decode", str(coded), "-o", str(tmp_path / "out.y4m")]) == 0
    assert "sound is left out" in capsys.readouterr().err
    assert main(["encode", str(source), "-o", str(tmp_path / "x.ncv"), "--audio", "copy", "--frames", "0:3"]) == 1
    assert main(["encode", str(film(tmp_path / "silent.mkv")), "-o", str(tmp_path / "y.ncv"), "--audio", "copy"]) == 0
    assert "no sound" in capsys.readouterr().err


def spoken(path: Path, kind: str = "mp4", late: int = 0) -> Path:
    """A film of two seconds of pictures, and of a rising tone that begins so many milliseconds after them."""
    samples = (np.sin(2 * np.pi * (200 + 100 * np.arange(32000) / 16000) * np.arange(32000) / 16000) * 9000).astype(np.int16)
    with av.open(str(path), "w", format=kind) as file:
        pictures, sound = file.add_stream("libx264", rate=2), file.add_stream("aac", rate=16000)
        pictures.width, pictures.height, pictures.pix_fmt, sound.layout = 64, 48, "yuv420p", "mono"
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 60 * number, np.uint8))
            file.mux(pictures.encode(frame))
        file.mux(pictures.encode(None))
        for begin in range(0, len(samples), 1024):
            block = av.AudioFrame.from_ndarray(samples[None, begin : begin + 1024], "s16", "mono")
            block.sample_rate, block.pts, block.time_base = 16000, begin + 16 * late, Fraction(1, 16000)
            file.mux(sound.encode(block))
        file.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(("suffix", "late"), [(".mkv", 0), (".mp4", 500)])
def test_sound_is_coded_and_comes_back_in_time(tmp_path: Path, short, capsys, suffix, late):
    source, coded = spoken(tmp_path / "in.mkv", "matroska", late), tmp_path / "clip.ncv"
    assert main(["encode", str(source), "-o", str(coded), "--audio", "coded", "--audio-kbps", "2", "-q", "0"]) == 0
    extra = container.read(coded.read_bytes()).extras["coded_sound"]
    assert 8 * len(extra) / (2 + late / 1000) == pytest.approx(2000, rel=0.15)
    assert main(["decode", str(coded), "-o", str(tmp_path / f"out{suffix}")]) == 0
    heard = np.abs(samples(tmp_path / f"out{suffix}").astype(np.float64))
    begin = np.flatnonzero(heard > heard.max() / 4)[0] / 16000
    assert begin == pytest.approx(late / 1000, abs=0.15) and len(heard) / 16000 == pytest.approx(2 + late / 1000, abs=0.2)
    capsys.readouterr()
    assert main(["encode", str(source), "-o", str(tmp_path / "x.ncv"), "--audio", "copy", "--audio-kbps", "2"]) == 1
    assert "--audio coded" in capsys.readouterr().err


def test_clips_become_folders_of_pictures(tmp_path: Path, capsys):
    coded = tmp_path / "clip.ncv"
    coded.write_bytes(files.encode_clip(codec(), clip(), 50, Plan(steps=0)))
    folder = tmp_path / "frames"
    assert main(["decode", str(coded), "-o", str(folder), "--pictures", "--frames", "1:4"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["00000.png", "00001.png", "00002.png"]
    decoded = files.decode_clip(coded.read_bytes())
    assert np.array_equal(np.asarray(Image.open(folder / "00000.png")), decoded.rgb(1))
    assert main(["decode", str(coded), "-o", str(folder), "--pictures"]) == 1
    assert main(["decode", str(coded), "-o", str(folder), "--pictures", "-f"]) == 0
    assert len(list(folder.iterdir())) == 6 and not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_film_of_another_format_is_refused_clearly(tmp_path: Path, capsys):
    path = tmp_path / "in.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24").reformat(format="yuv444p")
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert main(["encode", str(path), "-o", str(tmp_path / "x.ncv")]) == 1
    assert "yuv444p; only 4:2:0 at 8 or 10 bits is read" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "value"), [("bpp", 0.25), ("psnr", 36.0), ("max_bytes", 600)])
def test_sizes_and_qualities_that_are_asked_for_are_met(kind, value):
    grey = clip()
    tinted = grey.y[:, ::2, ::2] // 2 + 60  # a plane of one value is drawn exactly or not, and the mean of decibels jumps
    original = replace(grey, u=tinted, v=255 - tinted)
    hit = targets.encode_to_target(codec(), original, Target(kind, value), Plan(steps=24))
    if kind == "psnr":
        assert targets._psnr(original, files.decode_clip(hit.data)) == pytest.approx(value, abs=0.4)
    else:
        size = value if kind == "max_bytes" else value * original.y.size / 8
        assert 0.85 * size < len(hit.data) <= size * (1 if kind == "max_bytes" else 1.1)
    assert hit.miss is None


def test_targets_out_of_reach_say_what_bounds_them():
    hit = targets.encode_to_target(codec(), clip(), Target("bpp", 50.0), Plan(steps=2))
    assert hit.miss and "out of reach: the highest level" in hit.miss
    with pytest.raises(CodecError, match="the least that this model needs"):
        targets.encode_to_target(codec(), clip(), Target("max_bytes", 40), Plan(steps=2))
    with pytest.raises(CodecError, match="for pictures"):
        targets.encode_to_target(codec(), clip(), Target("ms_ssim", 0.9), Plan(steps=2))


class StoppedError(Exception):
    pass


def stop(at: int, seen: list[int], done: int, of: int, state: str) -> None:
    seen.append(done)
    if done == at:
        raise StoppedError


def test_interrupted_fits_go_on_where_they_were(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0)
    path, plan = tmp_path / "fit.safetensors", Plan(steps=10)
    original = clip(12)  # two groups
    before: list[int] = []
    with pytest.raises(StoppedError):
        files.encode_clip(codec(), original, 40, plan, partial(stop, 16, before), path)
    after: list[int] = []
    data = files.encode_clip(codec(), original, 40, plan, partial(stop, -1, after), path)
    assert after[0] in (15, 16, 17) and after[-1] == 20
    whole = files.encode_clip(codec(), original, 40, plan)
    first, second = container.read(data).streams, container.read(whole).streams
    assert first[:2] == second[:2]  # the group that was done
    assert len(data) == pytest.approx(len(whole), rel=0.05)
    assert files.decode_clip(data).y.shape == original.y.shape
    assert not path.exists()


def test_checkpoints_of_other_fits_are_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0)
    path = tmp_path / "fit.safetensors"
    with pytest.raises(StoppedError):
        files.encode_clip(codec(), clip(), 40, Plan(steps=9), partial(stop, 6, []), path)
    with pytest.raises(CodecError, match="of another fit"):
        files.encode_clip(codec(), clip(), 41, Plan(steps=9), checkpoint=path)
    path.write_bytes(b"nothing")
    with pytest.raises(CodecError, match="no checkpoint"):
        files.encode_clip(codec(), clip(), 40, Plan(steps=9), checkpoint=path)


def test_the_golden_clip_decodes_to_what_it_always_did():
    decoded = files.decode_clip((GOLDEN / "clip.ncv").read_bytes())
    expected = np.load(GOLDEN / "clip.npz")
    content = container.read((GOLDEN / "clip.ncv").read_bytes())
    symbols = files.codec_of(content).decompress(content.streams, content.size[:3], content.level).symbols
    assert all(np.array_equal(symbols[name].numpy(), expected[name]) for name in symbols)
    for plane in "yuv":  # drawn in floating point, which differs by a rounding between machines
        assert np.abs(getattr(decoded, plane).astype(int) - expected[plane]).max() <= 1
    assert decoded.times == TIMES and decoded.matrix == "bt601"


def write_golden() -> None:
    """How they were made, once: not to be made anew when they no longer decode."""
    assert not (GOLDEN / "clip.ncv").exists()
    torch.manual_seed(0)
    data = files.encode_clip(codec(), clip(times=TIMES), 45, Plan(steps=12))
    (GOLDEN / "clip.ncv").write_bytes(data)
    decoded, content = files.decode_clip(data), container.read(data)
    symbols = codec().decompress(content.streams, content.size[:3], content.level).symbols
    planes = {plane: getattr(decoded, plane) for plane in "yuv"}
    np.savez_compressed(GOLDEN / "clip.npz", **planes, **{name: value.numpy().astype(np.int16) for name, value in symbols.items()})
