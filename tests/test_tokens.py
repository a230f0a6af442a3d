"""Codecs of tokens: files, nested levels, streaming, arrays for others, and every config of theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from torch import Tensor

from neuralcodec.cli import main as cli
from neuralcodec.codecs import CONFIGS
from neuralcodec.codecs.audio.files import decode_sound, encode_sound
from neuralcodec.codecs.audio.streams import Encoder
from neuralcodec.codecs.audio.tokens import TokenCodec
from neuralcodec.codecs.audio.waveform import WaveformAnalysis, WaveformSynthesis
from neuralcodec.codecs.base import CodecError, build, load_weights, save_weights
from neuralcodec.datasets.audio import Sound
from neuralcodec.train import export
from neuralcodec.train import main as train

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice about workers and short epochs

RATE = 16000
QUANTIZERS = {
    "residual": ("ResidualVQ", {"stages": 4, "size": 16, "code_channels": 4}),
    "groups": ("ResidualVQ", {"stages": 2, "size": 8, "code_channels": None, "spherical": False, "groups": 2}),
    "fsq": ("FSQ", {"levels": [5, 3, 3], "groups": 2}),
    "binary": ("BinaryQuantizer", {"bits": 5}),
}


def noise(samples: int, channels: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(1, channels, samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def wave(kind: str, **arguments) -> dict:
    sizes = {"latent": 12, "width": 4, "strides": [4, 4, 5], "dilations": [1, 3], **arguments}
    return {"class_path": f"neuralcodec.codecs.audio.waveform.Waveform{kind}", "init_args": sizes}


def spectral(kind: str, levels: int) -> dict:
    sizes = {"latent": 12, "width": 8, "hidden": 16, "blocks": [1, 1], "window": 80, "hop": 40, "levels": levels, "knots": levels}
    return {"class_path": f"neuralcodec.codecs.audio.transforms.Spectral{kind}", "init_args": sizes}


@pytest.fixture(scope="module")
def make(tmp_path_factory) -> Callable[..., TokenCodec]:
    """A small codec whose codebooks have seen some sound, as a weights file holds it."""

    def run(quantizer: str = "residual", trunk: str = "waveform", calibrated: bool = False, **arguments) -> TokenCodec:
        name, options = QUANTIZERS[quantizer]
        part = {"class_path": f"neuralcodec.entropy.vector.{name}", "init_args": {"channels": 12, **options}}
        transforms = {"waveform": (wave("Analysis", **arguments), wave("Synthesis", **arguments))}
        transforms["spectral"] = (spectral("Analysis", 1), spectral("Synthesis", options.get("stages", 1)))
        analysis, synthesis = transforms[trunk]
        chosen = {"analysis": analysis, "synthesis": synthesis, "quantizer": part, "sampling_rate": RATE, "segment": 40}
        torch.manual_seed(0)
        codec = build({"class_path": "neuralcodec.codecs.audio.tokens.TokenCodec", "init_args": chosen})
        assert isinstance(codec, TokenCodec)
        with torch.no_grad():
            codec.quantizer.initialise(codec._analyse(codec.padded(noise(32000, seed=9)))[0].T)
            for parameter in codec.synthesis.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))  # some layers begin at zero
        codec.eval()
        codec.freeze()
        if calibrated:
            codec.calibrate([noise(16000, seed=seed) for seed in range(4)])
        path = tmp_path_factory.mktemp("tokens") / "small-tokens.safetensors"
        save_weights(codec, path)
        loaded = load_weights(path)
        assert isinstance(loaded, TokenCodec)
        return loaded

    return run


@pytest.mark.parametrize("calibrated", [False, True], ids=["packed", "prior"])
@pytest.mark.parametrize("quantizer", list(QUANTIZERS))
@pytest.mark.parametrize("trunk", ["waveform", "spectral"])
def test_files_give_back_the_tokens_and_forward_says_what_they_cost(make, quantizer, trunk, calibrated):
    codec = make(quantizer, trunk, calibrated)
    x = noise(9001)
    for level in {0, codec.levels - 1}:
        coded = encode_sound(codec, Sound(x[0].numpy(), RATE), level)
        decoded = decode_sound(codec, coded.data)
        assert torch.equal(coded.symbols["tokens"], decoded.symbols["tokens"])
        assert decoded.sound.samples.shape == (1, 9001)
        estimate = codec(x, torch.tensor([float(level)]))
        used = coded.symbols["tokens"].shape[1]
        assert torch.equal(estimate.symbols["tokens"][:, :used], coded.symbols["tokens"])
        assert (estimate.symbols["tokens"][:, used:] == -1).all()
        assert torch.allclose(estimate.reconstruction[0], torch.from_numpy(decoded.sound.samples), atol=1e-5)
        streams = codec.compress(x, level).streams
        slack = (7 if not calibrated else 64) * len(streams)  # of bits: what fills the last byte, and how the coder begins and ends
        assert 0 <= 8 * sum(map(len, streams)) - float(estimate.bits["tokens"]) <= slack


def test_levels_nest_and_cost_in_proportion(make):
    codec = make()
    x = noise(16000)
    most = codec.compress(x, 3)
    for level in range(4):
        coded = codec.compress(x, level)
        assert torch.equal(coded.symbols["tokens"], most.symbols["tokens"][:, : level + 1])
    assert sum(map(len, codec.compress(x, 1).streams)) * 2 == pytest.approx(sum(map(len, most.streams)), rel=0.02)


def test_levels_between_two_numbers_of_stages_are_rounded_and_refused_in_files(make):
    codec = make()
    assert codec.nearest_level(1.4) == 1 and codec.nearest_level(99) == 3
    coded = codec.compress(noise(4000), 1)
    with pytest.raises(ValueError):
        codec.decode_symbols(coded.streams, 1, 40, 0.25)


def test_stereo_is_two_signals_of_a_mono_codec(make):
    codec = make(calibrated=True)
    x = noise(5000, 2)
    coded = encode_sound(codec, Sound(x[0].numpy(), RATE), 3)
    decoded = decode_sound(codec, coded.data)
    assert decoded.sound.samples.shape == (2, 5000)
    assert coded.symbols["tokens"].shape[:2] == (2, 4)
    alone = codec.compress(x[:, 1:], 3)
    assert torch.equal(alone.symbols["tokens"][0], coded.symbols["tokens"][1])


def test_a_prior_takes_fewer_bytes_than_packing(make):
    packed, prior = (sum(map(len, make(calibrated=flag).compress(noise(32000, seed=5), 3).streams)) for flag in (False, True))
    assert prior < packed


@pytest.mark.parametrize("activation", ["elu", "snake"])
@pytest.mark.parametrize("chunk", [80, 720, 5000])
def test_streamed_tokens_are_those_of_the_whole(make, activation, chunk):
    codec = make(activation=activation)
    x = noise(20000)
    whole = codec.compress(x, 3)
    with Encoder(codec, 3, 1) as encoder:
        segments = [one for piece in x[0].split(chunk, 1) for one in encoder.push(piece)]
        segments += encoder.finish()
    assert [segment.payload for segment in segments] == whole.streams


@pytest.mark.parametrize("seconds", [1, 2])
def test_sounds_of_whole_segments_have_no_empty_one(make, seconds):
    """A codec without delay ends a sound where its last segment ends."""
    codec = make()
    samples = seconds * codec.segment * codec.hop
    coded = encode_sound(codec, Sound(noise(samples)[0].numpy(), RATE), 0)
    assert coded.symbols["tokens"].shape[-1] == seconds * codec.segment
    assert decode_sound(codec, coded.data).sound.samples.shape == (1, samples)


def test_codecs_that_look_ahead_do_not_stream_but_round_trip(make):
    codec = make(causal=False)
    assert not codec.causal
    with pytest.raises(CodecError), codec.streaming():
        pass
    coded = encode_sound(codec, Sound(noise(9001)[0].numpy(), RATE), 3)
    decoded = decode_sound(codec, coded.data)
    assert torch.equal(coded.symbols["tokens"], decoded.symbols["tokens"]) and decoded.sound.samples.shape == (1, 9001)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("strides", [[2, 3], [5], [2, 4, 5, 8]])
def test_waveform_transforms_keep_lengths_and_see_what_they_say(causal, strides):
    torch.manual_seed(0)
    arguments = {"latent": 6, "width": 4, "strides": strides, "dilations": [1, 3], "causal": causal}
    analysis, synthesis = WaveformAnalysis(**arguments), WaveformSynthesis(**arguments)
    frames, level = 12, torch.zeros(1)
    x = noise(frames * analysis.hop).requires_grad_()
    y = analysis(x, level)
    assert y.shape == (1, 6, frames) and synthesis(y, level).shape == x.shape
    y[..., 5].sum().backward()
    seen = x.grad[0, 0].nonzero()[:, 0]
    assert seen.min() <= 5 * analysis.hop and (int(seen.max()) == 6 * analysis.hop - 1 if causal else seen.max() > 6 * analysis.hop)
    y_hat = torch.randn(1, 6, frames, requires_grad=True)
    synthesis(y_hat, level)[..., 5 * analysis.hop].sum().backward()
    heard = y_hat.grad[0].abs().sum(0).nonzero()[:, 0]
    assert heard.max() == 5 if causal else heard.max() > 5


def test_tokens_are_those_of_the_file_and_sound_like_it(make):
    codec = make(calibrated=True)
    x = noise(7000)
    tokens = codec.tokens(x[0])
    assert tokens.indexes.dtype == np.int32 and tokens.frame_rate == 200 and tokens.codebook_sizes == (16,) * 4
    assert np.array_equal(tokens.indexes, codec.compress(x, 3).symbols["tokens"][0].numpy())
    decoded = codec.decompress(codec.compress(x, 3).streams, (7000, 1), 3.0).signal
    assert torch.allclose(codec.from_tokens(tokens.indexes, 7000), decoded[0], atol=1e-5)
    fewer = codec.tokens(x[0, 0], 1)
    assert np.array_equal(fewer.indexes, tokens.indexes[:2]) and len(fewer.codebook_sizes) == 2
    assert codec.from_tokens(fewer.indexes).shape == (1, tokens.indexes.shape[1] * codec.hop)


@pytest.mark.parametrize("indexes", [np.zeros((5, 3), int), np.full((4, 3), 16), np.full((4, 3), -1), np.zeros((4, 3)), np.zeros(4, int)])
def test_tokens_of_another_codec_are_refused(make, indexes):
    with pytest.raises(CodecError):
        make().from_tokens(indexes)


def test_training_passes_the_latent_through_while_bypassed(make):
    codec = make().train()
    codec.bypass = True
    output = codec(noise(4000), torch.tensor([0.0]))
    assert not output.losses and output.bits["tokens"] == 0 and (output.symbols["tokens"] == -1).all()
    codec.bypass = False
    assert codec(noise(4000), torch.tensor([0.0])).losses["quantizer"].isfinite()


@pytest.fixture
def sound(tmp_path) -> Path:
    soundfile.write(tmp_path / "speech.wav", noise(11025)[0].T.numpy(), 22050)
    return tmp_path / "speech.wav"


@pytest.fixture
def weights(make, tmp_path) -> Path:
    save_weights(make(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_command_line_writes_tokens_with_what_they_mean(sound, weights, capsys):
    assert cli(["tokens", str(sound), "-m", str(weights)]) == 0
    with np.load(sound.with_suffix(".npz")) as stored:
        tokens = stored["tokens"]
        assert tokens.shape == (4, 100) and stored["frame_rate"] == 200 and stored["codebook_sizes"].tolist() == [16] * 4
    assert cli(["tokens", str(sound), "-m", str(weights)]) == 1
    assert "-f overwrites" in capsys.readouterr().err
    for suffix in (".npy", ".json"):
        assert cli(["tokens", str(sound), "-m", str(weights), "-o", str(sound.with_suffix(suffix))]) == 0
    assert np.array_equal(np.load(sound.with_suffix(".npy")), tokens)
    assert json.loads(sound.with_suffix(".json").read_text())["tokens"] == tokens.tolist()
    capsys.readouterr()
    assert cli(["tokens", str(sound), "-m", str(weights), "--json", "--codebooks", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {"frame_rate": 200, "codebook_sizes": [16, 16], "tokens": tokens[:2].tolist()}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-o", "x.txt"], "go into"),
        (["--codebooks", "9"], "codebooks, not 9"),
        (["-m", "image-tiny"], "no tokens"),
        (["-m", "nothing"], "no model"),
    ],
)
def test_command_line_says_in_one_line_what_it_cannot_do(sound, weights, capsys, arguments, complaint):
    assert cli(["tokens", str(sound), "-m", str(weights), *arguments]) == 1
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


def narrow(spec: dict) -> dict:
    """A config's codec with few channels and codes."""
    few = {"latent": 16, "channels": 16, "width": 4, "hidden": 8, "blocks": [1, 1], "size": 4, "code_channels": 4, "bits": 4}
    arguments = {}
    for name, value in spec["init_args"].items():
        if isinstance(value, dict):
            arguments[name] = narrow(value)
        elif name == "levels" and isinstance(value, list):
            arguments[name] = [4, 3]
        else:
            arguments[name] = few.get(name, value) if value is not None else None
    return {**spec, "init_args": arguments}


