"""Grid coding: integers through parity passes, whatever their shape, at the cost that a fit was told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuralcodec.entropy.grids import THRESHOLDS, UNIT, GridCoder, GridShape, Window
from neuralcodec.entropy.laplace import LaplaceBits
from neuralcodec.entropy.rans import CorruptStream
from neuralcodec.entropy.weights import Rounding

SHAPES = (GridShape(3, 2, 9, 13), GridShape(3, 2, 17, 26, 0), GridShape(3, 5, 34, 52, 1), GridShape(1, 1, 1, 1), GridShape(2, 3, 7, 1))


def latents(shapes=SHAPES, seed: int = 0) -> list[Tensor]:
    """Values whose sizes vary slowly over space and stay much the same from row to row."""
    torch.manual_seed(seed)
    made = []
    for shape in shapes:
        log = F.interpolate(torch.randn(1, 1, 4, 4), (shape.height, shape.width), mode="bilinear")
        made.append(torch.randn(shape[:4]) * torch.exp(2 * log - 0.5))
    return made


def changed(coder: GridCoder, seed: int = 0) -> GridCoder:
    """With side information that is not what it starts as."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for number, shape in enumerate(coder.shapes):
            coder.steps[number].copy_(torch.randint(-30, 5, (shape.channels,)))
            coder.keeps[number].copy_(torch.randint(0, 17, (shape.channels,)))
        coder.classes.add_(torch.randn(coder.classes.shape))
        coder.mixes.add_(torch.randint(-3, 30, coder.mixes.shape))
    return coder


def estimate(coder: GridCoder, values: list[Tensor]) -> float:
    with torch.no_grad():
        rows = coder([Window(each) for each in values], coder.indexes(values))
        return float(sum(each.bits.sum() for each in rows) + coder.side_bits())


def test_decoded_grids_are_those_the_fit_saw():
    coder, values = changed(GridCoder(SHAPES)), latents()
    data, integers = coder.encode(values)
    decoded, read = GridCoder(SHAPES).decode(data)
    with torch.no_grad():
        seen = coder([Window(each) for each in values], coder.indexes(values))
    assert all(np.array_equal(one, other) for one, other in zip(integers, read))
    assert all(torch.equal(one, other.values) for one, other in zip(decoded, seen))


def test_estimate_is_within_one_percent_of_the_stream():
    shapes = (GridShape(2, 4, 40, 64), GridShape(2, 4, 80, 128, 0))
    coder, values = GridCoder(shapes), latents(shapes)
    unsettled = len(coder.encode(values)[0])
    coder.settle(values)
    assert len(coder.encode(values)[0]) < 0.95 * unsettled
    assert len(coder.encode(values)[0]) * 8 == pytest.approx(estimate(coder, values), rel=0.01)


def test_a_window_costs_what_its_rows_cost_in_the_whole():
    coder, values = changed(GridCoder(SHAPES)), latents()
    indexes = coder.indexes(values)
    whole = coder([Window(each) for each in values], indexes)
    windows = [Window(each[:2], 1) if len(each) == 3 else Window(each) for each in values]
    part = coder(windows, [index[1:2] if window.before else index for window, index in zip(windows, indexes)])
    for one, other in zip(whole[:3], part[:3]):
        assert torch.equal(one.values[1:2], other.values) and torch.allclose(one.bits[1:2], other.bits)


def test_contexts_tell_where_values_are_large():
    shapes = (GridShape(4, 2, 32, 48),)
    coder, values = GridCoder(shapes), latents(shapes)
    coder.settle(values)
    ordinary = GridCoder(shapes)
    ordinary.usual_classes.fill_(30)
    costs = []
    for offset in range(-20, 20, 2):
        ordinary.offsets[0].fill_(offset)
        costs.append(estimate(ordinary, values))
    assert estimate(coder, values) < 0.85 * min(costs)


def test_integers_are_chosen_by_what_they_cost():
    shapes = (GridShape(1, 2, 24, 24),)
    coder, values = GridCoder(shapes), latents(shapes)
    coder.settle(values)

    def cost(chosen: list[Tensor], worth: float) -> float:
        return estimate(coder, chosen) + worth * float((chosen[0] - values[0]).square().sum())

    for worth in (0.5, 4.0, 1000.0):
        chosen = coder.choose(values, [torch.full((2, 1, 1), worth)])
        assert cost(chosen, worth) <= cost([torch.round(values[0])], worth)
    assert torch.equal(chosen[0], torch.round(values[0]))


@given(st.lists(st.tuples(*[st.integers(1, 5)] * 2, *[st.integers(1, 9)] * 2), min_size=1, max_size=3), st.integers(0, 3), st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_grids_come_back(sizes, seed, parents):
    shapes: list[GridShape] = []
    for size in sizes:
        parent = len(shapes) - 1 if parents and shapes and shapes[-1].rows == size[0] else None
        shapes.append(GridShape(*size, parent))
    coder = changed(GridCoder(shapes), seed)
    values = [each * 40 for each in latents(shapes, seed)]
    _, integers = coder.encode(values)
    _, read = GridCoder(shapes).decode(coder.encode(values)[0])
    assert all(np.array_equal(one, other) for one, other in zip(integers, read))


def test_huge_values_are_coded():
    shapes = (GridShape(2, 1, 3, 3),)
    values = [torch.full((2, 1, 3, 3), 3e8)]
    data, integers = GridCoder(shapes).encode(values)
    assert np.array_equal(GridCoder(shapes).decode(data)[1][0], integers[0])


def test_classes_are_the_nearest_ones():
    for context in range(0, 40 * UNIT, 7):
        position = min(2 * np.log2(1 + 16 * context / UNIT), 15)
        assert abs(np.searchsorted(THRESHOLDS, context, "right") - position) <= 0.5 + 1e-9


def test_gradients_of_the_rate_are_its_derivatives():
    torch.manual_seed(0)
    values = (torch.randn(50, dtype=torch.float64) * 2).requires_grad_()
    index = (20 + 40 * torch.rand(50, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(LaplaceBits.apply, (values, index))


def test_latents_get_gradients_while_rounding_is_soft():
    shapes = (GridShape(2, 1, 8, 8),)
    coder = GridCoder(shapes)
    value = latents(shapes)[0].requires_grad_()
    (rows,) = coder([Window(value)], coder.indexes([value]), Rounding(alpha=4.0))
    (rows.bits.sum() + rows.values.sum()).backward()
    assert value.grad is not None and value.grad.abs().min() > 0


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data + bytes(4)])
def test_damaged_grids_are_refused(damage):
    data, _ = GridCoder(SHAPES).encode(latents())
    with pytest.raises(CorruptStream):
        GridCoder(SHAPES).decode(damage(data))


def test_any_bytes_give_finite_grids_or_are_refused():
    random = np.random.default_rng(0)
    for _ in range(10):
        try:
            decoded, _ = GridCoder(SHAPES).decode(random.bytes(4 * int(random.integers(1, 2000))))
        except CorruptStream:
            continue
        assert all(value.isfinite().all() for value in decoded)
