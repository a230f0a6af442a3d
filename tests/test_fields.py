"""The relatives of overfitted pictures: every function class writes a file that draws its picture."""

import math

import pytest
import torch

from neuralcodec.codecs import CONFIGS, fitted
from neuralcodec.codecs.fixed import fixed_values
from neuralcodec.codecs.image import fields, files, splats
from neuralcodec.codecs.image.overfitted import FittedPicture, Plan
from neuralcodec.codecs.image.pictures import Picture
from neuralcodec.datasets.images import to_pixels

RELATIVES = ("coin", "spder", "sape", "ani", "shacira", "cam", "doh", "gaussians")
SIZE = (64, 64)
LEVEL = 20.0


def small(name: str) -> FittedPicture:
    """A relative as shipped; gaussians and hash grids with fewer of what 64×64 pixels do not need."""
    if name == "gaussians":
        return FittedPicture(splats.Gaussians((4, 8, 16)))
    if name == "shacira":
        return FittedPicture(fields.HashGrids(256, 4, 32, 4))
    codec = fitted.load(f"image/{name}")
    assert isinstance(codec, FittedPicture)
    return codec


def decibels(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(float((a.clamp(0, 1) - b).square().mean()))


@pytest.mark.parametrize("name", RELATIVES)
def test_a_relative_fits_a_picture_and_its_streams_draw_it(name, picture):
    codec, x = small(name), picture(*SIZE)
    plain, coded = (codec.compress(x, LEVEL, Plan(steps=steps)) for steps in (1, 100))
    decoded = codec.decompress(coded.streams, SIZE, LEVEL)
    assert all(torch.equal(coded.symbols[key], decoded.symbols[key]) for key in coded.symbols)
    before = codec.decompress(plain.streams, SIZE, LEVEL).signal
    assert decoded.signal.shape == x.shape and decibels(decoded.signal, x) > decibels(before, x) + 0.3
    assert coded.symbols["weights"].any() and 30 < sum(map(len, coded.streams)) < 20_000


@pytest.mark.parametrize("name", ["coin", "gaussians"])
def test_a_relative_writes_a_file_that_any_decoder_reads(name, picture):
    codec = fitted.load(f"image/{name}")
    assert isinstance(codec, FittedPicture)
    codec.plan = Plan(steps=3)
    pixels = to_pixels(picture(40, 24))
    data = files.encode_picture(codec, Picture(pixels), 20)
    decoded = files.decode_picture(data)  # by what the file says
    assert decoded.pixels.shape == pixels.shape
    assert decoded.pixels.tobytes() == files.decode_picture(data, [codec]).pixels.tobytes()


def test_the_same_picture_gives_the_same_file(picture):
    codec, x = small("gaussians"), picture(*SIZE)
    assert codec.compress(x, LEVEL, Plan(steps=5)).streams == codec.compress(x, LEVEL, Plan(steps=5)).streams


@pytest.mark.parametrize("name", RELATIVES)
def test_every_relative_ships_a_config_and_counts_its_multiplications(name):
    assert f"image/{name}" in CONFIGS
    codec = fitted.load(f"image/{name}")
    assert isinstance(codec, FittedPicture)
    assert 0.01 < codec.network(0).multiplications(512, 768) / (512 * 768) / 1e3 < 20


@pytest.mark.parametrize(
    "network", [fields.Coordinates(8, 2), fields.FilterNetwork(8, 2), fields.HashGrids(64, 4, 16, 3), fields.Modulated(8, 2)]
)
def test_part_of_a_picture_is_what_the_whole_has_there(network):
    whole = network.draw([], 13, 22)
    assert torch.allclose(network.draw([], 13, 22, every=(2, 1, 4)), whole[:, 2::4, 1::4], atol=1e-5)


def test_frequencies_are_revealed_while_fitting_and_all_seen_by_a_decoder():
    network = fields.Coordinates(8, 2, "relu", frequencies=16, progressive=True)
    fresh = network.draw([], 16, 16)
    network.advance(0.0)
    early = network.draw([], 16, 16)
    network.advance(1.0)
    assert not torch.allclose(early, fresh) and torch.equal(network.draw([], 16, 16), fresh)


def test_a_hash_grid_with_room_for_all_positions_interpolates_them():
    network = fields.HashGrids(entries=64, coarsest=8, finest=8, tables=1)
    corners = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    table = network.tables[0]
    assert torch.allclose(network._entries(table, 8, corners), table[[0, 7, 63]])
    middle = (2 * torch.tensor([[0.5, 0.5]]) / 7) - 1
    assert torch.allclose(network._entries(table, 8, middle), table[[0, 1, 8, 9]].mean(0, keepdim=True), atol=1e-6)


def test_a_gaussian_is_drawn_where_it_lies():
    function = splats.Gaussians((4,))
    with torch.no_grad():
        function.colours[0][5] = torch.tensor([1.0, 0.0, 0.0])  # second row, second column of the lattice
        function.offsets[0][5] = torch.tensor([0.125, -0.125])  # half a sample down and to the left
    drawn = function.draw([], 16, 16)[0] - splats.MIDDLE
    assert divmod(int(drawn.argmax()), 16) == (6, 5)
    assert torch.allclose(drawn[6, 5], torch.tensor(1.0), atol=1e-5)
    assert torch.allclose(drawn[6, 7], torch.exp(torch.tensor(-0.5 * (2 * splats.ROUND) ** 2)), atol=1e-5)
    assert not function.draw([], 16, 16)[1:].sub(splats.MIDDLE).abs().any()


def test_a_gaussian_far_outside_is_left_out():
    function = splats.Gaussians((4,))
    with torch.no_grad():
        function.colours[0][0] = 1.0
        function.offsets[0][0] = -1e9
    assert torch.equal(function.draw([], 16, 16), torch.full((3, 16, 16), splats.MIDDLE))


def test_initial_weights_are_the_same_for_ever():
    assert fixed_values(3, 7).tolist() == pytest.approx(fixed_values(8, 7)[:3].tolist(), abs=0)
    values = fixed_values(100_000, 3)
    assert abs(float(values.mean())) < 0.01 and abs(float(values.square().mean()) - 1) < 0.01
    assert fixed_values(2, 1).tolist() == [-0.784347414970398, 1.4072648286819458]
