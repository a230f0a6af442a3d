"""A prior over frames of integers that sees only the past: earlier frames, and within a frame the channels of earlier slices.

    symbols of frames before t ──recent──► hidden ──(and those of longer ago) older──► context of frame t
    context, slices of frame t before s ──mix s──► scale and mean of each channel in slice s ──► table index

All of it is integer arithmetic (:mod:`neuralcodec.entropy.integer`) on what is already decoded, so the tables are the same everywhere. What
is coded are the integers themselves, not differences from a mean: the encoder knows all contexts at once, and the tables are Gaussians
around an eighth of a step, in the way of the channel-wise models of Minnen & Singh 2020 (https://arxiv.org/abs/2007.08739) but for the
mean, which there moves the quantizer's grid and here moves the probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.blocks import LevelVectors, zero
from neuralcodec.entropy import rans
from neuralcodec.entropy.integer import EXACT, IntegerConv2d, bounded, round_half_up
from neuralcodec.entropy.models import SMALLEST_LIKELIHOOD, TAIL
from neuralcodec.entropy.quantizers import SYMBOL_LIMIT
from neuralcodec.entropy.tables import IntegerTables, Table, quantize_probabilities

SCALES = 32
SCALE_MIN, SCALE_MAX = 0.1, 16.0
INDEX_PER_NAT = (SCALES - 1) / math.log(SCALE_MAX / SCALE_MIN)
PARTS = 8  # of a step, in which means are told
SEEN = 127  # symbols beyond this look to the context as if they were this
PRIOR_COUNT = 400  # symbols that a table's Gaussian counts for, where real ones have been counted
REACH = 31  # symbols on either side of the mean that a table holds at most; few enough for short rows
WIDEST = 200  # symbols on either side of the mean that are counted


class Expected(NamedTuple):
    """What the context says of symbols (B, C, n)."""

    scale_index: Tensor  # real while training, integers in 0 … SCALES - 1 at evaluation
    mean: Tensor  # real while training, multiples of 1 / PARTS at evaluation

    def tables(self) -> tuple[Tensor, Tensor]:
        """Integers at evaluation: each symbol's table, and what to subtract from the symbol."""
        eighths = (self.mean * PARTS).int()
        whole = torch.div(eighths + PARTS // 2, PARTS, rounding_mode="floor")
        return self.scale_index.int() * PARTS + eighths - (whole * PARTS - PARTS // 2), whole


class CausalPrior(nn.Module):
    """Probabilities of integers (B, C, n) from those before.

    Args:
        channels: C.
        slices: channels of each slice, in order; they sum to C. None for all in one.
        memory: frames that the first layer sees; the second sees three times as many.
        width: hidden channels.
        levels, knots: of the rate levels; see :class:`~neuralcodec.codecs.blocks.LevelVectors`.
    """

    FRACTION = 8  # fractional bits of the sums that become scale indexes and means
    HIDDEN = 2  # fractional bits of hidden values, which are 0 … 255 of them

    def __init__(
        self, channels: int, slices: Sequence[int] | None = None, memory: int = 4, width: int = 128, levels: int = 64, knots: int = 8
    ):
        super().__init__()
        self.slices = [int(size) for size in slices] if slices else [channels]
        if sum(self.slices) != channels or min(self.slices) < 1:
            raise ValueError(f"slices of {self.slices} channels do not add up to {channels}")
        self.channels, self.memory = channels, memory
        self.recent = IntegerConv2d(channels * memory, width, activation="none", activation_in="int8", fraction_in=0)
        self.steer = LevelVectors(levels, width, knots)
        self.older = IntegerConv2d(3 * width, width, activation="none", activation_in="uint8", fraction_in=self.HIDDEN, weight_fraction=7)
        mix, inner, head = [], [], []
        for index, size in enumerate(self.slices):
            mix.append(IntegerConv2d(width, width, activation="none", activation_in="uint8", fraction_in=self.HIDDEN))
            if index:
                before = sum(self.slices[:index])
                inner.append(IntegerConv2d(before, width, activation="none", activation_in="int8", fraction_in=0))
            head.append(IntegerConv2d(width, 2 * size, activation="none", activation_in="uint8", fraction_in=self.HIDDEN))
        zero(*head)
        self.mix: Sequence[IntegerConv2d] = nn.ModuleList(mix)  # type: ignore[assignment]
        self.inner: Sequence[IntegerConv2d] = nn.ModuleList(inner)  # type: ignore[assignment]
        self.head: Sequence[IntegerConv2d] = nn.ModuleList(head)  # type: ignore[assignment]
        self.scale_offset = LevelVectors(levels, channels, knots)
        self.mean_offset = LevelVectors(levels, channels, knots)
        nn.init.constant_(self.scale_offset.rows, INDEX_PER_NAT * math.log(0.5 / SCALE_MIN))
        self.tables = IntegerTables(SCALES * PARTS)
        assert all(head.fraction_sum == self.FRACTION for head in self.head)

    # Probabilities

    def forward(self, symbols: Tensor, level: Tensor) -> Expected:
        """What the context says of every symbol.

        Args:
            symbols: (B, C, n) integers in floating point; while training their gradient may be straight-through.
            level: (B,).
        """
        seen = bounded(symbols, -SEEN, SEEN)[..., None]  # (B, C, n, 1), as the layers take it
        steer = self._steering(self.steer, level, self.recent.fraction_sum)
        past = torch.cat([_later(seen, frames + 1) for frames in range(self.memory)], 1)
        hidden = self._hidden(self.recent.accumulate(past) + steer, self.recent)
        longer = torch.cat([_later(hidden, self.memory * steps) for steps in range(3)], 1)
        context = self._hidden(self.older.accumulate(longer), self.older)
        sums = []
        first = 0
        for index, size in enumerate(self.slices):
            total = self.mix[index].accumulate(context)
            if index:
                total = total + self.inner[index - 1].accumulate(seen[:, :first]) * 2**self.HIDDEN
            sums.append(self.head[index].accumulate(self._hidden(total, self.mix[index])).unflatten(1, (2, size)))
            first += size
        scale, mean = torch.cat(sums, 2)[..., 0].unbind(1)
        offsets = [self._steering(vectors, level, self.FRACTION)[..., 0] for vectors in (self.scale_offset, self.mean_offset)]
        return self._expected(scale + offsets[0], mean + offsets[1])

    def _expected(self, scale: Tensor, mean: Tensor) -> Expected:
        if self.training:
            return Expected(scale * 2.0**-self.FRACTION, mean * 2.0**-self.FRACTION)
        eighths = round_half_up(mean, self.FRACTION - 3).clamp(-SEEN * PARTS, SEEN * PARTS)
        return Expected(round_half_up(scale, self.FRACTION).clamp(0, SCALES - 1), eighths / PARTS)

    def _steering(self, vectors: LevelVectors, level: Tensor, fraction: int) -> Tensor:
        """A level's vectors (B, C, 1, 1) as they are added to sums with so many fractional bits."""
        if self.training:
            return vectors(level)[:, :, None, None] * 2**fraction
        rows = torch.stack([vectors.fixed_point(float(one), fraction) for one in level])
        return rows[:, :, None, None].to(vectors.rows.dtype)

    def _hidden(self, total: Tensor, layer: IntegerConv2d) -> Tensor:
        return bounded(round_half_up(total, layer.fraction_sum - self.HIDDEN), 0, 255)

    def bits(self, symbols: Tensor, proxy: Tensor, level: Tensor) -> Tensor:
        """Bits of each symbol (B, C, n).

        Args:
            symbols: integers, which are the context.
            proxy: what is coded: noisy symbols while training, the symbols themselves otherwise.
        """
        expected = self(symbols, level)
        if not self.training and len(self.tables):
            tables, whole = expected.tables()
            return self.tables.bits(symbols.int() - whole, tables)
        return self._gaussian_bits(proxy - expected.mean, expected.scale_index)

    @staticmethod
    def _gaussian_bits(difference: Tensor, scale_index: Tensor) -> Tensor:
        magnitude = difference.float().abs()
        factor = math.sqrt(0.5) / (SCALE_MIN * torch.exp(bounded(scale_index.float(), 0, SCALES - 1) / INDEX_PER_NAT))
        likelihood = 0.5 * (torch.erfc((magnitude - 0.5) * factor) - torch.erfc((magnitude + 0.5) * factor))
        return -torch.log2(bounded(likelihood, SMALLEST_LIKELIHOOD, 1.0))

    # Coding

    @torch.no_grad()
    def encode(self, symbols: Tensor, level: float) -> bytes:
        """int32 (B, C, n) to bytes; the B signals are coded side by side."""
        expected = self(symbols.to(self.scale_offset.rows.dtype), torch.full((len(symbols),), level, device=symbols.device))
        tables, whole = (part.cpu().numpy() for part in expected.tables())
        rest = symbols.cpu().numpy() - whole
        ends = np.cumsum(self.slices)
        groups = [
            (rest[:, end - size : end, frame], tables[:, end - size : end, frame])
            for frame in range(rest.shape[-1])
            for end, size in zip(ends, self.slices)
        ]
        return rans.encode_rows(groups, self.tables)

    def decode(self, streams: Sequence[bytes], items: int, frames: int, level: float) -> np.ndarray:
        """Undo :meth:`encode` for several streams of as many frames, all at once: int32 (streams, items, C, frames).

        Raises:
            CorruptStream: bytes that no encoder writes.
        """
        decoders = [rans.RowDecoder(stream, self.tables) for stream in streams]
        stepper = _Stepper(self, len(streams) * items, level)
        symbols = np.empty((frames, len(streams), items, self.channels), dtype=np.int32)
        for frame in symbols:
            context = stepper.context()
            first = 0
            for index, size in enumerate(self.slices):
                tables, whole = stepper.slice(index, context, frame.reshape(-1, self.channels)[:, :first])
                tables, whole = (part.reshape(len(streams), items, size) for part in (tables, whole))
                frame[..., first : first + size] = rans.RowDecoder.take_side_by_side(decoders, tables) + whole
                first += size
            stepper.push(frame.reshape(-1, self.channels))
        for decoder in decoders:
            decoder.finish()
        if symbols.size and not -SYMBOL_LIMIT <= symbols.min() <= symbols.max() <= SYMBOL_LIMIT:
            raise rans.CorruptStream("a coded symbol is larger than any encoder makes it")
        return np.moveaxis(symbols, 0, -1)

    # Tables

    def freeze(self) -> None:
        """Build the tables, and raise ``ValueError`` unless every sum stays where float32 is exact."""
        steer = int((self.steer.rows.detach().abs().max() * 2**self.recent.fraction_sum).ceil())
        self.recent.check_exact(margin=steer)
        self.older.check_exact()
        for index, mix in enumerate(self.mix):
            mix.check_exact(margin=self.inner[index - 1].largest_sum() * 2**self.HIDDEN if index else 0)
        for vectors in (self.scale_offset, self.mean_offset):
            margin = int((vectors.rows.detach().abs().max() * 2**self.FRACTION).ceil())
            for head in self.head:
                head.check_exact(margin=margin)
        assert EXACT == 2**24
        self.build_tables()

    def build_tables(self, counts: np.ndarray | None = None) -> None:
        """Tables of the Gaussians, or of what was counted where they stand.

        Args:
            counts: (tables, 2 · WIDEST + 1) of :meth:`count`, blended with the Gaussian as if that had been seen ``PRIOR_COUNT`` times.
        """
        tables = []
        for index in range(SCALES * PARTS):
            scale = SCALE_MIN * math.exp(index // PARTS / INDEX_PER_NAT)
            mean = (index % PARTS - PARTS // 2) / PARTS
            reach = min(max(1, math.ceil(4.6 * scale)), REACH)
            edges = np.arange(-reach, reach + 2) - 0.5 - mean
            cumulative = np.array([0.5 * math.erfc(-edge / scale / math.sqrt(2)) for edge in edges])
            outside = max(cumulative[0] + 1 - cumulative[-1], 2 * TAIL)
            weights = np.append(np.maximum(np.diff(cumulative), 0), outside)
            if counts is not None:
                inner = counts[index, WIDEST - reach : WIDEST + reach + 1]
                weights = weights / weights.sum() * PRIOR_COUNT + np.append(inner, counts[index].sum() - inner.sum())
            tables.append(Table(-reach, quantize_probabilities(weights)))
        self.tables.set(tables)

    @torch.no_grad()
    def count(self, symbols: Tensor, level: float) -> np.ndarray:
        """How often each difference from the mean, -WIDEST … WIDEST, was seen under each table; symbols: int32 (B, C, n)."""
        expected = self(symbols.to(self.scale_offset.rows.dtype), torch.full((len(symbols),), level, device=symbols.device))
        tables, whole = expected.tables()
        rest = (symbols - whole).clamp(-WIDEST, WIDEST) + WIDEST
        size = 2 * WIDEST + 1
        return torch.bincount((tables.long() * size + rest).flatten(), minlength=SCALES * PARTS * size).reshape(-1, size).cpu().numpy()


def _later(x: Tensor, frames: int) -> Tensor:
    """(B, C, n, 1) moved by so many frames, zeros before."""
    return F.pad(x, (0, 0, frames, 0))[:, :, : x.shape[2]] if frames else x


class _Stepper:
    """:class:`CausalPrior` a frame at a time, as a decoder needs it, in NumPy: the same integers in fewer and smaller steps.

    Every sum stays below 2^24, so float32 is exact in any order of summation.
    """

    def __init__(self, prior: CausalPrior, items: int, level: float):
        self.prior = prior
        self.recent, self.older = _Dense(prior.recent, prior.steer.fixed_point(level, prior.recent.fraction_sum)), _Dense(prior.older)
        self.mix = [_Dense(layer) for layer in prior.mix]
        self.inner = [_Dense(layer) for layer in prior.inner]
        fraction = prior.FRACTION
        offsets = [vectors.fixed_point(level, fraction) for vectors in (prior.scale_offset, prior.mean_offset)]
        ends = np.cumsum(prior.slices)
        self.head = [
            _Dense(layer, torch.cat([offset[end - size : end] for offset in offsets]))
            for layer, end, size in zip(prior.head, ends, prior.slices)
        ]
        self.seen = np.zeros((items, prior.memory, prior.channels), np.float32)  # the latest frame first
        self.hidden = np.zeros((2 * prior.memory, items, len(prior.recent.weight)), np.float32)  # a ring
        self.frame = 0

    def context(self) -> np.ndarray:
        """(items, width) of the frame to come."""
        now = self._clip(self.recent(self.seen.reshape(len(self.seen), -1)), self.recent)
        ring, memory = len(self.hidden), self.prior.memory
        longer = np.concatenate((now, self.hidden[(self.frame - memory) % ring], self.hidden[self.frame % ring]), 1)
        self.hidden[self.frame % ring] = now
        return self._clip(self.older(longer), self.older)

    def slice(self, index: int, context: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tables and what to add to what they decode, both int32 (items, channels of the slice), for the frame's slice ``index``."""
        total = self.mix[index](context)
        if index:
            total += self.inner[index - 1](np.clip(before, -SEEN, SEEN).astype(np.float32)) * np.float32(2**self.prior.HIDDEN)
        sums = self.head[index](self._clip(total, self.mix[index]))
        scale, mean = np.split(sums, 2, 1)
        fraction = self.prior.FRACTION
        scale = np.floor(scale * np.float32(2.0**-fraction) + np.float32(0.5)).clip(0, SCALES - 1).astype(np.int32)
        eighths = np.floor(mean * np.float32(2.0 ** (3 - fraction)) + np.float32(0.5)).clip(-SEEN * PARTS, SEEN * PARTS).astype(np.int32)
        whole = (eighths + PARTS // 2) // PARTS
        return scale * PARTS + eighths - (whole * PARTS - PARTS // 2), whole

    def push(self, symbols: np.ndarray) -> None:
        """A frame is complete: (items, C)."""
        self.seen[:, 1:] = self.seen[:, :-1].copy()
        self.seen[:, 0] = np.clip(symbols, -SEEN, SEEN)
        self.frame += 1

    def _clip(self, total: np.ndarray, layer: _Dense) -> np.ndarray:
        return np.floor(total * np.float32(2.0 ** (self.prior.HIDDEN - layer.fraction)) + np.float32(0.5)).clip(0, 255)


class _Dense:
    """An :class:`IntegerConv2d` of kernel 1 on rows of features."""

    def __init__(self, layer: IntegerConv2d, offset: Tensor | None = None):
        with torch.no_grad():
            self.weight = np.ascontiguousarray(layer.integer_weight()[:, :, 0, 0].T.cpu().numpy(), dtype=np.float32)
            bias = layer.integer_bias().cpu().numpy().astype(np.float64)
        self.bias = (bias if offset is None else bias + offset.cpu().numpy()).astype(np.float32)
        self.fraction = layer.fraction_sum

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.weight + self.bias


__all__ = ["CausalPrior", "Expected"]
