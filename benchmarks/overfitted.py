"""What `--effort overfit` reaches, over the time that it is given: whole files of Kodak pictures against AVIF and HEVC intra.

    neuralcodec eval kodak --codec avif --codec hevc -o anchors
    python benchmarks/overfitted.py anchors/results.json --seconds 900 -o overfitted.jsonl     # 18 encodes, 5 hours

Each line of the output file is one encode; what is there is not measured again. The same command, with several `--seconds`, prints the
table: BD-rate by RGB PSNR, of means over the pictures, over the range that both curves share.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from neuralcodec.codecs.files import load
from neuralcodec.codecs.image import overfitted_fit
from neuralcodec.codecs.image.files import decode_picture, encode_picture
from neuralcodec.codecs.image.pictures import Picture
from neuralcodec.datasets.folders import kodak_folder, list_images, read_rgb
from neuralcodec.entropy import container
from neuralcodec.eval.curves import bd_rate
from neuralcodec.eval.results import Curve, Point

PICTURES = (1, 5, 8, 13, 19, 23)
LEVELS = (6, 18, 30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("anchors", type=Path, help="results.json of `neuralcodec eval kodak`")
    parser.add_argument("--model", default="image-overfitted")
    parser.add_argument("--seconds", type=float, nargs="+", default=[120.0], help="of each fit")
    parser.add_argument("--pictures", type=int, nargs="+", default=PICTURES)
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS)
    parser.add_argument("--processor", action="store_true", help="seconds are the processor's, for machines that do other work as well")
    parser.add_argument("--table", action="store_true", help="measure nothing: what is there already")
    parser.add_argument("-o", "--output", type=Path, default=Path("overfitted.jsonl"))
    options = parser.parse_args()
    if options.processor:
        overfitted_fit.time = SimpleNamespace(monotonic=time.process_time)  # type: ignore[assignment]
    clock = clock_of(options)
    known = {}
    if options.output.exists():
        for line in options.output.read_text().splitlines():
            content = json.loads(line)
            known[content["model"], content["clock"], content["seconds"], content["level"], content["picture"]] = content
    for seconds in options.seconds:
        for level in [] if options.table else options.levels:
            for picture in options.pictures:
                if (options.model, clock, seconds, level, picture) not in known:
                    content = {"clock": clock, **measured(options.model, seconds, level, picture)}
                    known[options.model, clock, seconds, level, picture] = content
                    with options.output.open("a") as out:
                        out.write(json.dumps(content) + "\n")
    report(options, known)


def clock_of(options: argparse.Namespace) -> str:
    return "processor" if options.processor else "wall"


def measured(model: str, seconds: float, level: float, picture: int) -> dict:
    """One encode and decode."""
    codec = load(model)
    pixels = read_rgb(list_images(kodak_folder())[picture - 1])
    steps = 0

    def count(done: int, of: int, state: str = "", /) -> None:
        nonlocal steps
        steps = done

    began = time.perf_counter(), time.process_time()
    data = encode_picture(codec, Picture(pixels), level, seconds=seconds, report=count)
    encoded = time.perf_counter(), time.process_time()
    decoded = decode_picture(data, [codec]).pixels
    error = np.mean((decoded.astype(np.float64) - pixels) ** 2)
    return {
        "model": model,
        "seconds": seconds,
        "level": level,
        "picture": picture,
        "bpp": 8 * len(data) / (pixels.shape[0] * pixels.shape[1]),
        "psnr": 10 * np.log10(255**2 / error),
        "streams": [len(stream) for stream in container.read(data).streams],
        "steps": steps,
        "encode_seconds": encoded[0] - began[0],
        "encode_processor_seconds": encoded[1] - began[1],
        "decode_seconds": time.perf_counter() - encoded[0],
        "decode_processor_seconds": time.process_time() - encoded[1],
        "threads": torch.get_num_threads(),
    }


def report(options: argparse.Namespace, known: dict) -> None:
    names = [f"kodim{picture:02}" for picture in options.pictures]
    anchors, singles = {}, {}
    for curve in json.loads(options.anchors.read_text())["curves"]:
        if curve["name"] in ("avif", "hevc") and curve["kind"] == "measured":
            points = []
            for point in curve["points"]:
                files = [file for file in point["files"] if file["item"] in names]
                quality = float(np.mean([file["quality"]["psnr_rgb"] for file in files]))
                points.append(Point(None, mean(files, "rate"), {"psnr_rgb": quality}))
                for file in files:
                    singles.setdefault((curve["name"], file["item"]), []).append((file["quality"]["psnr_rgb"], file["rate"]))
            anchors[curve["name"]] = Curve(curve["name"], "measured", "", points, "these pictures", None, {})
    for seconds in options.seconds:
        points, rows = [], []
        for level in options.levels:
            keys = [(options.model, clock_of(options), seconds, level, picture) for picture in options.pictures]
            files = [known[key] for key in keys if key in known]
            if len(files) == len(options.pictures):
                rows.append((level, files))
                points.append(Point(level, mean(files, "bpp"), {"psnr_rgb": mean(files, "psnr")}))
        if not rows:
            continue
        print(f"\n{seconds:g} s, {len(options.pictures)} pictures")
        for level, files in rows:
            columns = [mean(files, name) for name in ("bpp", "psnr", "steps", "encode_processor_seconds", "decode_processor_seconds")]
            weights = float(np.mean([file["streams"][0] for file in files]))
            text = "level {:g}: {:.4f} bpp, {:.2f} dB, {:.0f} steps, {:.0f} s, decoded in {:.2f} s of a processor".format(level, *columns)
            print(f"{text}; {weights:.0f} bytes of weights")
        for name, anchor in anchors.items():
            ours = Curve("overfitted", "measured", "", sorted(points, key=lambda point: point.rate), "these pictures", None, {})
            found = bd_rate(ours, anchor, "psnr_rgb", least=3)
            value = found.note if found.bd_rate is None else f"{found.bd_rate:+.1f} % over {found.low:.1f} … {found.high:.1f} dB"
            print(f"BD-rate against {name}: {value}")
            for level, files in rows:
                above = [over(singles[name, f"kodim{file['picture']:02}"], file) for file in files]
                print(f"  rate over {name} at equal PSNR, level {level:g}:", *(f"{each:+.1f} %" for each in (*above, np.mean(above))))


def over(points: list[tuple[float, float]], file: dict) -> float:
    """Percent by which a file is larger than one of an anchor's of the same PSNR, between whose qualities the logarithm is interpolated."""
    quality, rates = zip(*sorted(points))
    return 100 * (file["bpp"] / np.exp(np.interp(file["psnr"], quality, np.log(rates))) - 1)


def mean(files: list[dict], name: str) -> float:
    return float(np.mean([file[name] for file in files]))


if __name__ == "__main__":
    main()
