"""Audio training: losses, discriminators, augmented crops, and the way from a folder of sounds to files."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from torch import Tensor

from neuralcodec.codecs.audio.discriminators import Discriminators
from neuralcodec.codecs.audio.files import decode_sound, encode_sound
from neuralcodec.codecs.audio.losses import Adversary, Balancer, Distortion, MelDistance, Spectra, feature_distance, si_sdr_shortfall
from neuralcodec.codecs.base import CodecError, load_weights
from neuralcodec.datasets.audio import Sound
from neuralcodec.datasets.augment import Augmentation, peaking
from neuralcodec.datasets.modules import AudioDataModule
from neuralcodec.datasets.sounds import PackedSounds, RandomSounds, read_at
from neuralcodec.eval.metrics.audio import mel_distance
from neuralcodec.train import export, main, modality
from neuralcodec.training.audio import AudioTraining

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice about workers and short epochs

RATE = 16000
ALL = dict.fromkeys(Distortion.NAMES, 1.0)
UNVARIED = Augmentation(speed=0, equaliser=0, mix=0, noise=0, level=0, polarity=0)


def voice(samples: int, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """Harmonics that come and go over a little noise, (1, samples) float32."""
    random = np.random.default_rng(seed)
    t = np.arange(samples) / rate
    pitch = 120 + 30 * seed + 20 * np.sin(2 * np.pi * 3 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 12))
    envelope = np.clip(np.sin(2 * np.pi * 2.5 * t), 0, 1)
    return (0.2 * envelope * harmonics + random.normal(0, 0.002, samples)).astype(np.float32)[None]


@pytest.fixture(scope="module")
def speech() -> Tensor:
    """(2, 1, 8000)"""
    return torch.from_numpy(np.stack([voice(8000, seed) for seed in range(2)]))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Sounds of several formats, rates and channels."""
    folder = tmp_path_factory.mktemp("recordings")
    for seed, (name, rate) in enumerate((("a/1.wav", RATE), ("a/2.flac", 22050), ("b/3.ogg", 44100), ("b/4.wav", 8000))):
        (folder / name).parent.mkdir(exist_ok=True)
        samples = voice(rate, seed, rate)
        soundfile.write(folder / name, np.repeat(samples, 1 + seed % 2, 0).T, rate)
    return folder


def distances(x: Tensor, x_hat: Tensor) -> dict[str, Tensor]:
    return Distortion(RATE, ALL)(Spectra(x), Spectra(x_hat))


def test_equal_signals_have_no_distance(speech):
    for x in (speech, torch.zeros(2, 1, 4000)):
        for name, distance in distances(x, x.clone()).items():
            assert distance.shape == (2,)
            assert torch.allclose(distance, torch.zeros(2), atol=1e-5), name


@pytest.mark.parametrize("name", Distortion.NAMES)
def test_gradients_of_silence_are_finite(name, speech):
    for x, start in ((torch.zeros(2, 1, 8000), torch.zeros(2, 1, 8000)), (speech, torch.zeros(2, 1, 8000)), (0 * speech, speech)):
        x_hat = start.clone().requires_grad_()
        distance = Distortion(RATE, {name: 1.0})(Spectra(x), Spectra(x_hat))[name]
        distance.sum().backward()
        assert distance.isfinite().all()
        assert x_hat.grad is not None and x_hat.grad.isfinite().all()


@pytest.mark.parametrize("name", Distortion.NAMES)
def test_more_noise_is_farther_away(name, speech):
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    near, far = (Distortion(RATE, {name: 1.0})(Spectra(speech), Spectra(speech + size * noise))[name] for size in (0.003, 0.03))
    assert (near < far).all()


def test_the_mel_distance_is_a_seventh_of_the_metric(speech):
    x_hat = speech + 0.01 * torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    ours = MelDistance(RATE)(Spectra(speech), Spectra(x_hat))
    metric = [mel_distance(Sound(a.numpy(), RATE), Sound(b.numpy(), RATE)) for a, b in zip(speech, x_hat)]
    assert ours.tolist() == pytest.approx([value / 7 for value in metric], rel=1e-4)


