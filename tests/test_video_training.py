"""Fits of clips as Lightning runs."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from neuralcodec.codecs import CONFIGS
from neuralcodec.codecs.video import files, outputs
from neuralcodec.datasets.video import Clip
from neuralcodec.train import main

STEPS = 6


@pytest.fixture
def film(tmp_path: Path, moving) -> Path:
    path = tmp_path / "clip.y4m"
    with path.open("wb") as out:
        outputs.write_clip(moving(), out, ".y4m")
    return path


def run(*arguments: object) -> int:
    options = ["fit", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false", "--trainer.accelerator", "cpu"]
    return main([*options, *map(str, arguments)])


def test_a_lightning_run_writes_the_file_that_encode_would(film, tmp_path, monkeypatch, moving):
    monkeypatch.chdir(tmp_path)
    common = ("--data.clip", film, "--data.steps", STEPS, "--model.level", 40, "--trainer.log_every_n_steps", 1)
    assert run("--config", "video/tiny", *common) == 0
    decoded = files.decode_clip((tmp_path / "runs" / "clip.ncv").read_bytes())
    original: Clip = moving()
    assert decoded.y.shape == original.y.shape
    (log,) = (tmp_path / "runs").glob("csv/**/metrics.csv")
    rows = list(csv.DictReader(log.open()))
    size = (tmp_path / "runs" / "clip.ncv").stat().st_size
    assert sum(bool(row.get("bpp")) for row in rows) == STEPS
    assert float(next(row["file_bpp"] for row in rows if row.get("file_bpp"))) == pytest.approx(8 * size / original.y.size, rel=1e-4)


def test_clips_of_several_groups_are_refused(film, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("--config", "video/hnerv", "--data.clip", tmp_path / "none.y4m") == 1
    config = tmp_path / "small.yaml"
    config.write_text(CONFIGS["video/tiny"].read_text().replace("group: 32", "group: 2"))
    assert run("--config", config, "--data.clip", film) == 1
    assert "one group of at most 2 pictures" in capsys.readouterr().err
