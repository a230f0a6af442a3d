"""Initial weights that need no file: every machine computes the same ones, from nothing but the shapes."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn


def fixed_values(count: int, key: int) -> Tensor:
    """Numbers of zero mean and unit variance that look random and are the same for ever: SplitMix64 (Steele et al. 2014,
    https://doi.org/10.1145/2660193.2660195) of a counter, by integer arithmetic, as a uniform distribution.
    """
    with np.errstate(over="ignore"):
        state = (np.arange(count, dtype=np.uint64) + np.uint64(key << 32) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    unit = (state >> np.uint64(41)).astype(np.float64) * 2.0**-22 - 1  # 23 bits: exact as float32
    return torch.from_numpy(unit.astype(np.float32)) * 3**0.5


@torch.no_grad()
def set_fixed(module: nn.Module) -> None:
    """Weights of layers by :func:`fixed_values`, of unit variance over the root of their inputs, biases zero."""
    for key, parameter in enumerate(module.parameters()):
        if parameter.ndim > 1:
            fan_in = math.prod(parameter.shape[1:])
            parameter.copy_((fixed_values(parameter.numel(), key) / fan_in**0.5).reshape(parameter.shape))
        else:
            parameter.zero_()


__all__ = ["fixed_values", "set_fixed"]
