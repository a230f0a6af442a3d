"""Weight coding: what a fit sees is what the file holds."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor

from neuralcodec.entropy.laplace import SCALES, laplace_bits, laplace_tables
from neuralcodec.entropy.rans import CorruptStream
from neuralcodec.entropy.weights import EXACT, Rounding, WeightCoder

SHAPES = {"wide": (96, 128), "conv": (70, 8, 3, 3), "depthwise": (64, 1, 3, 3), "bias": (70,), "one": (1, 1)}


def tensors(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    values = {name: torch.randn(shape) * 0.1 for name, shape in SHAPES.items()}
    values["wide"] *= torch.logspace(-1.5, 0, 96)[:, None]  # rows of very different sizes
    return values


def fitted(values: dict[str, Tensor], steps: int = 60) -> WeightCoder:
    coder = WeightCoder(SHAPES)
    coder.initialise(values)
    optimiser = torch.optim.Adam(coder.parameters(), 0.3)
    for _ in range(steps):
        coded = coder(values, EXACT)
        error = sum((coded.values[name] - values[name]).square().sum() for name in SHAPES)
        optimiser.zero_grad()
        (coded.bits + 2e4 * error).backward()
        optimiser.step()
    return coder


@pytest.fixture(scope="module")
def coder() -> WeightCoder:
    return fitted(tensors())


def test_decoded_weights_are_those_the_fit_saw_and_cost_what_it_said(coder):
    values = tensors()
    data, symbols = coder.encode(values)
    seen = coder(values)
    reader = WeightCoder(SHAPES)
    decoded, read = reader.decode(data)
    assert np.array_equal(symbols, read)
    assert all(torch.equal(decoded[name], seen.values[name]) for name in SHAPES)
    assert len(data) * 8 == pytest.approx(float(seen.bits.detach()), rel=0.01)


def test_learned_rows_cost_less_than_one_scale_for_each_tensor(coder):
    values = tensors()
    plain = WeightCoder(SHAPES, per_axis=10**9)
    with torch.no_grad():  # the same steps on average, so that only scales differ
        plain.steps.copy_(coder.steps[: len(SHAPES)])
    optimiser = torch.optim.Adam([plain.scales], 0.3)
    for _ in range(60):
        optimiser.zero_grad()
        plain(values).bits.backward()
        optimiser.step()
    error = {kind: float((kind(values).values["wide"].detach() - values["wide"]).square().mean()) for kind in (coder, plain)}
    bits = {kind: len(kind.encode(values)[0]) * 8 for kind in (coder, plain)}
    saved = (bits[plain] - bits[coder]) / (96 * 128) + 0.5 * np.log2(error[plain] / error[coder])
    assert saved > 0.1  # bits per weight of the tensor, at equal error


def test_steps_are_learned_both_ways():
    values = tensors()
    coder = WeightCoder(SHAPES)
    coder.initialise(values)
    coded = coder(values, Rounding(alpha=4.0))
    (coded.bits + 1e4 * (coded.values["wide"] - values["wide"]).square().sum()).backward()
    assert coder.steps.grad is not None and coder.steps.grad[: len(SHAPES)].abs().min() > 0
    assert coder.scales.grad is not None and coder.scales.grad.abs().max() > 0


def test_laplace_tables_are_the_same_integers_everywhere():
    tables = laplace_tables()
    tables.check()
    digest = hashlib.sha256(b"".join(part.frequencies.astype("<i4").tobytes() for part in tables.arrays)).hexdigest()
    assert (digest[:16], len(tables.frequencies)) == ("ebae09ea903fc539", 18286)


def test_tables_cost_what_training_is_told():
    symbols = torch.arange(-3, 4).float()
    for index in range(10, SCALES, 9):
        indexes = torch.full_like(symbols, index)
        usual = torch.exp2(-laplace_bits(symbols, indexes))
        difference = (laplace_tables().bits(symbols, indexes) - laplace_bits(symbols, indexes)).abs()
        assert float((difference * usual).sum()) < 0.03


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data + bytes(4)])
def test_damaged_weights_are_refused(coder, damage):
    data, _ = coder.encode(tensors())
    with pytest.raises(CorruptStream):
        WeightCoder(SHAPES).decode(damage(data))


def test_any_bytes_give_finite_weights_or_are_refused():
    random = np.random.default_rng(0)
    for _ in range(20):
        try:
            decoded, _ = WeightCoder(SHAPES).decode(random.bytes(4 * int(random.integers(1, 3000))))
        except CorruptStream:
            continue
        assert all(value.isfinite().all() for value in decoded.values())
