"""Every kind of picture: read with all its bits, coded, and written back as what it was."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

import neuralcodec
from neuralcodec.cli import main
from neuralcodec.codecs import DEFAULTS
from neuralcodec.codecs.base import CodecError
from neuralcodec.codecs.image import alpha, pictures
from neuralcodec.codecs.image.files import as_picture, decode_picture, encode_picture
from neuralcodec.codecs.image.pictures import Picture, picture_bytes, read_picture
from neuralcodec.entropy import container

LEVEL = 63.0
SHIPPED = DEFAULTS["image"]  # trained, where it matters that a picture resembles itself
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def rgb(picture) -> np.ndarray:
    """(40, 56, 3) uint8."""
    return (picture(40, 56)[0] * 255).byte().permute(1, 2, 0).numpy()


@pytest.fixture
def deep(rgb) -> np.ndarray:
    """(40, 56, 3) uint16 whose lower bytes say something."""
    return rgb.astype(np.uint16) * 257 + np.arange(40 * 56 * 3, dtype=np.uint16).reshape(rgb.shape) % 100


@pytest.fixture
def model(weights) -> str:
    return str(weights("mean-scale"))


def disc(height: int, width: int, peak: int = 255) -> np.ndarray:
    """Opaque within, transparent outside, half of both along the edge."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(rows - height / 2, columns - width / 2)
    return (np.clip(min(height, width) / 2.5 - distance, 0, 2) / 2 * peak).astype(np.uint8 if peak == 255 else np.uint16)


def saved(image: Image.Image, kind: str, **options) -> io.BytesIO:
    out = io.BytesIO()
    image.save(out, kind, **options)
    out.seek(0)
    return out


def coded(codec, picture: Picture, model: str) -> Picture:
    return decode_picture(encode_picture(codec, picture, LEVEL), [model])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_pictures_of_16_bits_come_back_from_their_files_bit_by_bit(deep, channels, suffix):
    pixels = np.dstack((deep, disc(40, 56, 65535)))
    pixels = {1: pixels[..., 0], 2: pixels[..., [0, 3]], 3: pixels[..., :3], 4: pixels}[channels]
    read = read_picture(io.BytesIO(picture_bytes(Picture(pixels, SRGB), suffix)))
    if channels == 2 and suffix != ".png":
        pixels = pixels[..., [0, 0, 0, 1]]
    assert read.pixels.dtype == np.uint16
    assert np.array_equal(read.pixels, pixels)
    assert read.icc_profile == SRGB


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"planarconfig": "separate"}, {"byteorder": ">"}])
def test_tiff_of_16_bits_is_read_however_it_is_laid_out(deep, options):
    out = io.BytesIO()
    planes = deep.transpose(2, 0, 1) if "planarconfig" in options else deep
    tifffile.imwrite(out, np.ascontiguousarray(planes), photometric="rgb", **options)
    assert np.array_equal(read_picture(out).pixels, deep)


