"""Results for people while they wait and afterwards: a progress bar with the time left, and plots."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich.progress
from rich.console import Console
from rich.text import Text

from neuralcodec.codecs.writing import write_whole
from neuralcodec.eval.modalities import MODALITIES
from neuralcodec.eval.results import Curve, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALL = "all"
LEGEND_WIDTH = 12  # characters of a legend to an inch, with the line before them
FORMATS = ("png", "svg")  # of plots
DECADE = 12  # a range of rates beyond which three ticks in each power of ten are enough
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # of measured curves, for each turn of the colours
LONE = "x"  # a published curve of a single point has no line to be seen by
DASHES = ("--", ":", "-.", (0, (8, 2, 2, 2, 2, 2)), (0, (1, 3)))  # of published ones
MARGIN = 1.15  # of the rates' range, at each side of a plot


class Progress(rich.progress.Progress):
    """A line for each codec on stderr, and one for all of them with the time left.

    The files that a codec has still to do are taken to last as long as those that it did, or, before its first, as all files so far.

    Args:
        totals: files of each codec.
    """

    def __init__(self, totals: Mapping[str, int]):
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            _TimeLeft(),
        )
        super().__init__(*columns, console=Console(stderr=True))
        self.lines = {name: self.add_task(name, start=False, total=total) for name, total in totals.items()}
        self.overall = self.add_task(ALL, total=sum(totals.values()), seconds_left=None, visible=len(totals) > 1)
        self.totals = dict(totals)
        self.measured = dict.fromkeys(totals, 0)
        self.seconds = dict.fromkeys(totals, 0.0)
        self.clock = time.monotonic()

    def advance_of(self, name: str) -> Callable[[bool], None]:
        """A function that moves a codec's line on by one file, and is told whether that file was known from earlier."""

        def advance(known: bool = False) -> None:
            now = time.monotonic()
            if not known:
                self.measured[name] += 1
                self.seconds[name] += now - self.clock
            self.clock = now
            self.start_task(self.lines[name])
            self.advance(self.lines[name])
            self.update(self.overall, advance=1, seconds_left=self.seconds_left())

        return advance

    def seconds_left(self) -> float | None:
        """Of all codecs together; none before the first file."""
        count, seconds = sum(self.measured.values()), sum(self.seconds.values())
        if not count:
            return None
        left = 0.0
        for name, line in self.lines.items():
            each = self.seconds[name] / self.measured[name] if self.measured[name] else seconds / count
            left += each * (self.totals[name] - self.tasks[line].completed)
        return left


class _TimeLeft(rich.progress.ProgressColumn):
    def render(self, task: rich.progress.Task) -> Text:
        left = task.fields.get("seconds_left")
        return Text("" if left is None else f"{timedelta(seconds=round(left))} left", style="progress.remaining")


def plot(results: Results, folder: Path) -> list[Path]:
    """``rd.png`` and ``rd.svg``: a panel for each metric with a title, the main one large, over the rate, which is logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [metric for metric in results.titles if any(metric in point.quality for curve in results.curves for point in curve.points)]
    colours = [plt.get_cmap("tab10")(i) for i in range(10)]
    styles = {curve.label: _style(i, curve.kind == "measured", colours) for i, curve in enumerate(results.curves)}
    others = shown[1:]
    mosaic: list[Any] = [[shown[0], shown[0], other] for other in others] if others else [[shown[0]]]
    figure, panels = plt.subplot_mosaic(mosaic, figsize=(13 if others else 9, 6.5), layout="constrained")
    for metric in shown:
        _panel(panels[metric], results, metric, styles, main=metric == shown[0])
    legends = [panels[metric].get_legend_handles_labels() for metric in shown]
    named = {label: line for lines, labels in legends for line, label in zip(lines, labels)}  # published curves lack some metrics
    columns = max(1, min(6, len(named), round(LEGEND_WIDTH * figure.get_figwidth() / max(map(len, named)))))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    unit = MODALITIES[results.dataset.modality].rate_title
    figure.suptitle(f"{results.dataset.name}, means over {len(results.dataset.items)} items, over {unit} of whole files")
    paths = []
    for kind in FORMATS:
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=130, format=kind, metadata={"Date": None} if kind == "svg" else None)
        paths.append(folder / f"rd.{kind}")
        write_whole(paths[-1], buffer.getvalue())
    plt.close(figure)
    return paths


def _panel(axes: Axes, results: Results, metric: str, styles: Mapping[str, dict[str, Any]], main: bool) -> None:
    """Measured curves solid, published ones dashed; the axes frame what was measured."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    measured = [point.rate for curve in results.curves if curve.kind == "measured" for point in curve.points]
    left, right = min(measured) / MARGIN, max(measured) * MARGIN
    inside: list[float] = []
    for curve in results.curves:
        pairs = [(point.rate, point.quality[metric]) for point in curve.points if metric in point.quality]
        if not pairs:
            continue
        inside += [quality for rate, quality in pairs if left <= rate <= right]
        style = styles[curve.label] if len(pairs) > 1 else {"marker": LONE, **styles[curve.label]}
        axes.plot(*zip(*pairs), label=_label(curve, results), markersize=4 if main else 2.5, **style)
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    if inside and (span := max(inside) - min(inside)):
        axes.set_ylim(min(inside) - 0.04 * span, max(inside) + 0.04 * span)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if right / left > DECADE else (1, 1.5, 2, 3, 4, 6, 8)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=9 if main else 7)
    axes.set_ylabel(results.titles[metric], fontsize=10 if main else 8)
    if main:
        axes.set_xlabel(f"{MODALITIES[results.dataset.modality].rate_title}")
    axes.grid(alpha=0.3, which="both")


def _style(place: int, measured: bool, colours: Sequence[tuple]) -> dict[str, Any]:
    """No two curves look the same: where colours come again, markers or dashes are others."""
    turn, colour = divmod(place, len(colours))
    if measured:
        return {"color": colours[colour], "linewidth": 1.6, "marker": MARKERS[turn % len(MARKERS)]}
    return {"color": colours[colour], "linewidth": 1.1, "linestyle": DASHES[turn % len(DASHES)], "alpha": 0.8}


def _label(curve: Curve, results: Results) -> str:
    """A published curve of other items says which."""
    return curve.label if curve.protocol == results.dataset.protocol else f"{curve.name} (published, {curve.protocol})"
