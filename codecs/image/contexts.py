"""Context models: better means for a latent from what of it is already decoded.

A latent is cut into groups. The first is predicted from side information alone, each later one also from those before it:

    side information ──► scales of all groups ─────────────► tables ──► one call of the coder for all symbols
                    └──► means ──(+)──► ŷ of group 1 ──network──(+)──► ŷ of group 2 ──network──(+)──► …

Differs from the papers named below in that contexts refine means only. Scales, which choose the probability tables, come from side
information by integer arithmetic (:mod:`~neuralcodec.codecs.image.hyper`), so that a file's parse depends on no floating-point number,
and all symbols are coded in one call. What is known enters the networks, and leaves them, in units of its own scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.blocks import DepthwiseBlock, zero
from neuralcodec.codecs.image.hyper import Prediction
from neuralcodec.entropy.quantizers import Quantized

# (latent, mean, scale index), all of one shape, and how much errors count, broadcastable to it
Quantize = Callable[[Tensor, Tensor, Tensor, Tensor | None], Quantized]


class Context(nn.Module):
    """What a codec asks of a context model.

    Args:
        latent: channels of y.
        features: channels of side information that :class:`~neuralcodec.codecs.image.hyper.HyperSynthesis` hands on.
    """

    def __init__(self, latent: int, features: int):
        super().__init__()
        self.latent = latent
        self.features = features

    def quantize(self, y: Tensor, prediction: Prediction, quantize: Quantize, weight: Tensor | None = None) -> Quantized:
        """What an encoder does, and training: quantize every value around the mean that those before it give it.

        Args:
            weight: how much errors count, (1, 1, H, W), handed on to ``quantize``.
        """
        raise NotImplementedError

    def relax(self, y: Tensor, prediction: Prediction, quantize: Quantize, weight: Tensor | None = None) -> Quantized:
        """:meth:`quantize` with a gradient, for a ``quantize`` that has one."""
        return self.quantize(y, prediction, quantize, weight)

    def dequantize(self, symbols: Tensor, prediction: Prediction) -> Tensor:
        """What a decoder does: all symbols are known, the means follow one another."""
        raise NotImplementedError


class Groups(Context):
    """A latent in groups, and a network that predicts each from those before.

    A subclass says which values belong to which step (:meth:`steps`) and predicts (:meth:`forward`).
    """

    def steps(self, rows: int, columns: int) -> Tensor:
        """The step at which each value is decoded, int64, broadcastable to (latent, rows, columns); 0 comes first."""
        raise NotImplementedError

    @property
    def count(self) -> int:
        """Number of steps."""
        raise NotImplementedError

    def forward(self, step: int, known: Tensor, features: Tensor) -> Tensor:
        """How far the means of a step are from those of the side information, in units of the scales.

        Args:
            known: (B, latent, H, W) decoded values less the side information's mean, in units of their scales; 0 where not yet decoded.
            features: (B, features, H, W).

        Returns:
            (B, latent, H, W); only the step's own values count.
        """
        raise NotImplementedError

    def walk(self, prediction: Prediction, reveal: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Decode group by group.

        Args:
            reveal: (means of a step's values; where these are in a flattened (latent, H, W)) to decoded values, each (B, n).

        Returns:
            ŷ, (B, latent, H, W).
        """
        assert prediction.mean is not None
        shape = prediction.mean.shape
        mean, scale = prediction.mean.flatten(1), prediction.scale.flatten(1)
        order = self.steps(*shape[-2:]).to(mean.device, torch.uint8).expand(shape[1:]).flatten()
        groups = torch.sort(order, stable=True).indices.split(torch.bincount(order, minlength=self.count).tolist())
        y_hat, known = mean, torch.zeros_like(mean)
        for step, group in enumerate(groups):
            where = group.expand(len(mean), -1)
            delta = self(step, known.view(shape), prediction.features).flatten(1)
            own_mean, own_scale = mean.gather(1, where), scale.gather(1, where)
            values = reveal(own_mean + delta.gather(1, where) * own_scale, where)
            y_hat = y_hat.scatter(1, where, values)
            known = known.scatter(1, where, (values - own_mean) / own_scale)
        return y_hat.view(shape)

    def quantize(self, y: Tensor, prediction: Prediction, quantize: Quantize, weight: Tensor | None = None) -> Quantized:
        latent, index = y.flatten(1), prediction.scale_index.flatten(1)
        price = None if weight is None else weight.expand_as(y).flatten(1)
        symbols, proxy = torch.zeros_like(latent, dtype=torch.int32), torch.zeros_like(latent)

        def reveal(mean: Tensor, where: Tensor) -> Tensor:
            nonlocal symbols, proxy
            quantized = quantize(latent.gather(1, where), mean, index.gather(1, where), None if price is None else price.gather(1, where))
            symbols = symbols.scatter(1, where, quantized.symbols)
            proxy = proxy.scatter(1, where, quantized.proxy)
            return quantized.values

        y_hat = self.walk(prediction, reveal)
        return Quantized(y_hat, symbols.view_as(y), proxy.view_as(y))

    def dequantize(self, symbols: Tensor, prediction: Prediction) -> Tensor:
        flat = symbols.flatten(1)
        return self.walk(prediction, lambda mean, where: flat.gather(1, where) + mean)


