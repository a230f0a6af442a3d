"""Spectrograms of a sound and of what a model makes of it at several rates: ``python benchmarks/spectrograms.py SOUND -o OUT.png``."""

from __future__ import annotations

import argparse
import math

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from neuralcodec.codecs.audio.files import decode_sound
from neuralcodec.codecs.audio.targets import level_of_rate
from neuralcodec.codecs.files import load
from neuralcodec.datasets.audio import Sound, read_sound

WINDOW, HOP = 512, 128  # samples
RANGE = 80  # dB below the loudest bin of the original


def decibels(sound: Sound) -> np.ndarray:
    """(bins, frames), of the first channel."""
    frames = np.lib.stride_tricks.sliding_window_view(sound.samples[0], WINDOW)[::HOP] * np.hanning(WINDOW)
    return 20 * np.log10(np.abs(np.fft.rfft(frames)).T + 1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sound")
    parser.add_argument("-m", "--model", default="speech-16k")
    parser.add_argument("--kbps", type=float, nargs="+", default=[1.5, 3, 6])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("-o", "--output", default="spectrograms.png")
    options = parser.parse_args()

    codec = load(options.model)
    sound = read_sound(options.sound)
    sound = Sound(sound.samples[:, : round(options.seconds * sound.rate)], sound.rate)
    shown = [("original", sound)]
    for kbps in options.kbps:
        found = level_of_rate(codec, sound, kbps)
        shown.append((f"{math.exp(found.value):.2f} kbit/s", decode_sound(codec, found.payload).sound))
        print(f"{kbps:g} kbit/s asked for: level {found.level:g}, {math.exp(found.value):.3f} kbit/s in {found.trials} trials")

    top = decibels(sound).max()
    figure, axes = plt.subplots(len(shown), 1, figsize=(10, 2.2 * len(shown)), sharex=True, constrained_layout=True)
    for axis, (title, one) in zip(np.atleast_1d(axes), shown):
        extent = (0, one.seconds, 0, one.rate / 2000)
        picture = axis.imshow(
            decibels(one), origin="lower", aspect="auto", extent=extent, vmin=top - RANGE, vmax=top, cmap="magma", interpolation="nearest"
        )
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_ylabel("kHz")
    axes[-1].set_xlabel("seconds")
    figure.colorbar(picture, ax=axes, label="dB", shrink=0.6)
    figure.savefig(options.output, dpi=80)


if __name__ == "__main__":
    main()
