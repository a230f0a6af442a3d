"""Learned codecs for images, audio and video that write real files.

    >>> import neuralcodec
    >>> data = neuralcodec.encode(pixels, quality=50)          # (H, W, 3) uint8 → bytes of a .nci file   # doctest: +SKIP
    >>> pixels = neuralcodec.decode(data)                      # and back                                 # doctest: +SKIP
    >>> data = neuralcodec.encode_sound(samples, 16000, kbps=3)  # (channels, n) float32 → bytes of an .nca file # doctest: +SKIP
    >>> samples, rate = neuralcodec.decode_sound(data)         # and back                                 # doctest: +SKIP
    >>> codec = neuralcodec.load("image-tiny")                 # the torch module itself                  # doctest: +SKIP

Importing this imports no torch; the functions do on their first call.
"""

from __future__ import annotations

import warnings
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

__all__ = ["__version__", "decode", "decode_sound", "encode", "encode_sound", "load"]


def load(name: str | Path = "image-tiny") -> Codec:
    """A codec by the name of shipped weights, or from a weights file, ready to encode and decode.

    Raises:
        neuralcodec.codecs.base.CodecError: there is none, or it is damaged.
    """
    from neuralcodec.codecs import files

    return files.load(name)


def encode(
    image: np.ndarray | Tensor,
    quality: float | None = None,
    model: str | Path = "image-tiny",
    *,
    bpp: float | None = None,
    max_bytes: int | None = None,
    psnr: float | None = None,
    ms_ssim: float | None = None,
    effort: int | None = None,
    roi: np.ndarray | None = None,
    seconds: float | None = None,
) -> bytes:
    """Pixels to the bytes of an ``.nci`` file, of a quality or, by a search over rate levels, closest to one target.

    Args:
        image: an array, (H, W) if greyscale, (H, W, 3) if RGB, of uint8 or uint16, or a tensor (1 or 3, H, W), floating point in 0…1 or
            uint8. A second or fourth channel is opacity, coded without loss.
        quality: 0…100, the rate level; 50 where nothing else is asked for.
        model: name of shipped weights, or a weights file.
        bpp: bits of the whole file per pixel.
        max_bytes: the best file of at most so many bytes.
        psnr: dB, of 8-bit RGB.
        ms_ssim: below 1 a similarity, from 1 up dB.
        effort: 0…5, time spent on a smaller file for the same decoder; by default as little as the model needs.
        roi: (H, W) uint8, white where quality counts.
        seconds: that a model which is fitted to the image may take, such as ``image-overfitted``.

    A target other than ``max_bytes`` that is out of the model's range gives the closest file and a warning.

    Raises:
        neuralcodec.codecs.base.CodecError: an image of another kind, a quality out of range, two targets, ``max_bytes`` that no file
            meets, no such model.
    """
    from neuralcodec.codecs.image import files
    from neuralcodec.codecs.image.targets import target_of

    codec = load(model)
    picture = files.as_picture(image)
    target = target_of(bpp, max_bytes, psnr, ms_ssim, quality)
    choices: dict = {"effort": effort, "mask": roi, "seconds": seconds}
    if target is None:
        return files.encode_picture(codec, picture, codec.level_for_quality(50 if quality is None else quality), **choices)
    hit = files.encode_to_target(codec, picture, target, **choices)
    if hit.miss:
        warnings.warn(hit.miss, stacklevel=2)
    return hit.data


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


def encode_sound(
    samples: np.ndarray | Tensor,
    sampling_rate: int,
    quality: float | None = None,
    model: str | Path = "speech-16k",
    *,
    kbps: float | None = None,
) -> bytes:
    """Samples to the bytes of an ``.nca`` file, of a quality or, by a search over rate levels, closest to a rate.

    Args:
        samples: (n,) or (channels, n), floating point in -1…1 or int16.
        sampling_rate: Hz; resampled to the model's and, by the decoder, back.
        quality: 0…100, the rate level; 50 where nothing else is asked for.
        model: name of shipped weights, or a weights file.
        kbps: kbit/s of the whole file. A rate that is out of the model's range gives the closest file and a warning.

    Raises:
        neuralcodec.codecs.base.CodecError: not such samples, a quality out of range, two targets, no such model.
    """
    from neuralcodec.codecs.audio import files, targets
    from neuralcodec.codecs.errors import CodecError

    if quality is not None and kbps is not None:
        raise CodecError("--kbps and --quality cannot both be aimed at")
    codec = load(model)
    sound = files.as_sound(samples, sampling_rate)
    if kbps is None:
        return files.encode_sound(codec, sound, codec.level_for_quality(50 if quality is None else quality)).data
    found = targets.level_of_rate(codec, sound, kbps)
    if text := targets.miss(found, kbps):
        warnings.warn(text, stacklevel=2)
    return found.payload


def decode_sound(data: bytes, model: str | Path | None = None) -> tuple[np.ndarray, int]:
    """The bytes of an ``.nca`` file to samples, (channels, n) float32, and their sampling rate in Hz.

    Args:
        model: the weights that wrote the file, if they are not among the shipped ones.

    Raises:
        neuralcodec.codecs.base.CodecError: a damaged file, or one that other weights wrote.
    """
    from neuralcodec.codecs.audio import files

    sound = files.decode_sound(files.codec_of(data, [model] if model else []), data).sound
    return sound.samples, sound.rate
