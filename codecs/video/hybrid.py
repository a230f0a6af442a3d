"""Key pictures, what moves between them, and what changes besides: a network that draws a group of pictures as a hybrid codec codes it.

    first picture ── moved ─(+ change)─► key picture ── moved ─(+ change)─► key picture …
                                  └─ moved ─┐         ┌─ moved ─┘
                                           blend (+ change) ─► frame half-way, and so on between those

Motion and blending weights are latent grids, in pixels and logits, interpolated bilinearly. Motion is coded as what it differs by from
what the pictures around say: where all is steady it is zero. Pictures and changes are latent grids too, bands of wavelets. Everything is
fitted together, after a start by block matching, so that a picture is as good as what is made of it deserves.

The structure is that of Leguay et al. 2024 (Cool-chic video), https://arxiv.org/abs/2402.03179, where each picture has a network of its
own. Differs in critically sampled bands instead of a pyramid, which start as the transform of the picture and need no network, in motion
along the tree of pictures, and in everything that :mod:`neuralcodec.entropy.grids` does otherwise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.video.motion import moved
from neuralcodec.codecs.video.networks import MIDDLE, Grid, Start, VideoNetwork, enlarged
from neuralcodec.codecs.video.wavelets import BANDS, LIFTS, analysed, synthesised
from neuralcodec.entropy.bands import BandCoder
from neuralcodec.entropy.latents import GridShape

KIND = 8  # places of a family's grids for each kind of picture: see :mod:`neuralcodec.entropy.band_contexts`
KEY, BETWEEN = (
    2,
    5,
)  # channels of the motion of a key picture (down, right) and of a frame (its mean, half its difference, logit of the earlier one)


class Planes(NamedTuple):
    """Pictures, around zero: (n, 1, H, W) and (n, 2, ⌈H/2⌉, ⌈W/2⌉)."""

    luma: Tensor
    chroma: Tensor


class Between(NamedTuple):
    """A frame, the pictures before and after that it is made of, and how many generations it is from key pictures."""

    frame: int
    before: int
    after: int
    generation: int


class HybridDecoder(VideoNetwork):
    """
    Args:
        key: frames from one key picture to the next, about.
        scales: of the wavelets.
        block: pixels from one motion vector to the next.
        cascade: how much finer the steps of pictures are that others are made of: by that power of the number of pictures that an error
            in one of them is seen in, over two.
    """

    coder = BandCoder

    def __init__(self, key: int = 8, scales: int = 5, block: int = 16, cascade: float = 0.8):
        super().__init__()
        if key < 1 or block < 2 or not 2 <= scales <= 8:
            raise ValueError("key is positive, block at least 2, and there are 2 to 8 scales")
        self.key, self.block, self.scales, self.cascade = key, block, scales, cascade
        bands = [Grid(2**scale, 1, BANDS * (1 if scale == 1 else 3)) for scale in range(scales, 0, -1)]
        self.picture = [Grid(2**scales, 1, 3), *bands]
        motions = [[], [Grid(block, 1, KEY)], [Grid(block, 1, BETWEEN)]]
        self.grids = [grid for motion in motions for grid in (*motion, *self.picture)]
        self.linear = [not moving for motion in motions for moving in (*(True for _ in motion), *(False for _ in self.picture))]
        self.lifts = nn.Parameter(torch.tensor(LIFTS))

    def nodes(self, frames: int) -> list[int]:
        """Frames at which key pictures stand, the first and the last among them."""
        count = max(1, math.ceil((frames - 1) / self.key))
        return sorted({round((frames - 1) * number / count) for number in range(count + 1)})

    def between(self, frames: int) -> list[Between]:
        """All other frames, in order of time."""
        return [each for one, other in itertools.pairwise(self.nodes(frames)) for each in _tree(one, other, 0)]

    def reach(self, frames: int) -> list[float]:
        """In how many pictures an error of each frame is seen, as energy, if nothing corrects it."""
        seen = [1.0] * frames
        for each in sorted(self.between(frames), key=lambda each: -each.generation):
            for reference, share in ((each.before, 1 - passed(each)), (each.after, passed(each))):
                seen[reference] += share**2 * seen[each.frame]
        for one, other in reversed(list(itertools.pairwise(self.nodes(frames)))):
            seen[one] += seen[other]
        return seen

    def gains(self, frames: int) -> Tensor:
        """Factors on the steps of each frame's change."""
        return torch.tensor(self.reach(frames)) ** (-self.cascade / 2)

    def runs(self, frames: int) -> list[tuple[int, int]]:
        nodes = self.nodes(frames)
        return [(one + 1 if number else 0, other + 1) for number, (one, other) in enumerate(itertools.pairwise(nodes))] or [(0, 1)]

    def shapes(self, frames: int, height: int, width: int) -> list[GridShape]:
        """Of the grids of a clip, in coding order: first picture, key pictures (all but the first), frames between."""
        made: list[GridShape] = []
        nodes = self.nodes(frames)
        for kind, count in enumerate((1, len(nodes) - 1, frames - len(nodes))):
            size = (height, width) if count else (1, 1)  # of what nobody needs
            if kind:
                rows, columns = (-(-side // self.block) for side in size)
                motion = GridShape(1, (KEY, BETWEEN)[kind - 1], rows, columns)
                made.append(motion._replace(rows=max(count, 1), family=("motion", "ways")[kind - 1], alone=kind == 2))
            first = len(made)
            made += [
                shape._replace(rows=max(count, 1), parent=None if shape.parent is None else first + shape.parent)
                for shape in self.picture_shapes(kind, *size)
            ]
        return made

    def picture_shapes(self, kind: int, height: int, width: int) -> list[GridShape]:
        """Of the grids of one picture."""
        made: list[GridShape] = []
        for number, grid in enumerate(self.picture):
            rows, columns = -(-height // grid.stride), -(-width // grid.stride)
            scale = self.scales - number  # of a band, less one
            family, place = ("bands", kind * KIND + scale) if number else ("low", kind * KIND)
            made.append(GridShape(1, grid.channels, rows, columns, number - 1 if number > 1 else None, family, place, kind == 2))
        return made

    def spans(self, begin: int, end: int, frames: int) -> list[tuple[int, int]]:
        nodes = self.nodes(frames)
        low = max(number for number, node in enumerate(nodes) if node <= begin)
        high = min(number for number, node in enumerate(nodes) if node >= end - 1)
        first, last = nodes[low] - low, nodes[high] - high
        if last <= first:  # a row that no frame needs
            first, last = min(first, max(0, frames - len(nodes) - 1)), min(first, max(0, frames - len(nodes) - 1)) + 1
        rows = ((0, 1), (0, max(1, high)), (first, last))
        return [row for kind, row in enumerate(rows) for _ in self._of_kind(self.grids, kind)]

    def forward(self, rows: Sequence[Tensor], firsts: Sequence[int], vectors: Tensor, frames: Tensor, height: int, width: int) -> Tensor:
        total, wanted = len(vectors), frames.tolist()
        nodes = self.nodes(total)
        keys, rest = (self._of_kind(rows, kind) for kind in (1, 2))
        gains = self.gains(total)
        drawn = {0: self.planes_of([grid * gains[0] for grid in self._of_kind(rows, 0)], height, width)}
        motions = {}
        high = min(number for number, node in enumerate(nodes) if node >= max(wanted))
        if high:
            sizes = gains[torch.tensor(nodes[1 : high + 1])].reshape(-1, 1, 1, 1)
            changes = self.planes_of([grid[:high] * sizes for grid in keys[1:]], height, width)
            for number, (one, other) in enumerate(itertools.pairwise(nodes[: high + 1])):
                motions[one, other] = keys[0][number, None]
                drawn[other] = added(self.shifted(drawn[one], motions[one, other]), changes, number)
        low = max(number for number, node in enumerate(nodes) if node <= min(wanted))
        here = [(each, number - firsts[-1]) for number, each in enumerate(self.between(total)) if nodes[low] < each.frame < nodes[high]]
        if here:
            sizes = gains[torch.tensor([each.frame for each, _ in here])].reshape(-1, 1, 1, 1)
            begin = here[0][1]
            changes = self.planes_of([grid[begin : begin + len(here)] * sizes for grid in rest[1:]], height, width)
            for generation in sorted({each.generation for each, _ in here}):
                chosen = [(each, row) for each, row in here if each.generation == generation]
                made = self.between_others([each for each, _ in chosen], rest[0][[row for _, row in chosen]], drawn, motions)
                for place, (each, row) in enumerate(chosen):
                    drawn[each.frame] = added(Planes(made.luma[place, None], made.chroma[place, None]), changes, row - begin)
        luma, chroma = (torch.cat([drawn[each][plane] for each in wanted]) for plane in range(2))
        return torch.cat((F.pixel_unshuffle(F.pad(luma, (0, width % 2, 0, height % 2), mode="replicate"), 2), chroma), 1) + MIDDLE

    def between_others(
        self, chosen: Sequence[Between], latents: Tensor, drawn: dict[int, Planes], motions: dict[tuple[int, int], Tensor]
    ) -> Planes:
        """Frames of one generation as their neighbours predict them. Their parts of ``motions``, from later to earlier, are added."""
        ways = torch.cat([motions[each.before, each.after] for each in chosen])
        part = torch.tensor([passed(each) for each in chosen]).reshape(-1, 1, 1, 1)
        back, on = latents[:, :2] + latents[:, 2:4] + ways * part, latents[:, :2] - latents[:, 2:4] - ways * (1 - part)
        for number, each in enumerate(chosen):
            motions[each.before, each.frame], motions[each.frame, each.after] = back[number, None], -on[number, None]
        earlier, later = (
            self.shifted(Planes(*(torch.cat(planes) for planes in zip(*(drawn[getattr(each, which)] for each in chosen)))), motion)
            for which, motion in (("before", back), ("after", on))
        )
        share = torch.sigmoid(latents[:, 4:] + torch.logit(1 - part))
        return Planes(*(later[plane] + self._fine(share, later[plane], 1 + plane) * (earlier[plane] - later[plane]) for plane in range(2)))

    def planes_of(self, grids: Sequence[Tensor], height: int, width: int) -> Planes:
        """Rows of a picture's grids to planes."""
        low, *bands = grids
        luma = [band[:, None, :BANDS] for band in reversed(bands)]
        chroma = [band[:, BANDS:].unflatten(1, (2, BANDS)) for band in reversed(bands[:-1])]
        half = (-(-height // 2), -(-width // 2))
        return Planes(synthesised(low[:, :1], luma, height, width, self.lifts), synthesised(low[:, 1:], chroma, *half, self.lifts))

    def bands_of(self, planes: Planes) -> list[Tensor]:
        """Undo :meth:`planes_of`."""
        low, luma = analysed(planes.luma, self.scales)
        low_chroma, chroma = analysed(planes.chroma, self.scales - 1)
        bands = [band.flatten(1, 2) for band in luma]
        bands[1:] = [torch.cat((one, other.flatten(1, 2)), 1) for one, other in zip(bands[1:], chroma)]
        return [torch.cat((low, low_chroma), 1), *reversed(bands)]

    def shifted(self, planes: Planes, motion: Tensor) -> Planes:
        return Planes(moved(planes.luma, self._fine(motion, planes.luma)), moved(planes.chroma, self._fine(motion, planes.chroma, 2) / 2))

    def _fine(self, latents: Tensor, plane: Tensor, stride: int = 1) -> Tensor:
        """Latents of motion at every sample of a plane that has one for so many pixels."""
        return enlarged(latents, self.block // stride, *plane.shape[2:])

    def initial(self, pictures: Tensor, height: int, width: int, step: float) -> list[Start]:
        from neuralcodec.codecs.video.hybrid_start import HybridStart

        return HybridStart(self, pictures, height, width, step).run()

    def _of_kind(self, every: Sequence, kind: int) -> Sequence:
        """Of one thing per grid, those of the first picture, key pictures, or frames between."""
        count = len(self.picture)
        begin = (0, count, 2 * count + 1)[kind]
        return every[begin : begin + count + (kind > 0)]


def _tree(one: int, other: int, generation: int) -> list[Between]:
    """The frames between two, each half-way between others, in order of time."""
    if other - one < 2:
        return []
    frame = (one + other) // 2
    here = Between(frame, one, other, generation)
    return [*_tree(one, frame, generation + 1), here, *_tree(frame, other, generation + 1)]


def passed(each: Between) -> float:
    """How much of the way between its neighbours lies behind a frame."""
    return (each.frame - each.before) / (each.after - each.before)


def added(planes: Planes, changes: Planes, row: int) -> Planes:
    return Planes(planes.luma + changes.luma[row, None], planes.chroma + changes.chroma[row, None])


def unpacked(pictures: Tensor, height: int, width: int) -> Planes:
    """Of packed pictures."""
    return Planes(F.pixel_shuffle(pictures[:, :4], 2)[..., :height, :width], pictures[:, 4:])


__all__ = ["HybridDecoder"]
