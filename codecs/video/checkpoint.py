"""A file that the fit of a clip can go on from."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from neuralcodec.codecs.base import CodecError
from neuralcodec.codecs.writing import write_whole

SAVE_EVERY = 20.0  # seconds


class Checkpoint:
    """Streams of the groups of pictures that are done, and the state of the one under way.

    Args:
        path: of the file; what it holds is read now.
        key: of what is being fitted, and how.

    Raises:
        CodecError: the file is of something else, or no such file.
    """

    def __init__(self, path: Path, key: str):
        self.path, self.key = path, key
        self.streams: list[bytes] = []
        self.state: dict[str, Tensor] = {}
        self.saved = time.monotonic()
        if path.exists():
            self._read()

    def finish_group(self, streams: Sequence[bytes]) -> None:
        self.streams += streams
        self.state = {}
        self._write()

    def keep(self, state: Mapping[str, Tensor]) -> None:
        self.state = dict(state)
        self._write()

    @property
    def due(self) -> bool:
        return time.monotonic() - self.saved >= SAVE_EVERY

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        streams = {
            f"stream.{number:06}": torch.frombuffer(bytearray(stream), dtype=torch.uint8) for number, stream in enumerate(self.streams)
        }
        state = {f"state.{name}": value.contiguous() for name, value in self.state.items()}
        write_whole(self.path, save({**streams, **state}, {"fit": json.dumps(self.key)}))
        self.saved = time.monotonic()

    def _read(self) -> None:
        try:
            with safe_open(self.path, "pt") as file:
                said = (file.metadata() or {}).get("fit")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CodecError(f"{self.path} is no checkpoint ({str(error).splitlines()[0]})") from None
        if said != json.dumps(self.key):
            raise CodecError(f"{self.path} is of another fit: of another clip, model, quality or time")
        self.streams = [bytes(tensors[name].numpy()) for name in sorted(tensors) if name.startswith("stream.")]
        self.state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}


__all__ = ["Checkpoint"]
