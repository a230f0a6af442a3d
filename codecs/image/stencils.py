"""Convolutions and perceptrons of a few channels over whole pictures: block by block, so that a processor's cache holds what is between.

PyTorch's own kernels for processors are made for many channels, and are slow at the derivatives of convolutions with one or three.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 16384  # positions


def stencil(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution (pictures, channels, H, W) → (pictures, outputs, H, W), borders repeated.

    Args:
        weight: (outputs, channels, k, k), k odd.
        bias: (outputs,).
    """
    reach = weight.shape[-1] // 2
    padded = F.pad(x, (reach,) * 4, mode="replicate")
    if not x.is_cpu:
        return F.conv2d(padded, weight, bias)
    return Stencil.apply(padded, weight, weight.new_zeros(len(weight)) if bias is None else bias)


class Stencil(torch.autograd.Function):
    """:func:`stencil` of what has been padded."""

    @staticmethod
    def forward(ctx, padded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(padded, weight)
        return F.conv2d(padded, weight, bias)

    @staticmethod
    def backward(ctx, *upstream: Tensor):
        (padded, weight), (gradient,) = ctx.saved_tensors, upstream
        size = weight.shape[-1]
        height, width = gradient.shape[2:]
        # By the input: once more a convolution forwards, which is several times as fast as the one that is made for it.
        of_padded = F.conv2d(F.pad(gradient, (size - 1,) * 4), weight.flip(2, 3).transpose(0, 1))
        of_weight = torch.zeros_like(weight).flatten(1)
        rows = max(1, BLOCK // width)
        for seen, out in zip(padded, gradient):
            for top in range(0, height, rows):
                part = out[:, top : top + rows]
                views = seen[:, top : top + part.shape[1] + size - 1].unfold(1, size, 1).unfold(2, size, 1)
                of_weight.addmm_(part.reshape(len(weight), -1), views.permute(0, 3, 4, 1, 2).reshape(of_weight.shape[1], -1).T)
        return of_padded, of_weight.view_as(weight), gradient.sum((0, 2, 3))


class Perceptron(torch.autograd.Function):
    """One hidden layer of ReLU, at every position: (channels, n) → (outputs, n)."""

    @staticmethod
    def forward(ctx, x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor) -> Tensor:
        """
        Args:
            first, second: (hidden, channels), (outputs, hidden).
            first_bias, second_bias: (hidden, 1), (outputs, 1).
        """
        ctx.save_for_backward(x, first, first_bias, second)
        out = x.new_empty(len(second), x.shape[1])
        for begin in range(0, x.shape[1], BLOCK):
            part = x[:, begin : begin + BLOCK]
            hidden = torch.addmm(first_bias, first, part).relu_()
            out[:, begin : begin + BLOCK] = torch.addmm(second_bias, second, hidden)
        return out

    @staticmethod
    def backward(ctx, *upstream: Tensor):
        (x, first, first_bias, second), (gradient,) = ctx.saved_tensors, upstream
        of_x = torch.empty_like(x)
        of_first, of_first_bias, of_second = (torch.zeros_like(each) for each in (first, first_bias, second))
        for begin in range(0, x.shape[1], BLOCK):
            part, of_part = x[:, begin : begin + BLOCK], gradient[:, begin : begin + BLOCK]
            hidden = torch.addmm(first_bias, first, part).relu_()
            of_second.addmm_(of_part, hidden.T)
            of_hidden = torch.ops.aten.threshold_backward(second.T @ of_part, hidden, 0)
            of_first.addmm_(of_hidden, part.T)
            of_first_bias += of_hidden.sum(1, keepdim=True)
            of_x[:, begin : begin + BLOCK] = first.T @ of_hidden
        return of_x, of_first, of_first_bias, of_second, gradient.sum(1, keepdim=True)


__all__ = ["Perceptron", "stencil"]
