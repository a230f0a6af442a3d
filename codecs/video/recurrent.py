"""A codec for clips that needs no fit: each picture from a memory of those before it, without vectors of motion.

    picture ──(− guess)──analysis──► y ──quantize──► ŷ ──synthesis──(+ guess)──► picture as decoded ──► last picture
                  ▲         ▲        │    ▲           ▲       │                                              │
                  │         │      side information,  │       └── what it was made of ──► memory             │
                  │         └──────────┴── context ───┴──────────────────────────────────────┘               │
                  └───────────────────────── (+ a correction, of the context) ◄──────────────────────────────┘

Conditional coding on features that are carried along, as in DCVC and its followers, up to those without motion estimation: Li, Li, Lu 2021,
https://arxiv.org/abs/2109.15047; Jia et al. 2025 (DCVC-RT), https://arxiv.org/abs/2502.20762. What differs:

* A linear lapped transform of the difference to the guess, found in closed form, works beside the networks, as in
  :mod:`neuralcodec.codecs.image`. Untrained, it is a coder of differences between pictures.
* Probability tables follow from side information alone, by integer arithmetic; what is remembered refines means. So a file's parse
  depends on no floating-point number. Machines that round differently drift apart by roundings, until the next group starts afresh.
* The parse needs no picture either: symbols of many pictures are in one stream, and one call of the coder.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.base import Compressed, Output
from neuralcodec.codecs.blocks import DepthwiseBlock, LappedFilter, LevelVectors, pad_to_multiple, zero
from neuralcodec.codecs.image import hyper
from neuralcodec.codecs.image.contexts import Quadtree
from neuralcodec.codecs.image.latents import UnderGaussians
from neuralcodec.codecs.image.transforms import PATCH, STRIDE, LinearLapped
from neuralcodec.codecs.video.fit import Report, nothing
from neuralcodec.codecs.video.groups import Group, VideoCodec, evenly
from neuralcodec.entropy import models, rans
from neuralcodec.entropy.quantizers import Quantized, ScalarQuantizer

PLANES = 6  # of a picture: the four luma samples of each square of 2×2, Cb and Cr
HALF = STRIDE // 2  # samples of a plane along a side of a block
CELL = HALF // 2  # samples of a plane along a side of a position at 1/8
BLOCK_VALUES = PLANES * HALF**2
CHROMA = math.sqrt(2)  # a sample of chroma counts as two of luma, as in the objective
MULTIPLE = HALF * PATCH  # of the sides of planes
TOGETHER = 8  # pictures whose symbols are in one stream
# Levels by which pictures are better than the clip's: those that others are made of, again and again, most of all.
FIRST, RHYTHM = 8.0, (0.0, 3.0, 0.0, 6.0)


class LinearPlanes(LinearLapped):
    """:class:`~neuralcodec.codecs.image.transforms.LinearLapped` of planes at half resolution: 16×16 luma samples and 8×8 of each chroma
    are a block."""

    def __init__(self, latent: int, coarse: int, inverse: bool = False):
        super().__init__(latent, coarse, inverse, BLOCK_VALUES)
        self.chroma_filter = LappedFilter(HALF)

    def _blocks(self, x: Tensor) -> Tensor:
        luma = F.pixel_unshuffle(self.fine_filter(F.pixel_shuffle(x[:, :4], 2)), STRIDE)
        return torch.cat((luma, F.pixel_unshuffle(self.chroma_filter(x[:, 4:] * CHROMA), HALF)), 1)

    def _pictures(self, blocks: Tensor) -> Tensor:
        luma = self.fine_filter.inverse(F.pixel_shuffle(blocks[:, : STRIDE**2], STRIDE))
        chroma = self.chroma_filter.inverse(F.pixel_shuffle(blocks[:, STRIDE**2 :], HALF)) / CHROMA
        return torch.cat((F.pixel_unshuffle(luma, 2), chroma), 1)


class Given(NamedTuple):
    """What both sides know of a picture before a bit of it."""

    guess: Tensor  # (B, 6, h, w)
    context: Tensor | None = None  # (B, width, h / 4, w / 4); nothing at a first picture


class Coded(NamedTuple):
    """A picture and what coding it took."""

    picture: Tensor  # (B, 6, h, w)
    features: Tensor  # (B, width, h / 4, w / 4), what it was made of
    z: Quantized
    y: Quantized
    scale_index: Tensor
    bits: dict[str, Tensor]  # by stream, (B,) each


class PictureCoder(UnderGaussians):
    """One picture, given what is known before. Arguments as of :class:`RecurrentVideo`.

    Args:
        recalls: whether there is a context.
    """

    def __init__(
        self,
        latent: int,
        width: int,
        blocks: tuple[int, int],
        hyper_channels: int,
        patterns: int,
        hyper_width: int,
        context_width: int,
        steps: Tensor,
        levels: int,
        recalls: bool,
    ):
        super().__init__()
        knots = len(steps)
        self.linear = nn.ModuleList((LinearPlanes(latent, 3), LinearPlanes(latent, 3, inverse=True)))
        self.quantizer = ScalarQuantizer("mixed")
        self.gain, self.inverse_gain = LevelVectors(levels, latent, knots), LevelVectors(levels, latent, knots)
        with torch.no_grad():
            self.gain.rows.copy_(-torch.log(steps)[:, None].expand_as(self.gain.rows))
            self.inverse_gain.rows.copy_(-self.gain.rows)
        cells = PLANES * CELL**2
        self.stems = nn.ModuleList((nn.Conv2d(2 * cells if recalls else cells, width, 1), nn.Conv2d(cells, width, 1)))
        self.latent_stem = nn.Conv2d(latent, 4 * width, 1)
        self.trunks = nn.ModuleList(nn.Sequential(*(DepthwiseBlock(width) for _ in range(depth))) for depth in blocks)
        self.biases = nn.ModuleList(LevelVectors(levels, width, knots) for _ in range(2))
        self.heads = nn.ModuleList((nn.Conv2d(4 * width, latent, 1), nn.Conv2d(width, cells, 1)))
        features = 2 * patterns + (width if recalls else 0)
        context = Quadtree(latent, features, context_width, count=2)
        self.describe(latent, hyper_channels, patterns, hyper_width, True, context, levels, knots)
        self.recall = nn.Conv2d(4 * width, latent + width, 1) if recalls else None
        zero(*self.heads, self.latent_stem)
        if self.recall is not None:
            nn.init.zeros_(self.recall.weight[:latent])

    def analyse(self, x: Tensor, given: Given, level: Tensor) -> Tensor:
        """(B, 6, h, w), sides multiples of 32, to a latent in steps of quantization, (B, latent, h / 8, w / 8)."""
        seen = x - 0.5 if given.context is None else torch.cat((x - 0.5, x - given.guess), 1)
        hidden = self._hidden(0, F.pixel_unshuffle(seen, CELL), given, level)
        learned = self.heads[0](F.pixel_unshuffle(self.trunks[0](hidden), 2))
        return (self.linear[0](x - given.guess) + learned) * self.gain(level).exp()[:, :, None, None]

    def synthesise(self, y_hat: Tensor, given: Given, level: Tensor) -> tuple[Tensor, Tensor]:
        """A picture, and what it was made of."""
        y = y_hat * self.inverse_gain(level).exp()[:, :, None, None]
        linear = given.guess + self.linear[1](y)
        hidden = self._hidden(1, F.pixel_unshuffle(linear - 0.5, CELL), given, level) + F.pixel_shuffle(self.latent_stem(y), 2)
        features = self.trunks[1](hidden)
        return linear + F.pixel_shuffle(self.heads[1](features), CELL), features

    def _hidden(self, end: int, cells: Tensor, given: Given, level: Tensor) -> Tensor:
        hidden = self.stems[end](cells) + self.biases[end](level)[:, :, None, None]
        return hidden if given.context is None else hidden + given.context

    def expect(self, side: hyper.Prediction, given: Given) -> hyper.Prediction:
        """With what is remembered: other means, and more for contexts to look at. Scales stay."""
        if self.recall is None or given.context is None:
            return side
        assert side.mean is not None
        delta, features = self.recall(F.pixel_unshuffle(given.context, 2)).split((side.mean.shape[1], given.context.shape[1]), 1)
        return side._replace(mean=side.mean + delta * side.scale, features=torch.cat((side.features, features), 1))

    def forward(self, x: Tensor, given: Given, level: Tensor) -> Coded:
        y = self.analyse(x, given, level)
        z = self.told(y, level)
        prediction = self.expect(self.h_s(z.values, level, *y.shape[-2:]), given)
        quantized = self.quantize(y, prediction)
        picture, features = self.synthesise(quantized.values, given, level)
        return Coded(picture, features, z, quantized, prediction.scale_index, self.bits(z, quantized, prediction.scale_index, level))

    @torch.no_grad()
    def initialise(self, differences: Tensor) -> None:
        """From (n, 6, h, w), around zero."""
        analysis, synthesis = self.linear
        assert isinstance(analysis, LinearPlanes) and isinstance(synthesis, LinearPlanes)
        analysis.initialise(differences)
        synthesis.invert(analysis)
        hyper.initialise(self.h_a, self.h_s, torch.cat([analysis(part) for part in differences.split(16)]), self.gain.rows.exp())

    # Symbols of several pictures ⇄ streams

    def encode(self, z: Tensor, y: Tensor, scale_index: Tensor, levels: Tensor) -> list[bytes]:
        """Of n pictures at ``levels``, (n,)."""
        return [
            rans.encode(z.cpu().numpy(), self._z_indexes(levels, *z.shape[-2:]), self.z_prior.tables),
            rans.encode(y.cpu().numpy(), scale_index.to(torch.uint8).cpu().numpy(), self.y_model.tables),
        ]

    def decode(self, streams: Sequence[bytes], levels: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor, hyper.Prediction]:
        """z and y of n pictures, and what z says: (n, …) each."""
        indexes = self._z_indexes(levels, -(-rows // PATCH), -(-columns // PATCH))
        z = self.read_side(rans.decode(streams[0], indexes, self.z_prior.tables))
        side = self.h_s(z.float(), levels, rows, columns)
        y = rans.decode(streams[1], side.scale_index.to(torch.uint8).cpu().numpy(), self.y_model.tables)
        return z, torch.from_numpy(y).to(z.device), side

    def _z_indexes(self, levels: Tensor, rows: int, columns: int) -> np.ndarray:
        return np.stack([self.z_prior.indexes(int(knot), rows, columns) for knot in self.gain.nearest_knot(levels)])


class Memory(nn.Module):
    """What is carried from picture to picture: features, of which the next one's context and the correction of its guess are made.

    Args:
        width: channels.
        blocks: depth of what takes a picture in, and of what recalls.
    """

    def __init__(self, width: int, blocks: tuple[int, int]):
        super().__init__()
        self.mix = nn.Conv2d(2 * width, width, 1)
        self.take_in = nn.Sequential(*(DepthwiseBlock(width) for _ in range(blocks[0])))
        self.look_up = nn.Sequential(*(DepthwiseBlock(width) for _ in range(blocks[1])))
        self.correct = nn.Conv2d(width, PLANES * CELL**2, 1)
        zero(self.correct)

    def forward(self, memory: Tensor | None, picture: Tensor, features: Tensor) -> tuple[Tensor, Given]:
        """The memory with a picture in it, made of such features, and what it says of the next one."""
        before = torch.zeros_like(features) if memory is None else memory
        memory = self.take_in(self.mix(torch.cat((features, before), 1)))
        context = self.look_up(memory)
        return memory, Given(picture + F.pixel_shuffle(self.correct(context), CELL), context)


class RecurrentVideo(VideoCodec):
    """Clips of 4:2:0, packed: (B, frames, 6, ⌈H/2⌉, ⌈W/2⌉), the four luma samples of each 2×2 square, Cb and Cr, in 0…1.

    Args:
        latent: channels at 1/16.
        width: channels of the networks at 1/8.
        blocks: of analysis, synthesis, what takes pictures into the memory, and what recalls.
        hyper_channels, patterns, hyper_width: as of :class:`~neuralcodec.codecs.image.hyperprior.Hyperprior`.
        context_width: channels of the network that refines the second half of a latent by the first.
        refresh: pictures after which everything starts afresh: the longest drift, and what it takes to start in the middle of a clip.
        levels, knots, lmbda: as in :class:`~neuralcodec.codecs.base.Codec`. λ is that of a picture without a better level of its own.
    """

    streams = ("first z", "first y", "z", "y")
    decoder_parameters = ()  # all of them move what the next picture starts from

    def __init__(
        self,
        latent: int = BLOCK_VALUES,
        width: int = 128,
        blocks: Sequence[int] = (2, 3, 2, 3),
        hyper_channels: int = 64,
        patterns: int = 64,
        hyper_width: int = 160,
        context_width: int = 96,
        refresh: int = 64,
        levels: int = 64,
        knots: int = 8,
        lmbda: Sequence[float] = (0.0002, 0.05),
    ):
        super().__init__(levels, lmbda)
        if len(blocks) != 4 or refresh < 1:
            raise ValueError("blocks are four numbers, and a group has at least one picture")
        self.refresh = refresh
        spacing = (levels - 1) / max(knots - 1, 1)
        lmbdas = self.lmbda(torch.arange(knots) * spacing)
        # D of the objective is the squared error of a block over 512, that of an orthonormal coefficient step²/12, and a block has 384 of
        # them, 1.5 for a pixel: R + λD is least where 1.5 / (step · ln 2) = λ · 255² · step / 8.
        steps = torch.sqrt(12 / (math.log(2) * lmbdas * 255**2))
        inner, outer = (blocks[0], blocks[1]), (blocks[2], blocks[3])
        sizes = (latent, width, inner, hyper_channels, patterns, hyper_width, context_width, steps, levels)
        self.first = PictureCoder(*sizes, recalls=False)
        self.later = PictureCoder(*sizes, recalls=True)
        self.memory = Memory(width, outer)

    def groups(self, frames: int) -> list[Group]:
        return evenly(frames, self.refresh)

    def levels_of(self, level: Tensor, frames: int) -> Tensor:
        """Levels of the pictures of a group, (B, frames)."""
        better = torch.tensor([FIRST, *itertools.islice(itertools.cycle(RHYTHM), frames - 1)], device=level.device)
        return (level[:, None] + better).clamp(0, self.levels - 1)

    def walk(self, x: Tensor, level: Tensor) -> Iterator[Coded]:
        """One picture of (B, frames, 6, h, w) after the other."""
        levels = self.levels_of(level, x.shape[1])
        memory, given = None, Given(torch.full_like(x[:, 0], 0.5))
        for number in range(x.shape[1]):
            coded = (self.later if number else self.first)(x[:, number], given, levels[:, number])
            yield coded
            memory, given = self.memory(memory, coded.picture, coded.features)

    def forward(self, x: Tensor, level: Tensor) -> Output:
        """A group of pictures. Bits are those of all of them."""
        pictures = list(self.walk(pad_pictures(x), level))
        bits: dict[str, Tensor] = {}
        symbols: dict[str, list[Tensor]] = {name: [] for name in self.streams}
        for number, coded in enumerate(pictures):
            for name, value in coded.bits.items():
                stream = name if number else f"first {name}"
                bits[stream] = bits.get(stream, 0) + value
                symbols[stream].append((coded.z if name == "z" else coded.y).symbols)
        stacked = {name: torch.stack(each, 1) for name, each in symbols.items() if each}
        whole = torch.stack([coded.picture for coded in pictures], 1)[..., : x.shape[-2], : x.shape[-1]]
        return Output(whole, bits, {}, stacked)

    @torch.inference_mode()
    def compress(self, x: Tensor, level: float, *, report: Report = nothing) -> Compressed:
        streams: list[bytes] = []
        symbols: dict[str, Tensor] = {}
        for number, group in enumerate(self.groups(x.shape[1])):
            at = torch.full((1,), float(level), device=x.device)
            levels = self.levels_of(at, group.end - group.begin)[0]
            waiting: list[tuple[Tensor, Tensor, Tensor]] = []
            for index, coded in enumerate(self.walk(pad_pictures(x[:, group.begin : group.end]), at)):
                waiting.append((coded.z.symbols, coded.y.symbols, coded.scale_index))
                report(group.begin + index + 1, x.shape[1], "")
                if index % TOGETHER == 0 or index == len(levels) - 1:
                    z, y, scale_index = (torch.cat(each) for each in zip(*waiting, strict=True))
                    coder = self.later if index else self.first
                    streams += coder.encode(z, y, scale_index, levels[index + 1 - len(waiting) : index + 1])
                    symbols |= _named(number, index, z, y)
                    waiting = []
        return Compressed(streams, symbols)

    def pieces(
        self, streams: Sequence[bytes], size: tuple[int, ...], level: float, begin: int = 0, end: int | None = None
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        frames, height, width = size
        groups = self.groups(frames)
        counts = [2 * len(_parts(group)) for group in groups]
        if len(streams) != sum(counts):
            raise rans.CorruptStream(f"{len(streams)} streams are not those of {len(groups)} groups of pictures")
        for number, (group, last) in enumerate(zip(groups, itertools.accumulate(counts))):
            if group.end > begin and (end is None or group.begin < end):
                yield self._group(number, streams[last - counts[number] : last], group, -(-height // 2), -(-width // 2), level)

    @torch.inference_mode()
    def _group(
        self, number: int, streams: Sequence[bytes], group: Group, height: int, width: int, level: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        device = self.first.gain.rows.device
        levels = self.levels_of(torch.full((1,), float(level), device=device), group.end - group.begin)[0]
        rows, columns = (-(-side // MULTIPLE) * PATCH for side in (height, width))
        memory, given = None, Given(torch.full((1, PLANES, rows * HALF, columns * HALF), 0.5, device=device))
        pictures: list[Tensor] = []
        symbols: dict[str, Tensor] = {}
        for place, part in enumerate(_parts(group)):
            coder = self.later if place else self.first
            z, y, side = coder.decode(streams[2 * place : 2 * place + 2], levels[part], rows, columns)
            symbols |= _named(number, part.stop - 1, z, y)
            for index in range(len(y)):
                one = slice(index, index + 1)
                own = side._replace(**{name: value[one] for name, value in side._asdict().items() if value is not None})
                prediction = coder.expect(own, given)
                y_hat = coder.dequantize(y[one], prediction)
                picture, features = coder.synthesise(y_hat, given, levels[part][one])
                pictures.append(picture[..., :height, :width])
                memory, given = self.memory(memory, picture, features)
        return torch.cat(pictures), symbols

    def freeze(self) -> None:
        self.first.freeze()
        self.later.freeze()

    @torch.no_grad()
    def calibrate(self, signals: Sequence[Tensor]) -> None:
        """``signals``: (1, frames, 6, h, w) each."""
        counts = [models.no_counts(), models.no_counts()]
        for x in signals:
            for level in torch.linspace(0, self.levels - 1, len(self.first.gain.rows)):
                for number, coded in enumerate(self.walk(pad_pictures(x), level[None].to(x.device))):
                    counts[number > 0] += models.counts(coded.y.symbols, coded.scale_index)
        for coder, seen in zip((self.first, self.later), counts):
            coder.y_model.build_tables(seen)

    @torch.no_grad()
    def initialise(self, signals: Tensor) -> None:
        """(n, frames, 6, h, w), sides multiples of 32: pictures, and what differs from one to the next."""
        self.first.initialise(signals[:, 0] - 0.5)
        self.later.initialise((signals[:, 1:] - signals[:, :-1]).flatten(0, 1))

    def learning_rate_scale(self, name: str) -> float:
        """As :meth:`neuralcodec.codecs.image.hyperprior.ImageCodec.learning_rate_scale`."""
        if ".linear." in name:
            return 0.1
        return 5.0 if name.endswith(".rows") or "prior." in name else 1.0


def pad_pictures(x: Tensor) -> Tensor:
    """(B, frames, 6, h, w) to sides that are multiples of 32."""
    return pad_to_multiple(x.flatten(0, 1), MULTIPLE).unflatten(0, x.shape[:2])


def _parts(group: Group) -> list[slice]:
    """Pictures of a group whose symbols are together: the first one, and then so many at a time."""
    count = group.end - group.begin
    return [slice(0, 1), *(slice(begin, min(begin + TOGETHER, count)) for begin in range(1, count, TOGETHER))]


def _named(group: int, last: int, z: Tensor, y: Tensor) -> dict[str, Tensor]:
    return {f"z {group}.{last}": z.int().cpu(), f"y {group}.{last}": y.int().cpu()}


__all__ = ["RecurrentVideo"]
