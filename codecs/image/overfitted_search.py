"""The end of a fit, when latents are integers: the most promising steps of single ones are tried, and what is worse goes back.

One backward pass gives every integer the slope of the error, and of the bits of those that it is context of. With the curvature of the
error and the bits of its own neighbours on the scale of integers, which the tables say, it is known about what a step up or down is worth.
The best one of each neighbourhood is tried, all over a grid at once, and taken back where the bits and the error around it, taken together,
have not become fewer. Weights, which are rounded by then, go on moving, and go back if all of the picture has become worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralcodec.codecs.image.overfitted_context import compressed
from neuralcodec.codecs.image.overfitted_function import Drawn

REACH = 5  # positions around one that is tried of which none is
EVERY_GRID = (  # step by step: there are few integers in coarse ones
    *(0, 0, 1, 0, 2, 0, 1, 3, 0, 1, 0, 2, 0, 1, 0, 4),
    *(0, 0, 1, 0, 2, 0, 1, 5, 0, 1, 0, 3, 0, 2, 1, 6),
)
ROUNDING = 1e-6  # part of R + λD that says nothing
LESS_TRUST, MORE_TRUST = 0.5, 1.1  # factors on the learning rate of weights after a move that made it worse, or better


class Search:
    """
    Args:
        norms: about how much each latent moves the picture: :meth:`PictureFunction.probe`.
    """

    def __init__(self, norms: Sequence[Tensor]):
        self.norms = list(norms)
        # Where a step made it worse, and none around has been taken since.
        self.refused = [torch.zeros_like(norm, dtype=torch.bool) for norm in norms]
        self.steps = 0
        self.best: tuple[float, float] | None = None  # bits per pixel and error with the weights below
        self.weights: list[Tensor] = []
        self.trust = 1.0

    def save(self) -> tuple[dict[str, Tensor], list[Any]]:
        """Everything that :meth:`load` needs: tensors, and what JSON takes."""
        kinds = (("norm", self.norms), ("refused", self.refused), ("best", self.weights))
        return {f"{kind} {number}": each for kind, kept in kinds for number, each in enumerate(kept)}, [self.steps, self.best, self.trust]

    @classmethod
    def load(cls, tensors: dict[str, Tensor], known: list[Any], latents: Sequence[Tensor], weights: Sequence[Tensor]) -> Search:
        """
        Args:
            latents, weights: of the fit: tensors go where these are.

        Raises:
            KeyError, ValueError: not what :meth:`save` gave.
        """
        search = cls([tensors[f"norm {number}"].to(latent) for number, latent in enumerate(latents)])
        search.refused = [tensors[f"refused {number}"].to(latent.device) for number, latent in enumerate(latents)]
        search.steps, best, search.trust = known
        if best is not None:
            search.best = (best[0], best[1])
            search.weights = [tensors[f"best {number}"].to(weight.device) for number, weight in enumerate(weights)]
        return search

    def forget(self) -> None:
        """What was refused: λ has changed."""
        for refused in self.refused:
            refused.zero_()

    @torch.no_grad()
    def judge(self, bpp: float, error: float, price: float, weights: Sequence[Tensor]) -> bool:
        """Whether all is as good as before the last move of rounded weights; otherwise that is undone, and the next ones will be shorter.

        Integers have moved since as well, one by one each for the better. What they make worse together is put down to the weights.

        Args:
            bpp, error: bits per pixel and mean squared error of the whole picture as it is now.
            price: bits per pixel of an error of one.
        """
        if self.best is not None:
            if bpp + price * error > (self.best[0] + price * self.best[1]) * (1 + ROUNDING):
                for weight, best in zip(weights, self.weights):
                    weight.copy_(best)
                self.trust *= LESS_TRUST
                self.best = None  # integers have moved as well, and they stay where they are
                return False
            self.trust = min(1.0, self.trust * MORE_TRUST)
        self.best, self.weights = (bpp, error), [weight.detach().clone() for weight in weights]
        return True

    @torch.no_grad()
    def step(
        self, latents: Sequence[Tensor], drawn: Drawn, leaves: Sequence[Tensor], draw: Callable[[Sequence[Tensor]], Drawn],
        picture: Tensor, price: float,
    ) -> None:  # fmt: skip
        """Try a step of some integers of one grid, and keep those that make R + λD smaller.

        Args:
            latents: integers, changed in place.
            drawn: with the integers as they are.
            leaves: these, with gradients of bits per pixel and ``price`` times the mean squared error.
            draw: the same with others.
            picture: that is to be drawn, (3, H, W).
        """
        number = EVERY_GRID[self.steps % len(EVERY_GRID)] % len(latents)
        self.steps += 1
        latent, leaf, move, refused = latents[number], leaves[number], drawn.moves[number], self.refused[number]
        assert leaf.grad is not None and move.values.grad is not None and move.logarithms.grad is not None
        slope, of_values, of_logarithms = (each * picture[0].numel() for each in (leaf.grad, move.values.grad, move.logarithms.grad))
        curve = self.norms[number] * (price / 3)  # half the second derivative, in bits per squared step
        down, up = (
            own + of_values * way + of_logarithms * (compressed(latent + way) - move.logarithms) + slope * way + curve
            for way, own in ((-1, move.down), (1, move.up))
        )
        best = torch.minimum(down, up).masked_fill_(refused, 0.0)
        tried = (best < 0) & (best == -F.max_pool2d(-best[None], 2 * REACH + 1, 1, REACH)[0])
        step = torch.where(up < down, 1.0, -1.0) * tried
        others = list(latents)
        others[number] = latent + step
        change = _cost(draw(others), number, picture, price) - _cost(drawn, number, picture, price)
        worse = F.avg_pool2d(change[None], 2 * REACH + 1, 1, REACH)[0] >= 0
        kept = tried & ~worse
        latent += step * kept
        refused |= tried & worse
        changed = F.max_pool2d(kept[None].float(), 4 * REACH + 1, 1, 2 * REACH)[0] > 0
        refused &= ~changed


def _cost(drawn: Drawn, number: int, picture: Tensor, price: float) -> Tensor:
    """Of a grid and the finer ones, and λD, in bits, at the resolution of the grid."""
    total = (drawn.picture - picture).square().sum(0) * (price / 3)
    for finer, move in enumerate(drawn.moves[: number + 1]):
        if finer:
            total = F.avg_pool2d(total[None], 2, ceil_mode=True, divisor_override=1)[0]
        total = total + move.bits
    return total


__all__ = ["Search"]
