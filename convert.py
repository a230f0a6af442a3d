"""What ``neuralcodec encode`` and ``decode`` do with one file, by what it holds. Nothing here imports torch before it is needed."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from neuralcodec.codecs import DEFAULTS, OVERFITTED
from neuralcodec.codecs.errors import CodecError
from neuralcodec.entropy import container

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".gif")
SOUNDS = (
    *(".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"),
    *(".m4a", ".m4b", ".aac", ".weba", ".mka", ".wma", ".amr", ".awb", ".ac3"),
)
CLIPS = (".y4m", ".yuv", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".264", ".h264", ".265", ".hevc", ".ivf", ".obu")
INPUTS = {"image": PICTURES, "audio": SOUNDS, "video": CLIPS}
OUTPUTS = {"image": ".png", "audio": ".wav", "video": ".y4m"}  # of decoded files, unless another is asked for
SOUND_STARTS = (b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"caff", b"\xff\xfb", b"\xff\xf3", b"\xff\xf1", b"\xff\xf9", b"#!AMR")
SPELLED = {"start": "from", "end": "to"}  # options that are not called as they are written
FOR_ONE = {  # options that make sense for one modality only
    "image": ("bpp", "max_bytes", "psnr", "ms_ssim", "effort", "max_time", "checkpoint", "roi", "max_pixels"),
    "audio": ("kbps", "start", "end", "conceal"),
    "video": (
        "bpp",
        "max_bytes",
        "psnr",
        "effort",
        "max_time",
        "checkpoint",
        "frames",
        "video_size",
        "pixel_format",
        "fps",
        "matrix",
        "audio",
        "audio_kbps",
    ),
}

Report = Callable[..., None]  # (pieces done, of how many, state)
Convert = Callable[["Path | BinaryIO", BinaryIO, str, Report], None]  # source, target, name of the source


def modality_of_input(path: Path) -> str | None:
    """Of a file to encode, by its suffix."""
    return next((modality for modality, suffixes in INPUTS.items() if path.suffix.lower() in suffixes), None)


def modality_of_bytes(start: bytes) -> str:
    """Of something to encode, by how it starts: sounds are recognised, the rest is taken for a picture."""
    wave = start[:4] in (b"RIFF", b"RF64") and start[8:12] == b"WAVE"
    return "audio" if wave or start.startswith(SOUND_STARTS) or start[4:11] == b"ftypM4A" else "image"


def modality_of_coded(start: bytes) -> str:
    """Of a coded file, by its first bytes.

    Raises:
        CodecError: not one of ours.
    """
    known = {number: name for name, number in container.MODALITIES.items() if name in INPUTS}
    if len(start) > 5 and start.startswith(container.MAGIC) and start[5] in known:
        return known[start[5]]
    try:
        container.read(start)
    except container.ContainerError as error:
        raise CodecError(str(error)) from None
    raise CodecError("the file holds a signal of unknown kind")


def check_options(options: argparse.Namespace, modality: str) -> None:
    """
    Raises:
        CodecError: an option that says nothing about such files.
    """
    kinds = {"image": "pictures", "audio": "sounds", "video": "clips"}
    for other, names in FOR_ONE.items():
        for name in names:
            if name not in FOR_ONE[modality] and getattr(options, name, None):
                raise CodecError(f"--{SPELLED.get(name, name).replace('_', '-')} is for {kinds[other]}, not for {kinds[modality]}")


def encoder(options: argparse.Namespace, modality: str) -> Convert:
    check_options(options, modality)
    overfit = options.effort == "overfit" or (modality == "image" and (options.max_time is not None or options.checkpoint))
    if overfit and modality != "image":
        raise CodecError("--effort overfit is for pictures; clips are always fitted")
    options.effort = None if options.effort == "overfit" else options.effort
    name = options.model or (OVERFITTED if overfit else DEFAULTS.get(modality))
    if name is None:
        raise CodecError(f"no codec for {modality} is shipped: name a weights file with --model")
    from neuralcodec.codecs.files import load

    codec = load(name).to(options.device)
    if codec.modality != modality:
        raise CodecError(f"{name} codes {codec.modality}, not {modality}")
    return {"image": _picture_encoder, "audio": _sound_encoder, "video": _clip_encoder}[modality](options, codec)


def decoder(options: argparse.Namespace, modality: str, suffix: str) -> Convert:
    check_options(options, modality)
    return {"image": _picture_decoder, "audio": _sound_decoder, "video": _clip_decoder}[modality](options, suffix)


def _picture_encoder(options: argparse.Namespace, codec) -> Convert:
    from neuralcodec.codecs.files import MAX_PIXELS
    from neuralcodec.codecs.image.files import encode_picture, encode_to_target
    from neuralcodec.codecs.image.pictures import read_picture
    from neuralcodec.codecs.image.regions import read_mask
    from neuralcodec.codecs.image.targets import target_of

    level = codec.level_for_quality(options.quality)
    target = target_of(options.bpp, options.max_bytes, options.psnr, options.ms_ssim)
    mask = read_mask(options.roi) if options.roi else None
    limit = options.max_pixels or MAX_PIXELS
    if options.checkpoint and len(options.input) > 1:
        raise CodecError("a checkpoint is of one picture")

    def convert(source: Path | BinaryIO, out: BinaryIO, name: str, report: Report) -> None:
        picture = read_picture(source if isinstance(source, Path) else io.BytesIO(source.read()), name, limit)
        height, width = picture.pixels.shape[:2]
        if mask is not None and mask.shape != (height, width):
            _say(f"{options.roi} is scaled from {mask.shape[1]}×{mask.shape[0]} to {width}×{height}")
        choices: dict = {"max_pixels": limit, "report": report, "effort": options.effort, "mask": mask}
        choices |= {"seconds": options.max_time, "checkpoint": Path(options.checkpoint) if options.checkpoint else None}
        if target is None:
            out.write(encode_picture(codec, picture, level, **choices))
            return
        hit = encode_to_target(codec, picture, target, **choices)
        if hit.miss:
            _say(f"{name}: {hit.miss}")
        out.write(hit.data)

    return convert


def _picture_decoder(options: argparse.Namespace, suffix: str) -> Convert:
    from neuralcodec.codecs.image.files import decode_picture
    from neuralcodec.codecs.image.pictures import picture_bytes

    candidates = [options.model] if options.model else []

    def convert(source: Path | BinaryIO, out: BinaryIO, name: str, report: Report) -> None:
        data = source.read_bytes() if isinstance(source, Path) else source.read()
        picture = decode_picture(data, candidates, options.device, options.max_pixels or None, report=report)
        out.write(picture_bytes(picture, suffix))

    return convert


def _sound_encoder(options: argparse.Namespace, codec) -> Convert:
    from neuralcodec.codecs.audio import targets
    from neuralcodec.codecs.audio.codec import SegmentCodec
    from neuralcodec.codecs.audio.files import SoundEncoder, encode_sound
    from neuralcodec.datasets.audio import read_sound
    from neuralcodec.datasets.streamed import open_sound

    quality = codec.level_for_quality(options.quality)

    def convert(source: Path | BinaryIO, out: BinaryIO, name: str, report: Report) -> None:
        try:
            if not isinstance(codec, SegmentCodec):
                sound = read_sound(source if isinstance(source, Path) else io.BytesIO(source.read()), name)
                if options.kbps is None:
                    out.write(encode_sound(codec, sound, quality).data)
                else:
                    found = targets.level_of_rate(codec, sound, options.kbps)
                    _say_miss(name, targets.miss(found, options.kbps))
                    out.write(found.payload)
                return
            level = quality
            if options.kbps is not None and isinstance(source, Path):
                with open_sound(source, name) as incoming:
                    level = _level(targets.excerpt(incoming.blocks, incoming.rate), name)
            with open_sound(source, name) as incoming:
                blocks = incoming.blocks
                if options.kbps is not None and not isinstance(source, Path):
                    sound, blocks = targets.opening(blocks, incoming.rate)
                    level = _level(sound, name)
                with SoundEncoder(codec, out, level, incoming.rate, incoming.channels) as encoding:
                    for block in blocks:
                        if encoding.push(block):
                            out.flush()  # for who listens at the other end of a pipe
                        seconds = encoding.samples / incoming.rate
                        if incoming.samples:
                            report(
                                min(round(seconds), round(incoming.samples / incoming.rate)), round(incoming.samples / incoming.rate) or 1
                            )
                    encoding.finish()
        except ValueError as error:
            raise CodecError(str(error)) from None

    def _level(sound, name: str) -> float:
        found = targets.level_of_rate(codec, sound, options.kbps)
        _say_miss(name, targets.miss(found, options.kbps))
        return found.level

    return convert


def _sound_decoder(options: argparse.Namespace, suffix: str) -> Convert:
    from neuralcodec.codecs.audio.files import SoundDecoder, decode_sound
    from neuralcodec.codecs.files import codec_for
    from neuralcodec.datasets.streamed import SoundWriter
    from neuralcodec.entropy import segments

    candidates = [options.model] if options.model else []

    def convert(source: Path | BinaryIO, out: BinaryIO, name: str, report: Report) -> None:
        file = source.open("rb") if isinstance(source, Path) else source
        try:
            start = file.peek(8)[:8]  # type: ignore[attr-defined]
            if len(start) > 4 and start[4] != container.SEGMENTED:
                whole(file.read(), out)
                return
            pipe = out is sys.stdout.buffer
            length = None
            if pipe and isinstance(source, Path):  # a pipe's header comes first, and says how long the sound is
                with source.open("rb") as again:
                    reader = segments.Reader(again, forgive=True)
                    for _ in reader:
                        pass
                    length = reader.samples
            decoding = SoundDecoder(
                file,
                candidates,
                options.device,
                forgive=options.conceal is not None,
                conceal=options.conceal == "fade",
                start=options.start or 0.0,
                end=options.end,
            )
            if length is not None:
                first, last = (round((edge or 0.0) * decoding.rate) for edge in (options.start, options.end))
                length = max(min(last or length, length) - first, 0)
            with SoundWriter(out, decoding.rate, decoding.channels, suffix, length, pipe) as writer:
                for block in decoding:
                    writer.write(block.samples)
            for lost in decoding.lost:
                _say(f"{name}: damaged from {lost[0]:.2f} to {lost[1]:.2f} seconds")
            if decoding.cut_off:
                _say(f"{name}: the end is missing")
        except (container.ContainerError, ValueError) as error:
            raise CodecError(str(error)) from None
        finally:
            if isinstance(source, Path):
                file.close()

    def whole(data: bytes, out: BinaryIO) -> None:
        sound = decode_sound(codec_for(container.read(data), candidates).to(options.device), data).sound
        first, last = (None if edge is None else round(edge * sound.rate) for edge in (options.start, options.end))
        samples = sound.samples[:, first:last]
        with SoundWriter(out, sound.rate, len(samples), suffix, samples.shape[1], out is sys.stdout.buffer) as writer:
            writer.write(samples)

    return convert


def _clip_encoder(options: argparse.Namespace, codec) -> Convert:
    from neuralcodec.codecs.image.targets import target_of
    from neuralcodec.codecs.video.files import encode_clip, plan_of
    from neuralcodec.codecs.video.soundtrack import coded, copied
    from neuralcodec.codecs.video.targets import encode_to_target
    from neuralcodec.datasets.video import read_clip

    level = codec.level_for_quality(options.quality)
    target = target_of(options.bpp, options.max_bytes, options.psnr, None)
    plan = plan_of(options.effort) if codec.fits else None
    if plan is None and (options.effort is not None or options.max_time or options.checkpoint):
        raise CodecError(f"--effort, --max-time and --checkpoint are of fits, and {options.model} fits nothing")
    if options.checkpoint and (target or len(options.input) > 1):
        raise CodecError("a checkpoint is of one fit: of one clip, at a --quality")
    if options.audio and options.frames:
        raise CodecError("--audio keeps the whole track, so it goes with all --frames")
    if options.audio_kbps is not None and options.audio != "coded":
        raise CodecError("--audio-kbps is of sound that is coded: give --audio coded too")
    soundtrack = copied if options.audio == "copy" else partial(coded, model=DEFAULTS["audio"], kbps=options.audio_kbps)

    def convert(source: Path | BinaryIO, out: BinaryIO, name: str, report: Report) -> None:
        if not isinstance(source, Path):
            raise CodecError("a clip is read from a file or a folder, not from standard input")
        begin, end = options.frames or (0, None)
        try:
            clip = read_clip(source, end, None, options.video_size, options.pixel_format, options.fps, options.matrix)
        except ValueError as error:
            raise CodecError(str(error)) from None
        if begin >= len(clip):
            raise CodecError(f"frames from {begin} on are not among the {len(clip)} of {name}")
        clip = clip.since(begin)
        sound = soundtrack(source) if options.audio and source.is_file() and source.suffix.lower() not in (".yuv", ".y4m") else None
        if options.audio and sound is None:
            _say(f"{name}: there is no sound in it")
        fit = plan._replace(seconds=options.max_time / len(codec.groups(len(clip)))) if plan and options.max_time else plan
        if target is None:
            checkpoint = Path(options.checkpoint) if options.checkpoint else None
            out.write(encode_clip(codec, clip, level, fit, report, checkpoint, sound=sound))
            return
        hit = encode_to_target(codec, clip, target, fit, report, sound)
        _say_miss(name, hit.miss)
        out.write(hit.data)

    return convert


def _clip_decoder(options: argparse.Namespace, suffix: str) -> Convert:
    from neuralcodec.codecs.video.files import decode_clip
    from neuralcodec.codecs.video.outputs import FORMATS, write_clip
    from neuralcodec.codecs.video.soundtrack import CODED, COPIED, playable

    def convert(source: Path | BinaryIO, out: BinaryIO, name: str, report: Report) -> None:
        content = _content(source)
        clip = decode_clip(content, options.frames or (0, None), [options.model] if options.model else [])
        sound = None
        if options.frames is None and suffix in FORMATS:
            sound = playable(content.extras, suffix)
        elif {COPIED, CODED} & content.extras.keys():
            _say(f"{name}: its sound is left out; it goes with all frames into {' or '.join(FORMATS)}")
        if clip.times is not None and suffix not in FORMATS:
            _say(f"{name}: frames do not follow each other steadily, which only {' and '.join(FORMATS)} can say")
        write_clip(clip, out, suffix, sound)

    return convert


def clip_to_pictures(source: Path | BinaryIO, folder: Path, options: argparse.Namespace) -> None:
    """A coded clip to a folder of pictures.

    Raises:
        CodecError: it is no such file, or damaged.
        OSError: it cannot be read, or the folder not be written.
    """
    from neuralcodec.codecs.video.files import decode_clip
    from neuralcodec.codecs.video.outputs import write_pictures

    clip = decode_clip(_content(source), options.frames or (0, None), [options.model] if options.model else [])
    write_pictures(clip, folder, options.force)


def _content(source: Path | BinaryIO) -> container.Content:
    try:
        return container.read(source.read_bytes() if isinstance(source, Path) else source.read())
    except container.ContainerError as error:
        raise CodecError(str(error)) from None


def _say_miss(name: str, text: str | None) -> None:
    if text:
        _say(f"{name}: {text}")


def _say(text: str) -> None:
    print(f"neuralcodec: {text}", file=sys.stderr)
