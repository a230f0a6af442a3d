"""``neuralcodec eval``: measure codecs side by side. Importing this is cheap: ``neuralcodec --help`` does it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuralcodec.eval.candidates import Candidate
    from neuralcodec.eval.modalities import Modality, Source
    from neuralcodec.eval.results import Results
    from neuralcodec.eval.store import Store

EPILOG = """\
examples:
  neuralcodec eval kodak --codec image-tiny --codec jpeg --codec webp -o results
  neuralcodec eval photos/ --codec my-weights.safetensors --codec jpeg --anchor jpeg
  neuralcodec eval kodak --codec image-tiny --published vtm-18.0 mbt2018-mean --anchor vtm-18.0 -o results

besides:
  neuralcodec eval compare A.json B.json    BD-rates between results
  neuralcodec eval published [MODALITY]     names, descriptions and sources of published curves
"""


def main(arguments: Sequence[str]) -> int:
    """``neuralcodec eval`` with these arguments; the exit code. Options and other arguments may come in any order."""
    from neuralcodec.codecs.errors import CodecError
    from neuralcodec.eval.results import ResultsError

    others = {"compare": (add_compare_arguments, _compare), "published": (add_published_arguments, _list_published)}
    name = arguments[0] if arguments and arguments[0] in others else None
    describe, act = others[name] if name else (add_arguments, _measure)
    parser = argparse.ArgumentParser(prog=f"neuralcodec eval {name}" if name else "neuralcodec eval")
    describe(parser)
    args = parser.parse_intermixed_args(arguments[1:] if name else arguments)
    try:
        return act(args)
    except BrokenPipeError:  # not of the evaluation: who read its output has read enough
        raise
    except (CodecError, ResultsError, OSError) as error:
        print(f"neuralcodec eval: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Rate-distortion curves of codecs on a data set."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add = parser.add_argument
    add("dataset", help="kodak, clic, librispeech, uvg, a folder or a file")
    add("--modality", choices=("image", "audio", "video"), help="what to measure in a folder that holds signals of several kinds")
    add(
        "--codec",
        action="append",
        default=[],
        metavar="NAME",
        help="a model, a weights file, encodec:FOLDER, dac:FOLDER, compressai:ARCHITECTURE:QUALITY[:FILE], a classical codec by name, "
        "or classical for all of the modality; repeatable",
    )
    add("--published", nargs="+", action="extend", default=[], metavar="NAME", help="published curves to show beside; 'list' names them")
    add("--anchor", metavar="NAME", help="codec or published curve that BD-rates refer to (default: the first classical codec)")
    add("--points", type=_positive, metavar="N", help="settings of each codec, evenly spread (default: 8 of models, all of others)")
    add("--levels", type=_numbers, metavar="A,B,…", help="rate levels of models, instead of --points")
    add("--limit", type=_positive, metavar="N", help="the first N items only")
    add("--root", metavar="DIR", help="where the dataset is, if not below NEURALCODEC_DATA")
    add("-o", "--output", metavar="DIR", help="write results.json, rd.csv, rd.png, rd.svg and report.html here")
    add("--cost", action="store_true", help="also parameters, multiply-accumulates per unit of signal and peak memory, on the first item")
    add("--samples", type=_not_negative, default=2, metavar="N", help="items to look at or listen to in the report (default: 2)")
    add("--sample-rate", type=_above_zero, metavar="RATE", help="bpp or kbps of these (default: low in the range that all codecs share)")
    add("--jobs", type=_positive, default=1, metavar="N", help="measure N files at a time; encode and decode times then mean little")
    add("--ray", nargs="?", const="local", metavar="ADDRESS", help="measure on a Ray cluster; without an address, on one started here")
    add("--fresh", action="store_true", help="measure again what files.jsonl in the output folder holds from earlier runs")
    add("--format", choices=("text", "markdown", "latex"), default="text", help="of the tables that are printed")
    add("-f", "--force", action="store_true", help="overwrite earlier results")
    add = parser.add_argument_group("how video is read").add_argument
    add("--frames", type=_positive, metavar="N", help="the first N frames only")
    add("--crop", type=_size, metavar="WxH", help="cut this from the middle")
    add("--video-size", type=_size, metavar="WxH", help="of raw files, if their names do not say")
    add("--pixel-format", metavar="NAME", help="of raw files: yuv420p or yuv420p10le, if their names do not say")
    add("--fps", type=_rate, metavar="N", help="frames per second of raw files and pictures, if their names do not say")
    add("--matrix", choices=("bt601", "bt709", "bt2020"), help="from which RGB is made (default: as tagged, else bt709 from 720 lines)")


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "BD-rates between results that were measured at different times or places."
    add = parser.add_argument
    add("files", nargs="+", metavar="RESULTS.json")
    add("--anchor", metavar="NAME", help="compare all with this curve (default: each codec with itself in the first file)")
    add("--format", choices=("text", "markdown", "latex"), default="markdown", help="of the table")


def add_published_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Published curves that --published and --anchor take."
    parser.add_argument("modality", nargs="?", choices=("image", "audio", "video"), help="only of this kind")


def _compare(args: argparse.Namespace) -> int:
    from neuralcodec.eval import compare, tables

    for warning in compare.differences(args.files):
        print(f"neuralcodec eval compare: {warning}", file=sys.stderr)
    tables.show(compare.grid(compare.compare(args.files, args.anchor)), args.format)
    return 0


def _list_published(args: argparse.Namespace) -> int:
    from neuralcodec.eval import curves, modalities

    for name, modality in modalities.MODALITIES.items():
        if args.modality in (None, name):
            for each in curves.PUBLISHED[name]:
                curve = curves.published(each, modality())
                print(f"{name}  {each:24} {curve.description}; of {curve.protocol}; {curve.source}")
    return 0


def _measure(args: argparse.Namespace) -> int:
    from neuralcodec.codecs.errors import CodecError
    from neuralcodec.eval import cost, curves, modalities, sweep, tables
    from neuralcodec.eval.results import Results
    from neuralcodec.eval.show import Progress
    from neuralcodec.eval.store import Store
    from neuralcodec.eval.workers import workers

    if args.published == ["list"]:
        return _list_published(argparse.Namespace(modality=args.modality))
    modality = _modality(args)
    published = curves.PUBLISHED[modality.name]
    if unknown := [name for name in args.published if name not in published]:
        raise CodecError(f"there is no published curve {unknown[0]!r}; there are {', '.join(published)}")
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
    codecs = _willing(codecs, chosen)
    names = [codec.name for codec in codecs]
    dataset = modalities.describe(modality, args.dataset, chosen)
    wanted = list(dict.fromkeys(args.published))
    if args.anchor and args.anchor not in (*names, *wanted):
        if args.anchor not in published:
            raise CodecError(f"the anchor {args.anchor!r} is neither measured here nor one of {', '.join(published)}")
        wanted.append(args.anchor)
    others = [curves.published(name, modality) for name in wanted]

    environment = sweep.environment("ray" if args.ray else args.jobs)
    conditions = {name: value for name, value in environment.items() if name not in ("time", "load_average")}
    store = Store(output / "files.jsonl", conditions, args.fresh) if output else None
    measured = []
    totals = {codec.name: len(chosen) * len(codec.spread(args.points)) for codec in codecs}
    try:
        with Progress(totals) as progress, workers(args.jobs, args.ray) as pool:
            for codec in codecs:
                advance = progress.advance_of(codec.name)
                curve = sweep.measure(codec, modality, dataset.name, chosen, args.points, advance, store, pool)
                if args.cost:
                    curve.details["cost"] = asdict(cost.cost(codec, modality, chosen[0].path))
                measured.append(curve)
    except KeyboardInterrupt:
        print(f"neuralcodec eval: interrupted{_kept(store)}", file=sys.stderr)
        return 130
    except OSError as error:
        raise CodecError(f"{error}{_kept(store)}") from None
    all_curves = [*measured, *others]
    anchor = _anchor(args.anchor, all_curves)
    titles = modality.metrics.TITLES
    for metric, package in getattr(modality.metrics, "MISSING", {}).items():
        print(f"neuralcodec eval: {metric} not measured; it needs {package} (pip install 'neuralcodec[measure]')", file=sys.stderr)
    comparisons = curves.compare(all_curves, anchor, list(titles))
    results = Results(dataset, modality.definitions, titles, environment, all_curves, comparisons)

    if output:
        _write(args, results, modality, codecs, chosen, output)
    for grid in tables.grids(results, anchor):
        tables.show(grid, args.format)
    if output:
        print(f"wrote results.json, rd.csv, rd.png, rd.svg and report.html to {output}", file=sys.stderr)
    if wrong := [curve.name for curve in measured if any(point.symbols_equal is False for point in curve.points)]:
        raise CodecError(f"files of {', '.join(wrong)} did not decode to what was encoded")
    return 0


def _write(
    args: argparse.Namespace, results: Results, modality: Modality, codecs: list[Candidate], chosen: list[Source], output: Path
) -> None:
    from neuralcodec.eval import report, samples, show

    output.mkdir(parents=True, exist_ok=True)
    results.save(output / "results.json")
    results.save_csv(output / "rd.csv")
    show.plot(results, output)
    count = min(args.samples, len(chosen))
    shown = [chosen[i * len(chosen) // count] for i in range(count)]
    with show.Progress({"samples for the report": len(shown) * len(codecs)} if shown else {}) as progress:
        advance = progress.advance_of("samples for the report") if shown else None
        made = [samples.sample(modality, codecs, source, results.curves, args.sample_rate, advance) for source in shown]
    report.save(results, made, output / "report.html")


def _kept(store: Store | None) -> str:
    return f"; {store.path} keeps what was measured, and the same command goes on from there" if store and store.known else ""


def _candidates(wanted: list[str], levels: list[float] | None, modality: str):
    """In the order asked for, ``classical`` expanded to those of the modality, those whose libraries are missing named and left out."""
    from neuralcodec.codecs.errors import CodecError
    from neuralcodec.eval.candidates import candidate
    from neuralcodec.eval.classical import NAMES

    classical = NAMES[modality]
    expanded = [each for name in wanted for each in (classical if name == "classical" else [name])]
    codecs = []
    for name in dict.fromkeys(expanded):
        codec = candidate(name, levels)
        if codec.modality != modality:
            raise CodecError(f"{name} is a codec of {codec.modality}, and {modality} is to be measured")
        if codec.missing:
            print(f"neuralcodec eval: {name} left out; it needs {codec.missing}", file=sys.stderr)
        else:
            codecs.append(codec)
    return codecs


def _willing(codecs: list[Candidate], chosen: list[Source]) -> list[Candidate]:
    """Those that can code every item; the others are named and left out."""
    from neuralcodec.codecs.errors import CodecError

    willing = []
    for codec in codecs:
        if reason := next((reason for source in chosen if (reason := codec.refusal(source.item.size))), None):
            print(f"neuralcodec eval: {codec.name} left out; it {reason}", file=sys.stderr)
        else:
            willing.append(codec)
    if not willing:
        raise CodecError("there is no codec left to measure")
    return willing


def _anchor(name: str | None, all_curves):
    """The named curve, measured before published; else the first classical codec, else the first published curve, else the first."""
    if name:
        return next(curve for curve in all_curves if curve.name == name)
    from neuralcodec.eval.classical import CLASSICAL

    classical = [curve for curve in all_curves if curve.kind == "measured" and curve.name in CLASSICAL]
    published = [curve for curve in all_curves if curve.kind == "published"]
    return [*classical, *published, *all_curves][0]


def _modality(args: argparse.Namespace) -> Modality:
    """What kind of signal, and how its items are to be read."""
    from neuralcodec.codecs.errors import CodecError
    from neuralcodec.eval import modalities

    kind = modalities.MODALITIES[args.modality] if args.modality else modalities.kind_of(args.dataset, args.root)
    options = ("frames", "crop", "video_size", "pixel_format", "fps", "matrix")
    given = {name: value for name in options if (value := getattr(args, name)) is not None}
    known = [field.name for field in fields(kind)]
    if other := [name for name in given if name not in known]:
        raise CodecError(f"--{other[0].replace('_', '-')} is of no use with {kind.plural}")
    return kind(**given)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return value


def _above_zero(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return _positive(width), _positive(height)


def _rate(text: str) -> Fraction:
    try:
        value = Fraction(text)
    except ZeroDivisionError:
        value = Fraction(0)
    if not 0 < value <= 10**6:
        raise argparse.ArgumentTypeError("must be more than 0 and at most a million")
    return value


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]
