"""Write a golden file: ``python tests/write_golden.py IMAGE NAME [--model MODEL] [--quality 50] [--tile SIDE]``.

Makes ``tests/golden/NAME.nci`` and ``NAME.json`` beside it, which every later version has to decode to the same integers. Never overwrites:
a golden file that no longer decodes is an incompatible change of the format, not a file to be made anew.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralcodec.codecs import DEFAULTS
from neuralcodec.codecs.base import Codec
from neuralcodec.codecs.files import decode_signal, load
from neuralcodec.codecs.image import tiles
from neuralcodec.codecs.image.files import decode_picture, encode_picture
from neuralcodec.codecs.image.pictures import read_picture
from neuralcodec.entropy import container

GOLDEN = Path(__file__).parent / "golden"


def facts_of(data: bytes, codec: Codec) -> dict:
    """What later versions are held to: exactly, but for the thumbnail."""
    content = container.read(data)
    facts: dict[str, Any] = {"model": codec.name, "symbols": digest(symbols_of(content, codec))}
    if not content.extras:
        facts["thumbnail"] = thumbnail(decode_signal(codec, content).signal)
    else:
        pixels = decode_picture(content, [codec], dtype=np.float32).pixels
        facts["thumbnail"] = thumbnail(torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).movedim(-1, 0)[None])
        rounded = decode_picture(content, [codec])
        facts["kind"] = f"{rounded.pixels.shape} {rounded.pixels.dtype}"
        facts["profile"] = hashlib.sha256(rounded.icc_profile or b"").hexdigest()
        if rounded.alpha is not None:
            facts["alpha"] = hashlib.sha256(rounded.alpha.astype("<u2").tobytes()).hexdigest()
    return facts


def symbols_of(content: container.Content, codec: Codec) -> Mapping[str, Tensor]:
    """Of each stream, those of all tiles one after another."""
    if "tiles" not in content.extras:
        return decode_signal(codec, content).symbols
    side, _ = container.read_varint(content.extras["tiles"], 0)
    grid, level, count = tiles.Grid(*content.size[:2], side), torch.tensor([content.level]), len(codec.streams)
    found: dict[str, list[Tensor]] = {name: [] for name in codec.streams}
    for number in range(grid.count):
        box = tiles.latent_box(codec, grid, *divmod(number, grid.columns))
        streams = content.streams[number * count : (number + 1) * count]
        decoded = codec.decode_latent(streams, box.bottom - box.top, box.right - box.left, level)
        for name, values in decoded.symbols.items():
            found[name].append(values.flatten())
    return {name: torch.cat(values) for name, values in found.items()}


def digest(symbols: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each stream's symbols as little-endian int32."""
    return {name: hashlib.sha256(values.cpu().numpy().astype("<i4").tobytes()).hexdigest() for name, values in symbols.items()}


def thumbnail(signal: Tensor) -> list[float]:
    """The picture's means over a grid of 4×4, by channel, 0…255: floating point, so for comparison with a tolerance."""
    return [round(value, 3) for value in (F.adaptive_avg_pool2d(signal, 4) * 255).flatten().tolist()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image")
    parser.add_argument("name")
    parser.add_argument("--model", default=DEFAULTS["image"])
    parser.add_argument("--quality", type=float, default=50)
    parser.add_argument("--tile", type=int, help="cut the picture into squares of so many pixels, however small it is")
    parser.add_argument("--folder", type=Path, default=GOLDEN)
    options = parser.parse_args(arguments)
    file, facts = options.folder / f"{options.name}.nci", options.folder / f"{options.name}.json"
    if file.exists() or facts.exists():
        print(f"{file} exists: golden files are never written anew", file=sys.stderr)
        return 1
    codec = load(options.model)
    picture, level = read_picture(options.image), codec.level_for_quality(options.quality)
    cut = {"tile": options.tile, "whole": 0} if options.tile else {}
    data = encode_picture(codec, picture, level, **cut)
    options.folder.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    facts.write_text(json.dumps(facts_of(data, codec), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
