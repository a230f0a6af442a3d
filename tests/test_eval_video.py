"""Measuring video: files are what the encoders write, metrics are what they say, and published curves keep to their protocol."""

import gc
import io
import json
import os
import subprocess
import sys
import weakref
from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from neuralcodec.codecs.base import CodecError
from neuralcodec.datasets import video
from neuralcodec.eval import command, curves, results, sweep
from neuralcodec.eval.classical import CLASSICAL
from neuralcodec.eval.metrics import video as metrics
from neuralcodec.eval.metrics.image import PSNR_OF_EQUAL
from neuralcodec.eval.modalities import Videos
from neuralcodec.eval.results import Item

CODECS = {name: codec for name, codec in CLASSICAL.items() if codec.modality == "video"}


def codec(name: str):
    if CODECS[name].missing:
        pytest.skip(f"needs {CODECS[name].missing}")
    return CODECS[name]


def evaluate(*arguments) -> int:
    return command.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("name", sorted(CODECS))
def test_files_grow_with_quality_and_decode_to_clips_of_the_same_shape(name, moving):
    encoder, clip = codec(name), moving()
    measured = []
    for setting in encoder.spread(3)[:2]:
        file = sweep.measure_file(encoder, Videos(), Item("one", "", {}), clip, setting)
        data = encoder.encode(clip, setting).data
        assert file.file_bytes == len(data)
        assert file.rate == pytest.approx(len(data) * 8 / (6 * 64 * 96))
        measured.append(file)
    assert measured[0].file_bytes < measured[1].file_bytes
    assert measured[0].quality["psnr_yuv611"] < measured[1].quality["psnr_yuv611"]
    assert measured[1].quality["psnr_yuv611"] > 28


@pytest.mark.parametrize("name", sorted(CODECS))
def test_streams_name_matrix_and_range_and_keep_the_depth(name, moving):
    encoder = codec(name)
    for clip in (replace(moving(2), matrix="bt709", full_range=True), moving(2, bits=10)):
        if encoder.refusal({"width": clip.width, "height": clip.height, "bits": clip.bits}):
            assert name == "vp9" and clip.bits == 10
            continue
        decoded = encoder.decode(encoder.encode(clip, encoder.settings[2]).data).signal
        assert (decoded.bits, decoded.matrix, decoded.full_range) == (clip.bits, clip.matrix, clip.full_range)
        assert decoded.y.shape == clip.y.shape and decoded.y.dtype == clip.y.dtype


@pytest.mark.parametrize("name", ["x264", "x265", "svt-av1", "vp9"])
def test_odd_sizes_come_back_or_are_refused(name, moving):
    encoder, clip = codec(name), moving(2, 65, 97)
    if encoder.even:
        with pytest.raises(CodecError, match="even sizes only, not 97×65"):
            encoder.encode(clip, 30)
    else:
        assert encoder.decode(encoder.encode(clip, 30).data).signal.y.shape == (2, 65, 97)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_other_data_is_no_file_of_a_codec(name):
    with pytest.raises(CodecError) as error:
        codec(name).decode(b"this is no video, and never was")
    assert "\n" not in str(error.value)


def test_one_clip_has_one_intra_picture(moving):
    clip = moving(12)
    cut = replace(clip, y=np.concatenate([clip.y[:6], 255 - clip.y[6:]]))  # a scene cut
    for name in ("x264", "x265"):
        data = codec(name).encode(cut, 28).data
        with av.open(io.BytesIO(data), "r", format=CODECS[name].container) as file:
            kinds = [av.video.frame.PictureType(frame.pict_type).name for frame in file.decode(video=0)]
        assert kinds[0] == "I" and kinds.count("I") == 1 and len(kinds) == 12


def test_streams_carry_no_list_of_options(moving):
    for name in ("x264", "x265"):
        data = codec(name).encode(moving(2), 40).data
        assert b"core" not in data and b"x265" not in data and b"keyint" not in data


def test_the_container_of_vp9_is_counted(moving):
    data = codec("vp9").encode(moving(), 40).data
    assert data[:4] == b"DKIF" and CODECS["vp9"].header_bytes(data) == 32 + 12 * 6
    assert CODECS["x264"].header_bytes(b"") == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not let a process choose its cores")
