"""Probabilities of subbands' integers from those decoded before, by small networks: what a fit sees of them, and where their inputs are.

    own band, left of and above the position ────┐
    bands before it in the group, all around ────┼──magnitudes──► two hidden layers ──► scale index, mean ──► Laplace table
    same band of the coarser scale, all around ──┤
    same band of luma (for chroma), all around ──┘

All bands of a scale are decoded together. A position needs its own row to the left, the rows above up to one column (two,
for the row after next) to the right, and earlier bands up to one row below. So everything with the same ``column + 2 row + 4 band`` can be
decoded at once (:mod:`~neuralcodec.codecs.image.overfitted_waves`): the context of a full raster order in ``columns + 2 rows + 4 bands``
steps. Encoding runs the same integers (:mod:`~neuralcodec.codecs.image.overfitted_integers`) over all positions together.

Networks over causal neighbours: Ladune et al. 2023 (Cool-chic), https://arxiv.org/abs/2212.05458; Kim et al. 2023 (C3),
https://arxiv.org/abs/2312.02753. Wavefronts: as in HEVC (Chi et al. 2012, https://doi.org/10.1109/TCSVT.2012.2221255), by pixel instead of
by block. Differs from Cool-chic in contexts across bands and scales, in magnitudes on a logarithmic scale as inputs, and in the order.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.entropy.laplace import INDEX_PER_NAT, MOST_BITS, NARROWEST

OWN = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, -2), (-2, -1), (-2, 1), (-2, 2))  # (rows, columns) from a position
SIGNED = 4  # of these, whose values are inputs besides their magnitudes
AROUND = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
BEFORE = 2  # bands of the group that are looked at, at most
LAG = 4  # steps that a band is behind the one before
PADDING = (2, 2, 2, 1)  # left, right, top, bottom: what neighbours reach beyond a band
VALUE_SHIFT = 3  # values enter as eighths
VALUE_LIMIT = 2**13
INDEX_PER_OUTPUT = 8.0  # an output of 1 is eight scale indexes
BLOCK = 24576  # positions that are worked on at once: fewer are slower by what Python adds, more by what caches lack


class Place(NamedTuple):
    plane: int
    row: int
    column: int


class ContextBits(torch.autograd.Function):
    """Bits of the bands of a group, what they would change by if a value did and, on the way, their derivatives.

    Block by block, so that all of it stays in a processor's cache: a quarter of the time of separate operations on whole bands. The
    derivative by the values is that of others' bits, for which they are context; of their own bits, the changes say more.
    """

    @staticmethod
    def forward(ctx, planes: Tensor, rated: Tensor, windows: Windows, last_index: int, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bits, and what those of each value change by if it falls or grows by one, (bands, rows, columns) each.

        Args:
            planes: as :meth:`BandContext.planes` stacks them.
            rated: the bands' values, (bands, rows, columns).
            windows: of the inputs of each band.
            weights: of each band, as :meth:`BandContext.bits` gives them.
        """
        bands, height, width = rated.shape
        wanted = any(ctx.needs_input_grad)
        first, first_bias, second, second_bias, last, last_bias, skip = weights
        gradients = [torch.zeros_like(each) for each in weights] if wanted else []
        windows.planes.copy_(planes)
        windows.slopes.zero_()
        down, up = torch.empty_like(rated), torch.empty_like(rated)
        total = rated.new_zeros((), dtype=torch.float64)
        inputs, hidden, most = first.shape[2], first.shape[1], windows.rows * width
        buffers = [rated.new_empty(count * most) for count in (inputs, hidden, hidden, inputs, hidden)]
        for band in range(bands):
            for top, seen, slopes in windows.blocks[band]:
                count = min(windows.rows, height - top)
                n = count * width
                x, one, two, back, inner = (buffer[: len(buffer) // most * n].view(-1, n) for buffer in buffers)
                torch.stack(seen, out=x.view(inputs, count, width))
                torch.addmm(first_bias[band], first[band], x, out=one).relu_()
                torch.addmm(second_bias[band], second[band], one, out=two).relu_()
                out = torch.addmm(last_bias[band], last[band], two)
                out[1] += (skip[band] @ x[:SIGNED])[0]
                index = (out[0] * INDEX_PER_OUTPUT).clamp_(0, last_index)
                bits, of_proxy, of_index, falls, grows = laplace(rated[band, top : top + count].reshape(-1) - out[1], index)
                total += bits
                if not wanted:
                    continue
                down[band, top : top + count], up[band, top : top + count] = falls.view(count, width), grows.view(count, width)
                torch.mul(of_index, INDEX_PER_OUTPUT, out=out[0])
                torch.neg(of_proxy, out=out[1])
                of_first, of_first_bias, of_second, of_second_bias, of_last, of_last_bias, of_skip = gradients
                of_last[band].addmm_(out, two.T)
                of_last_bias[band] += out.sum(1, keepdim=True)
                of_skip[band].addmm_(out[1:], x[:SIGNED].T)
                torch.mm(last[band].T, out, out=inner)
                torch.ops.aten.threshold_backward(inner, two, 0, grad_input=two)
                of_second[band].addmm_(two, one.T)
                of_second_bias[band] += two.sum(1, keepdim=True)
                torch.mm(second[band].T, two, out=inner)
                torch.ops.aten.threshold_backward(inner, one, 0, grad_input=one)
                of_first[band].addmm_(one, x.T)
                of_first_bias[band] += one.sum(1, keepdim=True)
                torch.mm(first[band].T, one, out=back)
                back[:SIGNED].addmm_(skip[band].T, out[1:])
                torch._foreach_add_(slopes, list(back.view(inputs, count, width).unbind()))
        ctx.gradients = [windows.slopes, *gradients]
        ctx.mark_non_differentiable(down, up)
        return total.float(), down, up

    @staticmethod
    def backward(ctx, *upstream: Tensor):
        of_planes, *of_weights = (gradient * upstream[0] for gradient in ctx.gradients)
        return of_planes, None, None, None, *of_weights


class Laplace(NamedTuple):
    bits: Tensor  # scalar
    of_proxy: Tensor  # derivatives
    of_index: Tensor
    falls: Tensor  # what a proxy's bits change by if it falls by one
    grows: Tensor


def laplace(proxy: Tensor, index: Tensor) -> Laplace:
    """:func:`~neuralcodec.entropy.laplace.laplace_bits` with all that a fit wants to know of it."""
    rate = (index * (-1 / INDEX_PER_NAT)).exp_().mul_(math.sqrt(2) / float(NARROWEST))
    distance = proxy.abs().sub_(0.5)  # beyond the nearer border of the unit interval around zero
    inner = (distance < 0).float()
    near = (distance.abs() * rate).neg_().exp_()
    far = ((distance + 1) * rate).neg_().exp_()
    mass = (near - far).mul_(0.5).lerp_((near + far).mul_(-0.5).add_(1), inner).clamp_(min=2.0**-MOST_BITS)
    each = mass.log2().neg_()
    share = inner.mul(near.sub(far)).mul_(0.5).div_(mass)  # what the derivative by the proxy is of the rate, within
    of_proxy = share.add_(1).sub_(inner).mul_(rate).mul_(proxy.sign()).mul_(1 / math.log(2))
    # By the logarithm of the rate, of -ln mass: (near · d - far · (d + 1)) / 2 / mass, with the sign of d that near has.
    of_index = near.mul_(distance).sub_(far.mul_(distance.add_(1))).div_(mass).mul_(rate).mul_(-0.5 / math.log(2) / INDEX_PER_NAT)
    falls, grows = (_bits(moved.abs_(), rate).sub_(each) for moved in (proxy - 1, proxy + 1))
    return Laplace(each.sum(), of_proxy, of_index, falls, grows)


def _bits(magnitude: Tensor, rate: Tensor) -> Tensor:
    """Of proxies; magnitudes are overwritten."""
    distance = magnitude.sub_(0.5)
    near = (distance.abs() * rate).neg_().exp_()
    far = ((distance + 1) * rate).neg_().exp_()
    inside = (near + far).mul_(-0.5).add_(1)
    return torch.where(distance < 0, inside, near.sub_(far).mul_(0.5)).clamp_(min=2.0**-MOST_BITS).log2_().neg_()


def _moved(planes: Tensor, place: Place, top: int, height: int, width: int) -> Tensor:
    """Rows of a plane, as a neighbour sees them."""
    first, left = PADDING[2] + place.row + top, PADDING[0] + place.column
    return planes[place.plane, first : first + height, left : left + width]


class Windows:
    """Memory for the planes of a group and their gradient, and views of it as every input sees them, made once for many steps.

    ``blocks``: for each band its blocks of rows: the first row, and the inputs' views of planes and of gradients.
    """

    def __init__(self, planes: Tensor, places: Sequence[Sequence[Place]], height: int, width: int):
        self.planes, self.slopes = torch.empty_like(planes), torch.empty_like(planes)
        self.rows = max(1, min(height, BLOCK // width))
        self.blocks: list[list[tuple[int, list[Tensor], list[Tensor]]]] = []
        for each in places:
            blocks: list[tuple[int, list[Tensor], list[Tensor]]] = []
            for top in range(0, height, self.rows):
                count = min(self.rows, height - top)
                seen, slopes = ([_moved(memory, place, top, count, width) for place in each] for memory in (self.planes, self.slopes))
                blocks.append((top, seen, slopes))
            self.blocks.append(blocks)


class BandContext(nn.Module):
    """Scales and means of the bands of one kind of group, at several scales of the picture.

    Args:
        channels: bands in a group.
        before: for each band, those of the group that it looks at, at most two.
        scales: of the picture, each with biases of its own.
        hidden: width of both hidden layers.
        parent, guide: whether there are bands of a coarser scale, and of luma.
    """

    def __init__(self, channels: int, before: Sequence[Sequence[int]], scales: int, hidden: int, parent: bool = True, guide: bool = False):
        super().__init__()
        self.channels, self.before = channels, [tuple(each) for each in before]
        self.parent, self.guide = parent, guide
        self.inputs = SIGNED + len(OWN) + len(AROUND) * (BEFORE + parent + guide)
        self.first = nn.Parameter(torch.randn(channels, hidden, self.inputs) / math.sqrt(self.inputs))
        self.first_bias = nn.Parameter(0.1 * torch.randn(scales, channels, hidden, 1))
        self.second = nn.Parameter(torch.randn(channels, hidden, hidden) * math.sqrt(2 / hidden))
        self.second_bias = nn.Parameter(torch.zeros(channels, hidden, 1))
        self.last = nn.Parameter(torch.zeros(channels, 2, hidden))
        self.last_bias = nn.Parameter(torch.zeros(scales, channels, 2, 1))
        self.skip = nn.Parameter(torch.zeros(channels, 1, SIGNED))  # from values to the mean
        self._windows: dict[tuple, Windows] = {}
        with torch.no_grad():
            self.last_bias[:, :, 0] = 2.0

    def __deepcopy__(self, memo: dict) -> BandContext:
        windows, self._windows = self._windows, {}
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        self._windows = windows
        return copied

    def places(self, active: Sequence[int]) -> list[list[Place]]:
        """Where each input of each band comes from, in planes as :meth:`planes` stacks them."""
        count = self.channels
        found = []
        for channel in active:
            inputs = [Place(count + channel, *each) for each in OWN[:SIGNED]]
            inputs += [Place(channel, *each) for each in OWN]
            for number in range(BEFORE):
                seen = self.before[channel]
                inputs += [Place(seen[number] if number < len(seen) else 2 * count, *each) for each in AROUND]
            if self.parent:
                inputs += [Place(2 * count + 1 + channel, *each) for each in AROUND]
            if self.guide:
                inputs += [Place(3 * count + 1 + channel % 3, *each) for each in AROUND]
            found.append(inputs)
        return found

    def seen(self, plane: int) -> tuple[str, int]:
        """What one of :meth:`planes` holds, and of which channel."""
        kinds = [("magnitude", self.channels), ("value", self.channels), ("zeros", 1), *[("parent", self.channels)] * self.parent]
        for kind, count in kinds:
            if plane < count:
                return kind, plane
            plane -= count
        return "guide", plane

    def planes(self, values: Tensor, sizes: Tensor, parent: Tensor | None, guide: Tensor | None) -> Tensor:
        """Everything that is looked at, stacked and padded with zeros: magnitudes, values, a plane of zeros, parents, guides.

        Args:
            values: (channels, rows, columns) of the group.
            sizes: their :func:`magnitude`.
            parent: magnitudes of the coarser scale, (channels, ⌈rows/2⌉, ⌈columns/2⌉).
            guide: magnitudes of luma, (3, rows, columns).
        """
        height, width = values.shape[1:]
        parts = [sizes, values.clamp(-VALUE_LIMIT, VALUE_LIMIT) * 2.0**-VALUE_SHIFT, torch.zeros_like(values[:1])]
        if self.parent:
            assert parent is not None
            parts.append(_doubled(parent, height, width))
        if self.guide:
            assert guide is not None
            parts.append(guide)
        return F.pad(torch.cat(parts), PADDING)

    def bits(
        self, values: Tensor, sizes: Tensor, parent: Tensor | None, guide: Tensor | None, scale: int, active: Sequence[int], last: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of a group, a scalar, differentiable; and what they change by if a value falls or grows by one, (bands, rows, columns) each.

        Args:
            values, sizes, parent, guide: of integers, as in :meth:`planes`.
            active: the bands that are coded.
            last: the largest scale index.
        """
        which = slice(None) if len(active) == self.channels else list(active)
        weights = (self.first, self.first_bias[scale], self.second, self.second_bias, self.last, self.last_bias[scale], self.skip)
        chosen = [weight[which] for weight in weights]
        planes = self.planes(values, sizes, parent, guide)
        key = (scale, tuple(active), *values.shape[1:])
        if key not in self._windows:
            self._windows = {known: each for known, each in self._windows.items() if known[0] != scale}
            self._windows[key] = Windows(planes.detach(), self.places(active), *values.shape[1:])
        return ContextBits.apply(planes, values[which].detach(), self._windows[key], last, *chosen)

    def multiplications(self) -> int:
        """Of one position of all bands; inputs that are zero as there is no such band take none."""
        weights = (self.first, self.second, self.last, self.skip)
        missing = sum(len(AROUND) * (BEFORE - len(each)) for each in self.before)
        return sum(weight.numel() for weight in weights) - missing * self.first.shape[1]


def magnitude(values: Tensor) -> Tensor:
    """log₂(1 + |value|)."""
    return torch.log2(1 + values.abs())


def _doubled(plane: Tensor, height: int, width: int) -> Tensor:
    """Every position four times, (channels, height, width)."""
    channels, rows, columns = plane.shape
    return plane[:, :, None, :, None].expand(-1, -1, 2, -1, 2).reshape(channels, 2 * rows, 2 * columns)[:, :height, :width]