def test_netpbm_of_16_bits_is_read_with_all_of_them(deep):
    colour = b"P6\n56 40\n65535\n" + deep.astype(">u2").tobytes()
    assert np.array_equal(read_picture(io.BytesIO(colour)).pixels, deep)
    grey = b"P5\n56 40\n65535\n" + deep[..., 0].astype(">u2").tobytes()
    assert np.array_equal(read_picture(io.BytesIO(grey)).pixels, deep[..., 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_to_8_and_16_bits_alike(rgb, orientation):
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    shallow = read_picture(saved(Image.fromarray(rgb), "PNG", exif=exif))
    upright = picture_bytes(Picture(rgb.astype(np.uint16) * 257))
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    data = upright[:33] + (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big") + upright[33:]
    deep = read_picture(io.BytesIO(data))
    assert np.array_equal(deep.pixels, shallow.pixels.astype(np.uint16) * 257)
    assert shallow.pixels.shape[:2] == ((40, 56) if orientation < 5 else (56, 40))


def test_transparency_of_palettes_and_of_one_colour_is_seen(rgb):
    image = Image.fromarray(rgb).quantize(8)
    read = read_picture(saved(image, "PNG", transparency=3)).pixels
    assert read.shape == (40, 56, 4)
    assert np.array_equal(read[..., 3] == 0, np.asarray(image) == 3)
    grey = np.tile(np.arange(56, dtype=np.uint8), (40, 1))
    read = read_picture(saved(Image.fromarray(grey), "PNG", transparency=7)).pixels
    assert read.shape == (40, 56, 2)
    assert np.array_equal(read[..., 1] == 0, grey == 7)
    read = read_picture(saved(Image.fromarray(grey.astype(np.uint16)), "PNG", transparency=7)).pixels
    assert read.dtype == np.uint16 and np.array_equal(read[..., 1] == 0, grey == 7)


def test_a_grey_palette_is_grey_unless_a_profile_wants_rgb():
    image = Image.fromarray(np.tile(np.arange(56, dtype=np.uint8), (40, 1))).convert("P")
    assert read_picture(saved(image, "PNG")).pixels.ndim == 2
    assert read_picture(saved(image, "PNG", icc_profile=SRGB)).pixels.ndim == 3


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "F", "I"])
def test_what_no_file_of_ours_holds_is_refused_by_name(mode):
    with pytest.raises(CodecError, match=f"^scan.tif: the picture is {mode}"):
        read_picture(saved(Image.new(mode, (8, 8)), "TIFF"), "scan.tif")


def test_deep_pictures_of_formats_that_are_read_at_8_bits_are_refused():
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = (np.arange(64 * 64 * 3, dtype=np.uint16) % 1024).reshape(64, 64, 3)
    with pytest.raises(CodecError, match="more than 8 bits a sample in AVIF"):
        read_picture(io.BytesIO(imagecodecs.avif_encode(pixels, bitspersample=10)))
    with pytest.raises(CodecError, match="more than 8 bits a sample in JPEG2000"):
        read_picture(io.BytesIO(imagecodecs.jpeg2k_encode(pixels)))


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_pictures_are_refused(rgb, deep, share):
    for data in (saved(Image.fromarray(rgb), "PNG").getvalue(), picture_bytes(Picture(deep)), picture_bytes(Picture(deep), ".tif")):
        with pytest.raises(CodecError) as refusal:
            read_picture(io.BytesIO(data[: int(len(data) * share)]), "half")
        assert str(refusal.value).startswith("half") and "\n" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore")  # of Pillow, about metadata
@pytest.mark.parametrize("suffix", [".png", ".tif", ".avif"])
def test_altered_pictures_are_read_or_refused_in_one_line(rgb, deep, suffix):
    random = np.random.default_rng(0)
    whole = picture_bytes(Picture(rgb if suffix == ".avif" else deep, SRGB), suffix)
    refused = 0
    for _ in range(60):
        altered = bytearray(whole)
        for position in random.integers(0, min(len(altered), random.choice([400, 10**6])), 3):
            altered[position] ^= int(random.integers(1, 256))
        try:
            read_picture(io.BytesIO(bytes(altered)))
        except CodecError as refusal:
            assert "\n" not in str(refusal)
            refused += 1
    assert refused


def test_more_pixels_than_allowed_are_refused_before_they_are_read(rgb):
    with pytest.raises(CodecError, match="56×40 pixels, more than the limit of 2000; --max-pixels"):
        read_picture(saved(Image.fromarray(rgb), "PNG"), max_pixels=2000)
    before = Image.MAX_IMAGE_PIXELS
    read_picture(saved(Image.new("L", (2000, 2000)), "PNG"), max_pixels=2**28)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("shape", ["(H, W)", "(H, W, 2)", "(H, W, 3)", "(H, W, 4)"])
@pytest.mark.parametrize("bits", [8, 16])
def test_arrays_come_back_as_what_they_were_with_their_opacity_unchanged(rgb, deep, shape, bits):
    pixels = np.dstack((rgb, disc(40, 56)) if bits == 8 else (deep, disc(40, 56, 65535)))
    pixels = {"(H, W)": pixels[..., 1], "(H, W, 2)": pixels[..., [1, 3]], "(H, W, 3)": pixels[..., :3], "(H, W, 4)": pixels}[shape]
    decoded = neuralcodec.decode(neuralcodec.encode(pixels, 100, SHIPPED), SHIPPED)
    assert decoded.shape == pixels.shape
    assert decoded.dtype == pixels.dtype
    seen = disc(40, 56) > 0 if pixels.shape[2:] in ((2,), (4,)) else np.ones((40, 56), bool)
    if not seen.all():
        assert np.array_equal(decoded[..., -1], pixels[..., -1])
    peak = np.iinfo(pixels.dtype).max
    assert np.abs(decoded.astype(float) - pixels)[seen].mean() < 0.02 * peak


def test_16_bits_are_more_than_8(small, model, deep):
    """A decoded picture of 16 bits has values between those of 8."""
    decoded = coded(small("mean-scale"), as_picture(deep), model).pixels
    assert len(np.unique(decoded)) > 2000
    assert (decoded % 257 != 0).mean() > 0.9


def test_opacity_of_16_bits_that_says_no_more_than_8_is_coded_as_8(small, model, deep):
    fine, coarse = disc(40, 56, 65535), disc(40, 56).astype(np.uint16) * 257
    sizes = [len(alpha.encode(values)) for values in (fine, coarse)]
    assert sizes[1] < sizes[0]
    for values in (fine, coarse):
        assert np.array_equal(coded(small("mean-scale"), as_picture(np.dstack((deep, values))), model).pixels[..., 3], values)


def test_tiles_and_opacity_and_profiles_go_together(small, model, deep):
    picture = Picture(np.tile(np.dstack((deep, disc(40, 56, 65535))), (4, 3, 1)), SRGB)
    decoded = decode_picture(encode_picture(small("mean-scale"), picture, LEVEL, tile=64, whole=1), [model])
    assert decoded.pixels.shape == (160, 168, 4) and decoded.pixels.dtype == np.uint16
    assert np.array_equal(decoded.pixels[..., 3], picture.pixels[..., 3])
    assert decoded.icc_profile == SRGB


def test_colour_that_nobody_sees_costs_little(small, rgb):
    """Noise below full transparency is as cheap as no noise, and what is seen stays as it is."""
    opacity = disc(40, 56)
    noise = np.random.default_rng(0).integers(0, 256, rgb.shape, dtype=np.uint8)
    hidden = np.where(opacity[..., None] == 0, noise, rgb)
    sizes = [len(encode_picture(small("mean-scale"), as_picture(np.dstack((each, opacity))), LEVEL)) for each in (rgb, hidden)]
    assert sizes[1] == sizes[0]
    smooth = alpha.smooth_hidden(hidden, opacity)
    assert np.array_equal(smooth[opacity > 0], rgb[opacity > 0])
    assert np.abs(np.diff(smooth.astype(int), axis=1))[opacity[:, 1:] == 0].mean() < 0.2 * np.abs(np.diff(noise.astype(int), axis=1)).mean()
    assert not alpha.smooth_hidden(hidden, np.zeros_like(opacity)).any()


def test_tensors_go_in_and_come_out(picture):
    x = picture(33, 47)[0]
    data = neuralcodec.encode(x, 100, SHIPPED)
    decoded = neuralcodec.decode(data, SHIPPED, as_tensor=True)
    assert decoded.shape == (3, 33, 47) and decoded.dtype == torch.float32
    assert float((decoded - x).abs().mean()) < 0.02
    assert torch.equal((decoded * 255).round().byte().movedim(0, -1), torch.from_numpy(neuralcodec.decode(data, SHIPPED)))
    assert neuralcodec.encode((x * 255).byte(), 100, SHIPPED) == data
    grey = neuralcodec.encode(torch.cat((x[:1], x[1:2])), 90, SHIPPED)
    assert neuralcodec.decode(grey, SHIPPED, as_tensor=True).shape == (2, 33, 47)


def test_an_array_with_one_channel_is_greyscale(weights, rgb):
    assert neuralcodec.encode(rgb[..., :1], 50, weights("mean-scale")) == neuralcodec.encode(rgb[..., 0], 50, weights("mean-scale"))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((5, 5, 5), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((5, 5), np.int64),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((5, 5, 3)),
        torch.zeros(1, 3, 5, 5),
        torch.zeros(5, 5),
        torch.full((3, 5, 5), torch.nan),
        torch.zeros(3, 5, 5, dtype=torch.int64),
        [[["x"]]],
    ],
)
def test_what_is_no_image_is_refused(weights, image):
    with pytest.raises(CodecError) as refusal:
        neuralcodec.encode(image, 50, weights("mean-scale"))
    assert "\n" not in str(refusal.value)


