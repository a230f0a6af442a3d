"""Layers: interpolation between levels, lapped transforms, quantizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralcodec.codecs.blocks import LappedFilter, LevelVectors, pad_to_multiple
from neuralcodec.codecs.image.transforms import GDN, LinearLapped
from neuralcodec.entropy.quantizers import SYMBOL_LIMIT, ScalarQuantizer, soft_round


def vectors(levels: int = 64, knots: int = 8, seed: int = 0) -> LevelVectors:
    made = LevelVectors(levels, 5, knots)
    with torch.no_grad():
        made.rows.copy_(torch.randn(made.rows.shape, generator=torch.Generator().manual_seed(seed)) * 20)
    return made


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 63 * 4), st.integers(0, 100))
def test_fixed_point_agrees_with_the_interpolation(quarters, seed):
    made = vectors(seed=seed)
    fixed = made.fixed_point(quarters / 4, 9)
    assert fixed.dtype == torch.int64
    # The rows are rounded to half a unit of 2^-9, the interpolation is cut off below.
    assert (fixed * 2.0**-9 - made(torch.tensor([quarters / 4]))[0]).abs().max() <= 1.5 * 2**-9 + 1e-5


def test_learned_levels_are_the_rows_themselves():
    made = vectors()
    assert torch.equal(made(torch.arange(8) * 9.0), made.rows)


def test_a_single_level_has_a_single_row():
    made = vectors(levels=1)
    assert made.rows.shape == (1, 5)
    assert torch.equal(made(torch.zeros(2)), made.rows.expand(2, 5))
    assert torch.equal(made.fixed_point(0, 9), torch.round(made.rows[0].double() * 512).long())


def test_knots_that_fall_between_levels_are_refused():
    with pytest.raises(ValueError, match="knots do not fall"):
        LevelVectors(64, 5, 7)


def test_the_nearest_knot_changes_half_way():
    assert vectors().nearest_knot(torch.tensor([0.0, 4.25, 4.5, 58.5, 63.0])).tolist() == [0, 0, 1, 7, 7]


@pytest.mark.parametrize("block", [4, 16])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 64), (48, 32), (128, 16)])
def test_lapped_filter_is_undone_by_its_inverse(block, height, width):
    lapped = LappedFilter(block).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    assert torch.allclose(lapped.inverse(lapped(x)), x, atol=1e-6)


@pytest.mark.parametrize("block", [4, 16])
def test_lapped_filter_is_orthonormal(block):
    matrix = LappedFilter(block).matrix.double()
    assert torch.allclose(matrix @ matrix.T, torch.eye(block, dtype=torch.float64), atol=1e-6)
    x = torch.randn(1, 1, 4 * block, 4 * block, dtype=torch.float64)
    assert LappedFilter(block).double()(x).square().sum().item() == pytest.approx(x.square().sum().item())


def test_lapped_filter_leaves_constant_pictures_smooth():
    x = torch.ones(1, 1, 64, 64)
    assert torch.allclose(LappedFilter(16).inverse(LappedFilter(16)(x)), x, atol=1e-5)


def test_full_linear_transform_is_invertible():
    analysis, synthesis = LinearLapped(768, 3), LinearLapped(768, 3, inverse=True)
    synthesis.invert(analysis)
    x = torch.rand(1, 3, 64, 128)
    with torch.no_grad():
        y = analysis(x)
        assert y.shape == (1, 768, 4, 8)
        assert torch.allclose(synthesis(y), x, atol=1e-4)
        assert y.square().sum().item() == pytest.approx(x.square().sum().item(), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 4, 16, 64]))
def test_padding_repeats_the_border(height, width, multiple):
    x = torch.rand(1, 2, height, width)
    padded = pad_to_multiple(x, multiple)
    assert padded.shape[-2] % multiple == padded.shape[-1] % multiple == 0
    assert torch.equal(padded[..., :height, :width], x)
    assert torch.equal(padded[..., -1, -1], x[..., -1, -1])


def test_coding_rounds_whatever_stands_in_for_it_in_training():
    y, mean = torch.randn(1, 2, 8, 8) * 10, torch.randn(1, 2, 8, 8)
    for mode in ("noise", "straight_through", "mixed", "soft"):
        quantized = ScalarQuantizer(mode).eval()(y, mean)
        assert torch.equal(quantized.symbols, torch.round(y - mean).int())
        assert torch.equal(quantized.values, quantized.symbols + mean)
        assert torch.equal(quantized.proxy, quantized.symbols.float())


@pytest.mark.parametrize("mode", ["noise", "straight_through", "mixed", "soft"])
def test_every_quantizer_passes_a_gradient(mode):
    torch.manual_seed(0)
    y = (torch.randn(1, 1, 4, 4) * 3).requires_grad_()
    quantized = ScalarQuantizer(mode).train()(y)
    (quantized.values.sum() + quantized.proxy.square().sum()).backward()
    assert (y.grad != 0).all()


def test_undefined_and_enormous_latents_still_give_symbols():
    symbols = ScalarQuantizer().eval()(torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30])).symbols
    assert symbols.tolist() == [0, SYMBOL_LIMIT, -SYMBOL_LIMIT, SYMBOL_LIMIT]


def test_soft_rounding_goes_from_identity_to_rounding():
    x = torch.linspace(-2.4, 2.4, 41)
    assert torch.allclose(soft_round(x, 1e-3), x, atol=1e-4)
    away = (x - torch.floor(x) - 0.5).abs() > 0.1
    assert np.allclose(soft_round(x, 100.0)[away], torch.round(x)[away], atol=1e-3)


@pytest.mark.parametrize("inverse", [False, True])
def test_divisive_normalisation_is_its_formula_with_and_without_gradients(inverse):
    torch.manual_seed(0)
    layer = GDN(6, inverse)
    with torch.no_grad():
        layer.beta.uniform_(0.5, 1.5)
        layer.gamma.uniform_(-0.2, 0.5)
    x = torch.randn(2, 6, 70, 80)
    beta, gamma = layer.beta.square(), layer.gamma.clamp_min(0).square()
    norm = (beta[:, None, None] + torch.einsum("ij,bjhw->bihw", gamma, x.square())).sqrt()
    expected = x * norm if inverse else x / norm
    with torch.no_grad():
        assert torch.allclose(layer(x.clone()), expected, atol=1e-5)
    assert torch.allclose(layer(x), expected, atol=1e-5)


def test_divisive_normalisation_agrees_with_compressai():
    layers = pytest.importorskip("compressai.layers")
    for inverse in (False, True):
        ours, theirs = GDN(5, inverse), layers.GDN(5, inverse)
        x = torch.randn(1, 5, 8, 8)
        assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_the_linear_transform_keeps_its_precision_under_autocast():
    transform, x = LinearLapped(24, 3), torch.rand(1, 3, 64, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = transform(x)
    assert torch.equal(half, transform(x))
