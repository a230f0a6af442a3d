"""Measuring codecs: files are counted whole, BD-rates mean what they say, and results are complete and readable."""

import copy
import csv
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from neuralcodec.codecs.base import build
from neuralcodec.datasets import colour
from neuralcodec.eval import command, cost, curves, modalities, results, samples, show, store, sweep, tables
from neuralcodec.eval.classical.image import CODECS
from neuralcodec.eval.learned import Learned
from neuralcodec.eval.metrics import image as metrics
from neuralcodec.eval.modalities import Images
from neuralcodec.eval.results import Curve, Item, Point
from neuralcodec.train import freeze_and_save

TINY = {
    "class_path": "neuralcodec.codecs.image.Hyperprior",
    "init_args": {
        "analysis": {
            "class_path": "neuralcodec.codecs.image.transforms.LappedAnalysis",
            "init_args": {"latent": 24, "width": 16, "blocks": 1},
        },
        "synthesis": {
            "class_path": "neuralcodec.codecs.image.transforms.LappedSynthesis",
            "init_args": {"latent": 24, "width": 16, "blocks": 1},
        },
        "latent": 24,
        "hyper_channels": 8,
        "patterns": 8,
        "hyper_width": 16,
    },
}


CLASSICAL = {codec.name: codec for codec in CODECS}


