"""What people ask of an image file, its size or its quality, as a level of a codec."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from neuralcodec.codecs.base import Codec, CodecError
from neuralcodec.codecs.rate import QUALITY_TOLERANCE, RATE_TOLERANCE, Found, Trial, find_level

Kind = Literal["bpp", "max_bytes", "psnr", "ms_ssim"]

# What one bit per pixel and unit of squared error buys, whatever the codec: λ and the rates and PSNR of image-tiny on Kodak, fitted by
# eye to within what images differ by; MS-SSIM is a guess. Only the number of trials depends on them.
BPP_OF_LMBDA, BPP_EXPONENT = 5.8, 0.58  # bpp = 5.8 λ^0.58
PSNR_OF_LMBDA, PSNR_PER_NAT = 45.0, 2.75  # dB = 45 + 2.75 ln λ
MS_SSIM_OF_LMBDA, MS_SSIM_PER_NAT = 27.0, 2.5  # dB


class Target(NamedTuple):
    """What a file should be.

    ``bpp``: bits of the whole file per pixel. ``max_bytes``: at most so many bytes. ``psnr``: dB of RGB. ``ms_ssim``: a similarity below 1,
    or dB from 1 up, which are -10·log10(1 - similarity).
    """

    kind: Kind
    value: float


def target_of(
    bpp: float | None, max_bytes: int | None, psnr: float | None, ms_ssim: float | None, quality: float | None = None
) -> Target | None:
    """The target that is given, if any.

    Raises:
        CodecError: more than one, or a quality as well.
    """
    kinds: tuple[Kind, ...] = ("bpp", "max_bytes", "psnr", "ms_ssim")
    given = [Target(kind, value) for kind, value in zip(kinds, (bpp, max_bytes, psnr, ms_ssim)) if value is not None]
    if len(given) > 1:
        raise CodecError(f"{_name(given[0].kind)} and {_name(given[1].kind)} cannot both be aimed at")
    if given and quality is not None:
        raise CodecError(f"{_name(given[0].kind)} and --quality cannot both be aimed at")
    return given[0] if given else None


class Hit(NamedTuple):
    data: bytes  # the whole file
    found: Found[bytes]
    miss: str | None  # one line for people, where the codec's range ends before the target


def search(
    target: Target,
    codec: Codec,
    pixels: np.ndarray,
    encode: Callable[[float], bytes],
    decode: Callable[[bytes], np.ndarray],
    start: float | None = None,
    tolerance: float | None = None,
) -> Found[bytes]:
    """The file that comes closest to a target, or the largest that does not exceed it.

    Args:
        pixels: (H, W, 3) uint8, what quality is measured against.
        encode: level to the bytes of a file.
        decode: back to pixels.
        start: level to begin with, where a better one is known than what is typical.
        tolerance: of the logarithm of a rate, or of dB; by default what a quarter of a level makes.

    Raises:
        CodecError: a target that makes no sense.
    """
    measure, aim = _measure(target, pixels, decode)
    offset, slope = _typical(target.kind, pixels.shape[0] * pixels.shape[1])
    low, high = codec.lmbda_range
    nats = math.log(high / low) or 1.0  # of λ, from the lowest level to the highest
    if start is None:
        start = ((aim - offset) / slope - math.log(low)) / nats * (codec.levels - 1)

    def attempt(level: float) -> Trial[bytes]:
        data = encode(level)
        return Trial(measure(data), data)

    rate = target.kind in ("bpp", "max_bytes")
    return find_level(
        attempt,
        aim,
        codec.levels,
        start,
        slope * nats / max(codec.levels - 1, 1),
        tolerance or (RATE_TOLERANCE if rate else QUALITY_TOLERANCE),
        ceiling=target.kind == "max_bytes",
    )


def checked(target: Target, found: Found[bytes], pixels: int) -> Hit:
    """What was found, with a line that says what bounds it if it is not what was asked for.

    Raises:
        CodecError: the smallest file exceeds ``max_bytes``.
    """
    if target.kind == "max_bytes" and found.bound == "lowest":
        raise CodecError(f"{len(found.payload)} bytes are the least that this model needs here, more than --max-bytes {target.value:g}")
    if not found.bound or target.kind == "max_bytes":
        return Hit(found.payload, found, None)
    reached = {
        "bpp": f"{len(found.payload) * 8 / pixels:.4g} bpp",
        "psnr": f"{found.value:.2f} dB",
        "ms_ssim": f"{1 - 10 ** (-found.value / 10):.4f} ({found.value:.2f} dB)",
    }[target.kind]
    return Hit(found.payload, found, f"{_name(target.kind)} {target.value:g} is out of reach: the {found.bound} level gives {reached}")


def _measure(target: Target, pixels: np.ndarray, decode: Callable[[bytes], np.ndarray]) -> tuple[Callable[[bytes], float], float]:
    """What to measure of a file, on a scale that grows about linearly with the level, and the target on it."""
    kind, value = target
    count = pixels.shape[0] * pixels.shape[1]
    if not (math.isfinite(value) and value > 0):
        raise CodecError(f"{_name(kind)} must be a positive number, not {value:g}")
    if kind in ("bpp", "max_bytes"):
        return lambda data: math.log(len(data)), math.log(value if kind == "max_bytes" else value * count / 8)

    from neuralcodec.eval.metrics.image import MS_SSIM_SIDE, decibels, quality

    name = "psnr_rgb" if kind == "psnr" else "ms_ssim_rgb"
    if kind == "ms_ssim" and min(pixels.shape[:2]) <= MS_SSIM_SIDE:
        raise CodecError(f"MS-SSIM is not defined for images whose sides are not above {MS_SSIM_SIDE} pixels")

    def of_file(data: bytes) -> float:
        measured = quality(pixels, decode(data))[name]
        return measured if kind == "psnr" else decibels(measured)

    return of_file, decibels(value) if kind == "ms_ssim" and value < 1 else value


def _typical(kind: Kind, pixels: int) -> tuple[float, float]:
    """Value at λ = 1, and how much it grows by per nat of λ."""
    if kind == "psnr":
        return PSNR_OF_LMBDA, PSNR_PER_NAT
    if kind == "ms_ssim":
        return MS_SSIM_OF_LMBDA, MS_SSIM_PER_NAT
    return math.log(BPP_OF_LMBDA * pixels / 8), BPP_EXPONENT


def _name(kind: Kind) -> str:
    return "--" + kind.replace("_", "-")


__all__ = ["Hit", "Target", "checked", "search", "target_of"]
