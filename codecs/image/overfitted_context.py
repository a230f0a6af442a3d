"""What the integers of a grid cost: scales and means from neighbours that are decoded before, in real numbers, for fits.

    neighbours, coarser grids ──► two layers of ReLU ──(+)──► scale index, mean ──Laplace──► bits
                └─────────────────linear──────────────┘

Decoding runs the same network in integers (:mod:`~neuralcodec.codecs.image.overfitted_integers`).

Networks over causal neighbours: Ladune et al. 2023 (Cool-chic), https://arxiv.org/abs/2212.05458; Kim et al. 2023 (C3),
https://arxiv.org/abs/2312.02753; coarser grids as inputs: Cool-chic 5. Wavefronts: as in HEVC (Chi et al. 2012,
https://doi.org/10.1109/TCSVT.2012.2221255), by pixel instead of by block. Differs in inputs on a logarithmic scale with a sign, in stripes
that are decoded side by side, and in the order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.fixed import fixed_values
from neuralcodec.entropy.laplace import INDEX_PER_NAT, MOST_BITS, NARROWEST, SCALES

OWN = (  # (rows, columns) from a position, of the same grid; the first ones matter most
    *((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, -2), (-2, -1), (-2, 1), (-2, 2)),
    *((-2, -2), (0, -3), (-3, 0), (-1, -3), (-3, -1), (-3, 1)),
)
SIGNED = 8  # of these, whose values are inputs besides their logarithms
AROUND = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))  # of the next coarser grid
COARSER = 3  # grids that are looked at, of all but the next one only where the position itself lies
INPUTS = SIGNED + len(OWN) + len(AROUND) + COARSER - 1
PADDING = (3, 3, 3, 1)  # left, right, top, bottom: what neighbours reach beyond a stripe
VALUE_LIMIT = 2**13
INDEX_PER_OUTPUT = 8.0  # an output of 1 is eight scale indexes
BLOCK = 16384  # positions that are worked on at once: fewer are slower by what Python adds, more by what caches lack
STRIPES_PER_WIDTH, LOWEST_STRIPE = 6, 8


class Place(NamedTuple):
    """An input: which of :meth:`GridContext.planes`, and where from a position."""

    plane: int
    row: int
    column: int


PLACES = (
    *(Place(1, *place) for place in OWN[:SIGNED]),
    *(Place(0, *place) for place in OWN),
    *(Place(2, *place) for place in AROUND),
    *(Place(3 + number, 0, 0) for number in range(COARSER - 1)),
)


def stripe_rows(height: int, width: int) -> int:
    """Rows of the stripes that a grid is cut into. They are decoded side by side and see nothing of each other."""
    return min(height, max(LOWEST_STRIPE, -(-width // STRIPES_PER_WIDTH)))


def compressed(values: Tensor) -> Tensor:
    """log₂(1 + |value|), with the sign of the value."""
    return torch.log2(1 + values.abs()).copysign(values)


def doubled(plane: Tensor, height: int, width: int) -> Tensor:
    """Every position of (rows, columns) four times, cut to (height, width)."""
    rows, columns = plane.shape
    return plane[:, None, :, None].expand(-1, 2, -1, 2).reshape(2 * rows, 2 * columns)[:height, :width]


class ContextBits(torch.autograd.Function):
    """Bits of a grid and their derivatives; if ``exact``, also what they would change by if a value did.

    Block by block, forwards and backwards at once, so that all of it stays in a processor's cache. If ``exact``, there is no derivative by
    the values themselves but as others' context: the changes say more.
    """

    @staticmethod
    def forward(ctx, planes: Tensor, rated: Tensor, exact: bool, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Bits; if ``exact`` those of each value, and what they change by if it falls or grows by one, (rows, columns) each.

        Args:
            planes: of :meth:`GridContext.planes`.
            rated: the grid's values, (rows, columns).
            weights: of the network, as :meth:`GridContext.bits` gives them.
        """
        height, width = rated.shape
        first, first_bias, second, second_bias, last, last_bias, skip = weights
        wanted = any(ctx.needs_input_grad)
        hidden = len(first)
        # What looks at the inputs is one matrix, with biases as what a further input, always one, is multiplied with.
        seeing = torch.cat((torch.cat((first, skip)), torch.cat((first_bias, last_bias))), 1)
        of_seeing, of_second, of_last = (torch.zeros_like(each) for each in (seeing, second, last))
        of_second_bias = torch.zeros_like(second_bias)
        slopes, of_rated = (torch.zeros_like(each) if wanted else each for each in (planes, rated))
        each, down, up = (torch.empty_like(rated) if exact else rated.new_empty(0) for _ in range(3))
        total = rated.new_zeros((), dtype=torch.float64)
        rows = stripe_rows(height, width)
        at_once = -(-rows // -(-rows * width // BLOCK))
        inputs = planes.new_ones(INPUTS + 1, at_once * width)
        for stripe, begin in enumerate(range(0, height, rows)):
            for row in range(0, min(rows, height - begin), at_once):
                top = begin + row
                count = min(at_once, rows - row, height - top)
                x = inputs[:, : count * width]
                torch.stack(_windows(planes, stripe, row, count, width), out=x[:INPUTS].unflatten(1, (count, width)))
                out = seeing @ x
                one = out[:hidden].relu_()
                two = torch.addmm(second_bias, second, one).relu_()
                out[hidden:].addmm_(last, two)
                index, mean = out[hidden] * INDEX_PER_OUTPUT, out[hidden + 1]
                part = slice(top, top + count)
                cost = laplace(rated[part].reshape(-1) - mean, index.clamp(0, SCALES - 1), exact)
                total += cost.bits.sum()
                if exact:
                    for whole, piece in ((each, cost.bits), (down, cost.falls), (up, cost.grows)):
                        whole[part] = piece.view(count, width)
                if not wanted:
                    continue
                of_rated[part] = cost.of_proxy.view(count, width)
                outside = ((index < 0) & (cost.of_index > 0)) | ((index > SCALES - 1) & (cost.of_index < 0))
                of_sums = torch.empty_like(out)
                of_out = of_sums[hidden:]
                torch.mul(cost.of_index.masked_fill_(outside, 0.0), INDEX_PER_OUTPUT, out=of_out[0])
                torch.neg(cost.of_proxy, out=of_out[1])
                of_last.addmm_(of_out, two.T)
                inner = torch.ops.aten.threshold_backward(last.T @ of_out, two, 0)
                of_second.addmm_(inner, one.T)
                of_second_bias += inner.sum(1, keepdim=True)
                torch.ops.aten.threshold_backward.grad_input(second.T @ inner, one, 0, grad_input=of_sums[:hidden])
                of_seeing.addmm_(of_sums, x.T)
                back = seeing[:, :INPUTS].T @ of_sums
                torch._foreach_add_(_windows(slopes, stripe, row, count, width), list(back.view(INPUTS, count, width).unbind()))
        (of_first, of_first_bias), (of_skip, of_last_bias) = (part.split((INPUTS, 1), 1) for part in of_seeing.split((hidden, len(skip))))
        gradients = [of_first, of_first_bias, of_second, of_second_bias, of_last, of_last_bias, of_skip]
        ctx.gradients = [slopes, None if exact else of_rated, None, *gradients]
        ctx.mark_non_differentiable(each, down, up)
        return total.to(rated.dtype), each, down, up

    @staticmethod
    def backward(ctx, *upstream: Tensor):
        return tuple(None if gradient is None else gradient * upstream[0] for gradient in ctx.gradients)


def _windows(planes: Tensor, stripe: int, row: int, count: int, width: int) -> list[Tensor]:
    """Rows of planes, as each input sees them."""
    top, left = PADDING[2] + row, PADDING[0]
    return [
        planes[place.plane, stripe, top + place.row : top + place.row + count, left + place.column : left + place.column + width]
        for place in PLACES
    ]


class Laplace(NamedTuple):
    bits: Tensor  # of each
    of_proxy: Tensor  # derivatives
    of_index: Tensor
    falls: Tensor  # what a proxy's bits change by if it falls by one; of no meaning if not ``exact``
    grows: Tensor


def laplace(proxy: Tensor, index: Tensor, exact: bool) -> Laplace:
    """:func:`~neuralcodec.entropy.laplace.laplace_bits` with all that a fit wants to know of it."""
    rate = (index * (-1 / INDEX_PER_NAT)).exp_().mul_(math.sqrt(2) / float(NARROWEST))
    distance = proxy.abs().sub_(0.5)  # beyond the nearer border of the unit interval around zero
    inner = (distance < 0).to(proxy.dtype)
    near = (distance.abs() * rate).neg_().exp_()
    far = ((distance + 1) * rate).neg_().exp_()
    mass = (near - far).mul_(0.5).lerp_((near + far).mul_(-0.5).add_(1), inner).clamp_(min=2.0**-MOST_BITS)
    each = mass.log2().neg_()
    share = inner.mul(near.sub(far)).mul_(0.5).div_(mass)  # what the derivative by the proxy is of the rate, within
    of_proxy = share.add_(1).sub_(inner).mul_(rate).mul_(proxy.sign()).mul_(1 / math.log(2))
    # By the logarithm of the rate, of -ln mass: (near · d - far · (d + 1)) / 2 / mass, with the sign of d that near has.
    of_index = near.mul_(distance).sub_(far.mul_(distance.add_(1))).div_(mass).mul_(rate).mul_(-0.5 / math.log(2) / INDEX_PER_NAT)
    falls, grows = (_bits(moved.abs_(), rate).sub_(each) if exact else moved for moved in (proxy - 1, proxy + 1))
    return Laplace(each, of_proxy, of_index, falls, grows)


def _bits(magnitude: Tensor, rate: Tensor) -> Tensor:
    """Of proxies; magnitudes are overwritten."""
    distance = magnitude.sub_(0.5)
    near = (distance.abs() * rate).neg_().exp_()
    far = ((distance + 1) * rate).neg_().exp_()
    inside = (near + far).mul_(-0.5).add_(1)
    return torch.where(distance < 0, inside, near.sub_(far).mul_(0.5)).clamp_(min=2.0**-MOST_BITS).log2_().neg_()


class GridContext(nn.Module):
    """Scales and means of the integers of several grids, by one network with biases for each grid.

    Args:
        grids: how many.
        hidden: width of both hidden layers.
    """

    def __init__(self, grids: int, hidden: int):
        super().__init__()
        self.first = nn.Parameter(fixed_values(hidden * INPUTS, 0).view(hidden, INPUTS) / math.sqrt(INPUTS))
        self.first_bias = nn.Parameter(fixed_values(grids * hidden, 1).view(grids, hidden, 1) / 8)
        self.second = nn.Parameter(fixed_values(hidden * hidden, 2).view(hidden, hidden) / math.sqrt(hidden / 2))
        self.second_bias = nn.Parameter(torch.zeros(hidden, 1))
        self.last = nn.Parameter(torch.zeros(2, hidden))
        self.last_bias = nn.Parameter(torch.tensor([3.5, 0.0])[:, None].repeat(grids, 1, 1))
        self.skip = nn.Parameter(torch.zeros(2, INPUTS))

    @staticmethod
    def planes(logarithms: Tensor, values: Tensor, coarser: Sequence[Tensor], above: int = 0) -> Tensor:
        """Everything that is looked at, stacked, cut into stripes and padded with zeros: (2 + COARSER, stripes, rows, columns).

        Args:
            logarithms: of the grid, :func:`compressed`, (rows, columns).
            values: of the grid.
            coarser: logarithms of the next coarser grids, the nearest one first, each with every position doubled; more rows than the grid
                has are what is beyond it, above (so many) and below.
            above: at most the padding.
        """
        height, width = values.shape
        rows = stripe_rows(height, width)
        left, right, top, bottom = PADDING
        beyond = -height % rows
        own = torch.stack((logarithms, values.clamp(-VALUE_LIMIT, VALUE_LIMIT)))
        own = F.pad(F.pad(own, (0, 0, 0, beyond)).unflatten(1, (-1, rows)), PADDING)
        known = coarser[0] if coarser else values
        others = torch.stack([*coarser, *[torch.zeros_like(known)] * (COARSER - len(coarser))])
        below = len(known) - above - height
        others = F.pad(others, (left, right, top - above, bottom - below + beyond)).unfold(1, rows + top + bottom, rows).movedim(-1, 2)
        return torch.cat((own, others))

    def bits(self, planes: Tensor, rated: Tensor, grid: int, exact: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of a grid, as :class:`ContextBits` tells them."""
        weights = (self.first, self.first_bias[grid], self.second, self.second_bias, self.last, self.last_bias[grid], self.skip)
        return ContextBits.apply(planes, rated, exact, *weights)

    def multiplications(self) -> int:
        """Of one position."""
        return sum(weight.numel() for weight in (self.first, self.second, self.last, self.skip))
