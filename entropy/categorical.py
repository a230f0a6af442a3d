"""Coding of tokens: packed at their bits, or by categorical tables that are chosen by the tokens around them.

Tables are counted on training data. Of a token's two neighbours, the one before it in the same codebook and the one above it, of the same
frame in the codebook before, only a class decides; classes are chosen to say as much as they can about the token (Dhillon, Mallela, Kumar
2003, https://www.jmlr.org/papers/v3/dhillon03a.html, whose divisive clustering this is, of tokens by those that follow). Where a pair of
classes was seldom seen, its table leans on those of either class alone, and these on that of all (Dirichlet smoothing, MacKay, Peto 1995,
https://doi.org/10.1017/S1351324900000218). EnCodec (https://arxiv.org/abs/2210.13438) gets its probabilities from a transformer, in
floating point; these are integers that are stored, so files decode everywhere alike.

    previous frame     ─a─b─c─        tables of c′ follow from the classes of c and b′: a frame can be decoded
    this frame         ─a′b′c′            one codebook after another, and all that lie on a diagonal at once
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from neuralcodec.entropy import rans
from neuralcodec.entropy.rans import CorruptStream
from neuralcodec.entropy.tables import MAX_ENTRIES, IntegerTables, Table, quantize_probabilities

STEPS = 12  # of the search for classes
LEAST_TOKENS = 64  # in each codebook: fewer say nothing
HELD_OUT = 8  # one in so many sequences, or parts of one, decides how much tables lean on others
STRENGTHS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)  # for how many tokens the smoother table counts


class _Tables(IntegerTables):
    """Tables that may be none."""

    def check(self) -> None:
        if len(self):
            super().check()


class CategoricalPrior(nn.Module):
    """Tables for the tokens of a number of codebooks. Without any (before :meth:`fit`), tokens are packed.

    Args:
        codebook_sizes: codes in each codebook.
        previous: classes of the token before, besides that of no token.
        above: classes of the token above.
        first: classes of the token before in the first codebook, which has none above and depends the most on its past.
    """

    classes_before: Tensor  # int32 (codebooks, largest size): the class of a token for the one after it
    classes_above: Tensor  # int32, the same: for the one below it

    def __init__(self, codebook_sizes: Sequence[int], previous: int = 8, above: int = 8, first: int = 256):
        super().__init__()
        if not codebook_sizes or not all(1 <= classes <= 1024 for classes in (previous, above, first)):
            raise ValueError("a prior has at least one codebook, and 1 … 1024 classes of each kind")
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.above = [1] + [above] * (len(self.codebook_sizes) - 1)
        self.before = [first] + [previous] * (len(self.codebook_sizes) - 1)
        counts = np.array(self.above) * (np.array(self.before) + 1)
        self.first = np.cumsum(counts) - counts  # table of each codebook
        self.tables = _Tables(int(counts.sum()))
        shape = (len(self.codebook_sizes), max(self.codebook_sizes))
        self.register_buffer("classes_before", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("classes_above", torch.zeros(shape, dtype=torch.int32))
        self.register_load_state_dict_post_hook(lambda module, _: module.check())

    @property
    def trained(self) -> bool:
        return len(self.tables) > 0

    def bits(self, tokens: Tensor) -> Tensor:
        """Bits of each token of (B, codebooks, T), as :meth:`encode` spends them; 0 for -1, a token that is not there."""
        used = tokens >= 0
        if not self.trained:
            bits = torch.tensor([float(code_bits(size)) for size in self.codebook_sizes[: tokens.shape[1]]], device=tokens.device)
            return used * bits[:, None]
        indexes = torch.from_numpy(self.indexes(tokens.clamp_min(0).cpu().numpy())).to(tokens.device)
        return torch.where(used, self.tables.bits(tokens.clamp_min(0), indexes), 0.0)

    def encode(self, tokens: np.ndarray) -> bytes:
        """(B, codebooks, T) integers, of the first so many codebooks, to bytes."""
        if not self.trained:
            return pack(tokens.reshape(-1, tokens.shape[2]), self._sizes(len(tokens), tokens.shape[1]))
        indexes = self.indexes(tokens)
        parts = [(tokens[:, rows, columns], indexes[:, rows, columns]) for rows, columns in _diagonals(*tokens.shape[1:])]
        return rans.encode_rows(parts, self.tables)

    def decode(self, data: bytes, items: int, codebooks: int, frames: int) -> np.ndarray:
        """Undo :meth:`encode`: int32 (items, codebooks, frames).

        Raises:
            CorruptStream: not what :meth:`encode` makes of so many tokens.
        """
        if not self.trained:
            return unpack(data, self._sizes(items, codebooks), frames).reshape(items, codebooks, frames)
        decoder = rans.RowDecoder(data, self.tables)
        tokens = np.zeros((items, codebooks, frames), dtype=np.int32)
        before, above = self._maps
        sizes, widths = np.array(self.codebook_sizes), np.array(self.above)
        for rows, columns in _diagonals(codebooks, frames):
            left = np.where(columns > 0, before[rows, tokens[:, rows, columns - 1]], 0)
            upper = np.where(rows > 0, above[rows - 1, tokens[:, rows - 1, columns]], 0)
            found = decoder.take(self.first[rows] + left * widths[rows] + upper)
            if (found >= sizes[rows]).any():
                raise CorruptStream("a stream holds a token that its codebook has not")
            tokens[:, rows, columns] = found
        decoder.finish()
        return tokens

    def indexes(self, tokens: np.ndarray) -> np.ndarray:
        """The table of each token of (B, codebooks, T), which depends on those before it and above it alone."""
        before, above = self._maps
        rows = np.arange(tokens.shape[1])[:, None]
        left, upper = np.zeros(tokens.shape, dtype=np.int64), np.zeros(tokens.shape, dtype=np.int64)
        left[..., 1:] = before[rows, tokens[..., :-1]]
        upper[:, 1:] = above[rows[:-1], tokens[:, :-1]]
        return self.first[rows] + left * np.array(self.above)[rows] + upper

    def fit(self, sequences: Sequence[np.ndarray]) -> None:
        """Find classes and count tables.

        Args:
            sequences: tokens (codebooks, T) of training sounds, each in segments as they are coded: every one starts without a past. Fewer
                codebooks are welcome.

        Raises:
            ValueError: too few tokens, or codebooks too large for tables.
        """
        if max(self.codebook_sizes) >= MAX_ENTRIES:
            raise ValueError(f"only codebooks of less than {MAX_ENTRIES} codes can have tables")
        tables: list[Table] = []
        maps = np.zeros((2, *self.classes_before.shape), dtype=np.int32)
        for codebook, size in enumerate(self.codebook_sizes):
            rows = [tokens for tokens in sequences if len(tokens) > codebook]
            if sum(tokens.shape[1] for tokens in rows) < LEAST_TOKENS:
                raise ValueError(f"{LEAST_TOKENS} tokens of each codebook are the least that tables are counted from")
            now = np.concatenate([tokens[codebook] for tokens in rows])
            left = np.concatenate([np.append(-1, tokens[codebook, :-1]) for tokens in rows])
            upper = np.concatenate([tokens[codebook - 1] for tokens in rows]) if codebook else np.zeros_like(now)
            known = left >= 0
            # Class 0 of what lies before is that of no token.
            maps[0, codebook, :size] = 1 + informative_classes(left[known], now[known], size, size, self.before[codebook])
            if codebook:
                above = self.codebook_sizes[codebook - 1]
                maps[1, codebook - 1, :above] = informative_classes(upper, now, above, size, self.above[codebook])
            a = np.where(known, maps[0, codebook, left], 0)
            b = maps[1, codebook - 1, upper] if codebook else upper
            chances = _smoothed(a, b, now, (self.before[codebook] + 1, self.above[codebook], size))
            tables += [Table(0, quantize_probabilities(np.append(row, 0.0))) for row in chances.reshape(-1, size)]
        self.tables.set(tables)
        device = self.classes_before.device
        self.classes_before, self.classes_above = (torch.from_numpy(one).to(device) for one in maps)

    def check(self) -> None:
        """
        Raises:
            ValueError: maps that lead to no table; what came from a file may say anything.
        """
        maps = ((self.classes_before, np.array(self.before) + 1), (self.classes_above, np.array([*self.above[1:], 1])))
        for classes, count in maps:
            values = classes.cpu().numpy()
            if (values < 0).any() or (values >= count[:, None]).any():
                raise ValueError("a token has a class that its prior has not")

    @property
    def _maps(self) -> tuple[np.ndarray, np.ndarray]:
        return self.classes_before.cpu().numpy().astype(np.int64), self.classes_above.cpu().numpy().astype(np.int64)

    def _sizes(self, items: int, codebooks: int) -> tuple[int, ...]:
        return self.codebook_sizes[:codebooks] * items


def code_bits(size: int) -> int:
    """Whole bits that hold any code of a codebook."""
    return (size - 1).bit_length()


def pack(tokens: np.ndarray, sizes: Sequence[int]) -> bytes:
    """(codebooks, T) integers, frame after frame, each in as few bits as hold all codes, most significant first, zeros at the end.

    >>> pack(np.array([[1, 3], [2, 0]]), [4, 4]).hex()
    '6c'
    """
    place, bit = _places(sizes)
    return np.packbits((tokens.T.astype(np.uint32)[:, place] >> bit) & 1).tobytes()


def unpack(data: bytes, sizes: Sequence[int], frames: int) -> np.ndarray:
    """Undo :func:`pack`: int32 (codebooks, frames). Allocates in proportion to the data.

    Raises:
        CorruptStream: not what :func:`pack` makes of so many codes.
    """
    place, bit = _places(sizes)
    count = frames * len(place)
    if len(data) != -(-count // 8):
        raise CorruptStream("a stream's length is not that of its signal")
    every = np.unpackbits(np.frombuffer(data, np.uint8))
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    values = np.add.reduceat(every[:count].reshape(frames, -1).astype(np.int32) << bit.astype(np.int32), starts, 1)
    if every[count:].any() or (values >= np.array(sizes)).any():
        raise CorruptStream("a stream holds what no encoder writes")
    return np.ascontiguousarray(values.T)


def informative_classes(given: np.ndarray, tokens: np.ndarray, size_given: int, size: int, count: int) -> np.ndarray:
    """Classes, int32 (size_given,), of one variable that keep what it says about another.

    Each value goes to the class whose distribution costs least for what was seen with it, and the distributions follow; from a start with
    as many observations in each class. Values that were never seen are in class 0.

    Args:
        given, tokens: what was seen together, integers below ``size_given`` and ``size``.
        count: of classes.
    """
    seen = np.bincount(given, minlength=size_given)
    overall = np.bincount(tokens, minlength=size) + 0.5
    pairs, weights = np.unique(given.astype(np.int64) * size + tokens, return_counts=True)
    rows, columns = np.divmod(pairs, size)
    # From the likeliest token that follows, so that values alike start together.
    mode = np.zeros(size_given, dtype=np.int64)
    by_weight = np.argsort(weights, kind="stable")
    mode[rows[by_weight]] = columns[by_weight]
    order = np.lexsort((seen, mode))
    classes = np.empty(size_given, dtype=np.int64)
    classes[order] = (np.cumsum(seen[order]) - seen[order]) * count // max(int(seen.sum()), 1)
    best, best_cost = classes, np.inf
    for _ in range(STEPS):
        joint = np.bincount(classes[rows] * size + columns, weights, count * size).reshape(count, size)
        smooth = joint + overall / overall.sum() * 16
        cost = np.log2(smooth.sum(1, keepdims=True)) - np.log2(smooth)  # (count, size) bits
        total = float((joint * cost).sum())
        if total >= best_cost:
            break
        best, best_cost = classes, total
        per_value = np.zeros((size_given, count))
        for one in range(count):
            per_value[:, one] = np.bincount(rows, weights * cost[one, columns], size_given)
        classes = np.where(seen > 0, per_value.argmin(1), 0)
    return best.astype(np.int32)


def _smoothed(a: np.ndarray, b: np.ndarray, tokens: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Probabilities (classes before, classes above, size), by what held-out tokens say of the strength of smoothing."""
    index = (a.astype(np.int64) * shape[1] + b) * shape[2] + tokens
    part = (
        np.arange(len(tokens)) * HELD_OUT * HELD_OUT // len(tokens) % HELD_OUT == 0
    )  # stretches, not single tokens, which neighbours tell
    seen, held = (np.bincount(index[which], minlength=int(np.prod(shape))).reshape(shape).astype(float) for which in (~part, part))
    strengths = [64.0, 64.0]
    for level in range(2):
        cost = {}
        for strength in STRENGTHS:
            strengths[level] = strength
            chances = _backed_off(seen, strengths)
            if level == 0:
                chances = np.broadcast_to(_singles(seen, strength)[0][:, None], shape)
            cost[strength] = -float((held * np.log(chances)).sum())
        strengths[level] = min(cost, key=lambda strength: cost[strength])
    return _backed_off(seen + held, strengths)