class Quadtree(Groups):
    """Four steps, each with a quarter of the channels at each of the four positions of every 2×2 square.

    The positions rotate over the quarters of the channels, so each step sees, and fills, all of the plane. One trunk serves all steps.
    Li, Li, Lu 2023 (DCVC-DC), https://arxiv.org/abs/2302.14402, section 3.3.

    Args:
        width: channels of the trunk.
        blocks: its depth.
        count: 4, or 2 for a checkerboard whose colours alternate over the channels.
    """

    SQUARE = ((0, 1), (2, 3))
    ORDER = (0, 3, 2, 1)  # by exclusive or with a channel's quarter: the position of each step; diagonal neighbours come first

    def __init__(self, latent: int, features: int, width: int, blocks: int = 2, count: int = 4):
        super().__init__(latent, features)
        if count not in (2, 4):
            raise ValueError("a quadtree has 2 or 4 steps")
        self._count = count
        self.enter = nn.ModuleList(nn.Conv2d(latent + features, width, 1) for _ in range(count))
        self.trunk = nn.Sequential(*(DepthwiseBlock(width) for _ in range(blocks)))
        self.leave = nn.ModuleList(nn.Conv2d(width, latent, 1) for _ in range(count))
        zero(*self.leave)

    @property
    def count(self) -> int:
        return self._count

    def steps(self, rows: int, columns: int) -> Tensor:
        square = torch.tensor(self.SQUARE).repeat(-(-rows // 2), -(-columns // 2))[:rows, :columns]
        quarters = torch.tensor(self.ORDER)[square ^ torch.arange(4)[:, None, None]]
        order = quarters.repeat(-(-self.latent // 4), 1, 1)[: self.latent]
        return order if self._count == 4 else (order > 1).long()

    def forward(self, step: int, known: Tensor, features: Tensor) -> Tensor:
        return self.leave[step](self.trunk(self.enter[step](torch.cat((known, features), 1))))


class Checkerboard(Groups):
    """Two steps: black positions by side information, white ones also by the black ones around them.

    He et al. 2021, https://arxiv.org/abs/2103.15306: a 5×5 convolution over the known half, then three 1×1 layers.
    """

    count = 2

    def __init__(self, latent: int, features: int, width: int):
        super().__init__(latent, features)
        self.around = nn.Conv2d(latent, width, 5, padding=2)
        self.fuse = _pointwise(width + features, width, width, latent)

    def steps(self, rows: int, columns: int) -> Tensor:
        return _checkers(rows, columns)

    def forward(self, step: int, known: Tensor, features: Tensor) -> Tensor:
        if step == 0:
            return torch.zeros_like(known)
        return self.fuse(torch.cat((self.around(known), features), 1))


class ChannelSlices(Groups):
    """Slices of channels, one after another, each predicted from all before it.

    Minnen, Singh 2020, https://arxiv.org/abs/2007.08739. Differs in having no latent residual prediction.

    Args:
        slices: number of slices of equal size, or the size of each.
        width: hidden channels of each slice's network.
        checkered: halve each slice into the colours of a checkerboard, the second seeing the first.
    """

    def __init__(self, latent: int, features: int, slices: int | Sequence[int], width: int, checkered: bool = False):
        super().__init__(latent, features)
        if isinstance(slices, int):
            slices = [latent * (i + 1) // slices - latent * i // slices for i in range(slices)]
        if sum(slices) != latent or min(slices) < 1:
            raise ValueError(f"slices of {list(slices)} channels do not add up to {latent}")
        self.edges = [0, *torch.tensor(slices).cumsum(0).tolist()]
        self.checkered = checkered
        self.networks = nn.ModuleList()
        self.around = nn.ModuleList()
        for start, end in pairwise(self.edges):
            self.around.append(nn.Conv2d(end - start, 2 * (end - start), 5, padding=2) if checkered else nn.Identity())
            inputs = start + features + (2 * (end - start) if checkered else 0)
            self.networks.append(
                nn.Sequential(nn.Conv2d(inputs, width, 1), DepthwiseBlock(width), zeroed(nn.Conv2d(width, end - start, 3, padding=1)))
            )

    @property
    def count(self) -> int:
        return len(self.networks) * (2 if self.checkered else 1)

    def steps(self, rows: int, columns: int) -> Tensor:
        part = torch.bucketize(torch.arange(self.latent), torch.tensor(self.edges[1:]), right=True)[:, None, None]
        return part * 2 + _checkers(rows, columns) if self.checkered else part

    def forward(self, step: int, known: Tensor, features: Tensor) -> Tensor:
        part = step // 2 if self.checkered else step
        start, end = self.edges[part : part + 2]
        inputs = [known[:, :start], features]
        if self.checkered:
            inputs.append(self.around[part](known[:, start:end]))
        delta = self.networks[part](torch.cat(inputs, 1))
        return F.pad(delta, (0, 0, 0, 0, start, self.latent - end))


class UnevenGroups(ChannelSlices):
    """Groups of channels that grow, since the first carry the most, each halved by a checkerboard.

    He et al. 2022 (ELIC), https://arxiv.org/abs/2203.10886: space–channel contexts, with 16, 16, 32, 64 and the remaining channels.
    """

    def __init__(self, latent: int, features: int, width: int, first: Sequence[int] = (16, 16, 32, 64)):
        super().__init__(latent, features, [*first, latent - sum(first)], width, checkered=True)


class Raster(Context):
    """Every position from those above and to the left of it, one after another. Slow: kept for reference.

    Minnen, Ballé, Toderici 2018, https://arxiv.org/abs/1809.02736: a masked 5×5 convolution and three 1×1 layers.
    While training all positions are predicted at once from values quantized without context, as there.
    """

    REACH = 2

    def __init__(self, latent: int, features: int, width: int):
        super().__init__(latent, features)
        self.around = nn.Conv2d(latent, width, 2 * self.REACH + 1, padding=self.REACH)
        self.fuse = _pointwise(width + features, width, width, latent)
        mask = torch.zeros(self.around.kernel_size)
        mask.view(-1)[: mask.numel() // 2] = 1
        self.register_buffer("mask", mask, persistent=False)

    mask: Tensor

    def forward(self, step: int, known: Tensor, features: Tensor) -> Tensor:
        around = F.conv2d(known, self.around.weight * self.mask, self.around.bias, padding=self.REACH)
        return self.fuse(torch.cat((around, features), 1))

    def relax(self, y: Tensor, prediction: Prediction, quantize: Quantize, weight: Tensor | None = None) -> Quantized:
        assert prediction.mean is not None
        known = quantize(y, prediction.mean, prediction.scale_index, weight).values - prediction.mean
        mean = prediction.mean + self(0, known / prediction.scale, prediction.features) * prediction.scale
        return quantize(y, mean, prediction.scale_index, weight)

    def quantize(self, y: Tensor, prediction: Prediction, quantize: Quantize, weight: Tensor | None = None) -> Quantized:
        if self.training:
            return self.relax(y, prediction, quantize)
        symbols = torch.zeros_like(y, dtype=torch.int32)

        def reveal(mean: Tensor, here: tuple) -> Tensor:
            quantized = quantize(y[here], mean, prediction.scale_index[here], None if weight is None else weight[here])
            symbols[here] = quantized.symbols
            return quantized.values

        return Quantized(self._scan(prediction, reveal), symbols, symbols.float())

    def dequantize(self, symbols: Tensor, prediction: Prediction) -> Tensor:
        return self._scan(prediction, lambda mean, here: symbols[here] + mean)

    def _scan(self, prediction: Prediction, reveal: Callable[[Tensor, tuple], Tensor]) -> Tensor:
        """Position by position, each looking at nothing but its own neighbourhood."""
        mean, scale = prediction.mean, prediction.scale
        assert mean is not None
        rows, columns = mean.shape[-2:]
        known = F.pad(torch.zeros_like(mean), (self.REACH,) * 4)
        y_hat = torch.empty_like(mean)
        weight, size = self.around.weight * self.mask, self.around.kernel_size[0]
        for position in range(rows * columns):
            row, column = divmod(position, columns)
            here = (..., slice(row, row + 1), slice(column, column + 1))
            around = F.conv2d(known[:, :, row : row + size, column : column + size], weight, self.around.bias)
            delta = self.fuse(torch.cat((around, prediction.features[here]), 1))
            y_hat[here] = reveal(mean[here] + delta * scale[here], here)
            known[:, :, row + self.REACH, column + self.REACH] = ((y_hat[here] - mean[here]) / scale[here])[..., 0, 0]
        return y_hat


def zeroed(layer: nn.Module) -> nn.Module:
    zero(layer)
    return layer


def _pointwise(*sizes: int) -> nn.Sequential:
    """1×1 layers; the last starts at zero."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Conv2d(inputs, outputs, 1), nn.LeakyReLU(0.1)]
    zero(layers[-2])
    return nn.Sequential(*layers[:-1])


def _checkers(rows: int, columns: int) -> Tensor:
    return (torch.arange(rows)[:, None] + torch.arange(columns)) % 2


__all__ = ["ChannelSlices", "Checkerboard", "Context", "Groups", "Quadtree", "Raster", "UnevenGroups"]
