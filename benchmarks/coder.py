"""Encode and decode 300,000 symbols over 64 Gaussian tables: ours against CompressAI's rANS. Run: ``python benchmarks/coder.py``.

Both start from arrays of symbols and of table indexes and end at bytes, and back. So sorting and escapes are in our time, and in
CompressAI's what ``GaussianConditional.compress`` and ``decompress`` do around the coder: lists of Python integers made from tensors, and
the bytes of one item back into a tensor. "With indexes" also counts turning real-valued scales into table indexes, which is a part of every
CompressAI model's coding; here the codec's integer layers give indexes at once.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from compressai.entropy_models import GaussianConditional as TheirGaussianConditional
from timing import interleaved, table

from neuralcodec.entropy import rans
from neuralcodec.entropy.models import SCALE_MAX, SCALE_MIN, SCALES, GaussianConditional


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--symbols", type=int, default=300_000)
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()

    random = np.random.default_rng(0)
    # Most latents of a picture are nearly silent: indexes fall off from 0, all 64 occur.
    indexes = np.minimum(random.exponential(14, options.symbols), SCALES - 1).astype(np.uint8)
    scales = SCALE_MIN * np.exp(np.arange(SCALES) / (SCALES - 1) * np.log(SCALE_MAX / SCALE_MIN))
    symbols = np.round(random.normal(size=options.symbols) * scales[indexes]).astype(np.int32)
    symbols[random.choice(options.symbols, 30, replace=False)] += 5000  # escapes

    ours = GaussianConditional()
    ours.build_tables()
    theirs = TheirGaussianConditional(None)
    theirs.update_scale_table(torch.from_numpy(scales).float().tolist())
    symbols_tensor = torch.from_numpy(symbols).float().reshape(1, 1, 1, -1)
    indexes_tensor = torch.from_numpy(indexes.astype(np.int32)).reshape(1, 1, 1, -1)
    # Just below each table's scale, as "the first entry that is not smaller" picks the index.
    scales_tensor = torch.from_numpy(scales[indexes] * 0.999).float().reshape(1, 1, 1, -1)
    assert torch.equal(theirs.build_indexes(scales_tensor), indexes_tensor)

    our_bytes = rans.encode(symbols, indexes, ours.tables)
    their_bytes = theirs.compress(symbols_tensor, indexes_tensor)
    assert np.array_equal(rans.decode(our_bytes, indexes, ours.tables), symbols)
    assert torch.equal(theirs.decompress(their_bytes, indexes_tensor), symbols_tensor)

    seconds = interleaved(
        {
            "ours encode": lambda: rans.encode(symbols, indexes, ours.tables),
            "theirs encode": lambda: theirs.compress(symbols_tensor, indexes_tensor),
            "theirs encode with indexes": lambda: theirs.compress(symbols_tensor, theirs.build_indexes(scales_tensor)),
            "ours decode": lambda: rans.decode(our_bytes, indexes, ours.tables),
            "theirs decode": lambda: theirs.decompress(their_bytes, indexes_tensor),
            "theirs decode with indexes": lambda: theirs.decompress(their_bytes, theirs.build_indexes(scales_tensor)),
        },
        options.repetitions,
    )
    rows = [("", "ours ms", "CompressAI ms", "ratio", "with indexes ms", "ratio")]
    for task in ("encode", "decode"):
        our, their, both = (1e3 * seconds[who] for who in (f"ours {task}", f"theirs {task}", f"theirs {task} with indexes"))
        rows.append((task, f"{our:.1f}", f"{their:.1f}", f"{their / our:.1f}×", f"{both:.1f}", f"{both / our:.1f}×"))
    print(f"{options.symbols} symbols, {SCALES} tables, {options.repetitions} interleaved repetitions, medians")
    print(table(rows))
    print(f"bytes: ours {len(our_bytes)}, CompressAI {len(their_bytes[0])}")


if __name__ == "__main__":
    main()
