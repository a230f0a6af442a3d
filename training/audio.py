"""Training of audio codecs: kbit/s and a weighted sum of distances between sounds; validation in real kbit/s, SI-SDR, PESQ and STOI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from neuralcodec.codecs.audio.discriminators import Discriminators, Judgements
from neuralcodec.codecs.audio.files import decode_sound, encode_sound
from neuralcodec.codecs.audio.losses import MEL_WINDOWS, Adversary, Balancer, Distortion, Spectra, feature_distance
from neuralcodec.codecs.base import Codec, CodecError, Output
from neuralcodec.datasets.audio import Sound
from neuralcodec.eval.metrics import audio as metrics
from neuralcodec.training.base import RateDistortion

DISTORTION = {"mel": 1.0, "stft": 1.0, "wave": 1.0}
AGAINST = ("adversarial", "features")  # the distances that discriminators define
JUDGED = ("si_sdr", "pesq_wb", "stoi")  # metrics of validation


class AudioTraining(RateDistortion):
    """R in kbit/s, D a weighted sum of distances, of which discriminators may define two: then they and the codec are trained in turn.

    Args:
        codec: see :class:`~neuralcodec.training.base.RateDistortion`, as all that is not here.
        distortion: weights in D, by name: ``mel``, ``stft``, ``wave``, ``si_sdr`` (:mod:`neuralcodec.codecs.audio.losses`), and
            ``adversarial``, ``features`` for a second stage with discriminators; by default 1 each of the first three.
        mel_windows: scales of the mel distance, in samples; fewer are faster and estimate the same.
        warmup_bypass: steps in which the codec's quantizer is bypassed, as it begins.
        balance: D's parts get gradients of the sizes that their weights ask for, as EnCodec's are, whatever their own scales are.
        periods, windows, width: of the discriminators.
        adversary: what they are trained on, ``lsgan`` or ``hinge``.
        adversarial_start: steps in which they only learn, and do not yet count in D.
        listen: how many validation items PESQ and STOI, the slow metrics, are computed for.
    """

    def __init__(
        self,
        codec: dict,
        learning_rate: float = 5e-4,
        betas: tuple[float, float] = (0.8, 0.99),
        closed_form_examples: int = 0,
        distortion: dict[str, float] | None = None,
        mel_windows: Sequence[int] = MEL_WINDOWS,
        warmup_bypass: int = 0,
        balance: bool = False,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        windows: Sequence[int] = (1024, 512, 256),
        width: int = 16,
        adversary: str = "lsgan",
        adversarial_start: int = 0,
        listen: int = 4,
        **options: Any,
    ):
        super().__init__(codec, learning_rate=learning_rate, betas=betas, closed_form_examples=closed_form_examples, **options)
        weights = {name: float(weight) for name, weight in (DISTORTION if distortion is None else distortion).items() if weight}
        self.against = {name: weights.pop(name) for name in AGAINST if name in weights}
        try:
            self.distortion = Distortion(self.codec.sampling_rate, weights, mel_windows)
            self.balancer = Balancer({**weights, **self.against}) if balance else None
            self.adversary = Adversary(adversary)
            if self.against:
                self.discriminators = Discriminators(periods, windows, width)
        except ValueError as error:
            raise CodecError(str(error)) from None
        self.automatic_optimization = not self.against

    def configure_optimizers(self) -> Any:
        codec = super().configure_optimizers()
        if not self.against:
            return codec
        judges = self.scheduled([{"params": list(self.discriminators.parameters()), "lr": self.hparams.learning_rate}])
        return codec, judges

    def on_fit_start(self) -> None:
        if self.against and self.trainer.precision == "16-mixed":
            raise CodecError("discriminators are trained in 32-true or bf16-mixed, not in 16-mixed")
        super().on_fit_start()

    def decoded(self, x: Tensor) -> tuple[Tensor, Output]:
        self.codec.bypass = self.trainer.global_step < self.hparams.warmup_bypass
        return super().decoded(x)

    def objective(self, x: Tensor, level: Tensor, output: Output) -> Tensor:
        return self._objective(level, output, self._distances(Spectra(x), Spectra(output.reconstruction)))

    def _distances(self, real: Spectra, fake: Spectra) -> dict[str, Tensor]:
        distances = self.distortion(real, fake)
        for name, distance in distances.items():
            self.log(name, distance.mean())
        return distances

    def _objective(self, level: Tensor, output: Output, distances: Mapping[str, Tensor]) -> Tensor:
        """
        Args:
            distances: by name, (B,) each.
        """
        kbps = sum(output.bits.values(), level.new_zeros(len(level))) / self._milliseconds(output.reconstruction)
        weights = {**self.distortion.weights, **self.against}
        distortion = sum((weights[name] * distance for name, distance in distances.items()), level.new_zeros(len(level)))
        self.log("kbps", kbps.mean(), prog_bar=True)
        self.log("distortion", distortion.mean(), prog_bar=True)
        if self.balancer is None:
            return self.total(level, kbps, distortion)
        lmbda, weight = self.weights(level)
        return (weight * kbps).mean() + self.balancer(distances, output.reconstruction, weight * lmbda / len(level))

    def _milliseconds(self, x: Tensor) -> float:
        return x.shape[-1] / self.codec.sampling_rate * 1000

    def training_step(self, x: Tensor, batch_index: int) -> Tensor | None:
        if self.automatic_optimization:
            return super().training_step(x, batch_index)
        level, output = self.decoded(x)
        real, fake = Spectra(x), Spectra(output.reconstruction)
        optimizer, _ = cast(list, self.optimizers())
        # The discriminators' own, unwrapped: only the codec's steps are to count as the trainer's.
        _, judging = cast(list, self.optimizers(use_pl_optimizer=False))
        self._train_discriminators(real, fake.detached(), judging)

        self.discriminators.requires_grad_(False)
        distances = self._distances(real, fake)
        if self.trainer.global_step >= self.hparams.adversarial_start:
            distances |= self._judged(real, fake)
        loss = self._objective(level, output, distances) + sum(output.losses.values())
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(optimizer.optimizer, self.hparams.clip, "norm")
        optimizer.step()
        self.discriminators.requires_grad_(True)
        for schedule in cast(list, self.lr_schedulers()):
            schedule.step()
        self.log("loss", loss, prog_bar=True)
        self.log("learning_rate", optimizer.param_groups[0]["lr"])
        return None

    def _train_discriminators(self, real: Spectra, fake: Spectra, optimizer: torch.optim.Optimizer) -> None:
        loss = self.adversary.discriminate(self.discriminators(real).scores, self.discriminators(fake).scores).mean()
        optimizer.zero_grad()
        self.manual_backward(loss)
        torch.nn.utils.clip_grad_norm_(self.discriminators.parameters(), 10 * self.hparams.clip)
        optimizer.step()
        self.log("discriminators", loss, prog_bar=True)

    def _judged(self, real: Spectra, fake: Spectra) -> dict[str, Tensor]:
        """The distances that the discriminators define, (B,) each."""
        with torch.no_grad():
            wanted: Judgements = self.discriminators(real)
        judgements: Judgements = self.discriminators(fake)
        values = {
            "adversarial": self.adversary.deceive(judgements.scores),
            "features": feature_distance(wanted.features, judgements.features),
        }
        distances = {name: values[name] for name in self.against}
        for name, distance in distances.items():
            self.log(name, distance.mean())
        return distances

    def validate(self, codec: Codec, batch: tuple[list[str], Tensor], level: float, index: int) -> dict[str, float]:
        _, x = batch
        sound = Sound(x[0].cpu().numpy(), codec.sampling_rate)
        estimate = codec.to(self.device)(x, torch.full((1,), level, device=self.device))
        coded = encode_sound(codec, sound, level)
        decoded = decode_sound(codec, coded.data)
        self.compare(coded.symbols, decoded.symbols, level)
        x_hat = torch.from_numpy(decoded.sound.samples)[None].to(self.device)
        distances = self.distortion(Spectra(x), Spectra(x_hat))
        measures = {
            "estimated_kbps": float(sum(estimate.bits.values())) / self._milliseconds(x),
            "kbps": len(coded.data) * 8 / self._milliseconds(x),
            "distortion": float(self.distortion.weighted(distances)),
        }
        for metric in JUDGED:
            if metric not in metrics.MISSING and (metric == "si_sdr" or index < self.hparams.listen):
                value = getattr(metrics, metric)(sound, decoded.sound)
                if value is not None:
                    measures[metric] = value
        if index == 0:
            for logger in self.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_audio(f"level {level:g}", decoded.sound.samples.mean(0), self.global_step, codec.sampling_rate)
        return measures

    def validated(self, means: Mapping[str, float], lmbda: float) -> float:
        return means["kbps"] + lmbda * means["distortion"]
