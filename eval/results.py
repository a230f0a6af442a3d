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
  "comparisons": [ {"curve", "curve_kind", "anchor", "anchor_kind", "metric", "bd_rate": percent or null, by PCHIP,
                    "akima": the same by Akima's interpolation, "low", "high": the range of quality, "note"}, … ] }
```
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from neuralcodec.codecs.errors import first_line
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
    akima: float | None = None  # as bd_rate, by the other interpolation


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
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise ResultsError(f"{path} has schema {schema!r:.20}; this program reads {SCHEMA}")
        results = _read(Results, content, "results")
    except FileNotFoundError:
        raise ResultsError(f"there is no file {path}") from None
    except ResultsError:
        raise
    except RecursionError:
        raise ResultsError(f"{path} is not a results file (it is nested too deeply)") from None
    except (OSError, ValueError, TypeError) as error:
        raise ResultsError(f"{path} is not a results file ({first_line(error)})") from None
    if any(point.rate <= 0 for curve in results.curves for point in curve.points):
        raise ResultsError(f"{path} is not a results file (a rate is not positive)")
    return results


def _read(kind: Any, value: Any, name: str) -> Any:
    """JSON as an object of a class of this module, or of one of the types of their fields.

    Raises:
        TypeError: it is of another type, lacks a field or has one too many.
    """
    options = [None if each is type(None) else each for each in get_args(kind)]
    if get_origin(kind) is list and isinstance(value, list):
        return [_read(options[0], each, name) for each in value]
    if get_origin(kind) is dict and isinstance(value, dict):
        return {key: _read(options[1], each, f"{name} {key}") for key, each in value.items()}
    if None in options:
        return None if value is None else _read(options[0], value, name)
    if is_dataclass(kind) and isinstance(value, dict):
        kinds = get_type_hints(kind)
        return kind(**{key: _read(kinds.get(key, Any), each, key) for key, each in value.items()})  # type: ignore[operator]
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind is Any or (type(value) is kind and kind is not float):
        return value
    raise TypeError(f"{name} is not as it should be")
