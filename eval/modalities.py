"""What differs between kinds of signals when codecs are measured: where items come from, how they are read, what bits are divided by.

A :class:`Modality` also holds how its items are to be read (the first frames only, say), and can be sent to another process.
"""

from __future__ import annotations

import hashlib
import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL.Image import DecompressionBombError
from torch import Tensor

from neuralcodec.codecs.audio.codec import SegmentCodec
from neuralcodec.codecs.audio.files import decode_sound, encode_sound, to_tensor
from neuralcodec.codecs.base import Codec, CodecError
from neuralcodec.codecs.files import Coded, decode_signal, encode_signal
from neuralcodec.codecs.video.files import decode_clip, encode_clip
from neuralcodec.codecs.video.groups import VideoCodec
from neuralcodec.datasets import audio, folders, images, video
from neuralcodec.eval.results import Dataset, Item


class Source(NamedTuple):
    """An item of a dataset, and where it is."""

    item: Item
    path: Path


@dataclass(frozen=True)
class Modality:
    """One kind of signal.

    Attributes:
        name: as codecs and files name it.
        datasets: those known by name; the first is this modality's word for any folder or file.
        extensions: of the files that hold such signals.
        rate_unit: ``bpp`` or ``kbps``: bits per :meth:`extent`.
        cost_unit: of thousands of multiply–accumulates per :meth:`extent`.
    """

    name: ClassVar[str]
    plural: ClassVar[str]
    datasets: ClassVar[tuple[str, ...]]
    extensions: ClassVar[frozenset[str]]
    rate_unit: ClassVar[str]
    rate_title: ClassVar[str]
    cost_unit: ClassVar[str]

    @property
    def metrics(self) -> ModuleType:
        """The module of :mod:`neuralcodec.eval.metrics` with this modality's metrics."""
        return importlib.import_module(f"neuralcodec.eval.metrics.{self.name}")

    @property
    def definitions(self) -> dict[str, str]:
        """What every number in the results means."""
        return {
            "rate": f"{self.rate_title}: of the whole file, header and checksum included; mean over {self.plural}",
            **self.metrics.DEFINITIONS,
            "encode_seconds": f"wall clock, from samples in memory to the bytes of a file; mean over {self.plural}",
            "decode_seconds": f"wall clock, from the bytes of a file to samples in memory; mean over {self.plural}",
            "estimated_rate": f"{self.rate_title} by the codec's own probabilities, without coding; mean over {self.plural}",
            "payload_rate": f"{self.rate_title} without the container's share of the file; mean over {self.plural}",
        }

    def find(self, dataset: str, root: str | None) -> tuple[Path, list[Path]]:
        """The folder of a dataset and its files, in order.

        Raises:
            OSError, ValueError: there is no such thing; the message says what was looked for.
        """
        raise NotImplementedError

    def protocol(self, dataset: str, items: Sequence[Item]) -> str:
        """The name under which others publish numbers on these items; otherwise one that nobody shares."""
        return f"{dataset}, {len(items)} {self.plural}"

    def read(self, path: Path) -> Any:
        raise NotImplementedError

    def start(self, signal: Any) -> Any:
        """Enough of a signal for libraries to be loaded and memory to be warm."""
        return signal

    def extent(self, signal: Any) -> float:
        """What the bits of a file are divided by."""
        raise NotImplementedError

    def size(self, signal: Any) -> dict[str, int]:
        """As results keep it."""
        raise NotImplementedError

    def sha256(self, signal: Any) -> str:
        """Of the samples."""
        raise NotImplementedError

    def shape(self, signal: Any) -> tuple[int, ...]:
        """What a codec must give back unchanged."""
        raise NotImplementedError

    def conform(self, decoded: Any, original: Any) -> Any:
        """What a codec gives back that does not promise the original's size (``Candidate.exact``), cut to it."""
        return decoded

    def to_tensor(self, signal: Any, codec: Codec | None = None) -> Tensor:
        """What a learned codec takes: (1, C, …)."""
        raise NotImplementedError

    def from_tensor(self, x: Tensor) -> Any:
        """Undo :meth:`to_tensor`."""
        raise NotImplementedError

    def encode(self, codec: Codec, signal: Any, level: float) -> Coded:
        """A signal to a file of a learned codec."""
        return encode_signal(codec, self.to_tensor(signal, codec), level)

    def decode(self, codec: Codec, data: bytes) -> tuple[Any, Mapping[str, Tensor]]:
        """Undo :meth:`encode`: the signal, and the integers that were coded."""
        decoded = decode_signal(codec, data)
        return self.from_tensor(decoded.signal), decoded.symbols


