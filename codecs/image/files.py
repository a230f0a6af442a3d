"""Pictures as people have them ⇄ ``.nci`` files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from neuralcodec.codecs.base import Codec, CodecError
from neuralcodec.codecs.files import MAX_PIXELS, codec_for, decode_signal, encode_signal
from neuralcodec.entropy import container

EIGHT_BIT = {"L", "RGB", "P", "1"}


def read_picture(source, name: str = "the image") -> np.ndarray:
    """A picture file as 8-bit pixels: (H, W) if greyscale, else (H, W, 3). EXIF orientation is applied.

    Args:
        source: a path or a binary file object.
        name: what to call it in messages.

    Raises:
        CodecError: not a picture, a damaged one, or one that has what these codecs would drop: transparency, more than 8 bits, CMYK.
    """
    try:
        with Image.open(source) as opened:
            image: Image.Image = opened
            if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
                if _opaque(image):
                    image = image.convert("RGB" if image.mode != "LA" else "L")
                else:
                    raise CodecError(f"{name} has transparency, which is not supported yet; flatten it first")
            elif image.mode not in EIGHT_BIT:
                kind = "CMYK" if image.mode == "CMYK" else f"{image.mode} (more than 8 bits a sample, or another colour space)"
                raise CodecError(f"{name} is {kind}, which is not supported yet; convert it to 8-bit RGB or greyscale first")
            image = ImageOps.exif_transpose(image)
            if image.mode == "1" or (image.mode == "P" and _grey_palette(image)):
                image = image.convert("L")
            return np.asarray(image if image.mode == "L" else image.convert("RGB"))
    except FileNotFoundError:
        raise CodecError(f"there is no file {name}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not a picture that can be read" if isinstance(error, UnidentifiedImageError) else str(error).splitlines()[0]
        raise CodecError(f"{name}: {reason}") from None


def encode_pixels(codec: Codec, pixels: np.ndarray, level: float) -> bytes:
    """(H, W, 3) or (H, W) uint8 to the bytes of a file.

    Raises:
        CodecError: another shape or type, or no pixels at all.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] != 3) or not pixels.size:
        raise CodecError(f"an image is (H, W, 3) or (H, W) of uint8, not {pixels.shape} of {pixels.dtype}")
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise CodecError(f"images of more than {MAX_PIXELS} pixels are not supported yet")
    grey = pixels.ndim == 2
    rgb = np.repeat(pixels[..., None], 3, 2) if grey else pixels
    x = torch.from_numpy(np.array(rgb)).to(_device(codec)).permute(2, 0, 1)[None].float() / 255
    return encode_signal(codec, x, level, (*pixels.shape[:2], 1 if grey else 3)).data


def decode_pixels(data: bytes, candidates: Sequence[str | Path] = (), device: str = "cpu", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The bytes of a file to (H, W, 3) uint8, or (H, W) if the picture was greyscale.

    Args:
        candidates: names or files of weights to try; the shipped ones if empty.

    Raises:
        CodecError: a damaged file, unknown weights, or more pixels than allowed.
    """
    try:
        content = container.read(data)
    except container.ContainerError as error:
        raise CodecError(str(error)) from None
    codec = codec_for(content, candidates).to(device)
    x = decode_signal(codec, content, max_pixels).signal
    pixels = (x[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    if content.size[2] == 1:
        return np.round(pixels.astype(np.float32).mean(2)).astype(np.uint8)
    return pixels


def _device(codec: Codec) -> torch.device:
    return next(codec.parameters()).device


def _opaque(image: Image.Image) -> bool:
    return int(np.asarray(image.convert("RGBA").getchannel("A")).min()) == 255


def _grey_palette(image: Image.Image) -> bool:
    rgb = np.asarray(image.convert("RGB"))
    return bool((rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all())
