"""Grids whose tables networks name: integers through passes in which each knows only what is decoded, at the cost that a fit was told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neuralcodec.entropy import band_contexts, bands
from neuralcodec.entropy.band_contexts import FAMILIES, magnitude, networks, turns
from neuralcodec.entropy.bands import BandCoder
from neuralcodec.entropy.laplace import laplace_bits
from neuralcodec.entropy.latents import GridShape
from neuralcodec.entropy.rans import CorruptStream
from neuralcodec.training import band_contexts as training


def shapes(height: int = 21, width: int = 34, rows: int = 3, alone: bool = False) -> list[GridShape]:
    """Of the grids of a few pictures: motion, means, and bands of two scales."""
    half = (-(-height // 2), -(-width // 2))
    return [
        GridShape(rows, 2, *half, family="motion"),
        GridShape(rows, 5, *half, family="ways", alone=alone),
        GridShape(rows, 3, *half, family="low", alone=alone),
        GridShape(rows, 9, *half, family="bands", place=1, alone=alone),
        GridShape(rows, 3, height, width, 3, "bands", 0, alone),
    ]


def latents(grids: list[GridShape], seed: int = 0) -> list[Tensor]:
    torch.manual_seed(seed)
    made = []
    for shape in grids:
        log = F.interpolate(torch.randn(1, 1, 4, 4), (shape.height, shape.width), mode="bilinear")
        made.append(torch.round(torch.randn(shape[:4]) * torch.exp(2 * log - 0.5)))
    made[-1][0] = 0
    made[3][-1, 4:] = 0
    return made


@given(st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 4)), st.booleans(), st.integers(0, 9))
@settings(max_examples=12, deadline=None)
def test_any_grids_come_back(size, alone, seed):
    grids = shapes(*size, alone)
    coder, values = BandCoder(grids), latents(grids, seed)
    coder.settle(values)
    data, integers = coder.encode(values)
    decoder = BandCoder(grids)
    decoded, read = decoder.decode(data)
    assert all(np.array_equal(one, other) for one, other in zip(integers, read))
    assert all(torch.equal(one, other) for one, other in zip(decoded, values))


def test_rows_are_decoded_together_or_not_with_the_same_result(monkeypatch):
    grids = shapes(alone=True)
    values = latents(grids)
    coder = BandCoder(grids)
    together = coder.indexes(values)
    monkeypatch.setattr(bands, "AT_ONCE", 1)
    assert all(torch.equal(one, other) for one, other in zip(coder.indexes(values), together))


def test_estimate_is_within_one_percent_of_the_stream():
    grids = shapes(90, 120)
    coder, values = BandCoder(grids), latents(grids)
    coder.settle(values)
    bits = coder.latent_bits(values, coder.indexes(values)) + float(coder.side_bits().detach())
    assert 8 * len(coder.encode(values)[0]) == pytest.approx(bits, rel=0.01)


def test_channels_of_zeros_cost_next_to_nothing():
    grids = shapes(240, 320, alone=True)
    empty = [torch.zeros(shape[:4]) for shape in grids]
    assert len(BandCoder(grids).encode(empty)[0]) < 60


def test_contexts_do_not_see_what_comes_later():
    for name, family in FAMILIES.items():
        shape = GridShape(1, family.sets[-1][1], 18, 26, family=name)
        coder = BandCoder([shape])
        torch.manual_seed(0)
        whole = torch.randint(-9, 10, shape[:4]).float()
        order = turns(name, shape.channels)
        found = coder.indexes([whole])[0] + 1000 * coder.expected(0, whole)
        for number in (0, len(order) // 2, len(order) - 1):
            other = whole.clone()
            for turn in order[number:]:
                other[0, turn.begin : turn.end, turn.top :: turn.stride, turn.left :: turn.stride] += 40
            again = coder.indexes([other])[0] + 1000 * coder.expected(0, other)
            for turn in order[: number + 1]:
                part = (0, slice(turn.begin, turn.end), slice(turn.top, None, turn.stride), slice(turn.left, None, turn.stride))
                assert torch.equal(found[part], again[part]), (name, number)


def test_sums_of_the_networks_are_exact_in_float32():
    for name, sets in networks().items():
        for network in sets:
            inputs, hidden = (255 * network.first.abs().sum(-1), 255 * network.second.abs().sum(-1))
            assert (inputs.amax() + network.first_bias.abs().amax()) < 2**24 > hidden.amax() + network.second_bias.abs().amax()
            assert 1023 * network.skip.abs().sum(-1).amax() < 2**24, name


def test_magnitudes_are_a_logarithm_in_steps_of_a_32nd():
    values = torch.arange(1024.0)
    exact = torch.log2(values.double() + 1) * band_contexts.INPUT_UNIT
    assert float((magnitude(values) - exact.clamp(max=255)).abs().max()) < 4
    assert (magnitude(values).diff() >= 0).all() and magnitude(torch.tensor([0.0, 1.0, 3.0])).tolist() == [0, 32, 64]


@pytest.mark.parametrize("key", [("bands", 1, 3, 4), ("ways", 2, 1, 0)])
def test_trained_networks_are_the_integers_that_are_kept(key):
    name, which, parity, channel = key
    family, count = FAMILIES[name], 300
    torch.manual_seed(0)
    values = torch.randint(-20, 20, (count, 9)).to(torch.int16) if family.smooth else None
    inputs, places = torch.randint(0, 200, (count, family.inputs)).to(torch.uint8), torch.full((count,), 17, dtype=torch.uint8)
    seen = training.Examples(inputs, values, torch.randint(-3, 4, (count,)).float(), torch.ones(count), places)
    context = training.trained(key, seen, 0.3)
    tensors = training.tensors({key: context})
    network = band_contexts.Network(*(tensors[f"{name}.{which}.{field}"].float() for field in band_contexts.Network._fields))
    begin = family.sets[which][0]
    turn = next(turn for turn in turns(name, family.sets[-1][1]) if turn.which == which and turn.parity == parity)
    given = band_contexts.Inputs(inputs.float().T[None], None if values is None else values.float().T[None])
    index, mean = network(turn, 17, [begin + channel], given)
    assert float(laplace_bits(seen.targets - mean[0], index[0]).sum()) == pytest.approx(float(context(seen).detach()), rel=0.002)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-4], lambda data: data + b"\1\0\0\0", lambda data: data[:-1], lambda data: b"\7" * 64]
)
def test_damaged_grids_are_refused_or_finite(damage):
    grids = shapes()
    data = BandCoder(grids).encode(latents(grids))[0]
    try:
        values, _ = BandCoder(grids).decode(damage(data))
    except CorruptStream:
        return
    assert all(bool(torch.isfinite(each).all()) for each in values)
