"""Results for people: a progress bar, tables in the terminal, a plot."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import rich.progress
from rich.console import Console
from rich.table import Table

from neuralcodec.eval.modalities import MODALITIES
from neuralcodec.eval.results import Comparison, Curve, Results


class Progress(rich.progress.Progress):
    """One line for each codec, with the time left, on stderr."""

    def __init__(self):
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"),
            rich.progress.TimeRemainingColumn(),
        )
        super().__init__(*columns, console=Console(stderr=True))

    def task(self, name: str, total: int) -> Callable[[], None]:
        """A function that moves the line of ``name`` on by one file. Its clock starts with the first."""
        identifier = self.add_task(name, start=False, total=total)

        def advance() -> None:
            self.start_task(identifier)
            self.advance(identifier)

        return advance


def table(results: Results, anchor: Curve, console: Console | None = None) -> None:
    """Every point of the measured curves, then BD-rates against the anchor."""
    console = console or Console(width=None if sys.stdout.isatty() else 160)
    dataset, unit = results.dataset, results.dataset.rate_unit
    measured = [point for curve in results.curves if curve.kind == "measured" for point in curve.points]
    metrics = [metric for metric in results.titles if any(metric in point.quality for point in measured)]
    points = Table(title=f"{dataset.name}, {len(dataset.items)} items, means; {unit} of whole files")
    points.add_column("codec")
    for name in ("setting", unit, *(results.titles[metric] for metric in metrics), "encode s", "decode s"):
        points.add_column(name, justify="right")
    learned = any(point.estimated_rate is not None for point in measured)
    if learned:
        points.add_column(f"{unit} / estimate", justify="right")
        points.add_column("decoded = encoded")
    for curve in results.curves:
        if curve.kind == "measured":
            for point in curve.points:
                row = [curve.name, f"{point.setting:g}", f"{point.rate:.4f}"]
                row += [f"{point.quality[metric]:.3f}" if metric in point.quality else "" for metric in metrics]
                row += [f"{point.encode_seconds:.3f}", f"{point.decode_seconds:.3f}"]
                if learned:
                    row.append(f"{point.rate / point.estimated_rate:.4f}" if point.estimated_rate else "")
                    row.append({True: "yes", False: "NO", None: ""}[point.symbols_equal])
                points.add_row(*row)
            points.add_section()
    console.print(points)

    rates = Table(title=f"BD-rate against {anchor.label} (negative: fewer bits at equal quality), and the range of quality")
    rates.add_column("codec")
    shown = [metric for metric in results.titles if any(comparison.metric == metric for comparison in results.comparisons)]
    for metric in shown:
        rates.add_column(results.titles[metric], justify="right")
    rates.add_column("note", overflow="fold")
    found = {(each.curve, each.curve_kind, each.metric): each for each in results.comparisons}
    for curve in results.curves:
        of_curve = [found.get((curve.name, curve.kind, metric)) for metric in shown]
        if any(of_curve):
            cells = [f"{percent(each)}\n{quality_range(each)}" if each else "" for each in of_curve]
            rates.add_row(curve.label, *cells, of_curve[0].note if of_curve[0] else "")
    console.print(rates)

    if any("cost" in curve.details for curve in results.curves):
        costs = Table(title="Cost of one item; peak memory is a fresh process's, libraries included")
        costs.add_column("codec")
        for name in ("M parameters", f"{MODALITIES[dataset.modality].cost_unit} encode", "decode", "peak MiB encode", "decode"):
            costs.add_column(name, justify="right")
        for curve in results.curves:
            if cost := curve.details.get("cost"):
                values = [cost["parameters"] and cost["parameters"] / 1e6, *list(cost.values())[1:]]
                costs.add_row(curve.name, *("" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values))
        console.print(costs)


def percent(comparison: Comparison) -> str:
    return "none" if comparison.bd_rate is None else f"{comparison.bd_rate:+.1f} %"


def quality_range(comparison: Comparison) -> str:
    return "" if comparison.low is None else f"{comparison.low:.2f}…{comparison.high:.2f}"


def plot(results: Results, path: str | Path) -> None:
    """The main metric over the rate (logarithmic); measured curves solid, published ones dashed and named so."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    metric = next(iter(results.titles))
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    for curve in results.curves:
        pairs = [(point.rate, point.quality[metric]) for point in curve.points if metric in point.quality]
        if not pairs:
            continue
        x, y = zip(*pairs)
        draw = partial(axes.plot, x, y, label=curve.label)
        if curve.kind == "measured":
            draw(marker="o", markersize=4)
        else:
            draw(linestyle="--", linewidth=1, alpha=0.8)
    measured = [point.rate for curve in results.curves if curve.kind == "measured" for point in curve.points]
    axes.set_xscale("log")
    axes.set_xlim(min(measured) / 1.15, max(measured) * 1.15)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"{MODALITIES[results.dataset.modality].rate_title} (whole file)")
    axes.set_ylabel(f"{results.titles[metric]} (mean over items)")
    axes.set_title(f"{results.dataset.name}, {len(results.dataset.items)} items")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=150, format="png")
    plt.close(figure)
