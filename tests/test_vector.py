"""Vector quantizers: lookups are exact, stages nest, training learns, weights hold what coding needs and nothing else."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from neuralcodec.entropy.vector import FSQ, BinaryQuantizer, ResidualVQ, VectorQuantizer

KINDS = {
    "factorised": lambda: ResidualVQ(12, 3, 16, code_channels=4),
    "plain": lambda: ResidualVQ(12, 3, 16, code_channels=None, spherical=False),
    "groups": lambda: ResidualVQ(12, 2, 16, code_channels=3, spherical=False, groups=2),
    "single": lambda: ResidualVQ(12, 1, 64, code_channels=None, spherical=False),
    "fsq": lambda: FSQ(12, [5, 4, 3], groups=2),
    "binary": lambda: BinaryQuantizer(12, 5, groups=2),
    "lfq": lambda: BinaryQuantizer(12, 5, spherical=False),
}


@pytest.fixture(params=list(KINDS))
def quantizer(request) -> VectorQuantizer:
    torch.manual_seed(0)
    made = KINDS[request.param]()
    made.initialise(latent(400)[0].T)
    return made.eval()


def latent(frames: int, batch: int = 1, seed: int = 0) -> Tensor:
    """Channels that depend on one another, of falling variance."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(12, 12, generator=torch.Generator().manual_seed(1)) * torch.logspace(0, -1, 12)
    return (torch.randn(batch, frames, 12, generator=generator) @ mix.T).transpose(1, 2)


def test_what_is_looked_up_is_what_forward_gave(quantizer):
    tokens = quantizer(latent(50, 3))
    assert tokens.indexes.dtype == torch.int32 and tokens.indexes.shape == (3, len(quantizer.codebook_sizes), 50)
    assert torch.equal(quantizer.lookup(tokens.indexes), tokens.values)
    assert tokens.values.shape == (3, 12, 50) and tokens.losses == 0
    for index, size in zip(tokens.indexes.unbind(1), quantizer.codebook_sizes):
        assert index.min() >= 0 and index.max() < size


def test_lookups_do_not_depend_on_the_company(quantizer):
    indexes = quantizer(latent(333, 5)).indexes
    together = quantizer.lookup(indexes)
    assert torch.equal(together[2:3, :, 100:101], quantizer.lookup(indexes[2:3, :, 100:101]))
    assert torch.equal(together[:, :, 7:], quantizer.lookup(indexes[:, :, 7:]))


def test_evaluation_is_deterministic_and_bears_what_is_no_number(quantizer):
    y = latent(20)
    assert torch.equal(quantizer(y).indexes, quantizer(y).indexes)
    y[0, 3, 5] = float("nan")
    y[0, 4, 6] = float("inf")
    assert quantizer(y).values.isfinite().all()


def test_quantizing_beats_the_mean(quantizer):
    y = latent(500, seed=3)
    assert (quantizer(y).values - y).square().mean() < 0.8 * (y - y.mean(2, keepdim=True)).square().mean()


def test_stages_nest_and_each_helps(quantizer):
    y = latent(500, seed=3)
    error = float("inf")
    full = quantizer(y)
    for stages in range(1, quantizer.stages + 1):
        tokens = quantizer(y, stages)
        used = quantizer.codebooks(stages)
        assert torch.equal(tokens.indexes[:, :used], full.indexes[:, :used])
        assert (tokens.indexes[:, used:] == -1).all()
        assert torch.equal(quantizer.lookup(tokens.indexes[:, :used]), tokens.values)
        now = float((tokens.values - y).square().mean().detach())
        assert now < error
        error = now


def test_items_use_stages_of_their_own():
    quantizer = KINDS["factorised"]().eval()
    y = latent(30, 3)
    mixed = quantizer(y, torch.tensor([1, 3, 2]))
    for item, stages in enumerate([1, 3, 2]):
        assert torch.equal(mixed.values[item], quantizer(y[item : item + 1], stages).values[0])


