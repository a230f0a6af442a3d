"""What can be measured: anything that turns a signal into the bytes of a file and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class Encoded(NamedTuple):
    data: bytes  # the whole file
    symbols: Mapping[str, Tensor] | None = None  # learned codecs: what was coded


class Decoded(NamedTuple):
    signal: Any  # as the candidate's modality has it
    symbols: Mapping[str, Tensor] | None = None


class Candidate:
    """A codec at a number of settings.

    Signals are (H, W, 3) uint8 arrays of RGB in images, :class:`~neuralcodec.datasets.audio.Sound` in audio and
    :class:`~neuralcodec.datasets.video.Clip` in video.

    Attributes:
        modality: ``image``, ``audio`` or ``video``.
        name: unique among the codecs of a measurement.
        description: one line: what it is, at which options.
        settings: to measure, from the smallest files to the largest.
        continuous: whether settings between these can be had as well.
        exact: whether files decode to a signal of the original's size; if not, the modality conforms it.
    """

    modality: str = "image"
    name: str
    description: str
    settings: Sequence[float]
    continuous: bool = True
    exact: bool = True

    @property
    def details(self) -> dict[str, Any]:
        """What identifies the codec, as JSON."""
        raise NotImplementedError

    @property
    def missing(self) -> str | None:
        """What is not installed and without which the codec does not work, and where it comes from."""
        return None

    @property
    def origin(self) -> str:
        """What :func:`candidate` makes it from."""
        return self.name

    @property
    def code(self) -> tuple[str, ...]:
        """The modules and packages of neuralcodec whose text decides what the codec does; its measurements are kept until one changes."""
        return (type(self).__module__,)

    def refusal(self, size: Mapping[str, int]) -> str | None:
        """Why the codec cannot code items of such a size, in words that go on from its name.

        Args:
            size: of :class:`~neuralcodec.eval.results.Item`.
        """
        return None

    def encode(self, signal: Any, setting: float) -> Encoded:
        """A signal to the bytes of a file."""
        raise NotImplementedError

    def decode(self, data: bytes) -> Decoded:
        """Undo :meth:`encode`."""
        raise NotImplementedError

    def estimated_bits(self, signal: Any, setting: float) -> float | None:
        """What the codec's own probabilities say the streams should cost, if it has any."""
        return None

    def header_bytes(self, data: bytes) -> int | None:
        """What a file holds beyond the coded streams, if known."""
        return None

    def spread(self, points: int | None) -> list[float]:
        """``points`` of the settings, evenly chosen, first and last among them; all of them by default."""
        if points is None or points >= len(self.settings):
            return list(self.settings)
        return [self.settings[round(i)] for i in np.linspace(0, len(self.settings) - 1, points)]


def candidate(name: str, levels: Sequence[float] | None = None) -> Candidate:
    """A classical codec by name, a model by name, or a weights file. Only a model imports torch.

    Args:
        levels: settings of a model.

    Raises:
        CodecError: none of these.
    """
    from neuralcodec.codecs import PEERS, WEIGHTS
    from neuralcodec.eval.classical import CLASSICAL

    if name in CLASSICAL:
        return CLASSICAL[name]
    if name in WEIGHTS or name.startswith(("video/", "image/")) or Path(name).is_file() or name.partition(":")[0] in PEERS:
        from neuralcodec.eval.learned import Learned

        return Learned(name, levels)
    from neuralcodec.codecs.errors import CodecError

    raise CodecError(f"there is no codec {name!r}: neither a weights file nor one of {', '.join([*WEIGHTS, *CLASSICAL, *PEERS])}")
