"""A rate–distortion sweep: every candidate, at every setting, on every item, one file at a time.

Unless the work is shared (:mod:`neuralcodec.eval.workers`), nothing runs beside a candidate, so that its times are its own. The start of
the first item is coded once before the clock starts, since libraries load and memory warms on first use.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from neuralcodec.codecs.errors import CodecError, first_line
from neuralcodec.eval.candidates import Candidate, candidate
from neuralcodec.eval.modalities import Modality, Source
from neuralcodec.eval.results import Curve, File, Item, Point
from neuralcodec.eval.store import Store

LIBRARIES = ("neuralcodec", "torch", "numpy", "pillow", "av", "imagecodecs", "constriction", "bjontegaard", "pytorch-msssim")
SOUND_LIBRARIES = ("torchaudio", "soundfile", "torchmetrics", "pesq", "pystoi", "visqol-python")


def measure(
    codec: Candidate,
    modality: Modality,
    dataset: str,
    chosen: Sequence[Source],
    points: int | None = None,
    advance: Callable[[bool], None] = lambda known: None,
    store: Store | None = None,
    pool: Executor | None = None,
) -> Curve:
    """The curve of one candidate.

    Args:
        points: number of settings, evenly chosen.
        advance: called after each file, with whether it was known from earlier.
        store: of files measured earlier.
        pool: whose workers share the work; times are then those of a busy machine.

    Raises:
        CodecError: the codec does not give back a signal of the original's size.
    """
    settings = codec.spread(points)
    protocol = modality.protocol(dataset, [source.item for source in chosen])
    files: dict[tuple[float, str], File] = {}
    missing = []
    for setting in settings:
        for source in chosen:
            if store and (known := store.get(store.key(codec, setting, source.item))):
                files[setting, source.item.name] = replace(known, item=source.item.name)
                advance(True)
            else:
                missing.append((setting, source))

    def keep(setting: float, source: Source, file: File) -> None:
        files[setting, source.item.name] = file
        if store:
            store.add(store.key(codec, setting, source.item), file)
        advance(False)

    if pool:
        running = {
            pool.submit(_measure_elsewhere, codec.origin, modality, source, setting): (setting, source) for setting, source in missing
        }
        for future in as_completed(running):
            keep(*running[future], future.result())
    elif missing:
        codec.decode(codec.encode(modality.start(modality.read(missing[0][1].path)), missing[0][0]).data)
        for setting, source in missing:
            keep(setting, source, measure_file(codec, modality, source.item, modality.read(source.path), setting))
    measured = [summarise(modality, setting, [files[setting, source.item.name] for source in chosen]) for setting in settings]
    points_by_rate = sorted(measured, key=lambda point: point.rate)
    return Curve(codec.name, "measured", codec.description, points_by_rate, protocol, details=dict(codec.details))


def _measure_elsewhere(origin: str, modality: Modality, source: Source, setting: float) -> File:
    return measure_file(_kept(origin), modality, source.item, modality.read(source.path), setting)


@lru_cache(maxsize=2)
def _kept(origin: str) -> Candidate:
    """The worker's own copy of a candidate, loaded once."""
    return candidate(origin)


def measure_file(codec: Candidate, modality: Modality, item: Item, signal: Any, setting: float) -> File:
    """Encode, decode and compare one item."""
    try:
        start = time.perf_counter()
        encoded = codec.encode(signal, setting)
        written = time.perf_counter()
        decoded = codec.decode(encoded.data)
        read = time.perf_counter()
    except CodecError:
        raise
    except Exception as error:  # each library has its own for what it cannot code
        raise CodecError(f"{codec.name} cannot code {item.name} at setting {setting:g} ({first_line(error)})") from error
    signal_hat = decoded.signal if codec.exact else modality.conform(decoded.signal, signal)
    if modality.shape(signal_hat) != modality.shape(signal):
        raise CodecError(f"{codec.name} turned {item.name} from {modality.shape(signal)} into {modality.shape(signal_hat)}")
    extent = modality.extent(signal)
    estimated = codec.estimated_bits(signal, setting)
    equal = None
    if encoded.symbols is not None and decoded.symbols is not None:
        equal = encoded.symbols.keys() == decoded.symbols.keys() and all(
            torch.equal(symbols, decoded.symbols[name]) for name, symbols in encoded.symbols.items()
        )
    return File(
        item=item.name,
        file_bytes=len(encoded.data),
        rate=len(encoded.data) * 8 / extent,
        errors=modality.metrics.errors(signal, signal_hat),
        quality=modality.metrics.quality(signal, signal_hat),
        encode_seconds=written - start,
        decode_seconds=read - written,
        estimated_rate=None if estimated is None else estimated / extent,
        header_bytes=codec.header_bytes(encoded.data),
        symbols_equal=equal,
    )


def summarise(modality: Modality, setting: float, files: Sequence[File]) -> Point:
    """Means over the items."""

    def mean(values: Sequence[float | None]) -> float | None:
        """None unless every item has a value."""
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    def means(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Over the items that have a value."""
        known = {name: [one[name] for one in each if name in one] for name in dict.fromkeys(name for one in each for name in one)}
        return {name: sum(values) / len(values) for name, values in known.items()}

    quality = means([file.quality for file in files])
    left_out = {name: count for name in quality if (count := sum(name not in file.quality for file in files))}
    quality |= modality.metrics.derived(quality, means([file.errors for file in files]))
    payloads = [file.rate * (1 - file.header_bytes / file.file_bytes) if file.header_bytes is not None else None for file in files]
    verdicts = [file.symbols_equal for file in files]
    return Point(
        setting=setting,
        rate=sum(file.rate for file in files) / len(files),
        quality=quality,
        encode_seconds=mean([file.encode_seconds for file in files]),
        decode_seconds=mean([file.decode_seconds for file in files]),
        estimated_rate=mean([file.estimated_rate for file in files]),
        payload_rate=mean(payloads),
        symbols_equal=None if None in verdicts else all(verdicts),
        left_out=left_out,
        files=list(files),
    )


def environment(jobs: int | str = 1) -> dict[str, Any]:
    """What the numbers may depend on. ``load_average`` well above zero says that something else ran, and that times mean little.

    Args:
        jobs: files measured at a time, or ``ray``.
    """
    versions = {}
    for name in (*LIBRARIES, *SOUND_LIBRARIES):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        **versions,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "jobs": jobs,
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