def test_files_do_not_depend_on_the_number_of_cores(raw):
    code = (
        "import os, sys; cores = sorted(os.sched_getaffinity(0))[: int(sys.argv[1])]; os.sched_setaffinity(0, cores);"
        "from neuralcodec.eval.classical import CLASSICAL; from neuralcodec.datasets.video import read_clip; import hashlib;"
        "clip = read_clip(sys.argv[2]);"
        "print([hashlib.sha256(CLASSICAL[name].encode(clip, 32).data).hexdigest() for name in ('x264', 'x265', 'svt-av1', 'vp9')])"
    )
    hashes = [subprocess.run([sys.executable, "-c", code, cores, raw], capture_output=True, check=True).stdout for cores in ("1", "8")]
    assert hashes[0] == hashes[1] != b""


def test_metrics_are_what_they_say(moving):
    clip = moving()
    y, u, v = (plane.astype(int) for plane in (clip.y, clip.u, clip.v))
    y[0] += 4
    y[1] += 2
    u += 3
    other = replace(clip, y=y.astype(np.uint8), u=u.astype(np.uint8), v=v.astype(np.uint8))
    quality, errors = metrics.quality(clip, other), metrics.errors(clip, other)
    psnr = lambda mse: 10 * np.log10(255**2 / mse)  # noqa: E731
    assert quality["psnr_y"] == pytest.approx((psnr(16) + psnr(4) + 4 * PSNR_OF_EQUAL) / 6)
    assert quality["psnr_u"] == pytest.approx(psnr(9)) and quality["psnr_v"] == PSNR_OF_EQUAL
    assert quality["psnr_yuv611"] == pytest.approx((6 * quality["psnr_y"] + quality["psnr_u"] + quality["psnr_v"]) / 8)
    assert errors["y"] == pytest.approx(20 / 6) and errors["u"] == 9 and errors["v"] == 0
    derived = metrics.derived(quality, errors)
    assert derived["psnr_y_of_mean_mse"] == pytest.approx(psnr(20 / 6))
    assert derived["psnr_yuv611_of_mean_mse"] == pytest.approx((6 * psnr(20 / 6) + psnr(9) + PSNR_OF_EQUAL) / 8)
    rgb = np.mean([np.square(clip.rgb(t).astype(float) - other.rgb(t)).mean() for t in range(6)])
    assert errors["rgb_bt601"] == pytest.approx(rgb)
    assert {*quality, *derived} <= {*metrics.DEFINITIONS}


def test_ten_bits_are_measured_on_their_own_scale(moving):
    deep = moving(2, bits=10)
    other = replace(deep, y=deep.y + 4)
    assert metrics.quality(deep, other)["psnr_y"] == pytest.approx(10 * np.log10(1023**2 / 16))
    assert metrics.errors(deep, other)["y"] == pytest.approx(16 * (255 / 1023) ** 2)


def test_rgb_by_different_matrices_are_different_metrics(moving):
    clip = moving(2)
    other = replace(clip, v=clip.v + 5)
    names = [{*metrics.quality(replace(clip, matrix=matrix), other)} for matrix in ("bt601", "bt709")]
    assert names[0] ^ names[1] == {"psnr_rgb_bt601", "psnr_rgb_bt709"}


def test_ms_ssim_needs_large_frames(moving):
    assert "ms_ssim_y" not in metrics.quality(moving(1), moving(1))
    large = moving(1, 176, 208)
    quality = metrics.quality(large, large)
    assert quality["ms_ssim_y"] == pytest.approx(1)
    assert metrics.derived(quality, {})["ms_ssim_y_db"] == PSNR_OF_EQUAL


def test_ms_ssim_of_frames_together_is_their_mean(moving):
    clip = moving(6, 176, 208)
    noisy = replace(clip, y=clip.y + np.random.default_rng(1).integers(0, 9, clip.y.shape).astype(np.uint8))
    one_by_one = [
        float(metrics.ms_ssim(*(torch.from_numpy(each.y[t].astype(np.float32))[None, None] for each in (clip, noisy)), data_range=255))
        for t in range(6)
    ]
    assert metrics.quality(clip, noisy)["ms_ssim_y"] == pytest.approx(np.mean(one_by_one), abs=1e-6)
    assert min(one_by_one) < 0.9999


def test_measuring_keeps_no_clip_alive(moving):
    clip, decoded = moving(2), moving(2, seed=1)
    metrics.quality(clip, decoded)
    errors = metrics.errors(clip, decoded)
    gone = weakref.ref(decoded)
    del decoded
    gc.collect()
    assert gone() is None and metrics.errors(clip, moving(2, seed=1)) == errors