def picture(seed: int = 0, height: int = 48, width: int = 72) -> np.ndarray:
    """Smooth shapes and a little noise, (height, width, 3) uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x * a + y * b + c) for a, b, c in random.uniform(0.02, 0.3, (3, 3))]
    return np.clip(128 + 60 * np.stack(waves, -1) + random.normal(0, 4, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    for seed in range(2):
        Image.fromarray(picture(seed)).save(path / f"picture{seed}.png")
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    freeze_and_save(build(TINY), path, {})
    return path


def curve(rates, qualities, name="a", kind="measured"):
    return Curve(name, kind, "", [Point(None, rate, {"psnr_rgb": quality}) for rate, quality in zip(rates, qualities)], "kodak")


def evaluate(*arguments) -> int:
    return command.main([str(argument) for argument in arguments])


def bd_rate(measured, anchor):
    return curves.bd_rate(measured, anchor, "psnr_rgb")


RATES, QUALITIES = (0.1, 0.2, 0.4, 0.8, 1.6), (28.0, 30.5, 33.0, 36.0, 39.5)


def test_a_curve_costs_nothing_more_than_itself():
    result = bd_rate(curve(RATES, QUALITIES), curve(RATES, QUALITIES, "b"))
    assert result.bd_rate == pytest.approx(0, abs=1e-9)
    assert (result.low, result.high) == (28.0, 39.5)


def test_half_the_rate_is_minus_fifty_percent():
    halved = curve([rate / 2 for rate in RATES], QUALITIES)
    assert bd_rate(halved, curve(RATES, QUALITIES, "b")).bd_rate == pytest.approx(-50)


def test_curves_of_different_lengths_and_orders_are_compared():
    shuffled = curve(RATES[::-1], QUALITIES[::-1])
    assert bd_rate(shuffled, curve(RATES[:4], QUALITIES[:4], "b")).bd_rate == pytest.approx(0, abs=1)


def test_both_interpolations_are_told_where_they_differ(tmp_path):
    smooth = bd_rate(curve([rate * 0.8 for rate in RATES], QUALITIES), curve(RATES, QUALITIES, "b"))
    assert smooth.bd_rate == pytest.approx(-20) and smooth.akima == pytest.approx(-20)
    assert tables.cell(smooth) == "-20.0 %\n(28.00…39.50)"
    bent = bd_rate(curve(RATES, (28.0, 33.5, 34.0, 34.5, 39.5)), curve(RATES, QUALITIES, "b"))
    assert abs(bent.bd_rate - bent.akima) > tables.TELLING
    assert tables.cell(bent) == f"{bent.bd_rate:+.1f} %, Akima {bent.akima:+.1f} %\n(28.00…39.50)"
    assert bd_rate(curve(RATES[:3], QUALITIES[:3]), curve(RATES, QUALITIES, "b")).akima is None


def test_akima_is_that_of_scipy():
    interpolate = pytest.importorskip("scipy.interpolate")
    bent = (28.0, 33.5, 34.0, 34.5, 39.5)
    quality = np.linspace(28, 39.5, 20001)
    logarithms = [interpolate.Akima1DInterpolator(qualities, np.log(RATES))(quality) for qualities in (bent, QUALITIES)]
    assert bd_rate(curve(RATES, bent), curve(RATES, QUALITIES, "b")).akima == pytest.approx(
        100 * np.expm1(np.mean(logarithms[0] - logarithms[1])), abs=0.05
    )


def test_no_bd_rate_without_overlap():
    result = bd_rate(curve(RATES, [quality - 20 for quality in QUALITIES]), curve(RATES, QUALITIES, "b"))
    assert result.bd_rate is None
    assert "do not overlap" in result.note and "28…39.5" in result.note


def test_no_bd_rate_from_three_points():
    result = bd_rate(curve(RATES[:3], QUALITIES[:3]), curve(RATES, QUALITIES, "b"))
    assert result.bd_rate is None and "4 points" in result.note


def test_points_that_cost_more_and_give_no_more_are_left_out_and_named():
    bent = curve((*RATES, 3.2), (*QUALITIES, 39.0))
    result = bd_rate(bent, curve(RATES, QUALITIES, "b"))
    assert result.bd_rate == pytest.approx(0, abs=1e-9)
    assert "1 point(s) of a left out" in result.note


def test_every_published_curve_has_a_source_and_points():
    assert {"vtm-18.0", "jpeg", "webp", "mbt2018-mean"} <= set(curves.PUBLISHED["image"])
    for name in curves.PUBLISHED["image"]:
        published = curves.published(name, Images())
        assert published.kind == "published" and "(published)" in published.label
        assert "@" in published.source and published.description
        assert len(published.points) >= curves.MIN_POINTS
        assert all(point.rate > 0 and 15 < point.quality["psnr_rgb"] < 60 for point in published.points)


def test_published_bd_rates_are_those_of_the_literature():
    anchor = curves.published("vtm-18.0", Images())
    assert bd_rate(curves.published("cheng2020-anchor", Images()), anchor).bd_rate == pytest.approx(4.5, abs=0.1)
    assert bd_rate(curves.published("jpeg", Images()), anchor).bd_rate == pytest.approx(233, abs=1)


def test_psnr_by_hand():
    flat = np.zeros((4, 4, 3), np.uint8)
    other = flat.copy()
    other[..., 0] = 255
    assert metrics.psnr_of_mse(metrics.mse(flat, other)) == pytest.approx(10 * np.log10(3))
    assert metrics.psnr_of_mse(metrics.mse(flat, flat)) == metrics.PSNR_OF_EQUAL


@pytest.mark.parametrize("name", sorted(CLASSICAL))
def test_classical_files_are_whole_files_and_decode_to_the_same_size(name, tmp_path):
    codec, pixels = CLASSICAL[name], picture(height=37, width=51)
    if codec.missing:
        pytest.skip(f"needs {codec.missing}")
    sizes = []
    for setting in codec.spread(3):
        file = sweep.measure_file(codec, Images(), Item("one", "", {}), pixels, setting)
        path = tmp_path / f"{name}-{setting}"
        path.write_bytes(codec.encode(pixels, setting).data)
        assert file.file_bytes == path.stat().st_size
        assert file.rate == pytest.approx(path.stat().st_size * 8 / (37 * 51))
        sizes.append(file.file_bytes)
    assert sizes == sorted(sizes)
    assert file.quality["psnr_rgb"] > 25


def test_conversion_at_ten_bits_gives_rgb_back():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(colour.to_rgb(colour.to_ycbcr(pixels)), pixels)
    corners = np.array([[[0, 0, 0], [255, 255, 255], [0, 0, 255]]], np.uint8)
    assert colour.to_ycbcr(corners).tolist() == [[[0, 512, 512], [1023, 512, 512], [74, 1023, 465]]]


def test_a_codec_whose_library_is_missing_is_named_and_skipped(folder, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert evaluate(folder, "--codec", "jpeg", "--codec", "avif", "--points", 1) == 0
    captured = capsys.readouterr()
    assert "avif left out; it needs imagecodecs" in captured.err and "avif" not in captured.out
    assert evaluate(folder, "--codec", "avif") == 1


def test_learned_files_are_counted_whole_and_agree_with_the_estimate(weights):
    codec, pixels = Learned(str(weights)), picture(height=130, width=190)
    file = sweep.measure_file(codec, Images(), Item("one", "", {}), pixels, codec.settings[3])
    assert file.file_bytes == len(codec.encode(pixels, codec.settings[3]).data)
    assert 0 < file.header_bytes <= 24
    assert file.symbols_equal is True
    streams = file.file_bytes - file.header_bytes
    assert streams * 8 == pytest.approx(file.estimated_rate * 130 * 190, rel=0.02, abs=128)


def test_settings_are_spread_from_end_to_end(weights):
    assert len(Learned(str(weights)).settings) == 8
    assert Learned(str(weights)).spread(3) == [0, 31.5, 63]
    assert Learned(str(weights), levels=[7, 3]).settings == [3, 7]
    assert CLASSICAL["jpeg"].spread(2) == [5, 95]


def test_results_are_written_and_read_back(folder, weights, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluate(folder, "--codec", weights, "--codec", "jpeg", "--codec", "webp", "--points", 4, "-o", out) == 0
    read = results.load(out / "results.json")
    assert [each.name for each in read.curves] == ["small", "jpeg", "webp"]
    assert [item.name for item in read.dataset.items] == ["picture0", "picture1"]
    for measured in read.curves:
        assert len(measured.points) == 4 and [point.rate for point in measured.points] == sorted(point.rate for point in measured.points)
        for point in measured.points:
            assert len(point.files) == 2
            assert point.rate == pytest.approx(np.mean([file.file_bytes * 8 / (48 * 72) for file in point.files]))
            assert point.quality["psnr_rgb"] == pytest.approx(np.mean([file.quality["psnr_rgb"] for file in point.files]))
            mean_mse = np.mean([file.errors["rgb"] for file in point.files])
            assert point.quality["psnr_rgb_of_mean_mse"] == pytest.approx(10 * np.log10(255**2 / mean_mse))
            assert point.encode_seconds > 0 and point.decode_seconds > 0
    assert all(point.symbols_equal and point.estimated_rate > 0 for point in read.curves[0].points)
    assert {comparison.anchor for comparison in read.comparisons} == {"jpeg"}
    assert set(read.definitions) >= {"rate", "psnr_rgb"} and "torch" in read.environment
    with (out / "rd.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and float(rows[0]["rate"]) == pytest.approx(read.curves[0].points[0].rate)
    with Image.open(out / "rd.png") as image:
        assert image.width > 500
    page = (out / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']|url\((?!#)|@import""", page), "the report must need no other file"
    shown = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert [version["name"] for version in shown["samples"][0]["versions"]] == ["original", "small", "jpeg", "webp"]
    page_points, points = (content["curves"][0]["points"] for content in (shown, json.loads((out / "results.json").read_text())))
    assert [(point["rate"], point["quality"]) for point in page_points] == [(point["rate"], point["quality"]) for point in points]
    assert "BD-rate against jpeg" in capsys.readouterr().out
    assert not list(out.glob("*.part"))


