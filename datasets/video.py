"""Video as planes of Y'CbCr 4:2:0: raw YUV, Y4M and whatever FFmpeg decodes, pictures in a folder, and UVG by name.

Nothing is converted on the way in but pictures, which are RGB. Large clips stay on disk: raw files are mapped into memory, decoded ones
go to a temporary file that is mapped.

UVG: Mercat, Viitanen, Vanne 2020, https://doi.org/10.1145/3339825.3394937; seven clips, 1920×1080, 8 bits, 120 frames a second.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neuralcodec.codecs.writing import whole_file
from neuralcodec.datasets import colour, folders, media

if TYPE_CHECKING:
    import av

RAW_EXTENSION = ".yuv"
EXTENSIONS = {RAW_EXTENSION, ".y4m", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".264", ".h264", ".265", ".hevc", ".ivf", ".obu"}
PIXEL_FORMATS = {"yuv420p": 8, "yuvj420p": 8, "yuv420p10": 10, "yuv420p10le": 10}  # name as FFmpeg has it: bits
HD_HEIGHT = 720  # lines from which an untagged clip is taken for BT.709, as players do
IN_MEMORY = 2**26  # bytes of decoded samples beyond which they go to a file
TIME_ROUNDING = Fraction(1, 500)  # seconds: Matroska has times in milliseconds
MAX_PIXELS = 2**26  # of a decoded frame: 8192×8192
MAX_BYTES = 2**34  # of decoded samples: 600 frames of 3840×2160 at 10 bits fit
UVG = {  # as published: as it is also spelled
    "Beauty": (),
    "Bosphorus": (),
    "HoneyBee": (),
    "Jockey": (),
    "ReadySteadyGo": ("ReadySetGo",),
    "ShakeNDry": ("ShakeAndDry",),
    "YachtRide": (),
}

_SIZE = re.compile(r"(?<!\d)(\d{2,5})x(\d{2,5})(?!\d)")
_RATE = re.compile(
    r"(?<![\d.])(\d{1,3}(?:\.\d+)?)(?:fps|hz)|\d{2,5}x\d{2,5}_(?!4[0-4][024])(\d{1,3}(?:\.\d+)?)p?(?=[_.](?!\d)|$)", re.IGNORECASE
)
_DEPTH = re.compile(r"(?<!\d)(\d{1,2})[-_]?b(?:its?)?(?![a-z])|420p?_?(10)(?:le)?(?!\d)", re.IGNORECASE)
_CHROMA = re.compile(r"(?<!\d)(4(?:00|20|22|44))(?!\d)|yuv(4\d\d)")
_TAGS = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020"}  # H.273 MatrixCoefficients
_UNTAGGED = 2
_FULL_RANGE = 2  # AVColorRange


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of Y'CbCr 4:2:0.

    Attributes:
        y: (T, H, W), uint8, or uint16 for more than 8 bits.
        u, v: (T, ⌈H/2⌉, ⌈W/2⌉), of the same type.
        rate: frames per second.
        bits: 8 or 10.
        matrix: ``bt709``, ``bt601`` or ``bt2020``, from which RGB follows.
        full_range: black is 0, not 16 (at 8 bits).
        times: seconds from the first frame to each, where they are not as the rate says.
    """

    y: np.ndarray
    u: np.ndarray
    v: np.ndarray
    rate: Fraction
    bits: int = 8
    matrix: str = "bt709"
    full_range: bool = False
    times: tuple[Fraction, ...] | None = None

    def __post_init__(self) -> None:
        count, height, width = self.y.shape
        chroma = (count, -(-height // 2), -(-width // 2))
        if not self.u.shape == self.v.shape == chroma:
            raise ValueError(f"luma of {self.y.shape} goes with chroma of {chroma}, not {self.u.shape} and {self.v.shape}")
        if count < 1 or height < 1 or width < 1:
            raise ValueError("a clip has at least one frame of at least one pixel")

    def __len__(self) -> int:
        return len(self.y)

    @property
    def height(self) -> int:
        return self.y.shape[1]

    @property
    def width(self) -> int:
        return self.y.shape[2]

    @property
    def pixel_format(self) -> str:
        """As FFmpeg names it."""
        return "yuv420p" if self.bits == 8 else f"yuv420p{self.bits}le"

    def frame(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Y', Cb and Cr of one frame: (H, W), and twice (⌈H/2⌉, ⌈W/2⌉)."""
        return self.y[index], self.u[index], self.v[index]

    def rgb(self, index: int) -> np.ndarray:
        """One frame, (H, W, 3) uint8; chroma interpolated as :mod:`neuralcodec.datasets.colour` says."""
        return colour.from_420(*self.frame(index), self.bits, self.matrix, self.full_range)

    def first(self, frames: int | None) -> Clip:
        """At most so many frames."""
        return replace(self, y=self.y[:frames], u=self.u[:frames], v=self.v[:frames], times=self.times and self.times[:frames])

    def since(self, frame: int) -> Clip:
        """From a frame on."""
        times = None if self.times is None else tuple(time - self.times[frame] for time in self.times[frame:])
        return replace(self, y=self.y[frame:], u=self.u[frame:], v=self.v[frame:], times=times)

    def cropped(self, width: int, height: int) -> Clip:
        """The middle, moved up and left by a pixel where chroma would not fall on its samples.

        Raises:
            ValueError: the clip is smaller.
        """
        if not (0 < width <= self.width and 0 < height <= self.height):
            raise ValueError(f"{width}×{height} cannot be cut out of {self.width}×{self.height}")
        top, left = (self.height - height) // 4, (self.width - width) // 4  # in samples of chroma
        y = self.y[:, 2 * top : 2 * top + height, 2 * left : 2 * left + width]
        below, right = top + -(-height // 2), left + -(-width // 2)
        return replace(self, y=y, u=self.u[:, top:below, left:right], v=self.v[:, top:below, left:right])

    def sha256(self) -> str:
        """Of everything that a codec is given: the samples, and what they mean."""
        digest = hashlib.sha256(repr((self.y.shape, self.bits, self.rate, self.matrix, self.full_range)).encode())
        for index in range(len(self)):
            for plane in self.frame(index):
                digest.update(_octets(plane))
        return digest.hexdigest()


class Raw(NamedTuple):
    """What a raw file does not say itself."""

    size: tuple[int, int] | None  # width, height
    bits: int | None
    chroma: str | None  # 420, 422, …
    rate: Fraction | None  # frames per second


def read_clip(
    path: str | Path,
    frames: int | None = None,
    crop: tuple[int, int] | None = None,
    size: tuple[int, int] | None = None,
    pixel_format: str | None = None,
    rate: Fraction | None = None,
    matrix: str | None = None,
) -> Clip:
    """A clip from a raw file, a video file, or a folder of pictures.

    Args:
        frames: the first so many only.
        crop: width and height to cut from the middle.
        size: width and height of raw frames, if not as the file's name says (``_1920x1080_``).
        pixel_format: of raw frames, ``yuv420p`` or ``yuv420p10le``; else as the name says (``420_10bit``), else 8 bits.
        rate: frames per second; else what the file, or a raw file's name (``_120fps``), says.
        matrix: else what the file says; where it says nothing, BT.709 from 720 lines, BT.601 below.

    Raises:
        ValueError: it is not such a thing; the message says why.
        OSError: it cannot be read.
    """
    path = Path(path)
    if frames is not None and frames < 1:
        raise ValueError("a clip has at least one frame")
    if matrix is not None and matrix not in colour.WEIGHTS:
        raise ValueError(f"the matrix is one of {', '.join(colour.WEIGHTS)}, not {matrix!r}")
    if path.is_dir():
        clip = _read_pictures(path, frames, rate, matrix or "bt709")
    elif path.suffix.lower() == RAW_EXTENSION:
        clip = _read_raw(path, frames, size, pixel_format, rate, matrix)
    else:
        clip = _read_video(path, frames, rate, matrix)
    return clip.cropped(*crop) if crop else clip


def name_says(name: str) -> Raw:
    """Size, depth and rate as the names of UVG, JVET, MCL-JCV and others give them: ``Beauty_1920x1080_120fps_420_8bit_YUV.yuv``."""
    size, rate, depth, chroma = _SIZE.search(name), _RATE.search(name), _DEPTH.search(name), _CHROMA.search(name)
    return Raw(
        (int(size[1]), int(size[2])) if size else None,
        int(depth[1] or depth[2]) if depth else None,
        chroma[1] or chroma[2] if chroma else None,
        Fraction(rate[1] or rate[2]) or None if rate else None,
    )


def from_raw(
    buffer: bytes | np.ndarray, width: int, height: int, rate: Fraction, bits: int = 8, matrix: str = "bt709", full_range: bool = False
) -> Clip:
    """Frames one after the other, each its planes Y', Cb and Cr; samples of more than 8 bits little-endian in two bytes. Nothing is copied.

    Raises:
        ValueError: the bytes are no whole number of frames, or none.
    """
    kind = np.dtype(np.uint8 if bits == 8 else "<u2")
    chroma = -(-height // 2), -(-width // 2)
    luma_samples, chroma_samples = height * width, chroma[0] * chroma[1]
    samples = luma_samples + 2 * chroma_samples
    octets = np.frombuffer(buffer, np.uint8)
    count, rest = divmod(octets.size, samples * kind.itemsize) if samples else (0, 0)
    if rest or not count:
        frame = f"frames of {width}×{height} at {bits} bits, {samples * kind.itemsize} bytes each"
        raise ValueError(f"{octets.size} bytes are not a whole number of {frame}" if rest else f"there are no {frame}")
    table = octets.view(kind).reshape(count, samples)
    y = table[:, :luma_samples].reshape(count, height, width)
    u = table[:, luma_samples : luma_samples + chroma_samples].reshape(count, *chroma)
    v = table[:, luma_samples + chroma_samples :].reshape(count, *chroma)
    return Clip(y, u, v, rate, bits, matrix, full_range)


def write_raw(clip: Clip, path: str | Path) -> None:
    """What :func:`from_raw` reads."""
    with whole_file(path) as out:
        for index in range(len(clip)):
            for plane in clip.frame(index):
                out.write(_octets(plane))


def to_frames(clip: Clip) -> Iterator[av.VideoFrame]:
    """One frame after the other as encoders take them, with the clip's matrix and range on each.

    Raises:
        ValueError: a sample is larger than the clip's depth allows, which encoders do not survive.
    """
    import av

    for index in range(len(clip)):
        frame = av.VideoFrame(clip.width, clip.height, clip.pixel_format)
        for plane, samples in zip(frame.planes, clip.frame(index)):
            if clip.bits > 8 and samples.max() >= 2**clip.bits:
                raise ValueError(f"frame {index} has samples of more than {clip.bits} bits")
            padded = np.zeros((samples.shape[0], plane.line_size // samples.itemsize), samples.dtype)
            padded[:, : samples.shape[1]] = samples
            plane.update(padded.tobytes())
        frame.pts, frame.time_base = index, 1 / clip.rate
        frame.colorspace = colour.H273[clip.matrix]
        frame.color_range = _FULL_RANGE if clip.full_range else 1
        yield frame


def from_frames(frames: Iterable[av.VideoFrame], rate: Fraction, matrix: str | None = None) -> Clip:
    """Decoded frames as a clip.

    Args:
        matrix: else as the frames are tagged; without a tag, BT.709 from 720 lines, BT.601 below.

    Raises:
        ValueError: there are none, they are not 4:2:0 at 8 or 10 bits, they are tagged with a matrix that is not known, they change on the
            way, or they are too many.
    """
    kinds = set()

    def planes() -> Iterator[np.ndarray]:
        for frame in frames:
            kinds.add((frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range)))
            if frame.format.name not in PIXEL_FORMATS:
                raise ValueError(f"frames are {frame.format.name}; only 4:2:0 at 8 or 10 bits is read")
            if len(kinds) > 1:
                raise ValueError("frames change size, format or colour on the way")
            kind = np.dtype(np.uint8 if PIXEL_FORMATS[frame.format.name] == 8 else "<u2")
            for plane in frame.planes:
                yield np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)[:, : plane.width]

    samples = _gathered(planes())
    if not kinds:
        raise ValueError("there are no frames")
    width, height, name, tag, range_tag = kinds.pop()
    if matrix is None and tag not in (*_TAGS, _UNTAGGED):
        raise ValueError(f"its tag of colours is {tag} in H.273's table of matrices, which is not known here; say --matrix")
    full_range = range_tag == _FULL_RANGE or name == "yuvj420p"
    return from_raw(samples, width, height, rate, PIXEL_FORMATS[name], matrix or _TAGS.get(tag) or _usual_matrix(height), full_range)


def find_clips(place: str | Path) -> tuple[Path, list[Path]]:
    """A file, or all video files in a folder and the folders in it that hold pictures, sorted; with the folder that their names start from.

    Args:
        place: relative ones also below ``NEURALCODEC_DATA``.

    Raises:
        FileNotFoundError: there is no such place.
    """
    places = [Path(place), *([root / place] if (root := folders.data_root()) else [])]
    found = next((each for each in places if each.exists()), None)
    if found is None:
        raise FileNotFoundError(f"no file or folder {' or '.join(map(str, places))}")
    if found.is_file():
        return found.parent, [found]
    files = [path for path in found.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file()]
    clips = sorted({*files, *(path.parent for path in folders.list_images(found))})
    return (found.parent if clips == [found] else found), clips


def uvg_files(root: str | Path | None = None) -> list[Path]:
    """The seven raw files of UVG, as published, in a folder: ``root``, else ``uvg`` or ``UVG`` below ``NEURALCODEC_DATA``.

    Raises:
        FileNotFoundError: no folder, or some are not in it; the message names them.
    """
    data = folders.data_root()
    below = [data / parent / name for parent in (".", "eval", "eval/video") for name in ("uvg", "UVG")] if data else []
    folder = next((place for place in ([Path(root)] if root is not None else below) if place.is_dir()), None)
    if folder is None:
        raise FileNotFoundError("UVG is not here: pass --root, the folder with its seven .yuv files of 1920×1080")
    raw = sorted(path for path in folder.rglob("*") if path.suffix.lower() == RAW_EXTENSION and path.is_file())
    found = {}
    for name, others in UVG.items():
        spellings = {spelling.lower() for spelling in (name, *others)}
        if path := next((path for path in raw if re.split(r"[_.]", path.name.lower())[0] in spellings), None):
            found[name] = path
    if missing := [name for name in UVG if name not in found]:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)} of UVG, named such as Beauty_1920x1080_120fps_420_8bit_YUV.yuv")
    return list(found.values())


def _read_raw(
    path: Path,
    frames: int | None,
    size: tuple[int, int] | None,
    pixel_format: str | None,
    rate: Fraction | None,
    matrix: str | None,
) -> Clip:
    said = name_says(path.name)
    size, rate = size or said.size, rate or said.rate
    if pixel_format is None:
        if said.chroma not in (None, "420") or said.bits not in (None, 8, 10):
            raise ValueError(f"{path.name}: only 4:2:0 at 8 or 10 bits is read; if it is that, say so with --pixel-format")
        bits = said.bits or 8
    elif pixel_format in PIXEL_FORMATS:
        bits = PIXEL_FORMATS[pixel_format]
    else:
        raise ValueError(f"the pixel format is one of {', '.join(PIXEL_FORMATS)}, not {pixel_format!r}")
    if size is None:
        raise ValueError(f"{path.name}: its name says no size such as 1920x1080; give --video-size")
    if rate is None:
        raise ValueError(f"{path.name}: its name says no rate such as 120fps; give --fps")
    if not path.stat().st_size:
        raise ValueError(f"{path.name} is empty")
    samples = np.memmap(path, np.uint8, "r")
    try:
        return from_raw(samples, *size, rate, bits, matrix or _usual_matrix(size[1]), pixel_format == "yuvj420p").first(frames)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _read_video(path: Path, frames: int | None, rate: Fraction | None, matrix: str | None) -> Clip:
    import av

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with media.opened(path, media.VIDEO) as file:
            if not file.streams.video:
                raise ValueError("there is no video in it")
            stream = file.streams.video[0]
            context = stream.codec_context
            if context is None:
                raise ValueError("its codec is not known")
            if context.width * context.height > MAX_PIXELS:
                raise ValueError(f"frames of {context.width}×{context.height} are too large")
            context.thread_type = "AUTO"
            speed = rate or stream.average_rate or stream.guessed_rate
            if not speed:
                raise ValueError("it says no frame rate; give --fps")
            seen: list[Fraction | None] = []
            clip = from_frames(_noted(itertools.islice(file.decode(stream), frames), seen), Fraction(speed), matrix)
            return clip if rate else replace(clip, times=_irregular(seen, clip.rate))
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{path.name} cannot be decoded ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _noted(frames: Iterable[av.VideoFrame], times: list[Fraction | None]) -> Iterator[av.VideoFrame]:
    """The same frames, whose times are written down."""
    for frame in frames:
        times.append(None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base)
        yield frame


def _irregular(times: Sequence[Fraction | None], rate: Fraction) -> tuple[Fraction, ...] | None:
    """Times from the first on, if all are known, each later than the one before, and they are not, but for rounding, as the rate says."""
    known = [time for time in times if time is not None]
    if len(known) < len(times) or any(other <= one for one, other in itertools.pairwise(known)):
        return None
    since = tuple(time - known[0] for time in known)
    steady = all(abs(time - index / rate) <= TIME_ROUNDING for index, time in enumerate(since))
    return None if steady else since


def _read_pictures(folder: Path, frames: int | None, rate: Fraction | None, matrix: str) -> Clip:
    """Pictures in the order of their names, to 8 bits of limited range."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in folders.EXTENSIONS)[:frames]
    if not paths:
        raise ValueError(f"{folder.name} holds no pictures")
    if rate is None:
        raise ValueError(f"{folder.name}: pictures say no frame rate; give --fps")
    height, width = folders.read_rgb(paths[0]).shape[:2]

    def planes() -> Iterator[np.ndarray]:
        for path in paths:
            pixels = folders.read_rgb(path)
            if pixels.shape[:2] != (height, width):
                raise ValueError(f"{folder.name}: {path.name} is {pixels.shape[1]}×{pixels.shape[0]}, the first is {width}×{height}")
            yield from colour.to_420(pixels, 8, matrix)

    return from_raw(_gathered(planes()), width, height, rate, 8, matrix)


def _gathered(planes: Iterable[np.ndarray]) -> np.ndarray:
    """The bytes of one plane after the other: in memory, or, if they are many, in a temporary file without a name.

    Raises:
        ValueError: they are more than :data:`MAX_BYTES`.
    """
    length = 0
    with tempfile.SpooledTemporaryFile(IN_MEMORY) as store:
        for plane in planes:
            length += plane.nbytes
            if length > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES >> 30} GiB of samples; read fewer frames")
            store.write(_octets(plane))
        if length > IN_MEMORY:
            store.flush()
            return np.memmap(store, np.uint8, "r")  # which outlives the open file
        store.seek(0)
        return np.frombuffer(store.read(), np.uint8)


def _usual_matrix(height: int) -> str:
    return "bt709" if height >= HD_HEIGHT else "bt601"


def _octets(plane: np.ndarray) -> memoryview:
    """Samples row by row, those of two bytes little-endian."""
    return np.ascontiguousarray(plane, plane.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data
