"""Pictures in tiles: the same pixels as whole ones, the same bytes for any number of threads, and nothing from hostile grids."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from neuralcodec import cli
from neuralcodec.codecs.base import CodecError
from neuralcodec.codecs.image import tiles, transforms
from neuralcodec.codecs.image.files import as_picture, decode_picture, encode_picture
from neuralcodec.entropy import container

LEVEL = 40.0
KINDS = ["mean-scale", "mean-scale-gdn", "factorized", "quadtree"]


def taking(x: torch.Tensor):
    return lambda box: x[..., box.top : box.bottom, box.left : box.right]


def together(parts: list[torch.Tensor], grid: tiles.Grid) -> torch.Tensor:
    """Latents of all tiles as one."""
    return torch.cat([torch.cat(parts[start : start + grid.columns], -1) for start in range(0, grid.count, grid.columns)], -2)


@pytest.fixture
def pixels(picture) -> np.ndarray:
    return (picture(150, 210)[0] * 255).byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width", "side"), [(200, 330, 64), (130, 70, 64), (64, 400, 128)])
@torch.inference_mode()
def test_latents_and_pixels_are_those_of_the_whole_picture(small, picture, monkeypatch, kind, height, width, side):
    """What is coded for each tile is the whole picture's latent, and the whole ŷ gives the pixels that the tiles give."""
    codec, x = small(kind), picture(height, width)
    grid, at = tiles.Grid(height, width, side), torch.tensor([LEVEL])
    seen = []
    original = type(codec).code_latent

    def watch(self, y, level, *choices):
        seen.append(y)
        return original(self, y, level, *choices)

    with monkeypatch.context() as patch:
        patch.setattr(type(codec), "code_latent", watch)
        streams = tiles.encode(codec, taking(x), LEVEL, grid, workers=1)
    assert len(seen) == grid.count
    assert torch.allclose(together(seen, grid), codec.analyse(x, at), atol=1e-3)

    out = torch.full_like(x, torch.nan)
    tiles.decode(codec, streams, LEVEL, grid, lambda box, part: out[(..., *box.slices)].copy_(part), workers=1)
    per_tile = len(codec.streams)
    latents = [codec.decode_latent(streams[i * per_tile : (i + 1) * per_tile], *y.shape[-2:], at).y_hat for i, y in enumerate(seen)]
    y_hat = together(latents, grid)
    assert torch.allclose(out, codec.synthesise(y_hat, at, height, width), atol=1e-4)


@pytest.mark.parametrize("kind", ["mean-scale", "uneven-groups"])
def test_bytes_and_pixels_are_equal_for_any_number_of_threads(small, weights, pixels, kind):
    files = {workers: encode_picture(small(kind), as_picture(pixels), LEVEL, tile=64, whole=1, workers=workers) for workers in (1, 2, 4)}
    assert files[1] == files[2] == files[4]
    first, second = (decode_picture(files[1], [weights(kind)], workers=workers).pixels for workers in (1, 4))
    assert np.array_equal(first, second)


def test_no_seam_is_larger_than_elsewhere(small, weights, pixels):
    """The error of the columns and rows along the tiles' borders is the error of all others."""
    decoded = decode_picture(
        encode_picture(small("mean-scale"), as_picture(pixels), LEVEL, tile=64, whole=1), [weights("mean-scale")]
    ).pixels
    error = np.abs(decoded.astype(float) - pixels)
    columns, rows = error.mean((0, 2)), error.mean((1, 2))
    borders = np.concatenate([columns[[63, 64, 127, 128, 191, 192]], rows[[63, 64, 127, 128]]])
    assert borders.mean() < 1.1 * error.mean()


def test_small_pictures_stay_whole_and_large_ones_are_cut(small, pixels):
    codec = small("mean-scale")
    whole = container.read(encode_picture(codec, as_picture(pixels), LEVEL))
    assert (whole.version, len(whole.streams)) == (1, 2)
    cut = container.read(encode_picture(codec, as_picture(pixels), LEVEL, tile=64, whole=150 * 210 - 1))
    assert (cut.version, len(cut.streams), cut.extras) == (2, 2 * 3 * 4, {"tiles": b"\x40"})


def test_threads_of_torch_are_left_as_they_were(small, pixels):
    before = torch.get_num_threads()
    encode_picture(small("mean-scale"), as_picture(pixels), LEVEL, tile=64, whole=1, workers=2)
    assert torch.get_num_threads() == before


def test_progress_is_told_tile_by_tile(small, weights, pixels):
    told = []
    data = encode_picture(small("mean-scale"), as_picture(pixels), LEVEL, tile=64, whole=1, report=lambda *done: told.append(done))
    decode_picture(data, [weights("mean-scale")], report=lambda *done: told.append(done))
    assert told == [(done, 12) for done in range(1, 13)] * 2


