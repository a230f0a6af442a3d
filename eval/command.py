"""``neuralcodec eval``: measure codecs side by side. Importing this is cheap: ``neuralcodec --help`` does it."""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import asdict
from pathlib import Path

EPILOG = """\
examples:
  neuralcodec eval kodak --codec image-tiny --codec jpeg --codec webp -o results
  neuralcodec eval photos/ --codec my-weights.safetensors --codec jpeg --anchor jpeg
  neuralcodec eval kodak --codec image-tiny --published vtm-18.0 mbt2018-mean --anchor vtm-18.0 -o results
  neuralcodec eval compare before/results.json after/results.json --format latex
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add = parser.add_argument
    add("dataset", help="kodak, clic, a folder or a file, or compare")
    add("files", nargs="*", metavar="RESULTS", help="after compare: results.json files")
    add("--modality", choices=("image", "audio", "video"), help="what to measure in a folder that holds signals of several kinds")
    add(
        "--codec",
        action="append",
        default=[],
        metavar="NAME",
        help="a model, a weights file, jpeg, webp, jpeg2000, jpegxl, avif, avif-420, hevc, or classical for all these; repeatable",
    )
    add("--published", nargs="+", action="extend", default=[], metavar="NAME", help="published curves to show beside; 'list' names them")
    add("--anchor", metavar="NAME", help="codec or published curve that BD-rates refer to (default: the first classical codec)")
    add("--points", type=_positive, metavar="N", help="settings of each codec, evenly spread (default: 8 of models, all of others)")
    add("--levels", type=_numbers, metavar="A,B,…", help="rate levels of models, instead of --points")
    add("--limit", type=_positive, metavar="N", help="the first N items only")
    add("--root", metavar="DIR", help="where the dataset is, if not below NEURALCODEC_DATA")
    add("-o", "--output", metavar="DIR", help="write results.json, rd.csv, rd.png and report.html here")
    add("--cost", action="store_true", help="also parameters, multiply-accumulates per unit of signal and peak memory, on the first item")
    add("--samples", type=int, default=2, metavar="N", help="items shown side by side in the report (default: 2)")
    add("--jobs", type=_positive, default=1, metavar="N", help="measure N files at a time; encode and decode times then mean little")
    add("--fresh", action="store_true", help="measure again what files.jsonl in the output folder holds from earlier runs")
    add("--format", choices=("markdown", "latex"), default="markdown", help="of compare's table")
    add("-f", "--force", action="store_true", help="overwrite earlier results")


def run(args: argparse.Namespace) -> int:
    from neuralcodec.codecs.base import CodecError
    from neuralcodec.eval.results import ResultsError

    try:
        return _run(args)
    except (CodecError, ResultsError, OSError) as error:
        print(f"neuralcodec eval: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    if args.dataset == "compare":
        from neuralcodec.eval import compare
        from neuralcodec.eval.results import ResultsError

        if not args.files:
            raise ResultsError("compare needs results.json files")
        print(compare.table(compare.compare(args.files, args.anchor), args.format))
        return 0
    return _measure(args)


def _measure(args: argparse.Namespace) -> int:
    from neuralcodec.codecs.base import CodecError
    from neuralcodec.eval import cost, curves, modalities, report, show, sweep
    from neuralcodec.eval.results import Results
    from neuralcodec.eval.store import Store

    modality = (modalities.MODALITIES[args.modality] if args.modality else modalities.kind_of(args.dataset, args.root))()
    published = curves.PUBLISHED[modality.name]
    if args.published == ["list"]:
        for name in published:
            curve = curves.published(name, modality)
            print(f"{name:22} {curve.description}; {curve.protocol}; {curve.source}")
        return 0
    if unknown := [name for name in args.published if name not in published]:
        raise CodecError(f"there is no published curve {unknown[0]!r}; there are {', '.join(published)}")
    if args.files:
        raise CodecError(f"what is {args.files[0]!r}? only compare takes files")
    if not args.codec:
        raise CodecError("name at least one codec with --codec")
    output = Path(args.output) if args.output else None
    if output and (output / "results.json").exists() and not args.force:
        raise CodecError(f"{output / 'results.json'} exists; -f overwrites it")

    codecs = _candidates(args.codec, args.levels, modality.name)
    names = [codec.name for codec in codecs]
    if len(set(names)) < len(names):
        raise CodecError(f"two of the codecs have the same name: {', '.join(names)}")
    chosen = modalities.sources(modality, args.dataset, args.root, args.limit)
    dataset = modalities.describe(modality, args.dataset, chosen)
    wanted = list(dict.fromkeys(args.published))
    if args.anchor and args.anchor not in (*names, *wanted):
        if args.anchor not in published:
            raise CodecError(f"the anchor {args.anchor!r} is neither measured here nor one of {', '.join(published)}")
        wanted.append(args.anchor)
    others = [curves.published(name, modality) for name in wanted]

    environment = sweep.environment(args.jobs)
    conditions = {name: environment[name] for name in ("torch", "processor", "threads", "jobs")}
    store = Store(output / "files.jsonl", conditions, args.fresh) if output else None
    measured = []
    with show.Progress() as progress, contextlib.ExitStack() as stack:
        if pool := sweep.pool_of(args.jobs):
            stack.enter_context(pool)
        tasks = [progress.task(codec.name, len(chosen) * len(codec.spread(args.points))) for codec in codecs]
        for codec, advance in zip(codecs, tasks):
            curve = sweep.measure(codec, modality, dataset.name, chosen, args.points, advance, store, pool)
            if args.cost:
                curve.details["cost"] = asdict(cost.cost(codec, modality, chosen[0].path))
            measured.append(curve)
    all_curves = [*measured, *others]
    anchor = _anchor(args.anchor, all_curves)
    titles = modality.metrics.TITLES
    comparisons = curves.compare(all_curves, anchor, list(titles))
    results = Results(dataset, modality.definitions, titles, environment, all_curves, comparisons)

    if output:
        count = min(args.samples, len(chosen))
        shown = [chosen[i * len(chosen) // count] for i in range(count)]
        with show.Progress() as progress:
            step = progress.task("samples for the report", len(shown) * len(codecs)) if shown else None
            samples = [report.sample(codecs, image, step) for image in shown]
        output.mkdir(parents=True, exist_ok=True)
        results.save(output / "results.json")
        results.save_csv(output / "rd.csv")
        show.plot(results, output / "rd.png")
        report.save(results, samples, output / "report.html")
    show.table(results, anchor)
    if output:
        print(f"wrote results.json, rd.csv, rd.png and report.html to {output}", file=sys.stderr)
    if wrong := [curve.name for curve in measured if any(point.symbols_equal is False for point in curve.points)]:
        raise CodecError(f"files of {', '.join(wrong)} did not decode to what was encoded")
    return 0


def _candidates(wanted: list[str], levels: list[float] | None, modality: str):
    """In the order asked for, ``classical`` expanded to those of the modality, those whose libraries are missing named and left out."""
    from neuralcodec.codecs.base import CodecError
    from neuralcodec.eval.candidates import candidate
    from neuralcodec.eval.classical import CLASSICAL

    classical = [name for name, codec in CLASSICAL.items() if codec.modality == modality]
    expanded = [each for name in wanted for each in (classical if name == "classical" else [name])]
    codecs = []
    for name in dict.fromkeys(expanded):
        codec = candidate(name, levels)
        if codec.modality != modality:
            raise CodecError(f"{name} is a codec of {codec.modality}, and {modality} is to be measured")
        if codec.missing:
            print(f"neuralcodec eval: {name} left out; it needs {codec.missing} (pip install 'neuralcodec[measure]')", file=sys.stderr)
        else:
            codecs.append(codec)
    if not codecs:
        raise CodecError("there is no codec left to measure")
    return codecs


def _anchor(name: str | None, all_curves):
    """The named curve, measured before published; else the first classical codec, else the first published curve, else the first."""
    if name:
        return next(curve for curve in all_curves if curve.name == name)
    from neuralcodec.eval.classical import CLASSICAL

    classical = [curve for curve in all_curves if curve.kind == "measured" and curve.name in CLASSICAL]
    published = [curve for curve in all_curves if curve.kind == "published"]
    return [*classical, *published, *all_curves][0]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]
