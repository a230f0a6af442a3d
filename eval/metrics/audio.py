"""Quality of sounds, by maintained implementations of what the literature reports.

``pesq``, ``pystoi`` and ``visqol-python[accel,lattice]`` are optional: ``pip install neuralcodec[measure]`` brings them. A metric whose
package is absent is absent from definitions and results; :data:`MISSING` names it.

A metric that is not defined for an item, PESQ of a sound without speech for one, has no value there. No value is made up for it.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch

from neuralcodec.datasets.audio import Sound, resample
from neuralcodec.eval.metrics.pesq_process import PesqProcess

SPEECH_RATE = 16000  # Hz: wideband PESQ and ViSQOL's speech mode
FULL_RATE = 48000  # Hz: ViSQOL's audio mode
MEL_SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))  # (window in samples, bands)
MEL_FLOOR = 1e-5
SILENCE = 1e-10  # mean square below which a sound counts as silent: -100 dB of full scale

_DEFINED = {  # metric: (modules that it needs, definition)
    "pesq_wb": (
        "pesq",
        "MOS-LQO 1…4.64; wideband PESQ, ITU-T P.862.2, of the mean of the channels at 16 kHz (package pesq, which first scales both sounds "
        "by one factor, so that the louder peaks at full scale); mean over the sounds in which it finds utterances, not many more than 50",
    ),
    "stoi": (
        "pystoi",
        "0…1; short-time objective intelligibility, Taal et al. 2011, not extended, of the mean of the channels (package pystoi); "
        "mean over the sounds with at least 30 frames (0.4 s) that are not silent",
    ),
    "visqol_speech": (
        "visqol ai_edge_litert",
        "MOS-LQO 1…5; ViSQOL v3 (package visqol-python) in speech mode, of sounds at 16 kHz: of the mean of the channels, lattice mapping "
        "of NSIM to MOS (use_lattice_model=True, the C++ program's default); mean over sounds",
    ),
    "visqol_audio": (
        "visqol",
        "MOS-LQO 1…5; ViSQOL v3 (package visqol-python) in audio mode, of sounds at other rates than 16 kHz, resampled to 48 kHz: of the "
        "mean of the channels, SVR mapping of NSIM to MOS; mean over sounds. Does not compare with visqol_speech",
    ),
    "si_sdr": (
        "torchmetrics",
        "dB; scale-invariant signal-to-distortion ratio, Le Roux et al. 2019, means not removed (torchmetrics); mean over channels, "
        "then over sounds that are not silent",
    ),
    "mel_distance": (
        "torchaudio",
        "mean |log10 difference| of mel magnitudes (power 1, floor 1e-5), summed over 7 scales: periodic Hann windows of 32, 64, … 2048 "
        "samples, hop a quarter, 5, 10, … 320 bands in Slaney's scale and norm from 0 Hz to half the sampling rate, at the sound's own "
        "rate, as in the training loss of DAC (Kumar et al. 2023); lower is better; mean over sounds",
    ),
}
MISSING = {
    metric: package for metric, (packages, _) in _DEFINED.items() for package in packages.split() if not importlib.util.find_spec(package)
}
DEFINITIONS = {metric: text for metric, (_, text) in _DEFINED.items() if metric not in MISSING} | {
    "snr_of_mean_mse": "dB; 10·log10 of mean square over mean squared error, both means over the sounds' own means",
}
_TITLES = {
    "pesq_wb": "PESQ-WB",
    "visqol_speech": "ViSQOL, speech mode",
    "visqol_audio": "ViSQOL, audio mode",
    "stoi": "STOI",
    "si_sdr": "SI-SDR, dB",
}
TITLES = {metric: title for metric, title in _TITLES.items() if metric not in MISSING}


@torch.inference_mode()
def quality(sound: Sound, decoded: Sound) -> dict[str, float]:
    """Every metric of one sound that can be computed, by the names of :data:`DEFINITIONS`.

    Args:
        sound, decoded: of the same shape and rate.
    """
    _check(sound, decoded)
    mono, mono_hat = (Sound(each.samples.mean(0, keepdims=True), each.rate) for each in (sound, decoded))
    values: dict[str, float | None] = {}
    by_mode = "visqol_speech" if sound.rate == SPEECH_RATE else "visqol_audio"
    for name, metric in (("pesq_wb", pesq_wb), ("stoi", stoi), (by_mode, visqol)):
        if name not in MISSING:
            values[name] = metric(mono, mono_hat)
    if "si_sdr" not in MISSING:
        values["si_sdr"] = si_sdr(sound, decoded)
    values["mel_distance"] = mel_distance(sound, decoded)
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


def errors(sound: Sound, decoded: Sound) -> dict[str, float]:
    """Mean squared error, and the mean square of the original, both of samples in -1…1."""
    _check(sound, decoded)
    signal = sound.samples.astype(np.float64)
    return {"mse": float(np.square(signal - decoded.samples).mean()), "power": float(np.square(signal).mean())}


def derived(quality: Mapping[str, float], errors: Mapping[str, float]) -> dict[str, float]:
    """What follows from the means over sounds."""
    power, mse = errors.get("power", 0.0), errors.get("mse", 0.0)
    return {"snr_of_mean_mse": 10 * math.log10(power / mse)} if power > 0 and mse > 0 else {}


def pesq_wb(sound: Sound, decoded: Sound) -> float | None:
    """Wideband PESQ of (1, n); none where it finds no utterance, less than a quarter of a second, or more utterances than it survives."""
    x, x_hat = (resample(each, SPEECH_RATE).samples[0] for each in (sound, decoded))
    if not _audible(x) or not np.abs(x_hat).max():
        return None
    return _pesq().score(x, x_hat)


def stoi(sound: Sound, decoded: Sound) -> float | None:
    """STOI of (1, n); none where too little of the original is not silence."""
    from pystoi import stoi as by_pystoi

    x = sound.samples[0]
    if not _audible(x):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # how the package says that its value means nothing
            return float(by_pystoi(x, decoded.samples[0], sound.rate))
    except (RuntimeWarning, ValueError):  # the latter from frames of a sound shorter than one
        return None


def visqol(sound: Sound, decoded: Sound) -> float | None:
    """ViSQOL's MOS-LQO of (1, n), in the mode that its rate asks for; none for silence, or where a sound is too short for its patches."""
    speech = sound.rate == SPEECH_RATE
    rate = SPEECH_RATE if speech else FULL_RATE
    x, x_hat = (resample(each, rate).samples[0].astype(np.float64) for each in (sound, decoded))
    if not _audible(x) or not np.abs(x_hat).max():
        return None
    try:
        return float(_visqol(speech).measure_from_arrays(x, x_hat, rate).moslqo)
    except (ValueError, RuntimeError, IndexError):
        return None