def test_si_sdr_falls_short_by_its_decibels(speech):
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))
    noise -= speech * (noise * speech).sum(-1, keepdim=True) / speech.square().sum(-1, keepdim=True)
    noise *= speech.square().mean(-1, keepdim=True).sqrt() / noise.square().mean(-1, keepdim=True).sqrt()
    for decibels in (0.0, 5.0, 10.0):
        expected = 10 * np.log10(10 ** (-decibels / 10) + 1e-3) + 30
        measured = si_sdr_shortfall(speech, 0.5 * (speech + 10 ** (-decibels / 20) * noise))
        assert measured.tolist() == pytest.approx([expected] * 2, abs=0.01)


def test_signals_shorter_than_half_a_window_have_distances(speech):
    for samples in (1, 31, 1000):
        x = speech[..., 3000 : 3000 + samples]
        assert all((distance > 0).all() for name, distance in distances(x, 0 * x).items())


def test_unknown_distances_are_refused():
    with pytest.raises(ValueError, match="no distance 'loudness'"):
        Distortion(RATE, {"loudness": 1.0})


def test_detached_spectra_pass_no_gradient(speech):
    x = speech.clone().requires_grad_()
    spectra = Spectra(x)
    detached = spectra.detached()
    assert torch.equal(detached.magnitude(256), spectra.magnitude(256))
    assert spectra.magnitude(256).requires_grad and not detached.magnitude(256).requires_grad


