"""What is done to sounds so that a codec meets more than its training set: speed, equaliser, a second sound, noise, level, polarity.

NumPy, on the loader's side. All that is linear and time-invariant happens in one passage through the frequency domain, resampling included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

MARGIN = 0.02  # seconds on either side of a crop, which take up what wraps around in the frequency domain
MOST_GAIN = 20.0  # dB, so that pauses stay pauses
SILENCE = 1e-5  # peak, or root of the mean square


@dataclass(frozen=True)
class Augmentation:
    """How crops are varied: probabilities, 0 for never, and ranges from which a value is drawn evenly."""

    speed: float = 0.5
    speeds: tuple[float, float] = (0.9, 1.1)  # of both tempo and pitch, as a tape's
    equaliser: float = 0.5
    filters: int = 3  # peaking filters
    gains: tuple[float, float] = (-9.0, 9.0)  # dB, of each
    mix: float = 0.2  # with another crop
    mix_snr: tuple[float, float] = (0.0, 30.0)  # dB
    noise: float = 0.2  # between white and brown
    noise_snr: tuple[float, float] = (5.0, 40.0)  # dB
    level: float = 1.0
    levels: tuple[float, float] = (-30.0, 0.0)  # dB of full scale, of the crop's peak
    polarity: float = 0.5

    def __call__(
        self, crop: Callable[[int], np.ndarray], other: Callable[[int], np.ndarray], samples: int, rate: int, random: np.random.Generator
    ) -> np.ndarray:
        """One crop, (channels, samples) float32 in -1…1.

        Args:
            crop: so many samples (channels, n) of the sound to vary.
            other: so many samples of any sound, to mix in.
            rate: Hz.
        """
        fast, coloured, mixed, noisy, levelled, turned = random.random(6) < (
            *(self.speed, self.equaliser, self.mix, self.noise, self.level, self.polarity),
        )
        if fast or coloured:
            x = self._filtered(crop, samples, rate, bool(fast), bool(coloured), random)
        else:
            x = crop(samples)
        if mixed:
            x = _added(x, other(samples), random.uniform(*self.mix_snr))
        if noisy:
            x = _added(x, _noise(x.shape, random), random.uniform(*self.noise_snr))
        peak = float(np.abs(x).max())
        gain = 1.0
        if levelled and peak > SILENCE:
            gain = min(10 ** (random.uniform(*self.levels) / 20) / peak, 10 ** (MOST_GAIN / 20))
        elif peak > 1:
            gain = 1 / peak
        return (x * (-gain if turned else gain)).astype(np.float32)

    def _filtered(
        self, crop: Callable[[int], np.ndarray], samples: int, rate: int, fast: bool, coloured: bool, random: np.random.Generator
    ) -> np.ndarray:
        """A crop at another speed, through an equaliser, or both."""
        margin = round(MARGIN * rate)
        count = _smooth(samples + 2 * margin)
        needed = _smooth(round(count * random.uniform(*self.speeds))) if fast else count
        spectrum = np.fft.rfft(crop(needed))
        bins = count // 2 + 1
        if needed < count:
            spectrum = np.pad(spectrum, ((0, 0), (0, bins - spectrum.shape[1])))
        spectrum = spectrum[:, :bins] * (count / needed)
        if coloured:
            delay = np.exp(-2j * np.pi * np.arange(bins) / count)
            for _ in range(self.filters):
                centre = 50 * (0.45 * rate / 50) ** random.random()  # Hz, evenly over octaves
                spectrum *= peaking(delay, centre / rate, random.uniform(*self.gains), random.uniform(0.5, 2.0))
        return np.fft.irfft(spectrum, count)[:, margin : margin + samples]


def peaking(delay: np.ndarray, frequency: float, gain: float, q: float) -> np.ndarray:
    """Frequency response of a peaking filter; Bristow-Johnson, Audio EQ Cookbook, https://www.w3.org/TR/audio-eq-cookbook/.

    Args:
        delay: z⁻¹ at the frequencies asked for.
        frequency: of the peak, in cycles per sample.
        gain: at the peak, in dB.
        q: how narrow it is.

    >>> response = peaking(np.exp(-2j * np.pi * np.array([0.0, 0.1])), 0.1, 6.0, 1.0)
    >>> (20 * np.log10(np.abs(response))).round(3).tolist()
    [0.0, 6.0]
    """
    amplitude = 10 ** (gain / 40)
    alpha, cosine = np.sin(2 * np.pi * frequency) / (2 * q), np.cos(2 * np.pi * frequency)
    above = (1 + alpha * amplitude) - 2 * cosine * delay + (1 - alpha * amplitude) * delay**2
    below = (1 + alpha / amplitude) - 2 * cosine * delay + (1 - alpha / amplitude) * delay**2
    return above / below


def _noise(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Noise whose power falls by between 0 and 6 dB an octave."""
    channels, samples = shape
    slope = random.uniform(0, 1)
    real, imaginary = random.standard_normal((2, channels, samples // 2 + 1))
    return np.fft.irfft((real + 1j * imaginary) * np.maximum(np.arange(samples // 2 + 1), 1) ** -slope, samples)


def _added(x: np.ndarray, other: np.ndarray, snr: float) -> np.ndarray:
    """``x`` with something else at a signal-to-noise ratio in dB; as it is where either is silent."""
    size, other_size = (float(np.sqrt(np.square(each, dtype=np.float64).mean())) for each in (x, other))
    if min(size, other_size) < SILENCE:
        return x
    return x + other * (size / other_size * 10 ** (-snr / 20))


@lru_cache(4096)
def _smooth(count: int) -> int:
    """The next integer without prime factors above 7, which Fourier transforms are fast for."""
    while True:
        rest = count
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return count
        count += 1
