"""What the training of every modality shares: R + λD over all rate levels, the schedule, validation by real files."""

from __future__ import annotations

import copy
import math
import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Timer
from torch import Tensor

from neuralcodec.codecs.base import Codec, CodecError, Output, build, load_weights


class Validation(NamedTuple):
    """State of one validation epoch; no submodule of the trainer's module, or it would be saved and averaged with it."""

    codec: Codec  # frozen copy
    records: dict[float, dict[str, list[float]]]  # by level, then by measure: one value for each item


class RateDistortion(L.LightningModule):
    """Optimises R + λD over all rate levels of a codec at once. A subclass says what R and D are.

    Args:
        codec: its spec, ``{"class_path": …, "init_args": …}``; see :func:`neuralcodec.codecs.base.build`.
        learning_rate: peak, of parameters whose codec asks for no other.
        final_learning_rate: at the end of the cosine, as a fraction of the peak.
        warmup_steps: of linear warm-up.
        init_from: exported weights to start from, instead of a closed-form or random initialisation; of another spec, what fits.
        closed_form_examples: training examples for the codec's closed-form initialisation; 0 for none.
        validation_levels: rate levels that validation codes; by default five, spread evenly.
        clip: largest norm of a step's gradient.
        level_balance: items weigh as λ to minus this power. Where the objective grows about as √λ, as with squared errors, 0.5 lets all
            levels count alike, 0 lets high rates dominate.
        decoder_only: train the synthesis alone, on latents as the coder rounds them: a last stage for weights of ``init_from``, whose rate
            stays what it is.
        betas: decay of the optimiser's means.
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
        betas: tuple[float, float] = (0.9, 0.999),
    ):
        super().__init__()
        self.save_hyperparameters()
        self.codec: Codec = build(codec).train()
        if self.codec.fits:
            raise CodecError(f"{type(self.codec).__name__} is fitted to each signal as that is encoded: there is nothing to train before")
        if init_from:
            self._start_from(load_weights(init_from), init_from)
        if decoder_only:
            if not init_from:
                raise CodecError("decoder_only trains on top of weights: give them with init_from")
            for name, parameter in self.codec.named_parameters():
                parameter.requires_grad_(name.startswith(self.codec.decoder_parameters))
        self._validation: Validation | None = None

    # What a subclass provides

    def objective(self, x: Tensor, level: Tensor, output: Output) -> Tensor:
        """What training lowers: :meth:`total` of the batch's R and D, a scalar. Also logs what people want to see of them."""
        raise NotImplementedError

    def validate(self, codec: Codec, batch: Any, level: float, index: int) -> dict[str, float]:
        """Code an item to a real file and back, and measure: by name, among others what :meth:`validated` needs.

        Args:
            codec: frozen.
            index: of the item; the first one is shown.
        """
        raise NotImplementedError

    def validated(self, means: Mapping[str, float], lmbda: float) -> float:
        """R + λD from the means over items."""
        raise NotImplementedError

    # What follows from it

    def _start_from(self, source: Codec, path: str) -> None:
        """Take over what has the same name and shape in another codec; all of it, with its tables, if only the decoder will be trained."""
        if self.hparams.decoder_only:
            if source.spec != self.codec.spec:
                raise CodecError(f"{path} was made from another spec than this config's, and decoder_only needs the same")
            self.codec.load_state_dict(source.state_dict())
            return
        ours = self.codec.state_dict()
        known = {name: value for name, value in source.state_dict().items() if ".tables." not in name}
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

    def configure_optimizers(self) -> Any:
        groups: dict[float, list[torch.nn.Parameter]] = defaultdict(list)
        for name, parameter in self.codec.named_parameters():
            if not parameter.requires_grad:
                continue
            groups[self.codec.learning_rate_scale(name)].append(parameter)
        peak = self.hparams.learning_rate
        return self.scheduled([{"params": parameters, "lr": peak * scale} for scale, parameters in groups.items()])

    def scheduled(self, groups: list[dict]) -> dict[str, Any]:
        """An optimiser of parameter groups, each with its peak learning rate, under the schedule that all share."""
        optimizer = torch.optim.AdamW(groups, betas=tuple(self.hparams.betas), weight_decay=0.0)

        def factor(step: int) -> float:
            floor = self.hparams.final_learning_rate
            cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * self.progress()))
            return cosine * min(1.0, (step + 1) / max(self.hparams.warmup_steps, 1))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        self.clip_gradients(optimizer, gradient_clip_val or self.hparams.clip, gradient_clip_algorithm or "norm")

    def decoded(self, x: Tensor) -> tuple[Tensor, Output]:
        """Every item's level, drawn for it, (B,), and what the codec makes of a batch."""
        if self.hparams.decoder_only:
            self.codec.eval()
        level = torch.rand(len(x), device=self.device) * (self.codec.levels - 1)
        return level, self.codec(x, level)

    def weights(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """λ of each item, and how much the item counts; (B,) each."""
        lmbda = self.codec.lmbda(level)
        return lmbda, (lmbda / math.prod(self.codec.lmbda_range) ** 0.5) ** -self.hparams.level_balance

    def total(self, level: Tensor, rate: Tensor, distortion: Tensor) -> Tensor:
        """Mean of R + λD, (B,) each, as the levels weigh."""
        lmbda, weight = self.weights(level)
        return (weight * (rate + lmbda * distortion)).mean()

    def training_step(self, x: Tensor, batch_index: int) -> Tensor | None:
        level, output = self.decoded(x)
        loss = self.objective(x, level, output) + sum(output.losses.values())
        self.log("loss", loss, prog_bar=True)
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
        frozen.bypass = False  # type: ignore[assignment]
        frozen.freeze()
        self._validation = Validation(frozen, {level: defaultdict(list) for level in self.validation_levels()})

    def validation_step(self, batch: Any, batch_index: int) -> None:
        assert self._validation is not None
        for level, record in self._validation.records.items():
            for name, value in self.validate(self._validation.codec, batch, level, batch_index).items():
                record[name].append(value)

    @staticmethod
    def compare(coded: Mapping[str, Tensor], decoded: Mapping[str, Tensor], level: float) -> None:
        """
        Raises:
            RuntimeError: a file did not give back what was coded.
        """
        for name, symbols in coded.items():
            if not torch.equal(symbols, decoded[name]):
                raise RuntimeError(f"decoding a file did not give back the symbols of stream {name!r} at level {level}")

    def on_validation_epoch_end(self) -> None:
        assert self._validation is not None
        records = self._validation.records
        total = 0.0
        for level, record in records.items():
            means = {name: sum(values) / len(values) for name, values in record.items()}
            for name, value in means.items():
                self.log(f"val/level{level:g}/{name}", value, sync_dist=True)
            total += self.validated(means, float(self.codec.lmbda(torch.tensor(level))))
        self.log("val_loss", total / len(records), prog_bar=True, sync_dist=True)
        self._validation = None
