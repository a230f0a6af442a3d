"""Pictures that a function is fitted to: files and back, exactness, estimates, aims, interruptions."""

from __future__ import annotations

import io
import itertools
import time
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from neuralcodec.cli import main
from neuralcodec.codecs.base import Codec, CodecError, build, load_weights, save_weights
from neuralcodec.codecs.files import decode_signal, encode_signal, load
from neuralcodec.codecs.image import overfitted_grids
from neuralcodec.codecs.image.files import as_picture, decode_picture, encode_picture, encode_to_target
from neuralcodec.codecs.image.overfitted import FittedPicture, Plan
from neuralcodec.codecs.image.overfitted_context import stripe_rows
from neuralcodec.codecs.image.overfitted_fit import BETAS, Fit, Piece, State
from neuralcodec.codecs.image.overfitted_function import PictureFunction
from neuralcodec.codecs.image.overfitted_integers import NARROW, PARTS, SHORT, WIDE, tables
from neuralcodec.codecs.image.overfitted_targets import Aim, Steering, correct
from neuralcodec.codecs.image.overfitted_waves import GridCoder
from neuralcodec.codecs.image.pictures import Picture
from neuralcodec.codecs.image.targets import Target
from neuralcodec.entropy import container, rans
from neuralcodec.entropy.laplace import laplace_bits
from neuralcodec.entropy.rans import CorruptStream

