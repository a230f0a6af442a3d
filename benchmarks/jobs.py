"""How much sooner two processes finish an evaluation than one does, on a machine with nothing else to do: python benchmarks/jobs.py

Codes the first eight Kodak images with image-tiny and WebP at four settings each.
"""

import os
import subprocess
import sys
import tempfile
import time

RUN = "import sys; from neuralcodec.cli import main; raise SystemExit(main())"
WORK = ("kodak", "--codec", "image-tiny", "--codec", "webp", "--points", "4", "--limit", "8", "--samples", "0")


def seconds(jobs: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", RUN, "eval", *WORK, "--jobs", str(jobs), "-o", folder]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start


if __name__ == "__main__":
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before")
    alone, shared = seconds(1), seconds(2)
    print(f"--jobs 1: {alone:.1f} s; --jobs 2: {shared:.1f} s; {alone / shared:.2f} times as fast")