def test_clips_that_differ_are_not_compared(moving):
    with pytest.raises(ValueError, match="clips differ"):
        metrics.quality(moving(2), moving(3))
    with pytest.raises(ValueError, match="clips differ"):
        metrics.quality(moving(2), moving(2, bits=10))


@pytest.fixture(scope="module")
def raw(tmp_path_factory, moving):
    path = tmp_path_factory.mktemp("clips") / "wave_96x64_25fps.yuv"
    video.write_raw(moving(), path)
    return path


def test_a_raw_file_is_measured_by_one_command(raw, tmp_path, capsys):
    arguments = [raw, "--codec", "x264", "--codec", "vp9", "--points", 4, "--samples", 0, "-o", tmp_path]
    assert evaluate(*arguments) == 0
    read = results.load(tmp_path / "results.json")
    assert read.dataset.modality == "video" and read.dataset.rate_unit == "bpp"
    assert read.dataset.items[0].size == {"width": 96, "height": 64, "frames": 6, "bits": 8}
    assert read.dataset.protocol == "wave_96x64_25fps, 1 clip of 96×64, 6 frames"
    x264, vp9 = read.curves
    assert [each.name for each in read.curves] == ["x264", "vp9"] and len(x264.points) == 4
    assert x264.points[0].rate == pytest.approx(x264.points[0].files[0].file_bytes * 8 / (96 * 64 * 6))
    assert vp9.points[0].payload_rate == pytest.approx(vp9.points[0].rate - (32 + 12 * 6) * 8 / (96 * 64 * 6))
    assert "libx264" in json.dumps(x264.details) and "psnr_yuv611" in read.titles
    assert "BD-rate against x264" in capsys.readouterr().out


def test_a_folder_of_clips_is_measured_in_part(raw, tmp_path, moving):
    folder = tmp_path / "clips"
    folder.mkdir()
    for seed in range(2):
        video.write_raw(moving(seed=seed), folder / f"wave{seed}.yuv")
    options = ["--video-size", "96x64", "--pixel-format", "yuv420p", "--fps", 25, "--frames", 2, "--crop", "80x48", "--matrix", "bt709"]
    arguments = ["video", "--root", folder, "--codec", "x264", "--points", 2, "--samples", 0, *options]
    assert evaluate(*arguments, "-o", tmp_path / "out") == 0
    read = results.load(tmp_path / "out" / "results.json")
    assert [item.name for item in read.dataset.items] == ["wave0", "wave1"]
    assert read.dataset.protocol == "video, 2 clips of 80×48, 4 frames"
    assert "psnr_rgb_bt709" in read.curves[0].points[0].quality


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--crop", "98x64"], "98×64 cannot be cut out of 96×64"),
        (["--pixel-format", "rgb24"], "pixel format"),
        (["--video-size", "100x100"], "not a whole number of frames"),
        (["--codec", "jpeg"], "jpeg is a codec of image"),
    ],
)
def test_mistakes_get_one_clear_line(raw, arguments, words, capsys):
    codecs = [] if "--codec" in arguments else ["--codec", "x264"]
    assert evaluate(raw, *codecs, *arguments) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_uvg_without_its_files_says_which_are_missing(raw, capsys):
    assert evaluate("uvg", "--root", raw.parent, "--codec", "x264") == 1
    assert "lacks Beauty, Bosphorus" in capsys.readouterr().err


