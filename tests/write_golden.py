"""Write a golden file: ``python tests/write_golden.py IMAGE NAME [--model MODEL] [--quality 50]``.

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

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralcodec.codecs import DEFAULTS
from neuralcodec.codecs.files import decode_signal, encode_signal, load
from neuralcodec.datasets.images import read_rgb, to_tensor

GOLDEN = Path(__file__).parent / "golden"


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
    parser.add_argument("--folder", type=Path, default=GOLDEN)
    options = parser.parse_args(arguments)
    file, facts = options.folder / f"{options.name}.nci", options.folder / f"{options.name}.json"
    if file.exists() or facts.exists():
        print(f"{file} exists: golden files are never written anew", file=sys.stderr)
        return 1
    codec = load(options.model)
    coded = encode_signal(codec, to_tensor(read_rgb(options.image)), codec.level_for_quality(options.quality))
    decoded = decode_signal(codec, coded.data)
    assert all(torch.equal(decoded.symbols[name], values) for name, values in coded.symbols.items())
    options.folder.mkdir(parents=True, exist_ok=True)
    file.write_bytes(coded.data)
    content = {"model": codec.name, "symbols": digest(coded.symbols), "thumbnail": thumbnail(decoded.signal)}
    facts.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
