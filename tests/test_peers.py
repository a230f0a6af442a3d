"""Codecs of other libraries, behind the same interface: they write this project's files, and read back exactly what they wrote."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from neuralcodec.codecs import files
from neuralcodec.codecs.audio.files import decode_sound, encode_sound
from neuralcodec.codecs.base import CodecError
from neuralcodec.datasets.audio import Sound
from neuralcodec.entropy import container
from neuralcodec.entropy.rans import CorruptStream
from neuralcodec.eval import modalities, sweep
from neuralcodec.eval.candidates import candidate
from neuralcodec.eval.results import Item

HOP = 40
ENCODEC = {
    "hidden_size": 16,
    "num_filters": 4,
    "num_lstm_layers": 1,
    "upsampling_ratios": [5, 4, 2],
    "codebook_size": 32,
    "sampling_rate": 8000,
    "target_bandwidths": [1.0, 2.0, 4.0],
}
CHUNKED = ENCODEC | {"normalize": True, "chunk_length_s": 0.1, "overlap": 0.01, "norm_type": "time_group_norm", "use_causal_conv": False}
DAC = {
    "encoder_hidden_size": 8,
    "decoder_hidden_size": 32,
    "downsampling_ratios": [2, 4, 5],
    "n_codebooks": 3,
    "codebook_size": 64,
    "codebook_dim": 4,
    "sampling_rate": 8000,
}


def sound(count: int = 3000, rate: int = 8000, channels: int = 1) -> Sound:
    time = np.arange(count) / rate
    tones = [0.3 * np.sin(2 * np.pi * (200 + 150 * channel) * time) * (1 + np.sin(7 * time)) for channel in range(channels)]
    return Sound(np.stack(tones).astype(np.float32), rate)


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """The name of a small model with random weights, by its kind."""
    transformers = pytest.importorskip("transformers")
    made: dict[str, str] = {}

    def name(kind: str) -> str:
        if kind not in made:
            torch.manual_seed(0)
            folder = tmp_path_factory.mktemp(kind) / kind
            if kind == "dac":
                model = transformers.DacModel(transformers.DacConfig(**DAC))
            else:
                model = transformers.EncodecModel(transformers.EncodecConfig(**(CHUNKED if kind == "chunked" else ENCODEC)))
                for layer in model.quantizer.layers:
                    layer.codebook.embed.normal_()
            model.save_pretrained(folder)
            made[kind] = f"{'dac' if kind == 'dac' else 'encodec'}:{folder}"
        return made[kind]

    return name


@pytest.mark.parametrize("kind", ["encodec", "chunked", "dac"])
@pytest.mark.parametrize("count", [1, 39, 40, 41, 799, 801, 3001])
def test_sounds_of_any_length_come_back_as_long_and_every_code_as_it_was(peer, kind, count):
    codec = files.load(peer(kind))
    for level in range(codec.levels):
        original = sound(count)
        coded = encode_sound(codec, original, level)
        decoded = decode_sound(codec, coded.data)
        assert decoded.sound.samples.shape == original.samples.shape and decoded.sound.rate == original.rate
        assert decoded.symbols.keys() == coded.symbols.keys()
        assert all(torch.equal(values, decoded.symbols[name]) for name, values in coded.symbols.items())
        assert np.isfinite(decoded.sound.samples).all()


def test_what_is_decoded_is_what_the_library_decodes(peer):
    x = torch.from_numpy(sound().samples)[None]
    codec = files.load(peer("encodec"))
    theirs = codec.model(x, bandwidth=2.0)
    ours = decode_sound(codec, encode_sound(codec, sound(), 1).data)
    assert torch.equal(theirs.audio_codes[0, 0].T.int(), ours.symbols["codes"][0])
    assert np.allclose(theirs.audio_values[0].numpy(), ours.sound.samples, atol=1e-5)
    codec = files.load(peer("dac"))
    theirs = codec.model(torch.nn.functional.pad(x, (0, -x.shape[-1] % HOP)), n_quantizers=2)
    ours = decode_sound(codec, encode_sound(codec, sound(), 1).data)
    assert torch.equal(theirs.audio_codes[0].T.int(), ours.symbols["codes"][0])
    assert np.allclose(theirs.audio_values[0, :3000].numpy(), ours.sound.samples[0, : theirs.audio_values.shape[-1]], atol=1e-5)


def test_chunks_are_what_the_library_decodes(peer):
    codec = files.load(peer("chunked"))
    count = 792 * 3 + 800  # four whole chunks of 800 samples, 792 apart: the library wants all chunks of one length
    x = torch.from_numpy(sound(count).samples)[None]
    theirs = codec.model.encode(x[..., : 792 * 3], bandwidth=1.0)
    assert theirs.audio_codes.shape[0] == 3
    ours = encode_sound(codec, sound(792 * 3), 0)
    assert torch.equal(torch.cat(list(theirs.audio_codes[:, 0]), 1).T.int(), ours.symbols["codes"][0])


def test_codes_take_exactly_their_bits(peer):
    codec = files.load(peer("encodec"))
    assert codec.codebooks == [1, 2, 4]  # 200 frames of 5 bits a second
    for level, codebooks in enumerate(codec.codebooks):
        content = container.read(encode_sound(codec, sound(4000), level).data)
        assert [len(stream) for stream in content.streams] == [math.ceil(100 * codebooks * 5 / 8)]
        assert content.size == (4000, 8000, 1) and content.modality == "audio" and content.header_bytes <= 24


def test_sounds_of_other_rates_are_resampled_there_and_back(peer):
    codec = files.load(peer("encodec"))
    original = sound(4411, 22050)
    data = encode_sound(codec, original, 0).data
    assert container.read(data).size == (4411, 22050, 1)
    decoded = decode_sound(codec, data).sound
    assert decoded.samples.shape == (1, 4411) and decoded.rate == 22050


def test_another_number_of_channels_is_refused(peer):
    with pytest.raises(CodecError, match=r"codes 1 channel\(s\), not 2"):
        encode_sound(files.load(peer("encodec")), sound(channels=2), 0)


def test_a_model_loaded_again_has_the_same_fingerprint_and_another_has_not(peer):
    name = peer("encodec")
    again = files.load.__wrapped__(name)
    assert again.fingerprint == files.load(name).fingerprint != files.load(peer("chunked")).fingerprint
    data = encode_sound(files.load(name), sound(), 0).data
    assert files.codec_for(container.read(data), [peer("dac"), name]) is files.load(name)
    with pytest.raises(CodecError, match="written by other weights"):
        decode_sound(files.load(peer("chunked")), data)


@pytest.mark.parametrize(
    ("size", "level", "stream"),
    [
        ((2**27, 8000, 1), 0, b""),  # samples that no stream holds
        ((2**34, 8000, 1), 0, b""),
        ((3000, 8000, 64), 0, bytes(47)),
        ((3000, 999, 1), 0, bytes(47)),
        ((3000, 2**30, 1), 0, bytes(47)),
        ((0, 8000, 1), 0, b""),
        ((3000, 8000, 0), 0, bytes(47)),
        ((3000, 8000, 1), 0.5, bytes(47)),
        ((3000, 8000, 1), 3, bytes(47)),
        ((3000, 8000, 1), 0, bytes(46)),
        ((3000, 8000, 1), 0, bytes(48)),
        ((3000, 8000, 1), 0, bytes(46) + b"\1"),
        ((3000, 7919, 1), 0, bytes(47)),  # a rate without a small ratio to the codec's
    ],
)
def test_headers_and_streams_that_no_encoder_writes_are_refused(peer, size, level, stream):
    codec = files.load(peer("encodec"))
    with pytest.raises(CodecError) as caught:
        decode_sound(codec, container.write("audio", codec.fingerprint, level, size, [stream]))
    assert "\n" not in str(caught.value)


def test_scales_that_are_no_numbers_are_refused(peer):
    codec = files.load(peer("chunked"))
    content = container.read(encode_sound(codec, sound(400), 0).data)
    for scales in (np.float32("nan"), np.float32("inf"), np.float32(-1)):
        with pytest.raises(CorruptStream, match="positive number"):
            codec.decompress([scales.tobytes(), content.streams[1]], (400,), 0)


@pytest.mark.parametrize(
    "text", ["encodec:", "encodec:/no/such/folder", "dac:/no/such/folder", "compressai:mbt2018:x", "compressai:none:1", "compressai:"]
)
def test_a_peer_that_is_not_there_is_said_so_in_one_line(text):
    pytest.importorskip("transformers")
    with pytest.raises(CodecError) as caught:
        files.load(text)
    assert "\n" not in str(caught.value)


def test_a_damaged_folder_is_refused(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"none")
    with pytest.raises(CodecError, match="not a readable model"):
        files.load(f"encodec:{tmp_path}")


def test_a_folder_that_lacks_tensors_is_refused(peer, tmp_path):
    folder = Path(peer("encodec").partition(":")[2])
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(next(name for name in tensors if name.startswith("decoder.")))
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CodecError, match="not a whole model: 1 of its tensors"):
        files.load(f"encodec:{tmp_path}")


def test_pickled_weights_of_an_audio_peer_are_not_read(peer, tmp_path):
    folder = Path(peer("dac").partition(":")[2])
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(files.load(peer("dac")).model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(CodecError, match="not a readable model"):
        files.load(f"dac:{tmp_path}")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """State dicts of small models of CompressAI with random weights, by architecture."""
    from compressai.models import FactorizedPrior, JointAutoregressiveHierarchicalPriors, MeanScaleHyperprior

    folder, made = tmp_path_factory.mktemp("zoo"), {}
    for name, kind in (
        ("bmshj2018-factorized", FactorizedPrior),
        ("mbt2018-mean", MeanScaleHyperprior),
        ("mbt2018", JointAutoregressiveHierarchicalPriors),
    ):
        torch.manual_seed(0)
        made[name] = folder / f"{name}.pth"
        torch.save(kind(16, 24).state_dict(), made[name])
    return made


@pytest.mark.parametrize("architecture", ["bmshj2018-factorized", "mbt2018-mean", "mbt2018"])
def test_compressais_models_write_this_projects_files(checkpoints, architecture, picture):
    measured = candidate(f"compressai:{architecture}:3:{checkpoints[architecture]}")
    kind = modalities.MODALITIES["image"]()
    pixels = kind.from_tensor(picture(70, 93))
    file = sweep.measure_file(measured, kind, Item("one", "", kind.size(pixels)), pixels, 0)
    data = measured.encode(pixels, 0).data
    content = container.read(data)
    assert file.file_bytes == len(data) and content.size == (70, 93, 3) and len(content.streams) == len(measured.codec.streams)
    x = picture(70, 93)
    padded = torch.nn.functional.pad(x, (0, -93 % measured.codec.factor, 0, -70 % measured.codec.factor))
    theirs = measured.codec.model.compress(padded)
    assert [string[0] for string in theirs["strings"]] == content.streams
    decoded = measured.codec.model.decompress(theirs["strings"], theirs["shape"])["x_hat"][..., :70, :93]
    assert np.array_equal(kind.from_tensor(decoded), measured.decode(data).signal)
    assert file.symbols_equal is None, "the library does not say what it coded, so nothing was compared"
    assert file.estimated_rate * 70 * 93 == pytest.approx(8 * sum(map(len, content.streams)), rel=0.1, abs=256)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"g_a.0.weight": Attack()}, tmp_path / "bad.pth")
    with pytest.raises(CodecError, match="weights alone"):
        files.load(f"compressai:mbt2018-mean:1:{tmp_path / 'bad.pth'}")


def test_peers_are_measured_like_other_codecs(peer):
    kind = modalities.MODALITIES["audio"]()
    measured = candidate(peer("encodec"))
    assert measured.settings == [0, 1, 2] and measured.modality == "audio" and measured.name == "encodec"
    original = sound(8000)
    points = [sweep.measure_file(measured, kind, Item("one", "", kind.size(original)), original, level) for level in measured.settings]
    assert [point.symbols_equal for point in points] == [True] * 3
    for point, kbps in zip(points, (1.0, 2.0, 4.0)):
        assert point.rate == pytest.approx(kbps + 8 * point.header_bytes / 1000)
        assert point.estimated_rate == pytest.approx(kbps)
