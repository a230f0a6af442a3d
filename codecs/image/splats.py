"""Pictures as sums of Gaussians: each has a place, a shape and a colour.

Zhang et al. 2024 (GaussianImage), https://arxiv.org/abs/2403.08551: accumulated without order or opacity. Differs in that attributes are
coded as what they differ by from an even lattice of round ones, with learned steps under an entropy model, in the place of half precision
and vector quantization; and in Gaussians of several sizes, of which the large ones are drawn on a small raster.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.image.overfitted_function import PictureFunction

MIDDLE = 0.5  # what no Gaussian at all draws
SAMPLES = 4  # of a raster along each side, for each Gaussian of a lattice
REACH = 7  # samples around the middle of a Gaussian in which it is drawn
ROUND = 0.45  # inverse of the standard deviation, in samples, that a Gaussian starts with
STEEPEST = 2.0
STEPS = {"offsets": 1 / 16, "shapes": 1 / 16, "colours": 1 / 32}  # of quantization, before they are learned


class Gaussians(PictureFunction):
    """
    Args:
        lattices: Gaussians along each side, for every size of Gaussians.
    """

    fresh = True

    def __init__(self, lattices: Sequence[int] = (8, 16, 32, 64)):
        super().__init__()
        if not lattices or min(lattices) < 1:
            raise ValueError("a lattice has one Gaussian at least")
        self.lattices = list(lattices)
        counts = [side**2 for side in self.lattices]
        self.offsets = nn.ParameterList(nn.Parameter(torch.zeros(count, 2)) for count in counts)  # in distances of the lattice
        self.shapes = nn.ParameterList(nn.Parameter(torch.tensor([ROUND, 0.0, ROUND]).repeat(count, 1)) for count in counts)
        self.colours = nn.ParameterList(nn.Parameter(torch.zeros(count, 3)) for count in counts)

    def speed(self, name: str) -> float:
        return 15.0

    def precision(self, name: str) -> float:
        return STEPS[name.partition(".")[0]]

    def draw(self, latents: Sequence[Tensor], height: int, width: int) -> Tensor:
        picture = self.colours[0].new_full((1, 3, height, width), MIDDLE)
        for side, offsets, shapes, colours in zip(self.lattices, self.offsets, self.shapes, self.colours):
            rows, columns = min(height, SAMPLES * side), min(width, SAMPLES * side)
            raster = _accumulated(side, offsets, shapes, colours, rows, columns)
            picture = picture + F.interpolate(raster[None], (height, width), mode="bicubic", align_corners=False)
        return picture[0]

    def multiplications(self, height: int, width: int) -> float:
        """Of the sums of colours; exponentials are not counted."""
        return sum(side**2 for side in self.lattices) * (2 * REACH + 1) ** 2 * 6.0


def _accumulated(side: int, offsets: Tensor, shapes: Tensor, colours: Tensor, rows: int, columns: int) -> Tensor:
    """(3, rows, columns): Gaussians exp(−‖L·d‖²/2) · colour, d the distance in samples, L a triangle of the three numbers of a shape."""
    lattice = torch.arange(side * side, device=offsets.device)
    middles = (torch.stack((lattice // side, lattice % side), 1) + 0.5 + offsets.clamp(-side, side)) / side
    middles = middles * middles.new_tensor([rows, columns]) - 0.5
    around = torch.arange(-REACH, REACH + 1, device=offsets.device)
    nearest = middles.detach().round().long()
    places = nearest[:, :, None] + around  # (n, 2, window)
    distances = places - middles[:, :, None]
    first, mixed, second = shapes.clamp(-STEEPEST, STEEPEST).unbind(1)
    down, right = distances[:, 0, :, None], distances[:, 1, None, :]
    along = first[:, None, None] * down + mixed[:, None, None] * right
    across = second[:, None, None] * right
    values = torch.exp(-0.5 * (along.square() + across.square()))
    inside = ((places[:, 0] >= 0) & (places[:, 0] < rows))[:, :, None] & ((places[:, 1] >= 0) & (places[:, 1] < columns))[:, None, :]
    flat = places[:, 0, :, None].clamp(0, rows - 1) * columns + places[:, 1, None, :].clamp(0, columns - 1)
    weighed = (values * inside)[..., None] * colours[:, None, None, :]
    return colours.new_zeros(rows * columns, 3).index_add(0, flat.reshape(-1), weighed.reshape(-1, 3)).T.reshape(3, rows, columns)


__all__ = ["Gaussians"]