def test_balanced_gradients_have_the_shares_of_their_weights(speech):
    x_hat = (speech + 0.01).requires_grad_()
    losses = {"a": 1000 * (x_hat - speech).square().mean((1, 2)), "b": 1e-3 * x_hat.abs().mean((1, 2))}
    Balancer({"a": 3.0, "b": 1.0})(losses, x_hat, torch.tensor([2.0, 2.0])).backward()
    parts = [torch.autograd.grad(loss.sum(), x_hat, retain_graph=True)[0] for loss in losses.values()]
    a, b = (part / part.flatten(1).norm(dim=1).mean() for part in parts)
    assert torch.allclose(x_hat.grad, 2 * (0.75 * a + 0.25 * b), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
def test_discriminators_score_every_item(channels):
    x = Spectra(torch.randn(2, channels, 3000))
    judged = Discriminators(periods=(2, 5), windows=(256, 128), width=2)(x)
    assert [score.shape[:2] for score in judged.scores] == [(2, channels)] * 4
    assert [len(features) for features in judged.features] == [5, 5, 5, 5]
    assert all(feature.shape[:2] == (2, channels) for features in judged.features for feature in features)
    assert feature_distance(judged.features, judged.features).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", Adversary.KINDS)
def test_adversaries_want_the_opposite(kind):
    adversary = Adversary(kind)
    right, wrong = [torch.ones(2, 1, 4)], [torch.full((2, 1, 4), -1.0 if kind == "hinge" else 0.0)]
    assert adversary.discriminate(right, wrong).tolist() == [0.0, 0.0]
    assert adversary.deceive(right).tolist() == [0.0, 0.0]
    assert (adversary.deceive(wrong) > 0).all() and (adversary.discriminate(wrong, right) > 0).all()


def test_discriminators_learn_to_tell_noise_from_a_voice(speech):
    torch.manual_seed(0)
    judges, adversary = Discriminators((2, 3), (256,), 2), Adversary()
    optimizer = torch.optim.Adam(judges.parameters(), 5e-3)
    real, noise = Spectra(speech[..., 2000:5000]), Spectra(torch.randn(2, 1, 3000) * speech.std())
    losses = []
    for _ in range(20):
        loss = adversary.discriminate(judges(real).scores, judges(noise).scores).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.75 * losses[0]


def packed(folder: Path, cache: Path, **options) -> PackedSounds:
    return PackedSounds(sorted(folder.rglob("*.*")), RATE, cache=cache, **options)


def test_sounds_are_packed_at_one_rate(recordings, tmp_path):
    sounds = packed(recordings, tmp_path)
    assert [sound.shape for sound in sounds] == [(1, RATE)] * 4
    assert np.abs(sounds[0] / 32767 - read_at(recordings / "a/1.wav", RATE)).max() < 1e-4
    assert sounds[0].dtype == np.int16


def test_sounds_beyond_the_budget_are_refused(recordings, tmp_path):
    with pytest.raises(CodecError, match="more than the budget"):
        packed(recordings, tmp_path, budget=1000)
    assert not list(tmp_path.iterdir())


def test_crops_are_parts_of_sounds_and_repeat_with_the_seed(recordings, tmp_path):
    sounds = packed(recordings, tmp_path)
    first, again, other = (next(iter(RandomSounds(sounds, [[0, 1], [2, 3]], None, 8, 4000, UNVARIED, seed))) for seed in (1, 1, 2))
    assert first.shape == (8, 1, 4000)
    assert torch.equal(first, again) and not torch.equal(first, other)
    every = [sound[0] / np.float32(32767) for sound in sounds]
    for crop in first[:, 0].numpy():
        assert any(np.array_equal(crop, sound[start : start + 4000]) for sound in every for start in np.flatnonzero(sound == crop[0]))


def test_folders_are_drawn_from_by_their_shares(recordings, tmp_path):
    sounds = packed(recordings, tmp_path)
    thresholds = RandomSounds(sounds, [[0, 1], [2, 3]], [3.0, 1.0], 1, 4000, UNVARIED).thresholds
    assert thresholds.tolist() == pytest.approx([0.375, 0.75, 0.875, 1.0])
    with pytest.raises(CodecError, match="as many shares"):
        RandomSounds(sounds, [[0, 1], [2, 3]], [1.0], 1, 4000, UNVARIED)


def test_short_sounds_lie_in_silence(recordings, tmp_path):
    crops = next(iter(RandomSounds(packed(recordings, tmp_path), [[0, 1, 2, 3]], None, 4, 2 * RATE, UNVARIED)))
    assert crops.shape == (4, 1, 2 * RATE)
    assert ((crops != 0).sum(-1) <= RATE).all() and (crops.abs().amax(-1) > 0.05).all()


def augmented(x: np.ndarray, seed: int = 0, **options) -> np.ndarray:
    """What becomes of the beginning of ``x``."""
    settings = {**dict.fromkeys(("speed", "equaliser", "mix", "noise", "level", "polarity"), 0.0), **options}

    def crop(samples: int) -> np.ndarray:
        return x[:, :samples]

    return Augmentation(**settings)(crop, lambda samples: x[:, -samples:], 4000, RATE, np.random.default_rng(seed))


def test_speed_moves_the_pitch_by_as_much():
    tone = np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)[None].astype(np.float32)
    fast = augmented(tone, speed=1.0, speeds=(1.1, 1.1))[0]
    peak = np.abs(np.fft.rfft(fast * np.hanning(4000))).argmax() * RATE / 4000
    assert peak == pytest.approx(1100, abs=5)
    assert np.abs(fast).max() == pytest.approx(1.0, abs=0.02)


def test_augmentation_keeps_what_it_promises():
    x = np.concatenate([voice(RATE), 0.05 * np.random.default_rng(1).standard_normal((1, RATE)).astype(np.float32)], 1)
    assert np.array_equal(augmented(x), x[:, :4000])
    assert np.array_equal(augmented(x, polarity=1.0), -x[:, :4000])
    for seed in range(5):
        assert -30.01 <= 20 * np.log10(np.abs(augmented(x, seed, level=1.0)).max()) <= 0.01
        for step in ("mix", "noise"):
            added = augmented(x, seed, **{step: 1.0, f"{step}_snr": (10.0, 10.0)}) - x[:, :4000]
            assert 10 * np.log10(np.square(x[:, :4000]).mean() / np.square(added).mean()) == pytest.approx(10, abs=0.1)
    everything = augmented(x, 3, speed=1.0, equaliser=1.0, mix=1.0, noise=1.0, level=1.0, polarity=1.0)
    assert everything.shape == (1, 4000) and everything.dtype == np.float32 and np.abs(everything).max() <= 1.0001
    assert not augmented(np.zeros((1, 9000), np.float32), speed=1.0, equaliser=1.0, mix=1.0, noise=1.0, level=1.0).any()


