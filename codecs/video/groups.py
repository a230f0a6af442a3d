"""What codecs of clips have in common: groups of pictures, each of which is decoded by itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuralcodec.codecs.base import Codec, Compressed, Decompressed
from neuralcodec.codecs.video.fit import Report, nothing


class Group(NamedTuple):
    """Pictures ``begin … end - 1`` of a clip."""

    begin: int
    end: int


class VideoCodec(Codec):
    """Clips of 4:2:0, packed: (B, frames, 6, ⌈H/2⌉, ⌈W/2⌉), the four luma samples of each 2×2 square, Cb and Cr, in 0…1."""

    modality = "video"

    def compress(self, x: Tensor, level: float, *, report: Report = nothing) -> Compressed:
        """
        Args:
            report: told how far it is.
        """
        raise NotImplementedError

    def decompress(self, streams: Sequence[bytes], size: tuple[int, ...], level: float) -> Decompressed:
        """
        Args:
            size: frames, height and width of luma.
        """
        pictures: list[Tensor] = []
        symbols: dict[str, Tensor] = {}
        for piece, named in self.pieces(streams, size, level):
            pictures.append(piece)
            symbols |= named
        return Decompressed(torch.cat(pictures)[None], symbols)

    def groups(self, frames: int) -> list[Group]:
        """Those of a clip, in order."""
        raise NotImplementedError

    def pieces(
        self, streams: Sequence[bytes], size: tuple[int, ...], level: float, begin: int = 0, end: int | None = None
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Pictures of one group after the other, (n, 6, h, w), and their integers: of the groups that frames ``begin … end - 1`` are in.

        Args:
            size: frames, height and width of luma.
        """
        raise NotImplementedError


def evenly(frames: int, longest: int) -> list[Group]:
    """Groups of at most so many pictures, which differ by one at most."""
    count = -(-frames // longest)
    edges = [frames * number // count for number in range(count + 1)]
    return [Group(begin, end) for begin, end in itertools.pairwise(edges)]


__all__ = ["Group", "VideoCodec", "evenly"]
