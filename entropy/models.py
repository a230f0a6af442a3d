"""Entropy models: a differentiable rate in training, integer tables for coding.

* :class:`FactorizedPrior`: a learned density per channel. Ballé et al. 2018, https://arxiv.org/abs/1802.01436, appendix 6.1. Differs in
  an optional scale per rate level, so that one density serves all levels, and in tables whose range is read off the density at export
  instead of being learned by an auxiliary loss.
* :class:`GaussianConditional`: a zero-mean Gaussian whose scale is one of 64, chosen per symbol by an index (same paper, section 3; scale
  table as in CompressAI, 0.11 … 256). The mean is subtracted before quantization, so the coder never sees it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.entropy.integer import bounded
from neuralcodec.entropy.quantizers import SYMBOL_LIMIT
from neuralcodec.entropy.tables import IntegerTables, Table, quantize_probabilities

SCALES = 64
SCALE_MIN, SCALE_MAX = 0.11, 256.0
INDEX_PER_NAT = (SCALES - 1) / math.log(SCALE_MAX / SCALE_MIN)  # index = INDEX_PER_NAT · ln(scale / SCALE_MIN)
SMALLEST_LIKELIHOOD = 2.0**-24  # caps the rate of an outlier while training; coding escapes it at about this cost
# R + λD is least at 6 / ln 2 bits per squared step at high rate (D = step²/12, R = -log2(step)). Twice that was best on training images
# (BD-rate of the plain rounding 0 %, of once that -4.1 %, of twice -5.8 %, of three times -5.6 %): gains learned with noise are coarser.
BITS_PER_SQUARED_STEP = 12 / math.log(2)
PRIOR_COUNT = 1000
REACH = 2048  # of symbols that are counted one by one
TAIL = 2.0**-17  # probability mass on each side that a table leaves to its escape


def round_for_rate(
    residual: Tensor,
    index: Tensor,
    bits: Callable[[Tensor, Tensor], Tensor],
    weight: Tensor | None = None,
    most_saved: Tensor | None = None,
) -> Tensor:
    """Rate–distortion optimised quantization: the nearest integer, or the next one towards zero where that saves more than it costs.

    An encoder's choice; the decoder knows nothing of it. Error and bits are weighed by ``BITS_PER_SQUARED_STEP``.

    Args:
        residual: latent minus mean, in steps.
        index: of each value's table.
        bits: (symbols, table indexes) to what they cost.
        weight: how much each squared error counts, broadcastable to ``residual``; 1 if omitted. If given, zero is a candidate too: where
            errors count little it can save more than a step does.
        most_saved: for each table, the most bits that one step towards zero saves. Most values are so close to their integer that
            nothing in the table can move them; told of this, the costs of one in ten need looking up.
    """
    nearest = torch.round(torch.nan_to_num(residual)).clamp(-SYMBOL_LIMIT, SYMBOL_LIMIT).contiguous()
    movable = nearest != 0
    if weight is None and most_saved is not None:
        added = 1 + 2 * (residual.abs() - nearest.abs())  # squared error of one step towards zero
        movable &= added * BITS_PER_SQUARED_STEP < most_saved.take(index.long())
    where = movable.flatten().nonzero()[:, 0]
    value, symbol, table = (values.flatten().gather(0, where) for values in (residual, nearest, index))
    candidates = [symbol - torch.sign(symbol)]
    price: Tensor | float = BITS_PER_SQUARED_STEP
    if weight is not None:
        price = price * weight.expand_as(residual).flatten().gather(0, where)
        candidates.append(torch.zeros_like(symbol))
    chosen, most = symbol, torch.zeros_like(value)
    for candidate in candidates:
        saved = bits(symbol, table) - bits(candidate, table) - ((value - candidate).square() - (value - symbol).square()) * price
        chosen, most = torch.where(saved > most, candidate, chosen), torch.maximum(saved, most)
    nearest.view(-1).scatter_(0, where, chosen)
    return nearest


class GaussianConditional(nn.Module):
    """Integers under zero-mean Gaussians with 64 log-spaced scales."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = IntegerTables(SCALES)

    @staticmethod
    def scale(index: Tensor) -> Tensor:
        """Standard deviation for an index in [0, 63], which may be fractional while training; the gradient leads back into the range."""
        return SCALE_MIN * torch.exp(bounded(index, 0, SCALES - 1) / INDEX_PER_NAT)

    def bits(self, proxy: Tensor, index: Tensor) -> Tensor:
        """Bits of each element of ``proxy`` (symbols, noisy while training) under the scales that ``index`` names."""
        magnitude = proxy.float().abs()
        factor = -math.sqrt(0.5) / self.scale(index.float())
        # Mass of a unit interval from the lower tail, where the difference of two erfc stays accurate.
        likelihood = 0.5 * (torch.erfc((magnitude - 0.5) * -factor) - torch.erfc((magnitude + 0.5) * -factor))
        return -torch.log2(bounded(likelihood, SMALLEST_LIKELIHOOD, 1.0))

    def coded_bits(self, symbols: Tensor, index: Tensor) -> Tensor:
        """Bits of integer symbols by the tables that code them; by the Gaussians themselves as long as there are none."""
        return self.tables.bits(symbols, index) if len(self.tables) else self.bits(symbols, index)

    def round(self, residual: Tensor, index: Tensor, weight: Tensor | None = None) -> Tensor:
        """:func:`round_for_rate` by what the symbols cost here."""
        return round_for_rate(residual, index, self.coded_bits, weight, self.tables.most_saved if len(self.tables) else None)

    def build_tables(self, counts: np.ndarray | None = None) -> None:
        """Tables of the Gaussians, or of what was counted where they stand.

        Args:
            counts: (64, 2 · reach + 1) how often each symbol from -reach to reach was coded under each index. Learned scales describe the
                spread of what they predict but not its shape, which is more peaked than a Gaussian. Symmetrised, and blended with the
                Gaussian as if that had been seen ``PRIOR_COUNT`` times.
        """
        tables = []
        for index in range(SCALES):
            scale = SCALE_MIN * math.exp(index / INDEX_PER_NAT)
            reach = max(1, math.ceil(4.6 * scale))  # two-sided tail about TAIL
            edges = np.arange(-reach, reach + 2) - 0.5
            cumulative = np.array([0.5 * math.erfc(-edge / scale / math.sqrt(2)) for edge in edges])
            table = _table(-reach, cumulative)
            if counts is not None:
                table = Table(-reach, quantize_probabilities(_blend(table.frequencies, counts[index], reach)))
            tables.append(table)
        self.tables.set(tables)


