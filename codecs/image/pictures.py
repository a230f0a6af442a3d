"""Picture files as people have them ⇄ arrays, with their opacity, all of their bits and their colour profile.

Pillow reads and writes. It reduces colour of 16 bits to 8, so where a file has more, FFmpeg (PyAV) reads it and writes PNG, and tifffile
writes TIFF. What an array cannot say is refused, but for metadata: EXIF orientation is applied, all else but the ICC profile is dropped.
"""

from __future__ import annotations

import contextlib
import io
import threading
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import putchunk

from neuralcodec.codecs.base import CodecError, first_line
from neuralcodec.codecs.files import MAX_PIXELS

TRANSPARENT_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
EIGHT_BIT_MODES = ("L", "RGB", "P", "1", *TRANSPARENT_MODES)
HOLD_ALPHA = (".png", ".webp", ".avif", ".tif", ".tiff")
HOLD_16_BITS = (".png", ".tif", ".tiff")
WRITE_OPTIONS: dict[str, dict[str, Any]] = {".webp": {"lossless": True}, ".tif": {"compression": "tiff_deflate"}}
WRITE_OPTIONS[".tiff"] = WRITE_OPTIONS[".tif"]
DEEP_DEMUXERS = {"PNG": "png_pipe", "TIFF": "tiff_pipe", "PPM": "ppm_pipe"}  # FFmpeg's, by Pillow's name of the format
DEEP_PNG = {1: "gray16be", 2: "ya16be", 3: "rgb48be", 4: "rgba64be"}  # FFmpeg's formats, by channels
ORIENTATION, BITS_PER_SAMPLE = 0x0112, 258  # tags of EXIF and TIFF
STRIP = 1024  # rows
ICC_COLOUR_SPACE = slice(16, 20)

_PILLOW_LIMIT = threading.Lock()


class Picture(NamedTuple):
    """Pixels and what they mean.

    Args:
        pixels: (H, W), (H, W, 2), (H, W, 3) or (H, W, 4): greyscale, with opacity, RGB, with opacity. uint8, uint16, or float32 in 0…1.
        icc_profile: of the colour, in ICC's own format.
    """

    pixels: np.ndarray
    icc_profile: bytes | None = None

    @property
    def channels(self) -> int:
        """Of colour: 1 or 3."""
        return 3 if self.pixels.ndim == 3 and self.pixels.shape[2] > 2 else 1

    @property
    def alpha(self) -> np.ndarray | None:
        """Opacity, (H, W)."""
        return self.pixels[..., -1] if self.pixels.ndim == 3 and self.pixels.shape[2] in (2, 4) else None


def read_picture(source: str | Path | BinaryIO, name: str = "the image", max_pixels: int = MAX_PIXELS) -> Picture:
    """A picture file. EXIF orientation is applied, an alpha channel that hides nothing is dropped.

    Args:
        source: a path or a binary file object.
        name: what to call it in messages.

    Raises:
        CodecError: not a picture, a damaged one, one with more pixels than allowed, or one of a kind that would be lost, such as CMYK.
    """
    try:
        with contextlib.ExitStack() as stack:
            file = source if hasattr(source, "read") else stack.enter_context(open(source, "rb"))
            with pixel_limit(max_pixels):
                image = stack.enter_context(Image.open(file))
            if image.width * image.height > max_pixels:
                size = f"{image.width}×{image.height}"
                raise CodecError(f"{name} has {size} pixels, more than the limit of {max_pixels}; --max-pixels raises it")
            picture = _read_deep(image, file) if _loses_depth(image, file) else _read_shallow(image)
            if picture.alpha is not None and int(picture.alpha.min()) == np.iinfo(picture.pixels.dtype).max:
                picture = picture._replace(pixels=_squeezed(picture.pixels[..., :-1]))
            return picture
    except FileNotFoundError:
        raise CodecError(f"there is no file {name}") from None
    except CodecError as error:
        raise CodecError(str(error) if str(error).startswith(name) else f"{name}: {error}") from None
    except Exception as error:  # what Pillow's many decoders raise at damaged files has nothing in common
        reason = "not a picture that can be read" if isinstance(error, UnidentifiedImageError) else first_line(error)
        raise CodecError(f"{name}: {reason}") from None


