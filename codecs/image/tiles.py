"""Large pictures in bounded memory: coded in squares, with the pixels that the whole picture would have.

    pixels ──square and its surroundings──g_a──cut──► y of the square ──► streams of the square
    pixels ◄──cut──g_s──square and its surroundings── ŷ of all squares near by ◄── streams of each

Surroundings are as wide as the transforms' filters reach (``reach``), so that no border can be seen: there is none. Side information
and contexts end at a square's border, which costs bits there, not quality. Squares are worked on by threads, each with a single thread of
torch's own, so that neither bytes nor pixels depend on their number.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from neuralcodec.codecs.image import regions
from neuralcodec.codecs.image.hyperprior import ImageCodec
from neuralcodec.codecs.image.transforms import STRIDE

SIDE = 1024  # pixels of a square
MAX_SIDE = 4096
WHOLE = 2**22  # pixels of the largest picture that is not cut


class Box(NamedTuple):
    """Of pixels; bottom and right are the first beyond it."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class Grid:
    """How a picture is cut into squares; the last of a row or column may be smaller."""

    height: int
    width: int
    side: int

    @property
    def rows(self) -> int:
        return -(-self.height // self.side)

    @property
    def columns(self) -> int:
        return -(-self.width // self.side)

    @property
    def count(self) -> int:
        return self.rows * self.columns

    def box(self, row: int, column: int, around: int = 0) -> Box:
        """A square and so many pixels around it, as far as there are any."""
        top, left = row * self.side, column * self.side
        bottom, right = min(top + self.side + around, self.height), min(left + self.side + around, self.width)
        return Box(max(top - around, 0), max(left - around, 0), bottom, right)


Take = Callable[[Box], Tensor]  # (1, 3, height, width) in 0…1 of a box of the original
Put = Callable[[Box, Tensor], None]  # for a box of the decoded picture
Weigh = Callable[[Box], Tensor]  # (1, 1, height, width) how much errors count in a box of the original


class Report(Protocol):
    """Is told how many pieces of work are done, of how many, and in words how good the result is so far."""

    def __call__(self, done: int, of: int, state: str = "", /) -> None: ...


def nothing(done: int, of: int, state: str = "", /) -> None:
    """A report to nobody."""


def fits(codec: nn.Module, side: int) -> bool:
    """Whether a codec can be given squares of a side."""
    return isinstance(codec, ImageCodec) and 0 < side <= MAX_SIDE and side % codec.multiple == 0


def encode(
    codec: ImageCodec,
    take: Take,
    level: float,
    grid: Grid,
    workers: int | None = None,
    report: Report = nothing,
    weigh: Weigh | None = None,
) -> list[bytes]:
    """The streams of all squares, square after square, row by row.

    Args:
        workers: threads; by default as many as torch would use.
        weigh: how much errors count; 1 everywhere if omitted.
    """
    squares = [(row, column) for row in range(grid.rows) for column in range(grid.columns)]
    streams: list[bytes] = []
    with _pool(codec, workers) as pool:
        for done, square in enumerate(pool.map(partial(_encode_square, codec, take, level, grid, weigh=weigh), squares), 1):
            streams += square
            report(done, len(squares))
    return streams


def decode(
    codec: ImageCodec, streams: Sequence[bytes], level: float, grid: Grid, put: Put, workers: int | None = None, report: Report = nothing
) -> None:
    """Undo :func:`encode`, handing out the picture box by box. Keeps as many rows of ŷ as the synthesis looks at.

    Raises:
        CorruptStream: the streams are not what an encoder writes.
    """
    near = -(-_around(codec.g_s, codec.multiple) // grid.side)  # rows of squares on each side that a square looks at
    kept: dict[int, Tensor] = {}  # ŷ of whole rows of squares
    per_square = len(codec.streams)
    squares = [streams[start : start + per_square] for start in range(0, len(streams), per_square)]
    done = 0
    with _pool(codec, workers) as pool:
        for row in range(grid.rows + near):
            if row < grid.rows:
                numbers = range(row * grid.columns, (row + 1) * grid.columns)
                decoded = pool.map(
                    lambda number: _decode_square(codec, squares[number], level, grid, *divmod(number, grid.columns)), numbers
                )
                kept[row] = torch.cat(list(decoded), -1)
            ready = row - near  # the row whose surroundings are decoded
            columns = range(grid.columns if ready >= 0 else 0)
            for _ in pool.map(partial(_synthesise_square, codec, kept, level, grid, put, ready), columns):
                done += 1
                report(done, grid.count)
            kept.pop(ready - near, None)


@torch.inference_mode()
def _encode_square(
    codec: ImageCodec, take: Take, level: float, grid: Grid, place: tuple[int, int], weigh: Weigh | None = None
) -> list[bytes]:
    box = grid.box(*place, around=_around(codec.g_a, codec.multiple))
    x = take(box)
    at = torch.full((1,), float(level), device=x.device)
    y = codec.analyse(x, at)
    rows, columns = latent_box(codec, grid, *place).slices
    top, left = box.top // STRIDE, box.left // STRIDE
    inside = (..., slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    weight = None if weigh is None else regions.on_grid(weigh(box), codec)[inside].contiguous()
    return codec.code_latent(y[inside].contiguous(), at, weight).streams


@torch.inference_mode()
def _decode_square(codec: ImageCodec, streams: Sequence[bytes], level: float, grid: Grid, row: int, column: int) -> Tensor:
    """ŷ of one square."""
    box = latent_box(codec, grid, row, column)
    at = torch.full((1,), float(level), device=codec.gain.rows.device)
    return codec.decode_latent(streams, box.bottom - box.top, box.right - box.left, at).y_hat


@torch.inference_mode()
def _synthesise_square(codec: ImageCodec, kept: dict[int, Tensor], level: float, grid: Grid, put: Put, row: int, column: int) -> None:
    around = _around(codec.g_s, codec.multiple)
    box, region = grid.box(row, column), grid.box(row, column, around)
    per_square = grid.side // STRIDE
    total_rows, total_columns = codec.grid(grid.height, grid.width)
    top, bottom = region.top // STRIDE, min(((row + 1) * grid.side + around) // STRIDE, total_rows)
    left, right = region.left // STRIDE, min(((column + 1) * grid.side + around) // STRIDE, total_columns)
    pieces = []
    for near in range(top // per_square, -(-bottom // per_square)):
        first = near * per_square
        pieces.append(kept[near][..., max(top - first, 0) : bottom - first, left:right])
    y_hat = torch.cat(pieces, -2)
    at = torch.full((1,), float(level), device=y_hat.device)
    x = codec.synthesise(y_hat, at, region.bottom - region.top, region.right - region.left)
    rows, columns = box.slices
    put(box, x[..., rows.start - region.top : rows.stop - region.top, columns.start - region.left : columns.stop - region.left])


def _around(transform: nn.Module, multiple: int) -> int:
    """Pixels that a transform has to see around a square, a multiple of what it wants sides to be multiples of."""
    return -(-int(transform.reach) // multiple) * multiple  # type: ignore[arg-type]


def latent_box(codec: ImageCodec, grid: Grid, row: int, column: int) -> Box:
    """Rows and columns of the whole picture's latent that belong to a square."""
    rows, columns = codec.grid(grid.height, grid.width)
    per_square = grid.side // STRIDE
    top, left = row * per_square, column * per_square
    return Box(top, left, min(top + per_square, rows), min(left + per_square, columns))


@contextlib.contextmanager
def _pool(codec: ImageCodec, workers: int | None) -> Iterator[ThreadPoolExecutor]:
    threads = torch.get_num_threads()
    if codec.gain.rows.device.type != "cpu":
        workers = 1
    pool = ThreadPoolExecutor(workers or min(threads, os.cpu_count() or 1), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what threads to come start from; the workers' setting is theirs alone otherwise