def _singles(counts: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities given either class alone, (classes, size) each."""
    overall = counts.sum((0, 1)) + 0.5
    overall /= overall.sum()
    found = (counts.sum(1), counts.sum(0))
    return tuple((one + strength * overall) / (one.sum(-1, keepdims=True) + strength) for one in found)  # type: ignore[return-value]


def _backed_off(counts: np.ndarray, strengths: Sequence[float]) -> np.ndarray:
    before, above = _singles(counts, strengths[0])
    overall = counts.sum((0, 1)) + 0.5
    # As if either class spoke for itself: p(a, b | token) = p(a | token) p(b | token).
    apart = before[:, None] * above[None] / (overall / overall.sum())
    apart /= apart.sum(-1, keepdims=True)
    return (counts + strengths[1] * apart) / (counts.sum(-1, keepdims=True) + strengths[1])


def _diagonals(codebooks: int, frames: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows, columns) of the tokens that can be decoded together, in order."""
    parts = []
    for diagonal in range(codebooks + frames - 1 if frames else 0):
        rows = np.arange(max(0, diagonal - frames + 1), min(codebooks, diagonal + 1))
        parts.append((rows, diagonal - rows))
    return parts


def _places(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Of each bit of a frame, the codebook and the power of two."""
    bits = [code_bits(size) for size in sizes]
    place = np.repeat(np.arange(len(bits)), bits)
    bit = np.concatenate([np.arange(count - 1, -1, -1, dtype=np.uint32) for count in bits])
    return place, bit
