"""The command line: ``neuralcodec encode | decode | tokens | info | list | eval | train | export``.

Direction by suffix, ``-`` for pipes, people on stderr, machines on ``--json``. Nothing here imports torch before it is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from neuralcodec import __version__, convert
from neuralcodec.codecs import DEFAULTS, WEIGHTS
from neuralcodec.codecs.writing import whole_file, write_whole
from neuralcodec.entropy import container
from neuralcodec.eval import command as evaluation


class UserError(Exception):
    """Something the user can put right; the message is one line."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="neuralcodec", description="Learned codecs that write real files.")
    parser.add_argument("--version", action="version", version=f"neuralcodec {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    encode = commands.add_parser(
        "encode", help="pictures to .nci, sounds to .nca, clips to .ncv files", description="Encode pictures, sounds and clips."
    )
    encode.add_argument("input", nargs="+", help="pictures, sounds, clips, or folders of them; - for standard input")
    _add_output(encode)
    goal = encode.add_mutually_exclusive_group()
    goal.add_argument("-q", "--quality", type=float, default=50, help="0 … 100, higher is better and larger (default: 50)")
    goal.add_argument("-b", "--kbps", type=float, help="sounds: kbit/s of the whole file to aim at")
    goal.add_argument("--bpp", type=float, help="pictures and clips: bits of the whole file per pixel to aim at")
    goal.add_argument("--max-bytes", type=int, metavar="N", help="pictures and clips: the best file of at most so many bytes")
    goal.add_argument("--psnr", type=float, metavar="DB", help="PSNR to aim at: pictures of RGB, clips 6:1:1 of their planes")
    goal.add_argument("--ms-ssim", type=float, metavar="V", help="pictures: MS-SSIM to aim at: below 1 as it is, from 1 up in dB")
    encode.add_argument(
        "--effort",
        type=_effort,
        metavar="N",
        help="pictures and clips: 0 … 5, time for smaller files, two to three times from one to the next (default: 0, and 2 for clips); "
        "overfit: a network for each picture",
    )
    encode.add_argument(
        "--max-time", type=_time, metavar="TIME", help="pictures and clips: how long a network is fitted to each, in seconds or as 1:30"
    )
    encode.add_argument(
        "--checkpoint", metavar="FILE", help="pictures and clips: keep the state of the fit there, and go on from it after an interruption"
    )
    encode.add_argument("--frames", type=_frames, metavar="A:B", help="clips: frames A … B - 1")
    encode.add_argument("--video-size", type=_size, metavar="WxH", help="raw clips: width and height")
    encode.add_argument("--pixel-format", metavar="F", help="raw clips: yuv420p or yuv420p10le")
    encode.add_argument("--fps", type=Fraction, metavar="R", help="clips: frames per second, where the file does not say")
    encode.add_argument("--matrix", choices=("bt601", "bt709", "bt2020"), help="clips: from which RGB follows, where the file does not say")
    encode.add_argument(
        "--audio", choices=("copy", "coded"), help=f"clips: keep the first track of sound, as it is or coded with {DEFAULTS['audio']}"
    )
    encode.add_argument("--audio-kbps", type=float, metavar="R", help="clips: kbit/s of sound that is coded")
    encode.add_argument("--roi", metavar="MASK", help="pictures: another picture, white where quality counts")
    encode.add_argument("-m", "--model", help="name of shipped weights (see list), or a weights file")
    encode.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, …")
    encode.add_argument("--max-pixels", type=int, help="refuse pictures that have more (default: 2^27)")
    encode.set_defaults(run=run_encode)

    decode = commands.add_parser(
        "decode",
        help="back again",
        description="Decode .nci files to PNG or any format by suffix, .nca to WAV or FLAC, .ncv to Y4M, raw YUV or lossless MP4.",
    )
    decode.add_argument("input", nargs="+", help=".nci, .nca and .ncv files or folders of them; - for standard input")
    _add_output(decode)
    decode.add_argument("-m", "--model", help="weights that wrote the file, if not among the shipped ones")
    decode.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, …")
    decode.add_argument("--from", dest="start", type=_time, metavar="TIME", help="sounds: decode from here on, in seconds or as 1:30")
    decode.add_argument("--to", dest="end", type=_time, metavar="TIME", help="sounds: decode up to here")
    decode.add_argument(
        "--conceal",
        nargs="?",
        const="fade",
        choices=("fade", "silence"),
        help="sounds: where the file is damaged, let what was last heard fade away, or put silence; otherwise damage is an error",
    )
    decode.add_argument("--frames", type=_frames, metavar="A:B", help="clips: frames A … B - 1; only what these need is decoded")
    decode.add_argument("--pictures", action="store_true", help="clips: a folder of PNG files for each, at or below --output")
    decode.add_argument("--max-pixels", type=int, help="refuse files that ask for more (default: 2^27, 2^26 for a picture in one piece)")
    decode.set_defaults(run=run_decode)

    tokens = commands.add_parser("tokens", help="sounds to integers", description="The integers that a token codec makes of a sound.")
    tokens.add_argument("input", help="a sound; - for standard input")
    tokens.add_argument("-o", "--output", help=".npz, .npy (the array alone) or .json file (default: .npz beside the input)")
    tokens.add_argument("-f", "--force", action="store_true", help="overwrite")
    tokens.add_argument("--json", action="store_true", help="print them for machines")
    tokens.add_argument("--codebooks", type=int, metavar="N", help="of each frame, the first so many (default: all)")
    tokens.add_argument("-m", "--model", default=DEFAULTS["tokens"], help="name of shipped weights, or a weights file")
    tokens.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, …")
    tokens.set_defaults(run=run_tokens)

    info = commands.add_parser("info", help="what a file says of itself", description="Show the header of coded files or weights.")
    info.add_argument("input", nargs="+")
    info.add_argument("--json", action="store_true", help="for machines")
    info.set_defaults(run=run_info)

    listing = commands.add_parser("list", help="shipped models and configs")
    listing.add_argument("--json", action="store_true", help="for machines")
    listing.set_defaults(run=run_list)

    commands.add_parser("eval", help="rate-distortion curves of codecs on a data set", add_help=False)
    commands.add_parser("train", help="train a codec from a config (fit, validate, …)", add_help=False)

    export = commands.add_parser("export", help="a training checkpoint to a weights file, or a model's networks to ONNX")
    export.add_argument("checkpoint", help="of training; with --onnx a model's name or its weights")
    export.add_argument("output", help="OUT.safetensors; with --onnx a folder")
    export.add_argument("--onnx", action="store_true", help="write the networks as ONNX files, with entropy coding left to the caller")
    export.add_argument("--calibrate", metavar="FOLDER", help="training images whose coded symbols shape the probability tables")
    export.add_argument("-f", "--force", action="store_true", help="overwrite")
    export.set_defaults(run=run_export)
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", help="file, or folder for several inputs; - for standard output (default: beside the input)")
    parser.add_argument("-f", "--force", action="store_true", help="overwrite")


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["train"]:  # LightningCLI parses its own options
        from neuralcodec.train import main as train

        return train(arguments[1:])
    try:
        if arguments[:1] == ["eval"]:  # its options may stand between its other arguments, which a subparser does not allow
            return evaluation.main(arguments[1:])
        parsed = build_parser().parse_args(arguments)
        return parsed.run(parsed) or 0
    except KeyboardInterrupt:
        print("neuralcodec: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains once more as it exits
        return 1
    except Exception as error:
        from neuralcodec.codecs.errors import CodecError

        if not isinstance(error, (UserError, CodecError, OSError)):
            raise
        print(f"neuralcodec {arguments[0]}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def run_encode(options: argparse.Namespace) -> int:
    _check_device(options.device)

    def modality_of(source: Path | str) -> str:
        if source == "-":
            return convert.modality_of_bytes(_peek())
        if Path(source).is_dir():
            return "video"
        return convert.modality_of_input(Path(source)) or convert.modality_of_bytes(_start(Path(source)))

    suffixes = [suffix for known in convert.INPUTS.values() for suffix in known]
    return _convert_all(options, suffixes, modality_of, container.SUFFIXES, lambda modality: convert.encoder(options, modality))


def run_decode(options: argparse.Namespace) -> int:
    _check_device(options.device)

    def modality_of(source: Path | str) -> str:
        return convert.modality_of_coded(_peek() if source == "-" else _start(Path(source)))

    if options.pictures:
        return _decode_to_pictures(options)
    asked = Path(options.output).suffix if options.output and not _is_folder(options) and options.output != "-" else ""
    outputs = {modality: asked or suffix for modality, suffix in convert.OUTPUTS.items()}
    suffixes = [container.SUFFIXES[modality] for modality in convert.INPUTS]
    return _convert_all(options, suffixes, modality_of, outputs, lambda modality: convert.decoder(options, modality, outputs[modality]))


def _decode_to_pictures(options: argparse.Namespace) -> int:
    from neuralcodec.codecs.errors import CodecError

    failures = 0
    for name in options.input:
        source = sys.stdin.buffer if name == "-" else Path(name)
        folder = Path(options.output or Path(name).with_suffix(""))
        try:
            if name == "-" and not options.output:
                raise UserError("pictures of standard input need an --output")
            convert.clip_to_pictures(source, folder / Path(name).stem if len(options.input) > 1 else folder, options)
        except (CodecError, OSError, UserError) as error:
            failures += 1
            print(f"neuralcodec decode: {name}: {' '.join(str(error).split())}", file=sys.stderr)
    return 1 if failures else 0


def run_tokens(options: argparse.Namespace) -> int:
    from neuralcodec.codecs.audio import token_files
    from neuralcodec.codecs.files import load
    from neuralcodec.datasets.audio import read_sound

    target = None
    if options.output or (options.input != "-" and not options.json):
        target = Path(options.output or Path(options.input).with_suffix(token_files.SUFFIXES[0]))
        if target.suffix not in token_files.SUFFIXES:
            raise UserError(f"tokens go into {', '.join(token_files.SUFFIXES)} files, not {target.name}")
    elif not options.json:
        raise UserError("tokens of standard input need an output, or --json")
    _check_device(options.device)
    codec = load(options.model).to(options.device)
    try:
        sound = read_sound(io.BytesIO(sys.stdin.buffer.read()) if options.input == "-" else options.input)
    except ValueError as error:
        raise UserError(str(error)) from None
    tokens = token_files.tokens_of(codec, sound, options.codebooks)
    if options.json:
        print(json.dumps(token_files.as_json(tokens)))
    if target is not None:
        _write(target, token_files.to_bytes(tokens, target.suffix), options.force)
        shape = " × ".join(map(str, tokens.indexes.shape))
        print(f"{target}: {shape} tokens, {tokens.frame_rate:g} frames a second", file=sys.stderr)
    return 0


def _convert_all(
    options: argparse.Namespace,
    suffixes: Sequence[str],
    modality_of: Callable[[Path | str], str],
    outputs: Mapping[str, str],
    converter_for: Callable[[str], convert.Convert],
) -> int:
    """Convert every input, in order, and report every one that fails; exit code 1 if any did.

    Args:
        suffixes: of what to take from folders.
        modality_of: what an input holds.
        outputs: suffix of what becomes of each modality.
        converter_for: a modality's converter.
    """
    from neuralcodec.codecs.errors import CodecError

    jobs = list(_jobs(options, suffixes, modality_of, outputs))
    converters: dict[str, convert.Convert] = {}
    failures = 0
    hopeless: set[str] = set()  # modalities for which the model or an option is wrong, as has been said
    with _progress(len(jobs)) as report:
        for number, (source, target, modality) in enumerate(jobs):
            if modality in hopeless:
                continue
            try:
                if isinstance(modality, Exception):
                    raise modality
                if modality not in converters:
                    converters[modality] = converter_for(modality)
                name = "standard input" if source == "-" else str(source)
                with _target(target, options.force) as out:
                    converters[modality](sys.stdin.buffer if source == "-" else Path(source), out, name, partial(report, number))
            except (UserError, CodecError, OSError) as error:
                failures += 1
                text = " ".join(str(error).split())
                prefix = "" if str(source) in text or source == "-" else f"{source}: "
                print(f"neuralcodec {options.command}: {prefix}{text}", file=sys.stderr)
                if not isinstance(modality, Exception) and modality not in converters:
                    hopeless.add(modality)
            report(number + 1)
    return 1 if failures else 0


class _Job(NamedTuple):
    source: Path | str
    target: Path | str
    modality: str | Exception  # why it is not known


def _jobs(
    options: argparse.Namespace, suffixes: Sequence[str], modality_of: Callable[[Path | str], str], outputs: Mapping[str, str]
) -> Iterator[_Job]:
    """Everything asked for; a folder means all files in it that have one of the suffixes."""
    from neuralcodec.codecs.errors import CodecError

    found: list[tuple[Path | str, Path]] = []  # (input, its place below an output folder)
    for name in options.input:
        path = Path(name)
        if name == "-":
            found.append(("-", Path("-")))
        elif path.is_dir() and Path(options.output or "").suffix == container.SUFFIXES["video"]:
            found.append((path, Path(path.name)))  # pictures that are frames
        elif path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
            if not inside:
                raise UserError(f"no {', '.join(suffixes)} files in {path}")
            found += [(p, p.relative_to(path)) for p in inside]
        else:
            found.append((path, Path(path.name)))
    to_folder = _is_folder(options) or len(found) > 1
    if options.output and len(found) > 1 and not _is_folder(options):
        raise UserError(f"{len(found)} inputs need a folder as output: {options.output} is not one (end its name in /, or create it)")
    taken: set[Path | str] = set()
    for source, relative in found:
        modality: str | Exception
        try:
            modality = modality_of(source)
            suffix = outputs[modality]
        except (CodecError, OSError, UserError) as error:
            modality, suffix = error, ".unknown"
        target: Path | str
        if source == "-" and (options.output is None or to_folder):
            target = "-"
        elif options.output is None:
            target = Path(source).with_suffix(suffix)
        elif to_folder:
            target = Path(options.output) / relative.with_suffix(suffix)
        else:
            target = options.output if options.output == "-" else Path(options.output)
        if target in taken:
            raise UserError(f"two inputs would both become {target}")
        taken.add(target)
        yield _Job(source, target, modality)


@contextlib.contextmanager
def _target(target: Path | str, force: bool) -> Iterator[BinaryIO]:
    if target == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if Path(target).exists() and not force:
        raise UserError(f"{target} exists; -f overwrites it")
    with whole_file(target) as file:
        yield file


def _peek() -> bytes:
    """How standard input starts, which stays to be read."""
    return sys.stdin.buffer.peek(64)[:64]  # type: ignore[attr-defined,union-attr]


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None


def _time(text: str) -> float:
    """Seconds, or hours, minutes and seconds with colons between."""
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3 or not all(math.isfinite(part) and part >= 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no time: seconds, or 1:30, or 1:02:03.5")
    return sum(part * 60**place for place, part in enumerate(reversed(parts)))


def _frames(text: str) -> tuple[int, int | None]:
    """``A:B``, ``A:`` or ``:B``."""
    begin, colon, end = text.partition(":")
    try:
        first, last = int(begin or 0), int(end) if end else None
    except ValueError:
        first, last = -1, None
    if not colon or first < 0 or (last is not None and last <= first):
        raise argparse.ArgumentTypeError(f"{text!r} are no frames: the first wanted, a colon, the first not wanted")
    return first, last


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 1920x1080")
    return int(width), int(height)


def _effort(text: str) -> int | str:
    if text == "overfit":
        return text
    names = {"fast": 1, "balanced": 3, "best": 5}
    try:
        return names[text] if text in names else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no effort: 0 … 5, {', '.join(names)}, or overfit") from None


def _is_folder(options: argparse.Namespace) -> bool:
    return bool(options.output) and options.output != "-" and (options.output.endswith(("/", os.sep)) or Path(options.output).is_dir())


@contextlib.contextmanager
def _progress(total: int):
    """A progress bar on stderr for several files, or a large one; nothing for a small one.

    What it yields is told how many files are done, and how many pieces of the next one, of how many, and how good it is.
    """
    if not sys.stderr.isatty():
        yield lambda files, done=0, of=1, state="": None
        return
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True))
    task = bar.add_task("", total=total)

    def report(files: int, done: int = 0, of: int = 1, state: str = "") -> None:
        if total > 1 or of > 1:
            bar.start()
        bar.update(task, completed=files + done / of, description=state and f"{done}/{of}: {state}")

    try:
        yield report
    finally:
        bar.stop()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None


def _write(target: Path | str, data: bytes, force: bool) -> None:
    if target == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    target = Path(target)
    if target.exists() and not force:
        raise UserError(f"{target} exists; -f overwrites it")
    write_whole(target, data)


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} is not available ({str(error).splitlines()[0]})") from None


