"""Rule 1: the integers that choose probability tables are the same on every device, thread count, memory format and precision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from neuralcodec.codecs.base import Codec, load_weights
from neuralcodec.codecs.files import decode_signal, encode_signal
from neuralcodec.codecs.image.hyper import HyperSynthesis, Prediction
from neuralcodec.entropy.integer import EXACT, IntegerConv2d, round_half_up

ROWS, COLUMNS = 48, 64
LATENT, BATCH = 96, 4  # 48 · 64 · 96 · 4 = 1,179,648 indexes


def plain(head: HyperSynthesis, z_hat: Tensor, level: Tensor) -> Tensor:
    return head(z_hat, level, ROWS, COLUMNS).scale_index


def channels_last(head: HyperSynthesis, z_hat: Tensor, level: Tensor) -> Tensor:
    return plain(head.to(memory_format=torch.channels_last), z_hat.contiguous(memory_format=torch.channels_last), level)


def without_onednn(head: HyperSynthesis, z_hat: Tensor, level: Tensor) -> Tensor:
    with torch.backends.mkldnn.flags(enabled=False):
        return plain(head, z_hat, level)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread(head: HyperSynthesis, z_hat: Tensor, level: Tensor) -> Tensor:
    with threads(1):
        return plain(head, z_hat, level)


def two_threads(head: HyperSynthesis, z_hat: Tensor, level: Tensor) -> Tensor:
    with threads(2):
        return plain(head, z_hat, level)


def double(head: HyperSynthesis, z_hat: Tensor, level: Tensor) -> Tensor:
    return plain(head.double(), z_hat.double(), level)


def one_by_one(head: HyperSynthesis, z_hat: Tensor, level: Tensor) -> Tensor:
    return torch.cat([plain(head, z_hat[i : i + 1], level[i : i + 1]) for i in range(len(z_hat))])


def autocast(head: HyperSynthesis, z_hat: Tensor, level: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return plain(head, z_hat, level)


def cuda(head: HyperSynthesis, z_hat: Tensor, level: Tensor) -> Tensor:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        return plain(head.cuda(), z_hat.cuda(), level.cuda()).cpu()
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def cuda_tf32(head: HyperSynthesis, z_hat: Tensor, level: Tensor) -> Tensor:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        return plain(head.cuda(), z_hat.cuda(), level.cuda()).cpu()
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


WAYS: list[Callable] = [channels_last, without_onednn, one_thread, two_threads, double, one_by_one, autocast, cuda, cuda_tf32]


@pytest.fixture(scope="module")
def head() -> HyperSynthesis:
    """A hyper-synthesis as busy as one after training: accumulators and indexes use their whole range."""
    torch.manual_seed(0)
    made = HyperSynthesis(LATENT, patterns=32, hyper=24, width=64)
    with torch.no_grad():
        for layer in (made.unfold, made.expand, made.smooth, made.scale):
            layer.weight.mul_(2.0)
            layer.bias.normal_()
        made.offset.rows.add_(torch.randn_like(made.offset.rows) * 8)
    made.check_exact()
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def side_information() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    z_hat = torch.round(torch.randn(BATCH, 24, ROWS // 4, COLUMNS // 4) * 6).clamp(-127, 127)
    return z_hat, torch.tensor([0.0, 17.25, 40.5, 63.0])


@pytest.fixture(scope="module")
def indexes(head, side_information) -> Tensor:
    with torch.inference_mode():
        found = plain(copy.deepcopy(head), *side_information)
    assert found.numel() >= 1_000_000
    assert torch.equal(found, found.round())
    assert len(found.unique()) == 64  # all tables are in use, or this would prove little
    return found


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_million_scale_indexes_are_the_same(way, head, side_information, indexes):
    with torch.inference_mode():
        found = way(copy.deepcopy(head), *side_information)
    assert int((found != indexes).sum()) == 0


def test_training_runs_the_arithmetic_of_coding(head, side_information, indexes):
    training = copy.deepcopy(head).train()
    z_hat, level = side_information
    with torch.no_grad():
        features = training.features(z_hat, ROWS, COLUMNS)
        assert torch.equal(features, copy.deepcopy(head).features(z_hat, ROWS, COLUMNS))
        fractional = training(z_hat, level, ROWS, COLUMNS).scale_index
    # Coding rounds to the nearest index; the level's offset is in fixed point there, within 1.5 units of 2^-9.
    assert (fractional.clamp(0, 63) - indexes).abs().max() <= 0.5 + 2 * 2**-9


@pytest.mark.parametrize("activation", ["uint8", "int8", "none"])
def test_integer_layers_compute_alike_in_training_and_evaluation(activation):
    torch.manual_seed(0)
    layer = IntegerConv2d(5, 7, 3, activation=activation)
    x = torch.randint(-127, 128, (2, 5, 9, 11)).float()
    total = torch.nn.functional.conv2d(
        x.double(), torch.round(layer.weight.double() * 64).clamp(-127, 127), torch.round(layer.bias.double() * 1024), padding=1
    )
    expected = (
        total
        if activation == "none"
        else torch.floor(total / 2**layer.shift + 0.5).clamp(*((0, 255) if activation == "uint8" else (-127, 127)))
    )
    assert torch.equal(layer.train()(x), layer.eval()(x))
    assert torch.equal(layer(x).double(), expected)


def test_rounding_halves_goes_up():
    total = torch.tensor([-24.0, -8.0, -7.0, 7.0, 8.0, 24.0])
    assert round_half_up(total, 4).tolist() == [-1.0, 0.0, 0.0, 0.0, 1.0, 2.0]


def test_weights_too_large_to_be_exact_are_refused():
    layer = IntegerConv2d(600, 2, 3, activation="int8", activation_in="uint8")
    with torch.no_grad():
        layer.weight.zero_()
        layer.check_exact()
        layer.weight.fill_(100.0)  # clamped to 127 steps: 600 · 9 · 127 · 255 is beyond 2^24
    assert layer.largest_sum() == 600 * 9 * 127 * 255
    with pytest.raises(ValueError, match="beyond the exact range"):
        layer.check_exact()


def test_biases_and_margins_count_towards_exactness():
    layer = IntegerConv2d(1, 1, 1, activation="none")
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_((EXACT - 64) / 2**layer.fraction_sum)
    layer.check_exact()
    with pytest.raises(ValueError, match="beyond the exact range"):
        layer.check_exact(margin=64)


def test_the_largest_sum_is_reached():
    torch.manual_seed(0)
    layer = IntegerConv2d(4, 1, 3, activation="none", activation_in="uint8").requires_grad_(False)
    x = (layer.integer_weight()[:1] > 0).float() * 255
    positive = layer.accumulate(x)[0, 0, 1, 1]
    negative = layer.accumulate(255 - x)[0, 0, 1, 1]
    assert max(positive, -negative) <= layer.largest_sum() == float(positive - negative)


def test_freezing_refuses_a_codec_that_is_not_exact(small):
    codec = copy.deepcopy(small("mean-scale"))
    codec.h_s.offset.rows.fill_(2.0**16)
    with pytest.raises(ValueError, match="beyond the exact range"):
        codec.freeze()


@pytest.mark.parametrize("kind", ["mean-scale", "mean-scale-gdn"])
def test_a_file_decodes_to_the_same_symbols_everywhere(kind, small, weights, picture):
    x = picture(192, 160)
    coded = encode_signal(small(kind), x, 45)

    def symbols(codec) -> dict[str, Tensor]:
        return {name: values.cpu() for name, values in decode_signal(codec, coded.data).symbols.items()}

    ways = {}
    with threads(1):
        ways["one thread"] = symbols(small(kind))
    with threads(2):
        ways["two threads"] = symbols(small(kind))
    with torch.backends.mkldnn.flags(enabled=False):
        ways["no oneDNN"] = symbols(small(kind))
    ways["channels last"] = symbols(load_weights(weights(kind)).to(memory_format=torch.channels_last))
    ways["float64 integers"] = symbols(_with_double_integers(load_weights(weights(kind))))
    if torch.cuda.is_available():
        ways["CUDA"] = symbols(load_weights(weights(kind)).cuda())
    for way, decoded in ways.items():
        for name, values in coded.symbols.items():
            assert torch.equal(decoded[name], values), (way, name)


def _with_double_integers(codec: Codec) -> Codec:
    """The layers that decide in float64, the mean and the rest as they were."""
    head, mean = codec.h_s, codec.h_s.mean
    head.mean = None
    head.double()

    def predict(z_hat: Tensor, level: Tensor, height: int, width: int) -> Prediction:
        features = head.features(z_hat.double(), height, width)
        values = features.float() * 2.0**-head.scale.fraction_in
        return Prediction(head.index(features, level), mean(values), values)

    head.forward = predict
    return codec


def test_a_file_written_under_other_settings_has_the_same_side_information(small, weights, picture):
    """An encoder may differ in a rounding of its own latents, never in what its decoder makes of them."""
    x = picture(128, 128)
    for codec in (load_weights(weights("mean-scale")).to(memory_format=torch.channels_last), small("mean-scale")):
        with threads(1), torch.backends.mkldnn.flags(enabled=False):
            coded = encode_signal(codec, x, 20.75)
        decoded = decode_signal(small("mean-scale"), coded.data)
        assert all(torch.equal(decoded.symbols[name], values) for name, values in coded.symbols.items())


def test_a_batch_is_coded_as_its_items_are(codec, picture):
    x = torch.cat([picture(64, 128, seed=seed) for seed in range(3)])
    level = torch.tensor([0.0, 20.25, 63.0]).clamp(max=codec.levels - 1)
    with torch.inference_mode():
        together = codec(x, level)
        for item in range(len(x)):
            alone = codec(x[item : item + 1], level[item : item + 1])
            assert torch.allclose(together.reconstruction[item], alone.reconstruction[0], atol=1e-3)
            for name, bits in together.bits.items():
                assert bits.shape == (3,)
                assert float(bits[item]) == pytest.approx(float(alone.bits[name]), rel=1e-3)
                # Floating-point latents may round differently in another batch, by one and rarely.
                difference = (together.symbols[name][item] - alone.symbols[name][0]).abs()
                assert difference.max() <= 1
                assert difference.float().mean() < 1e-3