def test_a_large_picture_has_a_progress_bar_and_a_small_one_none(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with cli._progress(1) as report:
        report(0, 1, 1)
        report(1)
    assert capsys.readouterr().err == ""
    with cli._progress(1) as report:
        report(0, 1, 4)
        report(0, 4, 4)
    assert "100%" in capsys.readouterr().err


def test_decoding_keeps_few_rows_of_tiles(small, picture, monkeypatch):
    """Memory does not grow with the height of the picture: only rows that a synthesis still looks at are kept."""
    codec, x = small("mean-scale"), picture(64 * 9, 64)
    grid = tiles.Grid(64 * 9, 64, 64)
    kept = []
    original = tiles._synthesise_square

    def watch(codec, rows, *rest):
        kept.append(len(rows))
        return original(codec, rows, *rest)

    monkeypatch.setattr(tiles, "_synthesise_square", watch)
    tiles.decode(codec, tiles.encode(codec, taking(x), LEVEL, grid), LEVEL, grid, lambda box, part: None)
    assert len(kept) == 9
    assert max(kept) == 3


@pytest.mark.parametrize("tile", [0, 32, 100, 2**20])
def test_sides_that_do_not_suit_the_codec_are_refused(small, pixels, tile):
    with pytest.raises(CodecError, match="multiples of 64"):
        encode_picture(small("mean-scale"), as_picture(pixels), LEVEL, tile=tile, whole=1)


@pytest.mark.parametrize("side", [b"", b"\x00", b"\x20", b"\x40\x00", b"\xc0\x00", b"\x80\x80\x04", b"\xff\xff\xff\xff\x7f", b"\xff" * 9])
def test_tiles_that_make_no_sense_are_refused(small, weights, pixels, side):
    content = container.read(encode_picture(small("mean-scale"), as_picture(pixels), LEVEL, tile=64, whole=1))
    data = container.write("image", content.fingerprint, content.level, content.size, content.streams, {"tiles": side})
    with pytest.raises(CodecError) as refusal:
        decode_picture(data, [weights("mean-scale")])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("size", [(150, 274, 3), (64, 64, 3), (2**14, 2**14, 3), (2**35 - 1, 1, 3), (0, 5, 3), (150, 210, 2)])
def test_tiles_that_are_not_as_many_as_the_picture_has_are_refused(small, weights, pixels, size):
    content = container.read(encode_picture(small("mean-scale"), as_picture(pixels), LEVEL, tile=64, whole=1))
    data = container.write("image", content.fingerprint, content.level, size, content.streams, content.extras)
    with pytest.raises(CodecError, match="makes no sense"):
        decode_picture(data, [weights("mean-scale")])


def test_more_pixels_than_allowed_are_refused(small, weights, pixels):
    data = encode_picture(small("mean-scale"), as_picture(pixels), LEVEL, tile=64, whole=1)
    with pytest.raises(CodecError, match="--max-pixels"):
        decode_picture(data, [weights("mean-scale")], max_pixels=1000)
    with pytest.raises(CodecError, match="--max-pixels"):
        encode_picture(small("mean-scale"), as_picture(pixels), LEVEL, max_pixels=1000)


def test_damaged_tiles_behind_a_valid_checksum_decode_or_are_refused(small, weights, pixels):
    content = container.read(encode_picture(small("mean-scale"), as_picture(pixels), LEVEL, tile=64, whole=1))
    refused = 0
    for number in range(0, len(content.streams), 3):
        streams = list(content.streams)
        streams[number] = streams[number][:-8]
        try:
            decode_picture(
                container.write("image", content.fingerprint, LEVEL, content.size, streams, content.extras), [weights("mean-scale")]
            )
        except CodecError as refusal:
            assert "\n" not in str(refusal)
            refused += 1
    assert refused


@pytest.mark.parametrize(
    ("transform", "channels", "unit"),
    [
        (transforms.LappedAnalysis(32, 8, blocks=7), 3, 1),
        (transforms.LappedSynthesis(32, 8, blocks=7), 32, 16),
        (transforms.GDNAnalysis(16, 8), 3, 1),
        (transforms.GDNSynthesis(16, 8), 16, 16),
        (transforms.ShallowSynthesis(16), 16, 16),
        (transforms.ShallowSynthesis(16, 6), 16, 16),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else str(value),
)
@torch.inference_mode()
def test_no_transform_looks_farther_than_it_says(transform, channels, unit):
    """What lies beyond a block and its surroundings may be anything."""
    torch.manual_seed(0)
    for parameter in transform.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    around = -(-transform.reach // transform.multiple) * transform.multiple
    side, block = 512 // unit, slice(192 // unit, 320 // unit)
    near = slice(block.start - around // unit, block.stop + around // unit)
    x = torch.rand(1, channels, side, side)
    other = torch.rand_like(x)
    other[..., near, near] = x[..., near, near]
    level = torch.tensor([20.0])
    first, second = (transform(each, level) for each in (x.clone(), other))
    scale = first.shape[-1] / side
    inside = (..., *(slice(round(block.start * scale), round(block.stop * scale)),) * 2)
    assert torch.allclose(first[inside], second[inside], atol=1e-4 * float(first.abs().max()))
    assert not torch.allclose(first, second, atol=1e-4 * float(first.abs().max()))
