"""The command line as people use it: files in, files out, one clear line when something is wrong."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neuralcodec.cli import main


@pytest.fixture
def model(weights) -> str:
    return str(weights("mean-scale"))


def photograph(height: int = 40, width: int = 50, mode: str = "RGB") -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack((rows * 3, columns * 4, (rows + columns) * 2), -1).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture
def picture_file(tmp_path) -> Path:
    photograph().save(tmp_path / "in.png")
    return tmp_path / "in.png"


def refusal(capsys, arguments: list[str]) -> str:
    """The one line on stderr with which a command refuses; no traceback, exit code 1."""
    capsys.readouterr()
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("neuralcodec "), captured.err
    return lines[0]


def test_picture_becomes_a_file_and_comes_back(tmp_path, picture_file, model):
    assert main(["encode", str(picture_file), "--model", model]) == 0
    coded = tmp_path / "in.nci"
    assert coded.read_bytes()[:4] == b"\x8eNC\n"
    assert main(["decode", str(coded), "-o", str(tmp_path / "out.png"), "--model", model]) == 0
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (50, 40) and image.mode == "RGB"


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 70), (65, 3)])
def test_sizes_come_back_exactly(tmp_path, model, height, width):
    photograph(height, width).save(tmp_path / "x.png")
    assert main(["encode", str(tmp_path / "x.png"), "-m", model]) == 0
    assert main(["decode", str(tmp_path / "x.nci"), "-m", model, "-f"]) == 0
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (width, height)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_greyscale_and_palette_pictures_are_accepted(tmp_path, model, mode):
    photograph(mode=mode).save(tmp_path / "x.png")
    assert main(["encode", str(tmp_path / "x.png"), "-m", model]) == 0
    assert main(["decode", str(tmp_path / "x.nci"), "-m", model, "-o", str(tmp_path / "y.png")]) == 0
    with Image.open(tmp_path / "y.png") as image:
        assert image.mode == ("RGB" if mode == "P" else "L")


def test_what_would_be_lost_is_refused(tmp_path, model, capsys):
    photograph(mode="CMYK").save(tmp_path / "x.tif")
    assert "CMYK" in refusal(capsys, ["encode", str(tmp_path / "x.tif"), "-m", model])
    assert not (tmp_path / "x.nci").exists()


@pytest.mark.parametrize("kind", ["transparency", "16 bits"])
def test_formats_that_cannot_hold_a_picture_are_refused_and_nothing_is_written(tmp_path, model, capsys, kind):
    image = photograph().convert("RGBA") if kind == "transparency" else Image.fromarray(np.full((8, 8), 4000, np.uint16))
    if kind == "transparency":
        image.putalpha(100)
    image.save(tmp_path / "x.png")
    assert main(["encode", str(tmp_path / "x.png"), "-m", model]) == 0
    assert kind in refusal(capsys, ["decode", str(tmp_path / "x.nci"), "-m", model, "-o", str(tmp_path / "y.jpg")])
    assert not (tmp_path / "y.jpg").exists()
    assert main(["decode", str(tmp_path / "x.nci"), "-m", model, "-o", str(tmp_path / "y.png")]) == 0
    with Image.open(tmp_path / "y.png") as decoded:
        assert decoded.mode == image.mode


def test_opaque_alpha_channel_is_no_obstacle(tmp_path, model):
    photograph().convert("RGBA").save(tmp_path / "x.png")
    assert main(["encode", str(tmp_path / "x.png"), "-m", model]) == 0


def test_existing_output_is_kept_unless_forced(tmp_path, picture_file, model, capsys):
    target = tmp_path / "in.nci"
    target.write_text("precious")
    assert "-f" in refusal(capsys, ["encode", str(picture_file), "-m", model])
    assert target.read_text() == "precious"
    assert main(["encode", str(picture_file), "-m", model, "-f"]) == 0
    assert target.read_bytes()[1:3] == b"NC"


def test_folder_is_encoded_with_its_structure_and_failures_are_reported(tmp_path, model, capsys):
    source = tmp_path / "photos"
    (source / "deep").mkdir(parents=True)
    photograph().save(source / "a.png")
    photograph().save(source / "deep" / "b.webp")
    (source / "broken.jpg").write_bytes(b"no picture")
    assert main(["encode", str(source), "-o", f"{tmp_path}/coded/", "-m", model]) == 1
    assert "broken.jpg" in capsys.readouterr().err
    found = sorted(str(path.relative_to(tmp_path / "coded")) for path in (tmp_path / "coded").rglob("*") if path.is_file())
    assert found == ["a.nci", os.path.join("deep", "b.nci")]
    assert main(["decode", str(tmp_path / "coded"), "-o", f"{tmp_path}/back/", "-m", model]) == 0
    assert (tmp_path / "back" / "deep" / "b.png").exists()


def test_several_inputs_need_a_folder(tmp_path, picture_file, model, capsys):
    photograph().save(tmp_path / "two.png")
    assert "folder" in refusal(capsys, ["encode", str(picture_file), str(tmp_path / "two.png"), "-o", str(tmp_path / "x.nci"), "-m", model])


def test_inputs_that_would_share_an_output_are_refused(tmp_path, picture_file, model, capsys):
    photograph().save(tmp_path / "in.webp")
    assert "both become" in refusal(capsys, ["encode", str(picture_file), str(tmp_path / "in.webp"), "-m", model])
    assert not (tmp_path / "in.nci").exists()


def test_higher_quality_is_larger(tmp_path, model, picture_file):
    sizes = []
    for quality in (0, 50, 100):
        target = tmp_path / f"{quality}.nci"
        assert main(["encode", str(picture_file), "-q", str(quality), "-o", str(target), "-m", model]) == 0
        sizes.append(target.stat().st_size)
    assert sizes[0] < sizes[1] < sizes[2]


def test_quality_out_of_range_is_refused(picture_file, model, capsys):
    assert "quality" in refusal(capsys, ["encode", str(picture_file), "-q", "101", "-m", model])


def test_missing_files_and_models_are_named(tmp_path, picture_file, model, capsys):
    assert "nowhere.png" in refusal(capsys, ["encode", str(tmp_path / "nowhere.png"), "-m", model])
    assert "nowhere.nci" in refusal(capsys, ["decode", str(tmp_path / "nowhere.nci")])
    assert "no-such-model" in refusal(capsys, ["encode", str(picture_file), "-m", "no-such-model"])
    assert "device" in refusal(capsys, ["encode", str(picture_file), "-m", model, "--device", "abacus"])


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is text", b"\x8eNC\n", b"\x8eNC\n\x07" + bytes(40), b"\x89PNG\r\n\x1a\n" + bytes(20)]
)
def test_other_files_are_refused_in_one_line(tmp_path, model, capsys, content):
    path = tmp_path / "x.nci"
    path.write_bytes(content)
    refusal(capsys, ["decode", str(path), "-m", model])
    refusal(capsys, ["info", str(path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.nci"]


def test_file_of_another_model_is_refused(tmp_path, picture_file, model, weights, capsys):
    main(["encode", str(picture_file), "-m", model])
    line = refusal(capsys, ["decode", str(tmp_path / "in.nci"), "-m", str(weights("scale")), "-o", str(tmp_path / "y.png")])
    assert "--model" in line
    assert not (tmp_path / "y.png").exists()


def test_unwritable_picture_format_is_refused(tmp_path, picture_file, model, capsys):
    main(["encode", str(picture_file), "-m", model])
    assert ".xyz" in refusal(capsys, ["decode", str(tmp_path / "in.nci"), "-m", model, "-o", str(tmp_path / "y.xyz")])


def test_pixel_limit_is_enforced_and_can_be_set(tmp_path, picture_file, model, capsys):
    main(["encode", str(picture_file), "-m", model])
    assert "--max-pixels" in refusal(
        capsys, ["decode", str(tmp_path / "in.nci"), "-m", model, "--max-pixels", "100", "-o", str(tmp_path / "y.png")]
    )


def test_info_reports_the_header(tmp_path, picture_file, model, capsys):
    main(["encode", str(picture_file), "-m", model, "-q", "40"])
    capsys.readouterr()
    assert main(["info", str(tmp_path / "in.nci"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["height"], report["width"], report["channels"]) == (40, 50, 3)
    assert report["level"] == 25.25
    assert report["bytes"] == (tmp_path / "in.nci").stat().st_size == report["header_bytes"] + sum(report["stream_bytes"])
    assert report["header_bytes"] <= 24
    assert main(["info", model, "--json"]) == 0
    weights_report = json.loads(capsys.readouterr().out)
    assert weights_report["fingerprint"] == report["fingerprint"]


def test_list_names_models_and_configs(capsys):
    assert main(["list", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"image/tiny", "image/factorized", "image/scale", "image/mean-scale"} <= set(report["configs"])
    assert main(["list"]) == 0
    _, fitted, trained = re.split(r"^(?=\w)", capsys.readouterr().out, flags=re.MULTILINE)[1:]
    assert "encode --model" in fitted and "video/tiny" in fitted and "video/recurrent" not in fitted
    assert "train fit" in trained and "image/tiny" in trained and "image/coin" not in trained


def test_pipes_carry_pictures_and_files(tmp_path, picture_file, model):
    """The real program, through real pipes."""
    program = str(Path(sys.executable).with_name("neuralcodec"))
    coded = subprocess.run([program, "encode", "-", "-m", model], input=picture_file.read_bytes(), capture_output=True, check=True).stdout
    assert coded[1:3] == b"NC"
    decoded = subprocess.run([program, "decode", "-", "-m", model], input=coded, capture_output=True, check=True).stdout
    with Image.open(io.BytesIO(decoded)) as image:
        assert image.size == (50, 40)
    refused = subprocess.run([program, "decode", "-", "-m", model], input=coded[:-1], capture_output=True)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert len(refused.stderr.decode().strip().splitlines()) == 1


def test_help_answers_without_torch():
    code = "import sys; from neuralcodec.cli import build_parser; build_parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
