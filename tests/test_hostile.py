"""Damaged and malicious input: whatever is wrong with a file, a spec or weights, the answer is one CodecError."""

from __future__ import annotations

import io
import json
import pickle
import tracemalloc

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from neuralcodec.codecs import files
from neuralcodec.codecs.base import CodecError, build, load_weights
from neuralcodec.codecs.files import codec_for, decode_signal, encode_signal
from neuralcodec.entropy import container

ANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def decode(data: bytes, weights) -> torch.Tensor:
    """What a program does with a file: read the header, find the codec, decode."""
    try:
        content = container.read(data)
    except container.ContainerError as error:
        raise CodecError(str(error)) from None
    return decode_signal(codec_for(content, [weights]), content).signal


@pytest.fixture(scope="module")
def coded(small, picture) -> bytes:
    return encode_signal(small("mean-scale"), picture(24, 40), 20).data


def test_every_altered_byte_is_refused(coded, weights):
    file = weights("mean-scale")
    decode(coded, file)
    for position in range(len(coded)):
        for flip in (0x01, 0x10, 0x80, 0xFF):
            altered = bytearray(coded)
            altered[position] ^= flip
            with pytest.raises(CodecError):
                decode(bytes(altered), file)


def test_every_truncation_is_refused(coded, small):
    for length in range(len(coded)):
        with pytest.raises(CodecError):
            decode_signal(small("mean-scale"), coded[:length])


def test_trailing_bytes_are_refused(coded, small):
    for tail in (b"\0", b"\n", coded):
        with pytest.raises(CodecError):
            decode_signal(small("mean-scale"), coded + tail)


@pytest.mark.parametrize("data", [b"", b"hello\n", b"\x89PNG\r\n\x1a\n" + bytes(50), container.MAGIC, bytes(1000)])
def test_other_files_are_refused(data, small):
    with pytest.raises(CodecError) as refusal:
        decode_signal(small("mean-scale"), data)
    assert str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_of_another_model_is_refused(coded, small, weights):
    with pytest.raises(CodecError, match="written by other weights"):
        decode_signal(small("scale"), coded)
    with pytest.raises(CodecError, match="not among"):
        codec_for(container.read(coded), [weights("scale")])


def test_the_right_model_is_found_among_others(coded, weights):
    assert codec_for(container.read(coded), [weights("scale"), weights("mean-scale")]).name == "mean-scale"


def test_a_model_that_does_not_exist_is_refused(tmp_path):
    for name in ("no-such-model", tmp_path / "nothing.safetensors"):
        with pytest.raises(CodecError, match="no model"):
            files.load(name)


