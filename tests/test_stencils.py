"""What fits of pictures are made of: derivatives written by hand are those of the plain functions, and the optimiser finds minima."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from neuralcodec.codecs.image import overfitted_context as contexts
from neuralcodec.codecs.image import stencils
from neuralcodec.codecs.soap import Soap
from neuralcodec.entropy.laplace import SCALES, laplace_bits


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that small pictures have several."""
    monkeypatch.setattr(stencils, "BLOCK", 20)
    monkeypatch.setattr(contexts, "BLOCK", 20)


def test_a_stencil_is_a_convolution():
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 7, 9), (4, 3, 3, 3), (4,)))
    out = stencils.stencil(x, weight, bias)
    expected = F.conv2d(F.pad(x, (1,) * 4, mode="replicate"), weight, bias)
    assert torch.allclose(out, expected)
    signs = torch.randn_like(out)
    for ours, theirs in zip(torch.autograd.grad(out, (x, weight, bias), signs), torch.autograd.grad(expected, (x, weight, bias), signs)):
        assert torch.allclose(ours, theirs)


def test_a_perceptron_is_two_layers():
    torch.manual_seed(0)
    shapes = ((3, 50), (6, 3), (6, 1), (2, 6), (2, 1))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    x, first, first_bias, second, second_bias = inputs
    expected = second @ F.relu(first @ x + first_bias) + second_bias
    out = stencils.Perceptron.apply(*inputs)
    assert torch.allclose(out, expected)
    signs = torch.randn_like(out)
    for ours, theirs in zip(torch.autograd.grad(out, inputs, signs), torch.autograd.grad(expected, inputs, signs)):
        assert torch.allclose(ours, theirs)


def test_bits_of_a_grid_and_their_derivatives_are_those_of_the_plain_network():
    torch.manual_seed(0)
    height, width = 19, 11
    context = contexts.GridContext(1, 5).double()
    torch.nn.init.normal_(context.last, std=0.2)
    torch.nn.init.normal_(context.skip, std=0.05)
    values = (2 * torch.randn(height, width, dtype=torch.float64)).requires_grad_(True)
    coarser = torch.randn(10, 6, dtype=torch.float64, requires_grad=True)
    planes = context.planes(contexts.compressed(values), values, [contexts.doubled(coarser, height, width)])
    bits = context.bits(planes, values, 0, False)[0]

    rows, (left, _, top, _) = contexts.stripe_rows(height, width), contexts.PADDING
    seen = torch.stack(
        [
            planes[place.plane, :, top + place.row :, left + place.column :][:, :rows, :width].reshape(-1, width)[:height]
            for place in contexts.PLACES
        ]
    ).flatten(1)
    hidden = F.relu(context.second @ F.relu(context.first @ seen + context.first_bias[0]) + context.second_bias)
    out = context.last @ hidden + context.last_bias[0] + context.skip @ seen
    index = (out[0] * contexts.INDEX_PER_OUTPUT).clamp(0, SCALES - 1)
    expected = laplace_bits(values.flatten() - out[1], index).sum()
    assert float(bits.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    wanted = [values, coarser, *(value for value in context.parameters())]
    for ours, theirs in zip(torch.autograd.grad(bits, wanted, retain_graph=True), torch.autograd.grad(expected, wanted)):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_optimiser_follows_a_valley_that_adam_crosses():
    """An ill-conditioned quadratic whose axes are not those of the coordinates."""
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0] for _ in range(2))
    stiffness = torch.logspace(0, 2, 6, dtype=torch.float64)
    aim = torch.randn(6, 6, dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return (stiffness[:, None] * (left @ (x - aim) @ right).square()).sum()

    reached = {}
    for kind in (Soap, torch.optim.Adam):
        x = torch.nn.Parameter(torch.zeros_like(aim))
        optimiser = kind([x], lr=0.0, betas=(0.9, 0.99))
        for step in range(300):
            optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
            optimiser.zero_grad()
            loss(x).backward()
            optimiser.step()
        reached[kind] = float(loss(x).detach())
    assert reached[Soap] < 0.3 * reached[torch.optim.Adam]
    assert reached[Soap] < 1e-3 * float(loss(torch.zeros_like(aim)))