class FactorizedPrior(nn.Module):
    """A learned density for every channel, independent of position.

    Args:
        channels: of the latent.
        knots: number of rate levels with a scale of their own (:class:`~neuralcodec.codecs.blocks.LevelVectors` knots); 1 for none.
        widths: hidden widths of the monotonic network that is the cumulative distribution.
        init_scale: half the width of the range that the initial density covers.
    """

    def __init__(self, channels: int, knots: int = 1, widths: tuple[int, ...] = (3, 3, 3), init_scale: float = 8.0):
        super().__init__()
        self.channels = channels
        self.knots = knots
        sizes = (1, *widths, 1)
        gain = init_scale ** (1 / (len(sizes) - 1))
        self.matrices, self.biases, self.factors = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            self.matrices.append(torch.full((channels, outputs, inputs), math.log(math.expm1(1 / gain / outputs))))
            self.biases.append(torch.rand(channels, outputs, 1) - 0.5)
            self.factors.append(torch.zeros(channels, outputs, 1))
        self.factors[-1].requires_grad_(False)  # the last layer has none; kept for the weights that were stored with it
        self.log_scale = nn.Parameter(torch.zeros(knots, channels))  # ln of the factor that a level puts on the density's argument
        self.tables = IntegerTables(knots * channels)

    def cumulative_logits(self, values: Tensor) -> Tensor:
        """Logit of the cumulative distribution at ``values``, shape (channels, 1, n)."""
        logits = values
        for depth, (matrix, bias, factor) in enumerate(zip(self.matrices, self.biases, self.factors)):
            logits = torch.matmul(F.softplus(matrix), logits) + bias
            if depth < len(self.matrices) - 1:
                logits = logits + torch.tanh(factor) * torch.tanh(logits)
        return logits

    def bits(self, proxy: Tensor, knot: Tensor | None = None) -> Tensor:
        """Bits of each element.

        Args:
            proxy: (B, C, H, W) symbols, noisy while training.
            knot: (B,) integers, the level's row of ``log_scale``; the first row if omitted.
        """
        scale = self.log_scale[knot if knot is not None else torch.zeros(len(proxy), dtype=torch.long, device=proxy.device)].exp()
        width = scale.T[:, :, None]  # (C, B, 1)
        values = proxy.float().transpose(0, 1).flatten(2)  # (C, B, HW)
        shape = values.shape
        lower = self.cumulative_logits(((values - 0.5) * width).reshape(self.channels, 1, -1))
        upper = self.cumulative_logits(((values + 0.5) * width).reshape(self.channels, 1, -1))
        sign = -torch.sign(lower + upper).detach()  # work in the tail where sigmoids are small, so that their difference is accurate
        likelihood = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        bits = -torch.log2(bounded(likelihood, SMALLEST_LIKELIHOOD, 1.0))
        return bits.reshape(shape).reshape(self.channels, len(proxy), *proxy.shape[2:]).transpose(0, 1)

    def indexes(self, knot: int, height: int, width: int) -> np.ndarray:
        """Table index of every element of a (C, height, width) latent at a level's knot."""
        channel = np.arange(self.channels, dtype=np.int32) + knot * self.channels
        return np.broadcast_to(channel[:, None, None], (self.channels, height, width))

    @torch.no_grad()
    def build_tables(self, largest: int = 1000) -> None:
        """One table per knot and channel, over the integers that hold all but ``TAIL`` of the mass on each side."""
        model = _double_copy(self)
        tables = []
        grid = torch.arange(-largest, largest + 2, dtype=torch.float64) - 0.5
        for knot in range(self.knots):
            arguments = grid * model.log_scale[knot].exp()[:, None]
            cumulative = torch.sigmoid(model.cumulative_logits(arguments[:, None])[:, 0]).cpu().numpy()
            for row in cumulative:
                inside = np.flatnonzero((row[1:] > TAIL) & (row[:-1] < 1 - TAIL))  # symbols worth an entry
                first, last = (int(inside[0]), int(inside[-1])) if len(inside) else (largest, largest)
                tables.append(_table(first - largest, row[first : last + 2]))
        self.tables.set(tables)


