"""Integer probability tables: made once from a trained model, stored with the weights, never recomputed by a decoder.

A table covers the symbols ``low … low + size - 2``; its last entry is an escape that stands for every symbol outside. Frequencies are
positive integers that sum to 2^16, so a table means the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

PRECISION = 16  # bits: frequencies of one table sum to 2^16
MAX_EXCESS_BITS = 33  # of an escaped int32's distance from its table, sign folded in
MAX_LOW = 2**20  # magnitude of a table's first symbol; int32 symbols' distances from it may wrap around, but never onto an entry
MAX_ENTRIES = 4097  # of one table, the escape included; keeps the smallest frequency at a sensible distance from the total
CACHES = ("arrays", "coders", "rows", "_rows_of", "most_saved", "_costs")  # of IntegerTables, made on first use


class Table(NamedTuple):
    low: int  # the symbol that the first frequency belongs to
    frequencies: np.ndarray  # int64, positive, sums to 2**PRECISION; the last entry is the escape


def quantize_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Positive integers that sum to 2^16, close to the probabilities (largest remainders, deterministic ties).

    Args:
        probabilities: float64, any non-negative weights; they are normalised.

    Raises:
        ValueError: not finite, negative, all zero, or more entries than a table holds.
    """
    weights = np.asarray(probabilities, dtype=np.float64)
    if weights.ndim != 1 or not 1 <= len(weights) <= MAX_ENTRIES:
        raise ValueError(f"a table has 1 … {MAX_ENTRIES} entries, not {weights.shape}")
    if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() <= 0:
        raise ValueError("probabilities must be finite, non-negative and not all zero")
    spare = 2**PRECISION - len(weights)  # one count each is given away first, so that every symbol stays codable
    share = weights / weights.sum() * spare
    counts = np.floor(share).astype(np.int64)
    remaining = spare - int(counts.sum())
    counts[np.argsort(counts - share, kind="stable")[:remaining]] += 1
    return counts + 1


