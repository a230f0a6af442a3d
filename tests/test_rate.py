"""Rate control, encoder effort and regions of interest: files that meet a target, and better ones for the same decoder."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import neuralcodec
from neuralcodec.cli import main
from neuralcodec.codecs.base import Codec, CodecError
from neuralcodec.codecs.image import effort, regions, targets
from neuralcodec.codecs.image.files import as_picture, decode_picture, encode_picture, encode_to_target
from neuralcodec.codecs.rate import RATE_TOLERANCE, Trial, find_level
from neuralcodec.entropy.models import GaussianConditional
from neuralcodec.eval.metrics.image import mse, psnr_of_mse, quality

KINDS = ("mean-scale", "scale", "factorized", "quadtree", "uneven-groups", "autoregressive")


@pytest.fixture
def pixels(picture) -> np.ndarray:
    return (picture(96, 128)[0] * 255).byte().permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def trained() -> Codec:
    return neuralcodec.load()


def found(values: list[float], target: float, ceiling: bool = False, start: float = 10, slope: float = 0.05):
    """A search over measured values, one for every quarter of a level."""
    levels = (len(values) - 1) // 4 + 1
    return find_level(lambda level: Trial(values[round(level * 4)], level), target, levels, start, slope, RATE_TOLERANCE, ceiling)


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=120).map(lambda steps: list(np.cumsum(steps))[: (len(steps) - 1) // 4 * 4 + 1]),
    st.floats(-8, 8),
    st.booleans(),
    st.floats(-100, 100),
    st.floats(1e-3, 1),
)
@settings(max_examples=200, deadline=None)
def test_search_ends_on_any_sequence_of_sizes(values, target, ceiling, start, slope):
    result = found(values, target, ceiling, start, slope)
    assert result.value == values[round(result.level * 4)] and result.payload == result.level
    assert result.trials <= len(values)


@given(st.floats(-0.5, 0.5), st.floats(0.02, 0.08), st.floats(-0.3, 0.3), st.floats(-1, 4), st.booleans())
@settings(max_examples=200, deadline=None)
def test_search_finds_the_best_quarter_of_a_smooth_curve_in_few_trials(offset, slope, bend, target, ceiling):
    values = [offset + slope * q / 4 + bend * math.sin(math.pi * q / 252) * slope * 8 for q in range(253)]
    values.sort()
    result = found(values, target, ceiling, start=30, slope=0.046)
    reachable = [value for value in values if value <= target] if ceiling else values
    if not reachable:
        assert result.bound == "lowest" and result.level == 0
        return
    best = min(abs(target - value) for value in reachable)
    assert abs(target - result.value) <= max(best, (2 if ceiling else 1) * RATE_TOLERANCE) + 1e-9
    assert not (ceiling and result.value > target)
    assert result.trials <= 7


def test_search_says_which_end_of_the_range_bounds_it():
    values = list(np.linspace(0, 3, 61))
    assert found(values, 9).bound == "highest" and found(values, -1).bound == "lowest" and found(values, 1.5).bound is None
    assert found(values, -1).level == 0 and found(values, 9).level == 15
    assert found(values, 9, ceiling=True).bound == "highest"


def test_a_codec_of_one_level_takes_one_trial():
    assert found([1.0], 5).trials == 1


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_rate_targets_are_hit(small, pixels, share):
    codec = small("mean-scale")
    ends = [len(encode_picture(codec, as_picture(pixels), level)) for level in (0, 63)]
    target = ends[0] ** (1 - share) * ends[1] ** share
    count = pixels.shape[0] * pixels.shape[1]
    hit = encode_to_target(codec, as_picture(pixels), targets.Target("bpp", target * 8 / count))
    assert abs(len(hit.data) / target - 1) < 0.02 and hit.miss is None  # streams end at whole words, 0.3 % of so small a file
    assert hit.found.trials <= 6
    below = encode_to_target(codec, as_picture(pixels), targets.Target("max_bytes", round(target)))
    assert 0.96 < len(below.data) / round(target) <= 1


def test_quality_targets_are_hit(trained, picture):
    pixels = (picture(192, 200)[0] * 255).byte().permute(1, 2, 0).numpy()
    ends = [quality(pixels, decode_picture(encode_picture(trained, as_picture(pixels), level)).pixels) for level in (20, 45)]
    for kind, name, tolerance in (("psnr", "psnr_rgb", 0.06), ("ms_ssim", "ms_ssim_rgb", 0.0005)):
        target = (ends[0][name] + ends[1][name]) / 2
        hit = encode_to_target(trained, as_picture(pixels), targets.Target(kind, target))
        assert abs(quality(pixels, decode_picture(hit.data).pixels)[name] - target) < tolerance
        assert hit.found.trials <= 6 and hit.miss is None


def test_ms_ssim_in_decibels_is_the_same_target(small, picture):
    pixels = (picture(192, 170)[0] * 255).byte().permute(1, 2, 0).numpy()
    codec = small("mean-scale")
    one, other = (encode_to_target(codec, as_picture(pixels), targets.Target("ms_ssim", value)).data for value in (0.9, 10.0))
    assert one == other


def test_targets_out_of_range_give_the_nearest_file_and_say_so(small, pixels):
    codec = small("mean-scale")
    picture = as_picture(pixels)
    for kind, value, level in (("bpp", 1000.0, 63), ("bpp", 1e-4, 0), ("psnr", 98.0, 63), ("psnr", 0.1, 0)):
        hit = encode_to_target(codec, picture, targets.Target(kind, value))
        assert "out of reach" in hit.miss and hit.data == encode_picture(codec, picture, level)
    assert encode_to_target(codec, picture, targets.Target("max_bytes", 10**9)).data == encode_picture(codec, picture, 63)
    with pytest.raises(CodecError, match="max-bytes 30"):
        encode_to_target(codec, picture, targets.Target("max_bytes", 30))


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_senseless_targets_are_refused(small, pixels, value):
    for kind in ("bpp", "max_bytes", "psnr", "ms_ssim"):
        with pytest.raises(CodecError):
            encode_to_target(small("mean-scale"), as_picture(pixels[:32, :32]), targets.Target(kind, value))


def test_transparent_and_deep_pictures_meet_targets(small, pixels):
    codec = small("mean-scale")
    opacity = np.zeros_like(pixels[..., :1])
    opacity[20:60, 20:80] = 255
    for image in (np.concatenate((pixels, opacity), -1), pixels.astype(np.uint16) * 257, pixels[..., 0]):
        size = len(encode_picture(codec, as_picture(image), 30))
        hit = encode_to_target(codec, as_picture(image), targets.Target("max_bytes", size))
        assert 0.9 * size < len(hit.data) <= size
        assert encode_to_target(codec, as_picture(image), targets.Target("psnr", 20)).found.value > 0


@pytest.mark.parametrize("kind", KINDS)
def test_effort_lowers_rate_and_distortion_together(small, picture, kind):
    """And the file decodes to the symbols that were coded, like any other."""
    codec, x = small(kind), picture(64, 64)
    plain, refined = codec.compress(x, 30), effort.compress(codec, x, 30, 10)
    before, after = (effort.cost(codec, x, coded, 30) for coded in (plain, refined))
    assert after <= before
    if kind in ("mean-scale", "quadtree"):
        assert after < before
    decoded = codec.decompress(refined.streams, (64, 64), 30)
    assert all(torch.equal(refined.symbols[name], decoded.symbols[name]) for name in refined.symbols)


def test_effort_gives_the_same_bytes_each_time_and_leaves_the_codec_alone(small, picture):
    codec, x = small("mean-scale"), picture(64, 64)
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    first, second = (effort.compress(codec, x, 30, 5).streams for _ in range(2))
    assert first == second
    assert not codec.training and all(parameter.grad is None for parameter in codec.parameters())
    assert all(torch.equal(value, before[name]) for name, value in codec.state_dict().items())


def test_effort_reports_each_step(small, pixels):
    told = []
    encode_picture(small("mean-scale"), as_picture(pixels[:64, :64]), 30, effort=1, report=lambda *state: told.append(state))
    assert [done for done, of, _ in told] == list(range(1, effort.STEPS[1] + 1))
    assert "bpp" in told[-1][2] and "dB" in told[-1][2]


def test_weights_round_more_to_zero_where_errors_count_less():
    model = GaussianConditional()
    model.build_tables()
    residual = torch.linspace(-4, 4, 81).repeat(2, 1)
    index = torch.full(residual.shape, 20)
    weight = torch.tensor([[1.0], [1 / 64]])
    full, light = model.round(residual, index, weight).abs().sum(1)
    assert light < full
    assert torch.equal(model.round(residual, index, torch.ones(2, 1)).abs() <= residual.abs().round(), torch.ones(2, 81, dtype=torch.bool))


@pytest.mark.parametrize("share", [0, 1])
def test_region_of_interest_is_better_at_equal_bytes(trained, picture, share):
    """With and without effort."""
    pixels = (picture(128, 192)[0] * 255).byte().permute(1, 2, 0).numpy()
    mask = np.zeros((128, 192), np.uint8)
    mask[48:96, 32:80] = 255
    plain = encode_picture(trained, as_picture(pixels), 25, effort=share)
    hit = encode_to_target(trained, as_picture(pixels), targets.Target("max_bytes", len(plain)), share, mask=mask)
    assert len(hit.data) <= len(plain)

    def psnr(data: bytes) -> float:
        return psnr_of_mse(mse(decode_picture(data).pixels[mask == 255], pixels[mask == 255]))

    assert psnr(hit.data) > psnr(plain) + 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_saves_bytes_and_symbols_come_back(small, picture, kind):
    codec, x = small(kind), picture(128, 96)
    mask = np.zeros((128, 96), np.uint8)
    mask[:64] = 255
    plain, light = codec.compress(x, 30), codec.compress(x, 30, regions.on_grid(regions.weights(mask), codec))
    sizes = [sum(map(len, coded.streams)) for coded in (light, plain)]
    assert sizes[0] < sizes[1] or (kind == "factorized" and sizes[0] == sizes[1])  # its untrained densities are flat: nothing to save
    decoded = codec.decompress(light.streams, (128, 96), 30)
    assert all(torch.equal(light.symbols[name], decoded.symbols[name]) for name in light.symbols)


def test_region_of_interest_works_in_tiles(small, picture):
    codec = small("mean-scale")
    pixels = (picture(150, 210)[0] * 255).byte().permute(1, 2, 0).numpy()
    mask = np.zeros((150, 210), np.uint8)
    mask[:64, :64] = 255  # one tile
    files = [encode_picture(codec, as_picture(pixels), 30, tile=64, whole=1, mask=each) for each in (None, mask)]
    assert len(files[1]) < len(files[0])
    assert encode_picture(codec, as_picture(pixels), 30, tile=64, whole=1, mask=mask, workers=3) == files[1]


def test_white_masks_weigh_everything_and_small_ones_are_scaled():
    assert torch.equal(regions.weights(np.full((4, 4), 255, np.uint8)), torch.ones(1, 1, 4, 4))
    assert float(regions.weights(np.zeros((1, 1), np.uint8))) == pytest.approx(regions.BACKGROUND)
    assert regions.fitted(np.full((3, 5), 255, np.uint8), 40, 70).shape == (40, 70)
    for wrong in (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), np.zeros((0, 4), np.uint8)):
        with pytest.raises(CodecError, match="mask"):
            regions.fitted(wrong, 4, 4)


def test_effort_and_masks_are_refused_where_they_cannot_help(small, pixels):
    with pytest.raises(CodecError, match="effort"):
        encode_picture(small("mean-scale"), as_picture(pixels), 30, effort=9)
    with pytest.raises(CodecError, match="whole"):
        encode_picture(small("mean-scale"), as_picture(pixels), 30, effort=1, tile=64, whole=1)


def test_api_takes_one_target(weights, pixels):
    model = weights("mean-scale")
    size = len(neuralcodec.encode(pixels, 40, model))
    assert len(neuralcodec.encode(pixels, model=model, max_bytes=size)) <= size
    with pytest.raises(CodecError, match="both"):
        neuralcodec.encode(pixels, model=model, bpp=1, psnr=30)
    with pytest.raises(CodecError, match="both"):
        neuralcodec.encode(pixels, 40, model, bpp=1)
    with pytest.warns(UserWarning, match="out of reach"):
        neuralcodec.encode(pixels, model=model, psnr=98)


def test_command_line_takes_targets_effort_and_masks(tmp_path, weights, pixels, capsys):
    model = str(weights("mean-scale"))
    source, mask, target = tmp_path / "x.png", tmp_path / "mask.png", tmp_path / "x.nci"
    Image.fromarray(pixels).save(source)
    Image.fromarray(np.full((20, 20), 255, np.uint8)).convert("RGB").save(mask)

    def encode(*options: str) -> int:
        return main(["encode", str(source), "-f", "-m", model, *options])

    assert encode("-q", "50") == 0
    size = target.stat().st_size
    assert encode("--max-bytes", str(size), "--effort", "1", "--roi", str(mask)) == 0
    assert target.stat().st_size <= size
    assert "scaled from 20×20 to 128×96" in capsys.readouterr().err
    assert encode("--bpp", "500") == 0
    assert "out of reach" in capsys.readouterr().err
    main(["info", str(target), "--json"])
    assert json.loads(capsys.readouterr().out)["level"] == 63
    kept = target.read_bytes()
    for wrong in (("--max-bytes", "30"), ("--psnr", "-3"), ("--effort", "9"), ("--roi", str(tmp_path / "none.png")), ("--ms-ssim", "0.9")):
        assert encode(*wrong) == 1
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert target.read_bytes() == kept
