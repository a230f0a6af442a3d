"""Distances between sounds to train codecs with. Each is zero for equal signals and gives one value for each item of a batch.

Spectra are computed once for all losses (and discriminators) that ask for the same window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEL_WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)  # samples
BANDS_PER_SAMPLE = 5 / 32  # of a mel scale's window: 5 bands at 32 samples, 320 at 2048
MEL_FLOOR = 1e-5
MAGNITUDE_FLOOR = 1e-6
COMPRESSION_FLOOR = 1e-3
COMPLEX_WINDOWS = (640, 320)  # samples
SILENCE = 1e-8  # mean square: -80 dB of full scale


class Spectra:
    """Short-time Fourier transforms of a batch of signals, each computed when it is first asked for, then kept.

    Periodic Hann windows, hop a quarter, centred frames with reflected ends, not normalised; float32 under autocast too.

    Args:
        signal: (B, channels, n); silence is added to what is shorter than half of a window.
    """

    def __init__(self, signal: Tensor):
        self.signal = signal.float()
        self._source: Spectra | None = None
        self._planes: dict[int, Tensor] = {}
        self._magnitudes: dict[int, Tensor] = {}

    def detached(self) -> Spectra:
        """The same without a gradient to the signal."""
        spectra = Spectra(self.signal.detach())
        spectra._source = self
        return spectra

    def planes(self, window: int) -> Tensor:
        """Real and imaginary parts, (B, channels, 2, window / 2 + 1, frames)."""
        if window not in self._planes and self._source is not None:
            self._planes[window] = self._source.planes(window).detach()
        elif window not in self._planes:
            batch, channels, samples = self.signal.shape
            long_enough = F.pad(self.signal, (0, max(0, window // 2 + 1 - samples)))  # to be reflected
            with torch.autocast(self.signal.device.type, enabled=False):
                hann = torch.hann_window(window, device=self.signal.device)
                flat = torch.stft(long_enough.flatten(0, 1), window, window // 4, window=hann, pad_mode="reflect", return_complex=True)
            # Complex arithmetic, and sums over a last axis of two, take twice as long on a CPU.
            self._planes[window] = torch.view_as_real(flat).movedim(-1, 1).contiguous().unflatten(0, (batch, channels))
        return self._planes[window]

    def magnitude(self, window: int) -> Tensor:
        """(B, channels, window / 2 + 1, frames)."""
        if window not in self._magnitudes:
            real, imaginary = self.planes(window).unbind(2)
            self._magnitudes[window] = (real * real + imaginary * imaginary + MAGNITUDE_FLOOR**2).sqrt()
        return self._magnitudes[window]

    def compressed(self, window: int, power: float) -> Tensor:
        """The planes of ``|X|^(power - 1) X``; the floor below which that becomes linear keeps gradients of silence finite."""
        real, imaginary = self.planes(window).unbind(2)
        gain = ((power - 1) / 2 * (real * real + imaginary * imaginary + COMPRESSION_FLOOR**2).log()).exp()
        return self.planes(window) * gain[:, :, None]


class MelDistance(nn.Module):
    """Mean |log10 difference| of mel magnitudes, mean over scales.

    The training loss of DAC (Kumar et al. 2023, https://arxiv.org/abs/2306.06546): magnitudes (power 1), Slaney's scale and norm from
    0 Hz to half the sampling rate, floor 1e-5. Differs in being the mean over the scales, not their sum, so that fewer scales estimate
    the same: over all seven it is a seventh of the metric ``mel_distance`` of evaluation.

    Args:
        sampling_rate: Hz.
        windows: of the scales, in samples; five bands for every 32.
    """

    def __init__(self, sampling_rate: int, windows: Sequence[int] = MEL_WINDOWS):
        super().__init__()
        from torchaudio.functional import melscale_fbanks

        if not windows or any(window < 32 or window % 32 for window in windows):
            raise ValueError("the windows of mel scales are multiples of 32 samples, at least one")
        self.windows = tuple(windows)
        for window in self.windows:
            bands = round(window * BANDS_PER_SAMPLE)
            bank = melscale_fbanks(window // 2 + 1, 0.0, sampling_rate / 2, bands, sampling_rate, norm="slaney", mel_scale="slaney")
            self.register_buffer(f"bank{window}", bank.T.contiguous(), persistent=False)

    def forward(self, x: Spectra, x_hat: Spectra) -> Tensor:
        """(B,)"""
        total = torch.zeros(len(x.signal), device=x.signal.device)
        with torch.autocast(x.signal.device.type, enabled=False):
            for window in self.windows:
                bank = self.get_buffer(f"bank{window}")
                with torch.no_grad():
                    target = (bank @ x.magnitude(window)).clamp(min=MEL_FLOOR).log10()
                levels = (bank @ x_hat.magnitude(window)).clamp(min=MEL_FLOOR).log10()
                total = total + (levels - target).abs().mean((1, 2, 3))
        return total / len(self.windows)


class ComplexDistance(nn.Module):
    """Mean squared distance of power-compressed complex spectra, mean over windows. It hears phases, as mel distances do not.

    ``|X|^(power - 1) X``, as ESC (Gu, Diao 2024, https://arxiv.org/abs/2404.19441) compares them. Differs in the number of windows.

    Args:
        windows: in samples.
        power: below 1, so that what is quiet counts.
    """

    def __init__(self, windows: Sequence[int] = COMPLEX_WINDOWS, power: float = 0.3):
        super().__init__()
        self.windows = tuple(windows)
        self.power = power

    def forward(self, x: Spectra, x_hat: Spectra) -> Tensor:
        """(B,)"""
        total = torch.zeros(len(x.signal), device=x.signal.device)
        with torch.autocast(x.signal.device.type, enabled=False):
            for window in self.windows:
                with torch.no_grad():
                    target = x.compressed(window, self.power)
                total = total + (x_hat.compressed(window, self.power) - target).square().sum(2).mean((1, 2, 3))
        return total / len(self.windows)


def waveform_distance(x: Tensor, x_hat: Tensor) -> Tensor:
    """Mean absolute difference of samples: (B, channels, n) twice to (B,)."""
    return (x - x_hat.float()).abs().mean((1, 2))


def si_sdr_shortfall(x: Tensor, x_hat: Tensor, goal: float = 30.0) -> Tensor:
    """Decibels by which the SI-SDR falls short of a goal, softly, so that it is 0 for equal signals: (B, channels, n) twice to (B,).

    Scale-invariant signal-to-distortion ratio, Le Roux et al. 2019, https://arxiv.org/abs/1811.02508, means not removed. It equals
    ``c² / (1 - c²)`` of the cosine c between the two signals; here both have energy at -80 dB added, so that silence has a distance too.
    """
    x, x_hat = x.float().flatten(1), x_hat.float().flatten(1)
    product, power, power_hat = ((a * b).mean(1) + SILENCE for a, b in ((x, x_hat), (x, x), (x_hat, x_hat)))
    likeness = (product.square() / (power * power_hat)).clamp(max=1.0)
    floor = 10 ** (-goal / 10)
    return 10 * torch.log10((1 - likeness + floor * likeness) / (floor * likeness + 1e-12))


class Distortion(nn.Module):
    """A weighted sum of distances.

    Args:
        sampling_rate: Hz.
        weights: by name, of :attr:`NAMES`; what has none, or 0, is not computed.
        mel_windows: scales of the mel distance.
    """

    NAMES = ("mel", "stft", "wave", "si_sdr")

    def __init__(self, sampling_rate: int, weights: Mapping[str, float], mel_windows: Sequence[int] = MEL_WINDOWS):
        super().__init__()
        if unknown := set(weights) - set(self.NAMES):
            raise ValueError(f"there is no distance {sorted(unknown)[0]!r}: {', '.join(self.NAMES)}")
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        self.mel = MelDistance(sampling_rate, mel_windows)
        self.stft = ComplexDistance()

    def forward(self, x: Spectra, x_hat: Spectra) -> dict[str, Tensor]:
        """Each distance by its name, not yet weighted, (B,)."""
        distances = {
            "mel": lambda: self.mel(x, x_hat),
            "stft": lambda: self.stft(x, x_hat),
            "wave": lambda: waveform_distance(x.signal, x_hat.signal),
            "si_sdr": lambda: si_sdr_shortfall(x.signal, x_hat.signal),
        }
        return {name: distances[name]() for name in self.weights}

    def weighted(self, distances: Mapping[str, Tensor]) -> Tensor:
        """(B,)"""
        return sum((self.weights[name] * distance for name, distance in distances.items()), torch.zeros(()))


class Balancer(nn.Module):
    """Losses whose gradients at the decoded signal have the sizes that their weights ask for, whatever their own scales.

    Défossez et al. 2022 (EnCodec), https://arxiv.org/abs/2210.13438, section 3.4. Differs in taking one value of a loss for each item,
    and in returning a scalar whose gradient is the balanced one, instead of running the backward pass.

    Args:
        weights: by name of the loss.
        decay: of the moving average of each gradient's norm.
    """

    norms: Tensor
    steps: Tensor

    def __init__(self, weights: Mapping[str, float], decay: float = 0.999):
        super().__init__()
        if not any(weights.values()):
            raise ValueError("at least one loss has a weight")
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        self.decay = decay
        self.register_buffer("norms", torch.zeros(len(self.weights)))
        self.register_buffer("steps", torch.zeros(len(self.weights)))

    def forward(self, losses: Mapping[str, Tensor], x_hat: Tensor, scale: Tensor) -> Tensor:
        """
        Args:
            losses: by name, (B,) each.
            x_hat: (B, channels, n), which they were computed from.
            scale: (B,), the norm that each item's balanced gradient is to have, about.
        """
        share = sum(self.weights[name] for name in losses)
        balanced = torch.zeros_like(x_hat)
        for index, (name, weight) in enumerate(self.weights.items()):
            if name not in losses:
                continue
            (gradient,) = torch.autograd.grad(losses[name].sum(), x_hat, retain_graph=True)
            self.norms[index].lerp_(gradient.flatten(1).norm(dim=1).mean(), 1 - self.decay)
            self.steps[index] += 1
            mean = self.norms[index] / (1 - self.decay ** self.steps[index])
            balanced += weight / share * gradient / (mean + 1e-12)
        return (scale * (balanced.detach() * x_hat).sum((1, 2))).sum()


def feature_distance(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """How far the layers of discriminators are apart for two signals: features of each discriminator's layers, (B, …), to (B,).

    Mean absolute difference as a fraction of the mean size of the real features, as in EnCodec, mean over layers and discriminators.
    """
    distances = [
        (ours - theirs.detach()).float().abs().flatten(1).mean(1) / (theirs.detach().float().abs().mean() + 1e-6)
        for theirs_all, ours_all in zip(real, fake)
        for theirs, ours in zip(theirs_all, ours_all)
    ]
    return torch.stack(distances).mean(0)


class Adversary:
    """What discriminators are trained on, and codecs against them; means over a discriminator's scores, then over discriminators.

    Args:
        kind: ``lsgan`` (Mao et al. 2017, https://arxiv.org/abs/1611.04076) or ``hinge`` (Lim, Ye 2017, https://arxiv.org/abs/1705.02894).
    """

    KINDS = ("lsgan", "hinge")

    def __init__(self, kind: str = "lsgan"):
        if kind not in self.KINDS:
            raise ValueError(f"an adversarial loss is one of {', '.join(self.KINDS)}, not {kind!r}")
        self.kind = kind

    def discriminate(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
        """Scores of each discriminator, (B, …), for real and for decoded signals, to the discriminators' loss (B,)."""
        if self.kind == "lsgan":
            terms = [[(1 - score).square() for score in real], [score.square() for score in fake]]
        else:
            terms = [[F.relu(1 - score) for score in real], [F.relu(1 + score) for score in fake]]
        return _mean_scores(terms[0]) + _mean_scores(terms[1])

    def deceive(self, fake: Sequence[Tensor]) -> Tensor:
        """Scores for decoded signals to the codec's loss (B,)."""
        return _mean_scores([(1 - score).square() if self.kind == "lsgan" else F.relu(1 - score) for score in fake])


def _mean_scores(scores: Sequence[Tensor]) -> Tensor:
    return torch.stack([score.float().flatten(1).mean(1) for score in scores]).mean(0)


__all__ = ["Adversary", "Balancer", "ComplexDistance", "Distortion", "MelDistance", "Spectra", "feature_distance"]