def test_plain_pictures_are_written_as_version_1(small, rgb):
    for pixels in (rgb, rgb[..., 0]):
        content = container.read(encode_picture(small("mean-scale"), as_picture(pixels), LEVEL))
        assert (content.version, content.extras) == (1, {})


def with_extras(small, rgb, **changes: bytes) -> bytes:
    pixels = np.dstack((rgb, disc(40, 56)))
    content = container.read(encode_picture(small("mean-scale"), Picture(pixels, SRGB), LEVEL))
    return container.write("image", content.fingerprint, LEVEL, content.size, content.streams, {**content.extras, **changes})


def opacity_file(mode: str, size: tuple[int, int], kind: str = "PNG") -> bytes:
    return saved(Image.new(mode, size), kind).getvalue()


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": b""},
        {"alpha": b"\x89PNG\r\n\x1a\n"},
        {"alpha": bytes(100)},
        {"alpha": opacity_file("L", (56, 41))},
        {"alpha": opacity_file("L", (56, 40), "GIF")},
        {"alpha": opacity_file("RGBA", (56, 40))},
        {"alpha": opacity_file("P", (56, 40))},
        {"alpha": opacity_file("I;16", (56, 40))},
        {"alpha": opacity_file("L", (56, 40))[:-30]},
        {"alpha": opacity_file("L", (20000, 20000))},
        {"sample_bits": b""},
        {"sample_bits": b"\x0c"},
        {"sample_bits": b"\x10\x10"},
        {"icc_profile": b""},
        {"icc_profile": b"no profile"},
        {"icc_profile": zlib.compress(SRGB)[:-1]},
        {"icc_profile": zlib.compress(SRGB) + b"x"},
        {"icc_profile": zlib.compress(bytes(2**24 + 1))},
        {"tiles": b"\x20"},
    ],
)
def test_extras_that_make_no_sense_are_refused(small, model, rgb, changes):
    decode_picture(with_extras(small, rgb), [model])
    with pytest.raises(CodecError) as refusal:
        decode_picture(with_extras(small, rgb, **changes), [model])
    assert "\n" not in str(refusal.value)