def test_uvg_is_measured_by_name(tmp_path):
    for name in video.UVG:
        (tmp_path / f"{name}_1920x1080_120fps_420_8bit_YUV.yuv").write_bytes(bytes(range(256)) * (1920 * 1080 * 3 // 2 * 2 // 256))
    arguments = ["uvg", "--root", tmp_path, "--codec", "x264", "--points", 1, "--frames", 1, "--crop", "64x48", "--samples", 0]
    assert evaluate(*arguments, "--published", "vtm-17.0-ldb", "-o", tmp_path / "out") == 0
    read = results.load(tmp_path / "out" / "results.json")
    assert [item.name.split("_")[0] for item in read.dataset.items] == list(video.UVG)
    assert read.dataset.protocol == "uvg, 7 clips of 64×48, 7 frames" and "not comparable" in read.comparisons[0].note


def test_options_of_video_are_refused_with_pictures(tmp_path, capsys):
    from PIL import Image

    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    assert evaluate(tmp_path, "--codec", "jpeg", "--frames", 3) == 1
    assert "--frames is of no use with images" in capsys.readouterr().err


def test_codecs_that_cannot_code_a_clip_are_left_out_by_name(tmp_path, capsys, moving):
    path = tmp_path / "wave_97x65_25fps.yuv"
    video.write_raw(moving(2, 65, 97), path)
    assert evaluate(path, "--codec", "x264", "--codec", "vp9", "--points", 1) == 0
    assert "x264 left out; it codes even sizes only" in capsys.readouterr().err
    assert evaluate(path, "--codec", "x264") == 1


def test_every_published_curve_says_what_it_is_of():
    assert {"vtm-17.0-ldb", "hinerv", "hnerv-boost-bunny", "x265-medium-zerolatency"} <= set(curves.PUBLISHED["video"])
    for name in curves.PUBLISHED["video"]:
        published = curves.published(name, Videos())
        assert published.source and published.description and "clip" in published.protocol and "frames" in published.protocol
        assert [point.rate for point in published.points] == sorted(point.rate for point in published.points)
        for point in published.points:
            assert point.rate > 0 and {*point.quality} <= {*metrics.DEFINITIONS} and {*point.quality} & {*metrics.TITLES}
            assert all(20 < value < 60 for value in point.quality.values())


def test_published_bd_rates_are_those_of_the_literature():
    by = {name: curves.published(name, Videos()) for name in ("vtm-17.0-ra", "hm-18.0-ra", "hinerv", "vct", "x265-medium-vct")}
    assert curves.bd_rate(by["vtm-17.0-ra"], by["hm-18.0-ra"], "psnr_rgb_bt601").bd_rate == pytest.approx(-14.7, abs=0.1)
    assert curves.bd_rate(by["vct"], by["x265-medium-vct"], "psnr_rgb").bd_rate == pytest.approx(-26.9, abs=0.1)


def test_curves_of_other_conversions_or_clips_are_never_compared():
    by = {name: curves.published(name, Videos()) for name in ("vtm-17.0-ldb", "hinerv", "vct", "hnerv-bunny", "vtm-17.0-ldb-hevc-b")}
    assert all(each.bd_rate is None for each in curves.compare([by["hinerv"], by["vct"]], by["vct"], list(metrics.TITLES)))
    assert all(each.bd_rate is None for each in curves.compare([by["hinerv"], by["vtm-17.0-ldb"]], by["hinerv"], list(metrics.TITLES)))
    other = curves.bd_rate(by["vtm-17.0-ldb-hevc-b"], by["vtm-17.0-ldb"], "psnr_yuv611")
    assert other.bd_rate is None and "not comparable" in other.note
    assert "not comparable" in curves.bd_rate(by["hnerv-bunny"], by["hinerv"], "psnr_rgb_bt601").note


def test_bunny_whole_and_bunny_cropped_are_two_tests():
    every = {name: curves.published(name, Videos()) for name in curves.PUBLISHED["video"] if name.endswith("bunny")}
    cropped = {name for name, each in every.items() if "1280×640" in each.protocol}
    assert {name for name in every if "nerv" in name} == {name for name, each in every.items() if "1280×720" in each.protocol}
    assert cropped == set(every) - {name for name in every if "nerv" in name} and len(cropped) == 5
    refused = curves.bd_rate(every["hnerv-boost-bunny"], every["x264-bunny"], "psnr_rgb_bt601")
    assert refused.bd_rate is None and "not comparable" in refused.note and "1280×640" in refused.note
    assert all("HNeRV's own crop to 1280×640" in each.description for name, each in every.items() if "nerv" in name)


def test_uvg_as_published_has_the_protocol_of_its_curves():
    frames = {name: 300 if name == "ShakeNDry" else 600 for name in video.UVG}
    items = [Item(name, "", {"width": 1920, "height": 1080, "frames": count, "bits": 8}) for name, count in frames.items()]
    assert Videos().protocol("uvg", items) == curves.published("vtm-17.0-ldb", Videos()).protocol
    short = [replace(item, size={**item.size, "frames": 96}) for item in items]
    assert Videos().protocol("uvg", short) != Videos().protocol("uvg", items)
    bunny = [Item("bigbuckbunny", "", {"width": 1280, "height": 720, "frames": 132, "bits": 8})]
    assert Videos().protocol("bigbuckbunny.mp4", bunny) == curves.published("hnerv-boost-bunny", Videos()).protocol


def test_an_encoder_leaves_the_priority_of_its_caller_alone(moving):
    if not hasattr(os, "sched_getscheduler"):
        pytest.skip("no scheduling policies on this system")
    before = os.sched_getscheduler(0)
    CODECS["svt-av1"].encode(moving(), 59)
    assert os.sched_getscheduler(0) == before
