"""Codecs that are fitted to each signal and come without weights: a config is all there is, and a file of any other carries its spec."""

from __future__ import annotations

import copy
import json
import zlib
from pathlib import Path

import yaml

from neuralcodec.codecs import CONFIGS, FITTED, OVERFITTED
from neuralcodec.codecs.base import Codec, CodecError, build, fingerprint
from neuralcodec.entropy import container

MAX_SPEC = 2**16  # bytes of a spec's text


def load(name: str | Path) -> Codec:
    """A codec by the name of a shipped config or from a config's path.

    Raises:
        CodecError: no such thing.
    """
    path = CONFIGS.get(str(name)) or Path(name)
    try:
        spec = yaml.safe_load(path.read_text())["model"]["codec"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError):
        raise CodecError(f"there is no model {str(name)!r}: not a config with a codec") from None
    return from_spec(spec, str(name))


def from_spec(spec: dict, name: str | None = None) -> Codec:
    """A codec whose files name it by its spec alone.

    Raises:
        CodecError: not a spec of a codec that is fitted to signals.
    """
    codec = build(spec)
    if not codec.fits:
        raise CodecError(f"{name or 'the spec'} is not of a codec that is fitted to signals: it needs weights, which training makes")
    codec.fingerprint = fingerprint(json.dumps(codec.spec, sort_keys=True), {})
    codec.name = name
    return codec


def shipped() -> dict[bytes, str]:
    """Names of the shipped configs of such codecs, by fingerprint."""
    found: dict[bytes, str] = {}
    for name, path in CONFIGS.items():
        if FITTED in (text := path.read_text()):
            found[fingerprint(json.dumps(yaml.safe_load(text)["model"]["codec"], sort_keys=True), {})] = name
    return found


def spec_extra(codec: Codec) -> dict[str, bytes]:
    """What a file has to say of the codec that wrote it, if a decoder may not know it."""
    if not codec.fits or codec.metadata or codec.fingerprint in shipped():
        return {}
    return {"spec": zlib.compress(json.dumps(codec.spec, sort_keys=True, separators=(",", ":")).encode(), 9)}


def codec_of(content: container.Content) -> Codec | None:
    """The codec of a file, if it is a shipped config's or the file's own spec says what it is.

    Raises:
        CodecError: a spec that is damaged.
    """
    if "spec" not in content.extras:
        name = shipped().get(content.fingerprint)
        return None if name is None else load(name)
    inflate = zlib.decompressobj()
    try:
        codec = from_spec(json.loads(inflate.decompress(content.extras["spec"], MAX_SPEC)))
    except (zlib.error, ValueError, RecursionError):
        raise CodecError("the file's spec is damaged") from None
    if codec.fingerprint != content.fingerprint:
        raise CodecError("the file's spec is not that of the codec which wrote it")
    return codec


def timed(rest: str) -> Codec:
    """A codec by ``SECONDS:NAME``: one whose fits, of a picture or of each group of pictures of a clip, take so long.

    Raises:
        CodecError: no number, or not such a codec.
    """
    from neuralcodec.codecs.files import load as load_any

    number, _, name = rest.partition(":")
    codec = copy.deepcopy(load_any(name or OVERFITTED))
    if not codec.fits:
        raise CodecError(f"{name} is not fitted to signals")
    try:
        codec.fit_for(float(number))
    except ValueError:
        raise CodecError(f"{number!r} are no seconds: what is measured is named fitted:SECONDS:MODEL") from None
    codec.name = f"{codec.name} {number} s"
    return codec


__all__ = ["codec_of", "from_spec", "load", "shipped", "spec_extra", "timed"]
