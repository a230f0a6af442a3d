"""EnCodec and DAC as Hugging Face's ``transformers`` implements them, writing this project's files.

Défossez et al. 2022, https://arxiv.org/abs/2210.13438; Kumar et al. 2023, https://arxiv.org/abs/2306.06546. Differs from their own files in
the container, and in that codes are packed at exactly their bits; what the networks compute is theirs. Both have fixed rates:
residual codes without entropy coding.

Models are read from local folders as ``save_pretrained`` writes them, from safetensors only. ``transformers`` is optional:
``pip install neuralcodec[peers]`` brings it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neuralcodec.codecs.base import Codec, CodecError, Compressed, Decompressed, Output, fingerprint, first_line
from neuralcodec.entropy.categorical import pack, unpack
from neuralcodec.entropy.rans import CorruptStream


class ResidualCodes(Codec):
    """A network whose every frame of samples becomes one code in each of a number of codebooks.

    The codes are one stream: frame after frame, in each the codebooks in order, each code in as few bits as hold all codes of a
    codebook, most significant first, the last byte filled with zeros.

    Args:
        model: of ``transformers``.
        codebooks: used at each level, rising.
        channels: of the sounds that it codes.
    """

    modality = "audio"
    streams: tuple[str, ...] = ("codes",)  # type: ignore[misc]
    decoder_parameters = ("model.decoder",)
    model: Any

    def __init__(self, model: Any, codebooks: Sequence[int], channels: int):
        super().__init__(levels=len(codebooks))
        self.model = model.eval()
        self.codebooks = list(codebooks)  # by level
        self.channels = channels
        self.sampling_rate = int(model.config.sampling_rate)
        self.hop = int(model.config.hop_length)
        self.size = int(model.config.codebook_size)

    def nearest_level(self, level: float) -> float:
        """A whole one: there is nothing between two numbers of codebooks."""
        return float(min(max(round(level), 0), self.levels - 1))

    def freeze(self) -> None:
        """Nothing to do: there are no tables."""

    @torch.inference_mode()
    def forward(self, x: Tensor, level: Tensor) -> Output:
        """Not for training: the numbers of the real coder, item by item."""
        coded = [self.compress(item[None], float(one)) for item, one in zip(x, level)]
        decoded = [self.decompress(each.streams, x.shape[2:], float(one)).signal for each, one in zip(coded, level)]
        bits = {name: torch.tensor([8.0 * len(each.streams[i]) for each in coded], device=x.device) for i, name in enumerate(self.streams)}
        return Output(torch.cat(decoded), bits, {}, {name: torch.cat([each.symbols[name] for each in coded]) for name in coded[0].symbols})

    def codebooks_at(self, level: float) -> int:
        if level != self.nearest_level(level):
            raise CorruptStream("the file's level is none that its codec has")
        return self.codebooks[int(level)]

    def packed(self, codes: Tensor) -> bytes:
        """(frames, codebooks) integers to a stream."""
        return pack(codes.T.cpu().numpy(), [self.size] * codes.shape[1])

    def unpacked(self, stream: bytes, frames: int, level: float) -> Tensor:
        """Undo :meth:`packed`: (frames, codebooks) int64."""
        return torch.from_numpy(unpack(stream, [self.size] * self.codebooks_at(level), frames).T.astype(np.int64))

    def checked(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.channels:
            raise CodecError(f"{self.name or type(self).__name__} codes {self.channels} channel(s), not {x.shape[1]}")
        return x


class Encodec(ResidualCodes):
    """EnCodec. Models that normalise code one scale for each chunk of a second as well, a little-endian float32.

    Args:
        config: of ``transformers.EncodecConfig``.
    """

    def __init__(self, config: Mapping[str, Any]):
        from transformers import EncodecConfig, EncodecModel

        model = EncodecModel(EncodecConfig(**config))
        counts = [model.quantizer.get_num_quantizers_for_bandwidth(kbps) for kbps in sorted(model.config.target_bandwidths)]
        super().__init__(model, counts, model.config.audio_channels)
        self.bandwidths = sorted(model.config.target_bandwidths)  # kbps, by level
        if model.config.normalize:
            self.streams = ("scales", "codes")

    @torch.inference_mode()
    def compress(self, x: Tensor, level: float) -> Compressed:
        """(1, channels, n) at the model's rate to streams."""
        codes, scales = [], []
        for start, count in self._chunks(x.shape[-1]):
            chunk = self.checked(x)[..., start : start + count]
            if self.model.config.normalize:
                scales.append(chunk.mean(1).square().mean().sqrt() + 1e-8)
                chunk = chunk / scales[-1]
            found = self.model.quantizer.encode(self.model.encoder(chunk), self.bandwidths[int(level)])[:, 0]
            if found.shape != (self.codebooks_at(level), self._frames(count)):
                raise CodecError(f"{self.name or 'the model'} turned {count} samples into {tuple(found.shape)} codes")
            codes.append(found)
        joined = torch.cat(codes, 1).T.contiguous()  # (frames, codebooks)
        streams, symbols = [self.packed(joined)], {"codes": joined.int()[None]}
        if self.model.config.normalize:
            packed = torch.stack(scales).float()
            streams.insert(0, packed.cpu().numpy().astype("<f4").tobytes())
            symbols["scales"] = packed.view(torch.int32)[None]
        return Compressed(streams, symbols)

    @torch.inference_mode()
    def decompress(self, streams: Sequence[bytes], size: tuple[int, ...], level: float) -> Decompressed:
        """Streams to (1, channels, n)."""
        device = next(self.parameters()).device
        chunks = self._chunks(size[0])
        frames = [self._frames(count) for _, count in chunks]
        codes = self.unpacked(streams[-1], sum(frames), level).to(device)
        symbols = {"codes": codes.int()[None]}
        scales = None
        if self.model.config.normalize:
            if len(streams[0]) != 4 * len(chunks):
                raise CorruptStream("a stream's length is not that of its signal")
            scales = torch.from_numpy(np.frombuffer(streams[0], "<f4").astype(np.float32)).to(device)
            if not bool((scales.isfinite() & (scales > 0)).all()):
                raise CorruptStream("a scale is not a positive number")
            symbols["scales"] = scales.view(torch.int32)[None]
        pieces = []
        for i, part in enumerate(codes.split(frames)):
            piece = self.model.decoder(self.model.quantizer.decode(part.T[:, None]))
            pieces.append(piece if scales is None else piece * scales[i])
        x = pieces[0] if len(pieces) == 1 else self.model._linear_overlap_add(pieces, self.model.config.chunk_stride)
        return Decompressed(_fitted(x, size[0]), symbols)

    def _chunks(self, count: int) -> list[tuple[int, int]]:
        """(start, samples) of the pieces that are coded one by one."""
        length, stride = self.model.config.chunk_length, self.model.config.chunk_stride
        if length is None:
            return [(0, count)]
        return [(start, min(length, count - start)) for start in range(0, count, stride or length)]

    def _frames(self, count: int) -> int:
        return -(-count // self.hop)


class Dac(ResidualCodes):
    """DAC. Samples are padded with zeros to whole frames, as its feature extractor does; where its decoder gives back a few less, zeros.

    Args:
        config: of ``transformers.DacConfig``.
    """

    def __init__(self, config: Mapping[str, Any]):
        from transformers import DacConfig, DacModel

        model = DacModel(DacConfig(**config))
        super().__init__(model, range(1, model.config.n_codebooks + 1), 1)

    @torch.inference_mode()
    def compress(self, x: Tensor, level: float) -> Compressed:
        """(1, 1, n) at the model's rate to one stream."""
        padded = torch.nn.functional.pad(self.checked(x), (0, -x.shape[-1] % self.hop))
        codes = self.model.encode(padded, n_quantizers=self.codebooks_at(level)).audio_codes[0].T.contiguous()
        if len(codes) != padded.shape[-1] // self.hop:
            raise CodecError(f"{self.name or 'the model'} turned {padded.shape[-1]} samples into {len(codes)} frames")
        return Compressed([self.packed(codes)], {"codes": codes.int()[None]})

    @torch.inference_mode()
    def decompress(self, streams: Sequence[bytes], size: tuple[int, ...], level: float) -> Decompressed:
        """One stream to (1, 1, n)."""
        codes = self.unpacked(streams[0], -(-size[0] // self.hop), level)
        codes = codes.to(next(self.parameters()).device)
        x = self.model.decode(audio_codes=codes.T[None]).audio_values[:, None]
        return Decompressed(_fitted(x, size[0]), {"codes": codes.int()[None]})


def encodec(folder: str) -> Codec:
    """EnCodec from a folder that ``EncodecModel.save_pretrained`` wrote.

    Raises:
        CodecError: there is none, or it is not readable, or ``transformers`` is not installed.
    """
    return _from_folder(Encodec, "EncodecModel", folder)


def dac(folder: str) -> Codec:
    """DAC from a folder that ``DacModel.save_pretrained`` wrote.

    Raises:
        CodecError: there is none, or it is not readable, or ``transformers`` is not installed.
    """
    return _from_folder(Dac, "DacModel", folder)


def _fitted(x: Tensor, count: int) -> Tensor:
    """(…, n) to (…, count): the end cut off, or zeros behind it."""
    return torch.nn.functional.pad(x[..., :count], (0, max(0, count - x.shape[-1])))


def _from_folder(kind: type[ResidualCodes], library_class: str, folder: str) -> Codec:
    try:
        import transformers
    except ImportError:
        raise CodecError("peers from Hugging Face need transformers (pip install 'neuralcodec[peers]')") from None
    if not (Path(folder) / "config.json").is_file():
        raise CodecError(f"there is no model in {folder or 'no folder'}: it has no config.json")
    transformers.utils.logging.disable_progress_bar()
    try:
        library = getattr(transformers, library_class)
        theirs, loaded = library.from_pretrained(folder, local_files_only=True, use_safetensors=True, output_loading_info=True)
        if absent := [*loaded["missing_keys"], *loaded["mismatched_keys"]]:  # the library would make them up
            raise CodecError(f"{folder} is not a whole model: {len(absent)} of its tensors are missing or of another shape")
        config = json.loads(json.dumps(theirs.config.to_diff_dict()))
        for name in ("transformers_version", "architectures", "dtype", "model_type"):
            config.pop(name, None)
        codec = kind(config)  # type: ignore[call-arg, arg-type]
        codec.model.load_state_dict(theirs.state_dict())
    except CodecError:
        raise
    except Exception as error:  # a folder may hold anything, and every class of the library fails in its own way
        raise CodecError(f"{folder} is not a readable model ({first_line(error)})") from None
    codec.spec = {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": {"config": config}}
    codec.fingerprint = fingerprint(json.dumps(codec.spec, sort_keys=True), codec.state_dict())
    codec.name = Path(folder).resolve().name
    return codec.eval().requires_grad_(False)
