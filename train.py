"""Train a codec from a config: ``python train.py fit --config image/tiny``, the same as ``neuralcodec train fit …``.

The objective is R + λD; the module of the codec's modality (:mod:`neuralcodec.training`) says what R and D are. Every item of a batch draws
its own rate level. Validation codes whole items to real files, decodes them, compares every integer, logs real beside estimated rates.
"""

from __future__ import annotations

if __name__ == "__main__":
    # Run as a script: forget the checkout's root, whose folder names would hide other packages, and go on as the installed module.
    import sys
    from pathlib import Path

    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [entry for entry in sys.path if str(Path(entry or ".").resolve()) != here]
    from neuralcodec import train

    raise SystemExit(train.main())

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, ProgressBar, WeightAveraging
from lightning.pytorch.callbacks.progress import TQDMProgressBar
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from neuralcodec.codecs import CONFIGS
from neuralcodec.codecs.base import CodecError, first_line
from neuralcodec.training.export import export, freeze_and_save

MODULES = {  # by modality, or module of it: what trains its codecs, and on what data
    "image": ("neuralcodec.training.image.ImageTraining", "neuralcodec.datasets.modules.ImageDataModule"),
    "audio": ("neuralcodec.training.audio.AudioTraining", "neuralcodec.datasets.modules.AudioDataModule"),
    "video.recurrent": ("neuralcodec.training.clips.ClipTraining", "neuralcodec.datasets.modules.ClipDataModule"),
    "video": ("neuralcodec.training.video.ClipFitting", "neuralcodec.training.video.ClipData"),
}


class LastCheckpoint(ModelCheckpoint):
    """``last.ckpt``, every three minutes and at the end, which Lightning's own schedule by time would leave out; and ``interrupted.ckpt``.

    Lightning has a callback for the latter. With that among the callbacks, a run without ``--ckpt_path`` goes on from whatever checkpoint
    lies in its folder: a stage that is to start from ``init_from`` would be the end of the stage before it once more.
    """

    def __init__(self, folder: Path):
        super().__init__(dirpath=folder, save_last=True, train_time_interval=timedelta(minutes=3), enable_version_counter=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        trainer.save_checkpoint(Path(self.dirpath or ".") / "last.ckpt")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if trainer.global_step:
            trainer.save_checkpoint(Path(self.dirpath or ".") / "interrupted.ckpt")


def moving_average(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Exponential, with a decay that grows to ``DECAY``: an average of few steps does not remember where training began.

    Args:
        count: steps in the average so far.
    """
    decay = min(DECAY, (1 + float(count)) / (10 + float(count)))
    return average.lerp(current.to(average.dtype), 1 - decay)


class TrainCLI(LightningCLI):
    """LightningCLI with this project's defaults: EMA, checkpoints every three minutes, CSV and TensorBoard logs, all below ``runs``."""

    def before_instantiate_classes(self) -> None:
        config = (self.config[self.subcommand] if self.subcommand else self.config).trainer
        if "bf16" in str(config.precision) and not torch.cuda.is_available():
            warnings.warn("no GPU: training in 32-bit, since CPUs emulate bf16 slowly", stacklevel=2)
            config.precision = "32-true"
        root = Path(config.default_root_dir)
        if config.logger is None:
            config.logger = [CSVLogger(root, name="csv"), TensorBoardLogger(root, name="tensorboard")]
        callbacks = [
            WeightAveraging(use_buffers=False, avg_fn=moving_average),
            LastCheckpoint(root / "checkpoints"),
            TQDMProgressBar(refresh_rate=20),
        ]
        # Lightning refuses a callback whose switch is off.
        switches = {ProgressBar: config.enable_progress_bar, Checkpoint: config.enable_checkpointing}
        off = tuple(kind for kind, switch in switches.items() if switch is False)
        self.trainer_defaults["callbacks"] = [callback for callback in callbacks if not isinstance(callback, off)]


DECAY = 0.999  # of the average of weights, a step
TRAINER_DEFAULTS: dict[str, Any] = {
    "default_root_dir": "runs",
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 50,
}


def resolve_configs(arguments: list[str]) -> list[str]:
    """Let ``--config image/tiny`` name a config that the package ships."""
    resolved = list(arguments)
    for position, argument in enumerate(arguments):
        prefix, value = "", argument
        if argument.startswith("--config="):
            prefix, value = "--config=", argument.removeprefix("--config=")
        elif position == 0 or arguments[position - 1] not in ("--config", "-c"):
            continue
        if not Path(value).exists() and value.removesuffix(".yaml") in CONFIGS:
            resolved[position] = prefix + str(CONFIGS[value.removesuffix(".yaml")])
    return resolved


def modality(arguments: Sequence[str]) -> str:
    """The modality of the codec that a command line's configs and options name: the package below ``neuralcodec.codecs`` that it is in.

    Without a codec, as for ``--help``, images.

    Raises:
        CodecError: a config is not readable, or nothing trains its modality.
    """
    class_path = "neuralcodec.codecs.image"
    for option, value in _options(arguments):
        codec: Any = None
        if option in ("--config", "-c"):
            content = _document(value) or {}
            command = content.get(arguments[0]) if arguments else None  # a config may hold the options of each command below its name
            codec = _below(command if isinstance(command, Mapping) else content, "model", "codec")
        elif option == "--model":
            codec = _below(_document(value), "codec")
        elif option == "--model.codec":
            codec = _document(value)
        elif option == "--model.codec.class_path":
            codec = {"class_path": value}
        class_path = str(_below(codec, "class_path") or class_path)
    found = next((name for name in MODULES if f"{class_path}.".startswith(f"neuralcodec.codecs.{name}.")), None)
    if found is None:
        raise CodecError(f"nothing trains {class_path}: codecs are those of {', '.join(f'neuralcodec.codecs.{name}' for name in MODULES)}")
    return found


def _options(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """``--name value`` and ``--name=value`` alike."""
    pairs = []
    for argument, following in zip(arguments, [*arguments[1:], ""]):
        name, equals, value = argument.partition("=")
        pairs.append((name, value if equals else following))
    return pairs


def _document(value: str) -> Any:
    """A YAML file, or JSON as it stands on a command line."""
    try:
        return yaml.safe_load(Path(value).read_text() if not value.lstrip().startswith("{") else value)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CodecError(f"{value} is not a readable config ({first_line(error)})") from None


def _below(document: Any, *names: str) -> Any:
    for name in names:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def main(arguments: list[str] | None = None) -> int:
    arguments = resolve_configs(sys.argv[1:] if arguments is None else arguments)
    torch.set_float32_matmul_precision("high")
    try:
        model, data = map(_class, MODULES[modality(arguments)])
        TrainCLI(model, data, trainer_defaults=dict(TRAINER_DEFAULTS), save_config_kwargs={"overwrite": True}, args=arguments)
    except (CodecError, FileNotFoundError) as error:
        print(f"neuralcodec train: {error}", file=sys.stderr)
        return 1
    return 0


__all__ = ["TrainCLI", "export", "freeze_and_save", "main", "modality", "resolve_configs"]