@contextlib.contextmanager
def pixel_limit(pixels: int) -> Iterator[None]:
    """Pillow warns above 89 megapixels and refuses above 179 as it opens a file; here it accepts as many as the caller does."""
    with _PILLOW_LIMIT:
        before = Image.MAX_IMAGE_PIXELS
        if before is not None:
            Image.MAX_IMAGE_PIXELS = max(before, pixels)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def from_pillow(image: Image.Image) -> Picture:
    """What an image of Pillow holds, as it stands.

    Raises:
        CodecError: CMYK, or another mode that no picture of ours can hold.
    """
    profile = image.info.get("icc_profile") or None
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):  # as which Pillow reads PGM of 16 bits
        pixels = np.asarray(image).astype(np.uint16)
        if isinstance(hidden := image.info.get("transparency"), int):
            pixels = np.stack((pixels, np.where(pixels == hidden, 0, 65535).astype(np.uint16)), -1)
        return Picture(pixels, profile)
    if image.mode not in EIGHT_BIT_MODES:
        raise CodecError(f"the picture is {image.mode}, which is not supported; convert it to RGB or greyscale of 8 or 16 bits first")
    grey = image.mode in ("1", "L", "LA", "La") or (image.mode in ("P", "PA") and _grey_palette(image, profile))
    if image.mode in TRANSPARENT_MODES or "transparency" in image.info:
        return Picture(_converted(image, "LA" if grey else "RGBA"), profile)
    return Picture(_converted(image, "L" if grey else "RGB"), profile)


def to_pillow(picture: Picture) -> Image.Image:
    """An image of Pillow, which has no mode for opacity or colour of 16 bits: those are rounded to 8."""
    pixels = picture.pixels
    if pixels.dtype == np.uint16 and pixels.ndim == 3:
        pixels = ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if picture.icc_profile:
        image.info["icc_profile"] = picture.icc_profile
    return image


def picture_bytes(picture: Picture, suffix: str = ".png") -> bytes:
    """A picture file of the format that a suffix stands for.

    Raises:
        CodecError: there is no such format, or it cannot hold what the picture has.
    """
    suffix = suffix.lower()
    deep = picture.pixels.dtype == np.uint16
    if deep and suffix not in HOLD_16_BITS:
        raise CodecError(f"{suffix} cannot hold the 16 bits a sample that this picture has; {', '.join(HOLD_16_BITS)} can")
    if picture.alpha is not None and suffix not in HOLD_ALPHA:
        raise CodecError(f"{suffix} cannot hold the transparency that this picture has; {', '.join(HOLD_ALPHA)} can")
    if deep:
        return _deep_png(picture) if suffix == ".png" else _deep_tiff(picture)
    out = io.BytesIO()
    profile = {"icc_profile": picture.icc_profile} if picture.icc_profile else {}
    try:
        image = Image.fromarray(np.ascontiguousarray(picture.pixels))
        image.save(out, Image.registered_extensions().get(suffix), **WRITE_OPTIONS.get(suffix, {}), **profile)
    except (KeyError, ValueError, OSError) as error:
        raise CodecError(f"cannot write a picture as {suffix} ({error})") from None
    return out.getvalue()


def _converted(image: Image.Image, mode: str) -> np.ndarray:
    """Pixels in another mode, strip by strip: all at once Pillow holds several copies of them."""
    width, height = image.size
    pixels = np.empty((height, width, len(mode)), np.uint8)
    for top in range(0, height, STRIP):
        strip = image.crop((0, top, width, min(top + STRIP, height)))
        pixels[top : top + STRIP] = np.asarray(strip.convert(mode)).reshape(-1, width, len(mode))
    return _squeezed(pixels)


def _read_shallow(image: Image.Image) -> Picture:
    ImageOps.exif_transpose(image, in_place=True)
    return from_pillow(image)


