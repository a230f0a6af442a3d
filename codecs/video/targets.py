"""Clips of a size or a quality that is asked for.

Of a codec that fits, the level is found by short fits, each of which starts from the one before; then a long fit starts from the last of
them, and a few short ones correct the rest. Other codecs are asked level by level, as those of pictures are.
"""

from __future__ import annotations

import math
from functools import partial

from neuralcodec.codecs.base import CodecError
from neuralcodec.codecs.image.targets import Hit, Target, checked
from neuralcodec.codecs.rate import QUALITY_TOLERANCE, RATE_TOLERANCE, Trial, find_level
from neuralcodec.codecs.video.files import decode_clip, encode_clip
from neuralcodec.codecs.video.fit import Plan, Report, nothing
from neuralcodec.codecs.video.fitted import FittedVideo, Known
from neuralcodec.codecs.video.groups import VideoCodec
from neuralcodec.codecs.video.soundtrack import Soundtrack
from neuralcodec.datasets.video import Clip

SHORT, CORRECTING = 1 / 10, 1 / 5  # shares of the plan of fits that search, and of those that correct
NEAR = {"bpp": 0.04, "max_bytes": 0.04, "psnr": 0.15}  # of short fits: of the logarithm of a rate, or dB
CLOSE = {"bpp": 0.02, "max_bytes": 0.015, "psnr": 0.05}  # of the file
CORRECTIONS = 4
# What is typical, which decides the number of trials only: at λ = 1, and per nat of λ.
LOG_BPP, LOG_BPP_PER_NAT = 0.7, 0.62
PSNR, PSNR_PER_NAT = 50.0, 2.6


def encode_to_target(
    codec: VideoCodec, clip: Clip, target: Target, plan: Plan | None = None, report: Report = nothing, sound: Soundtrack | None = None
) -> Hit:
    """The file of a clip that comes closest to a target, or one that does not exceed it.

    Args:
        target: ``bpp``, ``max_bytes`` or ``psnr``, the last of 6:1:1 on the planes.
        sound: as in :func:`~neuralcodec.codecs.video.files.encode_clip`; its bytes count.

    Raises:
        CodecError: a target that makes no sense for a clip, or that no file meets.
    """
    if target.kind not in NEAR:
        raise CodecError("--ms-ssim is for pictures, not for clips")
    if not (math.isfinite(target.value) and target.value > 0):
        raise CodecError(f"--{target.kind.replace('_', '-')} must be a positive number, not {target.value:g}")
    known = Known()
    rate = target.kind != "psnr"
    aim = target.value if not rate else math.log(target.value * (clip.y.size / 8 if target.kind == "bpp" else 1))

    def attempt(level: float, share: float, what: str) -> Trial[bytes]:
        data = encode_clip(codec, clip, level, plan and _part(plan, share), partial(_told, report, what), known=known, sound=sound)
        return Trial(math.log(len(data)) if rate else _psnr(clip, decode_clip(data, candidates=[codec])), data)

    low, high = codec.lmbda_range
    nats = math.log(high / low) or 1.0
    offset, per_nat = (LOG_BPP + math.log(clip.y.size / 8), LOG_BPP_PER_NAT) if rate else (PSNR, PSNR_PER_NAT)
    slope = typical = per_nat * nats / max(codec.levels - 1, 1)
    guess = ((aim - offset) / per_nat - math.log(low)) / nats * (codec.levels - 1)
    if not isinstance(codec, FittedVideo):
        tolerance, ceiling = RATE_TOLERANCE if rate else QUALITY_TOLERANCE, target.kind == "max_bytes"
        trials = partial(attempt, share=1.0, what="looking for the level")
        return checked(target, find_level(trials, aim, codec.levels, guess, slope, tolerance, ceiling), clip.y.size)
    plan = plan or codec.plan
    found = find_level(partial(attempt, share=SHORT, what="looking for the level"), aim, codec.levels, guess, slope, NEAR[target.kind])
    if found.bound:
        trial = attempt(found.level, 1.0, "")
        return checked(target, found._replace(value=trial.value, payload=trial.payload), clip.y.size)
    level, best, before = found.level, None, None
    margin = CLOSE[target.kind] if target.kind == "max_bytes" else 0.0
    for correction in range(1 + CORRECTIONS):
        trial = attempt(level, CORRECTING if correction else 1.0, "correcting" if correction else "")
        miss = trial.value - (aim - margin)
        allowed = target.kind != "max_bytes" or trial.value <= aim
        if not allowed:
            margin *= 2  # fits of small clips jump about: aim lower
        if allowed and (best is None or abs(miss) < abs(best.value - (aim - margin))):
            best = found._replace(level=level, value=trial.value, payload=trial.payload, trials=found.trials + correction + 1)
        if allowed and abs(miss) <= CLOSE[target.kind]:
            break
        if before is not None and level != before[0]:  # what a level does to a fit that is nearly done
            seen = (trial.value - before[1]) / (level - before[0])
            slope = min(max(seen, typical / 4), 2 * typical)
        before = (level, trial.value)
        moved = codec.nearest_level(min(max(level - miss / slope, 0), codec.levels - 1))
        level = moved if moved != level else codec.nearest_level(min(max(level - math.copysign(0.25, miss), 0), codec.levels - 1))
    if best is None:
        raise CodecError(f"no file of at most {target.value:g} bytes was found in {1 + CORRECTIONS} fits")
    return checked(target, best, clip.y.size)


def _part(plan: Plan, share: float) -> Plan:
    if plan.seconds is not None:
        return plan._replace(seconds=plan.seconds * share)
    return plan._replace(steps=max(1, round(plan.steps * share)) if plan.steps else 0)


def _told(report: Report, what: str, done: int, of: int, state: str) -> None:
    report(done, of, f"{what}: {state}" if what else state)


def _psnr(clip: Clip, decoded: Clip) -> float:
    from neuralcodec.eval.metrics.video import quality

    return quality(clip, decoded)["psnr_yuv611"]


__all__ = ["encode_to_target"]
