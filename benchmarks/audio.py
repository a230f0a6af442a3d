"""Sounds: memory of long ones, speed of every config, and what entropy coding saves: ``python benchmarks/audio.py [long|speed|bytes …]``.

``long`` encodes and decodes a long sound through the program, ``--minutes`` of it, each in a process of its own. ``speed`` encodes and
decodes on one thread with each audio config against EnCodec's network of 24 kHz (transformers' ``EncodecModel``), all with random weights
and writing real bytes, EnCodec's codes excepted, which are counted as they are. ``bytes`` packs the same symbols at fixed bits.

Speech is that of LibriSpeech where ``NEURALCODEC_DATA`` has it, else synthetic. ``--model`` names weights; without, and without shipped
ones, ``long`` takes a config with random weights, and ``bytes`` is left out, since symbols of random weights say nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml
from timing import interleaved, measured, table

from neuralcodec.codecs import CONFIGS, DEFAULTS
from neuralcodec.codecs.audio.files import encode_sound
from neuralcodec.codecs.audio.scalar import ScalarCodec
from neuralcodec.codecs.base import Codec, build, save_weights
from neuralcodec.codecs.files import load
from neuralcodec.datasets.audio import Sound, librispeech_folder, list_sounds, read_sound, resample

RATE = 16000
RANDOM = "audio/speech-16k-small"  # the config of random weights, where there are no others
STEPS = 1.0  # standard deviation of the latents of random weights
ENCODEC_KBPS = 6.0


def speech() -> Iterator[np.ndarray]:
    """Utterances (1, n) at 16 kHz, again and again."""
    try:
        files = list_sounds(librispeech_folder())
    except FileNotFoundError:
        files = []
    while files:
        for path in files:
            yield read_sound(path).samples
    random = np.random.default_rng(0)
    while True:
        t = np.arange(10 * RATE) / RATE
        phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * random.uniform(0.5, 3) * t)) / RATE
        voice = sum(np.sin(k * phase) / k for k in range(1, 15)) * np.clip(np.sin(2 * np.pi * 2 * t), 0, 1)
        yield (0.1 * voice + random.normal(0, 0.003, t.shape)).astype(np.float32)[None]


def minutes_of_speech(path: str, minutes: float) -> int:
    """A WAV file; its samples."""
    left = total = round(minutes * 60 * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for samples in speech():
            file.write(samples[0, :left])
            left -= samples.shape[1]
            if left <= 0:
                return total
    raise AssertionError


def ready(config: str) -> Codec:
    """A codec of a config with random weights, whose latents are about a step large if it has steps."""
    torch.manual_seed(0)
    codec = build(yaml.safe_load(CONFIGS[config].read_text())["model"]["codec"]).requires_grad_(False)
    if isinstance(codec, ScalarCodec):
        x = torch.from_numpy(resample(Sound(next(speech()), RATE), codec.sampling_rate).samples[None, :, : 2 * codec.sampling_rate])
        x = codec.padded(x.repeat(1, codec.channels, 1))
        codec.gain.rows.sub_((codec.analyse(x, torch.tensor([(codec.levels - 1) / 2])).std() / STEPS).log())
    codec.freeze()
    return codec


def long(options: argparse.Namespace) -> None:
    program = str(Path(sys.executable).with_name("neuralcodec"))
    rows = [("minutes", "encode s", "× real time", "peak MB", "decode s", "× real time", "peak MB", "kbit/s", "length")]
    with tempfile.TemporaryDirectory() as folder:
        original, coded, decoded, weights = (str(Path(folder) / name) for name in ("in.wav", "in.nca", "out.wav", "random.safetensors"))
        model = options.model or DEFAULTS.get("audio")
        if model is None:
            model = weights
            save_weights(ready(RANDOM), weights)
        for minutes in options.minutes:
            samples = minutes_of_speech(original, minutes)
            encode = measured(program, "encode", original, "-o", coded, "-f", "-m", model)
            decode = measured(program, "decode", coded, "-o", decoded, "-f", "-m", model)
            exact = soundfile.info(decoded).frames == samples
            cells = [
                f"{cell}"
                for seconds, gigabytes in (encode, decode)
                for cell in (f"{seconds:.1f}", f"{minutes * 60 / seconds:.1f}", f"{gigabytes * 1e3:.0f}")
            ]
            rate = os.path.getsize(coded) * 8 / samples * RATE / 1000
            rows.append((f"{minutes:g}", *cells, f"{rate:.2f}", "exact" if exact else "WRONG"))
    print(f"{Path(model).stem}: files through the program, {torch.get_num_threads()} threads")
    print(table(rows))


def speed(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    tasks, rows = {}, [("", "parameters, M", "encode ×", "decode ×", "both ×", "both / EnCodec")]
    sizes = {}
    sound = Sound(np.concatenate([samples for _, samples in zip(range(12), speech())], 1)[:, : round(options.seconds * RATE)], RATE)
    theirs = "EnCodec 24 kHz"
    with contextlib.suppress(ImportError):
        from transformers import EncodecConfig, EncodecModel

        encodec = EncodecModel(EncodecConfig()).eval().requires_grad_(False)
        wave = torch.from_numpy(resample(sound, 24000).samples)[None]
        codes = encodec.encode(wave, bandwidth=ENCODEC_KBPS)
        tasks[theirs, "encode"] = partial(encodec.encode, wave, bandwidth=ENCODEC_KBPS)
        tasks[theirs, "decode"] = partial(encodec.decode, codes.audio_codes, codes.audio_scales)
        sizes[theirs] = sum(parameter.numel() for parameter in encodec.parameters())
    for name in options.configs or [name for name in CONFIGS if name.startswith("audio/")]:
        codec = ready(name)
        level = (codec.levels - 1) // 2
        x = torch.from_numpy(resample(sound, codec.sampling_rate).samples)[None].repeat(1, codec.channels, 1)
        coded = codec.compress(x, level)
        size = (x.shape[-1], codec.channels)
        assert codec.decompress(coded.streams, size, level).signal.shape == x.shape
        tasks[name, "encode"] = partial(codec.compress, x, level)
        tasks[name, "decode"] = partial(codec.decompress, coded.streams, size, level)
        sizes[name] = sum(parameter.numel() for parameter in codec.parameters())
    with torch.inference_mode():
        taken = interleaved(tasks, options.repetitions, clock=time.process_time)
    reference = taken[theirs, "encode"] + taken[theirs, "decode"] if theirs in sizes else math.nan
    for name, parameters in sizes.items():
        encode, decode = taken[name, "encode"], taken[name, "decode"]
        factors = (options.seconds / encode, options.seconds / decode, options.seconds / (encode + decode), reference / (encode + decode))
        rows.append((name, f"{parameters / 1e6:.1f}", *(f"{factor:.1f}" for factor in factors)))
    print(
        f"{options.seconds:g} s of speech, one thread, processor time, {options.repetitions} interleaved repetitions, medians; × real time"
    )
    print(table(rows))


def fixed_bits(symbols: list[torch.Tensor]) -> tuple[int, int]:
    """Bits of packing symbols (items, channels, n), each in as many as the range of all takes, and as that of its channel takes."""
    joined = torch.cat([one.movedim(1, 0).flatten(1) for one in symbols], 1)  # (channels, all)
    span = (joined.amax(1) - joined.amin(1)).tolist()
    return max(span).bit_length() * joined.numel(), sum(one.bit_length() for one in span) * joined.shape[1]


def saved(options: argparse.Namespace) -> None:
    model = options.model or DEFAULTS.get("audio")
    if model is None:
        print("bytes: there are no trained weights; name some with --model")
        return
    codec = load(model)
    utterances = [Sound(samples, RATE) for _, samples in zip(range(options.utterances), speech())]
    total = sum(sound.seconds for sound in utterances)
    rows = [("level", "kbit/s, file", "coded", "packed, one range", "saves", "packed, a range for each channel", "saves")]
    for level in options.levels:
        coded = [encode_sound(codec, sound, level) for sound in utterances]
        bits = 8 * sum(len(one.data) for one in coded)
        packed = fixed_bits([one.symbols[codec.streams[0]] for one in coded])
        payload = 8 * sum(len(stream) for one in coded for stream in _streams(one.data))
        cells = [cell for one in packed for cell in (f"{one / total / 1e3:.2f}", f"{100 * (1 - payload / one):.0f} %")]
        rows.append((f"{level:g}", f"{bits / total / 1e3:.2f}", f"{payload / total / 1e3:.2f}", *cells))
    print(f"{codec.name}: {len(utterances)} utterances, {total:.0f} s; kbit/s of equal symbols, without the container")
    print(table(rows))


def _streams(data: bytes) -> list[bytes]:
    from neuralcodec.entropy import container

    return container.read(data).streams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"long": long, "speed": speed, "bytes": saved}
    parser.add_argument("parts", nargs="*", metavar="long|speed|bytes", help="default: all")
    parser.add_argument("--model", help="shipped weights by name, or a weights file")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10], help="long: of each sound (default: 1 10)")
    parser.add_argument("--configs", nargs="+", help="speed: names as in `neuralcodec list` (default: all of audio)")
    parser.add_argument("--seconds", type=float, default=5.0, help="speed: of sound")
    parser.add_argument("--repetitions", type=int, default=3, help="speed")
    parser.add_argument("--utterances", type=int, default=20, help="bytes")
    parser.add_argument("--levels", type=float, nargs="+", default=[0, 15, 30, 45, 63], help="bytes")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    for name in options.parts or parts:
        parts[name](options)


if __name__ == "__main__":
    main()
