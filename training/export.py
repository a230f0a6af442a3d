"""Checkpoints to weights files: averaged weights as they are stored, integer tables that belong to those, calibrated if asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from neuralcodec.codecs.base import Codec, CodecError, build, first_line, save_weights

CALIBRATION_SOUNDS = 48
CALIBRATION_SECONDS = 10.0  # of each
CALIBRATION_CLIPS, CALIBRATION_FRAMES = 12, 8


def export(
    checkpoint: str | Path, out: str | Path, metadata: Mapping[str, str] | None = None, calibrate: str | Path | None = None
) -> bytes:
    """A training checkpoint (its averaged weights) to a weights file that ``encode`` and ``decode`` take.

    Args:
        metadata: text to keep in the file.
        calibrate: a folder of training images, sounds or clips whose coded symbols shape the probability tables; without it, those are the
            model's own.

    Returns:
        The fingerprint of the weights.

    Raises:
        CodecError: not a checkpoint of this project.
        FileNotFoundError: nothing to calibrate with.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        codec = build(content["hyper_parameters"]["codec"])
        weights = {name.removeprefix("codec."): value for name, value in content["state_dict"].items() if name.startswith("codec.")}
        codec.load_state_dict(weights)
    except FileNotFoundError:
        raise CodecError(f"there is no file {checkpoint}") from None
    except CodecError:
        raise
    except Exception as error:
        raise CodecError(f"{checkpoint} is not a training checkpoint of neuralcodec ({first_line(error)})") from None
    text = {"steps": str(content.get("global_step", "")), **(metadata or {})}
    return freeze_and_save(codec, out, text, examples(codec, calibrate) if calibrate else ())


def examples(codec: Codec, folder: str | Path) -> list[Tensor]:
    """What a codec is calibrated on: the middles of images, or the beginnings of sounds or clips, spread evenly over a folder; (1, …) each.

    Raises:
        CodecError: a file that is not readable.
    """
    if codec.modality == "image":
        from neuralcodec.datasets.folders import resolve_folder
        from neuralcodec.datasets.images import central_crops, to_tensor

        return [to_tensor(pixels) for pixels in central_crops(resolve_folder(folder))]
    if codec.modality == "audio":
        from neuralcodec.datasets.sounds import folder_sounds, read_at, spread

        files = spread(folder_sounds(folder), getattr(codec, "calibration_sounds", CALIBRATION_SOUNDS))
        channels = getattr(codec, "channels", 1)
        try:
            return [torch.from_numpy(read_at(path, codec.sampling_rate, channels, CALIBRATION_SECONDS))[None] for path in files]
        except ValueError as error:
            raise CodecError(str(error)) from None
    from neuralcodec.codecs.video.files import pack
    from neuralcodec.datasets.clips import WholeClips

    clips = WholeClips(folder, CALIBRATION_FRAMES, CALIBRATION_CLIPS)
    try:
        return [pack(clips[index]) for index in range(len(clips))]
    except ValueError as error:
        raise CodecError(str(error)) from None


def freeze_and_save(codec: Codec, out: str | Path, metadata: Mapping[str, str], examples: Sequence[Tensor] = ()) -> bytes:
    """Round the weights to their stored precision, build the tables that belong to those, calibrate them on ``examples`` if any, save."""
    for name, tensor in codec.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(tensor.to(codec.storage_dtype(name, tensor)))
    try:
        codec.freeze()
    except ValueError as error:
        raise CodecError(str(error)) from None
    if examples:
        codec.calibrate(examples)
    return save_weights(codec, out, metadata)