def test_the_equaliser_does_what_its_response_says():
    delay = np.exp(-2j * np.pi * np.array([0.001, 0.125, 0.499]))
    assert (20 * np.log10(np.abs(peaking(delay, 0.125, -9.0, 1.0)))).tolist() == pytest.approx([0, -9, 0], abs=0.01)


def test_the_data_module_holds_files_out(recordings, tmp_path):
    data = AudioDataModule([str(recordings / "a"), str(recordings / "b")], validation_limit=2, rate=RATE, cache=str(tmp_path), seconds=0.25)
    data.setup("fit")
    held = {path.name for path in data.whole.files}
    assert held == {"1.wav", "4.wav"} and len(data.crops.sounds) == 2
    name, x = data.whole[1]
    assert (name, x.shape) == ("4", (1, RATE))
    assert data.examples(3).shape == (3, 1, 4000)


TRUNK = {"latent": 8, "width": 16, "hidden": 32, "blocks": [1, 1]}
PART = "neuralcodec.codecs.audio.transforms.Spectral"
CODEC = {
    "class_path": "neuralcodec.codecs.audio.scalar.ScalarCodec",
    "init_args": {
        "analysis": {"class_path": f"{PART}Analysis", "init_args": TRUNK},
        "synthesis": {"class_path": f"{PART}Synthesis", "init_args": TRUNK},
        "prior": {"class_path": "neuralcodec.entropy.causal.CausalPrior", "init_args": {"channels": 8}},
        "latent": 8,
        "sampling_rate": RATE,
    },
}
CHECKPOINT = Path("runs/checkpoints/last.ckpt")
STAGE = ("--model.distortion", '{"mel": 1.0, "adversarial": 0.1, "features": 0.2}', "--model.width", "2", "--model.periods", "[2, 3]")


