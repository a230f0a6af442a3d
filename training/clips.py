"""Training of video codecs that need no fit: bits per pixel and 255²·MSE of the planes; validation in real bpp and 6:1:1 PSNR.

neuralcodec train fit --config video/recurrent --data.frames 3 …
neuralcodec train export runs/checkpoints/last.ckpt first.safetensors
neuralcodec train fit --config video/recurrent --data.frames 6 --model.init_from first.safetensors …
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from neuralcodec.codecs.base import Codec, CodecError, Output
from neuralcodec.codecs.video.files import decode_clip, pack, to_file
from neuralcodec.codecs.video.fit import PLANE_WEIGHTS
from neuralcodec.codecs.video.recurrent import RecurrentVideo
from neuralcodec.datasets.video import Clip
from neuralcodec.entropy import container
from neuralcodec.eval.metrics.video import quality
from neuralcodec.training.base import RateDistortion


class ClipTraining(RateDistortion):
    """R in bits per pixel of luma, D in 255²·MSE of planes, luma counting half. Arguments as of
    :class:`~neuralcodec.training.base.RateDistortion`."""

    codec: RecurrentVideo

    def objective(self, x: Tensor, level: Tensor, output: Output) -> Tensor:
        frames = x.shape[1]
        pixels = 4 * x.shape[-2] * x.shape[-1]
        bpp = torch.stack(list(output.bits.values())).sum(0) / (frames * pixels)
        mse = squared_errors(output.reconstruction.float(), x)
        with torch.no_grad():
            self.log("bpp", bpp.mean(), prog_bar=True)
            self.log("psnr", (10 * torch.log10(255**2 / mse)).mean(), prog_bar=True)
            self.log("psnr_gain", (10 * torch.log10(mse[:, 0] / mse[:, -1])).mean())  # of the last picture over the first
            for name, bits in output.bits.items():
                self.log(f"bpp_{name.replace(' ', '_')}", bits.mean() / pixels / (1 if name.startswith("first") else max(frames - 1, 1)))
        lmbdas = self.codec.lmbda(self.codec.levels_of(level, frames))
        return (self.weights(level)[1] * (bpp + (lmbdas * mse).mean(1))).mean()

    def validate(self, codec: Codec, batch: Clip, level: float, index: int) -> dict[str, float]:
        assert isinstance(codec, RecurrentVideo)
        x = pack(batch).to(self.device)
        estimate = codec(x, torch.full((1,), level, device=self.device))
        coded = codec.compress(x, level)
        data = to_file(codec, batch, level, coded.streams)
        size = (len(batch), batch.height, batch.width)
        self.compare(coded.symbols, codec.decompress(container.read(data).streams, size, level).symbols, level)
        back = decode_clip(data, candidates=[codec])
        return {
            "estimated_bpp": float(sum(estimate.bits.values())) / batch.y.size,
            "bpp": len(data) * 8 / batch.y.size,
            "psnr": quality(batch, back)["psnr_yuv611"],
            "mse": float(squared_errors(pack(back), pack(batch)).mean()),
        }

    def validated(self, means: Mapping[str, float], lmbda: float) -> float:
        return means["bpp"] + lmbda * means["mse"]

    def on_fit_start(self) -> None:
        if not isinstance(self.codec, RecurrentVideo):
            raise CodecError(f"{type(self.codec).__name__} is not trained this way")
        super().on_fit_start()


def squared_errors(x: Tensor, y: Tensor) -> Tensor:
    """(B, frames), 255²·MSE of planes (B, frames, 6, h, w), weighed as the planes are."""
    weights = torch.tensor(PLANE_WEIGHTS, device=x.device)
    return 255**2 * ((x - y).square().mean((-2, -1)) * weights).sum(-1)


__all__ = ["ClipTraining"]
