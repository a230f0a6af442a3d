"""Training of the networks that name tables of bands: ``python -m neuralcodec.training.band_contexts CLIPS WORK -o FILE``.

    clips ──fits at random levels──► integers ──► every position's inputs and value ──► bits under Laplace tables ──► networks

``CLIPS`` is a folder with a folder of pictures for each clip. Fits are kept in ``WORK``: they are most of the time, and another run goes on
with those that are there. Weights are rounded from the start, with the gradient of the identity, so that what is trained are the integers
(Jacob et al. 2018, https://arxiv.org/abs/1712.05877). What ships was trained on 48 fits of nine pictures of 14 sequences of DAVIS, at
levels 6 to 58, for 270 seconds on one core.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from neuralcodec.codecs.fitted import load
from neuralcodec.codecs.video.files import pack
from neuralcodec.codecs.video.fit import Piece, Plan, fitting
from neuralcodec.codecs.video.fitted import FittedVideo
from neuralcodec.datasets import colour
from neuralcodec.datasets.video import Clip
from neuralcodec.entropy import band_contexts as contexts
from neuralcodec.entropy.band_contexts import FAMILIES, KNOWN, PARITIES, PLACES, WEIGHT_LIMIT
from neuralcodec.entropy.bands import BandCoder
from neuralcodec.entropy.laplace import laplace_bits
from neuralcodec.entropy.latents import GridShape

FRAMES, HEIGHT, WIDTH, SWEEPS = 9, 240, 416, 12  # of each fit
HIDDEN, BATCH, RATE = 24, 6144, 5e-3
QUIET = 16  # of positions around which all is zero, one is kept, and weighs as many
UNITS = {  # of the fields of a network, and the limits that their types set
    "first": (contexts.WEIGHT_UNIT, WEIGHT_LIMIT, torch.int8),
    "first_bias": (contexts.INPUT_UNIT * contexts.WEIGHT_UNIT, 2**15 - 1, torch.int16),
    "second": (contexts.WEIGHT_UNIT, WEIGHT_LIMIT, torch.int8),
    "second_bias": (contexts.WEIGHT_UNIT * contexts.HIDDEN_UNIT, 2**15 - 1, torch.int16),
    "skip": (contexts.WEIGHT_UNIT, WEIGHT_LIMIT, torch.int8),
}


class Examples(NamedTuple):
    inputs: Tensor  # (positions, inputs), uint8
    values: Tensor | None  # (positions, 9), int16
    targets: Tensor
    weights: Tensor
    places: Tensor


Key = tuple[str, int, int, int]  # family, set, parity, channel of the set


def pieces(folder: Path, codec: FittedVideo, work: Path, count: int) -> Iterator[tuple[list[GridShape], list[Tensor]]]:
    """Shapes and integers of fits of random pieces of clips."""
    clips = sorted(path for path in folder.iterdir() if path.is_dir())
    for number in range(count):
        path = work / f"{number:03}.safetensors"
        chance = random.Random(number)
        piece = Piece(codec.network.requires_grad_(True), FRAMES, HEIGHT, WIDTH)
        if not path.exists():
            pictures = pack(_clip(sorted(clips[number % len(clips)].iterdir()), chance))[0]
            lmbda = float(codec.lmbda(torch.tensor(chance.uniform(6, 58))))
            plan = codec.paced(Plan(steps=SWEEPS))
            latents = fitting(piece, pictures, lmbda, plan).run().latents
            save_file({f"{each:03}": values.to(torch.int16).contiguous() for each, values in enumerate(latents)}, path)
        yield piece.grid_shapes, [values.float() for _, values in sorted(load_file(path).items())]


def _clip(names: list[Path], chance: random.Random) -> Clip:
    """A part of the pictures, or all of them made smaller."""
    gap = chance.choice((1, 1, 2))
    first = chance.randrange(max(1, len(names) - FRAMES * gap))
    whole, left, top = chance.random() < 0.5, chance.random(), chance.random()
    planes: list[list[np.ndarray]] = [[], [], []]
    for name in names[first : first + FRAMES * gap : gap]:
        picture = Image.open(name).convert("RGB")
        if whole:
            picture = picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        else:
            x, y = round(left * (picture.width - WIDTH)), round(top * (picture.height - HEIGHT))
            picture = picture.crop((x, y, x + WIDTH, y + HEIGHT))
        for plane, values in zip(planes, colour.to_420(np.asarray(picture), matrix="bt601")):
            plane.append(values)
    y, u, v = (np.stack(plane) for plane in planes)
    return Clip(y, u, v, Fraction(25), matrix="bt601")


@torch.no_grad()
def examples(shapes: list[GridShape], wholes: list[Tensor]) -> Iterator[tuple[Key, Examples]]:
    """Of every network, from the integers of a fit."""
    coder = BandCoder(shapes)
    for number, (shape, whole) in enumerate(zip(shapes, wholes)):
        every = ((rows, *each) for rows in coder.rows(number, whole, wholes) for each in coder.given(number, rows))
        for rows, turn, chosen, given in every:
            for place, channel in enumerate(chosen):
                targets = whole[(rows.rows, channel, *turn.places(0, shape.height, shape.width))].flatten(1)
                coded = rows.active[channel, :, None].expand_as(targets).reshape(-1)
                targets = targets.reshape(-1)
                live = (given.magnitudes[place].sum(0) > 0) | (targets != 0)
                keep = coded & (live | (torch.rand(len(live)) < 1 / QUIET))
                values = None if given.values is None else given.values[place][:, keep].T.to(torch.int16)
                yield (
                    (shape.family, turn.which, turn.parity, channel - turn.begin),
                    Examples(
                        given.magnitudes[place][:, keep].T.to(torch.uint8),
                        values,
                        targets[keep],
                        torch.where(live, 1.0, float(QUIET))[keep],
                        torch.full((int(keep.sum()),), coder.place(number, turn), dtype=torch.uint8),
                    ),
                )


class Context(nn.Module):
    """One channel's network of one parity, in real numbers that are rounded as the integers will be."""

    known: Tensor

    def __init__(self, key: Key):
        super().__init__()
        family = FAMILIES[key[0]]
        self.first = nn.Parameter(0.7 * torch.randn(HIDDEN, family.inputs) / math.sqrt(family.inputs))
        self.first_bias = nn.Parameter(0.3 * torch.randn(HIDDEN).repeat(PLACES, 1))
        self.second = nn.Parameter(0.2 * torch.randn(HIDDEN))
        self.second_bias = nn.Parameter(torch.ones(PLACES))
        known = torch.tensor([float(each in KNOWN[key[2]]) for each in contexts.SIDES + contexts.CORNERS] + [1.0])
        self.skip = nn.Parameter(0.25 * known * torch.tensor([1.0] * 4 + [float(key[2] == 1)] * 4 + [0.0]), requires_grad=family.smooth)
        self.register_buffer("known", known)

    def forward(self, seen: Examples) -> Tensor:
        """Bits of all examples together."""
        rounded = {name: _rounded(parameter, *UNITS[name][:2]) for name, parameter in self.named_parameters()}
        places = seen.places.long()
        x = seen.inputs.float() / contexts.INPUT_UNIT
        hidden = torch.relu(x @ rounded["first"].T + rounded["first_bias"][places])
        hidden = _rounded(hidden, contexts.HIDDEN_UNIT, contexts.HIDDEN_LIMIT)
        index = _rounded(contexts.INDEXES * (hidden @ rounded["second"] + rounded["second_bias"][places]), 1, math.inf)
        mean = torch.zeros(()) if seen.values is None else _rounded(seen.values.float() @ (rounded["skip"] * self.known), 1, math.inf)
        return (laplace_bits(seen.targets - mean, index) * seen.weights).sum()


