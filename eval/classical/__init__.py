"""The codecs that people use today, one module for each modality, all behind :class:`~neuralcodec.eval.candidates.Candidate`.

A modality's module is imported when one of its codecs is asked for: what coding a picture with JPEG costs must not count an audio library.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping

from neuralcodec.eval.candidates import Candidate

NAMES: dict[str, tuple[str, ...]] = {
    "image": ("jpeg", "webp", "jpeg2000", "jpegxl", "avif", "avif-420", "hevc"),
    "audio": ("opus", "opus-60ms", "amr-wb", "mp3", "vorbis"),
    "video": (
        "x264",
        "x264-veryslow",
        "x264-lowdelay",
        "x265",
        "x265-veryslow",
        "x265-lowdelay",
        "svt-av1",
        "vp9",
    ),
}


class Classical(Mapping[str, Candidate]):
    """Codecs by name, in the order of :data:`NAMES`."""

    def __getitem__(self, name: str) -> Candidate:
        for modality, names in NAMES.items():
            if name in names:
                module = importlib.import_module(f"{__name__}.{modality}")
                return next(codec for codec in module.CODECS if codec.name == name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for names in NAMES.values() for name in names)

    def __len__(self) -> int:
        return sum(map(len, NAMES.values()))

    def __contains__(self, name: object) -> bool:
        return any(name in names for names in NAMES.values())


CLASSICAL = Classical()
