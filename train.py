"""Train a codec from a config: ``python train.py fit --config image/tiny``, the same as ``neuralcodec train fit …``.

The objective is R + λD in bits per pixel and 255²·MSE. Every item of a batch draws its own rate level. Validation codes whole images to
real files, decodes them, compares every integer and logs real beside estimated rates.
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

import copy
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, EMAWeightAveraging, ModelCheckpoint, OnExceptionCheckpoint, ProgressBar, Timer
from lightning.pytorch.callbacks.progress import TQDMProgressBar
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from neuralcodec.codecs import CONFIGS
from neuralcodec.codecs.base import Codec, CodecError, build, first_line, load_weights, save_weights
from neuralcodec.codecs.files import decode_signal, encode_signal
from neuralcodec.datasets.images import central_crops, resolve_folder, to_tensor
from neuralcodec.datasets.modules import ImageDataModule
from neuralcodec.eval.metrics.image import psnr


class Validation(NamedTuple):
    """State of one validation epoch; no submodule of the trainer's module, or it would be saved and averaged with it."""

    codec: Codec  # frozen copy
    records: dict[float, dict[str, list[float]]]  # by level, then by measure: one value for each image


class RateDistortion(L.LightningModule):
    """Optimises R + λD over all rate levels of a codec at once.

    Args:
        codec: its spec, ``{"class_path": …, "init_args": …}``; see :func:`neuralcodec.codecs.base.build`.
        learning_rate: peak, of parameters whose codec asks for no other.
        final_learning_rate: at the end of the cosine, as a fraction of the peak.
        warmup_steps: of linear warm-up.
        init_from: exported weights to start from, instead of a closed-form or random initialisation; of another spec, what fits.
        closed_form_examples: training images (256×256) for the codec's closed-form initialisation; 0 for none.
        validation_levels: rate levels that validation codes; by default five, spread evenly.
        clip: largest norm of a step's gradient.
        level_balance: items weigh as λ to minus this power. The objective grows about as √λ, so 0.5 lets all levels count alike, 0 lets
            high rates dominate.
        decoder_only: train the synthesis alone, on latents as the coder rounds them: a last stage for weights of ``init_from``, whose rate
            stays what it is.
    """

    def __init__(
        self,
        codec: dict,
        learning_rate: float = 1e-3,
        final_learning_rate: float = 0.01,
        warmup_steps: int = 200,
        init_from: str | None = None,
        closed_form_examples: int = 288,
        validation_levels: list[float] | None = None,
        clip: float = 1.0,
        level_balance: float = 0.5,
        decoder_only: bool = False,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.codec: Codec = build(codec).train()
        if init_from:
            self._start_from(load_weights(init_from), init_from)
        if decoder_only:
            if not init_from:
                raise CodecError("decoder_only trains on top of weights: give them with init_from")
            for name, parameter in self.codec.named_parameters():
                parameter.requires_grad_(name.startswith(self.codec.decoder_parameters))
        self._validation: Validation | None = None

    def _start_from(self, source: Codec, path: str) -> None:
        """Take over what has the same name and shape in another codec; its tables too if only the decoder will be trained."""
        if self.hparams.decoder_only and source.spec != self.codec.spec:
            raise CodecError(f"{path} was made from another spec than this config's, and decoder_only needs the same")
        ours = self.codec.state_dict()
        known = {name: value for name, value in source.state_dict().items() if self.hparams.decoder_only or ".tables." not in name}
        taken = {name: value for name, value in known.items() if name in ours and value.shape == ours[name].shape}
        if not taken:
            raise CodecError(f"{path} has no weights in common with this config")
        if source.spec != self.codec.spec:
            fresh = sum(".tables." not in name for name in ours) - len(taken)
            print(f"of {path}: {len(taken)} of {len(known)} tensors taken over; {fresh} start afresh", file=sys.stderr)
        self.codec.load_state_dict(taken, strict=False)

    def on_fit_start(self) -> None:
        """Start from a closed-form solution, unless training goes on from weights or a checkpoint."""
        count = self.hparams.closed_form_examples
        fresh = self.trainer.global_step == 0 and not self.hparams.init_from
        if fresh and count and (data := getattr(self.trainer, "datamodule", None)) is not None:
            if self.trainer.is_global_zero:
                self.codec.cpu().initialise(data.examples(count))
                self.codec.to(self.device)
            for tensor in self.codec.state_dict().values():
                tensor.copy_(self.trainer.strategy.broadcast(tensor))

    def progress(self) -> float:
        """How much of the budget, steps or time, whichever ends first, is spent: 0…1."""
        trainer = self.trainer
        spent = [trainer.global_step / trainer.max_steps] if trainer.max_steps > 0 else []
        for callback in trainer.callbacks:
            if isinstance(callback, Timer) and (remaining := callback.time_remaining()) is not None:
                elapsed = callback.time_elapsed()
                spent.append(elapsed / max(elapsed + remaining, 1e-9))
        return min(max(spent, default=0.0), 1.0)

    def configure_optimizers(self):
        groups: dict[float, list[torch.nn.Parameter]] = defaultdict(list)
        for name, parameter in self.codec.named_parameters():
            if not parameter.requires_grad:
                continue
            groups[self.codec.learning_rate_scale(name)].append(parameter)
        peak = self.hparams.learning_rate
        optimizer = torch.optim.AdamW(
            [{"params": parameters, "lr": peak * scale} for scale, parameters in groups.items()], weight_decay=0.0
        )

        def factor(step: int) -> float:
            floor = self.hparams.final_learning_rate
            cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * self.progress()))
            return cosine * min(1.0, (step + 1) / max(self.hparams.warmup_steps, 1))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        self.clip_gradients(optimizer, gradient_clip_val or self.hparams.clip, gradient_clip_algorithm or "norm")

    def training_step(self, x: Tensor, batch_index: int) -> Tensor:
        if self.hparams.decoder_only:
            self.codec.eval()
        level = torch.rand(len(x), device=self.device) * (self.codec.levels - 1)
        output = self.codec(x, level)
        pixels = x.shape[-2] * x.shape[-1]
        bpp = torch.stack(list(output.bits.values())).sum(0) / pixels
        mse = (output.reconstruction.float() - x).square().mean((1, 2, 3)) * 255**2
        lmbda = self.codec.lmbda(level)
        weight = (lmbda / math.prod(self.codec.lmbda_range) ** 0.5) ** -self.hparams.level_balance
        loss = (weight * (bpp + lmbda * mse)).mean() + sum(output.losses.values())
        with torch.no_grad():
            quality = (10 * torch.log10(255**2 / mse)).mean()
        self.log("loss", loss, prog_bar=True)
        self.log("bpp", bpp.mean(), prog_bar=True)
        self.log("psnr", quality, prog_bar=True)
        for name, bits in output.bits.items():
            self.log(f"bpp_{name}", bits.mean() / pixels)
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def validation_levels(self) -> list[float]:
        if self.hparams.validation_levels is not None:
            return [self.codec.nearest_level(level) for level in self.hparams.validation_levels]
        count = min(5, self.codec.levels)
        return sorted({self.codec.nearest_level((self.codec.levels - 1) * i / max(count - 1, 1)) for i in range(count)})

    def on_validation_epoch_start(self) -> None:
        # A copy, so that the tables of this moment are not averaged into, or saved with, the weights being trained.
        frozen = copy.deepcopy(self.codec).eval()
        frozen.freeze()
        self._validation = Validation(frozen, {level: defaultdict(list) for level in self.validation_levels()})

    def validation_step(self, batch: tuple[list[str], Tensor], batch_index: int) -> None:
        assert self._validation is not None
        frozen, records = self._validation
        _, x = batch
        pixels = x.shape[-2] * x.shape[-1]
        for level, record in records.items():
            estimate = frozen(x, torch.full((1,), level, device=self.device))
            coded = encode_signal(frozen, x, level)
            decoded = decode_signal(frozen, coded.data)
            for name, symbols in coded.symbols.items():
                if not torch.equal(symbols, decoded.symbols[name]):
                    raise RuntimeError(f"decoding a file did not give back the symbols of stream {name!r} at level {level}")
            record["estimated_bpp"].append(float(sum(estimate.bits.values())) / pixels)
            record["bpp"].append(len(coded.data) * 8 / pixels)
            record["psnr"].append(psnr(x, decoded.signal))
            if batch_index == 0:
                self._show(f"level {level:g}", decoded.signal)

    def on_validation_epoch_end(self) -> None:
        assert self._validation is not None
        records = self._validation.records
        total = 0.0
        for level, record in records.items():
            means = {name: sum(values) / len(values) for name, values in record.items()}
            for name, value in means.items():
                self.log(f"val/level{level:g}/{name}", value, sync_dist=True)
            mse = 255**2 / 10 ** (means["psnr"] / 10)
            total += means["bpp"] + float(self.codec.lmbda(torch.tensor(level))) * mse
        self.log("val_loss", total / len(records), prog_bar=True, sync_dist=True)
        self._validation = None

    def _show(self, name: str, image: Tensor) -> None:
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(name, image[0].clamp(0, 1).cpu(), self.global_step)


