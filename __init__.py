"""Learned codecs for images, audio and video that write real files.

    >>> import neuralcodec
    >>> data = neuralcodec.encode(pixels, quality=50)          # (H, W, 3) uint8 → bytes of a .nci file   # doctest: +SKIP
    >>> pixels = neuralcodec.decode(data)                      # and back                                 # doctest: +SKIP
    >>> codec = neuralcodec.load("image-tiny")                 # the torch module itself                  # doctest: +SKIP

Importing this imports no torch; the functions do on their first call.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from neuralcodec.codecs.base import Codec

try:
    __version__ = version("neuralcodec")
except PackageNotFoundError:  # run from a bare copy of the files
    __version__ = "0"

__all__ = ["__version__", "decode", "encode", "load"]


def load(name: str | Path = "image-tiny") -> Codec:
    """A codec by the name of shipped weights, or from a weights file, ready to encode and decode.

    Raises:
        neuralcodec.codecs.base.CodecError: there is none, or it is damaged.
    """
    from neuralcodec.codecs import files

    return files.load(name)


def encode(image: np.ndarray | Tensor, quality: float = 50, model: str | Path = "image-tiny") -> bytes:
    """Pixels to the bytes of an ``.nci`` file.

    Args:
        image: an array, (H, W) if greyscale, (H, W, 3) if RGB, of uint8 or uint16, or a tensor (1 or 3, H, W), floating point in 0…1 or
            uint8. A second or fourth channel is opacity, coded without loss.
        quality: 0…100, the rate level.
        model: name of shipped weights, or a weights file.

    Raises:
        neuralcodec.codecs.base.CodecError: an image of another kind, a quality out of range, no such model.
    """
    from neuralcodec.codecs.image import files

    codec = load(model)
    return files.encode_picture(codec, files.as_picture(image), codec.level_for_quality(quality))


@overload
def decode(data: bytes, model: str | Path | None = None, as_tensor: Literal[False] = False) -> np.ndarray: ...


@overload
def decode(data: bytes, model: str | Path | None = None, *, as_tensor: Literal[True]) -> Tensor: ...


def decode(data: bytes, model: str | Path | None = None, as_tensor: bool = False) -> np.ndarray | Tensor:
    """The bytes of an ``.nci`` file to pixels: (H, W, 3), or (H, W) if the image was greyscale; one channel more if it has opacity.

    Args:
        model: the weights that wrote the file, if they are not among the shipped ones.
        as_tensor: a tensor (channels, H, W) in 0…1, not rounded, instead of an array of uint8 (uint16, if the image was of 16 bits).

    Raises:
        neuralcodec.codecs.base.CodecError: a damaged file, or one that other weights wrote.
    """
    from neuralcodec.codecs.image import files

    candidates = [model] if model else []
    return files.decode_tensor(data, candidates) if as_tensor else files.decode_picture(data, candidates).pixels
