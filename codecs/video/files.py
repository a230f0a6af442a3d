"""Clips ⇄ ``.ncv`` files."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralcodec.codecs import fitted
from neuralcodec.codecs.base import Codec, CodecError
from neuralcodec.codecs.files import UNSAVED, codec_for
from neuralcodec.codecs.video.fit import STEPS, USUAL_EFFORT, Plan, Report, nothing
from neuralcodec.codecs.video.fitted import FittedVideo, Known
from neuralcodec.codecs.video.groups import VideoCodec
from neuralcodec.codecs.video.soundtrack import Soundtrack
from neuralcodec.datasets import colour
from neuralcodec.datasets.video import Clip
from neuralcodec.entropy import container
from neuralcodec.entropy.rans import CorruptStream

MAX_SIDE = 2**14
MAX_SAMPLES = 2**31  # of luma in a clip; a header of 40 bytes can ask for any
MAX_VARINT = 5  # bytes
MAX_GROUP = 2**29  # of luma in a group of pictures, whose latents are in memory together: 64 frames of 3840×2160


class Header(NamedTuple):
    """What a file says of its clip."""

    frames: int
    height: int
    width: int
    rate: Fraction  # frames per second
    bits: int
    matrix: str
    full_range: bool


def pack(clip: Clip) -> Tensor:
    """(1, frames, 6, ⌈H/2⌉, ⌈W/2⌉) in 0…1; rows and columns that odd sizes lack are repeated."""
    peak = 2**clip.bits - 1
    planes = [torch.from_numpy(plane.astype(np.float32) / peak)[:, None] for plane in (clip.y, clip.u, clip.v)]
    luma = F.pad(planes[0], (0, clip.width % 2, 0, clip.height % 2), mode="replicate")
    return torch.cat((F.pixel_unshuffle(luma, 2), *planes[1:]), 1)[None]


def unpack(pictures: Tensor, header: Header) -> Clip:
    """Undo :func:`pack` for (frames, 6, …)."""
    peak = 2**header.bits - 1
    kind = np.uint8 if header.bits == 8 else np.uint16
    whole = torch.round(pictures.clamp(0, 1) * peak).cpu()
    luma = F.pixel_shuffle(whole[:, :4], 2)[:, 0, : header.height, : header.width]
    y, u, v = (np.ascontiguousarray(plane.numpy().astype(kind)) for plane in (luma, whole[:, 4], whole[:, 5]))
    return Clip(y, u, v, header.rate, header.bits, header.matrix, header.full_range)


def encode_clip(
    codec: VideoCodec,
    clip: Clip,
    level: float,
    plan: Plan | None = None,
    report: Report = nothing,
    checkpoint: Path | None = None,
    known: Known | None = None,
    sound: Soundtrack | None = None,
) -> bytes:
    """A clip to the bytes of a file.

    Args:
        level: rounded to the nearest that a file can name.
        plan: of the fit of each group of pictures, where the codec fits; by default its own.
        sound: of :mod:`~neuralcodec.codecs.video.soundtrack`, to be kept beside the pictures.
        checkpoint, known: as in :meth:`~neuralcodec.codecs.video.fitted.FittedVideo.compress`.

    Raises:
        CodecError: a clip that no file can hold.
    """
    if max(clip.height, clip.width) > MAX_SIDE or clip.y.size > MAX_SAMPLES:
        raise CodecError(f"a clip of {len(clip)} frames of {clip.width}×{clip.height} is too large")
    _check_groups(codec, len(clip), clip.height, clip.width)
    level = codec.nearest_level(level)
    size = (clip.height, clip.width)
    if isinstance(codec, FittedVideo):
        compressed = codec.compress(pack(clip), level, plan, report, size, checkpoint, known)
    else:
        compressed = codec.compress(pack(clip).to(next(codec.parameters()).device), level, report=report)
    return to_file(codec, clip, level, compressed.streams, sound)


def to_file(codec: VideoCodec, clip: Clip, level: float, streams: Sequence[bytes], sound: Soundtrack | None = None) -> bytes:
    """What was fitted to a clip to the bytes of a file: see :func:`encode_clip`."""
    tag = 2 * colour.H273[clip.matrix] + clip.full_range
    size = (len(clip), clip.height, clip.width, clip.rate.numerator, clip.rate.denominator, clip.bits, tag)
    extras = {} if sound is None else {sound.extra: sound.data}
    if clip.times is not None:
        extras["frame_times"] = _packed_times(clip.times)
    extras |= fitted.spec_extra(codec)
    return container.write("video", codec.fingerprint or UNSAVED, codec.nearest_level(level), size, streams, extras)


def decode_clip(
    data: bytes | container.Content, frames: tuple[int, int | None] = (0, None), candidates: Sequence[str | Path | Codec] = ()
) -> Clip:
    """The bytes of a file to a clip.

    Args:
        frames: the first one wanted and the first one not wanted; only the groups of pictures that they are in are decoded.
        candidates: models that may have written it, if it is none of those that ship.

    Raises:
        CodecError: a damaged file, or frames that it does not hold.
    """
    try:
        content = data if isinstance(data, container.Content) else container.read(data)
        header = header_of(content)
        codec = codec_of(content, candidates)
        _check_groups(codec, header.frames, header.height, header.width)
        begin, end = frames[0], header.frames if frames[1] is None else frames[1]
        if not 0 <= begin < end <= header.frames:
            raise CodecError(f"frames {begin}:{end} are not among the file's {header.frames}")
        size = (header.frames, header.height, header.width)
        drawn = torch.cat([pictures for pictures, _ in codec.pieces(content.streams, size, content.level, begin, end)])
    except (container.ContainerError, CorruptStream) as error:
        raise CodecError(str(error)) from None
    before = begin - next(group.begin for group in codec.groups(header.frames) if group.end > begin)
    clip = unpack(drawn[before : before + end - begin], header)
    times = _times(content, header.frames)
    if times is None:
        return clip
    return replace(clip, times=tuple(time - times[begin] for time in times[begin:end]))


def _check_groups(codec: VideoCodec, frames: int, height: int, width: int) -> None:
    longest = max(group.end - group.begin for group in codec.groups(frames)[:2])
    if longest * height * width > MAX_GROUP:
        raise CodecError(f"groups of {longest} pictures of {width}×{height} are more than the limit of {MAX_GROUP} samples")


def _packed_times(times: Sequence[Fraction]) -> bytes:
    steps = [other - one for one, other in itertools.pairwise(times)]
    denominator = math.lcm(*(step.denominator for step in steps))
    ticks = [int(step * denominator) for step in steps]
    common = math.gcd(*ticks) or 1
    numbers = (common, denominator, *(tick // common for tick in ticks))
    return zlib.compress(b"".join(container.varint(number) for number in numbers), 9)


def _times(content: container.Content, frames: int) -> list[Fraction] | None:
    """Seconds from the first frame to each."""
    if "frame_times" not in content.extras:
        return None
    try:
        data = zlib.decompressobj().decompress(content.extras["frame_times"], MAX_VARINT * (frames + 2))
        position, numbers = 0, []
        while position < len(data):
            number, position = container.read_varint(data, position)
            numbers.append(number)
        common, denominator, *ticks = numbers
        if len(ticks) != frames - 1 or 0 in numbers:
            raise ValueError
    except (zlib.error, ValueError):
        raise CodecError("the file's times of frames are damaged") from None
    return [Fraction(tick * common, denominator) for tick in itertools.accumulate(ticks, initial=0)]


def plan_of(effort: int | None) -> Plan:
    """
    Raises:
        CodecError: no such effort.
    """
    effort = USUAL_EFFORT if effort is None else effort
    if not 0 <= effort < len(STEPS):
        raise CodecError(f"effort must lie between 0 and {len(STEPS) - 1}, not {effort}")
    return Plan(steps=STEPS[effort])


def header_of(content: container.Content) -> Header:
    """
    Raises:
        ContainerError: the file holds no clip, or what it says of it makes no sense.
        CodecError: it asks for more than is allowed.
    """
    if content.modality != "video":
        raise container.ContainerError(f"the file holds {content.modality}, not a clip")
    frames, height, width, numerator, denominator, bits, tag = content.size
    matrices = {number: name for name, number in colour.H273.items()}
    if not (frames and height and width and numerator and denominator and bits in (8, 10) and tag // 2 in matrices):
        raise container.ContainerError("the file's header makes no sense")
    if max(height, width) > MAX_SIDE or frames * height * width > MAX_SAMPLES:
        raise CodecError(f"the file asks for {frames} frames of {width}×{height}, more than the limit of {MAX_SAMPLES} samples")
    return Header(frames, height, width, Fraction(numerator, denominator), bits, matrices[tag // 2], bool(tag % 2))


def codec_of(content: container.Content, candidates: Sequence[str | Path | Codec] = ()) -> VideoCodec:
    """The codec of a file: see :func:`~neuralcodec.codecs.files.codec_for`.

    Raises:
        CodecError: there is none, or it is none of clips.
    """
    codec = codec_for(content, candidates)
    if not isinstance(codec, VideoCodec):
        raise CodecError(f"the file was written by {codec.name}, which codes no clips")
    return codec


__all__ = ["Header", "decode_clip", "encode_clip", "plan_of"]
