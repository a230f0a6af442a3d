"""Files already measured, kept so that a sweep that was interrupted, or runs again, measures nothing twice.

A measurement is found again by the content of everything it depends on: the item's samples, the codec (weights, options, library), the
setting, the source code that codes and compares, and the machine.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from neuralcodec.eval.candidates import Candidate
from neuralcodec.eval.results import File, Item

CODE = tuple(f"neuralcodec.{name}" for name in ("datasets", "eval.metrics", "eval.modalities", "eval.sweep"))


class Store:
    """A text file that grows by one line of JSON for each measurement.

    Args:
        path: created with the first measurement; lines that are damaged are measured anew.
        conditions: what else the numbers depend on, such as the machine.
        fresh: take nothing from what is there; what is measured is added, and counts from then on.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any], fresh: bool = False):
        self.path, self.conditions = path, dict(conditions)
        self.known: dict[str, File] = {}
        if path.exists() and not fresh:
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    content = json.loads(line)
                    self.known[content["key"]] = File(**content["file"])
                except (ValueError, KeyError, TypeError):
                    continue

    def key(self, codec: Candidate, setting: float, item: Item) -> str:
        metrics = importlib.import_module(f"neuralcodec.eval.metrics.{codec.modality}")
        code = _text_of((*codec.code, *CODE))
        parts = [codec.name, codec.details, setting, item.sha256, code, sorted(metrics.DEFINITIONS), self.conditions]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def get(self, key: str) -> File | None:
        return self.known.get(key)

    def add(self, key: str, file: File) -> None:
        self.known[key] = file
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as out:
            out.write("\n" * self._cut_short() + json.dumps({"key": key, "file": asdict(file)}) + "\n")

    def _cut_short(self) -> bool:
        """Whether an interruption left the last line without its end."""
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            return bool(size) and (file.seek(size - 1), file.read())[1] != b"\n"


@cache
def _text_of(modules: tuple[str, ...]) -> str:
    """A hash of the source of modules and packages of neuralcodec."""
    digest = hashlib.sha256()
    base = Path(__file__).parents[1]
    for module in modules:
        place = base.joinpath(*module.split(".")[1:])
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
            digest.update(path.relative_to(base).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]
