"""Codecs of this project, measured through the files that they write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralcodec.codecs.base import CodecError, parameter_count
from neuralcodec.codecs.files import decode_signal, encode_signal, load
from neuralcodec.entropy import container
from neuralcodec.eval.candidates import Candidate, Decoded, Encoded

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
        if self.codec.modality != "image":
            raise CodecError(f"{model} is a codec of {self.codec.modality}, not of images")
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

    def encode(self, pixels: np.ndarray, setting: float) -> Encoded:
        return Encoded(*encode_signal(self.codec, to_tensor(pixels), setting))

    def decode(self, data: bytes) -> Decoded:
        decoded = decode_signal(self.codec, data)
        return Decoded(to_pixels(decoded.signal), decoded.symbols)

    @torch.inference_mode()
    def estimated_bits(self, pixels: np.ndarray, setting: float) -> float:
        output = self.codec(to_tensor(pixels), torch.tensor([setting]))
        return float(sum(output.bits.values()))

    def header_bytes(self, data: bytes) -> int:
        return container.read(data).header_bytes

    def spread(self, points: int | None) -> list[float]:
        return self._rounded(np.linspace(0, self.codec.levels - 1, points)) if points else list(self.settings)

    def _rounded(self, levels: Iterable[float]) -> list[float]:
        return sorted({self.codec.nearest_level(level) for level in levels})


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 to (1, 3, H, W) in 0…1."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255


def to_pixels(x: Tensor) -> np.ndarray:
    """(1, 3, H, W), clipped and rounded, to (H, W, 3) uint8."""
    return (x[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