def run_info(options: argparse.Namespace) -> int:
    reports = []
    for name in options.input:
        data = sys.stdin.buffer.read() if name == "-" else None
        reports.append(_weights_info(Path(name)) if name.endswith(".safetensors") else _file_info(name, data or _read(Path(name))))
    if options.json:
        print(json.dumps(reports if len(reports) > 1 else reports[0], indent=2))
        return 0
    for report in reports:
        width = max(map(len, report))
        for key, value in report.items():
            print(f"{key:<{width}}  {value}")
    return 0


def _file_info(name: str, data: bytes) -> dict:
    try:
        content = container.read(data)
    except container.ContainerError as error:
        raise UserError(f"{name}: {error}") from None
    size = dict(zip(container.SIZES[content.modality], content.size))
    if content.modality == "audio":
        extent = size["samples"] / max(size["sampling_rate"], 1) * 1000
    else:
        extent = size["height"] * size["width"] * size.get("frames", 1)
    known = {fingerprint: model for model, fingerprint in _shipped_fingerprints().items()}
    return {
        "file": name,
        "modality": content.modality,
        "version": content.version,
        **size,
        "model": known.get(content.fingerprint.hex(), "unknown"),
        "fingerprint": content.fingerprint.hex(),
        "level": content.level,
        "bytes": len(data),
        "kbps" if content.modality == "audio" else "bpp": round(len(data) * 8 / extent, 4) if extent else None,
        "header_bytes": content.header_bytes,
        "extra_bytes": {name: len(extra) for name, extra in content.extras.items()},
        "stream_bytes": [len(stream) for stream in content.streams],
    }


