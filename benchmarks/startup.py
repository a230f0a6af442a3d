"""Seconds from the shell to an answer. Run: ``python benchmarks/startup.py``.

``neuralcodec decode`` of a small file, ``neuralcodec --help`` and ``--version``, against what no program that uses torch can go below,
``python -c "import torch"``, and against an interpreter that does nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from timing import interleaved, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--model", help="weights file to use instead of the shipped ones")
    options = parser.parse_args()
    program = str(Path(sys.executable).parent / "neuralcodec")
    model = ["--model", options.model] if options.model else []

    with tempfile.TemporaryDirectory() as folder:
        rows, columns = np.mgrid[:128, :192]
        pixels = np.stack([rows, columns, rows + columns], -1).astype(np.uint8)
        picture, file, out = (str(Path(folder) / name) for name in ("picture.png", "picture.nci", "out.png"))
        Image.fromarray(pixels).save(picture)
        run(program, "encode", picture, "-o", file, *model)
        commands = {
            "neuralcodec decode": [program, "decode", file, "-o", out, "-f", *model],
            "neuralcodec --help": [program, "--help"],
            'python -c "import torch"': [sys.executable, "-c", "import torch"],
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        seconds = interleaved({name: lambda command=command: run(*command) for name, command in commands.items()}, options.repetitions)
    torch_seconds = seconds['python -c "import torch"']
    print(f"192×128 picture, {options.repetitions} interleaved repetitions, medians")
    print(table([("", "s", "/ import torch"), *((name, f"{one:.2f}", f"{one / torch_seconds:.2f}") for name, one in seconds.items())]))


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