def test_sounds_are_not_pictures(model):
    with pytest.raises(CodecError, match="holds audio"):
        decode_picture(container.write("audio", bytes(4), 0, (100, 16000, 1), [b""]), [model])


@pytest.mark.parametrize("kind", ["LA", "RGBA", "RGB;16", "RGBA;16", "I;16"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_the_program_gives_back_the_kind_of_picture_that_it_was_given(tmp_path, model, rgb, deep, kind, suffix):
    pixels = {
        "LA": np.dstack((rgb[..., 0], disc(40, 56))),
        "RGBA": np.dstack((rgb, disc(40, 56))),
        "RGB;16": deep,
        "RGBA;16": np.dstack((deep, disc(40, 56, 65535))),
        "I;16": deep[..., 0],
    }[kind]
    (tmp_path / f"in{suffix}").write_bytes(picture_bytes(Picture(pixels, SRGB), suffix))
    assert main(["encode", str(tmp_path / f"in{suffix}"), "-m", model, "-q", "95"]) == 0
    assert main(["decode", str(tmp_path / "in.nci"), "-m", model, "-o", str(tmp_path / f"out{suffix}")]) == 0
    read = read_picture(tmp_path / f"out{suffix}")
    assert (read.pixels.shape, read.pixels.dtype, read.icc_profile) == (pixels.shape, pixels.dtype, SRGB)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
def test_profiles_go_into_every_format_that_has_a_place_for_them(rgb, suffix):
    assert read_picture(io.BytesIO(picture_bytes(Picture(rgb, SRGB), suffix))).icc_profile == SRGB


@pytest.mark.parametrize(("suffix", "word"), [(".jpg", "transparency"), (".bmp", "transparency"), (".xyz", "transparency")])
def test_formats_that_would_drop_something_are_refused(rgb, deep, suffix, word):
    with pytest.raises(CodecError, match=f"{suffix} cannot hold the {word}"):
        picture_bytes(Picture(np.dstack((rgb, disc(40, 56)))), suffix)
    with pytest.raises(CodecError, match=f"{suffix} cannot hold the 16 bits"):
        picture_bytes(Picture(deep), suffix)
