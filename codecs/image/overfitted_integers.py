"""The contexts of grids in integer arithmetic, and the tables they name: what encoder and decoder compute to the last bit."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import cache
from typing import NamedTuple

import numpy as np
from torch import Tensor

from neuralcodec.codecs.image.overfitted_context import INDEX_PER_OUTPUT, VALUE_LIMIT, GridContext
from neuralcodec.entropy.laplace import NARROWEST, SCALES, TAIL, WIDEST
from neuralcodec.entropy.tables import IntegerTables, Table, quantize_probabilities

PARTS = 8  # of a step, in which means are told
INPUT_BITS, HIDDEN_BITS, WEIGHT_BITS = 5, 8, 12  # fractional bits
WEIGHT_LIMIT = 2.0**4
HIDDEN_LIMIT = 2**16 - 1
OUTPUT_SHIFT = WEIGHT_BITS + HIDDEN_BITS - round(math.log2(INDEX_PER_OUTPUT))  # an output of 1: eight scale indexes, eight parts of a step
MEAN_LIMIT = 2**24  # parts of a step
LEAST_REACH = 6  # symbols on either side that every table has: escapes are rare, but each takes as long as hundreds of symbols
SHORT = 16  # entries of the tables that are decoded together, with short rows of probabilities
VALUE_SCALE = 2.0**INPUT_BITS  # values as inputs


class Tables(NamedTuple):
    """Which tables a grid uses: those with a long reach take long to decode with, and are for grids of few symbols."""

    last: int  # the largest scale index
    reach: int  # symbols on either side of the mean


NARROW, WIDE = Tables(46, 40), Tables(SCALES - 1, 255)


class IntegerContext:
    """A :class:`GridContext` for one grid in integers, held in float64: every sum stays below 2^53 of its last bit's unit, and is exact in
    any order.

    Args:
        grid: number of the biases.
    """

    def __init__(self, context: GridContext, grid: int):
        def integers(parameter: Tensor, bits: int, shift: int) -> np.ndarray:
            """Scaled so that no sum needs a shift."""
            values = parameter.detach().cpu().numpy().astype(np.float64)
            return np.rint(np.clip(values, -WEIGHT_LIMIT, WEIGHT_LIMIT) * 2.0**bits) * 2.0**-shift

        first, second = WEIGHT_BITS + INPUT_BITS - HIDDEN_BITS, WEIGHT_BITS
        self.first = integers(context.first, WEIGHT_BITS, first)
        self.first_bias = integers(context.first_bias[grid], WEIGHT_BITS + INPUT_BITS, first) + 0.5  # rounded by the floor that follows
        self.second = integers(context.second, WEIGHT_BITS, second)
        self.second_bias = integers(context.second_bias, WEIGHT_BITS + HIDDEN_BITS, second) + 0.5
        self.last = integers(context.last, WEIGHT_BITS, OUTPUT_SHIFT)
        self.last_bias = integers(context.last_bias[grid], WEIGHT_BITS + HIDDEN_BITS, OUTPUT_SHIFT) + 0.5
        self.skip = integers(context.skip, WEIGHT_BITS, OUTPUT_SHIFT + INPUT_BITS - HIDDEN_BITS)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Scale index, and mean in parts of a step.

        Args:
            x: (inputs, positions), integers in float64.

        Returns:
            (2, positions), integers in float64.
        """
        hidden = self.first @ x
        hidden += self.first_bias
        _rounded(hidden)
        second = self.second @ hidden
        second += self.second_bias
        _rounded(second)
        out = self.last @ second
        out += self.last_bias
        out += self.skip @ x
        return np.floor(out, out=out)


def _rounded(total: np.ndarray) -> None:
    """In place: down to an integer, at least 0."""
    np.floor(total, out=total)
    np.minimum(total, HIDDEN_LIMIT, out=total)  # np.clip takes five times as long on few numbers
    np.maximum(total, 0, out=total)


@cache
def magnitudes() -> np.ndarray:
    """log₂(1 + magnitude) of 0 … VALUE_LIMIT, in integers of ``INPUT_BITS`` fractional bits, as float64."""
    exact = np.log2(1 + np.arange(VALUE_LIMIT + 1, dtype=np.float64)) * 2**INPUT_BITS
    assert np.abs(exact % 1 - 0.5).min() > 1e-6  # no rounding is so close that two libraries could disagree
    return np.rint(exact)


@cache
def tables(kind: Tables) -> IntegerTables:
    """Laplace tables around every part of a step: table ``index · PARTS + part`` for the mean ``part / PARTS - 1/2``."""
    every = IntegerTables((kind.last + 1) * PARTS)
    with localcontext() as context:
        context.prec = 40
        one, unit, half = Decimal(1), Decimal(2**44), Decimal("0.5")
        ratio = (Decimal(WIDEST) / Decimal(NARROWEST)).ln() / (SCALES - 1)
        made = []
        for index in range(kind.last + 1):
            rate = Decimal(2).sqrt() / (Decimal(NARROWEST) * (ratio * index).exp())
            fall = (-rate).exp()
            for part in range(PARTS):
                mean = Decimal(part) / PARTS - half
                sides = []
                for sign in (1, -1):
                    tail = half * (-rate * (half - sign * mean)).exp()  # beyond the interval around zero
                    masses: list[Decimal] = []
                    for _ in range(kind.reach):
                        if tail < Decimal(TAIL) and len(masses) >= LEAST_REACH:
                            break
                        masses.append(tail * (one - fall))
                        tail *= fall
                    sides.append((masses, tail))
                (right, beyond), (left, below) = sides
                centre = one - sum(right) - sum(left) - beyond - below
                weights = [*left[::-1], centre, *right, beyond + below]
                made.append(Table(-len(left), quantize_probabilities(np.array([int(mass * unit) for mass in weights], dtype=np.float64))))
    every.set(made)
    return every


def named(out: np.ndarray, last: int) -> tuple[np.ndarray, np.ndarray]:
    """The tables that a context names, and the integers to subtract from symbols, one for each position.

    Args:
        out: as :class:`IntegerContext` gives it.
        last: the largest scale index.
    """
    parts = np.maximum(np.minimum(out[1], MEAN_LIMIT), -MEAN_LIMIT).astype(np.int32) + PARTS // 2
    return np.maximum(np.minimum(out[0], last), 0).astype(np.int32) * PARTS + (parts & PARTS - 1), parts >> PARTS.bit_length() - 1


__all__ = ["NARROW", "PARTS", "SHORT", "VALUE_SCALE", "WIDE", "IntegerContext", "Tables", "magnitudes", "named", "tables"]
