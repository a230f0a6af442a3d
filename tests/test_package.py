"""The installed package: what a wheel holds, what importing costs, what the documentation's examples say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import neuralcodec

ROOT = Path(__file__).resolve().parent.parent
MAPPED = ("__init__.py", "cli.py", "pillow.py", "train.py", "training", "codecs", "entropy", "datasets", "eval")
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(neuralcodec.__path__, "neuralcodec.")
    if module.name.split(".")[1] in {Path(part).stem for part in MAPPED}
)


def imported_by(statement: str) -> set[str]:
    """Names of all modules that a fresh interpreter holds after a statement."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-P", "-c", code] if sys.version_info >= (3, 11) else [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(sys.executable).parent,
    )
    return set(result.stdout.split())


def test_the_public_api_imports_no_torch():
    modules = imported_by("import neuralcodec, neuralcodec.codecs, neuralcodec.cli")
    assert "neuralcodec.codecs" in modules
    assert not modules & {"torch", "numpy", "lightning", "PIL", "constriction"}


def test_decoding_imports_nothing_of_training_or_evaluation():
    modules = imported_by("import neuralcodec.codecs.files, neuralcodec.codecs.image")
    assert "torch" in modules
    assert not modules & {
        "lightning",
        "pytorch_lightning",
        "jsonargparse",
        "matplotlib",
        "compressai",
        "torchvision",
        "tensorboard",
        "datasets",
    }


def test_codecs_and_entropy_never_import_lightning():
    names = [name for name in MODULES if name.startswith(("neuralcodec.codecs", "neuralcodec.entropy"))]
    assert "neuralcodec.entropy.rans" in names
    assert not imported_by(f"import {', '.join(names)}") & {"lightning", "pytorch_lightning", "jsonargparse", "matplotlib"}


def test_building_a_codec_imports_nothing_of_training(weights):
    modules = imported_by(f"from neuralcodec.codecs.base import load_weights; load_weights({str(weights('mean-scale'))!r})")
    assert not modules & {"lightning", "pytorch_lightning", "jsonargparse", "matplotlib", "compressai"}


def test_every_module_is_found():
    assert {"neuralcodec.cli", "neuralcodec.train", "neuralcodec.codecs.image.hyperprior", "neuralcodec.datasets.images"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name):
    assert (importlib.import_module(name).__doc__ or "").strip()


@pytest.mark.parametrize("name", ["neuralcodec", *MODULES])
def test_examples_in_docstrings_are_true(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Files of the package that git knows, as paths in the checkout."""
    listed = subprocess.run(["git", "ls-files", "-z", *MAPPED], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def test_a_wheel_holds_exactly_the_tracked_files(tracked, tmp_path):
    source = tmp_path / "source"  # a copy of what is tracked: files that nobody has added yet are not the question here
    for name in [*tracked, "pyproject.toml", "README.md", "LICENSE"]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert built.returncode == 0, built.stderr + built.stdout
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {name for name in wheel.namelist() if not name.split("/")[0].endswith(".dist-info")}
    assert held == {f"neuralcodec/{name}" for name in tracked}


def test_importing_from_the_checkout_is_refused(tmp_path):
    """With the root on the path, its folders would stand in for other packages called codecs and datasets."""
    command = [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import pytest; sys.exit(pytest.main(sys.argv[2:]))"]
    arguments = [str(ROOT), str(ROOT / "tests" / "test_container.py"), "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "is on sys.path" in result.stdout + result.stderr
