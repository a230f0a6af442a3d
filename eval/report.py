"""``report.html``: one page that needs nothing else: plots, tables, and what codecs do to signals, to see or to hear at equal rates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from neuralcodec.codecs.writing import write_whole
from neuralcodec.eval.modalities import MODALITIES
from neuralcodec.eval.results import Results

TEMPLATE = Path(__file__).with_name("report.html")


def save(results: Results, samples: Sequence[dict], path: str | Path) -> None:
    """Write the page.

    Args:
        samples: of :func:`neuralcodec.eval.samples.sample`.
    """
    kind = MODALITIES[results.dataset.modality]()
    content = asdict(results)
    for curve in content["curves"]:
        for point in curve["points"]:
            for file in point["files"]:  # so that each item has a curve by every metric that the means have one by
                file["quality"] |= kind.metrics.derived(file["quality"], file["errors"])
    content |= {"rate_title": kind.rate_title, "cost_unit": kind.cost_unit, "plural": kind.plural, "samples": list(samples)}
    text = json.dumps(content, ensure_ascii=False, allow_nan=False).replace("</", "<\\/")  # no text may end the script element
    write_whole(path, TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/", text))
