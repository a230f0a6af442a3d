"""Pictures ⇄ ``.nci`` files: colour by a codec, whole or in tiles; opacity without loss; what else is to be kept as it is."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralcodec.codecs.base import Codec, CodecError
from neuralcodec.codecs.files import MAX_PIXELS, MAX_WHOLE_PIXELS, UNSAVED, check_content, codec_for, decode_signal, encode_signal
from neuralcodec.codecs.image import alpha, regions, tiles
from neuralcodec.codecs.image.effort import STEPS
from neuralcodec.codecs.image.effort import compress as refine
from neuralcodec.codecs.image.overfitted import FittedPicture, plan_of
from neuralcodec.codecs.image.overfitted_targets import Aim
from neuralcodec.codecs.image.pictures import Picture
from neuralcodec.codecs.image.targets import Hit, Target, checked, search
from neuralcodec.codecs.image.tiles import Box, Grid, Report
from neuralcodec.entropy import container
from neuralcodec.entropy.container import ImageHeader
from neuralcodec.entropy.rans import CorruptStream

FIT_BYTES = 1000  # of memory for a pixel that a fit takes at most: 0.55 to 0.7 kB, and what a fit to any picture takes besides
NEAR = 0.15  # of the logarithm of a rate, or a dB's third: how close short fits come to a target before a long one steers towards it
PEAKS: dict[Any, int] = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535, np.dtype(np.float32): 1}


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
    effort: int | None = None,
    mask: np.ndarray | None = None,
    seconds: float | None = None,
    checkpoint: Path | None = None,
    aim: Aim | None = None,
) -> bytes:
    """A picture to the bytes of a file.

    Args:
        level: rounded to the nearest that a file can name.
        tile: side of the tiles, in pixels, of pictures larger than ``whole`` pixels.
        workers: threads for tiles, on which the bytes do not depend; by default as many as torch would use.
        report: is told how many tiles, or steps of ``effort``, are done, of how many.
        effort: 0…5, time that goes into the latent; see :mod:`~neuralcodec.codecs.image.effort`. None is the codec's usual one.
        seconds: that a codec which is fitted to the picture may take.
        checkpoint: file to keep the state of such a fit in, and to go on from if it is there.
        aim: of such a fit.
        mask: (H, W) uint8, white where quality counts; scaled to the picture. See :mod:`~neuralcodec.codecs.image.regions`.

    Raises:
        CodecError: more pixels than allowed, or than the codec can code without tiles; effort or a mask for a codec that knows none.
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
        if len(picture.icc_profile) > container.MAX_PROFILE:
            raise CodecError(f"the image has an ICC profile of {len(picture.icc_profile)} bytes, more than {container.MAX_PROFILE}")
        extras["icc_profile"] = zlib.compress(picture.icc_profile, 9)
    device = _device(codec)

    def take(box: Box) -> Tensor:
        x = torch.from_numpy(colour[box.slices].astype(np.float32)).to(device) / peak
        return x.expand(3, *x.shape)[None] if x.ndim == 2 else x.permute(2, 0, 1)[None]

    fits = isinstance(codec, FittedPicture)
    if not fits and (seconds is not None or checkpoint is not None):
        raise CodecError(f"{codec.name or 'this codec'} is not fitted to pictures: there is no time to limit, and nothing to go on from")
    if ((effort and not fits) or mask is not None) and not isinstance(codec, tiles.ImageCodec):
        raise CodecError(f"{codec.name or 'this codec'} has no latent that effort or a region of interest could change")
    plan = plan_of(effort, seconds) if fits and (effort is not None or seconds is not None) else None
    effort = effort or 0
    if not 0 <= effort < len(STEPS):
        raise CodecError(f"effort must lie between 0 and {len(STEPS) - 1}, not {effort}")
    importance = None if mask is None else regions.fitted(mask, height, width)

    def weigh(box: Box) -> Tensor:
        assert importance is not None
        return regions.weights(importance[box.slices]).to(device)

    grid = Grid(height, width, tile)
    size = (height, width, picture.channels)
    if height * width <= whole or not isinstance(codec, tiles.ImageCodec):
        if height * width > MAX_WHOLE_PIXELS:
            raise CodecError(f"{codec.name or 'this codec'} knows no tiles, and the image has more than {MAX_WHOLE_PIXELS} pixels")
        everything = Box(0, 0, height, width)
        compress: Any = codec.compress
        if isinstance(codec, FittedPicture):
            _check_memory(height, width)
            compress = partial(codec.compress, plan=plan, report=report, aim=aim, checkpoint=checkpoint)
        if isinstance(codec, tiles.ImageCodec) and (effort or importance is not None):
            compress = partial(refine, codec, steps=STEPS[effort], weight=None if importance is None else weigh(everything), report=report)
        return encode_signal(codec, take(everything), level, size, extras, compress).data
    if effort:
        raise CodecError(f"effort is for pictures that are coded whole, of up to {whole} pixels, not for {width}×{height}")
    if not tiles.fits(codec, tile):
        raise CodecError(
            f"tiles of {codec.name or 'this codec'} have sides of multiples of {codec.multiple} up to {tiles.MAX_SIDE}, not {tile}"
        )
    level = codec.nearest_level(level)
    streams = tiles.encode(codec, take, level, grid, workers, report, None if importance is None else weigh)
    extras["tiles"] = container.varint(tile)
    return container.write("image", codec.fingerprint or UNSAVED, level, size, streams, extras)