def _rounded(values: Tensor, unit: int, limit: float) -> Tensor:
    limited = values.clamp(-limit / unit, limit / unit)
    return limited + (torch.round(limited * unit) / unit - limited).detach()


def trained(key: Key, seen: Examples, seconds: float) -> Context:
    """A network after so many seconds."""
    context = Context(key)
    optimiser = torch.optim.Adam(context.parameters(), RATE)
    order = torch.randperm(len(seen.targets))
    shuffled = Examples(*(None if each is None else each[order] for each in seen))  # type: ignore[arg-type]
    began, at = time.process_time(), 0
    while (progress := (time.process_time() - began) / seconds) < 1:
        batch = Examples(*(None if each is None else each[at : at + BATCH] for each in shuffled))  # type: ignore[arg-type]
        at = at + BATCH if at + 2 * BATCH <= len(order) else 0
        optimiser.param_groups[0]["lr"] = RATE * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * progress)))
        optimiser.zero_grad()
        (context(batch) / batch.weights.sum()).backward()
        optimiser.step()
    return context


def tensors(networks: dict[Key, Context]) -> dict[str, Tensor]:
    """Networks as their file has them; those that had no examples are zero."""
    made: dict[str, Tensor] = {}
    for name, family in FAMILIES.items():
        for which, (begin, end) in enumerate(family.sets):
            for field, (unit, _, kind) in UNITS.items():
                every = [[networks.get((name, which, parity, channel)) for channel in range(end - begin)] for parity in range(PARITIES)]
                blank = torch.zeros_like(getattr(Context((name, which, 0, 0)), field))
                values = [[blank if each is None else getattr(each, field).detach() for each in row] for row in every]
                stacked = torch.stack([torch.stack(row, 1 if field.endswith("bias") else 0) for row in values])
                if field == "skip":
                    stacked = stacked * torch.stack([Context((name, which, parity, 0)).known for parity in range(PARITIES)])[:, None]
                limit = UNITS[field][1]
                made[f"{name}.{which}.{field}"] = torch.round(stacked * unit).clamp(-limit, limit).to(kind).contiguous()
    return made


def _joined(parts: list[Examples]) -> Examples:
    return Examples(*(None if part[0] is None else torch.cat(part) for part in zip(*parts)))  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, help="a folder of folders of pictures")
    parser.add_argument("work", type=Path, help="where fits are kept")
    parser.add_argument("-o", "--output", type=Path, default=contexts.WEIGHTS)
    parser.add_argument("--fits", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=270, help="of training, all networks together (default: 270)")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    codec = load("video/tiny")
    assert isinstance(codec, FittedVideo)
    found: dict[Key, list[Examples]] = {}
    for shapes, wholes in pieces(options.clips, codec, options.work, options.fits):
        for key, each in examples(shapes, wholes):
            found.setdefault(key, []).append(each)
    joined = {key: _joined(parts) for key, parts in found.items()}
    shares = {key: float((each.targets != 0).sum() + 1500) ** 0.8 for key, each in joined.items()}
    whole = sum(shares.values())
    save_file(tensors({key: trained(key, each, options.seconds * shares[key] / whole) for key, each in joined.items()}), options.output)


if __name__ == "__main__":
    main()
