"""Signals ⇄ files: the container around a codec's streams, and the weights that a file asks for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from neuralcodec.codecs import CONFIGS, PEERS, WEIGHTS, fitted
from neuralcodec.codecs.base import Codec, CodecError, Compressed, Decompressed, fingerprint_of, load_weights
from neuralcodec.datasets.audio import HIGHEST_RATE, LOWEST_RATE, MAX_CHANNELS
from neuralcodec.entropy import container, segments
from neuralcodec.entropy.rans import CorruptStream

MAX_PIXELS = 2**27  # a header of 24 bytes can ask for any picture; more than this needs the caller's word
MAX_WHOLE_PIXELS = 2**26  # the same of a picture that is not cut into tiles, which takes far more memory
MAX_SAMPLES = 2**27  # of all channels: 2.3 hours of mono at 16 kHz
LIMITS = {"image": MAX_WHOLE_PIXELS, "audio": MAX_SAMPLES}  # of signals that are coded in one piece
UNSAVED = bytes(4)  # fingerprint of a codec whose weights are in no file


class Coded(NamedTuple):
    data: bytes  # the whole file
    symbols: dict[str, Tensor]


def encode_signal(
    codec: Codec,
    x: Tensor,
    level: float,
    size: Sequence[int] | None = None,
    extras: Mapping[str, bytes] | None = None,
    compress: Callable[[Tensor, float], Compressed] | None = None,
) -> Coded:
    """A signal (1, C, …) to the bytes of a file.

    Args:
        level: rounded to the nearest that a file can name.
        size: of the original signal, as ``container.SIZES`` names it and the header keeps it; by default that of ``x``.
        extras: what else the file is to say, by the names of ``container.EXTRAS``.
        compress: another way to the codec's streams than :meth:`~neuralcodec.codecs.base.Codec.compress`.
    """
    level = codec.nearest_level(level)
    compressed = (compress or codec.compress)(x, level)
    if size is None:
        size = (x.shape[-1], codec.sampling_rate, x.shape[1]) if codec.modality == "audio" else (*x.shape[-2:], x.shape[1])
    extras = {**(extras or {}), **fitted.spec_extra(codec)}
    data = container.write(codec.modality, codec.fingerprint or UNSAVED, level, size, compressed.streams, extras)
    return Coded(data, compressed.symbols)


def decode_signal(codec: Codec, data: bytes | container.Content, limit: int | None = None) -> Decompressed:
    """The bytes of a file to a signal, by the codec that wrote it.

    Args:
        limit: pixels, or samples of all channels, that a file may ask for.

    Raises:
        CodecError: a damaged file, one that another codec wrote, or one that asks for more than allowed.
    """
    try:
        content = data if isinstance(data, container.Content) else container.read(data)
        if "tiles" in content.extras:
            raise CodecError("the file holds a picture in tiles, which only decode_picture puts together")
        check_content(codec, content, limit)
        return codec.decompress(content.streams, _size(codec, content), content.level)
    except (container.ContainerError, CorruptStream) as error:
        raise CodecError(str(error)) from None


def check_content(codec: Codec, content: container.Content, limit: int | None = None, pieces: int = 1) -> None:
    """Refuse what the codec cannot have written, before anything is allocated.

    Args:
        pieces: the signal is coded in so many, each with streams of its own.

    Raises:
        CodecError: another codec's file, or one that asks for more than ``limit``.
        ContainerError: a header that makes no sense.
    """
    if content.fingerprint != (codec.fingerprint or UNSAVED):
        raise CodecError(f"the file was written by other weights ({content.fingerprint.hex()}) than {codec.name or 'these'}")
    sensible = content.modality == codec.modality and content.level <= codec.levels - 1
    sensible = sensible and len(content.streams) == len(codec.streams) * pieces
    limit = LIMITS[codec.modality] if limit is None else limit
    if codec.modality == "audio":
        samples, rate, channels = content.size if sensible else (0, 0, 0)
        sensible = sensible and bool(samples) and LOWEST_RATE <= rate <= HIGHEST_RATE and 1 <= channels <= MAX_CHANNELS
        count = max(samples, _length(codec, samples, rate) if sensible else 0) * channels
        asked = f"{samples} samples of {channels} channel(s), more than the limit of {limit}"
    else:
        height, width, channels = content.size if sensible else (0, 0, 0)
        sensible = sensible and bool(height) and bool(width) and channels in (1, 3)
        count = height * width
        asked = f"{width}×{height} pixels, more than the limit of {limit}; --max-pixels raises it"
    if not sensible:
        raise container.ContainerError("the file's header makes no sense")
    if count > limit:
        raise CodecError(f"the file asks for {asked}")


def _size(codec: Codec, content: container.Content) -> tuple[int, ...]:
    """Of the signal at the codec, without batch and channels."""
    return (_length(codec, *content.size[:2]),) if codec.modality == "audio" else content.size[:2]


def _length(codec: Codec, samples: int, rate: int) -> int:
    """Samples at the codec's rate of so many at another, as :func:`neuralcodec.datasets.audio.resample` gives them."""
    return -(-samples * codec.sampling_rate // rate)


@cache
def load(name: str | Path) -> Codec:
    """A codec by the name of shipped weights, from a weights file, or from elsewhere: ``hub:owner/name``, ``encodec:FOLDER``, …

    Raises:
        CodecError: neither exists, or it is not readable.
    """
    if str(name) in WEIGHTS:
        return load_weights(WEIGHTS[str(name)])
    if str(name) in CONFIGS or str(name).endswith((".yaml", ".yml")):
        return fitted.load(name)
    if Path(name).exists():
        return load_weights(name)
    kind, colon, rest = str(name).partition(":")
    if colon and kind in PEERS:
        module, _, function = PEERS[kind].rpartition(".")
        return getattr(importlib.import_module(module), function)(rest)
    raise CodecError(f"there is no model {str(name)!r}: neither a weights file nor one of {', '.join(WEIGHTS) or 'no shipped weights'}")


@cache
def _fingerprint(path: Path, modified: int) -> bytes:
    return fingerprint_of(path)


def codec_for(content: container.Content | segments.Header, candidates: Sequence[str | Path | Codec] = ()) -> Codec:
    """The codec whose fingerprint a file carries, among ``candidates`` if given, else among the shipped weights.

    Raises:
        CodecError: none of them.
    """
    if not candidates:
        for name, path in WEIGHTS.items():
            if _fingerprint(path, path.stat().st_mtime_ns) == content.fingerprint:  # without building one codec after another
                return load(name)
    for candidate in candidates:
        codec = candidate if isinstance(candidate, Codec) else load(candidate)
        if (codec.fingerprint or UNSAVED) == content.fingerprint:
            return codec
    if isinstance(content, container.Content) and (known := fitted.codec_of(content)):
        return known
    where = ", ".join(map(str, candidates)) if candidates else "the shipped models"
    written_by = content.fingerprint.hex()
    raise CodecError(f"the file was written by weights {written_by}, which are not among {where}; pass them with --model FILE")