def no_counts() -> np.ndarray:
    """Of :meth:`GaussianConditional.build_tables`, before anything is counted."""
    return np.zeros((SCALES, 2 * REACH + 1))


def counts(symbols: Tensor, index: Tensor) -> np.ndarray:
    """How often each symbol from -REACH to REACH, where larger ones count too, is under each index of a Gaussian."""
    flat = index.long() * (2 * REACH + 1) + symbols.clamp(-REACH, REACH).long() + REACH
    return torch.bincount(flat.flatten(), minlength=SCALES * (2 * REACH + 1)).reshape(SCALES, -1).cpu().numpy()


def _blend(frequencies: np.ndarray, counts: np.ndarray, reach: int) -> np.ndarray:
    """A Gaussian table's frequencies and observed counts, as weights of the same table; counts beyond its reach go to the escape."""
    symmetric = (counts + counts[::-1]) / 2
    middle = len(counts) // 2
    inner = np.zeros(2 * reach + 1)
    shared = min(reach, middle)
    inner[reach - shared : reach + shared + 1] = symmetric[middle - shared : middle + shared + 1]
    seen = np.append(inner, symmetric.sum() - inner.sum())
    return frequencies / frequencies.sum() * PRIOR_COUNT + seen


def _table(low: int, cumulative: np.ndarray) -> Table:
    """A table from the cumulative distribution at the edges of its symbols' intervals."""
    outside = max(cumulative[0] + 1 - cumulative[-1], 0)
    return Table(low, quantize_probabilities(np.append(np.maximum(np.diff(cumulative), 0), outside)))


def _double_copy(model: FactorizedPrior) -> FactorizedPrior:
    copy = FactorizedPrior(model.channels, model.knots, tuple(m.shape[1] for m in list(model.matrices)[:-1]))
    copy.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("tables.")}, strict=False)
    return copy.cpu().double()