@dataclass(frozen=True)
class Images(Modality):
    """8-bit RGB, (H, W, 3) uint8."""

    name = "image"
    plural = "images"
    datasets = ("images", "kodak", "clic")
    extensions = frozenset(folders.EXTENSIONS)
    rate_unit = "bpp"
    rate_title = "bits per pixel"
    cost_unit = "kMAC/pixel"

    def find(self, dataset: str, root: str | None) -> tuple[Path, list[Path]]:
        if dataset in self.datasets[1:]:
            folder = folders.named_folder(dataset, root)
        else:
            folder = folders.resolve_folder(_place(self, dataset, root))
        return folder, folders.list_images(folder)

    def protocol(self, dataset: str, items: Sequence[Item]) -> str:
        return "kodak" if folders.is_kodak(item.sha256 for item in items) else super().protocol(dataset, items)

    def read(self, path: Path) -> np.ndarray:
        return folders.read_rgb(path, strict=True)

    def extent(self, signal: np.ndarray) -> float:
        return signal.shape[0] * signal.shape[1]

    def size(self, signal: np.ndarray) -> dict[str, int]:
        return {"width": signal.shape[1], "height": signal.shape[0]}

    def sha256(self, signal: np.ndarray) -> str:
        return folders.sha256(signal)

    def shape(self, signal: np.ndarray) -> tuple[int, ...]:
        return signal.shape

    def to_tensor(self, signal: np.ndarray, codec: Codec | None = None) -> Tensor:
        return images.to_tensor(signal)

    def from_tensor(self, x: Tensor) -> np.ndarray:
        return images.to_pixels(x)


@dataclass(frozen=True)
class Sounds(Modality):
    """Samples of floating point at a rate of their own, :class:`~neuralcodec.datasets.audio.Sound`."""

    name = "audio"
    plural = "sounds"
    datasets = ("audio", "librispeech", *(f"librispeech-{split}" for split in audio.LIBRISPEECH))
    extensions = frozenset(audio.EXTENSIONS)
    rate_unit = "kbps"
    rate_title = "kilobits per second"
    cost_unit = "MMAC/s"

    def find(self, dataset: str, root: str | None) -> tuple[Path, list[Path]]:
        if dataset in self.datasets[1:]:
            folder = audio.librispeech_folder(root, _split(dataset))
            return folder, audio.list_sounds(folder)
        place = _place(self, dataset, root)
        if place.is_file():
            return place.parent, [place]
        folder = folders.resolve_folder(place)
        return folder, audio.list_sounds(folder)

    def protocol(self, dataset: str, items: Sequence[Item]) -> str:
        """A part of LibriSpeech is another test than the whole split."""
        if dataset not in self.datasets[1:]:
            return super().protocol(dataset, items)
        split = _split(dataset)
        part = "" if len(items) == audio.LIBRISPEECH[split] else f", {len(items)} utterances"
        return f"LibriSpeech {split}{part}"

    def read(self, path: Path) -> audio.Sound:
        return audio.read_sound(path)

    def extent(self, signal: audio.Sound) -> float:
        """Milliseconds: bits over milliseconds are kbps."""
        return signal.seconds * 1000

    def size(self, signal: audio.Sound) -> dict[str, int]:
        channels, samples = signal.samples.shape
        return {"samples": samples, "sampling_rate": signal.rate, "channels": channels}

    def sha256(self, signal: audio.Sound) -> str:
        return hashlib.sha256(f"{signal.samples.shape} {signal.rate} ".encode() + signal.samples.tobytes()).hexdigest()

    def shape(self, signal: audio.Sound) -> tuple[int, ...]:
        return (*signal.samples.shape, signal.rate)

    def conform(self, decoded: audio.Sound, original: audio.Sound) -> audio.Sound:
        """Back to the original's rate, without the silence that fills the last frame; more than that is the codec's error."""
        resampled = audio.resample(decoded, original.rate)
        excess = resampled.samples.shape[1] - original.samples.shape[1]
        if 0 <= excess <= audio.LONGEST_FRAME * original.rate:
            resampled = audio.Sound(resampled.samples[:, : original.samples.shape[1]], original.rate)
        return resampled

    def to_tensor(self, signal: audio.Sound, codec: Codec | None = None) -> Tensor:
        """At the codec's rate; channels that it codes side by side are a batch."""
        x = to_tensor(signal, codec.sampling_rate if codec else signal.rate)
        return x.reshape(codec.items(x.shape[1]), codec.channels, -1) if isinstance(codec, SegmentCodec) else x

    def encode(self, codec: Codec, signal: audio.Sound, level: float) -> Coded:
        return encode_sound(codec, signal, level)

    def decode(self, codec: Codec, data: bytes) -> tuple[audio.Sound, Mapping[str, Tensor]]:
        return decode_sound(codec, data)


