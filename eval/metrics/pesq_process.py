"""PESQ in a process of its own, which may die alone.

The C code behind the package ``pesq`` has room for 50 utterances and writes beyond it where a long sound has more, mostly ending the
process. A sound with which that happens has no score. Started as a program, this module is that process: it reads pairs of sounds from
its standard input and writes scores to its standard output, until the former ends. It imports no more than the package.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from typing import IO

import numpy as np

from neuralcodec.codecs.errors import CodecError

RATE = 16000  # Hz: wideband
LENGTH = struct.Struct("<Q")  # samples of each of the two sounds that follow, float32
SCORE = struct.Struct("<d")  # not a number: there is none
READY = b"\n"


class PesqProcess:
    """Starts with the first pair, and again with the first one after its end."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def score(self, x: np.ndarray, x_hat: np.ndarray) -> float | None:
        """Wideband PESQ of two sounds, (n,) float32 at 16 kHz; none where it finds no utterance, too few samples, or its end.

        Raises:
            CodecError: the process does not start.
        """
        process = self._running()
        assert process.stdin and process.stdout
        try:
            process.stdin.write(LENGTH.pack(len(x)) + x.astype("<f4").tobytes() + x_hat.astype("<f4").tobytes())
            process.stdin.flush()
            answer = process.stdout.read(SCORE.size)
        except BrokenPipeError:
            answer = b""
        if len(answer) < SCORE.size:
            self.end()
            return None
        score = SCORE.unpack(answer)[0]
        return score if np.isfinite(score) else None

    def end(self) -> None:
        """Wait for the process to be gone, without asking it."""
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            command = [sys.executable, "-m", __name__]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            assert self.process.stdout
            if self.process.stdout.read(len(READY)) != READY:
                self.end()
                raise CodecError("the process that computes PESQ does not start")
        return self.process


def main(source: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the source ends."""
    from pesq import PesqError, pesq

    answers.write(READY)
    answers.flush()
    while len(head := source.read(LENGTH.size)) == LENGTH.size:
        (count,) = LENGTH.unpack(head)
        x, x_hat = (np.frombuffer(source.read(4 * count), "<f4") for _ in range(2))
        try:
            score = float(pesq(RATE, x, x_hat, "wb"))
        except PesqError:
            score = float("nan")
        answers.write(SCORE.pack(score))
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks, whose end this one notices
    own = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that the package prints may stand between the scores
    main(sys.stdin.buffer, own)