def _read_deep(image: Image.Image, file: Any) -> Picture:
    """What Pillow has identified and would reduce to 8 bits a sample."""
    import av

    demuxer = DEEP_DEMUXERS.get(image.format or "")
    if demuxer is None:
        raise CodecError(f"more than 8 bits a sample in {image.format} are not supported; convert it to PNG or TIFF of 16 bits first")
    orientation = image.getexif().get(ORIENTATION, 1)
    profile = image.info.get("icc_profile") or None
    height, width = image.height, image.width
    image.load()  # which notices damage that FFmpeg would conceal
    file.seek(0)
    try:
        with av.open(file, format=demuxer) as opened:
            frame = next(opened.decode(video=0))
            kind = frame.format.name
            if kind.startswith("ya16"):
                rows = np.frombuffer(bytes(frame.planes[0]), ">u2" if kind.endswith("be") else "<u2").reshape(frame.height, -1)
                pixels = rows[:, : 2 * frame.width].reshape(frame.height, frame.width, 2)
            else:
                pixels = frame.to_ndarray()
    except (av.error.FFmpegError, StopIteration) as error:
        raise CodecError(f"not a picture that can be read ({first_line(error)})") from None
    if pixels.dtype.itemsize != 2 or pixels.dtype.kind != "u" or pixels.shape[:2] != (height, width):
        raise CodecError(f"samples of this kind ({kind}) are not supported; convert it to RGB or greyscale of 8 or 16 bits first")
    return Picture(_oriented(pixels.astype(np.uint16), orientation), profile)


def _loses_depth(image: ImageFile.ImageFile, file: Any) -> bool:
    """Whether Pillow would reduce the samples of a file to 8 bits as it loads them."""
    if image.mode not in EIGHT_BIT_MODES:
        return False
    if image.format == "TIFF":
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,))) > 8  # type: ignore[attr-defined]
    if image.format in ("AVIF", "JPEG2000"):
        import av

        file.seek(0)
        try:
            with av.open(file) as opened:
                kind = opened.streams.video[0].format
                return kind is not None and max(component.bits for component in kind.components) > 8
        except (av.error.FFmpegError, IndexError):
            return False
        finally:
            file.seek(0)
    arguments = [part for tile in image.tile for part in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    return any(";16" in part if isinstance(part, str) else image.format == "PPM" and part > 255 for part in arguments)


def _oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As EXIF's orientation says that the picture is to be seen."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _deep_png(picture: Picture) -> bytes:
    import av

    pixels = picture.pixels.reshape(*picture.pixels.shape[:2], -1)
    height, width, channels = pixels.shape
    frame = av.VideoFrame(width, height, DEEP_PNG[channels])
    rows = np.zeros((height, frame.planes[0].line_size), np.uint8)
    rows[:, : 2 * width * channels] = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    frame.planes[0].update(rows)  # type: ignore[arg-type]  # any buffer will do
    frame.pts = 0
    encoder: Any = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, DEEP_PNG[channels], Fraction(1)
    encoder.sample_aspect_ratio = Fraction(1)
    encoder.options = {"pred": "mixed"}
    data = b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))
    if not picture.icc_profile:
        return data
    out = io.BytesIO()
    behind_header = 8 + 25  # the signature and the chunk IHDR
    out.write(data[:behind_header])
    putchunk(out, b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.icc_profile))
    out.write(data[behind_header:])
    return out.getvalue()


def _deep_tiff(picture: Picture) -> bytes:
    import tifffile

    pixels = picture.pixels
    if pixels.ndim == 3 and pixels.shape[2] == 2:  # greyscale with opacity: few readers know it in TIFF
        pixels = pixels[..., [0, 0, 0, 1]]
    kind: dict[str, Any] = {"photometric": "minisblack" if pixels.ndim == 2 else "rgb"}
    if picture.alpha is not None:
        kind["extrasamples"] = ["unassalpha"]
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, compression="zlib", iccprofile=picture.icc_profile, metadata=None, **kind)
    return out.getvalue()


def _squeezed(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _grey_palette(image: Image.Image, profile: bytes | None) -> bool:
    """Whether all colours are grey, and no profile wants them to be three numbers."""
    if profile and profile[ICC_COLOUR_SPACE] == b"RGB ":
        return False
    rgb = _converted(image, "RGBA")
    return bool((rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all())
