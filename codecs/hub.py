"""Weights on the Hugging Face Hub: ``--model hub:owner/name`` wherever a model is named.

A repository holds one weights file as :func:`~neuralcodec.codecs.base.save_weights` writes it, ``model.safetensors`` unless said otherwise,
and its card. Needs the package ``huggingface_hub``; what was downloaded once is found again without a network.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from neuralcodec.codecs.base import Codec, CodecError, first_line, load_weights

FILE = "model.safetensors"


def load(place: str) -> Codec:
    """A codec from ``owner/name``, ``owner/name@revision`` or ``owner/name/file.safetensors``.

    Raises:
        CodecError: the package is missing, or there is no such file, or it cannot be had.
    """
    _require_package()
    from huggingface_hub import hf_hub_download

    place, _, revision = place.partition("@")
    parts = place.split("/", 2)
    if len(parts) < 2:
        raise CodecError(f"a place on the Hub is owner/name, not {place!r}")
    try:
        path = hf_hub_download("/".join(parts[:2]), parts[2] if len(parts) > 2 else FILE, revision=revision or None)
    except Exception as error:  # of the network, of the Hub, of a bad name
        raise CodecError(f"{place} cannot be had from the Hub: {first_line(error)}") from None
    codec = load_weights(path)
    codec.name = parts[1]
    return codec


def push(weights: str | Path, repository: str, card: str | Path | None = None, private: bool = False) -> str:
    """Upload a weights file, and its card as README.md; needs ``hf auth login``.

    Args:
        repository: ``owner/name``; made if it does not exist.

    Returns:
        The address of the repository.

    Raises:
        CodecError: not a weights file, the package is missing, or the Hub refuses.
    """
    _require_package()
    from huggingface_hub import HfApi

    load_weights(weights)  # refuses what nobody could load
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_file(path_or_fileobj=str(weights), path_in_repo=FILE, repo_id=repository)
        if card:
            api.upload_file(path_or_fileobj=str(card), path_in_repo="README.md", repo_id=repository)
    except Exception as error:  # as above
        raise CodecError(f"the Hub did not take {weights}: {first_line(error)}") from None
    return str(address)


def _require_package() -> None:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise CodecError("the Hub needs the package huggingface_hub: pip install 'neuralcodec[hub]'")
