"""Pictures as functions of the position, whose weights are all that a file holds: networks of coordinates, and what was made of them.

Every function draws a position's colour from nothing but (row, column), each in −1 … 1. All start from weights that follow from their
shapes (:mod:`~neuralcodec.codecs.fixed`), and differ from the papers named below in what they share here: what is coded of a weight is its
difference from its start, quantized with learned steps while fitting, under an entropy model whose bits are part of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from neuralcodec.codecs.fixed import fixed_values, set_fixed
from neuralcodec.codecs.image.overfitted_function import PictureFunction

MIDDLE = 0.5  # what a network of zeros draws
AT_ONCE = 2**16  # positions that are drawn together
ACTIVATIONS = ("sine", "spder", "relu")
FAINT = 0.1  # factor on the last layer's first weights, so that a fit starts with little contrast
ENTRY_STEP = 0.05  # of a table's entries, before it is learned
PRIMES = (1, 2654435761)  # of the spatial hash


class Field(PictureFunction):
    """A picture whose colours are computed one by one.

    A subclass computes them (:meth:`colours`), and counts what that takes (:meth:`multiplications_each`).
    """

    pointwise = True
    fresh = True

    def speed(self, name: str) -> float:
        return 15.0  # they start far from any picture

    def colours(self, positions: Tensor) -> Tensor:
        """(n, 2) in −1 … 1 to (n, 3) around zero."""
        raise NotImplementedError

    def multiplications_each(self) -> float:
        """Multiply–accumulates of one colour; by default those of the linear layers."""
        return float(sum(layer.weight.numel() for layer in self.modules() if isinstance(layer, nn.Linear)))

    def draw(self, latents: Sequence[Tensor], height: int, width: int, every: tuple[int, int, int] = (0, 0, 1)) -> Tensor:
        first_row, first_column, stride = every
        device = next(self.parameters()).device
        rows, columns = (
            (2 * torch.arange(first, size, stride, device=device) + 1) / size - 1
            for first, size in ((first_row, height), (first_column, width))
        )
        positions = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
        colours = torch.cat([self.colours(part) for part in positions.split(AT_ONCE)])
        return colours.T.reshape(3, len(rows), len(columns)) + MIDDLE

    def multiplications(self, height: int, width: int) -> float:
        return height * width * self.multiplications_each()


class Perceptron(nn.Module):
    """Coordinates, or sines of them, to three numbers.

    Args: as those of :class:`Coordinates`.
    """

    directions: Tensor  # (frequencies, 2), in radians

    def __init__(self, width: int, depth: int, activation: str, omega: float, frequencies: int = 0, finest: float = 64.0):
        super().__init__()
        if width < 1 or depth < 1 or frequencies < 0 or activation not in ACTIVATIONS:
            raise ValueError(f"a network has width, depth, and one of the activations {', '.join(ACTIVATIONS)}")
        self.activation, self.omega, self.shown = activation, omega, float(frequencies)
        directions = fixed_values(2 * frequencies, 1).reshape(-1, 2)
        periods = finest * (torch.arange(frequencies) + 1) / max(frequencies, 1)
        directions = directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-3) * periods[:, None]
        self.register_buffer("directions", directions * math.pi, persistent=False)
        inputs = 2 * frequencies or 2
        self.layers: Sequence[nn.Linear] = nn.ModuleList(  # type: ignore[assignment]
            nn.Linear(width if number else inputs, width) for number in range(depth)
        )
        self.head = nn.Linear(width, 3)
        set_fixed(self)
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.mul_(2**0.5)
            self.head.weight.mul_(FAINT)

    def encoded(self, positions: Tensor) -> Tensor:
        """What the first layer sees of (n, 2)."""
        if not len(self.directions):
            return positions * (self.omega / 2)
        angles = positions @ self.directions.T
        weights = (self.shown - torch.arange(len(self.directions), device=positions.device)).clamp(0, 1)
        return torch.cat((torch.sin(angles) * weights, torch.cos(angles) * weights), 1)

    def forward(self, positions: Tensor) -> Tensor:
        x = self.encoded(positions)
        for layer in self.layers:
            x = self._activate(layer(x))
        return self.head(x)

    def _activate(self, x: Tensor) -> Tensor:
        if self.activation == "relu":
            return F.relu(x)
        sine = torch.sin(x)
        return sine if self.activation == "sine" else sine * x.abs().clamp_min(1e-6).sqrt()


class Coordinates(Field):
    """A perceptron from coordinates, or from sines of them, to colours.

    Dupont et al. 2021 (COIN), https://arxiv.org/abs/2103.03123, with the layers of Sitzmann et al. 2020 (SIREN),
    https://arxiv.org/abs/2006.09661; Shah, Sitawarin 2023 (SPDER), https://arxiv.org/abs/2306.15242; Tancik et al. 2020 (Fourier features),
    https://arxiv.org/abs/2006.10739; Hertz et al. 2021 (SAPE), https://arxiv.org/abs/2104.09125. Differs from SAPE in that frequencies are
    revealed over the time of the fit only, not at each place by how well it fits, which a decoder would have to be told.

    Args:
        width, depth: of the hidden layers.
        activation: ``sine``; ``spder``, a sine times the root of its argument's magnitude; ``relu``.
        omega: factor on coordinates: how fine the details are that a fit begins with.
        frequencies: of sines and cosines in the place of coordinates; 0 for none.
        finest: the highest of them, in periods per picture.
        progressive: reveal the frequencies one by one in the first half of the fit.
    """

    def __init__(
        self,
        width: int = 32,
        depth: int = 4,
        activation: str = "sine",
        omega: float = 20.0,
        frequencies: int = 0,
        finest: float = 64.0,
        progressive: bool = False,
    ):
        super().__init__()
        self.network = Perceptron(width, depth, activation, omega, frequencies, finest)
        self.progressive = progressive

    def advance(self, progress: float) -> None:
        if self.progressive:
            self.network.shown = len(self.network.directions) * min(1.0, 0.1 + 2 * progress)

    def colours(self, positions: Tensor) -> Tensor:
        return self.network(positions)


class FilterNetwork(Field):
    """Products of sines: every layer is multiplied by a filter of the coordinates.

    Fathony et al. 2021 (multiplicative filter networks), https://openreview.net/forum?id=OmtmcPkkhT, as Hoshikawa et al. 2024 (ANI),
    https://arxiv.org/abs/2405.16807, quantize them to 4 bits. Differs from ANI in steps that are learned from those of 4 bits on, and in
    being of one width.

    Args:
        width, depth: of the layers.
        finest: of the filters' frequencies, in periods per picture.
        bits: that a weight has before anything is learned: the tensor's range, four standard deviations wide, has 2^bits steps.
    """

    def __init__(self, width: int = 32, depth: int = 3, finest: float = 64.0, bits: int = 4):
        super().__init__()
        self.bits = bits
        self.filters: Sequence[nn.Linear] = nn.ModuleList(nn.Linear(2, width) for _ in range(depth))  # type: ignore[assignment]
        self.layers: Sequence[nn.Linear] = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))  # type: ignore[assignment]
        self.head = nn.Linear(width, 3)
        set_fixed(self)
        with torch.no_grad():
            for number, each in enumerate(self.filters):  # a product's frequencies are sums of its factors'
                each.weight.mul_(math.pi * finest / depth * 0.5)
                each.bias.copy_(fixed_values(width, 100 + number) * 2)
            for layer in self.layers:
                layer.weight.mul_(2**0.5)
            self.head.weight.mul_(FAINT)

    def precision(self, name: str) -> float | None:
        deviation = float(self.get_parameter(name).detach().square().mean().sqrt())
        return 4 * deviation / 2**self.bits or None

    def colours(self, positions: Tensor) -> Tensor:
        x = torch.sin(self.filters[0](positions))
        for each, layer in zip(self.filters[1:], self.layers):
            x = layer(x) * torch.sin(each(positions))
        return self.head(x)


class HashGrids(Field):
    """Features looked up in tables, one for each of several resolutions, and a small perceptron.

    Müller et al. 2022, https://arxiv.org/abs/2201.05989; Girish et al. 2023 (SHACIRA), https://arxiv.org/abs/2309.15848: entries are
    integers that a linear layer, shared by the tables, makes features of.

    Args:
        entries: of each table at most; finer grids share them by a hash of the position.
        coarsest, finest: positions along each side.
        tables: number of resolutions, in geometric progression.
        features: of an entry.
        width: of the perceptron's hidden layer.
    """

    def __init__(self, entries: int = 2048, coarsest: int = 8, finest: int = 256, tables: int = 6, features: int = 2, width: int = 24):
        super().__init__()
        if entries < 1 or tables < 1 or not 2 <= coarsest <= finest:
            raise ValueError("hash grids have entries, tables, and two positions along a side at least")
        ratio = (finest / coarsest) ** (1 / max(tables - 1, 1))
        self.sides = [round(coarsest * ratio**number) for number in range(tables)]
        self.tables = nn.ParameterList(nn.Parameter(torch.zeros(min(entries, side**2), 1)) for side in self.sides)
        self.spread = nn.Linear(1, features, bias=False)
        self.hidden = nn.Linear(tables * features, width)
        self.head = nn.Linear(width, 3)
        set_fixed(self)
        with torch.no_grad():
            for number, table in enumerate(self.tables):
                table.copy_(fixed_values(len(table), 200 + number)[:, None] * ENTRY_STEP)
            self.head.weight.mul_(FAINT)

    def colours(self, positions: Tensor) -> Tensor:
        looked_up = [self.spread(self._entries(table, side, positions)) for table, side in zip(self.tables, self.sides)]
        return self.head(F.relu(self.hidden(torch.cat(looked_up, 1))))

    def precision(self, name: str) -> float | None:
        return ENTRY_STEP if name.startswith("tables.") else None

    def _entries(self, table: Tensor, side: int, positions: Tensor) -> Tensor:
        """(n, 1): the entries of the four corners around each position, by their distance."""
        place = (positions + 1) / 2 * (side - 1)
        corner = place.floor().clamp(0, side - 2)
        part = place - corner
        corner = corner.long()
        value = torch.zeros_like(place[:, :1])
        for down in (0, 1):
            for right in (0, 1):
                share = (part[:, 0] if down else 1 - part[:, 0]) * (part[:, 1] if right else 1 - part[:, 1])
                row, column = corner[:, 0] + down, corner[:, 1] + right
                whole = len(table) == side**2
                index = row * side + column if whole else (row * PRIMES[0] ^ column * PRIMES[1]) % len(table)
                value = value + table[index] * share[:, None]
        return value

    def multiplications_each(self) -> float:
        return super().multiplications_each() + len(self.tables) * (4 + self.spread.out_features)


class Modulated(Field):
    """A perceptron whose layers are normalised, then scaled and shifted by small grids.

    Lee et al. 2023 (coordinate-aware modulation), https://arxiv.org/abs/2311.14993: one scale and one shift a position and layer, shared by
    the channels.

    Args:
        width, depth: of the hidden layers.
        frequencies, finest: of the sines and cosines of coordinates that go in; as in :class:`Coordinates`.
        grid: positions along each side of a grid.
    """

    def __init__(self, width: int = 32, depth: int = 3, frequencies: int = 32, finest: float = 32.0, grid: int = 24):
        super().__init__()
        self.body = Perceptron(width, depth, "relu", 1.0, frequencies, finest)
        self.scales = nn.Parameter(torch.ones(depth, grid, grid))
        self.shifts = nn.Parameter(torch.zeros(depth, grid, grid))

    def colours(self, positions: Tensor) -> Tensor:
        x = self.body.encoded(positions)
        grids = torch.cat((self.scales, self.shifts))[None]
        places = positions.flip(1)[None, None]
        factors, terms = F.grid_sample(grids, places, align_corners=False, padding_mode="border")[0, :, 0].chunk(2)
        for layer, factor, term in zip(self.body.layers, factors, terms):
            x = F.layer_norm(layer(x), (layer.out_features,))
            x = F.relu(x * factor[:, None] + term[:, None])
        return self.body.head(x)

    def multiplications_each(self) -> float:
        return super().multiplications_each() + 8 * len(self.scales)


class RandomProjection(Field):
    """A perceptron all of whose weights are one short vector's, by a projection that is random and known.

    Gordon et al. 2024 (D'OH), https://arxiv.org/abs/2403.19163. Differs in that the projected vector is added to weights that are random,
    too, so that a vector of zeros is a network that can be fitted.

    Args:
        size: of the vector.
        width, depth, omega: of the network; as in :class:`Coordinates`.
    """

    def __init__(self, size: int = 1024, width: int = 32, depth: int = 4, omega: float = 20.0):
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(1, size))
        target = Perceptron(width, depth, "sine", omega).requires_grad_(False)
        self._target = (target,)  # out of the module's sight: its weights are nobody's to code
        for key, (name, value) in enumerate(target.named_parameters()):
            scale = value.square().mean().sqrt() if value.ndim > 1 else torch.tensor(0.1)
            projection = fixed_values(value.numel() * size, 300 + key).reshape(-1, size) * scale / 2
            self.register_buffer(_buffer(name), projection, persistent=False)

    def speed(self, name: str) -> float:
        return 5.0  # a number moves every weight

    def colours(self, positions: Tensor) -> Tensor:
        return functional_call(self._target[0], dict(self._weights()), (positions,))

    def multiplications(self, height: int, width: int) -> float:
        """Of the projection, once, and of the network."""
        (target,) = self._target
        weights = sum(value.numel() for value in target.parameters())
        return weights * (self.vector.numel() + height * width)

    def _weights(self) -> Mapping[str, Tensor]:
        (target,) = self._target
        return {
            name: value.to(self.vector) + (getattr(self, _buffer(name)) @ self.vector[0]).reshape(value.shape)
            for name, value in target.named_parameters()
        }


def _buffer(name: str) -> str:
    return "onto_" + name.replace(".", "_")


__all__ = ["Coordinates", "Field", "FilterNetwork", "HashGrids", "Modulated", "RandomProjection"]
