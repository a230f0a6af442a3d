"""The contract of a codec, how one is built from a config, and how its weights go into and out of a file."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from neuralcodec.codecs.blocks import LEVEL_STEPS
from neuralcodec.codecs.errors import CodecError, first_line
from neuralcodec.codecs.writing import write_whole
from neuralcodec.entropy.tables import IntegerTables

Spec = Mapping[str, Any]  # {"class_path": dotted public path, "init_args": {…}}, nested where an argument is itself built so

FINGERPRINT_BYTES = 4
STORED_DTYPES = {torch.float16, torch.float32, torch.int32, torch.int64, torch.uint8, torch.bool}


class Output(NamedTuple):
    """What the training path returns."""

    reconstruction: Tensor  # same shape as the input
    bits: dict[str, Tensor]  # by stream name, each (B,), differentiable: bits of each item
    losses: dict[str, Tensor]  # extra terms to add to the objective, scalars
    symbols: dict[str, Tensor]  # by stream name, int32: what compress would code at evaluation


class Compressed(NamedTuple):
    streams: list[bytes]
    symbols: dict[str, Tensor]  # by stream name, int32: what was coded


class Decompressed(NamedTuple):
    signal: Tensor
    symbols: dict[str, Tensor]  # equal to the encoder's, or the file is wrong


class Codec(nn.Module):
    """A complete codec: transforms, a quantizer, an entropy model.

    A subclass implements :meth:`forward`, :meth:`compress`, :meth:`decompress` and :meth:`freeze`. One model serves a range of rates:
    ``level`` runs from 0 to ``levels - 1`` (higher is better) in steps of a quarter.

    Args:
        levels: number of rate levels.
        lmbda: λ of the lowest and the highest level, in bits per pixel (or sample) and unit of mean squared error on a 0…255 scale.
    """

    modality: ClassVar[str]
    sampling_rate: int  # Hz, of the signals that an audio codec takes
    streams: ClassVar[tuple[str, ...]]  # names, in coding order
    fits: ClassVar[bool] = False  # whether what it codes is fitted to each signal, so that it can do without trained weights
    decoder_parameters: ClassVar[tuple[str, ...]]  # prefixes of the parameters that only the reconstruction depends on

    def __init__(self, levels: int = 64, lmbda: Sequence[float] = (0.0013, 0.18)):
        super().__init__()
        if levels < 1 or len(lmbda) != 2 or not 0 < lmbda[0] <= lmbda[1]:
            raise ValueError("levels must be positive, lmbda two increasing positive numbers")
        self.levels = levels
        self.lmbda_range = (float(lmbda[0]), float(lmbda[1]))
        self.spec: dict[str, Any] | None = None  # set by build()
        self.fingerprint: bytes | None = None  # set by load_weights()
        self.name: str | None = None
        self.metadata: dict[str, str] = {}

    def lmbda(self, level: Tensor) -> Tensor:
        """λ of each level, log-spaced."""
        low, high = self.lmbda_range
        return low * (high / low) ** (level.float() / max(self.levels - 1, 1))

    def nearest_level(self, level: float) -> float:
        """The level in range that a file can name: a multiple of a quarter."""
        return min(max(round(level * LEVEL_STEPS) / LEVEL_STEPS, 0.0), float(self.levels - 1))

    def level_for_quality(self, quality: float) -> float:
        """Quality 0…100, as people say it, to a level."""
        if not 0 <= quality <= 100:
            raise CodecError(f"quality must lie between 0 and 100, not {quality:g}")
        return self.nearest_level(quality / 100 * (self.levels - 1))

    def forward(self, x: Tensor, level: Tensor) -> Output:
        """The training path. ``level``: (B,), one for each item. Evaluation mode gives the numbers of the real coder."""
        raise NotImplementedError

    def compress(self, x: Tensor, level: float) -> Compressed:
        """One item (1, …) to streams of bytes."""
        raise NotImplementedError

    def decompress(self, streams: Sequence[bytes], size: tuple[int, ...], level: float) -> Decompressed:
        """Undo :meth:`compress`; ``size`` is the signal's, without batch and channels."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Build the integer tables and check that integer layers are exact. Call after training, before :meth:`compress`."""
        raise NotImplementedError

    def calibrate(self, signals: Sequence[Tensor]) -> None:
        """Fit the tables of a frozen codec to the symbols that it codes for example signals, each (1, …). Does nothing by default."""

    def fit_for(self, seconds: float) -> None:
        """Let each fit take so long, where ``fits``."""
        raise NotImplementedError

    def learning_rate_scale(self, name: str) -> float:
        """Factor on the learning rate of a parameter."""
        return 1.0

    @staticmethod
    def storage_dtype(name: str, tensor: Tensor) -> torch.dtype:
        """What a weights file holds: float16 for the many values of layers, float32 for the few whose precision matters."""
        return torch.float16 if tensor.ndim > 1 and not name.endswith((".rows", ".log_scale")) else torch.float32

    def initialise(self, signals: Tensor) -> None:
        """Set weights from example signals in closed form, where the codec knows how. Does nothing by default."""


