"""The prior of tokens: exact bytes, what context saves, streams that no encoder writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuralcodec.entropy.categorical import CategoricalPrior, informative_classes, pack, unpack
from neuralcodec.entropy.rans import CorruptStream

SIZES = (16, 12, 9)


def markov(frames: int, seed: int) -> np.ndarray:
    """Tokens that walk up and down in the first codebook, follow it in the second, and know nothing in the third."""
    generator = np.random.default_rng(seed)
    first = np.cumsum(generator.integers(-1, 2, frames)) % 16
    second = (first // 2 + (generator.random(frames) < 0.2)) % 12
    return np.stack([first, second, generator.integers(0, 9, frames)]).astype(np.int32)


@pytest.fixture(scope="module")
def prior() -> CategoricalPrior:
    made = CategoricalPrior(SIZES)
    made.fit([markov(50, seed) for seed in range(300)])
    return made


def test_packing_takes_exactly_the_bits_and_unpacking_undoes_it():
    tokens = markov(25, 0)
    data = pack(tokens, SIZES)
    assert len(data) == -(-25 * (4 + 4 + 4) // 8)
    assert np.array_equal(unpack(data, SIZES, 25), tokens)
    assert pack(np.array([[1, 3], [2, 0]]), [4, 4]).hex() == "6c"
    assert pack(np.array([[5], [1], [1000]]), [8, 2, 1024]).hex() == "bfa0"


@given(st.lists(st.integers(2, 5000), min_size=1, max_size=5), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_packing_round_trips(sizes, frames, seed):
    tokens = np.random.default_rng(seed).integers(0, np.array(sizes)[:, None], (len(sizes), frames)).astype(np.int32)
    assert np.array_equal(unpack(pack(tokens, sizes), sizes, frames), tokens)


@pytest.mark.parametrize("data", [b"", b"\0" * 4, b"\0\0\x01", b"\xff\xff\xff"])
def test_what_no_packer_writes_is_refused(data):
    with pytest.raises(CorruptStream):
        unpack(data, [5, 5], 3)  # 18 bits, 3 bytes


@pytest.mark.parametrize("codebooks", [1, 2, 3])
@pytest.mark.parametrize("items", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 50])
def test_coding_round_trips(prior, items, codebooks, frames):
    tokens = np.stack([markov(frames, 1000 + item)[:codebooks] for item in range(items)])
    data = prior.encode(tokens)
    assert np.array_equal(prior.decode(data, items, codebooks, frames), tokens)


def test_estimated_bits_are_those_of_the_bytes(prior):
    tokens = markov(5000, 77)[None]
    bits = float(prior.bits(torch.from_numpy(tokens)).sum())
    assert 8 * len(prior.encode(tokens)) == pytest.approx(bits, rel=0.01)
    untrained = CategoricalPrior(SIZES)
    assert untrained.bits(torch.from_numpy(tokens)).sum() == 8 * len(untrained.encode(tokens)) == 5000 * 12


def test_context_says_what_it_knows(prior):
    """Of 16 values each is next to three: log2 3 bits. What follows the first codebook costs the entropy of one coin."""
    tokens = torch.from_numpy(np.stack([markov(50, seed) for seed in range(400, 440)]))
    first, second, third = prior.bits(tokens).mean((0, 2)).tolist()
    assert first == pytest.approx(np.log2(3) + (4 - np.log2(3)) / 50, rel=0.03)
    assert second < 1.6 and third == pytest.approx(np.log2(9), rel=0.02)


def test_tokens_that_are_not_there_cost_nothing(prior):
    tokens = torch.from_numpy(markov(20, 5))[None].clone()
    tokens[:, 1:] = -1
    assert prior.bits(tokens)[:, 1:].sum() == 0 and prior.bits(tokens)[:, 0].sum() > 0


def test_tables_and_maps_are_stored_and_the_bytes_stay_the_same(prior):
    twin = CategoricalPrior(SIZES)
    twin.load_state_dict(prior.state_dict())
    tokens = markov(50, 3)[None]
    assert twin.encode(tokens) == prior.encode(tokens)


def test_bytes_are_these():
    made = CategoricalPrior((4, 4), 2, 2, 4)
    sequence = np.array([[0, 1, 2, 3] * 40, [0, 0, 2, 2] * 40], dtype=np.int32)
    made.fit([sequence])
    data = made.encode(sequence[None, :, :12])
    assert np.array_equal(made.decode(data, 1, 2, 12)[0], sequence[:, :12])
    assert data.hex() == "002baa09"


@pytest.mark.parametrize("change", ["cut", "longer", "other"])
def test_damage_is_refused_or_gives_tokens(prior, change):
    tokens = markov(50, 8)[None]
    data = prior.encode(tokens)
    changed = {"cut": data[:-3], "longer": data + b"\x01\x02\x03\x04", "other": bytes(b ^ 0x55 for b in data)}[change]
    try:
        found = prior.decode(changed, 1, 3, 50)
    except CorruptStream:
        return
    assert (found >= 0).all() and (found < np.array(SIZES)[:, None]).all()
    with pytest.raises(CorruptStream):
        prior.decode(data + b"\0", 1, 3, 50)


def test_classes_that_lead_to_no_table_are_refused(prior):
    state = {name: tensor.clone() for name, tensor in prior.state_dict().items()}
    state["classes_before"][0, 0] = 1000
    with pytest.raises(ValueError):
        CategoricalPrior(SIZES).load_state_dict(state)


def test_values_that_mean_the_same_share_a_class():
    generator = np.random.default_rng(0)
    given_values = generator.integers(0, 12, 20000)
    tokens = (given_values % 3) * 2 + generator.integers(0, 2, 20000)
    classes = informative_classes(given_values, tokens, 12, 6, 3)
    assert len(set(classes.tolist())) == 3
    for value in range(12):
        assert classes[value] == classes[value % 3]


def test_too_few_tokens_or_too_many_codes_are_refused():
    with pytest.raises(ValueError):
        CategoricalPrior(SIZES).fit([markov(10, 0)])
    with pytest.raises(ValueError):
        CategoricalPrior([8192]).fit([np.zeros((1, 1000), np.int32)])