def test_earlier_results_are_not_overwritten_unasked(folder, tmp_path, capsys):
    (tmp_path / "results.json").write_text("mine")
    assert evaluate(folder, "--codec", "jpeg", "--points", 1, "-o", tmp_path) == 1
    assert "-f" in capsys.readouterr().err and (tmp_path / "results.json").read_text() == "mine"
    assert evaluate(folder, "--codec", "jpeg", "--points", 1, "-o", tmp_path, "-f") == 0
    assert json.loads((tmp_path / "results.json").read_text())["schema"] == results.SCHEMA


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--codec", "nothing"], "no codec 'nothing'"),
        ([], "--codec"),
        (["--codec", "jpeg", "--published", "nothing"], "no published curve"),
        (["--codec", "jpeg", "--anchor", "nothing"], "anchor"),
    ],
)
def test_mistakes_get_one_clear_line(folder, arguments, words, capsys):
    assert evaluate(folder, *arguments) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_published_curves_of_other_items_get_no_bd_rate(folder, capsys):
    assert evaluate(folder, "--codec", "jpeg", "--anchor", "vtm-18.0", "--points", 4) == 0
    out = capsys.readouterr().out
    assert "none" in out and "not comparable" in out


def test_a_folder_without_items_is_refused(tmp_path, capsys):
    assert evaluate(tmp_path, "--codec", "jpeg") == 1
    assert "nothing that can be measured" in capsys.readouterr().err
    assert evaluate(tmp_path / "none", "--codec", "jpeg") == 1
    assert "no dataset, file or folder" in capsys.readouterr().err
    assert evaluate(tmp_path, "--modality", "image", "--codec", "jpeg") == 1
    assert "no images below" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 99}', "[]", "7", "[" * 100_000, '{"schema": ' * 100_000, "\x00", '{"schema": 2}'])
def test_other_files_are_no_results(text, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(results.ResultsError) as error:
        results.load(tmp_path / "results.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize(
    "place, value",
    [
        (("curves",), {}),
        (("curves", 0), 3),
        (("curves", 0, "points", 0, "rate"), "1"),
        (("curves", 0, "points", 0, "rate"), -1.0),
        (("curves", 0, "points", 0, "rate"), float("nan")),
        (("curves", 0, "points", 0, "rate"), True),
        (("curves", 0, "points", 0, "quality"), [1]),
        (("curves", 0, "points", 0, "quality", "psnr_rgb"), None),
        (("curves", 0, "name"), None),
        (("curves", 0, "unheard_of"), 1),
        (("dataset", "items", 0, "size"), "large"),
        (("titles",), ["psnr_rgb"]),
    ],
    ids=str,
)
def test_results_of_other_types_are_refused_in_one_line(place, value, two_results, tmp_path, capsys):
    content = json.loads((two_results / "before.json").read_text())
    inner = content
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    (tmp_path / "damaged.json").write_text(json.dumps(content))
    assert evaluate("compare", two_results / "before.json", tmp_path / "damaged.json") == 1
    error = capsys.readouterr().err
    assert "damaged.json is not a results file" in error and error.count("\n") == 1


def test_the_command_is_cheap_to_import():
    heavy = "torch", "matplotlib", "numpy", "rich"
    code = f"import sys, neuralcodec.eval.command; sys.exit(any(name in sys.modules for name in {heavy!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_was_measured_is_not_measured_again(folder, weights, tmp_path, monkeypatch):
    arguments = [folder, "--codec", weights, "--codec", "jpeg", "--points", 2, "-o", tmp_path, "-f"]
    assert evaluate(*arguments) == 0
    first = results.load(tmp_path / "results.json")
    lines = (tmp_path / "files.jsonl").read_text().splitlines()
    assert len(lines) == 8
    (tmp_path / "files.jsonl").write_text("\n".join(lines[:-1]) + '\n{"key": "cut sho')
    (tmp_path / "results.json").unlink()
    measured = []
    monkeypatch.setattr(sweep, "measure_file", lambda *given, real=sweep.measure_file: measured.append(given) or real(*given))
    assert evaluate(*arguments) == 0
    assert len(measured) == 1
    again = results.load(tmp_path / "results.json")
    assert again.curves[0] == first.curves[0]
    assert len((tmp_path / "files.jsonl").read_text().splitlines()) == 9
    assert evaluate(*arguments, "--fresh") == 0
    assert len(measured) == 9


def test_other_weights_are_measured_anew(weights, tmp_path):
    keep = store.Store(tmp_path / "files.jsonl", {})
    codec, item = Learned(str(weights)), Item("one", "00", {})
    key = keep.key(codec, 3, item)
    assert key == store.Store(tmp_path / "other", {}).key(Learned(str(weights)), 3, item)
    assert len({key, keep.key(codec, 4, item), keep.key(codec, 3, Item("one", "01", {}))}) == 3
    codec.codec = copy.copy(codec.codec)
    codec.codec.fingerprint = b"else"
    assert key != keep.key(codec, 3, item)


def test_two_jobs_measure_what_one_does(folder, weights, tmp_path):
    for jobs in (1, 2):
        assert evaluate(folder, "--codec", weights, "--points", 2, "--jobs", jobs, "-o", tmp_path / str(jobs)) == 0
    one, two = (results.load(tmp_path / jobs / "results.json").curves[0] for jobs in "12")
    assert [point.rate for point in one.points] == [point.rate for point in two.points]
    assert [point.quality["psnr_rgb"] for point in one.points] == pytest.approx(
        [point.quality["psnr_rgb"] for point in two.points], abs=1e-3
    )


def test_cost_counts_multiplications_and_parameters(weights, folder):
    codec = Learned(str(weights))
    counted = cost.multiplications(lambda: torch.nn.Conv2d(3, 8, 3, padding=1)(torch.zeros(1, 3, 10, 10)))
    assert counted == 3 * 8 * 9 * 100
    result = cost.cost(codec, Images(), sorted(folder.glob("*.png"))[0])
    assert result.parameters == sum(parameter.numel() for parameter in codec.codec.parameters())
    assert result.encode_kmac > 0 and result.decode_kmac > 0
    assert result.decode_peak_mib is None or 50 < result.decode_peak_mib < 4000


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_cost_counts_what_recurrent_layers_and_attention_multiply(mode):
    steps, width, hidden = 7, 6, 10
    x = torch.zeros(1, steps, width)

    def macs(layer: torch.nn.Module, *inputs) -> float:
        with mode():
            return cost.multiplications(lambda: layer.eval()(*inputs))

    one = steps * 4 * hidden * (width + hidden)
    assert macs(torch.nn.LSTM(width, hidden, batch_first=True), x) == one
    assert macs(torch.nn.LSTM(width, hidden, 2, batch_first=True), x) == one + steps * 4 * hidden * 2 * hidden
    assert macs(torch.nn.LSTM(width, hidden, batch_first=True, bidirectional=True), x) == 2 * one
    assert macs(torch.nn.GRU(width, hidden, batch_first=True), x) == steps * 3 * hidden * (width + hidden)
    attend = torch.nn.functional.scaled_dot_product_attention
    query, key = torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 9, 8)
    with mode():
        assert cost.multiplications(lambda: attend(query, key, key)) == 2 * 2 * 5 * 9 * 8
    projections, products = 4 * steps * width * width, 2 * steps * steps * width
    assert macs(torch.nn.MultiheadAttention(width, 2, batch_first=True), x, x, x) == projections + products
    layer = torch.nn.TransformerEncoderLayer(width, 2, 4 * width, batch_first=True)
    assert macs(layer, x) == projections + products + 2 * steps * width * 4 * width


def test_quality_metrics_against_their_definitions():
    x = picture(height=176, width=200)
    noisy = np.clip(x + np.random.default_rng(1).normal(0, 8, x.shape), 0, 255).astype(np.uint8)
    values = metrics.quality(x, noisy)
    assert values["psnr_yuv611"] == pytest.approx((6 * values["psnr_y"] + values["psnr_u"] + values["psnr_v"]) / 8)
    grey = np.repeat(x[..., :1], 3, 2)
    shifted = np.repeat(np.clip(x[..., :1].astype(int) + 3, 0, 255).astype(np.uint8), 3, 2)
    values = metrics.quality(grey, shifted)
    assert values["psnr_y"] == pytest.approx(values["psnr_rgb"], abs=1e-6)
    assert values["psnr_u"] == metrics.PSNR_OF_EQUAL
    assert metrics.quality(x, x)["ms_ssim_rgb"] == pytest.approx(1)
    assert metrics.decibels(0.99) == pytest.approx(20)
    assert "ms_ssim_rgb" not in metrics.quality(x[:160], x[:160])


def test_samples_come_near_the_rate_asked_for():
    pixels = picture(height=128, width=192)
    for name in ("jpeg", "webp"):
        lowest, highest = (len(CLASSICAL[name].encode(pixels, setting).data) * 8 / pixels[..., 0].size for setting in (20, 90))
        wanted = (lowest * highest) ** 0.5
        coded = samples.at_rate(CLASSICAL[name], Images(), pixels, wanted)
        assert coded.rate == pytest.approx(wanted, rel=0.1)
        assert coded.signal.shape == pixels.shape


@pytest.fixture(scope="module")
def two_results(tmp_path_factory):
    """The same codec before and after it learned to do with half the rate."""
    folder = tmp_path_factory.mktemp("compare")
    dataset = results.Dataset("set", "image", "bpp", [Item("one", "ab", {})], "kodak")
    for name, factor in (("before", 1), ("after", 0.5)):
        measured = [curve([rate * factor for rate in RATES], QUALITIES, "mine"), curve(RATES, QUALITIES, "jpeg")]
        results.Results(dataset, {}, metrics.TITLES, {}, [*measured, curves.published("webp", Images())], []).save(folder / f"{name}.json")
    results.Results(replace(dataset, name="other", items=[Item("two", "cd", {})]), {}, {}, {}, measured, []).save(folder / "other.json")
    return folder


def test_compare_prints_what_changed_between_two_files(two_results, capsys):
    assert evaluate("compare", two_results / "before.json", two_results / "after.json") == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert lines[2] == "| mine [after] | mine [before] | -50.0 % (28.00…39.50) |"
    assert lines[3] == "| jpeg [after] | jpeg [before] | +0.0 % (28.00…39.50) |"


def test_compare_takes_an_anchor_and_writes_latex(two_results, capsys):
    assert evaluate("compare", two_results / "before.json", two_results / "after.json", "--anchor", "jpeg", "--format", "latex") == 0
    out = capsys.readouterr().out
    assert r"mine [after] & jpeg [before] & -50.0 \% (28.00--39.50) \\" in out
    assert out.count("webp (published)") >= 1 and out.count("& jpeg [before]") == 4
    assert evaluate("compare", two_results / "after.json", "--anchor", "webp") == 0
    assert "| mine | webp (published) |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["before.json", "other.json"], "different items"),
        (["before.json"], "--anchor"),
        (["before.json", "--anchor", "nothing"], "no curve is called"),
        (["nothing.json"], "no file"),
    ],
)
def test_compare_refuses_what_it_cannot_compare(two_results, arguments, words, capsys, monkeypatch):
    monkeypatch.chdir(two_results)
    assert evaluate("compare", *arguments) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_classical_codecs_are_listed_where_they_are_and_bring_no_more_than_they_need():
    from neuralcodec.eval import classical
    from neuralcodec.eval.classical import NAMES, audio, image, video

    modules = {"image": image, "audio": audio, "video": video}
    assert {name: tuple(codec.name for codec in module.CODECS) for name, module in modules.items()} == NAMES
    assert all(codec.modality == modality for modality, module in modules.items() for codec in module.CODECS)
    every = classical.CLASSICAL
    assert list(every) == [name for names in NAMES.values() for name in names] and every["opus"] is audio.CODECS[0]
    for name in ("jpeg", "opus", "x264"):
        code = f"import sys; from neuralcodec.eval.candidates import candidate; candidate({name!r}); sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, name


