"""Bitstreams that were written once and that every later version decodes to the same integers. See tests/write_golden.py."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

from neuralcodec.codecs.base import Codec
from neuralcodec.codecs.files import codec_for
from neuralcodec.datasets.images import to_pixels
from neuralcodec.entropy import container

HERE = Path(__file__).parent
FILES = sorted((HERE / "golden").glob("*.nci"))
WEIGHTS = sorted((HERE / "golden").glob("*.safetensors"))  # small random ones of their own, so that shipped weights may be replaced

specification = importlib.util.spec_from_file_location("write_golden", HERE / "write_golden.py")
write_golden = importlib.util.module_from_spec(specification)
specification.loader.exec_module(write_golden)


def check(file: Path, codec: Codec | None = None) -> None:
    facts = json.loads(file.with_suffix(".json").read_text())
    codec = codec or codec_for(container.read(file.read_bytes()), WEIGHTS)
    found = write_golden.facts_of(file.read_bytes(), codec)
    assert found.pop("thumbnail") == pytest.approx(facts.pop("thumbnail"), abs=0.5)
    assert found == facts


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_golden_file_decodes_to_the_same_integers(file):
    check(file)


def test_golden_files_and_their_facts_come_in_pairs():
    assert [file.stem for file in FILES] == sorted(file.stem for file in (HERE / "golden").glob("*.json"))


def test_golden_files_are_checked_and_never_overwritten(tmp_path, weights, small, picture, capsys):
    Image.fromarray(to_pixels(picture(48, 70))).save(tmp_path / "picture.png")
    command = [str(tmp_path / "picture.png"), "first", "--model", str(weights("mean-scale")), "--folder", str(tmp_path)]
    assert write_golden.main(command) == 0
    check(tmp_path / "first.nci", small("mean-scale"))
    assert write_golden.main([*command, "--quality", "80"]) == 1
    assert "never written anew" in capsys.readouterr().err
    check(tmp_path / "first.nci", small("mean-scale"))
    facts = json.loads((tmp_path / "first.json").read_text())
    facts["symbols"]["y"] = "0" * 64
    (tmp_path / "first.json").write_text(json.dumps(facts))
    with pytest.raises(AssertionError):
        check(tmp_path / "first.nci", small("mean-scale"))
