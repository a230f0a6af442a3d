"""What a measurement yields, and the file that keeps it: ``results.json``, schema version 1.

```
{ "schema": 1,
  "dataset":     {"name": "kodak", "items": [{"name", "width", "height", "sha256"}, …]},   sha256: of the 8-bit RGB samples
  "definitions": {"bpp": "…", "psnr_rgb": "…", …},                                         what each number means
  "environment": {"neuralcodec": "0.1.0", "torch": …, "machine": …, "threads": …, …},
  "curves": [
    { "name", "kind": "measured" | "published", "description",
      "source":  null, or where published numbers come from (repository@commit:path),
      "details": {"fingerprint": …, "spec": …, "cost": {…}}, {"library": …, "options": …}, or {"dataset": …} if published
      "points": [                                                                          in order of rate
        { "setting": level or quality, null in published curves,
          "bpp", "quality": {"psnr_rgb", "psnr_rgb_of_mean_mse", …},
          "encode_seconds", "decode_seconds",                                              means over the items; null if published
          "estimated_bpp":  learned codecs: by the codec's own probabilities; "bpp" includes the header as well,
          "symbols_equal":  learned codecs: whether every decoded integer equalled the encoder's, in all items,
          "files": [ {"item", "file_bytes", "bpp", "mse_rgb", "quality": {"psnr_rgb", …}, "encode_seconds", "decode_seconds",
                      "estimated_bpp", "header_bytes", "symbols_equal"}, … ] }, … ] }, … ],
  "comparisons": [ {"curve", "curve_kind", "anchor", "anchor_kind", "metric", "bd_rate": percent or null, "low", "high": the range of
                    quality, "note"}, … ] }
```
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1


class ResultsError(ValueError):
    """Not a results file that this version reads; the message is one line for people."""


@dataclass(frozen=True)
class Item:
    name: str
    width: int
    height: int
    sha256: str  # of the 8-bit RGB samples


@dataclass(frozen=True)
class Dataset:
    name: str
    items: list[Item]


@dataclass(frozen=True)
class File:
    """One item, coded once."""

    item: str
    file_bytes: int
    bpp: float  # of the whole file
    mse_rgb: float  # on a 0…255 scale
    quality: dict[str, float]
    encode_seconds: float
    decode_seconds: float
    estimated_bpp: float | None = None
    header_bytes: int | None = None  # what the container adds to the streams
    symbols_equal: bool | None = None


@dataclass(frozen=True)
class Point:
    """One setting of a codec over all items."""

    setting: float | None
    bpp: float
    quality: dict[str, float]
    encode_seconds: float | None = None
    decode_seconds: float | None = None
    estimated_bpp: float | None = None
    symbols_equal: bool | None = None
    files: list[File] = field(default_factory=list)


@dataclass(frozen=True)
class Curve:
    name: str
    kind: str  # "measured" or "published"
    description: str
    points: list[Point]
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
    environment: dict[str, Any]
    curves: list[Curve]
    comparisons: list[Comparison]
    schema: int = SCHEMA

    def save(self, path: str | Path) -> None:
        write(Path(path), json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def save_csv(self, path: str | Path) -> None:
        """One row for each point of each curve."""
        metrics = list(dict.fromkeys(name for curve in self.curves for point in curve.points for name in point.quality))
        numbers = ["setting", "bpp", *metrics, "encode_seconds", "decode_seconds", "estimated_bpp", "symbols_equal"]
        path = Path(path)
        part = path.with_name(path.name + ".part")
        with part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["codec", "kind", *numbers, "source"])
            writer.writeheader()
            for curve in self.curves:
                for point in curve.points:
                    values = {**{name: getattr(point, name, None) for name in numbers}, **point.quality}
                    writer.writerow({"codec": curve.name, "kind": curve.kind, "source": curve.source, **values})
        part.replace(path)


def load(path: str | Path) -> Results:
    """Read what :meth:`Results.save` wrote.

    Raises:
        ResultsError: not such a file, or one of another schema.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ResultsError(f"{path} has schema {content['schema']}; this program reads {SCHEMA}")
        dataset = Dataset(content["dataset"]["name"], [Item(**item) for item in content["dataset"]["items"]])
        curves = [Curve(**{**curve, "points": [_point(point) for point in curve["points"]]}) for curve in content["curves"]]
        comparisons = [Comparison(**comparison) for comparison in content["comparisons"]]
        return Results(dataset, content["definitions"], content["environment"], curves, comparisons)
    except FileNotFoundError:
        raise ResultsError(f"there is no file {path}") from None
    except ResultsError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{path} is not a results file ({error})") from None


def _point(content: dict) -> Point:
    return Point(**{**content, "files": [File(**file) for file in content["files"]]})


def write(path: Path, text: str) -> None:
    """All of it or nothing."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