def _check_memory(height: int, width: int) -> None:
    """
    Raises:
        CodecError: a fit of so many pixels takes more memory than the machine has.
    """
    try:
        here = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not say
        return
    if (needed := height * width * FIT_BYTES) > here:
        what = f"a fit to {width}×{height} pixels takes about {needed / 2**30:.0f} GiB of memory, and this machine has {here / 2**30:.0f}"
        raise CodecError(f"{what}; scale the picture down, or use a model that is not fitted")


def encode_to_target(codec: Codec, picture: Picture, target: Target, effort: int | None = None, **choices: Any) -> Hit:
    """The file of a picture that comes closest to a target; with effort, after a search without it has found where to start.

    Args:
        effort, choices: as in :func:`encode_picture`.

    Raises:
        CodecError: as there, and a target that makes no sense, or that the smallest file exceeds.
    """
    peak = PEAKS[picture.pixels.dtype]
    colour = _colour(picture.pixels)
    if picture.alpha is not None:  # colour that nobody sees does not count
        colour = alpha.smooth_hidden(colour, picture.alpha)
    if isinstance(codec, FittedPicture):
        return _fit_to_target(codec, picture, _eight_bit(colour, peak), target, effort, choices)
    found = None
    for amount in sorted({0, effort or 0}):
        found = search(
            target,
            codec,
            _eight_bit(colour, peak),
            lambda level: encode_picture(codec, picture, level, effort=amount, **choices),  # noqa: B023 (used at once)
            lambda data: _eight_bit(_colour(decode_picture(data, [codec], _device(codec), 2**62, dtype=np.float32).pixels), 1),
            None if found is None else found.level,
        )
    assert found is not None
    return checked(target, found, colour.shape[0] * colour.shape[1])


def _fit_to_target(
    codec: FittedPicture, picture: Picture, pixels: np.ndarray, target: Target, effort: int | None, choices: dict[str, Any]
) -> Hit:
    """A short fit or two say which level is next to the target; the long one then steers towards it.

    Args:
        pixels: (H, W, 3) uint8, what quality is measured against.
    """
    count = pixels.shape[0] * pixels.shape[1]
    quiet = {**choices, "report": tiles.nothing, "checkpoint": None, "seconds": None}
    overhead = 0

    def encode(level: float) -> bytes:
        return encode_picture(codec, picture, level, effort=0, **quiet)

    def decode(data: bytes) -> np.ndarray:
        return _eight_bit(_colour(decode_picture(data, [codec], _device(codec), 2**62, dtype=np.float32).pixels), 1)

    found = search(target, codec, pixels, encode, decode, tolerance=NEAR)
    if target.kind == "ms_ssim":
        found = search(
            target, codec, pixels, lambda level: encode_picture(codec, picture, level, effort=effort, **choices), decode, found.level
        )
        return checked(target, found, count)
    overhead = len(found.payload) - sum(map(len, container.read(found.payload).streams))
    wanted = {"bpp": target.value * count / 8 - overhead, "max_bytes": target.value - overhead, "psnr": target.value}[target.kind]
    aim = Aim("psnr" if target.kind == "psnr" else "bytes", wanted, target.kind == "max_bytes")
    if wanted <= 0 or found.bound == "lowest":
        return checked(target, found, count)
    data = encode_picture(codec, picture, found.level, effort=effort, aim=aim, **choices)
    if target.kind == "max_bytes" and len(data) > target.value:
        data = found.payload  # which a short fit has made, but it is small enough
    return Hit(data, found._replace(payload=data), None if found.bound is None else checked(target, found, count).miss)