def build(spec: Spec) -> Codec:
    """Make a codec from ``{"class_path": …, "init_args": …}``; arguments may be such blocks themselves.

    Only classes that neuralcodec itself defines are accepted, so that a spec from a stranger's file cannot run anything else.

    Raises:
        CodecError: the spec names anything else, or arguments that the class refuses.
    """
    codec = _construct(spec)
    if not isinstance(codec, Codec):
        raise CodecError(f"{spec['class_path']} is not a codec")
    codec.spec = json.loads(json.dumps(spec))
    return codec.eval()


def _construct(spec: Spec, depth: int = 0) -> Any:
    fields = dict(spec) if isinstance(spec, Mapping) else {}
    class_path = fields.pop("class_path", None)
    arguments = fields.pop("init_args", None) or {}
    if not isinstance(class_path, str) or not isinstance(arguments, Mapping) or fields or depth > 8:
        raise CodecError("a codec spec has a class_path and init_args, nothing else")
    module_name, _, class_name = class_path.rpartition(".")
    if not module_name.startswith(("neuralcodec.codecs", "neuralcodec.entropy")):
        raise CodecError(f"a codec spec may only name classes of neuralcodec, not {class_path!r}")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError, OSError):
        raise CodecError(f"there is no class {class_path!r}") from None
    if not (isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__.startswith("neuralcodec.")):
        raise CodecError(f"a codec spec may only name classes of neuralcodec, not {class_path!r}")
    built = {
        name: _construct(value, depth + 1) if isinstance(value, Mapping) and "class_path" in value else value
        for name, value in arguments.items()
    }
    try:
        return cls(**built)
    except CodecError:
        raise
    except Exception as error:  # arguments may be anything: a class divides by them, indexes them, allocates by them
        raise CodecError(f"{class_path}: {first_line(error)}") from None


def save_weights(codec: Codec, path: str | Path, metadata: Mapping[str, str] | None = None) -> bytes:
    """Write a frozen codec as safetensors: float16 tensors, integer tables, the spec and ``metadata`` as text.

    Returns:
        The fingerprint that its files will carry: the first bytes of the SHA-256 over the spec and every tensor.

    Raises:
        CodecError: the codec was not made by :func:`build`, or its weights are not finite in float16.
    """
    if codec.spec is None:
        raise CodecError("only a codec made by build() knows the spec that its weights need")
    tensors = {}
    for name, tensor in codec.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.is_floating_point():
            tensor = tensor.to(codec.storage_dtype(name, tensor))
            if not tensor.isfinite().all():
                raise CodecError(f"{name} holds values that are not finite in float16")
        tensors[name] = tensor
    text = {**(metadata or {}), "format": "neuralcodec", "spec": json.dumps(codec.spec, sort_keys=True)}
    write_whole(path, save(tensors, text))
    return fingerprint(text["spec"], tensors)


def load_weights(path: str | Path) -> Codec:
    """Read what :func:`save_weights` wrote, ready to encode and decode.

    Raises:
        CodecError: not such a file, or a damaged one.
    """
    metadata, tensors = _read_weights(Path(path))
    try:
        spec = json.loads(metadata["spec"])
    except (ValueError, RecursionError):
        raise CodecError(f"{path} holds no readable spec") from None
    codec = build(spec)
    try:
        codec.load_state_dict(tensors)
        for module in codec.modules():
            if isinstance(module, IntegerTables):
                module.check()
    except (RuntimeError, ValueError, TypeError) as error:
        raise CodecError(f"{path} does not fit its own spec ({first_line(error)})") from None
    codec.fingerprint = fingerprint(metadata["spec"], tensors)
    codec.name = Path(path).stem
    codec.metadata = metadata
    return codec.requires_grad_(False)


def fingerprint_of(path: str | Path) -> bytes:
    """The fingerprint of a weights file, without building its codec."""
    metadata, tensors = _read_weights(Path(path))
    return fingerprint(metadata["spec"], tensors)


def _read_weights(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except FileNotFoundError:
        raise CodecError(f"there is no file {path}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CodecError(f"{path} is not a readable weights file ({first_line(error)})") from None
    if metadata.get("format") != "neuralcodec" or "spec" not in metadata:
        raise CodecError(f"{path} is not a neuralcodec weights file")
    for name, tensor in tensors.items():
        if tensor.dtype not in STORED_DTYPES or not tensor.isfinite().all():
            raise CodecError(f"{path} is not a readable weights file ({name} holds what no codec stores)")
    return metadata, tensors


def fingerprint(spec: str, tensors: Mapping[str, Tensor]) -> bytes:
    """The first bytes of the SHA-256 over a spec, as JSON, and every tensor: what files carry of the codec that wrote them."""
    digest = hashlib.sha256(spec.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.digest()[:FINGERPRINT_BYTES]


def parameter_count(codec: nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in codec.parameters())


def sum_per_item(bits: Tensor) -> Tensor:
    """(B, …) to (B,)."""
    return bits.flatten(1).sum(1) if bits.ndim > 1 else bits


__all__ = ["Codec", "CodecError", "Compressed", "Decompressed", "Output", "Spec", "build", "first_line", "load_weights", "save_weights"]
