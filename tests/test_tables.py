"""Integer tables, and the distributions that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralcodec.entropy.models import SCALES, FactorizedPrior, GaussianConditional, round_for_rate
from neuralcodec.entropy.tables import MAX_ENTRIES, PRECISION, IntegerTables, Table, quantize_probabilities


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=300).filter(lambda weights: 0 < sum(weights) < 1e308))
def test_frequencies_are_positive_and_sum_to_two_to_the_16(weights):
    frequencies = quantize_probabilities(np.array(weights))
    assert len(frequencies) == len(weights)
    assert frequencies.min() >= 1
    assert frequencies.sum() == 2**PRECISION


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=200).filter(any))
def test_frequencies_are_within_one_of_their_share(weights):
    exact = np.array(weights) / sum(weights) * (2**PRECISION - len(weights)) + 1
    assert np.abs(quantize_probabilities(np.array(weights)) - exact).max() < 1


def test_frequencies_of_fixed_probabilities_never_change():
    assert quantize_probabilities(np.array([0.5, 0.25, 0.125, 0.125])).tolist() == [32767, 16384, 8193, 8192]
    assert quantize_probabilities(np.array([1.0, 0.0, 1e-12])).tolist() == [65534, 1, 1]
    assert quantize_probabilities(np.ones(3)).tolist() == [21846, 21845, 21845]


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -0.1], [1.0, np.nan], [np.inf, 1.0], [[1.0]], np.ones(MAX_ENTRIES + 1)])
def test_what_is_no_distribution_is_refused(weights):
    with pytest.raises(ValueError, match=r"probabilities|entries"):
        quantize_probabilities(np.array(weights))


def test_gaussian_tables_never_change():
    model = GaussianConditional()
    model.build_tables()
    narrowest, middle, widest = (model.tables.arrays[index] for index in (0, 18, 63))
    assert (narrowest.low, narrowest.frequencies.tolist()) == (-1, [1, 65533, 1, 1])
    assert (middle.low, middle.frequencies.tolist()) == (-5, [1, 18, 414, 4048, 15830, 24914, 15830, 4048, 414, 17, 1, 1])
    assert (widest.low, len(widest.frequencies), int(widest.frequencies.max())) == (-1178, 2358, 99)


def test_gaussian_bits_are_those_of_its_tables():
    model = GaussianConditional()
    model.build_tables()
    for index, table in enumerate(model.tables.arrays):
        symbols = torch.arange(table.low, table.low + len(table.frequencies) - 1)
        bits = model.bits(symbols.float(), torch.full_like(symbols, index)).double().numpy()
        cost = PRECISION - np.log2(table.frequencies[:-1])
        probability = 2.0**-bits
        assert probability @ cost == pytest.approx(probability @ bits, rel=0.01, abs=1e-4)


def test_factorized_bits_are_those_of_its_tables():
    torch.manual_seed(0)
    model = FactorizedPrior(channels=3, knots=2)
    with torch.no_grad():
        model.log_scale.copy_(torch.randn(2, 3) * 0.5)
        for factor in model.factors:
            factor.copy_(torch.randn_like(factor))
    model.build_tables()
    symbols = torch.arange(-3, 4).float().expand(1, 3, 1, 7)
    for knot in range(2):
        bits = model.bits(symbols, torch.tensor([knot]))[0, :, 0]
        for channel in range(3):
            table = model.tables.arrays[int(model.indexes(knot, 1, 1)[channel, 0, 0])]
            for symbol, cost in zip(range(-3, 4), bits[channel].tolist()):
                entry = symbol - table.low
                if 0 <= entry < len(table.frequencies) - 1 and table.frequencies[entry] > 500:
                    assert cost == pytest.approx(PRECISION - np.log2(table.frequencies[entry]), abs=0.02)


def test_tables_leave_little_to_their_escape():
    model = FactorizedPrior(channels=4)
    model.build_tables()
    assert all(table.frequencies[-1] <= 4 for table in model.tables.arrays)


def test_tables_survive_a_state_dict():
    tables, copy = IntegerTables(2), IntegerTables(2)
    tables.set([Table(-3, quantize_probabilities(np.ones(5))), Table(8, quantize_probabilities(np.ones(2)))])
    copy.load_state_dict(tables.state_dict())
    for table, copied in zip(tables.arrays, copy.arrays):
        assert table.low == copied.low
        assert np.array_equal(table.frequencies, copied.frequencies)


def test_a_codec_without_tables_says_that_it_must_be_frozen():
    with pytest.raises(RuntimeError, match="freeze"):
        IntegerTables(1).check()


@pytest.mark.parametrize(
    ("frequencies", "sizes", "lows"),
    [
        ([65536], [1], [0]),  # one table where two belong
        ([65535, 1, 65536], [2, 2], [0, 0]),
        ([65535, 2, 65535, 1], [2, 2], [0, 0]),
        ([65536, 0, 65535, 1], [2, 2], [0, 0]),
        ([70000, -4464, 65535, 1], [2, 2], [0, 0]),
        ([65535, 1, 65535, 1], [2, 2], [0]),
        ([65535, 1, 65535, 1], [-2, 6], [0, 0]),
        ([65535, 1, 65535, 1], [2, 2], [0, -(2**31)]),
        ([[65535, 1], [65535, 1]], [2, 2], [0, 0]),
    ],
)
def test_bogus_tables_are_refused(frequencies, sizes, lows):
    tables = IntegerTables(2)
    tables.load_state_dict({"frequencies": torch.tensor(frequencies), "sizes": torch.tensor(sizes), "lows": torch.tensor(lows)})
    with pytest.raises(ValueError, match=r"tables|frequencies"):
        tables.check()


def test_every_scale_has_a_table():
    model = GaussianConditional()
    model.build_tables()
    assert len(model.tables) == SCALES


def test_no_step_towards_zero_saves_more_than_its_table_says():
    model = GaussianConditional()
    model.build_tables()
    symbols = torch.arange(-3000, 3001)
    for index in (0, 5, 18, 40, 63):
        indexes = torch.full_like(symbols, index)
        saved = model.tables.bits(symbols, indexes) - model.tables.bits(symbols - torch.sign(symbols), indexes)
        assert saved.max() <= model.tables.most_saved[index]


def test_rounding_for_rate_is_the_same_whether_or_not_costs_are_looked_up_everywhere():
    model = GaussianConditional()
    model.build_tables()
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(0, SCALES, (4, 5000), generator=generator).float()
    residual = torch.randn(index.shape, generator=generator) * model.scale(index) * 1.5
    everywhere = round_for_rate(residual, index, model.tables.bits)
    assert torch.equal(model.round(residual, index), everywhere)
    assert not torch.equal(everywhere, torch.round(residual))
