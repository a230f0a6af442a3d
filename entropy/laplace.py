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

from neuralcodec.entropy.integer import bounded
from neuralcodec.entropy.models import SMALLEST_LIKELIHOOD, TAIL
from neuralcodec.entropy.tables import IntegerTables, Table, quantize_probabilities

SCALES = 64
NARROWEST, WIDEST = "0.08", "128"  # standard deviations: 0.0002 bits for a zero at the one end, 8.9 bits a symbol at the other
INDEX_PER_NAT = (SCALES - 1) / math.log(float(WIDEST) / float(NARROWEST))
MASS_BITS = 44  # probabilities are whole multiples of 2^-44: exact in float64, and so are their sums


def index_of(deviation: float) -> float:
    """The scale index, a real number, of a standard deviation."""
    return INDEX_PER_NAT * math.log(max(deviation, 1e-9) / float(NARROWEST))


def laplace_bits(proxy: Tensor, index: Tensor) -> Tensor:
    """Bits of values (integers, or noisy while training) under the scales that ``index``, in 0…63 and real while training, names."""
    rate = math.sqrt(2) / float(NARROWEST) * torch.exp(bounded(index, 0, SCALES - 1) * (-1 / INDEX_PER_NAT))
    magnitude = proxy.abs()
    near = torch.exp(-rate * (magnitude - 0.5).abs())
    far = torch.exp(-rate * (magnitude + 0.5))
    likelihood = torch.where(magnitude < 0.5, 1 - 0.5 * (near + far), 0.5 * (near - far))
    return -torch.log2(bounded(likelihood, SMALLEST_LIKELIHOOD, 1.0))


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
