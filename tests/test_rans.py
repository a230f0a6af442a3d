"""The entropy coder: exact words, agreement with a big-integer reference, and every input coming back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from neuralcodec.entropy import rans
from neuralcodec.entropy.models import GaussianConditional
from neuralcodec.entropy.tables import IntegerTables, Table, quantize_probabilities

INT32 = st.integers(-(2**31), 2**31 - 1)


def tables_of(*tables: Table) -> IntegerTables:
    made = IntegerTables(len(tables))
    made.set(tables)
    return made


def skewed(low: int, entries: int) -> Table:
    return Table(low, quantize_probabilities(1.0 / np.arange(1, entries + 1) ** 2))


TABLES = tables_of(skewed(-2, 6), skewed(0, 2), skewed(-500, 1000), skewed(7, 3))
GAUSSIAN = GaussianConditional()
GAUSSIAN.build_tables()


def words(data: bytes) -> list[int]:
    return np.frombuffer(data, "<u4").tolist()


def reference(symbols: list[int], indexes: list[int], tables: IntegerTables) -> list[int]:
    """Symbols inside their tables, coded with big integers: 64-bit state, 32-bit words, frequencies in units of 2^-24."""
    state, out = 0, []
    by_table = sorted(range(len(symbols)), key=lambda position: indexes[position])
    for position in reversed(by_table):
        table = tables.arrays[indexes[position]]
        entry = symbols[position] - table.low
        assert 0 <= entry < len(table.frequencies) - 1
        frequency = int(table.frequencies[entry]) * 256
        below = int(table.frequencies[:entry].sum()) * 256
        if state >> 40 >= frequency:
            out.append(state & 0xFFFFFFFF)
            state >>= 32
        state = (state // frequency << 24) + below + state % frequency
    while state:
        out.append(state & 0xFFFFFFFF)
        state >>= 32
    return out


class ReferenceDecoder:
    """docs/bitstream.md, word for word, in big integers."""

    def __init__(self, data: bytes):
        self.words = words(data)
        self.state = 0
        for _ in range(min(2, len(self.words))):
            self.state = self.state << 32 | self.words.pop()

    def take(self, frequencies: list[int]) -> int:
        slot, below = self.state % 2**24, 0
        for entry, frequency in enumerate(frequencies):
            if below <= slot < below + frequency:
                chosen = entry
                self.state = (self.state >> 24) * frequency + slot - below
            below += frequency
        if self.state < 2**32 and self.words:
            self.state = self.state << 32 | self.words.pop()
        return chosen

    def uniform(self, count: int) -> int:
        share = 2**24 // count
        return self.take([share] * (count - 1) + [2**24 - share * (count - 1)])

    def message(self, indexes: list[int], tables: IntegerTables) -> list[int]:
        symbols, escapes = [0] * len(indexes), []
        for position in sorted(range(len(indexes)), key=lambda position: indexes[position]):
            table = tables.arrays[indexes[position]]
            entry = self.take([int(frequency) * 256 for frequency in table.frequencies])
            symbols[position] = table.low + entry
            if entry == len(table.frequencies) - 1:
                escapes.append((position, table.low, entry))
        lengths = [self.uniform(34) for _ in escapes]
        values = [1 << length - 1 for length in lengths]
        for length in range(2, 34):
            for shift in range(0, length - 1, 12):
                for which in (i for i, one in enumerate(lengths) if one == length):
                    values[which] += self.uniform(1 << min(12, length - 1 - shift)) << shift
        for (position, low, entry), value in zip(escapes, values):
            excess = value - 1
            symbols[position] = low - (excess + 1) // 2 if excess % 2 else low + entry + excess // 2
        assert (self.state, self.words) == (0, [])
        return symbols


def test_words_of_a_fixed_message_never_change():
    symbols = np.array([-2, 0, 1, 2, 0, -500, 498, 7, 8, -1, 0, 0], dtype=np.int32)
    indexes = np.array([0, 1, 0, 0, 1, 2, 2, 3, 3, 0, 0, 1])
    data = rans.encode(symbols, indexes, TABLES)
    assert words(data) == [2691094528, 88600425]
    assert rans.decode(data, indexes, TABLES).tolist() == symbols.tolist()
    with pytest.raises(rans.CorruptStream, match="more than its symbols"):  # nothing may be left, and nothing may be missing
        rans.decode(data, indexes[:-2], TABLES)


def test_words_of_escapes_never_change():
    symbols = np.array([-3, 3, 2**31 - 1, -(2**31), 0, 100_000, 12], dtype=np.int32)
    indexes = np.array([0, 0, 0, 1, 1, 2, 3])
    data = rans.encode(symbols, indexes, TABLES)
    assert words(data) == [4287074304, 2383319032, 67087192, 1660932249, 1032]
    assert rans.decode(data, indexes, TABLES).tolist() == symbols.tolist()


def test_words_equal_those_of_a_big_integer_reference():
    random = np.random.default_rng(0)
    indexes = random.integers(0, 64, 3000)
    symbols = np.zeros(3000, dtype=np.int32)
    for index, table in enumerate(GAUSSIAN.tables.arrays):
        chosen = indexes == index
        symbols[chosen] = random.integers(table.low, table.low + len(table.frequencies) - 1, chosen.sum())
    data = rans.encode(symbols, indexes, GAUSSIAN.tables)
    assert words(data) == reference(symbols.tolist(), indexes.tolist(), GAUSSIAN.tables)


def test_document_suffices_to_write_a_decoder():
    random = np.random.default_rng(2)
    indexes = random.integers(0, 64, 400)
    symbols = np.round(random.standard_cauchy(400) * 30).clip(-(2**31), 2**31 - 1).astype(np.int32)
    symbols[:4] = -(2**31), 2**31 - 1, 5000, -5000
    data = rans.encode(symbols, indexes, GAUSSIAN.tables)
    assert ReferenceDecoder(data).message(indexes.tolist(), GAUSSIAN.tables) == symbols.tolist()


def test_nothing_is_no_bytes():
    nothing = np.zeros(0, dtype=np.int32)
    assert rans.encode(nothing, nothing, TABLES) == b""
    assert rans.decode(b"", nothing, TABLES).shape == (0,)


def test_length_is_that_of_the_tables_probabilities():
    random = np.random.default_rng(1)
    indexes = random.integers(0, 64, 20_000)
    scales = np.array([float(GAUSSIAN.scale(torch.tensor(index))) for index in range(64)])
    symbols = np.round(random.normal(size=20_000) * scales[indexes]).astype(np.int32)
    bits = 0.0
    for symbol, index in zip(symbols, indexes):
        table = GAUSSIAN.tables.arrays[index]
        entry = min(max(int(symbol) - table.low, -1), len(table.frequencies) - 1)
        bits += 16 - np.log2(table.frequencies[entry])
    assert len(rans.encode(symbols, indexes, GAUSSIAN.tables)) * 8 == pytest.approx(bits, rel=2e-3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.one_of(INT32, st.integers(-600, 600)), st.integers(0, 3)), max_size=60))
def test_any_symbols_with_any_tables_come_back(message):
    symbols = np.array([symbol for symbol, _ in message], dtype=np.int32)
    indexes = np.array([index for _, index in message], dtype=np.int64)
    data = rans.encode(symbols, indexes, TABLES)
    assert rans.decode(data, indexes, TABLES).tolist() == symbols.tolist()


@settings(max_examples=30, deadline=None)
@given(npst.arrays(np.int32, npst.array_shapes(max_dims=4, max_side=6), elements=INT32), st.integers(0, 2**32 - 1))
def test_any_shape_comes_back(symbols, seed):
    indexes = np.random.default_rng(seed).integers(0, 64, symbols.shape).astype(np.uint8)
    decoded = rans.decode(rans.encode(symbols, indexes, GAUSSIAN.tables), indexes, GAUSSIAN.tables)
    assert decoded.dtype == np.int32
    assert np.array_equal(decoded, symbols)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1000), min_size=2, max_size=40), min_size=1, max_size=300), st.data())
def test_any_tables_code_any_symbols(weights, drawn):
    tables = tables_of(*(Table(position - 5, quantize_probabilities(np.array(row) + 1e-9)) for position, row in enumerate(weights)))
    indexes = np.array(drawn.draw(st.lists(st.integers(0, len(tables) - 1), min_size=1, max_size=50)))
    symbols = np.array(drawn.draw(st.lists(st.integers(-10, 400), min_size=len(indexes), max_size=len(indexes))), dtype=np.int32)
    assert np.array_equal(rans.decode(rans.encode(symbols, indexes, tables), indexes, tables), symbols)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64), st.integers(0, 40))
def test_random_bytes_decode_or_are_refused(data, count):
    indexes = np.arange(count) % len(TABLES)
    try:
        symbols = rans.decode(data, indexes, TABLES)
    except rans.CorruptStream:
        return
    assert symbols.shape == indexes.shape


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 2**33 - 1))
def test_escapes_of_any_size_come_back(value):
    coder = rans.AnsCoder()
    excess = np.array([value - 1, 0, value - 1], dtype=np.int64)
    rans._encode_excess(coder, excess)
    assert rans._decode_excess(coder, 3).tolist() == excess.tolist()
    assert coder.is_empty()


@pytest.mark.parametrize("indexes", [[-1], [4], [0, 0]])
def test_indexes_that_name_no_table_are_refused(indexes):
    with pytest.raises(ValueError, match="indexes"):
        rans.encode(np.array([0], dtype=np.int32), np.array(indexes), TABLES)


def test_a_stream_that_is_not_whole_words_is_refused():
    with pytest.raises(rans.CorruptStream, match="4-byte words"):
        rans.decode(b"abc", np.zeros(1, dtype=np.uint8), TABLES)


def test_a_stream_that_ends_in_a_zero_word_is_refused():
    with pytest.raises(rans.CorruptStream, match="zero word"):
        rans.decode(bytes(4), np.zeros(1, dtype=np.uint8), TABLES)


def test_a_table_of_nothing_but_an_escape_codes_anything():
    tables = tables_of(Table(3, np.array([2**16])), skewed(0, 3))
    symbols, indexes = np.array([3, -8, 1, 2**31 - 1], dtype=np.int32), np.array([0, 0, 1, 0])
    assert np.array_equal(rans.decode(rans.encode(symbols, indexes, tables), indexes, tables), symbols)