@dataclass(frozen=True)
class Videos(Modality):
    """Y'CbCr 4:2:0 as it is coded, :class:`~neuralcodec.datasets.video.Clip`. What is None is as the file or its name says.

    Attributes:
        frames: the first so many only.
        crop: width and height cut from the middle.
        video_size: width and height of raw files.
        pixel_format: of raw files.
        fps: frames per second.
        matrix: from which RGB follows.
    """

    frames: int | None = None
    crop: tuple[int, int] | None = None
    video_size: tuple[int, int] | None = None
    pixel_format: str | None = None
    fps: Fraction | None = None
    matrix: str | None = None

    name = "video"
    plural = "clips"
    datasets = ("video", "uvg")
    extensions = frozenset(video.EXTENSIONS)
    rate_unit = "bpp"
    rate_title = "bits per pixel of all frames"
    cost_unit = "kMAC/pixel"

    def find(self, dataset: str, root: str | None) -> tuple[Path, list[Path]]:
        if dataset == "uvg":
            paths = video.uvg_files(root)
            return paths[0].parent, paths
        return video.find_clips(_place(self, dataset, root))

    def protocol(self, dataset: str, items: Sequence[Item]) -> str:
        """Clips by their number, size and frames: the first frames only, or a crop, are another test."""
        dataset = dataset.lower() if len(items) > 1 else items[0].name
        sizes = sorted({f"{item.size['width']}×{item.size['height']}" for item in items})
        frames = sum(item.size["frames"] for item in items)
        return f"{dataset}, {len(items)} clip{'s' * (len(items) > 1)} of {', '.join(sizes)}, {frames} frames"

    def read(self, path: Path) -> video.Clip:
        return video.read_clip(path, self.frames, self.crop, self.video_size, self.pixel_format, self.fps, self.matrix)

    def start(self, signal: video.Clip) -> video.Clip:
        return signal.first(2)

    def extent(self, signal: video.Clip) -> float:
        return signal.y.size

    def size(self, signal: video.Clip) -> dict[str, int]:
        return {"width": signal.width, "height": signal.height, "frames": len(signal), "bits": signal.bits}

    def sha256(self, signal: video.Clip) -> str:
        return signal.sha256()

    def shape(self, signal: video.Clip) -> tuple[int, ...]:
        return (*signal.y.shape, signal.bits)

    def encode(self, codec: Codec, signal: video.Clip, level: float) -> Coded:
        assert isinstance(codec, VideoCodec)
        return Coded(encode_clip(codec, signal, level), {})

    def decode(self, codec: Codec, data: bytes) -> tuple[video.Clip, Mapping[str, Tensor]]:
        return decode_clip(data, candidates=[codec]), {}


MODALITIES: dict[str, type[Modality]] = {modality.name: modality for modality in (Images, Sounds, Videos)}


def kind_of(dataset: str, root: str | None = None) -> type[Modality]:
    """The modality of a dataset's name, or of what is in a file or a folder.

    Raises:
        CodecError: there is nothing of any kind, or something of several.
    """
    for modality in MODALITIES.values():
        if dataset in modality.datasets:
            return modality
    place = Path(root or "") / dataset
    if not place.exists() and (data := folders.data_root()):
        place = data / dataset
    if not place.exists():
        raise CodecError(f"there is no dataset, file or folder {dataset!r}; by name there are {', '.join(names())}")
    suffixes = {place.suffix.lower()} if place.is_file() else {path.suffix.lower() for path in place.rglob("*") if path.is_file()}
    found = [modality for modality in MODALITIES.values() if suffixes & modality.extensions]
    if len(found) != 1:
        held = " and ".join(modality.plural for modality in found) or "nothing that can be measured"
        raise CodecError(f"{place} holds {held}; say which with --modality" if found else f"{place} holds {held}")
    return found[0]


def names() -> list[str]:
    """Datasets known by name."""
    return [name for modality in MODALITIES.values() for name in modality.datasets[1:]]


def sources(modality: Modality, dataset: str, root: str | None = None, limit: int | None = None) -> list[Source]:
    """The items of a dataset, at most ``limit``.

    Raises:
        CodecError: there are none, or one is not readable.
    """
    try:
        folder, paths = modality.find(dataset, root)
        if not paths:
            raise CodecError(f"no {modality.plural} below {folder}")
        stems = Counter(path.with_suffix("") for path in paths)
        return [_describe(modality, folder, path, stems[path.with_suffix("")] > 1) for path in paths[:limit]]
    except (OSError, ValueError, SyntaxError, DecompressionBombError) as error:
        raise CodecError(str(error)) from None


def describe(modality: Modality, dataset: str, chosen: Sequence[Source]) -> Dataset:
    items = [source.item for source in chosen]
    name = dataset if dataset in names() else Path(dataset).name or dataset
    return Dataset(name, modality.name, modality.rate_unit, items, modality.protocol(name, items))


def _describe(modality: Modality, folder: Path, path: Path, with_suffix: bool) -> Source:
    """Items are called by their file's name, with its suffix only where another differs in nothing else."""
    signal = modality.read(path)
    name = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
    name = name if with_suffix else name.with_suffix("")
    return Source(Item(name.as_posix(), modality.sha256(signal), modality.size(signal)), path)


def _split(dataset: str) -> str:
    """Of LibriSpeech."""
    return dataset.removeprefix("librispeech").removeprefix("-") or "test-clean"


def _place(modality: Modality, dataset: str, root: str | None) -> Path:
    """``--root`` alone for the modality's own word, else the dataset below the root."""
    return Path(root or ".") if dataset == modality.datasets[0] else Path(root or "") / dataset