@pytest.mark.parametrize(
    "config", [name for name, path in CONFIGS.items() if name.startswith("audio/") and ".tokens.TokenCodec" in path.read_text()]
)
def test_configs_train_and_write_files(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(CONFIGS[config].read_text())
    content["model"]["codec"] = narrow(content["model"]["codec"])
    content["model"] |= {"periods": [2], "windows": [256], "width": 2, "mel_windows": [256], "listen": 0}
    content["trainer"] |= {"accelerator": "cpu", "devices": 1, "max_steps": 2, "val_check_interval": 2}
    content["trainer"] |= {"enable_progress_bar": False, "enable_model_summary": False}
    content["data"] |= {"train": [str(tmp_path / "sounds")], "seconds": 0.5, "batch_size": 2, "workers": 0}
    content["data"] |= {"validation_limit": 1, "validation_seconds": 0.5}
    (tmp_path / "sounds").mkdir()
    for seed in range(4):
        soundfile.write(tmp_path / f"sounds/{seed}.wav", noise(16000, seed=seed)[0].T.numpy(), RATE)
    (tmp_path / "narrow.yaml").write_text(yaml.safe_dump(content))
    assert train(["fit", "--config", "narrow.yaml"]) == 0
    export("runs/checkpoints/last.ckpt", "model.safetensors", calibrate="sounds")
    codec = load_weights("model.safetensors")
    assert isinstance(codec, TokenCodec) and codec.prior.trained
    x = Sound(noise(codec.sampling_rate)[0].numpy(), codec.sampling_rate)
    coded = encode_sound(codec, x, codec.levels - 1)
    decoded = decode_sound(codec, coded.data)
    assert torch.equal(coded.symbols["tokens"], decoded.symbols["tokens"])
    assert decoded.sound.samples.shape == x.samples.shape
