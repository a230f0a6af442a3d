"""``neuralcodec eval compare A.json B.json``: BD-rates between results that were measured at different times or places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from neuralcodec.eval import curves
from neuralcodec.eval.results import Comparison, Curve, Results, ResultsError, load
from neuralcodec.eval.tables import Grid, cell


class Row(NamedTuple):
    codec: str
    anchor: str
    comparisons: dict[str, Comparison]  # by the metric's title


def compare(paths: Sequence[str], anchor: str | None = None) -> list[Row]:
    """Codecs of later files against those of the same name in the first, or every codec of every file against one anchor.

    Raises:
        ResultsError: a file is not readable, the files are of different items, or there is nothing to compare.
    """
    loaded = [load(path) for path in paths]
    for path, results in zip(paths[1:], loaded[1:]):
        if _items(results) != _items(loaded[0]):
            raise ResultsError(f"{paths[0]} and {path} are of different items ({loaded[0].dataset.name}, {results.dataset.name})")
    ours = loaded[0].dataset.protocol  # the same items may lie in folders of other names
    loaded = [
        replace(each, curves=[replace(one, protocol=ours) if one.kind == "measured" else one for one in each.curves]) for each in loaded
    ]
    titles = loaded[0].titles
    several = len(paths) > 1
    named = [
        (curve, replace(curve, name=f"{curve.name} [{tag}]") if several and curve.kind == "measured" else curve)
        for tag, results in zip(_tags(paths), loaded)
        for curve in results.curves
    ]
    if anchor:
        chosen = next((pair for pair in named if pair[0].name == anchor), None)
        if chosen is None:
            raise ResultsError(f"no curve is called {anchor!r}; there are {', '.join(dict.fromkeys(pair[0].name for pair in named))}")
        return [_row(curve, chosen[1], titles) for _, curve in _once(named) if curve is not chosen[1]]
    first = {curve.name: shown for curve, shown in named[: len(loaded[0].curves)] if curve.kind == "measured"}
    later = named[len(loaded[0].curves) :]
    rows = [_row(shown, first[curve.name], titles) for curve, shown in later if curve.kind == "measured" and curve.name in first]
    if not rows:
        raise ResultsError("no codec is in the first file and in a later one; name an anchor with --anchor")
    return rows


def differences(paths: Sequence[str]) -> list[str]:
    """What the files do not mean by the same name, one line for each later file: their numbers may differ for that alone.

    Raises:
        ResultsError: a file is not readable.
    """
    first, *others = [load(path) for path in paths]
    found = []
    for path, results in zip(paths[1:], others):
        shared = [name for name in first.definitions if name in results.definitions]
        if changed := [name for name in shared if first.definitions[name] != results.definitions[name]]:
            found.append(f"{paths[0]} and {path} define {', '.join(changed)} differently; BD-rates between them may mean nothing")
    return found


def grid(rows: Sequence[Row]) -> Grid:
    """The rows as a table."""
    metrics = list(dict.fromkeys(metric for row in rows for metric in row.comparisons))
    head = ["codec", "against", *(f"BD-rate, {metric}" for metric in metrics)]
    body = [[row.codec, row.anchor, *(cell(row.comparisons.get(metric)) for metric in metrics)] for row in rows]
    notes = dict.fromkeys(
        f"{row.codec}: {each.note}" for row in rows for metric, each in row.comparisons.items() if each.note and metric == metrics[0]
    )
    return Grid("BD-rate (negative: fewer bits at equal quality), and the range of quality", head, body, 2, list(notes))


def _row(curve: Curve, anchor: Curve, titles: Mapping[str, str]) -> Row:
    compared = curves.compare([curve, anchor], anchor, list(titles))
    return Row(curve.label, anchor.label, {titles[each.metric]: each for each in compared})


def _items(results: Results) -> list[str]:
    return sorted(item.sha256 for item in results.dataset.items)


def _once(named: Sequence[tuple[Curve, Curve]]) -> list[tuple[Curve, Curve]]:
    """Published curves that several files hold, only once."""
    return list({shown.label: (curve, shown) for curve, shown in reversed(named)}.values())[::-1]


def _tags(paths: Sequence[str]) -> list[str]:
    """What tells the files apart: their names, or their folders where the names are the same."""
    names = [Path(path).stem for path in paths]
    if len(set(names)) == len(names):
        return names
    folders = [Path(path).resolve().parent.name for path in paths]
    return folders if len(set(folders)) == len(folders) else [str(number) for number in range(1, len(paths) + 1)]