@pytest.mark.parametrize("size", [(2**35 - 1, 2**35 - 1, 3), (2**26, 2, 3), (1, 2**27, 3)])
def test_a_header_that_claims_a_huge_picture_allocates_nothing(small, size):
    codec = small("mean-scale")
    data = container.write("image", codec.fingerprint, 20, size, [b"", b""])
    tracemalloc.start()
    with pytest.raises(CodecError, match="more than the limit"):
        decode_signal(codec, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize(
    ("size", "level", "streams"),
    [
        ((0, 5, 3), 20, 2),
        ((5, 0, 3), 20, 2),
        ((5, 5, 0), 20, 2),
        ((5, 5, 4), 20, 2),
        ((5, 5, 3), 63.25, 2),
        ((5, 5, 3), 20, 1),
        ((5, 5, 3), 20, 3),
    ],
)
def test_headers_that_make_no_sense_are_refused(small, size, level, streams):
    codec = small("mean-scale")
    with pytest.raises(CodecError, match="makes no sense"):
        decode_signal(codec, container.write("image", codec.fingerprint, level, size, [b""] * streams))


@ANY
@given(st.binary(max_size=200), st.binary(max_size=400), st.integers(1, 70), st.integers(1, 70), st.integers(0, 252))
def test_random_streams_behind_a_valid_checksum_decode_or_are_refused(codec, first, second, height, width, quarters):
    level = min(quarters / 4, codec.levels - 1)
    streams = [first[: len(first) // 4 * 4], second[: len(second) // 4 * 4]][: len(codec.streams)]
    data = container.write("image", codec.fingerprint, level, (height, width, 3), streams)
    try:
        decoded = decode_signal(codec, data)
    except CodecError as refusal:
        assert "\n" not in str(refusal)
        return
    assert decoded.signal.shape == (1, 3, height, width)


def test_every_altered_word_behind_a_valid_checksum_decodes_or_is_refused(coded, small):
    codec = small("mean-scale")
    content = container.read(coded)
    refused = 0
    for stream in range(len(content.streams)):
        for position in range(0, len(content.streams[stream]), 3):
            streams = list(content.streams)
            altered = bytearray(streams[stream])
            altered[position] ^= 0xA5
            streams[stream] = bytes(altered)
            try:
                decode_signal(codec, container.write("image", codec.fingerprint, content.level, content.size, streams))
            except CodecError:
                refused += 1
    assert refused > 0


def test_side_information_out_of_range_is_refused(small):
    from neuralcodec.entropy import rans

    codec = small("mean-scale")
    indexes = codec.z_prior.indexes(0, 1, 1)
    for value in (128, -128, 2**31 - 1, -(2**31)):
        z = torch.zeros(indexes.shape, dtype=torch.int32)
        z[0, 0, 0] = value
        stream = rans.encode(z.numpy(), indexes, codec.z_prior.tables)
        with pytest.raises(CodecError, match="side information"):
            decode_signal(codec, container.write("image", codec.fingerprint, 0, (16, 16, 3), [stream, b""]))


HYPERPRIOR = "neuralcodec.codecs.image.Hyperprior"


@pytest.mark.parametrize(
    "class_path",
    [
        "os.system",
        "torch.nn.Linear",
        "subprocess.Popen",
        "neuralcodec.codecs.files.load",
        "neuralcodec.codecs.files.Path",
        "neuralcodec.codecs.base.torch.nn.Linear",
        "neuralcodec.codecs.base.nn.Module",
        "neuralcodec.codecs.base.nn",
        "neuralcodec.codecs.base.Tensor",
        "neuralcodec.codecs.base.CodecError",
        "neuralcodec.codecs.image.transforms.GDN",
        "neuralcodec.codecs.image.transforms.DepthwiseBlock",
        "neuralcodec.codecs.no_such_module.Codec",
        "neuralcodec.codecs.image.NoSuchCodec",
        "neuralcodec.codecs_of_a_stranger.Codec",
        "neuralcodec.train.RateDistortion",
        "neuralcodec.cli.main",
        "neuralcodec.codecs",
        "neuralcodec.codecs.",
        ".neuralcodec.codecs.image.Hyperprior",
        "neuralcodec.codecs..image.Hyperprior",
        "neuralcodec.codecs.image.Hyperprior.__init__",
        "neuralcodec.codecs.\0.Hyperprior",
        "neuralcodec.codecs.\ud800.Hyperprior",
        "neuralcodec.codecs." + "x" * 5000 + ".Hyperprior",
        "Hyperprior",
        "",
        None,
        3,
        ["neuralcodec.codecs.image.Hyperprior"],
    ],
)
def test_a_spec_names_codecs_of_the_package_only(class_path):
    with pytest.raises(CodecError):
        build({"class_path": class_path})
    with pytest.raises(CodecError):
        build({"class_path": class_path, "init_args": {"command": "true"}})


@pytest.mark.parametrize(
    "inner",
    [
        {"class_path": "os.system", "init_args": {"command": "true"}},
        {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1}},
        {"class_path": "neuralcodec.codecs.base.torch.nn.Identity"},
        {"class_path": "neuralcodec.codecs.files.load", "init_args": {"name": "x"}},
        {
            "class_path": "neuralcodec.codecs.image.transforms.LappedAnalysis",
            "init_args": {"latent": 32, "width": 8, "blocks": 1, "code": "x"},
        },
        {"class_path": "neuralcodec.codecs.image.transforms.LappedAnalysis", "init_args": {"latent": 2**40, "width": 8, "blocks": 1}},
        {"class_path": "neuralcodec.codecs.image.transforms.LappedAnalysis", "init_args": {"latent": -1, "width": 8, "blocks": 1}},
        {"class_path": "neuralcodec.codecs.image.transforms.LappedAnalysis", "init_args": {"latent": "32", "width": 8, "blocks": 1}},
        {"class_path": "neuralcodec.codecs.image.transforms.LappedAnalysis", "init_args": [32, 8, 1]},
        {"class_path": "neuralcodec.codecs.image.transforms.LappedAnalysis", "init_args": {}, "eval": "1"},
        "torch.nn.Identity",
        None,
        7,
    ],
)
def test_nested_specs_are_held_to_the_same(inner, small):
    spec = json.loads(json.dumps(small("mean-scale").spec))
    spec["init_args"]["analysis"] = inner
    with pytest.raises(CodecError):
        build(spec)


@pytest.mark.parametrize(
    "spec", [{}, [], "text", None, 5, {"class_path": HYPERPRIOR, "init_args": 5}, {"class_path": HYPERPRIOR, "args": {}}]
)
def test_what_is_no_spec_is_refused(spec):
    with pytest.raises(CodecError):
        build(spec)


@pytest.mark.parametrize(
    "change", [{"levels": 0}, {"levels": 64, "knots": 9}, {"lmbda": [1.0]}, {"lmbda": [2.0, 1.0]}, {"no_such": 1}, {"latent": "x"}]
)
def test_arguments_that_a_codec_cannot_use_are_refused(change, small):
    spec = json.loads(json.dumps(small("mean-scale").spec))
    spec["init_args"].update(change)
    with pytest.raises(CodecError):
        build(spec)


def test_a_spec_nested_without_end_is_refused():
    spec: dict = {"class_path": HYPERPRIOR}
    for _ in range(50):
        spec = {"class_path": HYPERPRIOR, "init_args": {"analysis": spec}}
    with pytest.raises(CodecError):
        build(spec)


class Exploit:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def _pickled() -> bytes:
    return pickle.dumps(Exploit())


def _torch_saved() -> bytes:
    out = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, out)
    return out.getvalue()


@pytest.mark.parametrize("content", [b"", b"some text\n", b"\xff" * 64, (2**62).to_bytes(8, "little") + b"{}", _pickled(), _torch_saved()])
def test_what_is_no_weights_file_is_refused(content, tmp_path):
    path = tmp_path / "bogus.safetensors"
    path.write_bytes(content)
    with pytest.raises(CodecError) as refusal:
        load_weights(path)
    assert "\n" not in str(refusal.value)


def test_folders_and_missing_weights_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing.safetensors"):
        with pytest.raises(CodecError):
            load_weights(path)


def test_truncated_weights_are_refused(weights, tmp_path):
    whole = weights("mean-scale").read_bytes()
    path = tmp_path / "part.safetensors"
    for length in (1, 7, 8, 9, 100, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CodecError):
            load_weights(path)


@pytest.fixture
def contents(small, weights):
    """Tensors and metadata of a weights file, free to be changed."""
    return load_file(weights("mean-scale")), dict(small("mean-scale").metadata)


def refused(path, tensors, metadata) -> str:
    save_file(tensors, path, metadata)
    with pytest.raises(CodecError) as refusal:
        load_weights(path)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_unchanged_contents_are_accepted(contents, small, tmp_path):
    tensors, metadata = contents
    save_file(tensors, tmp_path / "same.safetensors", metadata)
    assert load_weights(tmp_path / "same.safetensors").fingerprint == small("mean-scale").fingerprint


def test_weights_that_are_not_ours_are_refused(contents, tmp_path):
    tensors, _ = contents
    for metadata in (None, {}, {"format": "pt"}, {"format": "neuralcodec"}):
        assert "not a neuralcodec weights file" in refused(tmp_path / "w.safetensors", tensors, metadata)


@pytest.mark.parametrize("spec", ["", "{", "[]", '"text"', "null", "[" * 100_000, "{}", '{"class_path": "os.system"}', "NaN"])
def test_weights_with_a_bogus_spec_are_refused(spec, contents, tmp_path):
    tensors, metadata = contents
    refused(tmp_path / "w.safetensors", tensors, {**metadata, "spec": spec})


def test_weights_that_lack_or_add_tensors_are_refused(contents, tmp_path):
    tensors, metadata = contents
    missing = {name: tensor for name, tensor in tensors.items() if name != "g_s.head.weight"}
    refused(tmp_path / "w.safetensors", missing, metadata)
    refused(tmp_path / "w.safetensors", {**tensors, "extra": torch.zeros(2)}, metadata)
    refused(tmp_path / "w.safetensors", {**tensors, "g_s.head.weight": torch.zeros(2, 2)}, metadata)
    refused(tmp_path / "w.safetensors", {}, metadata)


@pytest.mark.parametrize("bogus", [float("nan"), float("inf"), torch.bfloat16, torch.complex64, torch.float64, torch.float8_e4m3fn])
def test_weights_of_undefined_values_or_kinds_are_refused(bogus, contents, tmp_path):
    tensors, metadata = contents
    changed = tensors["g_s.head.weight"].clone()
    if isinstance(bogus, torch.dtype):
        changed = changed.to(bogus)
    else:
        changed.view(-1)[5] = bogus
    path = tmp_path / "w.safetensors"
    path.write_bytes(save({**tensors, "g_s.head.weight": changed}, metadata))
    with pytest.raises(CodecError, match="what no codec stores"):
        load_weights(path)


@pytest.mark.parametrize("model", ["z_prior", "y_model"])
@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("frequencies", lambda values: values + 1),
        ("frequencies", lambda values: torch.zeros_like(values)),
        ("frequencies", lambda values: values[:-1].clone()),
        ("sizes", lambda values: values + 1),
        ("sizes", lambda values: -values),
        ("sizes", lambda values: values[:-1].clone()),
        ("sizes", lambda values: values[0].clone()),
        ("sizes", lambda values: values.new_zeros(0)),
        ("lows", lambda values: values[1:].clone()),
        ("lows", lambda values: values - 2**30),
        ("lows", lambda values: values.reshape(1, -1)),
    ],
)
def test_bogus_tables_are_refused(model, part, change, contents, tmp_path):
    tensors, metadata = contents
    name = f"{model}.tables.{part}"
    message = refused(tmp_path / "w.safetensors", {**tensors, name: change(tensors[name])}, metadata)
    assert "spec" in message


def test_weights_without_tables_are_refused(contents, tmp_path):
    tensors, metadata = contents
    empty = {name: torch.zeros(0, dtype=torch.int32) if ".tables." in name else tensor for name, tensor in tensors.items()}
    refused(tmp_path / "w.safetensors", empty, metadata)
