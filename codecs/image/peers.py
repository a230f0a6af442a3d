"""CompressAI's image codecs, writing this project's files.

Bégaint et al. 2020, https://arxiv.org/abs/2011.03029. Networks, entropy models and range coder are CompressAI's; the container is ours.

Its probability tables are computed in floating point and belong to the fingerprint, so a file that another machine's tables could not
decode is refused. Which table a value of y has is computed in floating point too, and nothing protects that: files of models with a
hyperprior decode where they were made. The range coder trusts its input, so do not decode such files of strangers.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from neuralcodec.codecs.base import Codec, CodecError, Compressed, Decompressed, Output, fingerprint, first_line
from neuralcodec.entropy.rans import CorruptStream


class CompressAI(Codec):
    """One model of CompressAI's zoo: one rate. Its streams are CompressAI's strings, in its order: y, then z where there is one.

    Args:
        model: the network, its tables up to date.
    """

    modality = "image"
    streams: tuple[str, ...] = ("y",)  # type: ignore[misc]
    decoder_parameters = ("model.g_s",)

    def __init__(self, model: Any):
        super().__init__(levels=1)
        self.model = model.eval()
        self.factor = int(model.downsampling_factor)
        if hasattr(model, "h_s"):
            self.streams = ("y", "z")

    def freeze(self) -> None:
        """Nothing to do: the tables are CompressAI's."""

    @torch.inference_mode()
    def forward(self, x: Tensor, level: Tensor) -> Output:
        """Not for training: bits by the model's own likelihoods, of the padded picture that is coded."""
        output = self.model(self._padded(x))
        bits = {name: -likelihoods.log2().flatten(1).sum(1) for name, likelihoods in output["likelihoods"].items()}
        return Output(output["x_hat"][..., : x.shape[-2], : x.shape[-1]].clamp(0, 1), bits, {}, {})

    @torch.inference_mode()
    def compress(self, x: Tensor, level: float) -> Compressed:
        """(1, 3, H, W) in 0…1 to streams."""
        strings = self.model.compress(self._padded(x))["strings"]
        return Compressed([string[0] for string in strings], {})

    @torch.inference_mode()
    def decompress(self, streams: Sequence[bytes], size: tuple[int, ...], level: float) -> Decompressed:
        """Streams to (1, 3, H, W)."""
        if not all(streams):
            raise CorruptStream("a stream is empty")
        shape = [-(-side // self.factor) for side in size]
        x = self.model.decompress([[stream] for stream in streams], shape)["x_hat"]
        return Decompressed(x[..., : size[0], : size[1]], {})

    def _padded(self, x: Tensor) -> Tensor:
        """To multiples of the model's factor, below and to the right, with zeros as CompressAI's own examples have it."""
        height, width = x.shape[-2:]
        return F.pad(x, (0, -width % self.factor, 0, -height % self.factor))


def compressai(text: str) -> Codec:
    """A model of the zoo.

    Args:
        text: ``ARCHITECTURE:QUALITY`` for the zoo's own weights, downloaded unless at hand, ``ARCHITECTURE:QUALITY:CHECKPOINT`` for a file.

    Raises:
        CodecError: no such architecture or quality, weights that are not readable, or no network.
    """
    from compressai.zoo import image_models, load_state_dict
    from compressai.zoo.image import model_architectures

    architecture, _, rest = text.partition(":")
    quality, _, checkpoint = rest.partition(":")
    if architecture not in model_architectures or not quality.isdigit():
        raise CodecError(
            f"compressai:{text} is not compressai:ARCHITECTURE:QUALITY[:CHECKPOINT] with one of {', '.join(model_architectures)}"
        )
    try:
        if checkpoint:
            tensors = torch.load(checkpoint, map_location="cpu", weights_only=True)
            tensors = tensors.get("state_dict", tensors)
            model = model_architectures[architecture].from_state_dict(load_state_dict(tensors))
        else:
            model = image_models[architecture](int(quality), pretrained=True, progress=False)
    except FileNotFoundError:
        raise CodecError(f"there is no file {checkpoint}") from None
    except pickle.UnpicklingError:
        raise CodecError(f"{checkpoint} is not a file of weights alone") from None
    except Exception as error:  # a file may hold anything; a download fails in many ways
        raise CodecError(f"compressai:{text} is not to be had ({first_line(error)})") from None
    model.update()
    codec = CompressAI(model)
    codec.spec = {"class_path": f"{__name__}.CompressAI", "init_args": {"model": f"{architecture}:{quality}"}}
    codec.fingerprint = fingerprint(json.dumps(codec.spec, sort_keys=True), codec.state_dict())
    codec.name = f"compressai-{architecture}-{quality}" + (f"-{Path(checkpoint).stem}" if checkpoint else "")
    return codec.eval().requires_grad_(False)
