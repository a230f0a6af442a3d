"""Opacity of pictures: coded without loss, and the colour below it that nobody sees made cheap to code."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from neuralcodec.codecs.base import CodecError, first_line
from neuralcodec.codecs.image.pictures import pixel_limit

WEBP_SIDE = 16383  # the longest that WebP has
BLOCK = 8  # pixels along each side of what gets one colour below transparency
STRIP = 64 * BLOCK  # rows at a time


def encode(alpha: np.ndarray) -> bytes:
    """(H, W) uint8 or uint16 to the smaller of a PNG and a lossless WebP file."""
    if alpha.dtype == np.uint16 and not (alpha % 257).any():
        alpha = (alpha // 257).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(alpha))
    files = [_saved(image, "PNG", optimize=True)]
    if alpha.dtype == np.uint8 and max(alpha.shape) <= WEBP_SIDE:
        files.append(_saved(image, "WEBP", lossless=True, method=6 if alpha.size < 2**20 else 3))
    return min(files, key=len)


def decode(data: bytes, height: int, width: int, dtype: type[np.generic]) -> np.ndarray:
    """Undo :func:`encode`.

    Raises:
        CodecError: anything but such a file of these sizes.
    """
    try:
        with pixel_limit(height * width):
            image = Image.open(io.BytesIO(data), formats=("PNG", "WEBP"))
        if image.size != (width, height):
            raise CodecError("the file's transparency is not of the picture's size")
        if image.mode == "I;16" and dtype is np.uint16:
            return np.asarray(image).astype(np.uint16)
        if image.mode not in ("1", "L", "RGB"):
            raise CodecError("the file's transparency is not greyscale")
        values = np.asarray(image.getchannel(0) if image.mode == "RGB" else image.convert("L"))  # WebP has no greyscale of its own
    except CodecError:
        raise
    except Exception as error:  # what Pillow's decoders raise at damaged files has nothing in common
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else first_line(error)
        raise CodecError(f"the file's transparency is damaged ({reason})") from None
    return values.astype(np.uint16) * 257 if dtype is np.uint16 else values


def smooth_hidden(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colour (H, W) or (H, W, 3) with whatever lies below full transparency replaced by what lies around it, smoothly.

    Means of blocks of visible pixels spread into hidden blocks by a pyramid, coarse to fine, and are interpolated there.
    """
    hidden = alpha == 0
    if not hidden.any():
        return colour
    planes = colour[..., None] if colour.ndim == 2 else colour
    height = len(planes)
    starts = range(0, height, STRIP)
    sums, counts = zip(*(_block_sums(planes[start : start + STRIP], hidden[start : start + STRIP]) for start in starts))
    coarse = _spread(torch.cat(sums, -2), torch.cat(counts, -2))
    out = planes.copy()
    for start in starts:
        here = hidden[start : start + STRIP]
        first, last = start // BLOCK, -(-(start + len(here)) // BLOCK)
        around = coarse[..., max(first - 1, 0) : last + 1, :]
        fine = F.interpolate(around, scale_factor=BLOCK, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
        fine = fine[(first - max(first - 1, 0)) * BLOCK :][: len(here), : here.shape[1]]
        values = fine if colour.dtype == np.float32 else fine.round()
        out[start : start + STRIP][here] = values.numpy()[here].astype(colour.dtype)
    return out.reshape(colour.shape)


def _block_sums(planes: np.ndarray, hidden: np.ndarray) -> tuple[Tensor, Tensor]:
    """Of the visible pixels of every block: (1, channels, rows, columns) and their number (1, 1, rows, columns)."""
    visible = torch.from_numpy(~hidden).float()[None, None]
    values = torch.from_numpy(planes.astype(np.float32)).permute(2, 0, 1)[None] * visible
    padding = (0, -planes.shape[1] % BLOCK, 0, -planes.shape[0] % BLOCK)
    sums, counts = (F.avg_pool2d(F.pad(each, padding), BLOCK) * BLOCK**2 for each in (values, visible))
    return sums, counts


def _spread(sums: Tensor, counts: Tensor) -> Tensor:
    """Means where there is something to take a mean of, elsewhere those of twice the block, and so on."""
    means = sums / counts.clamp_min(1)
    if counts.shape[-2:] == (1, 1):
        return means
    padding = (0, counts.shape[-1] % 2, 0, counts.shape[-2] % 2)
    halved = _spread(*(F.avg_pool2d(F.pad(each, padding), 2) * 4 for each in (sums, counts)))
    above = F.interpolate(halved, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.where(counts > 0, means, above[..., : counts.shape[-2], : counts.shape[-1]])


def _saved(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()
