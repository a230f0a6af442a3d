"""Weights on the Hugging Face Hub: loaded by name, uploaded with their card, refused in one line. No network is used."""

from __future__ import annotations

import pytest

from neuralcodec.codecs import hub
from neuralcodec.codecs.base import CodecError
from neuralcodec.codecs.files import load

huggingface_hub = pytest.importorskip("huggingface_hub")


def test_a_model_on_the_hub_is_one_like_any_other(weights, monkeypatch):
    asked = []

    def download(repository, filename, revision=None):
        asked.append((repository, filename, revision))
        return str(weights("mean-scale"))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    codec = load("hub:someone/their-codec@v2")
    assert asked == [("someone/their-codec", "model.safetensors", "v2")]
    assert codec.name == "their-codec" and codec.fingerprint == load(weights("mean-scale")).fingerprint
    hub.load("someone/their-codec/small/best.safetensors")
    assert asked[1] == ("someone/their-codec", "small/best.safetensors", None)


def test_what_the_hub_does_not_have_is_one_clear_line(monkeypatch):
    def download(*_, **__):
        raise OSError("404 not found\nwith details")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(CodecError, match=r"cannot be had from the Hub: 404 not found$"):
        hub.load("someone/nothing")
    with pytest.raises(CodecError, match="owner/name"):
        hub.load("nothing")


def test_weights_are_uploaded_with_their_card(weights, monkeypatch, tmp_path):
    done = []

    class Api:
        def create_repo(self, repository, private, exist_ok):
            return f"https://huggingface.co/{repository}"

        def upload_file(self, path_or_fileobj, path_in_repo, repo_id):
            done.append((path_or_fileobj, path_in_repo, repo_id))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    card = tmp_path / "card.md"
    card.write_text("a card")
    assert hub.push(weights("mean-scale"), "me/mine", card) == "https://huggingface.co/me/mine"
    assert done == [(str(weights("mean-scale")), "model.safetensors", "me/mine"), (str(card), "README.md", "me/mine")]
    with pytest.raises(CodecError, match="readable weights file"):
        hub.push(card, "me/mine")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CodecError, match=r"neuralcodec\[hub\]"):
        hub.load("someone/codec")
