"""Image codecs."""

from neuralcodec.codecs.image.hyperprior import FactorizedPrior, Hyperprior

__all__ = ["FactorizedPrior", "Hyperprior"]
