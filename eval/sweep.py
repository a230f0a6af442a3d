"""A rate–distortion sweep: every candidate, at every setting, on every image, one file at a time.

Unless several jobs are asked for, nothing runs beside a candidate, so that its times are its own. The first image is coded once before the
clock starts, since libraries load and memory warms on first use.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from neuralcodec.codecs.base import CodecError
from neuralcodec.datasets.images import kodak_folder, list_images, read_rgb, resolve_folder
from neuralcodec.eval import metrics
from neuralcodec.eval.candidates import Candidate, candidate
from neuralcodec.eval.results import Curve, Dataset, File, Item, Point
from neuralcodec.eval.store import Store

LIBRARIES = ("neuralcodec", "torch", "numpy", "pillow", "av", "imagecodecs", "constriction", "bjontegaard", "pytorch-msssim")


class Image(NamedTuple):
    item: Item
    path: Path


def images(dataset: str, root: str | None = None, limit: int | None = None) -> list[Image]:
    """``kodak``, or the images of a folder, at most ``limit`` of them.

    Raises:
        CodecError: there are none, or one is not readable.
    """
    try:
        folder = kodak_folder(root) if dataset == "kodak" else resolve_folder(Path(root or "") / dataset)
        paths = list_images(folder)[:limit]
        if not paths:
            raise CodecError(f"no images below {folder}")
        return [Image(_describe(path.relative_to(folder), read_rgb(path)), path) for path in paths]
    except (OSError, ValueError, SyntaxError) as error:
        raise CodecError(str(error)) from None


def _describe(path: Path, pixels: np.ndarray) -> Item:
    height, width = pixels.shape[:2]
    return Item(path.with_suffix("").as_posix(), width, height, hashlib.sha256(pixels.tobytes()).hexdigest())


def describe(dataset: str, chosen: Sequence[Image]) -> Dataset:
    return Dataset(dataset if dataset == "kodak" else Path(dataset).name or dataset, [image.item for image in chosen])


def measure(
    codec: Candidate,
    chosen: Sequence[Image],
    points: int | None = None,
    advance: Callable[[], None] = lambda: None,
    store: Store | None = None,
    pool: Executor | None = None,
) -> Curve:
    """The curve of one candidate.

    Args:
        points: number of settings, evenly chosen.
        advance: called after each file.
        store: of files measured earlier.
        pool: of processes to share the work; times are then those of a busy machine.

    Raises:
        CodecError: the codec does not give back an image of the original's size.
    """
    settings = codec.spread(points)
    files: dict[tuple[float, str], File] = {}
    missing = []
    for setting in settings:
        for image in chosen:
            if store and (known := store.get(store.key(codec, setting, image.item))):
                files[setting, image.item.name] = replace(known, item=image.item.name)
                advance()
            else:
                missing.append((setting, image))

    def keep(setting: float, image: Image, file: File) -> None:
        files[setting, image.item.name] = file
        if store:
            store.add(store.key(codec, setting, image.item), file)
        advance()

    if pool:
        running = {pool.submit(_measure_in_process, codec.origin, image, setting): (setting, image) for setting, image in missing}
        for future in as_completed(running):
            keep(*running[future], future.result())
    elif missing:
        warm = read_rgb(missing[0][1].path)
        codec.decode(codec.encode(warm, missing[0][0]).data)
        for setting, image in missing:
            keep(setting, image, measure_file(codec, image.item, read_rgb(image.path), setting))
    measured = [summarise(setting, [files[setting, image.item.name] for image in chosen]) for setting in settings]
    return Curve(codec.name, "measured", codec.description, sorted(measured, key=lambda point: point.bpp), details=dict(codec.details))


def pool_of(jobs: int) -> Executor | None:
    """Processes that share the machine's cores, or none for one job."""
    if jobs == 1:
        return None
    threads = max(1, (os.cpu_count() or 1) // jobs)
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), torch.set_num_threads, (threads,))


def _measure_in_process(origin: str, image: Image, setting: float) -> File:
    return measure_file(candidate(origin), image.item, read_rgb(image.path), setting)


def measure_file(codec: Candidate, item: Item, pixels: np.ndarray, setting: float) -> File:
    """Encode, decode and compare one image."""
    start = time.perf_counter()
    encoded = codec.encode(pixels, setting)
    written = time.perf_counter()
    decoded = codec.decode(encoded.data)
    read = time.perf_counter()
    if decoded.pixels.shape != pixels.shape:
        raise CodecError(f"{codec.name} turned {item.name} from {pixels.shape} into {decoded.pixels.shape}")
    count = pixels.shape[0] * pixels.shape[1]
    estimated = codec.estimated_bits(pixels, setting)
    equal = None
    if encoded.symbols is not None and decoded.symbols is not None:
        equal = encoded.symbols.keys() == decoded.symbols.keys() and all(
            torch.equal(symbols, decoded.symbols[name]) for name, symbols in encoded.symbols.items()
        )
    return File(
        item=item.name,
        file_bytes=len(encoded.data),
        bpp=len(encoded.data) * 8 / count,
        mse_rgb=metrics.mse(pixels, decoded.pixels),
        quality=metrics.quality(pixels, decoded.pixels),
        encode_seconds=written - start,
        decode_seconds=read - written,
        estimated_bpp=None if estimated is None else estimated / count,
        header_bytes=codec.header_bytes(encoded.data),
        symbols_equal=equal,
    )


def summarise(setting: float, files: Sequence[File]) -> Point:
    """Means over the items."""

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    estimates = [file.estimated_bpp for file in files if file.estimated_bpp is not None]

    shared = [name for name in files[0].quality if all(name in file.quality for file in files)]
    quality = {name: mean([file.quality[name] for file in files]) for name in shared}
    quality["psnr_rgb_of_mean_mse"] = metrics.psnr_of_mse(mean([file.mse_rgb for file in files]))
    if "ms_ssim_rgb" in quality:
        quality["ms_ssim_rgb_db"] = metrics.decibels(quality["ms_ssim_rgb"])
    verdicts = [file.symbols_equal for file in files]
    return Point(
        setting=setting,
        bpp=mean([file.bpp for file in files]),
        quality=quality,
        encode_seconds=mean([file.encode_seconds for file in files]),
        decode_seconds=mean([file.decode_seconds for file in files]),
        estimated_bpp=mean(estimates) if len(estimates) == len(files) else None,
        symbols_equal=None if None in verdicts else all(verdicts),
        files=list(files),
    )


def environment(jobs: int = 1) -> dict[str, Any]:
    """What the numbers may depend on. ``load_average`` well above zero says that something else ran, and that times mean little."""
    versions = {}
    for name in LIBRARIES:
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