@pytest.mark.parametrize("kind", list(KINDS))
def test_training_starts_from_what_it_sees_and_learns(kind):
    torch.manual_seed(0)
    quantizer = KINDS[kind]().train()
    optimizer = torch.optim.Adam([*quantizer.parameters(), torch.nn.Parameter(torch.zeros(1))], 1e-3)
    y = latent(300, 8)
    first = quantizer(y[:, :, :10])
    assert torch.equal(first.values, y[:, :, :10])  # too few frames to start from: passed through
    for _ in range(3):
        x = y.clone().requires_grad_()
        tokens = quantizer(x, torch.randint(1, quantizer.stages + 1, (8,)))
        assert quantizer.ready and tokens.values.shape == y.shape
        ((tokens.values - y).square().mean() + tokens.losses).backward()
        assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().sum() > 0
        optimizer.step()
        optimizer.zero_grad()
    quantizer.eval()
    assert (quantizer(y).values - y).square().mean() < 0.9 * y.square().mean()


def test_codes_that_nobody_uses_start_again():
    torch.manual_seed(0)
    quantizer = ResidualVQ(12, 1, 16, code_channels=None, spherical=False, decay=0.5, start=False).train()
    quantizer.books[0].codes[3:] = 1e3
    quantizer.books[0]._teach()
    for seed in range(12):
        quantizer(latent(200, seed=seed))
    assert len(quantizer(latent(400)).indexes.unique()) > 10


def test_weights_hold_only_what_coding_needs(quantizer):
    quantizer.train()
    training = quantizer.state_dict()
    quantizer.eval()
    quantizer.freeze()
    stored = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in quantizer.state_dict().items()}
    assert not any("learner" in name for name in stored)
    twin = copy.deepcopy(quantizer)
    twin.load_state_dict(stored)
    indexes = quantizer(latent(40)).indexes
    assert torch.allclose(twin.lookup(indexes), quantizer.lookup(indexes), atol=0.02)
    twin.load_state_dict(training)  # what training left is welcome too
    assert torch.equal(twin(latent(40)).values, quantizer(latent(40)).values)


def test_training_goes_on_from_weights():
    torch.manual_seed(0)
    quantizer = KINDS["plain"]()
    quantizer.initialise(latent(400)[0].T)
    quantizer.eval()
    quantizer.freeze()
    twin = KINDS["plain"]().train()
    twin.load_state_dict(quantizer.state_dict())
    assert twin.ready
    twin(latent(400))
    moved = (twin.books[0].codes - quantizer.books[0].codes).abs().mean() / quantizer.books[0].codes.abs().mean()
    assert moved < 0.1  # an average of the old codes and a step's new ones, not a new start


def test_fsq_is_the_librarys():
    library = pytest.importorskip("vector_quantize_pytorch").FSQ(levels=[8, 5, 5, 5])
    ours = FSQ(4, [8, 5, 5, 5])
    for layer in (ours.enter, ours.leave):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    z = torch.randn(1, 200, 4) * 2
    values, indexes = library(z)
    mine = ours.eval()(z.transpose(1, 2))
    assert torch.equal(mine.indexes[0, 0], indexes[0])
    assert torch.allclose(mine.values.transpose(1, 2), values, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResidualVQ(10, 2, groups=3),
        lambda: ResidualVQ(8, 2, size=1),
        lambda: ResidualVQ(8, 10**9),
        lambda: FSQ(8, [2, 5]),
        lambda: FSQ(8, []),
        lambda: BinaryQuantizer(8, 99),
    ],
)
def test_senseless_arguments_are_refused(make):
    with pytest.raises(ValueError):
        make()


def test_coding_does_not_import_the_library():
    program = (
        "import sys, torch; from neuralcodec.entropy.vector import ResidualVQ; q = ResidualVQ(8, 2, 4).eval(); "
        "q.lookup(q(torch.zeros(1, 8, 3)).indexes); print('vector_quantize_pytorch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "False"
