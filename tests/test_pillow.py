"""The Pillow plugin, held to what Pillow asks of its own."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

import neuralcodec
import neuralcodec.pillow
from neuralcodec.entropy import container


@pytest.fixture
def model(weights, monkeypatch) -> str:
    """A small model that the plugin knows."""
    name = str(weights("mean-scale"))
    monkeypatch.setattr(neuralcodec.pillow, "models", [name])
    return name


@pytest.fixture
def photograph(picture) -> Image.Image:
    return Image.fromarray((picture(40, 56)[0] * 255).byte().permute(1, 2, 0).numpy())


def of_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    converted = image.convert(mode)
    if mode in ("LA", "RGBA"):
        converted.putalpha(Image.radial_gradient("L").resize(image.size))
    return converted


def saved(image: Image.Image, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, "NCI", **options)
    return out.getvalue()


def test_extension_and_format_are_registered():
    assert Image.registered_extensions()[".nci"] == "NCI"
    assert Image.MIME["NCI"] == "image/x-neuralcodec"
    assert {"NCI"} <= set(Image.OPEN) & set(Image.SAVE)


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "I;16"])
def test_every_mode_is_saved_and_opened_as_it_was(tmp_path, photograph, model, mode):
    image = of_mode(photograph, mode)
    image.save(tmp_path / "x.nci", quality=80, model=model)
    with Image.open(tmp_path / "x.nci") as opened:
        assert (opened.format, opened.mode, opened.size) == ("NCI", mode, (56, 40))
        opened.load()
        assert (opened.mode, opened.size) == (mode, (56, 40))
        pixels = np.asarray(opened)
        if mode in ("LA", "RGBA"):
            assert np.array_equal(opened.getchannel("A"), image.getchannel("A"))
    assert np.array_equal(pixels, neuralcodec.decode((tmp_path / "x.nci").read_bytes(), model))


@pytest.mark.parametrize(("mode", "opened_as"), [("1", "L"), ("P", "RGB"), ("PA", "RGBA")])
def test_other_modes_become_the_nearest_that_holds_them(photograph, model, mode, opened_as):
    image = photograph.convert("P").convert("PA") if mode == "PA" else photograph.convert(mode)
    with Image.open(io.BytesIO(saved(image, model=model))) as opened:
        assert opened.mode == opened_as


@pytest.mark.parametrize("mode", ["CMYK", "F", "LAB"])
def test_modes_that_cannot_be_saved_are_refused_and_leave_no_file(tmp_path, model, mode):
    with pytest.raises(OSError, match=mode):
        Image.new(mode, (8, 8)).save(tmp_path / "x.nci", model=model)
    assert not (tmp_path / "x.nci").exists()


def test_colour_of_16_bits_opens_as_8_and_says_so(photograph, model):
    pixels = np.asarray(photograph).astype(np.uint16) * 257
    with Image.open(io.BytesIO(neuralcodec.encode(pixels, 80, model))) as opened:
        assert (opened.mode, opened.info["sample_bits"]) == ("RGB", 16)
        deep = neuralcodec.decode(neuralcodec.encode(pixels, 80, model), model)
        assert np.abs(np.asarray(opened) - deep / 257).max() <= 0.5


def test_options_of_save(photograph, model):
    sizes = [len(saved(photograph, quality=quality, model=model)) for quality in (0, 50, 100)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert len(saved(photograph, model=model)) == sizes[1]
    with Image.open(io.BytesIO(saved(photograph, model=model, icc_profile=b"profile"))) as opened:
        assert opened.info["icc_profile"] == b"profile"
        assert Image.open(io.BytesIO(saved(opened, model=model))).info["icc_profile"] == b"profile"
        assert "icc_profile" not in Image.open(io.BytesIO(saved(opened, model=model, icc_profile=None))).info
    for options in ({"quality": 101}, {"model": "no-such-model"}):
        with pytest.raises(OSError, match=r"quality|model"):
            saved(photograph, **{"model": model, **options})


def test_files_open_without_their_pixels_being_decoded(photograph, model, monkeypatch):
    data = saved(photograph, model=model)
    monkeypatch.setattr("neuralcodec.codecs.image.files.decode_picture", lambda *_: pytest.fail("decoded"))
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.size == (56, 40)
        assert opened.info["level"] == 31.5
        opened.verify()


def test_the_plugin_imports_no_torch(photograph, model, tmp_path):
    (tmp_path / "x.nci").write_bytes(saved(photograph, model=model))
    code = "import sys, neuralcodec.pillow; from PIL import Image; print(Image.open(sys.argv[1]).size, 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x.nci")], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.split() == ["(56,", "40)", "False"]


def test_truncated_and_altered_files_are_refused(photograph, model):
    data = saved(photograph, model=model)
    for length in (0, 3, 4, 5, 9, 20, len(data) // 2, len(data) - 1):
        with pytest.raises(OSError):  # UnidentifiedImageError where not even the start is there
            Image.open(io.BytesIO(data[:length]))
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 0x5A
        with pytest.raises(OSError):
            Image.open(io.BytesIO(bytes(altered)))
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"\x8eNC"))


def test_headers_that_make_no_sense_are_refused():
    for size in ((0, 5, 3), (5, 0, 3), (5, 5, 2)):
        with pytest.raises(OSError, match="no sense"):
            Image.open(io.BytesIO(container.write("image", bytes(4), 0, size, [b""])))
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(container.write("audio", bytes(4), 0, (100, 16000, 1), [b""])))


def test_huge_pictures_meet_pillows_own_guard():
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(container.write("image", bytes(4), 0, (2**20, 2**20, 3), [b""])))


def test_files_of_unknown_weights_open_and_are_refused_as_they_load(photograph, model, weights):
    data = saved(photograph, model=str(weights("scale")))
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.size == (56, 40)
        with pytest.raises(OSError, match="not among"):
            opened.load()
    neuralcodec.pillow.models.append(str(weights("scale")))
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()


def test_a_file_is_verified_as_it_opens_and_closed_behind(tmp_path, photograph, model):
    (tmp_path / "x.nci").write_bytes(saved(photograph, model=model))
    image = Image.open(tmp_path / "x.nci")
    image.verify()
    assert image.fp is None
    with Image.open(tmp_path / "x.nci") as opened:
        opened.load()
        assert opened.copy().size == opened.resize((56, 40)).size
        assert opened.crop((3, 4, 13, 24)).size == (10, 20)
        opened.save(tmp_path / "y.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "y.png")), np.asarray(opened))


def test_a_file_may_be_saved_over_itself(tmp_path, photograph, model):
    photograph.save(tmp_path / "x.nci", model=model)
    with Image.open(tmp_path / "x.nci") as opened:
        opened.save(tmp_path / "x.nci", quality=10, model=model)
    with Image.open(tmp_path / "x.nci") as opened:
        assert opened.info["level"] < 10
        opened.load()
