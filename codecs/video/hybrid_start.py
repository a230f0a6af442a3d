"""Where the fit of a hybrid begins: with what a hybrid encoder would send.

Pictures come in the order in which they are made of each other. Blocks are matched against the pictures as they are drawn, weighed by
bits; what that leaves becomes bands, of which integers are chosen by bits + λ · error.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from neuralcodec.codecs.video.hybrid import BETWEEN, KEY, Between, HybridDecoder, Planes, passed, unpacked
from neuralcodec.codecs.video.motion import MOTION_STEP, fitted, match
from neuralcodec.codecs.video.networks import MIDDLE, Grid, Start
from neuralcodec.codecs.video.wavelets import BANDS
from neuralcodec.entropy.bands import BandCoder
from neuralcodec.entropy.weights import STEPS_PER_OCTAVE

WORTH = 6 / math.log(2)  # bits per squared error of a step: what makes that step the best one
FINER = 0.8  # factor on steps: with bits weighed against errors for every latent, finer ones are better than where all are rounded
LUMA_WEIGHT, CHROMA_WEIGHT = 1 / 2, 1.0  # of the squared error of one sample


class HybridStart:
    """
    Args:
        pictures: (frames, 6, ⌈height/2⌉, ⌈width/2⌉).
        step: of a sample of luma at the rate in question.
    """

    def __init__(self, network: HybridDecoder, pictures: Tensor, height: int, width: int, step: float):
        self.network, self.height, self.width, self.step = network, height, width, step
        self.frames = len(pictures)
        self.originals = [unpacked(picture[None] - MIDDLE, height, width) for picture in pictures]
        self.gains, self.reach = network.gains(self.frames).tolist(), network.reach(self.frames)
        self.coders = [BandCoder(network.picture_shapes(kind, height, width)) for kind in range(3)]
        self.unit = round(STEPS_PER_OCTAVE * math.log2(FINER * step))  # the steps of bands, as an exponent
        self.drawn: dict[int, Planes] = {}
        self.motions: dict[tuple[int, int], Tensor] = {}  # in pixels, from the later to the earlier frame
        self.fields: dict[int, Tensor] = {}  # motion latents of frames, in steps
        self.bands: dict[int, list[Tensor]] = {}

    @torch.no_grad()
    def run(self) -> list[Start]:
        """Of every grid."""
        nodes, between = self.network.nodes(self.frames), self.network.between(self.frames)
        self._finish(0, Planes(*(torch.zeros_like(plane) for plane in self.originals[0])), 0)
        for one, other in itertools.pairwise(nodes):
            self._key(one, other)
        for each in sorted(between, key=lambda each: each.generation):
            self._between(each)
        starts = []
        for kind, frames in enumerate((nodes[:1], nodes[1:], [each.frame for each in between])):
            if kind:
                field = [self.fields[frame] for frame in frames] or [torch.zeros(1, (KEY, BETWEEN)[kind - 1], 1, 1)]
                starts.append(_start(torch.cat(field), round(STEPS_PER_OCTAVE * math.log2(MOTION_STEP))))
            rows = [self.bands[frame] for frame in frames] or [[torch.zeros(1, grid.channels, 1, 1) for grid in self.network.picture]]
            starts += [_start(torch.cat(band), self.unit) for band in zip(*rows)]
        return starts

    def _key(self, one: int, other: int) -> None:
        still = torch.zeros(1, 2, -(-self.height // self.network.block), -(-self.width // self.network.block))
        motion, guess = self._refined(other, self._found(other, one, still), partial(self.network.shifted, self.drawn[one]))
        self.motions[one, other] = motion
        self.fields[other] = motion / MOTION_STEP
        self._finish(other, guess, 1)

    def _between(self, each: Between) -> None:
        way, part = self.motions[each.before, each.after], passed(each)
        guesses = (way * part, -way * (1 - part))
        moves = [self._found(each.frame, reference, guess) - guess for reference, guess in zip((each.before, each.after), guesses)]
        latents = torch.cat(((moves[0] + moves[1]) / 2, (moves[0] - moves[1]) / 2, torch.zeros_like(way[:, :1])), 1)
        predict = partial(self.network.between_others, [each], drawn=self.drawn, motions=self.motions)
        latents, guess = self._refined(each.frame, latents, predict)
        predict(latents)  # leaves its motions, for the frames in between
        self.fields[each.frame] = latents / MOTION_STEP
        self._finish(each.frame, guess, 2)

    def _found(self, frame: int, reference: int, guess: Tensor) -> Tensor:
        """Motion by block matching."""
        worth = WORTH / self.step**2 * LUMA_WEIGHT
        return match(self.originals[frame].luma, self.drawn[reference].luma, self.network.block, guess, worth)

    def _refined(self, frame: int, motion: Tensor, predict: Callable[[Tensor], Planes]) -> tuple[Tensor, Planes]:
        """Motion by gradient descent, and the picture that it predicts."""
        worth, luma = WORTH / self.step**2 * LUMA_WEIGHT, self.originals[frame].luma
        latents = fitted(motion, lambda values: worth * (predict(values).luma - luma).square().sum())
        return latents, predict(latents)

    def _finish(self, frame: int, guess: Planes, kind: int) -> None:
        """Bands of what a prediction leaves, and the picture that is drawn with them."""
        size = 2 ** (self.unit / STEPS_PER_OCTAVE) * self.gains[frame]
        rest = Planes(*(plane - other for plane, other in zip(self.originals[frame], guess)))
        worth = [WORTH * (size / self.step) ** 2 * self.reach[frame] * _weights(grid) for grid in self.network.picture]
        symbols = self.coders[kind].choose([band / size for band in self.network.bands_of(rest)], worth)
        self.bands[frame] = symbols
        change = self.network.planes_of([band * size for band in symbols], self.height, self.width)
        self.drawn[frame] = Planes(*(plane + other for plane, other in zip(guess, change)))


def _weights(grid: Grid) -> Tensor:
    """Of the squared errors of a grid's channels in that of a picture."""
    luma = 1 if grid.channels == 3 and grid.stride > 2 else BANDS
    return torch.tensor([LUMA_WEIGHT] * luma + [CHROMA_WEIGHT] * (grid.channels - luma))[:, None, None]


def _start(latent: Tensor, exponent: int) -> Start:
    return Start(latent, exponent, latent * 2 ** (exponent / STEPS_PER_OCTAVE))


__all__ = ["HybridStart"]
