"""Regions of interest: where errors of an image count, and by how much less elsewhere. The decoder knows nothing of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from neuralcodec.codecs.base import CodecError
from neuralcodec.codecs.blocks import pad_to_multiple
from neuralcodec.codecs.image.hyperprior import ImageCodec
from neuralcodec.codecs.image.pictures import Picture, read_picture, to_pillow
from neuralcodec.codecs.image.transforms import STRIDE

BACKGROUND = 1 / 16  # weight of squared errors where a mask is black


def read_mask(source: str | Path) -> np.ndarray:
    """A picture file as a mask, (H, W) uint8; colours become grey.

    Raises:
        CodecError: not a picture that can be read.
    """
    picture = read_picture(source, str(source))
    pixels = picture.pixels
    if pixels.dtype == np.uint16:
        pixels = (pixels // 257).astype(np.uint8)
    return np.asarray(to_pillow(Picture(pixels)).convert("L"))


def fitted(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """A mask (H, W) uint8, scaled to an image's size if it is of another.

    Raises:
        CodecError: another shape or type.
    """
    mask = np.asarray(mask)
    if mask.dtype != np.uint8 or mask.ndim != 2 or not mask.size:
        raise CodecError(f"a mask is (H, W) of uint8, not {mask.shape} of {mask.dtype}")
    if mask.shape == (height, width):
        return mask
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.BILINEAR))


def weights(mask: np.ndarray) -> Tensor:
    """How much squared errors count at each pixel, (1, 1, H, W): 1 where a mask (H, W) is white, ``BACKGROUND`` where it is black.

    Between them it is geometric: middle grey counts as much as the square root of black.
    """
    return BACKGROUND ** (1 - torch.from_numpy(mask.astype(np.float32))[None, None] / 255)


def on_grid(weight: Tensor, codec: ImageCodec) -> Tensor:
    """Weights of pixels (1, 1, H, W) to those of a latent's positions: the largest among the pixels that each one shapes most."""
    padded = pad_to_multiple(weight, codec.multiple)
    return F.max_pool2d(padded, 2 * STRIDE, STRIDE, STRIDE // 2)


__all__ = ["BACKGROUND", "fitted", "on_grid", "read_mask", "weights"]
