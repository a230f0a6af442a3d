"""What coding one image costs: multiply–accumulates per pixel, parameters, peak memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch.utils.flop_counter import FlopCounterMode

from neuralcodec.codecs.base import CodecError, parameter_count
from neuralcodec.datasets.images import read_rgb
from neuralcodec.eval.candidates import Candidate
from neuralcodec.eval.learned import Learned


@dataclass(frozen=True)
class Cost:
    """Of one image at one setting; null where a number does not apply or cannot be had."""

    parameters: int | None
    encode_kmac_per_pixel: float | None  # convolutions and matrix products, as PyTorch's counter sees them; half its FLOPs
    decode_kmac_per_pixel: float | None
    encode_peak_mib: float | None  # resident memory of a fresh process that does only this, Python and libraries included
    decode_peak_mib: float | None


def cost(codec: Candidate, image: Path) -> Cost:
    """The cost of an image at the middle of the codec's settings."""
    setting = codec.settings[len(codec.settings) // 2]
    pixels = read_rgb(image)
    count = pixels.shape[0] * pixels.shape[1]
    parameters = encode = decode = None
    data = codec.encode(pixels, setting).data
    if isinstance(codec, Learned):
        parameters = parameter_count(codec.codec)
        encode = multiplications(lambda: codec.encode(pixels, setting)) / count / 1e3
        decode = multiplications(lambda: codec.decode(data)) / count / 1e3
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file"
        file.write_bytes(data)
        peaks = [peak_memory(direction, codec.origin, setting, path) for direction, path in (("encode", image), ("decode", file))]
    return Cost(parameters, encode, decode, *peaks)


def multiplications(act: Callable[[], object]) -> float:
    """Multiply–accumulates of the convolutions and matrix products that a call runs."""
    with FlopCounterMode(display=False) as counter:
        act()
    return counter.get_total_flops() / 2


def peak_memory(direction: str, name: str, setting: float, path: Path) -> float | None:
    """MiB, or none where the system does not tell (it does on Linux)."""
    command = [sys.executable, "-m", "neuralcodec.eval.fresh", direction, name, repr(float(setting)), str(path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise CodecError(f"measuring the memory of {name} failed: {process.stderr.strip().splitlines()[-1:]}")
    return json.loads(process.stdout)