def decode_picture(
    data: bytes | container.Content,
    candidates: Sequence[str | Path | Codec] = (),
    device: str | torch.device = "cpu",
    max_pixels: int | None = None,
    workers: int | None = None,
    report: Report = tiles.nothing,
    dtype: type[np.generic] | None = None,
) -> Picture:
    """The bytes of a file to a picture.

    Args:
        candidates: names or files of weights to try, or codecs; the shipped weights if empty.
        max_pixels: that a file may ask for; by default 2^27 in tiles and 2^26 otherwise.
        workers, report: as in :func:`encode_picture`.
        dtype: of the pixels, ``np.float32`` for 0…1 without rounding; by default uint8, or uint16 if the picture had 16 bits.

    Raises:
        CodecError: a damaged file, unknown weights, or more pixels than allowed.
    """
    try:
        content = data if isinstance(data, container.Content) else container.read(data)
        header = container.image_header(content)
        codec = codec_for(content, candidates).to(device)
        grid = _grid(codec, content, header)
        limit = max_pixels if max_pixels is not None else MAX_PIXELS if grid else MAX_WHOLE_PIXELS
        check_content(codec, content, limit, grid.count if grid else 1)
        stored = np.uint16 if header.sample_bits == 16 else np.uint8
        dtype = dtype or stored
        peak = PEAKS[np.dtype(dtype)]
        opacity = alpha.decode(content.extras["alpha"], header.height, header.width, stored) if header.alpha else None
        pixels = np.empty((header.height, header.width, header.channels + header.alpha), dtype)

        def put(box: Box, x: Tensor) -> None:
            values = x[0].clamp(0, 1) if header.channels == 3 else x[0].clamp(0, 1).mean(0, keepdim=True)
            values = values.permute(1, 2, 0).cpu() * peak
            pixels[(*box.slices, slice(header.channels))] = (values if peak == 1 else values.round()).numpy().astype(dtype)

        if grid:
            assert isinstance(codec, tiles.ImageCodec)
            tiles.decode(codec, content.streams, content.level, grid, put, workers, report)
        else:
            put(Box(0, 0, header.height, header.width), decode_signal(codec, content, limit).signal)
    except (container.ContainerError, CorruptStream) as error:
        raise CodecError(str(error)) from None
    if opacity is not None:
        pixels[..., -1] = opacity if peak > 1 else opacity / np.float32(np.iinfo(stored).max)
    return Picture(pixels[..., 0] if pixels.shape[2] == 1 else pixels, header.icc_profile)


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


def _eight_bit(colour: np.ndarray, peak: int) -> np.ndarray:
    """(H, W, 3) uint8 of colour that has one or three channels and another peak."""
    pixels = colour if peak == 255 else np.round(colour * (255 / peak)).astype(np.uint8)
    return np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels


def _device(codec: Codec) -> torch.device:
    return next(codec.parameters()).device


def _grid(codec: Codec, content: container.Content, header: ImageHeader) -> Grid | None:
    """The tiles of a file, or none.

    Raises:
        ContainerError: tiles that the codec cannot have written.
    """
    if "tiles" not in content.extras:
        return None
    side, end = container.read_varint(content.extras["tiles"], 0)
    if end != len(content.extras["tiles"]) or not tiles.fits(codec, side):
        raise container.ContainerError("the file's tiles make no sense")
    return Grid(header.height, header.width, side)
