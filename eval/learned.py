"""Codecs of this project, measured through the files that they write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from neuralcodec.codecs.base import parameter_count
from neuralcodec.codecs.errors import CodecError
from neuralcodec.codecs.files import load
from neuralcodec.entropy import container
from neuralcodec.eval.candidates import Candidate, Decoded, Encoded
from neuralcodec.eval.modalities import MODALITIES

POINTS = 8  # measured unless told otherwise


class Learned(Candidate):
    """A codec of this project, at levels spread over its range.

    Args:
        model: a name of shipped weights, or a weights file.
        levels: to measure; by default eight, evenly spread.

    Raises:
        CodecError: no such model, or a level out of its range.
    """

    def __init__(self, model: str, levels: Sequence[float] | None = None):
        self.model = str(model)
        self.codec = load(model)
        self.modality = self.codec.modality
        self.kind = MODALITIES[self.codec.modality]()
        self.name = self.codec.name or str(model)
        highest = self.codec.levels - 1
        if levels and not 0 <= min(levels) <= max(levels) <= highest:
            raise CodecError(f"levels of {self.name} run from 0 to {highest}")
        self.settings = self._rounded(levels) if levels else self.spread(POINTS)
        kind = (self.codec.spec or {}).get("class_path", type(self.codec).__name__).rpartition(".")[2]
        self.description = f"{kind}, {parameter_count(self.codec) / 1e6:.2f} M parameters, one model for all points; setting: rate level"

    @property
    def details(self) -> dict[str, Any]:
        return {
            "fingerprint": (self.codec.fingerprint or b"").hex(),
            "spec": self.codec.spec,
            "parameters": parameter_count(self.codec),
            "training_steps": self.codec.metadata.get("steps"),
        }

    @property
    def origin(self) -> str:
        return self.model

    @property
    def code(self) -> tuple[str, ...]:
        return ("neuralcodec.codecs", "neuralcodec.entropy")

    def encode(self, signal: Any, setting: float) -> Encoded:
        coded = self.kind.encode(self.codec, signal, setting)
        return Encoded(coded.data, coded.symbols or None)

    def decode(self, data: bytes) -> Decoded:
        signal, symbols = self.kind.decode(self.codec, data)
        return Decoded(signal, symbols or None)

    @torch.inference_mode()
    def estimated_bits(self, signal: Any, setting: float) -> float | None:
        if self.codec.fits:  # what it would say is what it writes
            return None
        x = self.kind.to_tensor(signal, self.codec)
        output = self.codec(x, torch.full((len(x),), float(setting)))
        return float(sum(bits.sum() for bits in output.bits.values()))

    def header_bytes(self, data: bytes) -> int:
        return container.read(data).header_bytes

    def spread(self, points: int | None) -> list[float]:
        return self._rounded(np.linspace(0, self.codec.levels - 1, points)) if points else list(self.settings)

    def _rounded(self, levels: Iterable[float]) -> list[float]:
        return sorted({self.codec.nearest_level(level) for level in levels})
