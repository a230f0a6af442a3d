"""What fitted clips reach, and how fast they decode. Run: ``python benchmarks/video_fits.py [--part NAME …] [--seconds N]``.

Parts: ``curve`` (video/tiny and video/hnerv on 32 frames of BasketballPass, 416×240, at several levels, beside x264 and x265), ``networks``
(one file of each network), ``bunny`` (the middle of Big Buck Bunny at three sizes) and ``decode`` (frames per second at 1280×640).
Every fit has the same time. Each result is a line of ``--output`` (JSON), so that a run that was interrupted goes on where it
was; ``--table`` prints what is there. Bytes are those of whole files. ``NEURALCODEC_DATA`` says where clips are.

``--clips FOLDER`` writes the three clips of ``bunny`` there instead, for BD-rates:
``neuralcodec eval FOLDER/bunny_640x320.y4m --matrix bt601 --codec x264 --codec x265 --codec fitted:60:video/tiny --levels 6,20,34,48``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from timing import table

from neuralcodec.codecs.fitted import load
from neuralcodec.codecs.video import files, fit
from neuralcodec.codecs.video.fit import Plan
from neuralcodec.codecs.video.outputs import write_clip
from neuralcodec.datasets.folders import data_root
from neuralcodec.datasets.video import Clip, read_clip
from neuralcodec.eval.classical import CLASSICAL
from neuralcodec.eval.metrics.video import quality

PARTS = ("curve", "networks", "bunny", "decode")
FRAMES, BUNNY_FRAMES = 32, 5
CURVE = {"video/hnerv": (4, 18, 32), "video/tiny": (8, 24, 40)}
NETWORKS = ("video/grids", "video/nerv", "video/nerv-plus-plus", "video/hnerv-boost", "video/siren")
PRESETS = ("video/tiny", "video/base", "video/large")
LEVEL = 22  # of single files
CRF = (43, 40, 37, 34, 31, 28, 25)
BUNNY = ((1280, 640), (640, 320), (320, 160))


def basketball() -> Clip:
    return read_clip(_data() / "eval/video/basketballpass_416x240", FRAMES, rate=Fraction(50), matrix="bt601")


def bunny(width: int, height: int, frames: int = BUNNY_FRAMES) -> Clip:
    """The middle 1280×640, made smaller by averaging samples."""
    clip = read_clip(_data() / "eval/video/bunny/bigbuckbunny.mp4", frames, crop=(1280, 640), matrix="bt601")
    factor = 1280 // width
    y, u, v = (_smaller(plane, factor) for plane in (clip.y, clip.u, clip.v))
    return Clip(y, u, v, clip.rate, clip.bits, clip.matrix, clip.full_range)


def _smaller(plane: np.ndarray, factor: int) -> np.ndarray:
    count, height, width = plane.shape
    blocks = plane.reshape(count, height // factor, factor, width // factor, factor).astype(np.float32)
    return np.round(blocks.mean((2, 4))).astype(plane.dtype)


def _data() -> Path:
    root = data_root()
    if root is None:
        raise SystemExit("set NEURALCODEC_DATA")
    return root


class Log:
    """Results, one a line, by what was measured."""

    def __init__(self, path: Path):
        self.path = path
        self.results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def add(self, part: str, codec: str, setting: float, clip: Clip, seconds: float | None, measure: Callable[[], dict]) -> None:
        key = {"part": part, "codec": codec, "setting": setting, "size": [clip.width, clip.height, len(clip)], "seconds": seconds}
        if any(all(result.get(name) == value for name, value in key.items()) for result in self.results):
            return
        self.results.append({**key, **measure()})
        with self.path.open("a") as file:
            file.write(json.dumps(self.results[-1]) + "\n")
        print(json.dumps(self.results[-1]), flush=True)


def fitted(clip: Clip, name: str, level: float, seconds: float) -> dict:
    codec = load(name)
    return _measured(clip, lambda: files.encode_clip(codec, clip, level, Plan(seconds=seconds)), files.decode_clip)


def classical(clip: Clip, name: str, setting: float) -> dict:
    codec = CLASSICAL[name]
    return _measured(clip, lambda: codec.encode(clip, setting).data, lambda data: codec.decode(data).signal)


def _measured(clip: Clip, encode: Callable[[], bytes], decode: Callable[[bytes], Clip]) -> dict:
    began = fit.clock()
    data = encode()
    encoded = fit.clock()
    decoded = decode(data)
    ended = fit.clock()
    values = quality(clip, decoded)
    return {
        "bytes": len(data),
        "bpp": 8 * len(data) / clip.y.size,
        "psnr_yuv611": values["psnr_yuv611"],
        "psnr_rgb": values[f"psnr_rgb_{clip.matrix}"],
        "encode_seconds": encoded - began,
        "decode_seconds": ended - encoded,
        "threads": torch.get_num_threads(),
    }


def run(parts: Sequence[str], seconds: float, log: Log) -> None:
    if "curve" in parts:
        clip = basketball()
        for name in ("x264", "x265"):
            for crf in CRF:
                log.add("curve", name, crf, clip, None, lambda name=name, crf=crf: classical(clip, name, crf))
        for name, levels in CURVE.items():
            for level in levels:
                log.add("curve", name, level, clip, seconds, lambda name=name, level=level: fitted(clip, name, level, seconds))
    if "networks" in parts:
        clip = basketball()
        for name in NETWORKS:
            log.add("networks", name, LEVEL, clip, seconds, lambda name=name: fitted(clip, name, LEVEL, seconds))
    if "bunny" in parts:
        for size in BUNNY:
            clip = bunny(*size)
            for crf in CRF:
                log.add("bunny", "x264", crf, clip, None, lambda crf=crf, clip=clip: classical(clip, "x264", crf))
            log.add("bunny", "video/tiny", LEVEL, clip, seconds, lambda clip=clip: fitted(clip, "video/tiny", LEVEL, seconds))
    if "decode" in parts:
        clip = bunny(1280, 640)
        log.add("decode", "x264", 34, clip, None, lambda: classical(clip, "x264", 34))
        for name in PRESETS:
            log.add("decode", name, LEVEL, clip, 1.0, lambda name=name: fitted(clip, name, LEVEL, 1.0))


def write_clips(folder: Path, frames: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for width, height in BUNNY:
        with (folder / f"bunny_{width}x{height}.y4m").open("wb") as out:
            write_clip(bunny(width, height, frames), out, ".y4m")


def show(results: Sequence[dict]) -> None:
    rows = [("part", "codec", "setting", "clip", "bytes", "bpp", "6:1:1 dB", "RGB dB", "× x264's bytes", "encode s", "decode frames/s")]
    for each in results:
        width, height, frames = each["size"]
        rows.append(
            (
                each["part"],
                each["codec"],
                f"{each['setting']:g}",
                f"{width}×{height}, {frames}",
                f"{each['bytes']:,}",
                f"{each['bpp']:.4f}",
                f"{each['psnr_yuv611']:.2f}",
                f"{each['psnr_rgb']:.2f}",
                _against(each, results),
                f"{each['encode_seconds']:.0f}",
                f"{frames / each['decode_seconds']:.1f}",
            )
        )
    print(table(rows))


def _against(result: dict, results: Sequence[dict]) -> str:
    """Bytes over those of x264 at the same quality, between two of its points."""
    anchors = [each for each in results if each["codec"] == "x264" and each["size"] == result["size"] and each["part"] != "decode"]
    anchors.sort(key=lambda each: each["psnr_yuv611"])
    quality_range = [each["psnr_yuv611"] for each in anchors]
    if not anchors or not quality_range[0] <= result["psnr_yuv611"] <= quality_range[-1]:
        return ""
    bytes_there = np.exp(np.interp(result["psnr_yuv611"], quality_range, [np.log(each["bytes"]) for each in anchors]))
    return f"{result['bytes'] / bytes_there:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=1200, help="of each fit (default: 1200)")
    parser.add_argument("--output", type=Path, default=Path("video_fits.jsonl"))
    parser.add_argument("--table", action="store_true", help="only print what was measured")
    parser.add_argument("--clips", type=Path, metavar="FOLDER", help="only write the clips of bunny")
    parser.add_argument("--frames", type=int, default=17, help="of these (default: 17)")
    parser.add_argument("--processor", action="store_true", help="count the processor's seconds, on a machine that does other things too")
    options = parser.parse_args()
    if options.clips:
        write_clips(options.clips, options.frames)
        return
    if options.processor:
        fit.clock = time.process_time
    log = Log(options.output)
    if not options.table:
        run(options.part, options.seconds, log)
    show(log.results)


if __name__ == "__main__":
    main()
