"""A codec that fits a network to the clip: each group of pictures is a network, its latents, and nothing else.

    group of pictures ──fit──► weights ──WeightCoder──► stream
                          └──► latents ──GridCoder────► stream

Chen et al. 2021 (NeRV), https://arxiv.org/abs/2110.13903, are the first to code a video so; Kwan et al. 2024 (NVRC),
https://arxiv.org/abs/2409.07414, to fit quantization, entropy coding and network together. Differs in short groups, each of which decodes
on its own.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neuralcodec.codecs.base import Compressed
from neuralcodec.codecs.video.checkpoint import Checkpoint
from neuralcodec.codecs.video.fit import DEFAULT, Fitting, Piece, Plan, Report, fitting, nothing, warmed
from neuralcodec.codecs.video.groups import Group, VideoCodec, evenly
from neuralcodec.codecs.video.networks import VideoNetwork
from neuralcodec.entropy.rans import CorruptStream

STREAMS = ("weights", "grids")  # of each group of pictures
FINER = 1.1  # factor on λ beyond which a fit does not start from a known one: what that found not to be worth its bits would stay so
AT_ONCE = 2**25  # pixels that are drawn together


@dataclass
class Known:
    """What a fit has found, for another one of the same clip to start from."""

    lmbda: float = 1.0
    states: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # by group


class FittedVideo(VideoCodec):
    """Clips of 4:2:0, packed: (1, frames, 6, ⌈H/2⌉, ⌈W/2⌉), the four luma samples of each 2×2 square, Cb and Cr, in 0…1.

    Args:
        network: as :class:`~neuralcodec.codecs.video.networks.GridDecoder`; every group of pictures gets a copy.
        group: frames of a group at most. Groups of a clip differ by one frame at most.
        chain: groups of which each but the first starts from the network of the one before, and codes what differs. To decode one, the
            weights of those before are decoded, not their latents.
        speed: factor on the learning rates of a fit: those of a network that starts with a picture are low.
        levels, lmbda: as in :class:`~neuralcodec.codecs.base.Codec`.
    """

    streams = STREAMS
    fits = True
    decoder_parameters = ("network",)

    def __init__(
        self,
        network: VideoNetwork,
        group: int = 32,
        chain: int = 8,
        speed: float = 1.0,
        levels: int = 64,
        lmbda: Sequence[float] = (0.0002, 0.05),
    ):
        super().__init__(levels, lmbda)
        if group < 1 or chain < 1 or not isinstance(network, VideoNetwork):
            raise ValueError("a group has at least one frame, a chain one group, and the network is one that draws clips")
        self.network = network
        self.group = group
        self.chain = chain
        self.speed = speed
        self.plan = DEFAULT  # unless another is asked for

    def fit_for(self, seconds: float) -> None:
        """Each group of pictures."""
        self.plan = Plan(seconds=seconds)

    def paced(self, plan: Plan) -> Plan:
        """With learning rates as the network wants them."""
        return plan._replace(weights=plan.weights * self.speed, latents=plan.latents * self.speed)

    def groups(self, frames: int) -> list[Group]:
        return evenly(frames, self.group)

    def compress(
        self,
        x: Tensor,
        level: float,
        plan: Plan | None = None,
        report: Report = nothing,
        size: tuple[int, int] | None = None,
        checkpoint: Path | None = None,
        known: Known | None = None,
    ) -> Compressed:
        """
        Args:
            plan: of the fit of each group.
            report: told after every step, of the steps of all groups.
            size: height and width of luma, if odd.
            checkpoint: file to keep the state of the fit in, and to go on from if it is there; removed at the end. Of groups that were done
                before, the result has no symbols.
            known: of a fit of the same clip before, to start from; becomes that of this one.

        Raises:
            CodecError: a checkpoint of something else.
        """
        height, width = size or (2 * x.shape[-2], 2 * x.shape[-1])
        groups = self.groups(x.shape[1])
        plan = self.paced(plan or self.plan)
        lmbda = float(self.lmbda(torch.tensor(level)))
        store = None if checkpoint is None else Checkpoint(checkpoint, self._key(x, level, plan))
        streams: list[bytes] = [] if store is None else list(store.streams)
        symbols: dict[str, Tensor] = {}
        network: VideoNetwork | None = None
        for number, group in enumerate(groups):
            network = self._started(network, number)
            if number < len(streams) // len(STREAMS):
                network = self._read_weights(network, streams[len(STREAMS) * number], group, height, width)[0].network
                continue
            piece = Piece(copy.deepcopy(network).requires_grad_(True), group.end - group.begin, height, width)
            counted = partial(_counted, report, number, len(groups))
            state = store.state if store and store.state else None
            if known is not None and number in known.states and lmbda <= FINER * known.lmbda:
                state = warmed(known.states[number], piece, lmbda / known.lmbda)
            with torch.enable_grad():
                under_way = fitting(piece, x[0, group.begin : group.end], lmbda, plan, state=state)
                fitted = under_way.run(counted, None if store is None else partial(_keep, store))
            if known is not None:
                known.states[number] = under_way.state()
            weights, integers = piece.weights.encode(piece.differences())
            network = self._read_weights(network, weights, group, height, width)[0].network
            grids, grid_integers = piece.grids.encode(fitted.latents)
            streams += [weights, grids]
            if store is not None:
                store.finish_group([weights, grids])
            symbols |= _named(number, integers, grid_integers)
        if store is not None:
            store.remove()
        if known is not None:
            known.lmbda = lmbda
        return Compressed(streams, symbols)

    def pieces(
        self, streams: Sequence[bytes], size: tuple[int, ...], level: float, begin: int = 0, end: int | None = None
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        frames, height, width = size
        groups = self.groups(frames)
        if len(streams) != len(groups) * len(STREAMS):
            raise CorruptStream(f"{len(streams)} streams are not {len(STREAMS)} of each of {len(groups)} groups of pictures")
        wanted = [number for number, group in enumerate(groups) if group.end > begin and (end is None or group.begin < end)]
        network: VideoNetwork | None = None
        for number in range(wanted[0] // self.chain * self.chain, wanted[-1] + 1):
            piece, integers = self._read_weights(self._started(network, number), streams[2 * number], groups[number], height, width)
            network = piece.network
            if number in wanted:
                pictures, grids = self._read_grids(piece, streams[2 * number + 1])
                yield pictures, _named(number, integers, grids)

    def _key(self, x: Tensor, level: float, plan: Plan) -> str:
        """Of a fit: a checkpoint of another one is of no use."""
        digest = hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()
        return f"{digest} {(self.fingerprint or b'').hex()} {level} {plan}"

    def _started(self, network: VideoNetwork | None, number: int) -> VideoNetwork:
        """What a group's network starts from."""
        return self.network if network is None or number % self.chain == 0 else network

    @torch.no_grad()
    def _read_weights(self, network: VideoNetwork, stream: bytes, group: Group, height: int, width: int) -> tuple[Piece, np.ndarray]:
        piece = Piece(copy.deepcopy(network), group.end - group.begin, height, width)
        differences, integers = piece.weights.decode(stream)
        values = piece.whole(differences)
        for name, parameter in piece.tensors().items():
            parameter.copy_(values[name])
        return piece, integers

    @torch.no_grad()
    def _read_grids(self, piece: Piece, stream: bytes) -> tuple[Tensor, list[np.ndarray]]:
        latents, integers = piece.grids.decode(stream)
        together = max(1, AT_ONCE // (piece.height * piece.width))
        firsts = [0] * len(latents)
        drawn = [piece.draw(piece.tensors(), latents, firsts, frames) for frames in torch.arange(piece.frames).split(together)]
        return torch.cat(drawn), integers


def _keep(store: Checkpoint, fitting: Fitting) -> None:
    if store.due:
        store.keep(fitting.state())


def _counted(report: Report, number: int, groups: int, done: int, of: int, state: str) -> None:
    report(number * of + done, groups * of, state)


def _named(number: int, weights: np.ndarray, grids: Sequence[np.ndarray]) -> dict[str, Tensor]:
    named = {f"weights {number}": torch.from_numpy(weights)}
    return named | {f"grid {number}.{each}": torch.from_numpy(grid) for each, grid in enumerate(grids)}


__all__ = ["FittedVideo", "Group", "Known", "Plan"]
