"""ONNX files of the networks: ONNX Runtime computes what PyTorch does, and the very same scale indexes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from neuralcodec.codecs.base import CodecError

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)

from neuralcodec.codecs.image import onnx  # noqa: E402


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    return folder, onnx.export(small("two-step"), folder)


def test_every_network_agrees_with_pytorch(exported):
    _, differences = exported
    assert {name.partition(".")[0] for name in differences} == {
        "analysis",
        "hyper_analysis",
        "hyper_synthesis",
        "synthesis",
        "context_0",
        "context_1",
    }
    assert differences["hyper_synthesis.scale_index"] == 0
    assert all(difference < 1e-3 for difference in differences.values()), differences


def test_the_manifest_says_what_goes_in_and_out(exported, small):
    folder, _ = exported
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["opset"] == onnx.OPSET and manifest["fingerprint"] == small("two-step").fingerprint.hex()
    assert manifest["networks"]["hyper_synthesis"] == {"inputs": ["z_hat", "offset"], "outputs": ["scale_index", "features", "mean"]}
    assert all((folder / f"{name}.onnx").stat().st_size > 1000 for name in manifest["networks"])


def test_a_picture_goes_through_onnx_runtime_alone(exported, small, picture):
    """Analysis, rounding, both priors and synthesis without PyTorch's layers give the symbols and the picture of the codec."""
    import onnxruntime

    folder, _ = exported
    codec, level = small("two-step"), 30.0
    x = picture(128, 192)
    tables = np.load(folder / "tables.npz")
    run = {path.stem: onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run for path in folder.glob("*.onnx")}
    at = np.array([level], np.float32)
    (y,) = run["analysis"](None, {"image": x.numpy(), "level": at})
    (z,) = run["hyper_analysis"](None, {"y": y, "level": at})
    offset = tables["offsets"][round(level * 4)][None].astype(np.float32)
    index, features, mean = run["hyper_synthesis"](None, {"z_hat": np.round(z).clip(-127, 127), "offset": offset})
    coded = codec.compress(x, level)
    assert np.array_equal(np.round(z), coded.symbols["z"].numpy())
    symbols = coded.symbols["y"].numpy()
    scale = 0.11 * np.exp(index * np.log(256 / 0.11) / 63)
    steps = np.tile(tables["steps"], (1, -(-mean.shape[2] // 4), -(-mean.shape[3] // 4)))[:, : mean.shape[2], : mean.shape[3]]
    y_hat = mean.copy()
    for step in range(2):
        known = np.where(steps < step, y_hat - mean, 0).astype(np.float32) / scale
        (delta,) = run[f"context_{step}"](None, {"known": known.astype(np.float32), "features": features})
        y_hat = np.where(steps == step, symbols + mean + delta * scale, y_hat).astype(np.float32)
    (x_hat,) = run["synthesis"](None, {"y_hat": y_hat, "level": at})
    ours = codec.decompress(coded.streams, (128, 192), level).signal
    assert torch.allclose(torch.from_numpy(x_hat), ours, atol=2e-3)


def test_other_codecs_are_refused(small, tmp_path):
    with pytest.raises(CodecError, match="hyperprior"):
        onnx.export(small("factorized"), tmp_path)
    with pytest.raises(CodecError, match="raster"):
        onnx.export(small("autoregressive"), tmp_path)
