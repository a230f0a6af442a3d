"""Training: every config that ships trains, exports, and writes files; resuming, fine-tuning, damaged data."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

from neuralcodec import codecs
from neuralcodec.codecs import CONFIGS
from neuralcodec.codecs.base import CodecError, build, load_weights
from neuralcodec.codecs.files import decode_signal, encode_signal
from neuralcodec.datasets.images import to_pixels
from neuralcodec.train import export, main, moving_average, resolve_configs
from neuralcodec.training.image import ImageTraining

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice about workers and short epochs


@pytest.fixture(scope="module")
def photographs(tmp_path_factory, picture) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for seed in range(3):
        Image.fromarray(to_pixels(picture(96, 96, seed=seed))).save(folder / f"{seed}.png")
    return folder


@pytest.fixture
def fit(tmp_path, monkeypatch, photographs) -> Callable[..., int]:
    """Train for two steps on 64×64 crops, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(config: str | Path, *arguments: str) -> int:
        return main(
            [
                "fit",
                *("--config", str(config)),
                *("--data.train", f"[{photographs}]", "--data.validation", str(photographs), "--data.validation_limit", "1"),
                *("--data.size", "64", "--data.scales", "[1.0, 1.5]", "--data.batch_size", "2", "--data.workers", "0"),
                *("--model.closed_form_examples", "0", "--model.validation_levels", "[20]"),
                *(
                    "--trainer.accelerator",
                    "cpu",
                    "--trainer.devices",
                    "1",
                    "--trainer.max_steps",
                    "2",
                    "--trainer.val_check_interval",
                    "2",
                ),
                *("--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false", "--trainer.log_every_n_steps", "1"),
                *arguments,
            ]
        )

    return run


@pytest.fixture
def quick(tmp_path, small) -> Path:
    """A config of a small codec."""
    path = tmp_path / "quick.yaml"
    path.write_text(yaml.safe_dump({"model": {"codec": small("mean-scale").spec}}))
    return path


CHECKPOINT = Path("runs/checkpoints/last.ckpt")


def logged() -> list[dict[str, str]]:
    with max(Path("runs").rglob("metrics.csv"), key=lambda path: path.stat().st_mtime).open() as file:
        return list(csv.DictReader(file))


FITTED = [name for name, path in CONFIGS.items() if codecs.FITTED in path.read_text()]  # as a part of encoding


@pytest.mark.parametrize("config", [name for name in CONFIGS if name.startswith("image/") and name not in FITTED])
def test_every_image_config_trains_exports_and_codes(config, fit, tmp_path, picture):
    assert fit(config) == 0
    export(CHECKPOINT, tmp_path / "model.safetensors", {"note": config})
    codec = load_weights(tmp_path / "model.safetensors")
    assert codec.metadata["steps"] == "2"
    assert codec.metadata["note"] == config
    assert codec.spec == yaml.safe_load(CONFIGS[config].read_text())["model"]["codec"]
    x = picture(70, 90)
    coded = encode_signal(codec, x, 30)
    decoded = decode_signal(codec, coded.data)
    assert decoded.signal.shape == x.shape
    assert all(torch.equal(decoded.symbols[name], symbols) for name, symbols in coded.symbols.items())


def test_validation_logs_real_beside_estimated_rates(fit, quick):
    assert fit(quick) == 0
    values = {name: float(value) for row in logged() for name, value in row.items() if value}
    assert values["val/level20/bpp"] == pytest.approx(values["val/level20/estimated_bpp"], rel=0.01, abs=40 * 8 / 96**2)
    assert values["val/level20/psnr"] > 5
    assert {"loss", "bpp", "bpp_y", "bpp_z", "psnr", "learning_rate", "val_loss"} <= values.keys()


