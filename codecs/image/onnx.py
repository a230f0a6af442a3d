"""The networks of an image codec as ONNX files, with entropy coding left to the caller.

    image ──analysis──► y ──hyper_analysis──► z ──round──► (coder)
    ẑ ──hyper_synthesis, offset of the level──► scale indexes (choose the tables), means, features
    symbols ──(+ means, refined by context_0, context_1, …)──► ŷ ──synthesis──► image

Sides are any multiples of the codec's, levels any number in range. Scale indexes are integers that every runtime computes alike
(:mod:`neuralcodec.entropy.integer`); :func:`export` compares them, and everything else, with PyTorch where ``onnxruntime`` is installed.
``pip install neuralcodec[onnx]`` brings what is needed.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from neuralcodec.codecs.base import Codec, CodecError
from neuralcodec.codecs.blocks import LEVEL_STEPS
from neuralcodec.codecs.image.contexts import Groups
from neuralcodec.codecs.image.hyperprior import Hyperprior
from neuralcodec.codecs.image.transforms import PATCH, STRIDE

OPSET = 20
EXAMPLE_LEVEL = 21.25


class Analysis(nn.Module):
    def __init__(self, codec: Hyperprior):
        super().__init__()
        self.g_a, self.gain = codec.g_a, codec.gain

    def forward(self, image: Tensor, level: Tensor) -> Tensor:
        return self.g_a(image, level) * self.gain(level).exp()[:, :, None, None]


class Synthesis(nn.Module):
    def __init__(self, codec: Hyperprior):
        super().__init__()
        self.g_s, self.inverse_gain = codec.g_s, codec.inverse_gain

    def forward(self, y_hat: Tensor, level: Tensor) -> Tensor:
        return self.g_s(y_hat * self.inverse_gain(level).exp()[:, :, None, None], level)


class HyperSynthesis(nn.Module):
    def __init__(self, codec: Hyperprior):
        super().__init__()
        self.h_s = codec.h_s

    def forward(self, z_hat: Tensor, offset: Tensor) -> tuple[Tensor, ...]:
        rows, columns = (side * PATCH for side in z_hat.shape[-2:])
        features = self.h_s.features(z_hat, rows, columns)
        values = features * 2.0**-self.h_s.scale.fraction_in
        index = self.h_s.index_with(features, offset)
        return (index, values) if self.h_s.mean is None else (index, values, self.h_s.mean(values))


class ContextStep(nn.Module):
    def __init__(self, context: nn.Module, step: int):
        super().__init__()
        self.context, self.step = context, step

    def forward(self, known: Tensor, features: Tensor) -> Tensor:
        return self.context(self.step, known, features)


class Network(NamedTuple):
    module: nn.Module
    inputs: dict[str, Tensor]  # examples
    outputs: list[str]
    unit: Mapping[str, int]  # inputs whose sides may change: what they are multiples of


def networks(codec: Hyperprior) -> dict[str, Network]:
    """Every network by name, with an example of what goes in."""
    image = torch.rand(1, 3, 3 * codec.multiple, 4 * codec.multiple, generator=torch.Generator().manual_seed(0))
    level = torch.tensor([codec.nearest_level(EXAMPLE_LEVEL)])
    y = codec.analyse(image, level)
    z = torch.round(codec.h_a(y, level)).clamp(-100, 100)
    offset = codec.h_s.fixed_offset(float(level))[None].float()
    prediction = codec.h_s(z, level, *y.shape[-2:])
    block = codec.multiple // STRIDE
    found = {
        "analysis": Network(Analysis(codec), {"image": image, "level": level}, ["y"], {"image": codec.multiple}),
        "hyper_analysis": Network(codec.h_a, {"y": y, "level": level}, ["z"], {"y": PATCH}),
        "hyper_synthesis": Network(
            HyperSynthesis(codec),
            {"z_hat": z, "offset": offset},
            ["scale_index", "features", "mean"][: 2 if codec.h_s.mean is None else 3],
            {"z_hat": 1},
        ),
        "synthesis": Network(Synthesis(codec), {"y_hat": torch.round(y), "level": level}, ["image"], {"y_hat": block}),
    }
    if isinstance(codec.context, Groups):
        known = torch.zeros_like(y)
        for step in range(codec.context.count):
            inputs = {"known": known, "features": prediction.features}
            found[f"context_{step}"] = Network(ContextStep(codec.context, step), inputs, ["delta"], {"known": 1, "features": 1})
    return found


@torch.inference_mode(False)
@torch.no_grad()
def export(codec: Codec, folder: str | Path) -> dict[str, float]:
    """Write the networks, their tables and a manifest.

    ``manifest.json`` names what goes in and out of each network; ``tables.npz`` holds the integer tables of both streams, the offsets of
    every quarter level for ``hyper_synthesis`` and the step of each value of a 4×4 square for the contexts.

    Returns:
        The largest difference between ONNX Runtime and PyTorch of each network's outputs, on sides the export did not see; empty without
        ``onnxruntime``.

    Raises:
        CodecError: another kind of codec, a missing package, or scale indexes that differ.
    """
    if not isinstance(codec, Hyperprior) or not isinstance(codec.context, (Groups, type(None))):
        raise CodecError("only codecs with a hyperprior, and contexts other than in raster order, can be exported")
    for package in ("onnx", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise CodecError(f"exporting to ONNX needs {package}: pip install 'neuralcodec[onnx]'")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = networks(codec.eval())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    for name, network in found.items():
        height, width = Dim("height", min=1, max=4096), Dim("width", min=1, max=4096)
        shapes = {
            key: {2: height * network.unit[key], 3: width * network.unit[key]} if key in network.unit else None for key in network.inputs
        }
        if any(unit == 1 for unit in network.unit.values()):
            shapes = {key: {2: height, 3: width} if key in network.unit else None for key in network.inputs}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network.module.eval(),
                tuple(network.inputs.values()),
                input_names=list(network.inputs),
                output_names=network.outputs,
                dynamic_shapes=tuple(shapes.values()),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        program.save(folder / f"{name}.onnx")
    _save_tables(codec, folder / "tables.npz")
    manifest = {
        "opset": OPSET,
        "fingerprint": (codec.fingerprint or b"").hex(),
        "levels": codec.levels,
        "multiple": codec.multiple,
        "networks": {name: {"inputs": list(network.inputs), "outputs": network.outputs} for name, network in found.items()},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return compare(codec, folder) if importlib.util.find_spec("onnxruntime") else {}


@torch.no_grad()
def compare(codec: Hyperprior, folder: Path) -> dict[str, float]:
    """Largest differences between what ONNX Runtime and PyTorch compute.

    Raises:
        CodecError: scale indexes differ.
    """
    import onnxruntime

    differences = {}
    generator = torch.Generator().manual_seed(1)
    for name, network in networks(codec).items():
        inputs = {}
        for key, example in network.inputs.items():
            inputs[key] = example
            if key in network.unit:  # another shape than the exported example's, values of the same spread
                unit = network.unit[key]
                rows, columns = example.shape[-2] // unit + 1, max(1, example.shape[-1] // unit - 1)
                noise = torch.rand(*example.shape[:2], rows * unit, columns * unit, generator=generator)
                spread = max(float(example.abs().max()), 1.0)
                inputs[key] = noise if name == "analysis" else torch.round((noise - 0.5) * spread)
        session = onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        theirs = session.run(network.outputs, {key: value.numpy() for key, value in inputs.items()})
        ours = network.module(*inputs.values())
        for output, one, other in zip(network.outputs, (ours,) if isinstance(ours, Tensor) else ours, theirs):
            difference = float(np.abs(one.numpy() - other).max())
            if output == "scale_index" and difference:
                raise CodecError("ONNX Runtime computed other scale indexes than PyTorch: files would not decode")
            differences[f"{name}.{output}"] = difference
    return differences


def _save_tables(codec: Hyperprior, path: Path) -> None:
    quarters = np.arange((codec.levels - 1) * LEVEL_STEPS + 1) / LEVEL_STEPS
    arrays = {"offsets": torch.stack([codec.h_s.fixed_offset(float(level)) for level in quarters]).numpy().astype(np.int32)}
    for stream, tables in (("y", codec.y_model.tables), ("z", codec.z_prior.tables)):
        for part in ("frequencies", "sizes", "lows"):
            arrays[f"{stream}_{part}"] = getattr(tables, part).cpu().numpy()
    if isinstance(codec.context, Groups):
        order = codec.context.steps(PATCH, PATCH)
        arrays["steps"] = order.expand(codec.context.latent, PATCH, PATCH).numpy().astype(np.int32)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # NumPy's stub has no room for keywords of arrays
