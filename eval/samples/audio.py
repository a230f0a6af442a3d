"""Sounds on the page: a few seconds, losslessly, and their spectrograms, all on the scale of the original's."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import torch
from torchaudio.transforms import MelSpectrogram

from neuralcodec.datasets.audio import Sound
from neuralcodec.eval.samples.image import webp

CODED = 30.0  # seconds at most of an item that are coded
SHOWN = 6.0  # seconds at most of these on the page
WINDOW = 0.04  # seconds
BANDS = 160
COLUMNS = 640
RANGE = 80.0  # dB below the original's loudest band that are drawn
TICKS = (250, 1000, 2000, 4000, 8000, 16000)  # Hz


def excerpt(sound: Sound) -> Sound:
    """The first seconds."""
    return Sound(sound.samples[:, : round(CODED * sound.rate)], sound.rate)


def embedded(sound: Sound, original: Sound) -> dict:
    """The sound as a FLAC file of 16 bits, its mel spectrogram, and where in that picture, from 0 below to 1, frequencies are."""
    import soundfile

    shown, reference = (Sound(each.samples[:, : round(SHOWN * each.rate)], each.rate) for each in (sound, original))
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(shown.samples, -1, 1).T, shown.rate, format="FLAC", subtype="PCM_16")
    nyquist = original.rate / 2
    return {
        "sound": "data:audio/flac;base64," + base64.b64encode(buffer.getvalue()).decode(),
        "seconds": shown.seconds,
        "spectrogram": spectrogram(shown, reference),
        "ticks": [[f"{hertz / 1000:g} kHz", _mel(hertz) / _mel(nyquist)] for hertz in TICKS if hertz <= nyquist],
    }


def spectrogram(sound: Sound, original: Sound) -> str:
    """A picture of :data:`BANDS` × :data:`COLUMNS`, as a data URL: dB of mel bands, HTK's scale, of the mean of the channels."""
    import matplotlib

    levels, reference = (_levels(each) for each in (sound, original))
    top = float(reference.max())
    shares = np.clip((levels - (top - RANGE)) / RANGE, 0, 1)
    pixels = matplotlib.colormaps["magma"](shares[::-1], bytes=True)[..., :3]
    return webp(np.ascontiguousarray(pixels), quality=85, method=6)


def _levels(sound: Sound) -> np.ndarray:
    """(bands, columns) in dB."""
    window = 2 ** round(math.log2(WINDOW * sound.rate))
    count = sound.samples.shape[1]
    hop = max(1, -(-count // COLUMNS))
    mel = MelSpectrogram(sound.rate, n_fft=4 * window, win_length=window, hop_length=hop, n_mels=BANDS, power=2.0, pad_mode="constant")
    power = mel(torch.from_numpy(np.ascontiguousarray(sound.samples.mean(0))))
    return (10 * torch.log10(power + 1e-12)).numpy()


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)