class IntegerTables(nn.Module):
    """A list of tables as buffers, so that it is saved, moved and fingerprinted with the weights. Empty until :meth:`set`.

    Args:
        count: of the tables, once they are set.
    """

    frequencies: Tensor  # int32, all tables one after another
    sizes: Tensor  # int32, entries of each table, the escape included
    lows: Tensor  # int32

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        for name in ("frequencies", "sizes", "lows"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int32))

    def set(self, tables: Sequence[Table]) -> None:
        device = self.frequencies.device
        self.frequencies = torch.from_numpy(np.concatenate([table.frequencies for table in tables]).astype(np.int32)).to(device)
        self.sizes = torch.tensor([len(table.frequencies) for table in tables], dtype=torch.int32, device=device)
        self.lows = torch.tensor([table.low for table in tables], dtype=torch.int32, device=device)
        self._forget()

    def _forget(self) -> None:
        for cache in CACHES:
            self.__dict__.pop(cache, None)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in CACHES}  # coders can be neither copied nor pickled

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def arrays(self) -> list[Table]:
        """The tables as NumPy arrays, validated: what came from a file may say anything.

        Raises:
            RuntimeError: no tables yet.
            ValueError: not valid tables.
        """
        if not len(self):
            raise RuntimeError("the codec has no probability tables yet: call its freeze() first")
        sizes = self.sizes.cpu().numpy().astype(np.int64)
        frequencies = self.frequencies.cpu().numpy().astype(np.int64)
        lows = self.lows.cpu().numpy().astype(np.int64)
        if not sizes.ndim == frequencies.ndim == lows.ndim == 1 or len(sizes) != self.count:
            raise ValueError(f"{len(sizes)} probability tables where the codec has {self.count}")
        if len(lows) != len(sizes) or (sizes < 1).any() or (sizes > MAX_ENTRIES).any() or sizes.sum() != len(frequencies):
            raise ValueError("probability tables are inconsistent")
        if (np.abs(lows) > MAX_LOW).any():
            raise ValueError(f"probability tables start beyond ±{MAX_LOW}")
        parts = np.split(frequencies, np.cumsum(sizes)[:-1])
        if any((part < 1).any() or part.sum() != 2**PRECISION for part in parts):
            raise ValueError(f"frequencies must be positive and sum to {2**PRECISION}")
        return [Table(int(low), part) for low, part in zip(lows, parts)]

    def check(self) -> None:
        """Raise ``RuntimeError`` without tables, ``ValueError`` with tables that could not code."""
        _ = self.arrays

    @cached_property
    def coders(self) -> list:
        """The entropy coder's own form of each table, made on first use."""
        from neuralcodec.entropy.rans import categorical

        return [categorical(table.frequencies) for table in self.arrays]

    @cached_property
    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The tables side by side, for few symbols of many: weights of the coder (tables, longest), first symbols, and escapes, int32.

        Entries beyond a table's end take one unit of the coder's precision each, from the likeliest entry.
        """
        lows = np.array([table.low for table in self.arrays], np.int32)
        escapes = np.array([len(table.frequencies) - 1 for table in self.arrays], np.int32)
        return self.rows_of(int(escapes.max()) + 1), lows, escapes

    def rows_of(self, length: int) -> np.ndarray:
        """Weights of the coder, (tables, length), of the tables that are no longer; zeros for the others."""
        from neuralcodec.entropy.rans import CODER_PRECISION

        if length not in self._rows_of:
            weights = np.zeros((len(self.arrays), length))
            for row, table in zip(weights, self.arrays):
                if len(table.frequencies) <= length:
                    row[: len(table.frequencies)] = table.frequencies * 2 ** (CODER_PRECISION - PRECISION) - 1
                    row[np.argmax(row)] -= length - len(table.frequencies)
            self._rows_of[length] = weights
        return self._rows_of[length]

    @cached_property
    def _rows_of(self) -> dict[int, np.ndarray]:
        return {}

    def bits(self, symbols: Tensor, indexes: Tensor) -> Tensor:
        """What coding each symbol with its table costs, in bits; symbols outside their table cost the escape and its excess."""
        costs, starts, sizes, lows = (part.to(symbols.device) for part in self._costs)
        indexes = indexes.long()
        start, size = starts[indexes], sizes[indexes]
        position = symbols.long() - lows[indexes]
        inside = (position >= 0) & (position < size - 1)
        bits = costs[start + torch.where(inside, position, size - 1)]
        if inside.all():
            return bits
        excess = torch.where(position < 0, -2 * position - 1, 2 * (position - size + 1)).clamp_min(0).double()
        return torch.where(inside, bits, bits + np.log2(MAX_EXCESS_BITS + 1) + torch.floor(torch.log2(excess + 1)).float())

    @cached_property
    def most_saved(self) -> Tensor:
        """For each table, the most bits that the integer next to a symbol, towards zero, costs less than the symbol, (count,)."""
        edges = [torch.arange(table.low - 1, table.low + len(table.frequencies)) for table in self.arrays]  # and one beyond each end
        indexes = torch.repeat_interleave(torch.tensor([len(symbols) for symbols in edges]))
        symbols = torch.cat(edges)
        saved = self.bits(symbols, indexes) - self.bits(symbols - torch.sign(symbols), indexes)
        # Farther out, the code of the excess is never more than a bit longer from one symbol to the next.
        return torch.ones(len(self)).scatter_reduce(0, indexes, saved, "amax").to(self.frequencies.device)

    @cached_property
    def _costs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        frequencies = torch.from_numpy(np.concatenate([table.frequencies for table in self.arrays]))
        sizes = torch.tensor([len(table.frequencies) for table in self.arrays])
        lows = torch.tensor([table.low for table in self.arrays])
        return (PRECISION - torch.log2(frequencies.double())).float(), torch.cumsum(sizes, 0) - sizes, sizes, lows

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # The sizes are the trained model's, not the constructor's.
        for name in ("frequencies", "sizes", "lows"):
            if prefix + name in state_dict:
                setattr(self, name, torch.empty(state_dict[prefix + name].shape, dtype=torch.int32, device=getattr(self, name).device))
        self._forget()
        super()._load_from_state_dict(state_dict, prefix, *args)
