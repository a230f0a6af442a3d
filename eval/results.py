"""What a measurement yields, and the file that keeps it: ``results.json``, schema version 2.

```
{ "schema": 2,
  "dataset":     {"name": "kodak", "modality": "image" | "audio" | "video",
                  "rate_unit": "bpp" (bits per pixel, of all frames in video) or "kbps" (1000 bits per second of sound),
                  "protocol": under which curves are comparable: "kodak" for all 24 of its images, …,
                  "items": [{"name", "sha256": of the samples, "size": {"width", "height"}, …}, …]},
  "definitions": {"rate": "…", "psnr_rgb": "…", …},                                        what each number means
  "titles":      {"psnr_rgb": "RGB PSNR, dB", …},                                          metrics with BD-rates, the main one first
  "environment": {"neuralcodec": "0.1.0", "torch": …, "processor": …, "threads": …, …},
  "curves": [
    { "name", "kind": "measured" | "published", "description",
      "protocol": as the dataset's; curves of different protocols get no BD-rate,
      "source":  null, or where published numbers come from (repository@commit:path),
      "details": {"fingerprint": …, "spec": …, "cost": {…}}, {"library": …, "options": …}, or {"reference": …} if published
      "points": [                                                                          in order of rate
        { "setting": level or quality, null in published curves,
          "rate", "quality": {"psnr_rgb", "psnr_rgb_of_mean_mse", …},
          "encode_seconds", "decode_seconds",                                              means over the items; null if published
          "estimated_rate": learned codecs: by the codec's own probabilities; "rate" includes the header as well,
          "payload_rate":   without what the container of the file costs, where that is known,
          "symbols_equal":  learned codecs: whether every decoded integer equalled the encoder's, in all items,
          "left_out":       {"pesq_wb": number of items in which a metric is not defined, over the others of which it is a mean, …},
          "files": [ {"item", "file_bytes", "rate", "errors": {"rgb": mean squared error, …}, "quality": {"psnr_rgb", …},
                      "encode_seconds", "decode_seconds", "estimated_rate", "header_bytes", "symbols_equal"}, … ] }, … ] }, … ],
  "comparisons": [ {"curve", "curve_kind", "anchor", "anchor_kind", "metric", "bd_rate": percent or null, "low", "high": the range of
                    quality, "note"}, … ] }
```
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from neuralcodec.codecs.writing import write_whole

SCHEMA = 2


class ResultsError(ValueError):
    """Not a results file that this version reads; the message is one line for people."""


@dataclass(frozen=True)
class Item:
    name: str
    sha256: str  # of the samples
    size: dict[str, int]  # width and height in pixels, samples and sampling rate, …


@dataclass(frozen=True)
class Dataset:
    name: str
    modality: str
    rate_unit: str
    items: list[Item]
    protocol: str  # under which curves are comparable: a published test set by its name, or something nobody shares


@dataclass(frozen=True)
class File:
    """One item, coded once."""

    item: str
    file_bytes: int
    rate: float  # of the whole file, in the dataset's unit
    errors: dict[str, float]  # mean squared errors
    quality: dict[str, float]
    encode_seconds: float
    decode_seconds: float
    estimated_rate: float | None = None
    header_bytes: int | None = None  # what the container adds to the streams
    symbols_equal: bool | None = None


@dataclass(frozen=True)
class Point:
    """One setting of a codec over all items."""

    setting: float | None
    rate: float
    quality: dict[str, float]
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    estimated_rate: float | None = None
    payload_rate: float | None = None
    symbols_equal: bool | None = None
    left_out: dict[str, int] = field(default_factory=dict)  # by metric: items in which it is not defined; its mean is over the others
    files: list[File] = field(default_factory=list)


@dataclass(frozen=True)
class Curve:
    name: str
    kind: str  # "measured" or "published"
    description: str
    points: list[Point]
    protocol: str  # test set and conditions, as in Dataset
    source: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.name if self.kind == "measured" else f"{self.name} (published)"


@dataclass(frozen=True)
class Comparison:
    """BD-rate of a curve against an anchor, or why there is none."""

    curve: str
    curve_kind: str
    anchor: str
    anchor_kind: str
    metric: str
    bd_rate: float | None  # percent, negative: fewer bits than the anchor
    low: float | None  # the range of quality over which it is a mean
    high: float | None
    note: str = ""


@dataclass(frozen=True)
class Results:
    dataset: Dataset
    definitions: dict[str, str]
    titles: dict[str, str]
    environment: dict[str, Any]
    curves: list[Curve]
    comparisons: list[Comparison]
    schema: int = SCHEMA

    def save(self, path: str | Path) -> None:
        write_whole(path, json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def save_csv(self, path: str | Path) -> None:
        """One row for each point of each curve."""
        metrics = list(dict.fromkeys(name for curve in self.curves for point in curve.points for name in point.quality))
        numbers = ["setting", "rate", "payload_rate", *metrics, "encode_seconds", "decode_seconds", "estimated_rate", "symbols_equal"]
        unit, file = self.dataset.rate_unit, io.StringIO(newline="")
        writer = csv.DictWriter(file, ["codec", "kind", "rate_unit", *numbers, "source"], lineterminator="\n")
        writer.writeheader()
        for curve in self.curves:
            for point in curve.points:
                values = {**{name: getattr(point, name, None) for name in numbers}, **point.quality}
                writer.writerow({"codec": curve.name, "kind": curve.kind, "rate_unit": unit, "source": curve.source, **values})
        write_whole(path, file.getvalue())


def load(path: str | Path) -> Results:
    """Read what :meth:`Results.save` wrote.

    Raises:
        ResultsError: not such a file, or one of another schema.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ResultsError(f"{path} has schema {content['schema']}; this program reads {SCHEMA}")
        dataset = Dataset(**{**content["dataset"], "items": [Item(**item) for item in content["dataset"]["items"]]})
        curves = [Curve(**{**curve, "points": [_point(point) for point in curve["points"]]}) for curve in content["curves"]]
        comparisons = [Comparison(**comparison) for comparison in content["comparisons"]]
        return Results(dataset, content["definitions"], content["titles"], content["environment"], curves, comparisons)
    except FileNotFoundError:
        raise ResultsError(f"there is no file {path}") from None
    except ResultsError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{path} is not a results file ({error})") from None


def _point(content: dict) -> Point:
    return Point(**{**content, "files": [File(**file) for file in content["files"]]})