def test_items_of_one_name_and_two_formats_are_two_items(tmp_path):
    for name in ("a.png", "a.bmp", "b.png"):
        Image.fromarray(picture(len(name) + ord(name[-1]))).save(tmp_path / name)
    chosen = modalities.sources(Images(), str(tmp_path))
    assert [source.item.name for source in chosen] == ["a.bmp", "a.png", "b"]
    curve = sweep.measure(CLASSICAL["jpeg"], Images(), "set", chosen, 1)
    assert sorted(file.item for file in curve.points[0].files) == ["a.bmp", "a.png", "b"]


def test_only_kodaks_own_samples_are_kodak():
    impostors = [Item(f"kodim{number:02d}", f"{number}", {}) for number in range(1, 25)]
    assert Images().protocol("kodak", impostors) == "kodak, 24 images"


def test_kodak_is_known_by_its_samples(data):
    chosen = modalities.sources(Images(), "kodak", str(data / "eval" / "kodak"))
    assert modalities.describe(Images(), "kodak", chosen).protocol == "kodak"


def test_shapes_tell_equal_samples_apart():
    assert Images().sha256(np.zeros((2, 8, 3), np.uint8)) != Images().sha256(np.zeros((4, 4, 3), np.uint8))


def test_what_eight_bits_of_colour_cannot_say_is_not_measured(tmp_path, capsys):
    Image.fromarray(np.full((20, 20), 1000, np.uint16)).save(tmp_path / "deep.png")
    assert evaluate(tmp_path, "--codec", "jpeg") == 1
    assert "more than 8 bits" in capsys.readouterr().err
    Image.new("RGBA", (20, 20), (9, 9, 9, 99)).save(tmp_path / "deep.png")
    assert evaluate(tmp_path, "--codec", "jpeg") == 1
    assert "transparency" in capsys.readouterr().err