@pytest.fixture
def fit(tmp_path, monkeypatch, recordings) -> Callable[..., int]:
    """Train a small codec for two steps, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(yaml.safe_dump({"model": {"codec": CODEC}}))

    def run(*arguments: str) -> int:
        return main(
            [
                *("fit", "--config", "small.yaml", "--data.train", f"[{recordings}]", "--data.validation_limit", "1"),
                *("--data.seconds", "0.25", "--data.batch_size", "2", "--data.workers", "0", "--model.validation_levels", "[20]"),
                *("--model.mel_windows", "[64, 256]", "--trainer.accelerator", "cpu", "--trainer.devices", "1"),
                *("--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.log_every_n_steps", "1"),
                *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"),
                *arguments,
            ]
        )

    return run


def logged() -> dict[str, float]:
    with max(Path("runs").rglob("metrics.csv"), key=lambda path: path.stat().st_mtime).open() as file:
        return {name: float(value) for row in csv.DictReader(file) for name, value in row.items() if value}


def test_an_audio_codec_trains_validates_exports_and_codes(fit, tmp_path, recordings):
    assert fit() == 0
    values = logged()
    assert {"loss", "kbps", "distortion", "mel", "stft", "wave", "learning_rate", "val_loss", "val/level20/si_sdr"} <= values.keys()
    assert values["val/level20/kbps"] > 0
    assert export(CHECKPOINT, tmp_path / "a.safetensors") != export(CHECKPOINT, tmp_path / "b.safetensors", calibrate=recordings)
    codec = load_weights(tmp_path / "b.safetensors")
    coded = encode_sound(codec, Sound(voice(20000), RATE), 30)
    decoded = decode_sound(codec, coded.data)
    assert decoded.sound.samples.shape == (1, 20000)
    assert all(torch.equal(decoded.symbols[name], symbols) for name, symbols in coded.symbols.items())


def test_discriminators_and_codec_train_in_turn(fit, tmp_path):
    assert fit(*STAGE) == 0
    values = logged()
    assert {"discriminators", "adversarial", "features", "mel"} <= values.keys() and "stft" not in values
    content = torch.load(CHECKPOINT, weights_only=True)
    assert content["global_step"] == 2 and len(content["optimizer_states"]) == 2
    assert any(name.startswith("discriminators.") for name in content["state_dict"])
    export(CHECKPOINT, tmp_path / "model.safetensors")
    assert not any("judges" in name for name in load_weights(tmp_path / "model.safetensors").state_dict())

    assert fit(*STAGE, "--ckpt_path", str(CHECKPOINT), "--trainer.max_steps", "4") == 0
    newest = max(Path("runs/checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    assert torch.load(newest, weights_only=True)["global_step"] == 4


def test_stages_follow_each_other(fit, tmp_path):
    assert fit("--model.warmup_bypass", "2", "--model.balance", "true") == 0
    assert logged()["kbps"] == 0
    export(CHECKPOINT, tmp_path / "first.safetensors")
    options = ("--model.init_from", str(tmp_path / "first.safetensors"), "--model.decoder_only", "true", "--model.learning_rate", "0.01")
    assert fit(*options) == 0
    before, after = load_weights(tmp_path / "first.safetensors").state_dict(), torch.load(CHECKPOINT, weights_only=True)["state_dict"]
    moved = {name for name, value in before.items() if not torch.allclose(value.float(), after[f"codec.{name}"].float(), atol=1e-6)}
    assert moved  # and so not resumed from the first stage's end, which lies in the same folder
    assert all(name.startswith(("synthesis.", "inverse_gain.")) for name in moved)
    assert before["prior.tables.frequencies"].numel()  # which the second stage had, to round as the coder does


def test_an_interrupted_run_leaves_a_checkpoint(fit, monkeypatch):
    def stop(module, x, level, output):
        if module.trainer.global_step == 1:
            raise KeyboardInterrupt
        return objective(module, x, level, output)

    objective = AudioTraining.objective
    monkeypatch.setattr(AudioTraining, "objective", stop)
    with pytest.raises(SystemExit):
        fit()
    assert torch.load(CHECKPOINT.with_name("interrupted.ckpt"), weights_only=True)["global_step"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model.distortion", '{"loudness": 1.0}'), "no distance 'loudness'"),
        (("--model.mel_windows", "[33]"), "multiples of 32"),
        (("--data.train", "[no/such/folder]"), "no folder"),
        (("--data.budget_gb", "0.00001", "--data.cache", "elsewhere"), "more than the budget"),
        (("--model.codec.class_path", "neuralcodec.codecs.text.Some"), "nothing trains"),
        (("--config", "missing.yaml"), "not a readable config"),
    ],
)
def test_what_cannot_be_trained_is_said_in_a_line(options, message, fit, capsys):
    assert fit(*options) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_the_codec_chooses_what_trains_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, class_path in (("a", "neuralcodec.codecs.audio.scalar.ScalarCodec"), ("i", "neuralcodec.codecs.image.Hyperprior")):
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"model": {"codec": {"class_path": class_path}}}))
        Path(f"{name}-fit.yaml").write_text(yaml.safe_dump({"fit": {"model": {"codec": {"class_path": class_path}}}}))
    assert [modality(["fit", "--config", f"{name}.yaml"]) for name in ("a", "i", "a-fit", "i-fit")] == ["audio", "image"] * 2
    assert modality(["fit", "--config=i.yaml", "-c", "a.yaml"]) == "audio"
    assert modality(["fit", "--config=i.yaml", "--model.codec", '{"class_path": "neuralcodec.codecs.audio.scalar.ScalarCodec"}']) == "audio"
    assert modality(["fit", "--help"]) == modality([]) == "image"
