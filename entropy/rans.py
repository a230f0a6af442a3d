"""(symbols, table indexes) ⇄ bytes: range asymmetric numeral systems, one vectorised call per table.

The coder is constriction's (Bamler 2022, https://arxiv.org/abs/2201.01741). Symbols are sorted by table first, so that a call codes all
symbols of one table at once; the decoder knows the indexes beforehand and undoes the order. A symbol outside its table is coded as the
table's escape and its excess follows in an Elias-gamma-like code: bit length, then the bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import constriction
import numpy as np
import torch

from neuralcodec.entropy.tables import MAX_EXCESS_BITS, PRECISION, IntegerTables

AnsCoder = constriction.stream.stack.AnsCoder
Categorical = constriction.stream.model.Categorical
Uniform = constriction.stream.model.Uniform

CODER_PRECISION = 24  # bits of constriction's own fixed-point probabilities
FAMILY = Categorical(perfect=False)  # of which each symbol names its own member
AT_ONCE = 2**13  # symbols that get a row of probabilities each, at least, where nothing else limits how many
CHUNK = 12  # bits of an escape that are coded at once


class CorruptStream(ValueError):  # noqa: N818
    """The bytes are not what any encoder writes for these indexes."""


def categorical(frequencies: np.ndarray) -> Categorical | None:
    """constriction's model with *exactly* these probabilities; none for a table of one entry, which takes no bits.

    It hands out one unit of 2^-24 to every symbol and shares the rest in proportion, in float64. Weights that already sum to that rest are
    integers all the way, so no rounding happens anywhere.
    """
    if len(frequencies) == 1:
        return None
    weights = frequencies.astype(np.float64) * 2 ** (CODER_PRECISION - PRECISION) - 1
    return Categorical(weights, perfect=False)


def encode(symbols: np.ndarray, indexes: np.ndarray, tables: IntegerTables) -> bytes:
    """Code integers, each with the table that its index names.

    Args:
        symbols: int32, any shape.
        indexes: integers in ``0 … len(tables) - 1``, same number of elements.
    """
    return encode_parts([(symbols, indexes)], tables)


def encode_parts(parts: Sequence[tuple[np.ndarray, np.ndarray]], tables: IntegerTables) -> bytes:
    """Code symbols whose indexes a decoder works out part by part, from the parts before, as one stream.

    Args:
        parts: symbols and indexes of each, as :func:`encode` takes them.
    """
    coder = AnsCoder()
    for symbols, indexes in reversed(parts):  # a stack: what the decoder reads last is written first
        _push(coder, symbols, indexes, tables)
    return coder.get_compressed().astype("<u4").tobytes()


def decode(data: bytes, indexes: np.ndarray, tables: IntegerTables) -> np.ndarray:
    """Undo :func:`encode`.

    Returns:
        int32 symbols in the shape of ``indexes``.

    Raises:
        CorruptStream: the bytes run out, or are more than these indexes account for.
    """
    decoder = Decoder(data, tables)
    symbols = decoder.take(indexes)
    decoder.finish()
    return symbols


class Decoder:
    """Reads a stream part by part: undoes :func:`encode_parts`.

    Raises:
        CorruptStream: as :func:`decode` does, from any of its methods.
    """

    def __init__(self, data: bytes, tables: IntegerTables):
        if len(data) % 4:
            raise CorruptStream(f"a coded stream is whole 4-byte words, not {len(data)} bytes")
        words = np.frombuffer(data, dtype="<u4").astype(np.uint32)
        if len(words) and words[-1] == 0:
            raise CorruptStream("a coded stream never ends in a zero word")
        self.tables = tables
        self._coder = AnsCoder(words)

    def take(self, indexes: np.ndarray) -> np.ndarray:
        """The symbols of the next part, int32 in the shape of their indexes."""
        order, counts = _by_table(indexes, len(self.tables))
        grouped = np.empty(len(order), dtype=np.int32)
        escaped: list[tuple[np.ndarray, int, int]] = []
        for index, start, end in _groups(counts):
            low, escape = self.tables.arrays[index].low, len(self.tables.arrays[index].frequencies) - 1
            if not escape:
                escaped.append((np.arange(start, end), low, escape))
                continue
            entries = self._coder.decode(self.tables.coders[index], end - start)
            if entries.max() == escape:
                escaped.append((np.flatnonzero(entries == escape) + start, low, escape))
            np.add(entries, np.int32(low), out=grouped[start:end])
        if escaped:
            excess = _decode_excess(self._coder, sum(len(positions) for positions, _, _ in escaped))
            taken = 0
            for positions, low, escape in escaped:
                part = excess[taken : taken + len(positions)]
                values = low + np.where(part % 2, -(part + 1) // 2, part // 2 + escape)
                if values.min() < -(2**31) or values.max() >= 2**31:
                    raise CorruptStream("a coded symbol does not fit in 32 bits")
                grouped[positions] = values
                taken += len(positions)
        symbols = np.empty(len(order), dtype=np.int32)
        symbols[order] = grouped
        return symbols.reshape(np.shape(indexes))

    def finish(self) -> None:
        """Nothing may be left."""
        if not self._coder.is_empty():
            raise CorruptStream("a coded stream holds more than its symbols")


def encode_rows(parts: Sequence[tuple[np.ndarray, np.ndarray]], tables: IntegerTables, short: int = 0) -> bytes:
    """Code small parts, as :func:`encode_parts` takes them, for :class:`RowDecoder`.

    All symbols of a part go into one call, each with its own row of probabilities, where :func:`encode_parts` takes one call a table:
    faster by far where a part holds few symbols of many tables, slower where it holds thousands of a few. Most such streams are short, so
    bytes of the last word that are zero are left out.

    Args:
        short: of each part, symbols of tables with at most so many entries come first, in a call of their own: rows are as long as the
            longest table, and take time by their length.
    """
    flat = [(np.asarray(symbols, np.int64).reshape(-1), np.asarray(indexes).reshape(-1)) for symbols, indexes in parts]
    rows, lows, escapes = tables.rows
    calls = [(symbols, indexes, rows) for symbols, indexes in flat]
    if short:
        calls = []
        for symbols, indexes in flat:
            few = escapes[indexes] < short
            calls += [(symbols[few], indexes[few], tables.rows_of(short)), (symbols[~few], indexes[~few], rows)]
    coder = AnsCoder()
    waiting: list[tuple[np.ndarray, np.ndarray]] = []  # parts without escapes, the last one first: they go into one call

    def flush() -> None:
        if waiting:
            coded, indexes = (np.concatenate(each[::-1]) for each in zip(*waiting))
            coder.encode_reverse(coded, FAMILY, used[indexes])
            waiting.clear()

    used = rows
    for symbols, indexes, wanted in reversed([call for call in calls if len(call[0])]):
        entries = symbols - lows[indexes]
        outside = (entries < 0) | (entries >= escapes[indexes])
        if outside.any() or wanted is not used:
            flush()
            used = wanted
        if outside.any():
            excess = entries[outside]
            _encode_excess(coder, np.where(excess < 0, -2 * excess - 1, 2 * (excess - escapes[indexes][outside])))
        waiting.append((np.where(outside, escapes[indexes], entries).astype(np.int32), indexes))
        if outside.any() or sum(len(each) for each, _ in waiting) >= AT_ONCE:
            flush()
    flush()
    return _short(coder)


def _short(coder: AnsCoder) -> bytes:
    return coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


class RowDecoder(Decoder):
    """Undoes :func:`encode_rows` part by part."""

    def __init__(self, data: bytes, tables: IntegerTables, short: int = 0):
        if data.endswith(b"\0"):
            raise CorruptStream("such a coded stream never ends in a zero byte")
        super().__init__(data + bytes(-len(data) % 4), tables)
        self.short = short

    def take(self, indexes: np.ndarray) -> np.ndarray:
        rows, lows, escapes = self.tables.rows
        indexes = np.asarray(indexes)
        flat = indexes.reshape(-1)
        if not self.short:
            return self._taken(flat, rows, lows[flat], escapes[flat]).reshape(indexes.shape)
        ends, starts = escapes[flat], lows[flat]
        few = ends < self.short
        symbols = np.empty(len(flat), np.int64)
        for chosen, each in ((few, self.tables.rows_of(self.short)), (~few, rows)):
            places = chosen.nonzero()[0]
            if len(places):
                symbols[places] = self._taken(flat[places], each, starts[places], ends[places])
        return symbols.reshape(indexes.shape)

    def _taken(self, indexes: np.ndarray, rows: np.ndarray, lows: np.ndarray, escapes: np.ndarray) -> np.ndarray:
        symbols = self._coder.decode(FAMILY, rows[indexes])
        outside = symbols == escapes
        if outside.any():
            return self._with_excess(symbols, outside, lows, escapes)
        symbols += lows
        return symbols

    def _with_excess(self, symbols: np.ndarray, outside: np.ndarray, lows: np.ndarray, escapes: np.ndarray) -> np.ndarray:
        """Symbols of which some are escapes, and what follows these."""
        symbols = symbols + lows
        excess = _decode_excess(self._coder, int(outside.sum()))
        values = lows[outside].astype(np.int64) + np.where(excess % 2, -(excess + 1) // 2, excess // 2 + escapes[outside])
        if values.min() < -(2**31) or values.max() >= 2**31:
            raise CorruptStream("a coded symbol does not fit in 32 bits")
        symbols[outside] = values
        return symbols

    @staticmethod
    def take_side_by_side(decoders: Sequence[RowDecoder], indexes: np.ndarray) -> np.ndarray:
        """The next part of several streams of the same tables: int32 in the shape of the indexes, (streams, …)."""
        rows, lows, escapes = decoders[0].tables.rows
        flat = indexes.reshape(len(decoders), -1)
        weights, lows, escapes = rows[flat], lows[flat], escapes[flat]
        symbols = np.stack([decoder._coder.decode(FAMILY, each) for decoder, each in zip(decoders, weights)])
        outside = symbols == escapes
        for stream in np.flatnonzero(outside.any(1)):
            symbols[stream] = decoders[stream]._with_excess(symbols[stream], outside[stream], lows[stream], escapes[stream]) - lows[stream]
        return (symbols + lows).reshape(indexes.shape)


def _push(coder: AnsCoder, symbols: np.ndarray, indexes: np.ndarray, tables: IntegerTables) -> None:
    symbols = np.ascontiguousarray(symbols, dtype=np.int32).reshape(-1)
    order, counts = _by_table(indexes, len(tables))
    if len(order) != len(symbols):
        raise ValueError(f"{len(symbols)} symbols but {len(order)} indexes")
    grouped = symbols[order]
    pieces: list[tuple[np.ndarray, int]] = []
    escapes: list[np.ndarray] = []
    for index, start, end in _groups(counts):
        low, escape = tables.arrays[index].low, len(tables.arrays[index].frequencies) - 1
        entries = grouped[start:end] - np.int32(low)  # wraps around where it must, never onto an entry of the table
        distance = entries.view(np.uint32)
        if distance.max() >= escape:
            outside = np.flatnonzero(distance >= escape)
            excess = grouped[start:end][outside].astype(np.int64) - low
            escapes.append(np.where(excess < 0, -2 * excess - 1, 2 * (excess - escape)))
            entries[outside] = escape
        if escape:
            pieces.append((entries, index))
    if escapes:
        _encode_excess(coder, np.concatenate(escapes))
    for entries, index in reversed(pieces):
        coder.encode_reverse(entries, tables.coders[index])


def _by_table(indexes: np.ndarray, tables: int) -> tuple[np.ndarray, np.ndarray]:
    """A stable order that groups elements by table, and the size of each group."""
    flat = np.asarray(indexes).reshape(-1)
    if len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < tables:
        raise ValueError(f"table indexes must lie in 0 … {tables - 1}")
    small = np.ascontiguousarray(flat, dtype=np.uint8 if tables <= 256 else np.int16)
    order = torch.sort(torch.from_numpy(small), stable=True).indices.numpy()  # a third of the time of NumPy's argsort
    return order, np.bincount(small, minlength=tables)


def _groups(counts: np.ndarray) -> list[tuple[int, int, int]]:
    """``(table, start, end)`` of every group that has elements."""
    ends = np.cumsum(counts)
    return [(int(index), int(ends[index] - counts[index]), int(ends[index])) for index in np.flatnonzero(counts)]


def _encode_excess(coder: AnsCoder, excess: np.ndarray) -> None:
    lengths = _bit_lengths(excess + 1)
    for bits in reversed(range(2, MAX_EXCESS_BITS + 1)):
        values = excess[lengths == bits] + 1
        if len(values):
            for shift, width in reversed(_chunks(bits - 1)):
                coder.encode_reverse((values >> shift & (1 << width) - 1).astype(np.int32), Uniform(1 << width))
    coder.encode_reverse(lengths.astype(np.int32), Uniform(MAX_EXCESS_BITS + 1))


def _decode_excess(coder: AnsCoder, count: int) -> np.ndarray:
    lengths = coder.decode(Uniform(MAX_EXCESS_BITS + 1), count)
    if not lengths.all():
        raise CorruptStream("an escape has no length")
    values = np.int64(1) << (lengths.astype(np.int64) - 1)
    for bits in range(2, MAX_EXCESS_BITS + 1):
        which = np.flatnonzero(lengths == bits)
        if len(which):
            for shift, width in _chunks(bits - 1):
                values[which] += coder.decode(Uniform(1 << width), len(which)).astype(np.int64) << shift
    return values - 1


def _chunks(bits: int) -> list[tuple[int, int]]:
    """``(shift, width)`` of the pieces in which the bits below the leading one are coded."""
    return [(shift, min(CHUNK, bits - shift)) for shift in range(0, bits, CHUNK)]


def _bit_lengths(values: np.ndarray) -> np.ndarray:
    """Bits needed for positive integers below 2^53, exactly."""
    return np.frexp(values.astype(np.float64))[1]