def export(
    checkpoint: str | Path, out: str | Path, metadata: Mapping[str, str] | None = None, calibrate: str | Path | None = None
) -> bytes:
    """A training checkpoint (its averaged weights) to a weights file that ``encode`` and ``decode`` take.

    Args:
        metadata: text to keep in the file.
        calibrate: a folder of training images whose coded symbols shape the probability tables; without it, those are the model's own.

    Returns:
        The fingerprint of the weights.

    Raises:
        CodecError: not a checkpoint of this project.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        codec = build(content["hyper_parameters"]["codec"])
        weights = {name.removeprefix("codec."): value for name, value in content["state_dict"].items() if name.startswith("codec.")}
        codec.load_state_dict(weights)
    except FileNotFoundError:
        raise CodecError(f"there is no file {checkpoint}") from None
    except CodecError:
        raise
    except Exception as error:
        raise CodecError(f"{checkpoint} is not a training checkpoint of neuralcodec ({first_line(error)})") from None
    text = {"steps": str(content.get("global_step", "")), **(metadata or {})}
    examples = [to_tensor(pixels) for pixels in central_crops(resolve_folder(calibrate))] if calibrate else []
    return freeze_and_save(codec, out, text, examples)


def freeze_and_save(codec: Codec, out: str | Path, metadata: Mapping[str, str], examples: Sequence[Tensor] = ()) -> bytes:
    """Round the weights to their stored precision, build the tables that belong to those, calibrate them on ``examples`` if any, save."""
    for name, tensor in codec.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(codec.storage_dtype(name, tensor)))
    try:
        codec.freeze()
    except ValueError as error:
        raise CodecError(str(error)) from None
    if examples:
        codec.calibrate(examples)
    return save_weights(codec, out, metadata)


class LastCheckpoint(ModelCheckpoint):
    """``last.ckpt``, every three minutes and at the end, which Lightning's own schedule by time would leave out."""

    def __init__(self, folder: Path):
        super().__init__(dirpath=folder, save_last=True, train_time_interval=timedelta(minutes=3), enable_version_counter=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        trainer.save_checkpoint(Path(self.dirpath or ".") / "last.ckpt")


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
            EMAWeightAveraging(decay=0.999, use_buffers=False),
            LastCheckpoint(root / "checkpoints"),
            OnExceptionCheckpoint(root / "checkpoints", "interrupted"),
            TQDMProgressBar(refresh_rate=20),
        ]
        # Lightning refuses a callback whose switch is off.
        switches = {ProgressBar: config.enable_progress_bar, Checkpoint: config.enable_checkpointing}
        off = tuple(kind for kind, switch in switches.items() if switch is False)
        self.trainer_defaults["callbacks"] = [callback for callback in callbacks if not isinstance(callback, off)]


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


def main(arguments: list[str] | None = None) -> int:
    arguments = resolve_configs(sys.argv[1:] if arguments is None else arguments)
    torch.set_float32_matmul_precision("high")
    try:
        TrainCLI(
            RateDistortion,
            ImageDataModule,
            trainer_defaults=dict(TRAINER_DEFAULTS),
            save_config_kwargs={"overwrite": True},
            args=arguments,
        )
    except (CodecError, FileNotFoundError) as error:
        print(f"neuralcodec train: {error}", file=sys.stderr)
        return 1
    return 0
