"""Key pictures, and what moves between them: a network that draws a group of pictures as a hybrid codec codes it.

    first picture ── moved ─(+ change)─► key picture ── moved ─(+ change)─► key picture …
                                              └─ moved ─┐         ┌─ moved ─┘
                                                       blend (+ change) ─► frame between

Pictures and changes are drawn from latent grids by one small network (:class:`~neuralcodec.codecs.video.networks.GridDecoder`); motion and
blending weights are latent grids themselves, in pixels and logits, interpolated bilinearly. Motion between key pictures is that from
one to the other, of which each frame has its part: where it is steady, it stays the same from frame to frame.
Everything is fitted together, after a start by block matching.

The structure is that of Leguay et al. 2024 (Cool-chic video), https://arxiv.org/abs/2402.03179. Differs in one network for all pictures of
a group, in key pictures at fixed distances, and in everything that :mod:`neuralcodec.entropy.grids` does otherwise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralcodec.codecs.video.networks import (
    MIDDLE,
    Grid,
    GridDecoder,
    Start,
    VideoNetwork,
    drawn_planes,
    enlarged,
    pooled_planes,
    samples,
    started,
)
from neuralcodec.entropy.grids import GridShape

MOVING, FARTHER = 2e-3, 2e-4  # what motion at all, and the root of each pixel of it, has to save of the mean difference in 0…1
FLOW_STEP = 0.5  # pixels of luma: of motion, to start with
COARSER = (0.7, 0.85, 1.6)  # initial steps of the first picture, key pictures and frames: what others are made of is worth more
CERTAIN = 6.0  # logit of a blend that is all of one picture
KEY, BETWEEN = 2, 5  # channels of the motion of a key picture (down, right) and of a frame (twice that, and the logit of the first)


class MotionDecoder(VideoNetwork):
    """
    Args:
        widths, depths, expansion: of the network that draws, as in :class:`~neuralcodec.codecs.video.networks.GridDecoder`.
        pyramid: ``[stride, channels]`` of the latents that pictures and changes are drawn from.
        key: frames from one key picture to the next, about.
        finest: strides of the finest latents of changes of key pictures, and of frames.
        block: stride of motion.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        pyramid: Sequence[Sequence[int]],
        key: int = 8,
        finest: Sequence[int] = (2, 4),
        block: int = 16,
        expansion: int = 2,
    ):
        super().__init__()
        if key < 1 or block < 2 or len(finest) != 2:
            raise ValueError("key and block are positive, and finest has two strides")
        self.key, self.block = key, block
        self.drawing = GridDecoder(widths, depths, [(stride, 1, channels) for stride, channels in pyramid], 0, expansion)
        every = self.drawing.grids
        kinds = (every, *([grid for grid in every if grid.stride >= stride] for stride in finest))
        self.kinds = [len(kind) for kind in kinds]  # grids of the first picture, of key pictures and of frames, coarse to fine
        motions = [[], [Grid(block, 1, KEY)], [Grid(block, 1, BETWEEN)]]
        self.grids = [grid for kind, motion in zip(kinds, motions) for grid in (*motion, *kind)]

    def nodes(self, frames: int) -> list[int]:
        """Frames at which key pictures stand, the first and the last among them."""
        count = max(1, math.ceil((frames - 1) / self.key))
        return sorted({round((frames - 1) * number / count) for number in range(count + 1)})

    def shapes(self, frames: int, height: int, width: int) -> list[GridShape]:
        """Of the grids of a clip, in coding order: first picture, key pictures (all but the first), frames."""
        made: list[GridShape] = []
        counts = (1, max(1, len(self.nodes(frames)) - 1), frames)
        for kind, count in enumerate(counts):
            start = len(made)
            for number in range(self.kinds[kind] + (kind > 0)):
                grid = self.grids[start + number]
                parent = start + number - 1 if number > (kind > 0) else None
                made.append(GridShape(count, grid.channels, -(-height // grid.stride), -(-width // grid.stride), parent))
        return made

    def spans(self, begin: int, end: int, frames: int) -> list[tuple[int, int]]:
        last = next((number for number, node in enumerate(self.nodes(frames)) if node >= end - 1), 0)
        rows = ((0, 1), (0, max(1, last)), (begin, end))
        return [row for kind, row in enumerate(rows) for _ in range(self.kinds[kind] + (kind > 0))]

    def forward(self, rows: Sequence[Tensor], firsts: Sequence[int], vectors: Tensor, frames: Tensor, height: int, width: int) -> Tensor:
        intra, keys, between = self._by_kind(rows)
        between = [each[frames - firsts[-1]] for each in between]
        nodes = self.nodes(len(vectors))
        size = (-(-height // 2), -(-width // 2))
        pictures = [self._draw(intra, height, width) + MIDDLE]
        changes = self._draw(keys[1:], height, width)
        moves = enlarged(keys[0], self.block // 2, *size)
        for number in range(len(keys[0]) if len(nodes) > 1 else 0):
            pictures.append(moved(pictures[-1], moves[number, None]) + changes[number, None])
        drawn = torch.cat(pictures)
        after = torch.bucketize(frames, torch.tensor(nodes)).clamp(max=len(pictures) - 1)
        return self._between(
            drawn, nodes, frames, after, enlarged(between[0], self.block // 2, *size), self._draw(between[1:], height, width)
        )

    def _between(self, drawn: Tensor, nodes: list[int], frames: Tensor, after: Tensor, motion: Tensor, changes: Tensor) -> Tensor:
        before = (after - 1).clamp_min(0)
        part = passed(nodes, frames, before, after)
        ahead = moved(drawn[before], motion[:, :2] * part)
        behind = moved(drawn[after], motion[:, 2:4] * (1 - part))
        usual = torch.logit(1 - part, eps=1e-6).clamp(-CERTAIN, CERTAIN)
        return blended(ahead, behind, motion[:, 4:], usual) + changes

    def _draw(self, latents: Sequence[Tensor], height: int, width: int) -> Tensor:
        """Changes (n, 6, …) from a pyramid that may lack its finest grids."""
        return self.drawing.decode([*latents, *[None] * (len(self.drawing.grids) - len(latents))], None, height, width) - MIDDLE

    def _by_kind(self, every: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        first, second = self.kinds[0], self.kinds[0] + self.kinds[1] + 1
        return every[:first], every[first:second], every[second:]

    @torch.no_grad()
    def initial(self, pictures: Tensor, height: int, width: int, step: float) -> list[Start]:
        """Motion by block matching, and pyramids of what it leaves."""
        nodes = self.nodes(len(pictures))
        shapes = self.shapes(len(pictures), height, width)
        size = pictures.shape[2:]
        count = self.kinds[0]
        made, drawn = _pyramid(pictures[:1] - MIDDLE, self.grids[:count], shapes[:count], step * COARSER[0])
        keys = [drawn + MIDDLE]

        moves, changes = [], []
        key_grids, key_shapes = self.grids[count : count + self.kinds[1] + 1], shapes[count : count + self.kinds[1] + 1]
        for here, there in itertools.pairwise(nodes):
            motion = match(pictures[there, None], pictures[here, None], self.block)
            moves.append(motion)
            guess = moved(keys[-1], enlarged(motion, self.block // 2, *size))
            starts, change = _pyramid(pictures[there, None] - guess, key_grids[1:], key_shapes[1:], step * COARSER[1])
            changes.append(starts)
            keys.append(guess + change)
        if not moves:
            moves = [torch.zeros(1, *key_shapes[0][1:4])]
            changes = [[Start(torch.zeros(1, *shape[1:4]), 0, torch.zeros(1, *shape[1:4])) for shape in key_shapes[1:]]]
        made.append(started(torch.cat(moves), FLOW_STEP, 0.0))
        made += [_joined(rows) for rows in zip(*changes)]

        frames = torch.arange(len(pictures))
        after = torch.bucketize(frames, torch.tensor(nodes)).clamp(max=len(keys) - 1)
        before = (after - 1).clamp_min(0)
        originals = pictures[torch.tensor(nodes)]
        part = passed(nodes, frames, before, after)
        motion = torch.zeros(len(pictures), BETWEEN, *shapes[-1 - self.kinds[2]][2:4])
        for at in range(len(pictures)):
            for channels, node, share in ((slice(0, 2), before[at], part[at]), (slice(2, 4), after[at], 1 - part[at])):
                same = motion[max(at - 1, 0), None, channels]
                motion[at, None, channels] = same
                if share > 0:
                    found = match(pictures[at, None], originals[node, None], self.block, guess=same * share)
                    motion[at, None, channels] = torch.where(found == same * share, same, found / share)
        guess = self._between(torch.cat(keys), nodes, frames, after, enlarged(motion, self.block // 2, *size), torch.zeros_like(pictures))
        grids, rest_shapes = self.grids[count + self.kinds[1] + 1 :], shapes[count + self.kinds[1] + 1 :]
        made.append(started(motion, FLOW_STEP, 0.0, keep=True))
        return made + _pyramid(pictures - guess, grids[1:], rest_shapes[1:], step * COARSER[2])[0]


def _pyramid(rest: Tensor, grids: Sequence[Grid], shapes: Sequence[GridShape], step: float) -> tuple[list[Start], Tensor]:
    """Latents of a change, and what the initial network draws of them."""
    made, total = [], torch.zeros_like(rest)
    for grid, shape in zip(grids, shapes):
        start = started(pooled_planes(rest - total, grid, shape), step / math.sqrt(samples(grid, 1)))
        made.append(start)
        total = total + drawn_planes(start.values, grid, *rest.shape[2:])
    return made, total


def _joined(rows: Sequence[Start]) -> Start:
    return Start(torch.cat([row.latent for row in rows]), rows[0].exponent, torch.cat([row.values for row in rows]))


def moved(pictures: Tensor, motion: Tensor) -> Tensor:
    """Packed pictures (n, 6, h, w), each position from where it was: ``motion`` (n, 2, h, w) down and right, in pixels of luma."""
    luma = F.pixel_shuffle(pictures[:, :4], 2)
    fine = F.interpolate(motion, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.cat((F.pixel_unshuffle(_sampled(luma, fine), 2), _sampled(pictures[:, 4:], motion / 2)), 1)


def _sampled(x: Tensor, motion: Tensor) -> Tensor:
    height, width = x.shape[2:]
    rows = (torch.arange(height, device=x.device)[:, None] + motion[:, 0]) * (2 / height) + (1 / height - 1)
    columns = (torch.arange(width, device=x.device) + motion[:, 1]) * (2 / width) + (1 / width - 1)
    return F.grid_sample(x, torch.stack((columns, rows), -1), mode="bilinear", padding_mode="border", align_corners=False)


def passed(nodes: Sequence[int], frames: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """How much of the way from the key picture before to the one after lies behind a frame: (frames, 1, 1, 1)."""
    times = torch.tensor(nodes)
    distance = (times[after] - times[before]).clamp_min(1)
    return ((frames - times[before]) / distance).clamp(0, 1).reshape(-1, 1, 1, 1)


def blended(ahead: Tensor, behind: Tensor, logit: Tensor, usual: Tensor) -> Tensor:
    share = torch.sigmoid(logit + usual)
    return behind + share * (ahead - behind)


def match(picture: Tensor, reference: Tensor, block: int, reach: int = 24, guess: Tensor | None = None) -> Tensor:
    """Where in the reference each block came from, in pixels, (1, 2, rows, columns): packed pictures (1, 6, h, w), searched coarse to fine.

    Args:
        block: side in pixels of luma.
        reach: pixels up, down, left and right.
        guess: motion that costs nothing, as (1, 2, rows, columns).
    """
    free = torch.zeros(1, 2, -(-2 * picture.shape[2] // block), -(-2 * picture.shape[3] // block)) if guess is None else guess
    here, there = (F.pixel_shuffle(each[:, :4], 2) for each in (picture, reference))
    height, width = here.shape[2:]
    rows, columns = -(-height // block), -(-width // block)
    small_here, small_there = F.avg_pool2d(here, 4, ceil_mode=True), F.avg_pool2d(there, 4, ceil_mode=True)
    far = reach // 4
    padded = F.pad(small_there, (far, far, far, far), mode="replicate")
    best = torch.full((1, 1, rows, columns), math.inf)
    motion = torch.zeros(1, 2, rows, columns)

    def consider(error: Tensor, candidate: Tensor, cost: Tensor) -> None:
        nonlocal best, motion
        factor = max(1, block * error.shape[3] // width)
        pooled = F.avg_pool2d(
            F.pad(error, (0, columns * factor - error.shape[3], 0, rows * factor - error.shape[2]), mode="replicate"), factor
        )
        total = F.avg_pool2d(pooled, 3, 1, 1, count_include_pad=False) * 0.3 + pooled * 0.7 + cost
        better = total < best
        motion, best = torch.where(better, candidate, motion), torch.minimum(total, best)

    for down, right in itertools.product(range(-far, far + 1), repeat=2):
        window = padded[..., far + down : far + down + small_here.shape[2], far + right : far + right + small_here.shape[3]]
        candidate = torch.tensor([down, right], dtype=torch.float32).reshape(1, 2, 1, 1) * 4
        consider((window - small_here).abs(), candidate, _price(candidate, free))
    for distance in (2.0, 1.0, 0.5):
        around, best = motion, torch.full_like(best, math.inf)
        for down, right in sorted(itertools.product((-1, 0, 1), repeat=2), key=lambda each: abs(each[0]) + abs(each[1])):
            candidate = around + torch.tensor([down, right], dtype=torch.float32).reshape(1, 2, 1, 1) * distance
            whole = F.interpolate(candidate, scale_factor=block, mode="nearest")[..., :height, :width]
            consider((_sampled(there, whole) - here).abs(), candidate, _price(candidate, free))
        if guess is not None:
            whole = F.interpolate(guess, scale_factor=block, mode="nearest")[..., :height, :width]
            consider((_sampled(there, whole) - here).abs(), guess, torch.zeros(1))
    return motion


def _price(motion: Tensor, free: Tensor) -> Tensor:
    distance = (motion - free).abs().sum(1, keepdim=True)
    return MOVING * (distance > 0) + FARTHER * distance.sqrt()


__all__ = ["MotionDecoder"]
