"""What the parts of image/nano are worth: train variants alike, measure them on Kodak. Run: ``python benchmarks/ablations.py FOLDER``.

Contexts and scales: every variant starts from the transforms and side information of image-nano, with a fresh context. The linear
shortcut: from nothing (the closed form where there is one), without a context. All get as many steps, on crops of 128×128, and
tables calibrated on the training images. Finished variants are kept in the folder; a run goes on with the missing ones.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from neuralcodec.codecs import CONFIGS
from neuralcodec.codecs.base import build, save_weights
from neuralcodec.codecs.files import load

RUN = (sys.executable, "-c", "from neuralcodec.cli import main; raise SystemExit(main())")


def context(**arguments: Any) -> Callable[[dict], None]:
    return lambda codec: codec["context"]["init_args"].update(arguments)


def no_context(codec: dict) -> None:
    codec.pop("context")


def no_shortcut(codec: dict) -> None:
    no_context(codec)
    for transform in ("analysis", "synthesis"):
        codec[transform]["init_args"]["shortcut"] = False


FROM_NANO = {
    "four-steps": context(count=4),
    "two-steps": context(count=2),
    "no-context": no_context,
}
FROM_NOTHING = {"shortcut": no_context, "no-shortcut": no_shortcut}


def without_context(folder: Path) -> Path:
    """The weights of image-nano, less its context."""
    path = folder / "start.safetensors"
    nano = load("image-nano")
    assert nano.spec is not None
    spec = copy.deepcopy(nano.spec)
    no_context(spec["init_args"])
    codec = build(spec)
    codec.load_state_dict({name: tensor for name, tensor in nano.state_dict().items() if not name.startswith("context.")})
    save_weights(codec, path)
    return path


def train(folder: Path, name: str, change: Callable[[dict], None], start: Path | None, options: argparse.Namespace) -> Path:
    """The weights of a variant after so many steps."""
    exported, runs = folder / f"{name}.safetensors", folder / name
    if exported.exists():
        return exported
    config = yaml.safe_load(CONFIGS["image/nano"].read_text())
    change(config["model"]["codec"]["init_args"])
    config["model"] |= {"warmup_steps": 50, "init_from": str(start) if start else None}
    config["data"] |= {"train": options.train, "workers": 0}
    config["trainer"] |= {"max_steps": options.steps, "limit_val_batches": 0, "default_root_dir": str(runs), "enable_progress_bar": False}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    subprocess.run([*RUN, "train", "fit", "--seed_everything", "0", "--config", str(folder / f"{name}.yaml")], check=True)
    subprocess.run([*RUN, "export", str(runs / "checkpoints/last.ckpt"), str(exported), "--calibrate", *options.train], check=True)
    return exported


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", nargs="+", default=["train/images"])
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--images", type=int, default=12, help="of Kodak")
    parser.add_argument("--starts", nargs="+", choices=("nano", "nothing"), default=["nano", "nothing"])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    starts = {"nano": (FROM_NANO, without_context(options.folder)), "nothing": (FROM_NOTHING, None)}
    for variants, first in (starts[name] for name in options.starts):
        trained = [train(options.folder, name, change, first, options) for name, change in variants.items()]
        codecs = [word for path in trained for word in ("--codec", str(path))]
        measure = ["eval", "kodak", *codecs, "--anchor", trained[0].stem, "--limit", str(options.images), "--samples", "0"]
        subprocess.run([*RUN, *measure, "-o", str(options.folder / f"from-{'nano' if first else 'nothing'}")], check=True)


if __name__ == "__main__":
    main()
