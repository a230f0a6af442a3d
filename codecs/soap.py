"""An optimiser for small networks that are fitted to one signal: Adam in the eigenbasis of Shampoo's preconditioner.

Vyas et al. 2024 (SOAP), https://arxiv.org/abs/2409.11321; that it shortens fits of pictures was found by the authors of Cool-chic 5
(https://github.com/Orange-OpenSource/Cool-Chic). Differs in tensors of more than two axes, which are seen as matrices (first axis, the
rest), in first steps that are Adam's until a basis can be told, from squares that begin with Shampoo's estimate, and in bounded changes:
fits of a few dozen steps went astray without these.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

WARM = 10  # steps after which there are gradients enough to find a basis
LARGEST = 2.0  # change of a coefficient, in learning rates: squares of rare gradients are known late


class Soap(torch.optim.Optimizer):
    """
    Args:
        parameters: tensors, or groups of them with an ``lr`` of their own.
        betas: forgetting of means, and of squares and the preconditioner.
        every: steps between updates of a basis.
    """

    def __init__(
        self, parameters: Iterable[Any], lr: float = 1e-2, betas: tuple[float, float] = (0.9, 0.99), every: int = 5, eps: float = 1e-8
    ):
        super().__init__(parameters, {"lr": lr, "betas": betas, "every": every, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.numel():
                    self._advance(parameter, self.state[parameter], group)

    def _advance(self, parameter: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        matrix = parameter.grad.reshape(len(parameter), -1) if parameter.ndim > 1 else parameter.grad[:, None]
        gradient = matrix.clone(memory_format=torch.contiguous_format)  # products depend on strides in their last bits
        forget_mean, forget_square = group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = (gradient.new_zeros(gradient.shape) for _ in range(2))
            for side, size in zip(("left", "right"), gradient.shape):
                state[f"{side}_outer"] = gradient.new_zeros(size, size)
                state[f"{side}_basis"] = torch.eye(size).to(gradient)
        state["step"] += 1
        left, right = state["left_basis"], state["right_basis"]
        state["mean"].lerp_(gradient, 1 - forget_mean)
        state["square"].lerp_((left.T @ gradient @ right).square(), 1 - forget_square)
        count = int(state["step"])
        mean = left.T @ state["mean"] @ right / (1 - forget_mean**count)
        change = mean / ((state["square"] / (1 - forget_square**count)).sqrt() + group["eps"])
        change.clamp_(-LARGEST, LARGEST)
        parameter -= (group["lr"] * (left @ change @ right.T)).reshape(parameter.shape)
        state["left_outer"].lerp_(gradient @ gradient.T, 1 - forget_square)
        state["right_outer"].lerp_(gradient.T @ gradient, 1 - forget_square)
        if count == WARM:
            self._find_basis(state)
        elif count > WARM and count % group["every"] == 0:
            state["square"] = self._rotated(state, "left", 0)
            state["square"] = self._rotated(state, "right", 1)

    @staticmethod
    def _find_basis(state: dict[str, Tensor]) -> None:
        """The first one; squares in it as they are if rows and columns vary independently, which is what Shampoo assumes."""
        variances = []
        for side in ("left", "right"):
            values, vectors = torch.linalg.eigh(state[f"{side}_outer"])
            state[f"{side}_basis"] = vectors.flip(1).contiguous()
            variances.append(values.flip(0).clamp(min=0))
        state["square"] = torch.outer(*variances) / variances[0].sum().clamp(min=1e-30)

    @staticmethod
    def _rotated(state: dict[str, Tensor], side: str, axis: int) -> Tensor:
        """Bring a basis up to date by one step of orthogonal iteration; the squares in the order of its vectors."""
        outer, basis = state[f"{side}_outer"], state[f"{side}_basis"]
        if len(outer) == 1:
            return state["square"]
        order = torch.argsort((basis.T @ outer @ basis).diagonal(), descending=True)
        state[f"{side}_basis"] = torch.linalg.qr(outer @ basis[:, order])[0].contiguous()
        return state["square"].index_select(axis, order)


__all__ = ["Soap"]
