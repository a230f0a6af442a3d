"""What coding one item costs: multiply–accumulates per unit of signal, parameters, peak memory."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from neuralcodec.codecs.base import parameter_count
from neuralcodec.codecs.errors import CodecError
from neuralcodec.eval.candidates import Candidate
from neuralcodec.eval.learned import Learned
from neuralcodec.eval.modalities import Modality


@dataclass(frozen=True)
class Cost:
    """Of one item at one setting; null where a number does not apply or cannot be had."""

    parameters: int | None
    encode_kmac: float | None  # per pixel or millisecond; of convolutions and matrix products
    decode_kmac: float | None
    encode_peak_mib: float | None  # resident memory of a fresh process that does only this, Python and libraries included
    decode_peak_mib: float | None


def cost(codec: Candidate, modality: Modality, path: Path) -> Cost:
    """The cost of an item at the middle of the codec's settings."""
    setting = codec.settings[len(codec.settings) // 2]
    signal = modality.read(path)
    extent = modality.extent(signal)
    parameters = encode = decode = None
    data = codec.encode(signal, setting).data
    if isinstance(codec, Learned):
        parameters = parameter_count(codec.codec)
        encode = multiplications(lambda: codec.encode(signal, setting)) / extent / 1e3
        decode = multiplications(lambda: codec.decode(data)) / extent / 1e3
    with tempfile.TemporaryDirectory() as folder:
        ways = {"encode": signal, "decode": data}
        for direction, content in ways.items():
            (Path(folder) / direction).write_bytes(pickle.dumps(content))
        peaks = [peak_memory(direction, codec.origin, setting, Path(folder) / direction) for direction in ways]
    return Cost(parameters, encode, decode, *peaks)


def multiplications(act: Callable[[], object]) -> float:
    """Multiply–accumulates of the convolutions and matrix products that a call runs, those of attention and recurrent layers among them."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one opaque operation for a whole layer
    try:
        with FlopCounterMode(display=False, custom_mapping=FUSED_ON_CPU) as counter:
            act()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops() / 2


def _lstm(sequence: Sequence[int], of_input: Sequence[int], of_state: Sequence[int], *others: Any, **options: Any) -> int:
    """FLOPs of one direction of one layer over (steps, B, features): each step multiplies by both matrices, (4 hidden, …)."""
    return 2 * math.prod(sequence[:-1]) * (math.prod(of_input) + math.prod(of_state))


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *others: Any, **options: Any) -> int:
    return sdpa_flop_count(query, key, value)


FUSED_ON_CPU = {  # operations that PyTorch's counter leaves out: their FLOPs by the shapes of their arguments
    torch.ops.aten.mkldnn_rnn_layer: _lstm,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}


def peak_memory(direction: str, name: str, setting: float, path: Path) -> float | None:
    """MiB, or none where the system does not tell (it does on Linux)."""
    command = [sys.executable, "-m", "neuralcodec.eval.fresh", direction, name, repr(float(setting)), str(path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise CodecError(f"measuring the memory of {name} failed: {process.stderr.strip().splitlines()[-1:]}")
    return json.loads(process.stdout)
