"""Vector quantization: every frame of a latent becomes one integer in each of a few codebooks, and decoding looks these up.

* residual, with an exponential moving average for the codebooks: SoundStream, Zeghidour et al. 2021, https://arxiv.org/abs/2107.03312;
  EnCodec, Défossez et al. 2022, https://arxiv.org/abs/2210.13438
* residual, with codes of few channels on a sphere: DAC, Kumar et al. 2023, https://arxiv.org/abs/2306.06546. Differs in codebooks that are
  averages, not learned by gradient, so that codes lie on the sphere themselves
* residual in groups: HiFi-Codec, Yang et al. 2023, https://arxiv.org/abs/2305.02765
* one wide codebook: WavTokenizer, Ji et al. 2024, https://arxiv.org/abs/2408.16532
* finite scalar: Mentzer et al. 2023, https://arxiv.org/abs/2309.15505
* binary: LFQ, Yu et al. 2023, https://arxiv.org/abs/2310.05737; on a sphere, BSQ, Zhao et al. 2024, https://arxiv.org/abs/2406.07548.
  Differs from LFQ in that the entropy of the average code is bounded by the sum over its bits, which needs no list of all codes

All differ from the papers in how they start: from the principal components of the first vectors seen, and k-means within them. What
codebooks need in training, k-means, averages and restarts of dead codes, is vector-quantize-pytorch's, which coding never imports.

What a decoder computes is a sum in a fixed order of products that no library fuses or splits, so it is the same for every batch and device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.entropy.quantizers import round_straight_through

VECTORS_PER_CODE = 16  # that k-means starts from
MOST_VECTORS = 2**14  # with which it starts in any case
VECTORS_PER_PROJECTION = 2**10  # that principal components alone start from
MAX_CODES = 2**16  # in a codebook
MAX_CODEBOOKS = 256
KMEANS_STEPS = 10
DEAD = 0.1  # a code is restarted that is used less often than this part of the average


class Tokens(NamedTuple):
    values: Tensor  # (B, C, T): what the synthesis transform sees
    indexes: Tensor  # int32 (B, codebooks, T); -1 in those that an item does not use
    losses: Tensor  # scalar, to be added to the objective; 0 when not training


class VectorQuantizer(nn.Module):
    """What every kind shares: frames in, integers and values out, and a start from the first frames that training sees.

    Until there are enough of those, training passes frames through as they are.

    Args:
        channels: of the latent.
        codebook_sizes: codes in each codebook, in coding order.
        stages: numbers of codebooks that an item may use; each stage is as many codebooks as the next.
        start: frames to start from; 0 for a random start.
    """

    ready: Tensor  # bool: the codebooks have started

    def __init__(self, channels: int, codebook_sizes: Sequence[int], stages: int, start: int):
        super().__init__()
        if channels < 1 or not 1 <= len(codebook_sizes) <= MAX_CODEBOOKS or not all(2 <= size <= MAX_CODES for size in codebook_sizes):
            raise ValueError(f"a latent has at least one channel, and 1 … {MAX_CODEBOOKS} codebooks of 2 … {MAX_CODES} codes")
        self.channels = channels
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.stages = stages
        self.start = start
        self.register_buffer("ready", torch.tensor(not start))
        self._seen: list[Tensor] = []

    def codebooks(self, stages: int) -> int:
        """How many codebooks so many stages are."""
        return len(self.codebook_sizes) // self.stages * stages

    def forward(self, y: Tensor, stages: int | Tensor | None = None) -> Tokens:
        """Quantize a latent (B, C, T).

        Args:
            stages: in use, 1 … ``self.stages``; one for all items, or (B,); all if omitted.
        """
        with torch.autocast(y.device.type, enabled=False):
            y = y.float()
            used = torch.as_tensor(self.stages if stages is None else stages, device=y.device).expand(len(y))
            if not self.training:
                indexes = self._masked(self.encode(torch.nan_to_num(y).transpose(1, 2)), used)
                return Tokens(self.lookup(indexes), indexes, y.new_zeros(()))
            if not self.ready:
                self._gather(y)
            if not self.ready:
                return Tokens(y, self._masked(self.encode(y.detach().transpose(1, 2)), used), y.new_zeros(()))
            values, indexes, losses = self.learn(y.transpose(1, 2), used)
            return Tokens(values.transpose(1, 2), self._masked(indexes, used), losses)

    def lookup(self, indexes: Tensor) -> Tensor:
        """(B, codebooks, T) of the first so many codebooks to (B, C, T); -1 adds nothing."""
        if not 1 <= indexes.shape[1] <= len(self.codebook_sizes):
            raise ValueError(f"{indexes.shape[1]} codebooks where the quantizer has {len(self.codebook_sizes)}")
        with torch.autocast(indexes.device.type, enabled=False):
            return self.decode(indexes.transpose(1, 2)).transpose(1, 2)

    def initialise(self, vectors: Tensor) -> None:
        """Start the codebooks from example frames (n, C)."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Forget what only training needs."""
        self._seen = []

    # What a kind of quantizer provides; frames lie along the second dimension

    def encode(self, y: Tensor) -> Tensor:
        """(B, T, C) to indexes int32 (B, T, codebooks)."""
        raise NotImplementedError

    def decode(self, indexes: Tensor) -> Tensor:
        """Undo :meth:`encode`, but for the quantization."""
        raise NotImplementedError

    def learn(self, y: Tensor, stages: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The training path: (B, T, C) and (B,) to values with a gradient, indexes as of :meth:`encode`, and losses."""
        raise NotImplementedError

    def _masked(self, indexes: Tensor, stages: Tensor) -> Tensor:
        """(B, T, codebooks) to (B, codebooks, T), without those that are not in use."""
        codebook = torch.arange(len(self.codebook_sizes), device=indexes.device)
        used = codebook < (len(self.codebook_sizes) // self.stages * stages)[:, None, None]
        return torch.where(used, indexes, -1).transpose(1, 2)

    @torch.no_grad()
    def _gather(self, y: Tensor) -> None:
        self._seen.append(y.detach().transpose(1, 2).flatten(0, 1))
        if sum(map(len, self._seen)) >= self.start:
            self.initialise(torch.cat(self._seen))
            self._seen = []
            if torch.distributed.is_available() and torch.distributed.is_initialized():  # every process has seen frames of its own
                for tensor in self.state_dict().values():
                    torch.distributed.broadcast(tensor, 0)


class Codebook(nn.Module):
    """One codebook of codes of few channels, and the linear maps to and from them.

    Args:
        channels: of what is quantized.
        size: number of codes.
        code_channels: of a code; the latent's own, without maps, if none.
        spherical: codes have length 1, and so does what is compared with them.
        decay: of the averages that codes are, at each step.
    """

    codes: Tensor

    def __init__(self, channels: int, size: int, code_channels: int | None, spherical: bool, decay: float):
        super().__init__()
        self.size, self.spherical, self.decay = size, spherical, decay
        self.enter = nn.Linear(channels, code_channels) if code_channels else None
        self.leave = nn.Linear(code_channels, channels) if code_channels else None
        codes = torch.randn(size, code_channels or channels)
        self.register_buffer("codes", F.normalize(codes, dim=-1) if spherical else codes)
        self.learner: nn.Module | None = None  # the library's codebook with all that it remembers; while training only
        self.register_load_state_dict_pre_hook(_fit_learner)

    def train(self, mode: bool = True) -> Codebook:
        if mode and self.learner is None:
            from vector_quantize_pytorch import VectorQuantize

            learner = VectorQuantize(
                self.codes.shape[1],
                self.size,
                decay=self.decay,
                use_cosine_sim=self.spherical,
                rotation_trick=False,
                threshold_ema_dead_code=1,  # set at each step to DEAD
                kmeans_iters=KMEANS_STEPS,
            )
            self.learner = learner.to(self.codes.device)
            self._teach()
        return super().train(mode)

    def encode(self, x: Tensor) -> Tensor:
        """(…, channels) to int32 (…)."""
        codes = self._enter(x)
        return (codes @ self.codes.T - self.codes.square().sum(-1) / 2).argmax(-1).int()

    def decode(self, indexes: Tensor) -> Tensor:
        """(…) to (…, channels); zero where an index is -1."""
        codes = self.codes[indexes.clamp_min(0).long()]
        values = codes if self.leave is None else linear_exactly(codes, self.leave)
        return torch.where(indexes[..., None] < 0, 0.0, values)

    def learn(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, T, channels) to values with a gradient, indexes (n, T), and losses."""
        learner: Any = self.learner
        learner._codebook.threshold_ema_dead_code = DEAD * float(learner._codebook.cluster_size.mean())
        learner._codebook.reset_cluster_size = float(learner._codebook.cluster_size.mean())
        before = self.codes
        codes, indexes, loss = learner(x if self.enter is None else self.enter(x))
        if self.leave is None:
            values = codes
        else:
            values = self.leave(codes)
            loss = loss + F.mse_loss(self.leave(before[indexes]), x.detach())  # or residuals would not shrink
        self.codes = learner.codebook.detach().clone()
        return values, indexes.int(), loss

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """From example frames (n, channels): principal components, k-means within them, and the linear map back that fits best."""
        if self.enter is not None and self.leave is not None:
            start_projection(self.enter, self.leave, x)
        learner: Any = self.learner or self.train().learner
        entered = self._enter(x)
        learner._codebook.initted.fill_(False)
        learner._codebook.init_embed_(entered[None])
        self.codes = learner.codebook.detach().clone()
        if self.leave is not None:
            fitted = least_squares(self.codes[self.encode(x).long()], x)
            self.leave.weight.copy_(fitted[:-1].T)
            self.leave.bias.copy_(fitted[-1])

    def _enter(self, x: Tensor) -> Tensor:
        codes = x if self.enter is None else self.enter(x)
        return F.normalize(codes, dim=-1, eps=1e-6) if self.spherical else codes

    @torch.no_grad()
    def _teach(self) -> None:
        """Tell the library's codebook of codes that it did not make."""
        inner: Any = self.learner._codebook  # type: ignore[union-attr]
        inner.embed.copy_(self.codes[None])
        inner.embed_avg.copy_(self.codes[None])
        inner.cluster_size.fill_(1.0)


class ResidualVQ(VectorQuantizer):
    """Each stage quantizes what the one before left over.

        y ──(−)──► codebook 1 ──► q₁      values = q₁ + q₂ + …
             └──(−)──► codebook 2 ──► q₂
                  └── …

    Args:
        channels: of the latent.
        stages: that follow one another; an item may use fewer.
        size: codes in a codebook.
        code_channels: of a code; the latent's own if none.
        spherical: codes of length 1, compared by angle.
        groups: the latent's channels are cut into so many, each quantized on its own; codebooks are in the order of stages.
        commitment: weight of the loss that keeps the latent close to its codes.
        decay: of codebooks' averages, at each step.
        start: from the first frames seen, or at random.
    """

    books: Sequence[Codebook]  # stage after stage, in each the groups in order

    def __init__(
        self,
        channels: int,
        stages: int = 12,
        size: int = 1024,
        code_channels: int | None = 8,
        spherical: bool = True,
        groups: int = 1,
        commitment: float = 0.25,
        decay: float = 0.99,
        start: bool = True,
    ):
        if not 1 <= stages * groups <= MAX_CODEBOOKS or groups < 1 or channels % groups:
            raise ValueError(f"{channels} channels do not fall into {groups} groups of {stages} stages")
        vectors = min(VECTORS_PER_CODE * size, MOST_VECTORS) if start else 0
        super().__init__(channels, [size] * (stages * groups), stages, vectors)
        self.groups = groups
        self.commitment = commitment
        books = [Codebook(channels // groups, size, code_channels, spherical, decay) for _ in range(stages * groups)]
        self.books = nn.ModuleList(books)  # type: ignore[assignment]

    def encode(self, y: Tensor) -> Tensor:
        residuals = list(y.chunk(self.groups, -1))
        indexes = []
        for number, book in enumerate(self.books):
            group = number % self.groups
            indexes.append(book.encode(residuals[group]))
            residuals[group] = residuals[group] - book.decode(indexes[-1])
        return torch.stack(indexes, -1)

    def decode(self, indexes: Tensor) -> Tensor:
        values: list[Tensor] = []
        for number, index in enumerate(indexes.unbind(-1)):
            value, group = self.books[number].decode(index), number % self.groups
            if number < self.groups:
                values.append(value)
            else:
                values[group] = values[group] + value
        return torch.cat(values, -1)

    def learn(self, y: Tensor, stages: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residuals = list(y.chunk(self.groups, -1))
        values = [torch.zeros_like(residual) for residual in residuals]
        indexes, losses = [], y.new_zeros(())
        for number, book in enumerate(self.books):
            stage, group = divmod(number, self.groups)
            which = (stages > stage).nonzero()[:, 0]
            index = torch.zeros(y.shape[:2], dtype=torch.int32, device=y.device)
            if len(which):
                value, index[which], loss = book.learn(residuals[group][which])
                values[group] = values[group].index_add(0, which, value)
                residuals[group] = residuals[group].index_add(0, which, -value.detach())
                losses = losses + self.commitment * loss * len(which) / len(y)
            indexes.append(index)
        return torch.cat(values, -1), torch.stack(indexes, -1), losses

    @torch.no_grad()
    def initialise(self, vectors: Tensor) -> None:
        residuals = list(vectors.float().chunk(self.groups, -1))
        for number, book in enumerate(self.books):
            group = number % self.groups
            book.initialise(residuals[group])
            residuals[group] = residuals[group] - book.decode(book.encode(residuals[group]))
            book.train(self.training)
        self.ready.fill_(True)

    def freeze(self) -> None:
        super().freeze()
        for book in self.books:
            book.learner = None


class ScalarCodes(VectorQuantizer):
    """What quantizers share that round a few channels one by one: a code is a number whose digits these are, least significant first.

    Args:
        channels: of the latent.
        levels: values of each channel of a code.
        groups: number of codebooks.
        start: from the principal components of the first frames seen, or at random.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, channels: int, levels: Sequence[int], groups: int, start: bool):
        if not 1 <= len(levels) <= 16 or not 1 <= groups <= MAX_CODEBOOKS or not all(2 <= level <= 256 for level in levels):
            raise ValueError("codes have at least one channel, each of 2 … 256 values")
        super().__init__(channels, [math.prod(levels)] * groups, 1, VECTORS_PER_PROJECTION if start else 0)
        self.groups = groups
        self.enter = nn.Linear(channels, groups * len(levels))
        self.leave = nn.Linear(groups * len(levels), channels)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        basis = [math.prod(levels[:place]) for place in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def digits(self, codes: Tensor) -> Tensor:
        """(…, channels of a code) to integers from 0, with a straight-through gradient."""
        raise NotImplementedError

    def points(self, digits: Tensor) -> Tensor:
        """Digits to the values that they stand for."""
        raise NotImplementedError

    def regularity(self, codes: Tensor) -> Tensor:
        """A loss on codes before rounding."""
        return codes.new_zeros(())

    def encode(self, y: Tensor) -> Tensor:
        return (self.digits(self._enter(y)).long() * self.basis).sum(-1).int()

    def decode(self, indexes: Tensor) -> Tensor:
        digits = indexes.clamp_min(0).long()[..., None] // self.basis % self.levels
        return linear_exactly(self.points(digits.float()).flatten(-2), self.leave)

    def learn(self, y: Tensor, stages: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        codes = self._enter(y)
        digits = self.digits(codes)
        indexes = (digits.detach().round().long() * self.basis).sum(-1).int()
        return self.leave(self.points(digits).flatten(-2)), indexes, self.regularity(codes)

    @torch.no_grad()
    def initialise(self, vectors: Tensor) -> None:
        start_projection(self.enter, self.leave, vectors.float())
        values = self.points(self.digits(self._enter(vectors.float()))).flatten(-2)
        fitted = least_squares(values, vectors.float())
        self.leave.weight.copy_(fitted[:-1].T)
        self.leave.bias.copy_(fitted[-1])
        self.ready.fill_(True)

    def _enter(self, y: Tensor) -> Tensor:
        return self.enter(y).unflatten(-1, (self.groups, -1))


class FSQ(ScalarCodes):
    """Each channel of a code is squashed into its range and rounded.

    Args:
        channels: of the latent.
        levels: values of each channel; their product is the codebook's size. [8, 5, 5, 5] are 1000, [8, 7, 6, 6] are 2016.
        groups: number of codebooks, each with a part of the channels.
        start: from the principal components of the first frames seen, or at random.
    """

    def __init__(self, channels: int, levels: Sequence[int] = (8, 5, 5, 5), groups: int = 1, start: bool = True):
        if min(levels, default=0) < 3:
            raise ValueError("channels of finite scalar codes have at least 3 values; BinaryQuantizer has 2")
        super().__init__(channels, levels, groups, start)

    def digits(self, codes: Tensor) -> Tensor:
        # The range of an even number of values is not symmetric about a value, which the shift makes up for.
        half = (self.levels - 1) * 1.001 / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        bounded = torch.tanh(codes + torch.atanh(offset / half)) * half - offset
        return round_straight_through(bounded) + self.levels // 2

    def points(self, digits: Tensor) -> Tensor:
        half = self.levels // 2
        return (digits - half) / half


class BinaryQuantizer(ScalarCodes):
    """Each channel of a code is its sign.

    Args:
        channels: of the latent.
        bits: of a code.
        groups: number of codebooks.
        spherical: codes are compared on the unit sphere (BSQ); otherwise as they are (LFQ).
        entropy: weight of the loss that asks for certain signs, all codes alike often.
        commitment: weight of the loss that keeps channels close to their signs.
        start: from the principal components of the first frames seen, or at random.
    """

    def __init__(
        self,
        channels: int,
        bits: int = 10,
        groups: int = 1,
        spherical: bool = True,
        entropy: float = 0.1,
        commitment: float = 0.25,
        start: bool = True,
    ):
        if not 1 <= bits <= 16:
            raise ValueError("binary codes have 1 … 16 bits")
        super().__init__(channels, [2] * bits, groups, start)
        self.spherical, self.entropy, self.commitment = spherical, entropy, commitment
        self.length = bits**-0.5 if spherical else 1.0  # of each channel of a code

    def digits(self, codes: Tensor) -> Tensor:
        position = codes / (2 * self.length) + 0.5  # 0 and 1 are the codes'
        return position + ((codes > 0).to(codes.dtype) - position).detach()

    def points(self, digits: Tensor) -> Tensor:
        return (2 * digits - 1) * self.length

    def regularity(self, codes: Tensor) -> Tensor:
        chance = torch.sigmoid(codes / self.length * 4)
        certain = _bit_entropy(chance).sum(-1).mean()
        varied = _bit_entropy(chance.mean((0, 1))).sum(-1).mean()
        distance = (codes.abs() - self.length).square().mean()
        return self.entropy * (certain - varied) + self.commitment * distance

    def _enter(self, y: Tensor) -> Tensor:
        codes = super()._enter(y)
        return F.normalize(codes, dim=-1, eps=1e-6) if self.spherical else codes


def linear_exactly(x: Tensor, layer: nn.Linear) -> Tensor:
    """A linear layer as one rounded product and one rounded sum after another, the same for a row in any company."""
    out = layer.bias.expand(*x.shape[:-1], -1)
    for column, weight in zip(x.unbind(-1), layer.weight.unbind(-1)):
        out = out + column[..., None] * weight
    return out


def least_squares(inputs: Tensor, outputs: Tensor, ridge: float = 1e-4) -> Tensor:
    """(n, d) and (n, C) to (d + 1, C): weights, and a constant as the last row, that turn the one into the other best."""
    rows = F.pad(inputs, (0, 1), value=1.0).double()
    gram = rows.T @ rows
    gram.diagonal().add_(ridge * gram.diagonal().mean() + 1e-12)
    return torch.linalg.solve(gram, rows.T @ outputs.double()).float()


@torch.no_grad()
def start_projection(enter: nn.Linear, leave: nn.Linear, vectors: Tensor) -> None:
    """Set a pair of maps to the principal components of (n, C), scaled to unit variance, and back.

    Where there are more channels inside than outside, these repeat.
    """
    mean = vectors.mean(0)
    variance, axes = torch.linalg.eigh(torch.cov((vectors - mean).double().T).reshape(len(mean), -1))
    inside = enter.out_features
    order = torch.arange(inside, device=axes.device) % len(mean)
    axes, deviation = axes.flip(1).T[order].float(), variance.flip(0).clamp_min(1e-12).sqrt()[order].float()
    deviation = deviation.clamp_min(1e-3 * float(deviation[0]))  # or what hardly varies would count as much as what does
    enter.weight.copy_(axes / deviation[:, None])
    enter.bias.copy_(-enter.weight @ mean)
    leave.weight.copy_((axes * deviation[:, None]).T)
    leave.bias.copy_(mean)


def _fit_learner(book: nn.Module, state: dict, prefix: str, *_) -> None:
    """Weights that training left have what the library remembers, those for coding do not, and either may be loaded for either."""
    assert isinstance(book, Codebook)
    if book.learner is None:
        for name in [name for name in state if name.startswith(f"{prefix}learner.")]:
            del state[name]
    elif f"{prefix}codes" in state and f"{prefix}learner._codebook.embed" not in state:
        codes = state[f"{prefix}codes"][None]
        inner: Any = book.learner._codebook
        found = {"embed": codes, "embed_avg": codes, "cluster_size": torch.ones_like(inner.cluster_size), "initted": torch.tensor(True)}
        state.update({f"{prefix}learner._codebook.{name}": value for name, value in found.items()})


def _bit_entropy(chance: Tensor) -> Tensor:
    """Of bits that are 1 with these chances, in nats."""
    chance = chance.clamp(1e-6, 1 - 1e-6)
    return -(chance * chance.log() + (1 - chance) * (1 - chance).log())


__all__ = ["FSQ", "BinaryQuantizer", "ResidualVQ", "Tokens", "VectorQuantizer"]
