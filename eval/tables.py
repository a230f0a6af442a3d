"""Results as tables: in the terminal, as Markdown, as LaTeX."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from neuralcodec.eval.modalities import MODALITIES
from neuralcodec.eval.results import Comparison, Curve, Results

STYLES = ("text", "markdown", "latex")
TELLING = 0.5  # percentage points between the two methods of BD-rate from which both are shown
LATEX = {"\\": r"\textbackslash{}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "…": "--", "~": r"\textasciitilde{}"}


class Grid(NamedTuple):
    """A table before it is drawn."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]  # cells of several lines are spread over lines in the terminal only
    texts: int = 1  # columns at the left that are not numbers
    notes: Sequence[str] = ()  # below the table


def grids(results: Results, anchor: Curve) -> list[Grid]:
    """Every point of the measured curves, BD-rates against the anchor, and, if it was measured, what coding costs."""
    return [points(results), *rates(results, anchor), *costs(results)]


def points(results: Results) -> Grid:
    dataset, unit = results.dataset, results.dataset.rate_unit
    measured = [(curve, point) for curve in results.curves if curve.kind == "measured" for point in curve.points]
    metrics = [metric for metric in results.titles if any(metric in point.quality for _, point in measured)]
    head = ["codec", "setting", unit, *(results.titles[metric] for metric in metrics), "encode s", "decode s"]
    learned = any(point.estimated_rate is not None for _, point in measured)
    if learned:
        head += [f"{unit} / estimate", "decoded = encoded"]
    rows = []
    for curve, point in measured:
        row = [curve.name, f"{point.setting:g}", f"{point.rate:.4f}"]
        row += [f"{point.quality[metric]:.3f}" if metric in point.quality else "" for metric in metrics]
        row += [f"{point.encode_seconds:.3f}", f"{point.decode_seconds:.3f}"]
        if learned:
            row.append(f"{point.rate / point.estimated_rate:.4f}" if point.estimated_rate else "")
            row.append({True: "yes", False: "NO", None: ""}[point.symbols_equal])
        rows.append(row)
    return Grid(f"{dataset.name}, {len(dataset.items)} items, means; {unit} of whole files", head, rows)


def rates(results: Results, anchor: Curve) -> list[Grid]:
    shown = [metric for metric in results.titles if any(comparison.metric == metric for comparison in results.comparisons)]
    found = {(each.curve, each.curve_kind, each.metric): each for each in results.comparisons}
    rows, notes = [], []
    for curve in results.curves:
        of_curve = [found.get((curve.name, curve.kind, metric)) for metric in shown]
        if any(of_curve):
            rows.append([curve.label, *map(cell, of_curve)])
            of_metric = {metric: each.note for metric, each in zip(shown, of_curve) if each and each.note}
            if len(set(of_metric.values())) == 1:
                notes.append(f"{curve.label}: {next(iter(of_metric.values()))}")
            else:
                notes += [f"{curve.label}, {results.titles[metric]}: {note}" for metric, note in of_metric.items()]
    title = f"BD-rate against {anchor.label} (negative: fewer bits at equal quality), and the range of quality"
    return [Grid(title, ["codec", *(results.titles[metric] for metric in shown)], rows, notes=notes)] if rows else []


def costs(results: Results) -> list[Grid]:
    unit = MODALITIES[results.dataset.modality].cost_unit
    head = ["codec", "M parameters", f"{unit} encode", f"{unit} decode", "peak MiB encode", "peak MiB decode"]
    rows = []
    for curve in results.curves:
        if cost := curve.details.get("cost"):
            values = [cost["parameters"] and cost["parameters"] / 1e6, *list(cost.values())[1:]]
            rows.append([curve.name, *("" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values)])
    return [Grid("Cost of one item; peak memory is a fresh process's, libraries included", head, rows)] if rows else []


def cell(comparison: Comparison | None) -> str:
    """A BD-rate, by both methods where they differ, and, on a line of its own, the range of quality that it is a mean over."""
    if comparison is None:
        return ""
    if comparison.bd_rate is None:
        return "none"
    differs = comparison.akima is not None and abs(comparison.akima - comparison.bd_rate) > TELLING
    value = f"{comparison.bd_rate:+.1f} %" + (f", Akima {comparison.akima:+.1f} %" if differs else "")
    return f"{value}\n({comparison.low:.2f}…{comparison.high:.2f})"


def show(each: Grid, style: str = "text", console: Console | None = None) -> None:
    """Print a table to standard output, as one of :data:`STYLES`."""
    if style != "text":
        print({"markdown": markdown, "latex": latex}[style](each))
        return
    console = console or Console(width=None if sys.stdout.isatty() else 160)
    drawn = Table(title=Text(each.title))
    for i, name in enumerate(each.head):
        drawn.add_column(Text(name), justify="left" if i < each.texts else "right")
    for i, row in enumerate(each.rows):
        drawn.add_row(*map(Text, row), end_section=i + 1 < len(each.rows) and each.rows[i + 1][0] != row[0])
    console.print(drawn)
    for note in each.notes:
        console.print(Text(note), style="dim", highlight=False)


def markdown(each: Grid) -> str:
    rule = ["---"] * each.texts + ["---:"] * (len(each.head) - each.texts)
    lines = ["| " + " | ".join(_flat(text).replace("|", r"\|") for text in row) + " |" for row in (each.head, rule, *each.rows)]
    return "\n".join([f"{each.title}:", "", *lines, *([""] if each.notes else []), *(f"* {note}" for note in each.notes), ""])


def latex(each: Grid) -> str:
    """With the rules of the package booktabs."""
    lines = [f"% {each.title}", rf"\begin{{tabular}}{{{'l' * each.texts}{'r' * (len(each.head) - each.texts)}}}", r"\toprule"]
    lines += [_latex_row(each.head), r"\midrule", *map(_latex_row, each.rows), r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, *(f"% {note}" for note in each.notes), ""])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join("".join(LATEX.get(letter, letter) for letter in _flat(text)) for text in cells) + r" \\"


def _flat(text: str) -> str:
    return " ".join(text.split())
