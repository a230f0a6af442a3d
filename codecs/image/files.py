"""Pictures ⇄ ``.nci`` files: colour by a codec, whole or in tiles; opacity without loss; what else is to be kept as it is."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuralcodec.codecs.base import Codec, CodecError
from neuralcodec.codecs.files import MAX_PIXELS, MAX_WHOLE_PIXELS, UNSAVED, check_content, codec_for, decode_signal, encode_signal
from neuralcodec.codecs.image import alpha, tiles
from neuralcodec.codecs.image.pictures import Picture
from neuralcodec.codecs.image.tiles import Box, Grid, Report
from neuralcodec.entropy import container
from neuralcodec.entropy.rans import CorruptStream

PEAKS: dict[Any, int] = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.float32): 1}
MAX_PROFILE = 2**24  # bytes


class Kind(NamedTuple):
    """What a file says of its picture, before anything of it is decoded."""

    height: int
    width: int
    channels: int  # of colour: 1 or 3
    alpha: bool
    sample_bits: int  # 8 or 16
    icc_profile: bytes | None


def describe(content: container.Content) -> Kind:
    """
    Raises:
        ContainerError: the file holds no picture, or the header makes no sense.
    """
    if content.modality != "image":
        raise container.ContainerError(f"the file holds {content.modality}, not a picture")
    height, width, channels = content.size
    bits = content.extras.get("sample_bits", b"\x08")
    if not height or not width or channels not in (1, 3) or bits not in (b"\x08", b"\x10"):
        raise container.ContainerError("the file's header makes no sense")
    profile = _inflated(content.extras["icc_profile"]) if "icc_profile" in content.extras else None
    return Kind(height, width, channels, "alpha" in content.extras, bits[0], profile)


def as_picture(image: np.ndarray | Tensor) -> Picture:
    """Pixels of an array (H, W[, 1…4]) of uint8 or uint16, or a tensor (1…4, H, W) of uint8 or of floating point in 0…1.

    Raises:
        CodecError: another shape or type, no pixels at all, or values that are no numbers.
    """
    if isinstance(image, Tensor):
        if image.ndim != 3:
            raise CodecError(f"an image tensor is (1…4, H, W), not {tuple(image.shape)}")
        pixels = image.detach().movedim(0, -1).cpu()
        if pixels.is_floating_point():
            if not pixels.isfinite().all():
                raise CodecError("an image tensor holds values that are not finite")
            pixels = pixels.float().clamp(0, 1)
        array = pixels.numpy()
    else:
        array = np.asarray(image)
        if array.dtype == np.float32:
            raise CodecError("an image array is of uint8 or uint16; only tensors hold 0…1")
    if array.dtype not in PEAKS or array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[2] <= 4) or not array.size:
        raise CodecError(f"an image is (H, W) or (H, W, 1…4) of uint8 or uint16, not {array.shape} of {array.dtype}")
    return Picture(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)


def encode_picture(
    codec: Codec,
    picture: Picture,
    level: float,
    max_pixels: int = MAX_PIXELS,
    tile: int = tiles.SIDE,
    whole: int = tiles.WHOLE,
    workers: int | None = None,
    report: Report = tiles.nothing,
) -> bytes:
    """A picture to the bytes of a file.

    Args:
        level: rounded to the nearest that a file can name.
        tile: side of the tiles, in pixels, of pictures larger than ``whole`` pixels.
        workers: threads for tiles, on which the bytes do not depend; by default as many as torch would use.
        report: is told how many tiles are done, of how many.

    Raises:
        CodecError: more pixels than allowed, or than the codec can code without tiles.
    """
    height, width = picture.pixels.shape[:2]
    if height * width > max_pixels:
        raise CodecError(f"the image has {width}×{height} pixels, more than the limit of {max_pixels}; --max-pixels raises it")
    peak = PEAKS[picture.pixels.dtype]
    colour = _colour(picture.pixels)
    extras = {}
    if picture.alpha is not None:
        extras["alpha"] = alpha.encode(picture.alpha if peak > 1 else np.round(picture.alpha * 255).astype(np.uint8))
        colour = alpha.smooth_hidden(colour, picture.alpha)
    if peak == 65535:
        extras["sample_bits"] = b"\x10"
    if picture.icc_profile:
        if len(picture.icc_profile) > MAX_PROFILE:
            raise CodecError(f"the image has an ICC profile of {len(picture.icc_profile)} bytes, more than {MAX_PROFILE}")
        extras["icc_profile"] = zlib.compress(picture.icc_profile, 9)
    device = next(codec.parameters()).device

    def take(box: Box) -> Tensor:
        x = torch.from_numpy(colour[box.slices].astype(np.float32)).to(device) / peak
        return x.expand(3, *x.shape)[None] if x.ndim == 2 else x.permute(2, 0, 1)[None]

    grid = Grid(height, width, tile)
    size = (height, width, picture.channels)
    if height * width <= whole or not isinstance(codec, tiles.ImageCodec):
        if height * width > MAX_WHOLE_PIXELS:
            raise CodecError(f"{codec.name or 'this codec'} knows no tiles, and the image has more than {MAX_WHOLE_PIXELS} pixels")
        return encode_signal(codec, take(Box(0, 0, height, width)), level, size, extras).data
    if not tiles.fits(codec, tile):
        raise CodecError(
            f"tiles of {codec.name or 'this codec'} have sides of multiples of {codec.multiple} up to {tiles.MAX_SIDE}, not {tile}"
        )
    level = codec.nearest_level(level)
    streams = tiles.encode(codec, take, level, grid, workers, report)
    extras["tiles"] = container.varint(tile)
    return container.write("image", codec.fingerprint or UNSAVED, level, size, streams, extras)


def decode_picture(
    data: bytes | container.Content,
    candidates: Sequence[str | Path] = (),
    device: str = "cpu",
    max_pixels: int | None = None,
    workers: int | None = None,
    report: Report = tiles.nothing,
    dtype: type[np.generic] | None = None,
) -> Picture:
    """The bytes of a file to a picture.

    Args:
        candidates: names or files of weights to try; the shipped ones if empty.
        max_pixels: that a file may ask for; by default 2^27 in tiles and 2^26 otherwise.
        workers, report: as in :func:`encode_picture`.
        dtype: of the pixels, ``np.float32`` for 0…1 without rounding; by default uint8, or uint16 if the picture had 16 bits.

    Raises:
        CodecError: a damaged file, unknown weights, or more pixels than allowed.
    """
    try:
        content = data if isinstance(data, container.Content) else container.read(data)
        kind = describe(content)
        codec = codec_for(content, candidates).to(device)
        grid = _grid(codec, content, kind)
        limit = max_pixels if max_pixels is not None else MAX_PIXELS if grid else MAX_WHOLE_PIXELS
        check_content(codec, content, limit, grid.count if grid else 1)
        stored = np.uint16 if kind.sample_bits == 16 else np.uint8
        dtype = dtype or stored
        peak = PEAKS[np.dtype(dtype)]
        opacity = alpha.decode(content.extras["alpha"], kind.height, kind.width, stored) if kind.alpha else None
        pixels = np.empty((kind.height, kind.width, kind.channels + kind.alpha), dtype)

        def put(box: Box, x: Tensor) -> None:
            values = x[0].clamp(0, 1) if kind.channels == 3 else x[0].clamp(0, 1).mean(0, keepdim=True)
            values = values.permute(1, 2, 0).cpu() * peak
            pixels[(*box.slices, slice(kind.channels))] = (values if peak == 1 else values.round()).numpy().astype(dtype)

        if grid:
            assert isinstance(codec, tiles.ImageCodec)
            tiles.decode(codec, content.streams, content.level, grid, put, workers, report)
        else:
            put(Box(0, 0, kind.height, kind.width), decode_signal(codec, content, limit).signal)
    except (container.ContainerError, CorruptStream) as error:
        raise CodecError(str(error)) from None
    if opacity is not None:
        pixels[..., -1] = opacity if peak > 1 else opacity / np.float32(np.iinfo(stored).max)
    return Picture(pixels[..., 0] if pixels.shape[2] == 1 else pixels, kind.icc_profile)


def decode_tensor(data: bytes, candidates: Sequence[str | Path] = ()) -> Tensor:
    """The bytes of a file to (channels, H, W) in 0…1, as the codec gives them.

    Raises:
        CodecError: as in :func:`decode_picture`.
    """
    pixels = decode_picture(data, candidates, dtype=np.float32).pixels
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).movedim(-1, 0)


def _colour(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3), without opacity."""
    if pixels.ndim == 2:
        return pixels
    return pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]


def _grid(codec: Codec, content: container.Content, kind: Kind) -> Grid | None:
    """The tiles of a file, or none.

    Raises:
        ContainerError: tiles that the codec cannot have written.
    """
    if "tiles" not in content.extras:
        return None
    side, end = container.read_varint(content.extras["tiles"], 0)
    if end != len(content.extras["tiles"]) or not tiles.fits(codec, side):
        raise container.ContainerError("the file's tiles make no sense")
    return Grid(kind.height, kind.width, side)


def _inflated(data: bytes) -> bytes:
    """A profile, its size bounded."""
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(data, MAX_PROFILE)
    except zlib.error:
        raise container.ContainerError("the file's ICC profile is damaged") from None
    if not inflate.eof or inflate.unused_data:
        raise container.ContainerError("the file's ICC profile is damaged or too large")
    return profile