def _shipped_fingerprints() -> dict[str, str]:
    from neuralcodec.codecs.base import fingerprint_of
    from neuralcodec.codecs.fitted import shipped

    known = {name: fingerprint_of(path).hex() for name, path in WEIGHTS.items()}
    return known | {name: fingerprint.hex() for fingerprint, name in shipped().items()}


def _weights_info(path: Path) -> dict:
    from neuralcodec.codecs.base import load_weights, parameter_count

    if not path.exists():
        raise UserError(f"there is no file {path}")
    codec = load_weights(path)
    assert codec.fingerprint is not None
    return {
        "file": str(path),
        "modality": codec.modality,
        "fingerprint": codec.fingerprint.hex(),
        "parameters": parameter_count(codec),
        "bytes": path.stat().st_size,
        "levels": codec.levels,
        **{key: value for key, value in codec.metadata.items() if key not in ("format", "spec")},
        "spec": codec.metadata["spec"],
    }


def run_list(options: argparse.Namespace) -> int:
    from neuralcodec.codecs import CONFIGS, FITTED

    models: dict[str, dict] = {name: {"bytes": path.stat().st_size, "path": str(path)} for name, path in WEIGHTS.items()}
    if options.json:
        print(json.dumps({"models": models, "configs": {name: str(path) for name, path in CONFIGS.items()}}, indent=2))
        return 0
    print("models (encode --model NAME)")
    for name, model in models.items():
        print(f"  {name:<24} {model['bytes'] / 1e6:5.1f} MB")
    texts = {name: path.read_text() for name, path in CONFIGS.items()}
    for title, fitted in (("fitted to each signal (encode --model NAME)", True), ("configs (train fit --config NAME)", False)):
        print(title)
        for name, text in texts.items():
            if (FITTED in text) == fitted:
                lines = [line.removeprefix("# ").strip() for line in text.splitlines() if line.startswith("# ")]
                print(f"  {name:<24} {lines[1] if len(lines) > 1 else ''}")
    return 0


def run_export(options: argparse.Namespace) -> int:
    if Path(options.output).exists() and not options.force:
        raise UserError(f"{options.output} exists; -f overwrites it")
    if options.onnx:
        return _export_onnx(options)
    from neuralcodec.train import export

    fingerprint = export(options.checkpoint, options.output, calibrate=options.calibrate)
    print(f"{options.output}: fingerprint {fingerprint.hex()}, {Path(options.output).stat().st_size / 1e6:.2f} MB", file=sys.stderr)
    return 0


def _export_onnx(options: argparse.Namespace) -> int:
    from neuralcodec.codecs.files import load
    from neuralcodec.codecs.image import onnx

    differences = onnx.export(load(options.checkpoint), options.output)
    print(f"{options.output}: opset {onnx.OPSET}", file=sys.stderr)
    for name, difference in differences.items():
        print(f"  {name:<28} differs from PyTorch by at most {difference:.1e}", file=sys.stderr)
    if not differences:
        print("  not compared with PyTorch: onnxruntime is not installed", file=sys.stderr)
    return 0
