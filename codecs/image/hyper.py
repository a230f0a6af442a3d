"""The hyperprior's transforms: a latent at 1/16 ⇄ side information at 1/64 that says how large its values are.

Ballé et al. 2018, https://arxiv.org/abs/1802.01436 (scales); Minnen, Ballé, Toderici 2018, https://arxiv.org/abs/1809.02736 (means).
Differs in that the analysis sees logarithms of magnitudes, whose channels are all of one size where the latent's differ a
hundredfold, and in that the synthesis of scales is integer arithmetic (:mod:`neuralcodec.entropy.integer`). Means are ordinary floating
point, from the same integer features: the coder sees ``round(y - mean)``, so an error in a mean moves the reconstruction by as much and
never the parse.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralcodec.codecs.blocks import LevelVectors, pad_to_multiple, zero
from neuralcodec.codecs.image.transforms import PATCH
from neuralcodec.entropy.integer import IntegerConv2d, round_half_up
from neuralcodec.entropy.models import INDEX_PER_NAT, SCALE_MIN, SCALES, GaussianConditional

Z_LIMIT = 127  # hyper-latents are integers of int8 range


class Prediction(NamedTuple):
    """What side information says of a latent (B, latent, H, W)."""

    scale_index: Tensor  # of every latent value: real while training, integer in 0…63 at evaluation
    mean: Tensor | None
    features: Tensor  # (B, 2 · patterns, H, W), what both come from: what a context model may also look at

    @property
    def scale(self) -> Tensor:
        """Standard deviations, without a gradient."""
        return GaussianConditional.scale(self.scale_index.detach().float())


class HyperAnalysis(nn.Module):
    """
        y ──log magnitudes, signed logs──(− mean of the level)──1×1──(+ 3×3 of it)──space-to-depth 4──1×1──► z

    Args:
        latent: channels of y.
        patterns: channels at 1/16 in between: the patterns in which magnitudes vary together.
        hyper: channels of z.
    """

    def __init__(self, latent: int, patterns: int, hyper: int, levels: int = 64, knots: int = 8):
        super().__init__()
        self.centre = LevelVectors(levels, latent, knots)
        self.magnitudes = nn.Conv2d(latent, patterns, 1, bias=False)
        self.signs = nn.Conv2d(latent, patterns, 1, bias=False)
        self.spread = nn.Sequential(nn.LeakyReLU(0.1), nn.Conv2d(patterns, patterns, 3, padding=1))
        self.pool = nn.Conv2d(patterns * PATCH**2, hyper, 1)
        zero(self.signs, self.spread)

    @staticmethod
    def log_magnitude(y: Tensor) -> Tensor:
        """Saturates below half a quantization step: what rounds to zero has no size worth telling."""
        return torch.log(y.abs() + 0.5)

    def forward(self, y: Tensor, level: Tensor) -> Tensor:
        """(B, latent, H, W) in quantization steps to (B, hyper, ⌈H/4⌉, ⌈W/4⌉)."""
        magnitude = self.log_magnitude(y)
        centred = magnitude - self.centre(level)[:, :, None, None]
        patterns = self.magnitudes(centred) + self.signs(torch.sign(y) * (magnitude - self.log_magnitude(torch.zeros_like(y))))
        patterns = patterns + self.spread(patterns)
        return self.pool(F.pixel_unshuffle(pad_to_multiple(patterns, PATCH), PATCH))


class HyperSynthesis(nn.Module):
    """
        ẑ ──3×3, uint8──1×1──depth-to-space 4, int8──3×3, uint8──┬──1×1──(+ level)──► scale index    integer arithmetic
                                                                 └──1×1──► mean                      floating point

    Args:
        latent, patterns, hyper: as in :class:`HyperAnalysis`.
        width: hidden channels at 1/64, at least ``2 * hyper``; those at 1/16 are ``2 * patterns``.
        means: whether to predict means.
    """

    INDEX_FRACTION = 9  # fractional bits of the sum that becomes a scale index

    def __init__(self, latent: int, patterns: int, hyper: int, width: int, means: bool = True, levels: int = 64, knots: int = 8):
        super().__init__()
        self.unfold = IntegerConv2d(hyper, width, 3, activation="uint8", activation_in="int8", fraction_in=0, fraction_out=2)
        self.expand = IntegerConv2d(
            width, patterns * PATCH**2, activation="int8", activation_in="uint8", fraction_in=2, fraction_out=3, weight_fraction=8
        )
        self.smooth = IntegerConv2d(patterns, 2 * patterns, 3, activation="uint8", activation_in="int8", fraction_in=3, fraction_out=3)
        self.scale = IntegerConv2d(2 * patterns, latent, activation="none", activation_in="uint8", fraction_in=3)
        assert self.scale.fraction_sum == self.INDEX_FRACTION
        self.offset = LevelVectors(levels, latent, knots)
        nn.init.constant_(self.offset.rows, INDEX_PER_NAT * 2)  # a scale of about one
        self.mean = nn.Conv2d(2 * patterns, latent, 1) if means else None
        if self.mean is not None:
            zero(self.mean)

    def features(self, z_hat: Tensor, height: int, width: int) -> Tensor:
        """Integers (B, 2 · patterns, height, width), 0…255."""
        expanded = F.pixel_shuffle(self.expand(self.unfold(z_hat)), PATCH)
        return self.smooth(expanded[..., :height, :width])

    def forward(self, z_hat: Tensor, level: Tensor, height: int, width: int) -> Prediction:
        """Integers (B, hyper, ⌈height/4⌉, ⌈width/4⌉) to predictions (B, latent, height, width)."""
        features = self.features(z_hat, height, width)
        values = features * 2.0**-self.scale.fraction_in
        return Prediction(self.index(features, level), None if self.mean is None else self.mean(values), values)

    def index(self, features: Tensor, level: Tensor) -> Tensor:
        if self.training:
            return self.scale(features) * 2.0**-self.INDEX_FRACTION + self.offset(level)[:, :, None, None]
        return self.index_with(features, torch.stack([self.fixed_offset(float(one)) for one in level]))

    def fixed_offset(self, level: float) -> Tensor:
        """The offset of a level with ``INDEX_FRACTION`` fractional bits, (latent,) int64."""
        return self.offset.fixed_point(level, self.INDEX_FRACTION)

    def index_with(self, features: Tensor, offsets: Tensor) -> Tensor:
        """Indexes by integer arithmetic alone; ``offsets``: (B, latent) of :meth:`fixed_offset`."""
        total = self.scale(features)
        return round_half_up(total + offsets[:, :, None, None].to(total.dtype), self.INDEX_FRACTION).clamp(0, SCALES - 1)

    def check_exact(self) -> None:
        """Raise ``ValueError`` unless every sum stays where float32 is exact."""
        for layer in (self.unfold, self.expand, self.smooth):
            layer.check_exact()
        self.scale.check_exact(margin=int((self.offset.rows.detach().abs().max() * 2**self.INDEX_FRACTION).ceil()))


@torch.no_grad()
def initialise(analysis: HyperAnalysis, synthesis: HyperSynthesis, y: Tensor, gains: Tensor) -> None:
    """Principal components of the log magnitudes, over channels and then over 4×4 patches, as a linear first guess at everything.

    Args:
        y: (n, latent, H, W), H and W multiples of 4: latents before any gain.
        gains: (knots, latent): quantization steps per unit of y at every learned level.
    """
    logs = [HyperAnalysis.log_magnitude(y * gain[:, None, None]) for gain in gains]
    centres = torch.stack([log.mean((0, 2, 3)) for log in logs])
    analysis.centre.rows.copy_(centres)
    centred = torch.cat([log - centre[:, None, None] for log, centre in zip(logs, centres)])

    patterns = analysis.magnitudes.out_channels
    variance, across = _principal_components(centred.movedim(1, -1).flatten(0, 2), patterns)
    spread = variance.sqrt() / 4  # features of int8 range with three fractional bits: a standard deviation of at most 4
    analysis.magnitudes.weight.copy_((across / spread).T[:, :, None, None])

    projected = F.pixel_unshuffle(torch.einsum("nchw,ck->nkhw", centred, across), PATCH).movedim(1, -1).flatten(0, 2)
    hyper = analysis.pool.out_channels
    typical = projected.mean(0)
    _, patch = _principal_components(projected - typical, hyper)
    # An error of a whole step along a unit direction costs as many nats as it saves (∂ of step²/12 + ln(1/step)): √6.
    step = 6**0.5
    scale = spread.repeat_interleave(PATCH**2)
    analysis.pool.weight.copy_((patch * scale[:, None] / step).T[:, :, None, None])
    assert analysis.pool.bias is not None
    analysis.pool.bias.copy_(-(patch / step).T @ typical)

    signed = torch.cat((torch.eye(hyper), -torch.eye(hyper)))
    synthesis.unfold.weight[: 2 * hyper].zero_()
    synthesis.unfold.weight[: 2 * hyper, :, 1, 1] = signed
    synthesis.unfold.weight[2 * hyper :].mul_(0.1)
    back = patch * step / scale[:, None]  # (patterns · 16, hyper)
    synthesis.expand.weight.zero_()
    synthesis.expand.weight[:, : 2 * hyper, 0, 0] = back @ signed.T
    synthesis.expand.bias.copy_(typical / scale)
    both = torch.cat((torch.eye(patterns), -torch.eye(patterns)))
    synthesis.smooth.weight.zero_()
    synthesis.smooth.weight[:, :, 1, 1] = both
    synthesis.scale.weight[..., 0, 0] = INDEX_PER_NAT * (across * spread) @ both.T
    # ln of the standard deviation at the mean log magnitude: exact for large values, less where most round to zero.
    scales = torch.log((centres.exp() - 0.5).clamp_min(0.05)) + 0.4
    synthesis.offset.rows.copy_(INDEX_PER_NAT * (scales - torch.log(torch.tensor(SCALE_MIN))))


def _principal_components(samples: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Variances, descending, and directions as columns."""
    covariance = samples.T.double() @ samples.double() / len(samples)
    variance, vectors = torch.linalg.eigh(covariance)
    return variance.flip(0)[:count].clamp_min(1e-9).float(), vectors.flip(1)[:, :count].float()


__all__ = ["HyperAnalysis", "HyperSynthesis", "Prediction", "initialise"]