def test_compare_warns_where_a_name_means_two_things(two_results, tmp_path, capsys):
    for name, definition in (("before", "dB; of all samples"), ("after", "dB; of luma")):
        read = results.load(two_results / f"{name}.json")
        replace(read, definitions={"psnr_rgb": definition, "rate": "bits"}).save(tmp_path / f"{name}.json")
    assert evaluate("compare", tmp_path / "before.json", tmp_path / "after.json") == 0
    captured = capsys.readouterr()
    assert "define psnr_rgb differently" in captured.err and captured.err.count("\n") == 1 and "mine [after]" in captured.out
    assert evaluate("compare", tmp_path / "before.json", tmp_path / "before.json") == 0
    assert capsys.readouterr().err == ""


def test_every_curve_of_a_plot_has_its_own_look():
    colours = [(0.1 * i, 0, 0) for i in range(10)]
    looks = [repr(show._style(i, measured, colours)) for i in range(30) for measured in (True, False)]
    assert len(set(looks)) == 60


def test_a_published_point_without_a_curve_is_visible(two_results):
    from matplotlib.figure import Figure

    read = results.load(two_results / "before.json")
    measured = read.curves[0]
    several = replace(measured, name="theirs", kind="published")
    one = replace(several, name="once", points=measured.points[:1])
    axes = Figure().subplots()
    styles = {each.label: show._style(i, each.kind == "measured", [(0, 0, 0)] * 10) for i, each in enumerate((measured, several, one))}
    show._panel(axes, replace(read, curves=[measured, several, one]), "psnr_rgb", styles, main=True)
    assert [line.get_marker() for line in axes.lines] == ["o", "None", show.LONE]


@pytest.mark.parametrize("arguments", [["--sample-rate", "0"], ["--sample-rate", "-1"], ["--sample-rate", "nan"], ["--samples", "-1"]])
def test_rates_and_numbers_of_samples_that_make_no_sense_are_refused(arguments, folder, capsys):
    with pytest.raises(SystemExit):
        evaluate(folder, "--codec", "jpeg", *arguments)
    assert "must be" in capsys.readouterr().err


def test_names_in_brackets_are_printed_as_they_are(two_results, capsys):
    assert evaluate("compare", two_results / "before.json", two_results / "after.json", "--format", "text") == 0
    assert "mine [after]" in capsys.readouterr().out


def test_means_over_different_items_get_no_bd_rate():
    whole, part = curve(RATES, QUALITIES), curve(RATES, QUALITIES, "b")
    part = replace(part, points=[replace(point, left_out={"psnr_rgb": 1}) for point in part.points])
    result = bd_rate(part, whole)
    assert result.bd_rate is None and "only for which it is defined" in result.note