def test_training_goes_on_from_a_checkpoint(fit, quick):
    assert fit(quick) == 0
    first = torch.load(CHECKPOINT, weights_only=True)
    assert fit(quick, "--ckpt_path", str(CHECKPOINT), "--trainer.max_steps", "5", "--trainer.val_check_interval", "1") == 0
    # The first checkpoint stays where it is: the newer one takes another name or its place.
    newest = max(Path("runs/checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    second = torch.load(newest, weights_only=True)
    assert (first["global_step"], second["global_step"]) == (2, 5)
    assert first["state_dict"].keys() == second["state_dict"].keys()
    assert any(not torch.equal(first["state_dict"][name], second["state_dict"][name]) for name in first["state_dict"])


def test_training_starts_from_exported_weights(fit, quick, weights, small):
    assert fit(quick, "--model.init_from", str(weights("mean-scale")), "--model.learning_rate", "1e-9") == 0
    state = torch.load(CHECKPOINT, weights_only=True)["state_dict"]
    for name, parameter in small("mean-scale").named_parameters():
        assert torch.allclose(state[f"codec.{name}"], parameter, atol=1e-6), name


def test_weights_of_another_spec_are_taken_where_they_fit(quick, weights, capsys):
    spec = yaml.safe_load(quick.read_text())["model"]["codec"]
    model = ImageTraining(spec, init_from=str(weights("scale")))
    source, fresh = load_weights(weights("scale")), build(spec)
    shared = {name for name, value in source.named_parameters() if name in dict(fresh.named_parameters())}
    shared = {name for name in shared if source.get_parameter(name).shape == fresh.get_parameter(name).shape}
    assert shared and all(torch.equal(model.codec.get_parameter(name), source.get_parameter(name)) for name in shared)
    assert "taken over" in capsys.readouterr().err


def test_the_decoder_alone_needs_weights_of_its_own_spec(fit, quick, weights, capsys):
    assert fit(quick, "--model.init_from", str(weights("scale")), "--model.decoder_only", "true") == 1
    assert "another spec" in capsys.readouterr().err


def test_folders_without_images_are_refused(fit, quick, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert fit(quick, "--data.train", f"[{tmp_path / 'empty'}]") == 1
    assert "no images" in capsys.readouterr().err
    assert fit(quick, "--data.train", "[no/such/folder]") == 1
    assert "no folder" in capsys.readouterr().err


def test_closed_form_initialisation_compresses_from_the_start(fit, quick, tmp_path, picture):
    folder = tmp_path / "large"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(to_pixels(picture(272, 272, seed=seed))).save(folder / f"{seed}.png")
    options = (
        "--data.train",
        f"[{folder}]",
        "--model.closed_form_examples",
        "4",
        "--data.scales",
        "[1.0]",
        "--model.learning_rate",
        "1e-9",
    )
    assert fit(quick, *options) == 0
    export(CHECKPOINT, tmp_path / "model.safetensors")
    codec = load_weights(tmp_path / "model.safetensors")
    x = picture(128, 128, seed=1)
    decoded = decode_signal(codec, encode_signal(codec, x, 63).data)
    assert float((decoded.signal - x).square().mean()) < 0.2 * float(x.var())


def test_every_process_takes_over_the_closed_form_solution(small):
    """Distributed training shares gradients, not weights: processes that start apart stay apart."""
    module = ImageTraining(small("mean-scale").spec)
    solution = {name: torch.full_like(tensor, 0.5) for name, tensor in module.codec.state_dict().items()}
    sent = iter(solution.values())
    module._trainer = SimpleNamespace(
        global_step=0, is_global_zero=False, datamodule=object(), strategy=SimpleNamespace(broadcast=lambda _: next(sent))
    )
    module.on_fit_start()
    for name, tensor in module.codec.state_dict().items():
        assert torch.equal(tensor, solution[name]), name


def test_export_calibrates_tables_on_images(fit, quick, tmp_path, photographs):
    assert fit(quick) == 0
    plain, calibrated = tmp_path / "plain.safetensors", tmp_path / "calibrated.safetensors"
    assert export(CHECKPOINT, plain) != export(CHECKPOINT, calibrated, calibrate=photographs)
    assert not torch.equal(load_weights(plain).y_model.tables.frequencies, load_weights(calibrated).y_model.tables.frequencies)


@pytest.mark.parametrize("content", [b"", b"text\n", bytes(100)])
def test_what_is_no_checkpoint_is_not_exported(content, tmp_path):
    (tmp_path / "bogus.ckpt").write_bytes(content)
    for name in ("bogus.ckpt", "missing.ckpt"):
        with pytest.raises(CodecError):
            export(tmp_path / name, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_shipped_configs_are_found_by_name(tmp_path):
    assert resolve_configs(["fit", "--config", "image/tiny"]) == ["fit", "--config", str(CONFIGS["image/tiny"])]
    assert resolve_configs(["fit", "--config=image/tiny.yaml", "--x"]) == ["fit", f"--config={CONFIGS['image/tiny']}", "--x"]
    assert resolve_configs(["fit", "--config", str(tmp_path)]) == ["fit", "--config", str(tmp_path)]


def test_what_is_fitted_to_each_picture_is_not_trained(fit, capsys):
    assert fit("image/coin") == 1
    error = capsys.readouterr().err
    assert "fitted to each signal" in error and "Traceback" not in error


@pytest.mark.parametrize("config", list(CONFIGS))
def test_configs_open_with_the_command_that_runs_them(config):
    first = CONFIGS[config].read_text().splitlines()[0]
    assert first.startswith("# ")
    assert ("encode" if config in FITTED else "fit --config") in first
    assert config in first
    assert build(yaml.safe_load(CONFIGS[config].read_text())["model"]["codec"]).streams


def test_a_few_steps_lower_the_objective(small, picture):
    torch.manual_seed(0)
    module = ImageTraining(small("mean-scale").spec)
    x, level = torch.cat([picture(64, 64), picture(64, 64, seed=1)]), torch.tensor([40.0, 40.0])
    optimizer = torch.optim.Adam(module.codec.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        output = module.codec(x, level)
        mse = (output.reconstruction - x).square().mean() * 255**2
        loss = sum(bits.mean() for bits in output.bits.values()) / 64**2 + float(module.codec.lmbda(level)[0]) * mse
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_the_average_of_weights_forgets_where_training_began() -> None:
    average = torch.zeros(3)
    for count in range(1, 200):
        average = moving_average(average, torch.ones(3), count)
    assert (average > 0.999).all()
    settled = moving_average(torch.zeros(1), torch.ones(1), torch.tensor(10**6))
    assert settled.item() == pytest.approx(0.001, rel=1e-3)