def si_sdr(sound: Sound, decoded: Sound) -> float | None:
    """SI-SDR in dB, the mean over channels that are not silent; none where all are, or where one of them was decoded to nothing."""
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as by_torchmetrics

    audible = [channel for channel, samples in enumerate(sound.samples) if _audible(samples)]
    if not audible or not np.abs(decoded.samples[audible]).max(1).all():
        return None
    x, x_hat = (torch.from_numpy(each.samples[audible].astype(np.float64)) for each in (sound, decoded))
    return float(by_torchmetrics(x_hat, x).mean())


def mel_distance(sound: Sound, decoded: Sound) -> float | None:
    """Multi-scale mel distance; none for sounds shorter than the longest window."""
    if sound.samples.shape[1] <= MEL_SCALES[-1][0]:
        return None
    x = torch.from_numpy(np.stack([sound.samples, decoded.samples]))
    total = 0.0
    for window, bands in MEL_SCALES:
        levels = _mel(sound.rate, window, bands)(x).clamp(min=MEL_FLOOR).log10()
        total += float((levels[0] - levels[1]).abs().mean())
    return total


@cache
def _mel(rate: int, window: int, bands: int) -> torch.nn.Module:
    from torchaudio.transforms import MelSpectrogram

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about bands narrower than a bin, which are empty in both sounds
        return MelSpectrogram(
            rate, n_fft=window, hop_length=window // 4, n_mels=bands, power=1.0, norm="slaney", mel_scale="slaney", pad_mode="reflect"
        )


@cache
def _pesq() -> PesqProcess:
    return PesqProcess()


@cache
def _visqol(speech: bool) -> Any:
    from visqol import VisqolApi

    api = VisqolApi()
    api.create(mode="speech" if speech else "audio", use_lattice_model=True)
    return api


def _audible(samples: np.ndarray) -> bool:
    return float(np.square(samples, dtype=np.float64).mean()) > SILENCE


def _check(sound: Sound, decoded: Sound) -> None:
    if sound.samples.shape != decoded.samples.shape or sound.rate != decoded.rate:
        before, after = (f"{each.samples.shape} at {each.rate} Hz" for each in (sound, decoded))
        raise ValueError(f"sounds differ: {before} and {after}")
