"""What a picture can be fitted with: functions of position that weights, and latents if any, describe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from neuralcodec.entropy.rans import CorruptStream


class Moves(NamedTuple):
    """The bits of a latent, integer by integer, and what they change by if it falls or grows by one; all have its shape."""

    bits: Tensor  # its own, as it is
    down: Tensor  # what these change by
    up: Tensor
    values: Tensor  # the latent as contexts see it; has the gradient of the bits of those around
    logarithms: Tensor  # the same, log₂(1 + |value|) with its sign


class Drawn(NamedTuple):
    picture: Tensor  # (3, H, W) in about 0…1
    bits: Tensor  # scalar, differentiable by weights, and by latents as far as they are others' context
    moves: Sequence[Moves] = ()  # of each latent, if asked for


class Band(NamedTuple):
    """Rows of a picture that one step of a fit looks at, and those of its latents that have to do with them."""

    rows: slice
    seen: Sequence[slice]  # of each latent: what the rows follow from
    own: Sequence[slice]  # of these what belongs to no other band


class PictureFunction(nn.Module):
    """A function that draws a picture.

    A new kind of function implements :meth:`draw`; one with latents implements the rest as well, though not necessarily :meth:`bands`. What
    its weights cost and how they are quantized, the fit, the file and rate control are not its business: see
    :mod:`~neuralcodec.codecs.image.overfitted`. Weights as they are constructed have to be the same on every machine
    (:mod:`~neuralcodec.codecs.fixed`), unless they come with the package.

    Attributes:
        pointwise: :meth:`draw` takes ``every``: first row, first column and stride of the pixels to draw. A fit then draws some in each
            step.
        fresh: nothing is known of the weights before a fit: all the file says is in them.
    """

    pointwise = False
    fresh = False

    def draw(self, latents: Sequence[Tensor], height: int, width: int) -> Tensor:
        """(3, H, W), in about 0…1, from latents in steps, rounded or nearly so."""
        raise NotImplementedError

    def forward(self, latents: Sequence[Tensor], height: int, width: int, exact: bool = False, **options: Any) -> Drawn:
        """The picture, and what its latents cost.

        Args:
            exact: latents are integers, and what single ones change is asked for; the bits have no derivative by them then.
            options: for :meth:`draw`.
        """
        picture = self.draw(latents, height, width, **options)
        return Drawn(picture, picture.new_zeros(()))

    def advance(self, progress: float) -> None:
        """Is told before each step how much of a fit is done, 0…1."""

    def start(self, picture: Tensor, lmbda: float) -> list[Tensor]:
        """Initial latents, in steps, not rounded, for a picture (3, H, W) in 0…1.

        Args:
            lmbda: bits per pixel and unit of mean squared error on a 0…255 scale.
        """
        return []

    def bands(self, height: int, width: int) -> Sequence[Band]:
        """Together the whole picture; :meth:`forward` takes one as ``band``, with latents of the rows that are seen.

        Without any, it takes none.
        """
        return []

    def probe(self, latents: Sequence[Tensor], height: int, width: int) -> list[Tensor]:
        """About how much each latent moves the picture: the sum of the squared derivatives of all samples by it."""
        return []

    def precision(self, name: str) -> float | None:
        """Quantization step that a parameter's differences start with, if not one that follows from the size of its values."""
        return None

    def speed(self, name: str) -> float:
        """Factor on the learning rate of a parameter."""
        return 1.0

    def encode(self, latents: Sequence[Tensor]) -> bytes:
        """Rounded latents to bytes, by the module's own weights."""
        return b""

    def decode(self, data: bytes, height: int, width: int) -> list[Tensor]:
        """Undo :meth:`encode`.

        Raises:
            CorruptStream: not such bytes.
        """
        if data:
            raise CorruptStream("the file holds latents where none belong")
        return []

    def multiplications(self, height: int, width: int) -> float:
        """Multiply–accumulates of decoding, in all."""
        raise NotImplementedError


__all__ = ["Band", "Drawn", "PictureFunction"]
