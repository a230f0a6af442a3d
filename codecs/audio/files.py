"""Sounds ⇄ ``.nca`` files. A codec works at one sampling rate; sounds of another are resampled to it and back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neuralcodec.codecs.base import Codec, CodecError
from neuralcodec.codecs.files import MAX_SAMPLES, Coded, decode_signal, encode_signal
from neuralcodec.datasets.audio import HIGHEST_RATE, LOWEST_RATE, MAX_CHANNELS, Sound, resample
from neuralcodec.entropy import container


class DecodedSound(NamedTuple):
    sound: Sound  # of the original's length, rate and channels
    symbols: dict[str, Tensor]


def to_tensor(sound: Sound, rate: int) -> Tensor:
    """(1, channels, n) at a codec's rate."""
    return torch.from_numpy(resample(sound, rate).samples.copy())[None]


def encode_sound(codec: Codec, sound: Sound, level: float) -> Coded:
    """A sound to the bytes of a file.

    Raises:
        CodecError: what no file can hold: no samples, too many, too many channels, a rate out of range.
    """
    channels, samples = sound.samples.shape
    if not samples or not 1 <= channels <= MAX_CHANNELS or not LOWEST_RATE <= sound.rate <= HIGHEST_RATE:
        raise CodecError(f"a sound has samples of 1 … {MAX_CHANNELS} channels, not {sound.samples.shape} at {sound.rate} Hz")
    try:
        x = to_tensor(sound, codec.sampling_rate)
    except ValueError as error:
        raise CodecError(str(error)) from None
    if max(samples, x.shape[-1]) * channels > MAX_SAMPLES:
        raise CodecError(f"sounds of more than {MAX_SAMPLES} samples are not supported yet")
    return encode_signal(codec, x, level, (samples, sound.rate, channels))


def decode_sound(codec: Codec, data: bytes, limit: int | None = None) -> DecodedSound:
    """The bytes of a file to a sound.

    Raises:
        CodecError: a damaged file, another codec's, or one that asks for more samples than allowed.
    """
    try:
        content = container.read(data)
        decoded = decode_signal(codec, content, limit)
        samples, rate, channels = content.size
        sound = resample(Sound(decoded.signal[0].cpu().numpy(), codec.sampling_rate), rate)
    except ValueError as error:
        raise CodecError(str(error)) from None
    if sound.samples.shape[0] != channels or sound.samples.shape[1] < samples:
        raise CodecError("the file's header makes no sense")
    return DecodedSound(Sound(sound.samples[:, :samples], rate), decoded.symbols)
