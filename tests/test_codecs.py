"""Complete codecs: any picture at any level comes back, estimates are real rates, weights files hold everything."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuralcodec.codecs.base import Codec, CodecError, build, load_weights, parameter_count, save_weights
from neuralcodec.codecs.files import decode_signal, encode_signal
from neuralcodec.entropy import container

ANY = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_round_trip(codec: Codec, x: torch.Tensor, level: float) -> bytes:
    coded = encode_signal(codec, x, level)
    decoded = decode_signal(codec, coded.data)
    assert coded.symbols.keys() == decoded.symbols.keys() == set(codec.streams)
    for name, symbols in coded.symbols.items():
        assert torch.equal(symbols, decoded.symbols[name]), name
    assert decoded.signal.shape == x.shape
    assert decoded.signal.isfinite().all()
    return coded.data


@ANY
@given(st.integers(1, 90), st.integers(1, 90), st.floats(0, 63), st.integers(0, 3))
def test_any_size_and_level_comes_back(codec, height, width, level, seed):
    x = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    data = assert_round_trip(codec, x, level)
    assert container.read(data).size == (height, width, 3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (64, 64), (65, 63)])
def test_sizes_at_the_edges_come_back(codec, picture, height, width):
    data = assert_round_trip(codec, picture(height, width), codec.levels - 1)
    assert container.read(data).level == codec.levels - 1


@pytest.mark.parametrize("value", [0.0, 1.0, -1e4, 1e4, float("nan"), float("inf")])
def test_broken_pictures_still_give_files_that_decode(codec, value):
    x = torch.full((1, 3, 40, 40), value)
    coded = encode_signal(codec, x, 40)
    decoded = decode_signal(codec, coded.data)
    assert all(torch.equal(coded.symbols[name], decoded.symbols[name]) for name in codec.streams)


def test_small_codecs_code_something(codec, picture):
    symbols = encode_signal(codec, picture(128, 128), 40).symbols
    for name in codec.streams:
        assert len(symbols[name].unique()) > 5, name


def test_more_rate_buys_more_quality(small, picture):
    x = picture(128, 192)
    # Without the small codec's random perturbation: the transform as it starts is orthonormal.
    fresh = build(small("mean-scale").spec).requires_grad_(False)
    fresh.g_s.linear.invert(fresh.g_a.linear)
    fresh.freeze()
    coded = [encode_signal(fresh, x, level).data for level in (0, 30, 63)]
    errors = [float((decode_signal(fresh, data).signal - x).square().mean()) for data in coded]
    assert len(coded[0]) < len(coded[1]) < len(coded[2])
    assert errors[0] >= errors[1] >= errors[2]


def test_the_nearest_level_is_a_quarter_in_range(small):
    codec = small("mean-scale")
    assert [codec.nearest_level(level) for level in (-3, 0.1, 0.2, 31.8, 62.9, 99)] == [0, 0, 0.25, 31.75, 63, 63]
    assert small("one-level").nearest_level(17) == 0


def test_quality_covers_all_levels(small):
    codec = small("mean-scale")
    assert [codec.level_for_quality(quality) for quality in (0, 50, 100)] == [0, 31.5, 63]
    with pytest.raises(CodecError, match="between 0 and 100"):
        codec.level_for_quality(101)


def test_lambda_is_log_spaced_over_levels(small):
    codec = small("mean-scale")
    lmbda = codec.lmbda(torch.tensor([0.0, 31.5, 63.0]))
    assert lmbda.tolist() == pytest.approx([0.0013, (0.0013 * 0.18) ** 0.5, 0.18])


@pytest.mark.parametrize("level", [0, 20.25, 63])
def test_estimated_bits_are_those_of_the_file(codec, picture, level):
    x = picture(256, 384)
    level = codec.nearest_level(level)
    with torch.no_grad():
        output = codec(x, torch.tensor([float(level)]))
    compressed = codec.compress(x, level)
    for name, stream in zip(codec.streams, compressed.streams, strict=True):
        assert torch.equal(output.symbols[name], compressed.symbols[name])
        assert abs(float(output.bits[name]) / 8 - len(stream)) <= 0.01 * len(stream) + 8, name


def test_evaluation_reconstructs_what_the_file_decodes_to(codec, picture):
    x = picture(96, 80)
    level = codec.nearest_level(25)
    with torch.no_grad():
        output = codec(x, torch.tensor([level]))
    decoded = decode_signal(codec, encode_signal(codec, x, level).data)
    assert torch.allclose(output.reconstruction, decoded.signal, atol=1e-4)


def test_training_gives_gradients_to_every_parameter(small, picture):
    for kind in ("mean-scale", "scale", "mean-scale-gdn", "factorized"):
        codec = build(small(kind).spec).train()  # parameters that never get a gradient stop distributed training
        codec.load_state_dict(small(kind).state_dict())
        output = codec(torch.cat([picture(64, 64), picture(64, 64, seed=1)]), torch.tensor([3.0, 50.0]))
        (output.reconstruction.square().mean() + sum(bits.mean() for bits in output.bits.values()) * 1e-4).backward()
        without = [name for name, parameter in codec.named_parameters() if parameter.requires_grad and parameter.grad is None]
        assert not without, kind


def test_weights_files_give_the_same_codec_again(codec, weights, tmp_path, picture):
    kind = codec.name
    path = tmp_path / "again.safetensors"
    fingerprint = save_weights(codec, path, {"note": "a copy"})
    again = load_weights(path)
    assert fingerprint == again.fingerprint == codec.fingerprint
    assert again.spec == codec.spec
    assert again.metadata["note"] == "a copy"
    assert again.name == "again"
    x = picture(100, 70)
    assert encode_signal(again, x, 33.5).data == encode_signal(load_weights(weights(kind)), x, 33.5).data
    assert not list(tmp_path.glob("*.part"))


def test_saving_in_half_precision_leaves_tables_as_they_are(codec):
    again = copy.deepcopy(codec)
    again.freeze()
    before, after = codec.state_dict(), again.state_dict()
    tables = [name for name in before if ".tables." in name]
    assert tables
    for name in tables:
        assert torch.equal(before[name], after[name]), name


def test_any_changed_weight_changes_the_fingerprint(small, tmp_path):
    codec = copy.deepcopy(small("mean-scale"))
    for name in ("g_s.head.bias", "y_model.tables.frequencies", "gain.rows"):
        changed = copy.deepcopy(codec)
        changed.state_dict()[name].view(-1)[3] += 1
        assert save_weights(changed, tmp_path / "changed.safetensors") != codec.fingerprint, name


def test_half_of_the_precision_is_half_of_the_file(small, weights):
    codec = small("mean-scale")
    assert weights("mean-scale").stat().st_size < parameter_count(codec) * 4


def test_weights_that_are_not_finite_are_not_saved(small, tmp_path):
    codec = copy.deepcopy(small("mean-scale"))
    codec.g_s.head.weight.view(-1)[0] = 1e6
    with pytest.raises(CodecError, match="not finite in float16"):
        save_weights(codec, tmp_path / "broken.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_codec_without_a_spec_cannot_be_saved(small, tmp_path):
    codec = copy.deepcopy(small("mean-scale"))
    codec.spec = None
    with pytest.raises(CodecError, match="build"):
        save_weights(codec, tmp_path / "nameless.safetensors")


def test_a_spec_is_plain_json(codec):
    assert json.loads(json.dumps(codec.spec)) == codec.spec
    assert build(codec.spec).spec == codec.spec


def test_transforms_without_their_linear_part_code_too(small, picture):
    spec = copy.deepcopy(small("quadtree").spec)
    for transform in ("analysis", "synthesis"):
        spec["init_args"][transform]["init_args"]["shortcut"] = False
    torch.manual_seed(0)
    codec = build(spec)
    assert not any(".linear." in name for name in codec.state_dict())
    x = picture(96, 128)
    with torch.no_grad():
        codec.initialise(x[..., :64, :64])  # there is no closed form, and nothing to complain about
    codec.train()
    codec(x, torch.tensor([40.0])).reconstruction.square().mean().backward()
    assert codec.g_a.head.weight.grad.abs().max() > 0  # nothing starts at a zero that it could not leave
    codec.eval().requires_grad_(False).freeze()
    assert_round_trip(codec, x, 40)
