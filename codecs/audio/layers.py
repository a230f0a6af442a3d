"""Causal layers over time that stream: inside :func:`streaming`, each remembers as much of the past as its next output needs.

Outside, a layer sees the whole signal and silence before it. Inside, it sees one piece after another, and the outputs, put together, are
those of the whole signal. What is remembered lives only as long as the ``with`` block, so nothing leaks from one signal into the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.blocks import zero

POWER = 0.3  # exponent that compresses magnitudes of spectra
LOUDEST = 10.0  # compressed: magnitudes of 2000, above a full-scale sine under a window of 2048 samples
FLOOR = 1e-7  # below the magnitudes of 16-bit silence


@dataclass
class Past:
    """What a layer remembers between pieces of one signal."""

    tail: Tensor | None = None  # None before the first piece


class Streamed(nn.Module):
    """A layer with a past. Without one (outside :func:`streaming`) every call is a signal of its own."""

    past: Past | None = None

    def recall(self, x: Tensor, length: int) -> Tensor:
        """``x`` (…, n) behind the last ``length`` samples before it, which are zeros at the start of a signal."""
        if not length:
            return x
        tail = self.past.tail if self.past is not None else None
        if tail is None:
            tail = x.new_zeros((*x.shape[:-1], length))
        joined = torch.cat((tail, x), -1)
        if self.past is not None:
            self.past.tail = joined[..., joined.shape[-1] - length :]
        return joined


@contextmanager
def streaming(*modules: nn.Module) -> Iterator[None]:
    """Within the block, calls of the causal layers in ``modules`` are consecutive pieces of one signal."""
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, Streamed)]
    if any(layer.past is not None for layer in layers):
        raise RuntimeError("these layers are already streaming another signal")
    try:
        for layer in layers:
            layer.past = Past()
        yield
    finally:
        for layer in layers:
            layer.past = None


class CausalConv1d(Streamed):
    """Convolution over time whose output at a frame sees that frame and earlier ones only; (B, C, n) to (B, C', n / stride)."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, kernel, stride=stride, dilation=dilation, groups=groups)
        self.before = (kernel - 1) * dilation - (stride - 1)
        if self.before < 0:
            raise ValueError(f"a kernel of {kernel} does not cover a stride of {stride}")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.recall(x, self.before))


class ConvNeXtBlock(nn.Module):
    """Depthwise causal convolution, normalisation of each frame, then a feed-forward pair; residual and zero as it starts.

    x ──DW k──LayerNorm──1×1──GELU──1×1──(+)──►
     └────────────────────────────────────┘

    Liu et al. 2022, https://arxiv.org/abs/2201.03545, over time as in Vocos (Siuzdak 2023, https://arxiv.org/abs/2306.00814). Differs in
    being causal, and in a last layer that starts at zero in the place of a layer scale.
    """

    def __init__(self, channels: int, hidden: int, kernel: int = 7):
        super().__init__()
        self.depthwise = CausalConv1d(channels, channels, kernel, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, hidden)
        self.contract = nn.Linear(hidden, channels)
        zero(self.contract)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, n) to the same."""
        y = self.norm(self.depthwise(x).transpose(1, 2))
        return x + self.contract(F.gelu(self.expand(y))).transpose(1, 2)


class Stft(Streamed):
    """Short-time Fourier transform whose frame t sees samples up to (t + 1) · hop; (…, n) to complex (…, window / 2 + 1, n / hop)."""

    window: Tensor

    def __init__(self, size: int, hop: int):
        super().__init__()
        if size % hop or size // hop < 2 or size % 2:
            raise ValueError(f"a window of {size} samples is not an even number of at least two hops of {hop}")
        self.size, self.hop = size, hop
        self.register_buffer("window", torch.hann_window(size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.recall(x, self.size - self.hop).unfold(-1, self.size, self.hop)
        return torch.fft.rfft(frames * self.window).transpose(-1, -2)


class InverseStft(Streamed):
    """Overlap-add of :class:`Stft`'s frames; complex (…, window / 2 + 1, frames) to (…, frames · hop).

    A sample is complete once the last frame that overlaps it is there, so the output is late by :attr:`delay` samples.
    """

    window: Tensor

    def __init__(self, size: int, hop: int):
        super().__init__()
        self.size, self.hop = size, hop
        window = torch.hann_window(size, dtype=torch.float64)
        total = window.square().reshape(-1, hop).sum(0)  # of the overlapping squared windows, at each sample of a hop
        self.register_buffer("window", (window / total.repeat(size // hop)).float(), persistent=False)
        self.delay = size - hop

    def forward(self, spectrum: Tensor) -> Tensor:
        frames = torch.fft.irfft(spectrum.transpose(-1, -2), self.size) * self.window
        pieces = frames.unflatten(-1, (-1, self.hop))  # (…, frames, window / hop, hop)
        overlap = pieces.shape[-2]
        flat = self.recall(pieces.flatten(-2).transpose(-1, -2), overlap - 1)  # (…, window, overlap - 1 + frames)
        columns = flat.unflatten(-2, (overlap, self.hop))
        count = spectrum.shape[-1]
        # Piece k of a frame lies k hops after its first.
        total = sum(columns[..., k, :, overlap - 1 - k : overlap - 1 - k + count] for k in range(overlap))
        assert isinstance(total, Tensor)
        return total.transpose(-1, -2).flatten(-2)


def compressed(spectrum: Tensor) -> Tensor:
    """A complex spectrum with magnitudes raised to ``POWER``, as (…, 2, bins, frames)."""
    parts = torch.view_as_real(spectrum).movedim(-1, -3)
    magnitude = parts.square().sum(-3, keepdim=True).add(FLOOR**2).sqrt()
    return parts * magnitude ** (POWER - 1)


def expanded(planes: Tensor) -> Tensor:
    """Undo :func:`compressed`; the magnitudes of (…, 2, bins, frames) end at ``LOUDEST`` before that."""
    magnitude = planes.square().sum(-3, keepdim=True).add(FLOOR**2).sqrt()
    parts = planes * (magnitude.clamp(max=LOUDEST) ** (1 / POWER) / magnitude)
    return torch.view_as_complex(parts.movedim(-3, -1).contiguous())


class Snake(nn.Module):
    """x + sin²(αx) / α, one α a channel: periodic units. Ziyin et al. 2020, https://arxiv.org/abs/2006.08195."""

    def __init__(self, channels: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.alpha * x).square() / (self.alpha + 1e-9)