BRIEF = Plan(steps=3)
SMALL = {
    "class_path": "neuralcodec.codecs.image.overfitted.FittedPicture",
    "init_args": {
        "knots": 2,
        "network": {
            "class_path": "neuralcodec.codecs.image.overfitted_grids.Grids",
            "init_args": {"grids": 4, "hidden": 6, "width": 6},
        },
    },
}


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> FittedPicture:
    """A small one, whose contexts are not trained but do something."""
    torch.manual_seed(0)
    made = build(SMALL)
    for knot in made.knots:
        torch.nn.init.normal_(knot.context.last, std=0.05)
        torch.nn.init.normal_(knot.context.skip, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(made, path)
    loaded = load_weights(path)
    assert isinstance(loaded, FittedPicture)
    loaded.plan = BRIEF
    return loaded


def pixels(height: int, width: int) -> np.ndarray:
    """Something with edges, slopes and noise."""
    rows, columns = np.mgrid[:height, :width]
    random = np.random.default_rng(1)
    planes = [(rows * 3 + columns * (each + 1)) % 97 * 2 + 40 * ((rows // 9 + columns // 7) % 2) for each in range(3)]
    return np.clip(np.stack(planes, -1) + random.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


def scene(height: int, width: int) -> np.ndarray:
    """Something with a horizon, a disc and soft shades, as pictures have them."""
    rows, columns = np.mgrid[:height, :width]
    shade = 90 + 60 * np.sin(columns / 17 + rows / 29) + 30 * (rows > 0.6 * height)
    disc = (rows - 0.4 * height) ** 2 + (columns - 0.55 * width) ** 2 < (0.2 * height) ** 2
    planes = [shade + gain * disc + 9 * np.sin(columns * rows / 150) for gain in (70, -20, -60)]
    return np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.astype(np.float32) / 255).permute(2, 0, 1)[None]


def test_a_picture_comes_back_with_every_integer(codec):
    x = tensor(pixels(64, 64))
    coded = encode_signal(codec, x, 31.5)
    decoded = decode_signal(codec, coded.data)
    assert decoded.signal.shape == x.shape
    assert coded.symbols.keys() == decoded.symbols.keys()
    assert all(torch.equal(decoded.symbols[name], symbols) for name, symbols in coded.symbols.items())
    assert float((decoded.signal - x).square().mean()) < 0.8 * float(x.var())  # of an untrained codec, in three steps


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (33, 18), (64, 31)])
def test_any_size_comes_back(codec, size):
    image = pixels(*size)
    assert decode_picture(encode_picture(codec, Picture(image), 40), [codec]).pixels.shape == image.shape
    x = tensor(image)
    coded = encode_signal(codec, x, 40, compress=lambda x, level: codec.compress(x, level, Plan(steps=12)))
    decoded = decode_signal(codec, coded.data)
    assert decoded.signal.shape == x.shape
    assert all(torch.equal(decoded.symbols[name], symbols) for name, symbols in coded.symbols.items())


def test_grey_opacity_sixteen_bits_and_profiles_are_kept(codec):
    image = pixels(24, 20).astype(np.uint16) * 257
    image = np.concatenate((image, np.full((24, 20, 1), 40000, np.uint16)), 2)
    decoded = decode_picture(encode_picture(codec, Picture(image, b"profile"), 40), [codec])
    assert decoded.pixels.dtype == np.uint16
    assert (decoded.pixels[..., 3] == 40000).all()
    assert decoded.icc_profile == b"profile"
    grey = decode_picture(encode_picture(codec, as_picture(pixels(20, 24)[..., 0]), 40), [codec])
    assert grey.pixels.shape == (20, 24)


def test_integers_do_not_depend_on_threads_or_libraries(codec):
    x = tensor(pixels(40, 56))
    coded = codec.compress(x, 45)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            for fast in (True, False):
                torch.set_num_threads(count)
                with torch.backends.mkldnn.flags(enabled=fast):
                    decoded = codec.decompress(coded.streams, x.shape[-2:], 45)
                    again = codec.coded(*refit(codec, decoded.symbols, 45)).streams
                assert all(torch.equal(decoded.symbols[name], symbols) for name, symbols in coded.symbols.items())
                assert again[1] == coded.streams[1]
    finally:
        torch.set_num_threads(threads)
    other = codec.coded(*refit(codec, coded.symbols, 45, torch.channels_last)).streams
    assert other == coded.streams


def refit(codec: FittedPicture, symbols: dict, level: float, memory_format: torch.memory_format = torch.contiguous_format) -> tuple:
    """What :meth:`FittedPicture.coded` takes, from the integers of a file."""
    piece = Piece(codec.network(level))
    sizes = [value.numel() for value in piece.base.values()]
    differences = symbols["weights"].float().split(sizes)
    with torch.no_grad():
        steps = piece.coder._exact_step(piece.coder.steps.round()).split(sizes)
        for parameter, each, step in zip(piece.network.parameters(), differences, steps):
            parameter += (each * step).reshape(parameter.shape)
    latents = [value.float() for name, value in symbols.items() if name != "weights"]
    return piece, [latent[None, None].contiguous(memory_format=memory_format)[0, 0] for latent in latents], level


def test_the_estimate_is_what_the_file_takes():
    codec = load("image-overfitted")
    x = tensor(pixels(96, 96))
    fit = Fit(Piece(codec.network(50)), x[0], float(codec.lmbda(torch.tensor(50.0))), Plan(steps=8))
    fit.run()
    before = [latent.detach().clone() for latent in fit.latents]
    assert all(torch.equal(latent, latent.round()) for latent in before)
    for optimiser in fit.optimisers:
        for group in optimiser.param_groups:
            group["speed"] = 0.0
    fit.step()  # whose numbers are those of what came before it
    streams = codec.coded(fit.piece, before, 50).streams
    assert fit.bpp * 96 * 96 == pytest.approx(8 * sum(map(len, streams)), rel=0.01, abs=3 * 32)


def test_contexts_in_integers_are_those_of_the_fit(codec):
    network = codec.network(20)
    latents = [torch.randint(-3, 4, size).float() for size in network.sizes(48, 40)]
    with torch.no_grad():
        drawn = network(latents, 48, 40, exact=True)
    integers = [latent.int().numpy() for latent in latents]
    for number, (plane, move) in enumerate(zip(integers, drawn.moves)):
        coder = network._coder(number, *plane.shape, integers[number + 1 :])
        symbols, indexes = (np.concatenate(part) for part in zip(*coder.encode(plane)))
        real = float(tables(coder.kind).bits(torch.from_numpy(symbols), torch.from_numpy(indexes)).sum())
        assert real == pytest.approx(float(move.bits.sum()), rel=0.02, abs=1)
    assert float(drawn.bits) == pytest.approx(sum(float(move.bits.sum()) for move in drawn.moves), rel=1e-5)


def test_changes_are_told_as_they_are(codec):
    """Own bits exactly, the error to second order: a step of one integer is tried."""
    network = codec.network(20).requires_grad_(False)
    x = tensor(pixels(24, 20))[0]
    latents = [torch.randint(-2, 3, size).float() for size in network.sizes(24, 20)]
    with torch.no_grad():
        before = network(latents, 24, 20, exact=True)
    norms = network.probe(latents, 24, 20)
    for number, row, column in ((0, 5, 7), (1, 3, 2), (2, 1, 4)):
        with torch.no_grad():
            moved = [latent.clone() for latent in latents]
            moved[number][row, column] += 1
            after = network(moved, 24, 20, exact=True)
        change = float(after.moves[number].bits[row, column] - before.moves[number].bits[row, column])
        assert change == pytest.approx(float(before.moves[number].up[row, column]), abs=1e-3)
        leaves = [latent.clone().requires_grad_(True) for latent in latents]
        slope = torch.autograd.grad((network.draw(leaves, 24, 20) - x).square().sum(), leaves)[number][row, column]
        error = float((after.picture - x).square().sum() - (before.picture - x).square().sum())
        curve = float(norms[number][row, column])
        assert error == pytest.approx(float(slope) + curve, abs=0.5 * curve + 0.05 * abs(float(slope)))


def test_a_step_of_the_search_never_makes_it_worse(codec):
    x = tensor(pixels(48, 40))[0]
    fit = Fit(Piece(codec.network(40)), x, 0.02, Plan(steps=40))
    while not fit.whole:
        fit.step()
    for optimiser in fit.optimisers:
        for group in optimiser.param_groups:
            group["speed"] = 0.0
    costs = []
    for _ in range(12):
        fit.step()
        costs.append(fit.bpp + fit.lmbda * 255**2 * fit.error)
    assert all(later <= earlier + 1e-4 for earlier, later in itertools.pairwise(costs))
    assert costs[-1] < costs[0]


def test_weights_that_make_an_integer_picture_worse_go_back(codec):
    fit = Fit(Piece(codec.network(40)), tensor(pixels(48, 40))[0], 0.02, Plan(steps=40))
    while not fit.whole or fit.search.best is None:
        fit.step()
    good = [weight.clone() for weight in fit.search.weights]
    trust = fit.search.trust
    with torch.no_grad():
        for weight in fit.piece.network.parameters():
            weight += 0.3
    fit.finish()
    assert all(torch.equal(weight, before) for weight, before in zip(fit._weights(), good))
    assert fit.search.trust < trust
    cost = fit.bpp + fit.lmbda * 255**2 * fit.error
    for _ in range(8):
        fit.step()
    fit.finish()
    assert fit.bpp + fit.lmbda * 255**2 * fit.error < cost


def test_bands_together_are_the_picture(codec, monkeypatch):
    monkeypatch.setattr(overfitted_grids, "BAND", 1)
    height, width = 192, 384  # stripes of every grid end where bands do
    network = codec.network(20).requires_grad_(False)
    latents = [torch.randint(-2, 3, size).float() for size in network.sizes(height, width)]
    whole = network(latents, height, width)
    bands = network.bands(height, width)
    assert len(bands) > 2
    parts = [network([latent[rows] for latent, rows in zip(latents, band.seen)], height, width, band=band) for band in bands]
    assert torch.allclose(torch.cat([part.picture for part in parts], 1), whole.picture, atol=1e-5)
    assert float(sum(part.bits for part in parts)) == pytest.approx(float(whole.bits), rel=1e-5)
    for number, latent in enumerate(latents):
        rows = [row for band in bands for row in range(len(latent))[band.own[number]]]
        assert rows == list(range(len(latent)))


@pytest.mark.parametrize("height", [1, 7, 129, 150, 513])
def test_bands_are_about_as_high_as_each_other(codec, monkeypatch, height):
    monkeypatch.setattr(overfitted_grids, "BAND", 1)
    network = codec.network(20)
    bands = network.bands(height, 300)
    heights = [len(range(height)[band.rows]) for band in bands]
    assert sum(heights) == height
    assert max(heights) < 2 * min(heights) + 2 ** (network.grids - 1)


def test_no_gradient_is_lost_between_bands(codec, monkeypatch):
    monkeypatch.setattr(overfitted_grids, "BAND", 1)
    fit = Fit(Piece(codec.network(20)), tensor(pixels(70, 48))[0], 0.02, Plan(steps=40, weights=0.0, latents=0.0, side=0.0))
    assert len(fit.bands) > 2
    told = [torch.zeros_like(latent) for latent in fit.latents]
    move = fit._move

    def listen(leaves, place, band, rate):
        for total, leaf, rows in zip(told, leaves, band.seen):
            total[rows] += leaf.grad
        move(leaves, place, band, rate)

    monkeypatch.setattr(fit, "_move", listen)
    for _ in fit.bands:
        fit.step()
    for total, memory in zip(told, fit.memories):
        assert torch.allclose(memory.pending + memory.mean / (1 - BETAS[0]), total, atol=1e-6, rtol=1e-4)
    assert any(memory.pending.any() for memory in fit.memories)


def test_steering_goes_on_when_latents_are_integers(codec, monkeypatch):
    monkeypatch.setattr(overfitted_grids, "BAND", 1)
    fit = Fit(Piece(codec.network(40)), tensor(pixels(70, 48))[0], 0.02, Plan(steps=22))
    steering, moves = Steering(Aim("psnr", 60.0), fit), []
    monkeypatch.setattr(steering, "move", lambda fit, missing, caution: moves.append((fit.whole, missing)))
    fit.run(steer=steering)
    assert len(fit.bands) > 2
    assert [whole for whole, _ in moves].count(True) >= 1
    assert [whole for whole, _ in moves].count(False) >= 3
    assert all(missing > 0 for _, missing in moves)


def test_the_closest_of_all_corrections_is_kept(codec):
    fit = Fit(Piece(codec.network(40)), tensor(pixels(32, 32))[0], 0.02, Plan(steps=12))
    fit.run()
    sizes = itertools.chain([5000, 1040, 940, 1900], itertools.repeat(3000))
    seen = []

    def measure():
        seen.append((next(sizes), fit.found()))
        return seen[-1][0], 0.01

    correct(fit, Steering(Aim("bytes", 1000.0, True), fit), measure)
    assert [size for size, _ in seen][:4] == [5000, 1040, 940, 1900]
    assert all(torch.equal(a, b) for a, b in zip(fit.found(), seen[2][1]))


@pytest.mark.parametrize("kind", [NARROW, WIDE])
def test_tables_follow_the_distribution(kind):
    every = tables(kind)
    for index, part in ((0, 4), (20, 0), (40, 7), (kind.last, 3)):
        symbols = torch.arange(-3, 4)
        bits = every.bits(symbols, torch.full_like(symbols, index * PARTS + part))
        expected = laplace_bits(symbols - (part / PARTS - 0.5), torch.full_like(symbols, index).float())
        likely = expected < 12
        assert torch.allclose(bits[likely], expected[likely], atol=0.05)


def test_a_position_sees_nothing_that_is_decoded_later(codec):
    """Whatever follows it in the order of the waves may change without any table before it changing."""
    network = codec.network(20)
    random = np.random.default_rng(0)
    height, width = 29, 50
    values = random.integers(-3, 4, (height, width)).astype(np.int32)
    coder = GridCoder(network.context, 0, NARROW, height, width, [random.integers(-3, 4, (15, 25)).astype(np.int32)])
    parts = coder.encode(values)
    time_of = 2 * (np.arange(height) % stripe_rows(height, width))[:, None] + np.arange(width)
    assert [len(symbols) for symbols, _ in parts] == np.bincount(time_of.reshape(-1)).tolist()
    for moment in (3, 17, 30, 50):
        changed = np.where(time_of >= moment, values + 1, values)
        for (_, before), (_, after) in list(zip(parts, coder.encode(changed)))[: moment + 1]:
            assert (before == after).all()


def test_a_tall_picture_takes_no_more_memory_than_a_square_one(codec):
    height, width = 1500, 4
    values = np.random.default_rng(0).integers(-3, 4, (height, width)).astype(np.int32)
    coder = GridCoder(codec.network(20).context, 0, NARROW, height, width, [np.zeros((750, 2), np.int32)])
    decoder = rans.RowDecoder(rans.encode_rows(coder.encode(values), tables(NARROW), SHORT), tables(NARROW), SHORT)
    tracemalloc.start()
    try:
        decoded = coder.decode(decoder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (decoded == values).all()
    assert peak < 400 * height * width


def test_damaged_streams_are_refused_or_decode_to_something_else(codec):
    x = tensor(pixels(32, 32))
    coded = codec.compress(x, 45)
    random = np.random.default_rng(0)
    for number in range(40):
        streams = [bytearray(stream) for stream in coded.streams]
        stream = streams[number % 2]
        if number % 5 == 0:
            del stream[random.integers(len(stream)) :]
        else:
            stream[random.integers(len(stream))] ^= 1 << random.integers(8)
        try:
            decoded = codec.decompress([bytes(each) for each in streams], (32, 32), 45)
        except (CorruptStream, container.ContainerError):
            continue
        assert decoded.signal.shape == x.shape
        assert not torch.isnan(decoded.signal).any()


def test_a_damaged_file_is_refused(codec):
    data = bytearray(encode_picture(codec, Picture(pixels(16, 16)), 30))
    data[-9] ^= 4
    with pytest.raises(CodecError, match="checksum"):
        decode_picture(bytes(data), [codec])


def test_noise_on_weights_goes_on_after_an_interruption(tmp_path):
    codec = load("image/coin")
    fits = [Fit(Piece(codec.network(30)), tensor(pixels(24, 24))[0], 0.02, Plan(steps=9)) for _ in range(2)]
    state = State(tmp_path / "state.safetensors", "this fit")

    def stop(fit: Fit) -> None:
        if fit.done == 4:
            fit.save(*state)

    fits[0].run(steer=stop)
    fits[1].run(state=state)
    assert all(torch.equal(a, b) for a, b in zip(fits[0].found(), fits[1].found()))


@pytest.mark.parametrize("after", [4, 38, 44])  # steps: of bands, twice, then of the whole picture
def test_an_interrupted_fit_goes_on_as_if_nothing_had_happened(codec, tmp_path, monkeypatch, after):
    monkeypatch.setattr(overfitted_grids, "BAND", 1)
    x = tensor(pixels(56, 40))
    lmbda = 0.02

    def fresh() -> Fit:
        return Fit(Piece(codec.network(30)), x[0], lmbda, Plan(steps=8))

    whole, first, second = fresh(), fresh(), fresh()
    whole.run()
    assert len(first.bands) == 7
    for _ in range(after):
        first.step()
    assert first.whole == (after == 44)
    state = State(tmp_path / "state.safetensors", "this fit")
    first.save(*state)
    second.run(state=state)
    assert second.done == 8 * 7
    assert all(torch.equal(a, b) for a, b in zip(whole.latents, second.latents))
    assert all(torch.equal(a, b) for a, b in zip(whole.piece.network.parameters(), second.piece.network.parameters()))
    with pytest.raises(CodecError, match="another picture"):
        fresh().load(state.path, "another fit")
    state.path.write_bytes(b"nothing")
    with pytest.raises(CodecError, match="not the state of a fit"):
        fresh().load(*state)


def test_a_longer_fit_is_no_worse():
    """Weights once drifted for as long as a fit took, and what integers had made of that was lost when they were rounded."""
    codec, x, level = load("image-overfitted"), tensor(pixels(64, 64)), 20.0
    assert isinstance(codec, FittedPicture)
    costs = []
    for steps in (15, 60):
        streams = codec.compress(x, level, Plan(steps=steps)).streams
        error = float((codec.decompress(streams, (64, 64), level).signal - x).square().mean()) * 255**2
        costs.append(8 * sum(map(len, streams)) / 64**2 + float(codec.lmbda(torch.tensor(level))) * error)
    assert costs[1] < 1.01 * costs[0]


def test_a_short_fit_does_not_go_astray():
    """Steps of SOAP whose basis was found too early once left pictures of which nothing could be seen."""
    codec, x = load("image-overfitted"), tensor(scene(64, 64))
    assert isinstance(codec, FittedPicture)
    for steps in (8, 12, 20):
        streams = codec.compress(x, 30.0, Plan(steps=steps)).streams
        assert float((codec.decompress(streams, (64, 64), 30.0).signal - x).square().mean()) < 10**-2.6


def test_a_checkpoint_is_removed_at_the_end(codec, tmp_path):
    path = tmp_path / "state.safetensors"
    plain = encode_picture(codec, Picture(pixels(16, 24)), 30)
    assert encode_picture(codec, Picture(pixels(16, 24)), 30, checkpoint=path) == plain
    assert not path.exists()


def test_time_is_kept(codec):
    began = time.monotonic()
    encode_picture(codec, Picture(pixels(64, 64)), 30, seconds=1.0)
    assert 0.9 < time.monotonic() - began < 6


@pytest.mark.parametrize(("kind", "value"), [("bpp", 2.0), ("max_bytes", 1000), ("psnr", 30.0)])
def test_targets_are_met(kind, value):
    codec, image = load("image-overfitted"), scene(64, 64)
    hit = encode_to_target(codec, Picture(image), Target(kind, value), effort=0)
    if kind == "psnr":
        error = np.mean((decode_picture(hit.data, [codec]).pixels.astype(float) - image) ** 2)
        assert 10 * np.log10(255**2 / error) == pytest.approx(value, abs=0.15)
    elif kind == "bpp":
        assert len(hit.data) * 8 / 64**2 == pytest.approx(value, rel=0.03)
    else:
        assert 0.93 * value <= len(hit.data) <= value


def test_higher_levels_are_better_and_larger(codec):
    image = pixels(48, 48)
    low, high = (encode_picture(codec, Picture(image), level) for level in (10, 55))
    errors = [np.mean((decode_picture(data, [codec]).pixels.astype(float) - image) ** 2) for data in (low, high)]
    assert len(low) < len(high)
    assert errors[0] > errors[1]


def test_what_makes_no_sense_is_refused_in_a_line(codec):
    image = Picture(pixels(8, 8))
    with pytest.raises(CodecError, match="effort must lie"):
        encode_picture(codec, image, 30, effort=9)
    with pytest.raises(CodecError, match="takes some time"):
        encode_picture(codec, image, 30, seconds=0.0)
    with pytest.raises(CodecError, match="not fitted"):
        encode_picture(load("image-tiny"), image, 30, seconds=1.0)


def test_the_command_line_fits_and_decodes(tmp_path):
    source, coded, out = tmp_path / "a.png", tmp_path / "a.nci", tmp_path / "b.png"
    Image.fromarray(scene(64, 64)).save(source)
    assert main(["encode", str(source), "--max-time", "1"]) == 0
    assert main(["decode", str(coded), "-o", str(out)]) == 0
    errors = np.asarray(Image.open(out)).astype(float) - scene(64, 64)
    assert np.mean(errors**2) < 0.1 * np.var(scene(64, 64))
    import neuralcodec.pillow  # noqa: F401 (registers the format)

    assert np.array_equal(np.asarray(Image.open(io.BytesIO(coded.read_bytes()))), np.asarray(Image.open(out)))


def test_the_shipped_codec_takes_few_multiplications():
    codec = load("image-overfitted")
    assert isinstance(codec, Codec)
    assert codec.network(63).multiplications(512, 768) / (512 * 768) <= 3000


class Constant(PictureFunction):
    """One colour."""

    fresh = True

    def __init__(self):
        super().__init__()
        self.colour = torch.nn.Parameter(torch.zeros(3))

    def draw(self, latents, height, width):
        return (self.colour + 0.5)[:, None, None].expand(3, height, width)


def test_any_function_can_be_fitted():
    codec = FittedPicture(Constant())
    x = torch.tensor([0.3, 0.55, 0.7])[None, :, None, None].expand(1, 3, 8, 8)
    coded = codec.compress(x, 63, Plan(steps=400, weights=0.01))
    decoded = codec.decompress(coded.streams, (8, 8), 63).signal
    assert float((decoded - x).abs().max()) < 0.02
    assert len(coded.streams[0]) < 24 and not coded.streams[1]


def test_a_picture_that_no_memory_holds_is_refused_in_a_line(codec, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 2**10, "SC_PAGE_SIZE": 2**12}[name])  # 4 MiB
    with pytest.raises(CodecError, match=r"takes about .* GiB of memory"):
        encode_picture(codec, Picture(np.zeros((128, 128, 3), np.uint8)), 30)
