"""Small codecs that many tests share, signals that resemble real ones, and a guard for the flat checkout."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent

if any(Path(entry or ".").resolve() == ROOT for entry in sys.path):
    raise pytest.UsageError(
        f"{ROOT} is on sys.path, where its folders codecs and datasets hide other packages of these names: "
        "install the project (pip install -e '.[dev]') and run `pytest`, not `python -m pytest`, without PYTHONPATH"
    )

from neuralcodec.codecs.base import Codec, build, load_weights, save_weights  # noqa: E402
from neuralcodec.datasets.video import Clip  # noqa: E402

LAPPED = {"latent": 32, "width": 8, "blocks": 1}
GDN = {"latent": 16, "width": 8}


def _part(name: str, arguments: dict) -> dict:
    return {"class_path": f"neuralcodec.codecs.image.transforms.{name}", "init_args": arguments}


def _spec(codec: str, transforms: str, **arguments) -> dict:
    sizes = LAPPED if transforms == "Lapped" else GDN
    return {
        "class_path": f"neuralcodec.codecs.image.{codec}",
        "init_args": {
            "analysis": _part(f"{transforms}Analysis", sizes),
            "synthesis": _part(f"{transforms}Synthesis", sizes),
            "latent": sizes["latent"],
            **arguments,
        },
    }


def _swin(name: str) -> dict:
    arguments = {"latent": GDN["latent"], "widths": [16] * 4, "depths": [1, 1, 2, 1], "window": 4}
    return {"class_path": f"neuralcodec.codecs.image.swin.Swin{name}", "init_args": arguments}


def _context(name: str, **arguments) -> dict:
    sizes = LAPPED if name not in ("UnevenGroups", "Raster") else GDN
    arguments = {"latent": sizes["latent"], "features": 2 * HYPER["patterns"], **arguments}
    return {"class_path": f"neuralcodec.codecs.image.contexts.{name}", "init_args": arguments}


HYPER = {"hyper_channels": 6, "patterns": 8, "hyper_width": 16}
SPECS = {
    "mean-scale": _spec("Hyperprior", "Lapped", **HYPER),
    "scale": _spec("Hyperprior", "Lapped", **HYPER, means=False),
    "mean-scale-gdn": _spec("Hyperprior", "GDN", **HYPER),
    "factorized": _spec("FactorizedPrior", "Lapped"),
    "factorized-gdn": _spec("FactorizedPrior", "GDN"),
    "quadtree": _spec("Hyperprior", "Lapped", **HYPER, context=_context("Quadtree", width=8, blocks=1)),
    "two-step": _spec("Hyperprior", "Lapped", **HYPER, context=_context("Quadtree", width=8, blocks=1, count=2)),
    "checkerboard": _spec("Hyperprior", "Lapped", **HYPER, context=_context("Checkerboard", width=8)),
    "channel-slices": _spec("Hyperprior", "Lapped", **HYPER, context=_context("ChannelSlices", slices=3, width=8)),
    "uneven-groups": _spec("Hyperprior", "GDN", **HYPER, context=_context("UnevenGroups", width=8, first=[1, 2, 3])),
    "autoregressive": _spec("Hyperprior", "GDN", **HYPER, context=_context("Raster", width=8)),
    "shallow": _spec("Hyperprior", "GDN", **HYPER, synthesis=_part("ShallowSynthesis", {"latent": 16, "hidden": 6})),
    "swin": _spec("Hyperprior", "GDN", **HYPER, analysis=_swin("Analysis"), synthesis=_swin("Synthesis")),
    "one-level": _spec("Hyperprior", "GDN", **HYPER, levels=1, lmbda=[0.013, 0.013]),
}


def _scalar(latent: int, transforms: str = "transforms.Spectral", sizes: dict | None = None, **arguments) -> dict:
    sizes = {"latent": latent, **(sizes or {"width": 24, "hidden": 48, "blocks": [1, 1]})}
    analysis, synthesis = (
        {"class_path": f"neuralcodec.codecs.audio.{transforms}{name}", "init_args": sizes} for name in ("Analysis", "Synthesis")
    )
    prior = {"channels": latent, "slices": [latent // 4, latent - latent // 4], "width": 24}
    return {
        "class_path": "neuralcodec.codecs.audio.scalar.ScalarCodec",
        "init_args": {
            "analysis": analysis,
            "synthesis": synthesis,
            "prior": {"class_path": "neuralcodec.entropy.causal.CausalPrior", "init_args": prior},
            "latent": latent,
            "sampling_rate": 16000,
            "segment": 20,
            **arguments,
        },
    }


SOUND_SPECS = {
    "speech": _scalar(16),
    "speech-pairs": _scalar(8, sizes={"width": 16, "hidden": 16, "blocks": [1, 1], "channels": 2}),
    "speech-ahead": _scalar(8, "waveform.Waveform", {"width": 4, "strides": [4, 8, 10], "dilations": [1], "causal": False}),
}


def perturbed(spec: dict, seed: int = 0) -> Codec:
    """A codec far enough from its initial weights that no part of it is trivially zero, in the precision that weights files store."""
    torch.manual_seed(seed)
    codec = build(spec)
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            # Interpolation between levels, means and offsets all have to do something; GDN's own parameters must stay positive.
            if name.startswith(("h_s.", "h_a.", "context.")) or name.endswith((".rows", "head.weight", "log_scale")):
                parameter.add_(torch.randn_like(parameter) * (3.0 if "h_s.offset" in name else 0.15))
            if name.startswith("prior.head.") or (codec.modality == "audio" and name.endswith("contract.weight")):
                parameter.add_(torch.randn_like(parameter) * 0.15)
        if "Waveform" in str(spec):  # the same
            x = torch.from_numpy(synthetic_sound(9600))[None]
            codec.gain.rows.sub_(codec.analyse(x, torch.tensor([(codec.levels - 1) / 2])).std().log() - 0.5)
        if "GDN" in str(spec):  # whose latents are random and small: bring them to a few quantization steps at a middle level
            middle = torch.tensor([(codec.levels - 1) / 2])
            codec.gain.rows.sub_(codec.analyse(synthetic_picture(64, 64), middle).std().log() - 1)
        for name, tensor in codec.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(tensor.to(codec.storage_dtype(name, tensor)))
    codec.requires_grad_(False)
    codec.freeze()
    return codec


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Callable[[str], Path]:
    """The weights file of a small codec, by its kind."""
    folder = tmp_path_factory.mktemp("weights")

    def file(kind: str) -> Path:
        path = folder / f"{kind}.safetensors"
        if not path.exists():
            save_weights(perturbed({**SPECS, **SOUND_SPECS}[kind]), path)
        return path

    return file


@pytest.fixture(scope="session")
def small(weights) -> Callable[[str], Codec]:
    """A small codec, loaded from its weights file, by its kind. Shared: leave it as it is."""
    loaded: dict[str, Codec] = {}

    def codec(kind: str) -> Codec:
        if kind not in loaded:
            loaded[kind] = load_weights(weights(kind))
        return loaded[kind]

    return codec


@pytest.fixture(params=list(SPECS))
def codec(request, small) -> Codec:
    """Every kind of small codec in turn. Shared: leave it as it is."""
    return small(request.param)


def synthetic_picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth areas, edges and fine texture with about the spectrum of photographs, (1, 3, height, width) in 0…1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(1, 3, height, width)
    for power in range(1, 9):
        grey, colour = (torch.randn(1, channels, 2**power, 2**power, generator=generator) for channels in (1, 3))
        x = x + F.interpolate(grey + 0.3 * colour, (height, width), mode="bilinear", align_corners=False) * 0.4 / 2 ** (0.9 * power)
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    x = x + 0.25 * (rows + 0.5 * columns > 0.8) - 0.2 * ((rows - 0.4) ** 2 + (columns - 0.6) ** 2 < 0.05)
    return (torch.round((x * 0.7 + 0.5).clamp(0, 1) * 255) / 255).float()


@pytest.fixture(scope="session")
def picture() -> Callable[..., Tensor]:
    return synthetic_picture


def synthetic_sound(samples: int, channels: int = 1, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """Harmonics that come and go over a little noise, another voice in each channel: (channels, samples) float32."""
    random = np.random.default_rng(seed)
    t = np.arange(samples) / rate
    voices = []
    for channel in range(channels):
        pitch = 120 + 40 * (channel + seed) + 20 * np.sin(2 * np.pi * 3 * t)
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        harmonics = sum(np.sin(k * phase) / k for k in range(1, 12))
        voices.append(0.2 * np.clip(np.sin(2 * np.pi * 2.5 * t + channel), 0, 1) * harmonics)
    return (np.stack(voices) + random.normal(0, 0.005, (channels, samples))).astype(np.float32)


@pytest.fixture(scope="session")
def voice() -> Callable[..., np.ndarray]:
    return synthetic_sound


def synthetic_clip(frames: int = 6, height: int = 64, width: int = 96, bits: int = 8, seed: int = 0) -> Clip:
    """Waves that drift, with a little noise, within limited range."""
    random = np.random.default_rng(seed)
    t, y, x = np.mgrid[:frames, :height, :width]
    peak = 2**bits - 1
    luma = 0.5 + 0.3 * np.sin(0.2 * x + 0.1 * y - 0.5 * t) + random.normal(0, 0.01, (frames, height, width))
    chroma = [0.5 + 0.2 * np.cos(0.1 * (x + sign * y) + 0.2 * t)[:, ::2, ::2] for sign in (1, -1)]
    kind = np.uint8 if bits == 8 else np.uint16
    planes = [np.clip(np.round(each * peak), 0.1 * peak, 0.9 * peak).astype(kind) for each in (luma, *chroma)]
    return Clip(*planes, rate=Fraction(25), bits=bits, matrix="bt601")


@pytest.fixture(scope="session")
def moving() -> Callable[..., Clip]:
    return synthetic_clip


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real images, speech and video."""
    folder = os.environ.get("NEURALCODEC_DATA")
    if not folder:
        pytest.skip("NEURALCODEC_DATA is not set: it names a folder with train/ and eval/")
    return Path(folder)
