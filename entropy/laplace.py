"""Integers under zero-mean Laplace distributions of 64 log-spaced scales, whose tables need no file to be the same everywhere.

Weights and latents that are fitted to one signal are sharply peaked at zero, and there is no trained model that could bring tables
along. So these follow from their scale index by decimal arithmetic, whose every operation is correctly rounded by definition (IEEE
754-2008, as :mod:`decimal` implements it), and are integers before anything else touches them.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import cache

import numpy as np
import torch
from torch import Tensor

from neuralcodec.entropy.models import TAIL
from neuralcodec.entropy.tables import IntegerTables, Table, quantize_probabilities

SCALES = 64
NARROWEST, WIDEST = "0.08", "128"  # standard deviations: 0.0002 bits for a zero at the one end, 8.9 bits a symbol at the other
INDEX_PER_NAT = (SCALES - 1) / math.log(float(WIDEST) / float(NARROWEST))
MOST_BITS = 22.0  # of one symbol while training; coding escapes an outlier at about this cost
MASS_BITS = 44  # probabilities are whole multiples of 2^-44: exact in float64, and so are their sums


def index_of(deviation: float) -> float:
    """The scale index, a real number, of a standard deviation."""
    return INDEX_PER_NAT * math.log(max(deviation, 1e-9) / float(NARROWEST))


class LaplaceBits(torch.autograd.Function):
    """:func:`laplace_bits` with its derivatives written out: a third of the time, and no gradient that vanishes far from zero.

    With ``m = |x|`` and ``r`` = √2 / deviation, the mass of the unit interval around x is ``½ e^(-r m) (e^(r/2) - e^(-r/2))`` from
    m = ½ on, and ``1 - ½ (e^(-r (½ - m)) + e^(-r (½ + m)))`` below.
    """

    @staticmethod
    def forward(ctx, proxy: Tensor, index: Tensor) -> Tensor:
        rate = torch.exp(index.clamp(0, SCALES - 1) * (-1 / INDEX_PER_NAT)) * (math.sqrt(2) / float(NARROWEST))
        magnitude = proxy.abs()
        near = torch.exp((magnitude - 0.5).abs() * -rate)
        far = torch.exp((magnitude + 0.5) * -rate)
        inner = magnitude < 0.5
        mass = 1 - 0.5 * (near + far)
        outer = rate * (magnitude - 0.5) - torch.log(0.5 * -torch.expm1(-rate))
        ctx.save_for_backward(proxy, index, rate, near, far, mass, inner)
        return (torch.where(inner, -torch.log(mass), outer) * (1 / math.log(2))).clamp(max=MOST_BITS)

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        proxy, index, rate, near, far, mass, inner = ctx.saved_tensors
        scaled = gradients[0] * (1 / math.log(2))
        magnitude = proxy.abs()
        of_proxy = of_index = None
        if ctx.needs_input_grad[0]:
            of_proxy = torch.where(inner, 0.5 * (near - far) / mass, 1) * rate * torch.sign(proxy) * scaled
        if ctx.needs_input_grad[1]:
            within = -0.5 * ((0.5 - magnitude) * near + (0.5 + magnitude) * far) / mass
            beyond = magnitude - 0.5 / torch.tanh(0.5 * rate)
            of_index = torch.where(inner, within, beyond) * rate * scaled * (-1 / INDEX_PER_NAT)
            outside = ((index < 0) & (of_index > 0)) | ((index > SCALES - 1) & (of_index < 0))  # a step would lead farther out
            of_index = of_index.masked_fill(outside, 0.0)
        return of_proxy, of_index


def laplace_bits(proxy: Tensor, index: Tensor) -> Tensor:
    """Bits of values (integers, or noisy while training) under the scales that ``index``, in 0…63 and real while training, names.

    Both have one shape.
    """
    return LaplaceBits.apply(proxy, index)


@cache
def laplace_tables() -> IntegerTables:
    """One table per scale index."""
    tables = IntegerTables(SCALES)
    with localcontext() as context:
        context.prec = 50
        half, one, unit = Decimal("0.5"), Decimal(1), Decimal(2**MASS_BITS)
        ratio = (Decimal(WIDEST) / Decimal(NARROWEST)).ln() / (SCALES - 1)
        made = []
        for index in range(SCALES):
            deviation = Decimal(NARROWEST) * (ratio * index).exp()
            step = (-(Decimal(2).sqrt()) / deviation).exp()  # by which the mass falls from one integer to the next
            tail = half * (-(half * Decimal(2).sqrt()) / deviation).exp()  # beyond ±1/2
            masses = [one - 2 * tail]
            while tail > Decimal(TAIL) or len(masses) < 2:
                masses.append(tail * (one - step))
                tail *= step
            side = [int(mass * unit) for mass in masses]
            reach = len(side) - 1
            weights = np.array([*side[:0:-1], *side, int(2 * tail * unit)], dtype=np.float64)
            made.append(Table(-reach, quantize_probabilities(weights)))
    tables.set(made)
    return tables
