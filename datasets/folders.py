"""Where data lies: folders as given or below ``NEURALCODEC_DATA``, the pictures in them, Kodak and CLIC by name. Imports no torch."""

from __future__ import annotations

import hashlib
import io
import os
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from neuralcodec.codecs.errors import first_line
from neuralcodec.codecs.writing import write_whole

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".ppm"}
KODAK_ITEMS = 24
KODAK_SHA256 = "4a094a9247f1ba95d9a4e129400fe5ac70d89d08cd7829dc0ca3d24758337a30"  # of the sorted hashes of its images
KODAK_URL = "https://r0k.us/graphics/kodak/kodak/kodim{:02d}.png"
MAX_DOWNLOAD = 2**21  # bytes of one image, more than twice the largest
HINT = "pass --root, or set NEURALCODEC_DATA"


def data_root() -> Path | None:
    """The folder that the environment variable ``NEURALCODEC_DATA`` names, if it does."""
    value = os.environ.get("NEURALCODEC_DATA")
    return Path(value) if value else None


def resolve_folder(folder: str | Path) -> Path:
    """A folder as given, or below ``NEURALCODEC_DATA``.

    Raises:
        FileNotFoundError: neither exists.
    """
    candidates = [Path(folder)] + ([root / folder] if (root := data_root()) else [])
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"no folder {' or '.join(map(str, candidates))}; pass a path, or set NEURALCODEC_DATA")


def list_images(folder: str | Path) -> list[Path]:
    """All image files below a folder, sorted."""
    return sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())


def read_rgb(path: str | Path | IO[bytes], strict: bool = False) -> np.ndarray:
    """An image file as (H, W, 3) uint8, EXIF orientation applied.

    Args:
        strict: refuse what would be dropped, with ``ValueError``: more than 8 bits, transparency.
    """
    with Image.open(path) as image:
        if strict and image.mode.startswith(("I", "F")):
            raise ValueError(f"{path} has more than 8 bits a sample")
        if strict and image.has_transparency_data and int(np.asarray(image.convert("RGBA").getchannel("A")).min()) < 255:
            raise ValueError(f"{path} has transparency")
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def named_folder(name: str, root: str | Path | None = None) -> Path:
    """The folder of ``kodak``, or of ``clic``: any of the CLIC challenge's sets as its organisers pack them.

    Raises:
        FileNotFoundError: not there, and not to be had.
    """
    if name == "kodak" or root is not None:
        return kodak_folder(root)
    data = data_root()
    found = sorted(path for parent in (data / "eval", data) for path in parent.glob("clic*") if path.is_dir()) if data else []
    if not found:
        raise FileNotFoundError("CLIC is not here: pass its folder as --root (https://clic.compression.cc has it)")
    return found[0]


def kodak_folder(root: str | Path | None = None, download: bool = True) -> Path:
    """The folder of the 24 Kodak images: ``root``, else below ``NEURALCODEC_DATA``, else a cache that is filled from their public address.

    Raises:
        FileNotFoundError: not there, and not to be had.
    """
    if root is not None:
        return resolve_folder(root)
    if (data := data_root()) is not None:
        for folder in (data / "eval" / "kodak", data / "kodak"):
            if folder.is_dir():
                return folder
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "neuralcodec" / "kodak"
    paths = [cache / f"kodim{number:02d}.png" for number in range(1, KODAK_ITEMS + 1)]
    if not all(path.exists() for path in paths):
        if not download:
            raise FileNotFoundError(f"Kodak is not here: {HINT}")
        for path, content in zip(paths, _downloaded_kodak()):
            write_whole(path, content)
    return cache


def sha256(pixels: np.ndarray) -> str:
    """Of the samples of an image, (H, W, 3) uint8, and its size."""
    return hashlib.sha256(f"{pixels.shape} ".encode() + pixels.tobytes()).hexdigest()


def is_kodak(hashes: Iterable[str]) -> bool:
    """Whether images of these :func:`sha256` are the 24 of Kodak, in any order."""
    return hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest() == KODAK_SHA256


def _downloaded_kodak() -> list[bytes]:
    """The files of all images, in order."""
    contents = []
    try:
        for number in range(1, KODAK_ITEMS + 1):
            with urllib.request.urlopen(KODAK_URL.format(number), timeout=20) as response:
                contents.append(response.read(MAX_DOWNLOAD))
        genuine = is_kodak(sha256(read_rgb(io.BytesIO(content))) for content in contents)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FileNotFoundError(f"Kodak is not here and could not be downloaded ({first_line(error)}): {HINT}") from None
    if not genuine:
        raise FileNotFoundError(f"Kodak is not here, and {KODAK_URL.partition('kodim')[0]} has other pictures now: {HINT}")
    return contents
