"""Folders of images: decoded once, cropped at random, damaged files skipped."""

from __future__ import annotations

import hashlib
import io
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neuralcodec.codecs.writing import whole_file, write_whole
from neuralcodec.datasets import folders
from neuralcodec.datasets.folders import kodak_folder, list_images, read_rgb, resolve_folder
from neuralcodec.datasets.images import ImageFolder, PackedImages, RandomCrops, augment, to_pixels, to_tensor


@pytest.fixture
def folder(tmp_path, picture) -> Path:
    root = tmp_path / "images"
    (root / "below").mkdir(parents=True)
    for seed, (height, width) in enumerate([(40, 60), (64, 32)]):
        Image.fromarray(to_pixels(picture(height, width, seed=seed))).save(root / "below" / f"{seed}.png")
    Image.fromarray(np.full((50, 50), 77, dtype=np.uint8)).save(root / "grey.PNG")
    (root / "notes.txt").write_text("not an image")
    return root


def test_images_are_packed_as_they_are(folder, tmp_path):
    packed = PackedImages([folder], tmp_path / "cache")
    files = list_images(folder)
    assert [file.name for file in files] == ["0.png", "1.png", "grey.PNG"]
    assert len(packed) == 3
    assert packed.skipped == 0
    for index, file in enumerate(files):
        assert np.array_equal(packed[index], read_rgb(file))


def test_a_damaged_image_is_skipped_with_a_warning_and_counted(folder, tmp_path):
    whole = (folder / "below" / "0.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("not an image")
    with pytest.warns(UserWarning, match="skipping .*half.png"):
        packed = PackedImages([folder], tmp_path / "cache")
    assert (len(packed), packed.skipped) == (3, 2)


def test_a_pack_is_used_again(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = PackedImages([folder], cache)
    before = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    monkeypatch.setattr("neuralcodec.datasets.images.read_rgb", lambda *_: pytest.fail("packed again"))
    again = PackedImages([folder], cache)
    assert np.array_equal(first.values, again.values)
    assert {path.name: path.stat().st_mtime_ns for path in cache.iterdir()} == before


def test_a_changed_folder_is_packed_anew(folder, tmp_path):
    assert len(PackedImages([folder], tmp_path / "cache")) == 3
    (folder / "grey.PNG").unlink()
    assert len(PackedImages([folder], tmp_path / "cache")) == 2


def test_an_interrupted_pack_is_not_taken_for_a_whole_one(folder, tmp_path):
    cache = tmp_path / "cache"
    PackedImages([folder], cache)
    next(cache.glob("*.json")).unlink()  # written last
    next(cache.glob("*.u8")).write_bytes(b"rest of a crash")
    assert np.array_equal(PackedImages([folder], cache)[0], read_rgb(list_images(folder)[0]))


def test_nothing_but_damaged_images_is_an_error(tmp_path):
    (tmp_path / "bad.png").write_text("no")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FileNotFoundError, match="could be decoded"):
            PackedImages([tmp_path], tmp_path / "cache")


def test_crops_come_from_their_images_and_repeat_by_seed(folder, tmp_path):
    packed = PackedImages([folder], tmp_path / "cache")
    batches = list(islice(RandomCrops(packed, 4, 20, (1.0, 1.5), seed=3), 6))
    again = list(islice(RandomCrops(packed, 4, 20, (1.0, 1.5), seed=3), 6))
    other_process = list(islice(RandomCrops(packed, 4, 20, (1.0, 1.5), seed=3, rank=1), 6))
    assert all(torch.equal(one, two) for one, two in zip(batches, again))
    assert not all(one.shape == two.shape and torch.equal(one, two) for one, two in zip(batches, other_process))
    assert {batch.shape[-1] for batch in batches} == {20, 30}
    for batch in batches:
        assert batch.shape == (4, 3, batch.shape[-1], batch.shape[-1])
        assert batch.dtype == torch.uint8
    grey = [crop for batch in batches for crop in batch if (crop == 77).all()]
    assert grey


def test_scales_beyond_every_image_are_dropped(folder, tmp_path):
    packed = PackedImages([folder], tmp_path / "cache")
    assert RandomCrops(packed, 1, 30, (1.0, 2.0)).sides == [30]
    with pytest.raises(ValueError, match="large enough"):
        RandomCrops(packed, 1, 51)


def test_augmentation_keeps_size_range_and_content():
    torch.manual_seed(0)
    crops = torch.randint(0, 256, (16, 3, 24, 24), dtype=torch.uint8)
    same = augment(crops, 24)
    assert torch.allclose(same.flatten(1).sort(1).values, (crops.float() / 255).flatten(1).sort(1).values)
    assert len({tuple(item[0, 0, :3].tolist()) for item in augment(crops[:1].expand(16, -1, -1, -1), 24)}) >= 3
    smaller = augment(crops, 16)
    assert smaller.shape == (16, 3, 16, 16)
    assert 0 <= smaller.min() <= smaller.max() <= 1


def test_pixels_survive_the_way_to_a_tensor_and_back():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert to_tensor(pixels).shape == (1, 3, 7, 5)
    assert np.array_equal(to_pixels(to_tensor(pixels)), pixels)
    assert to_pixels(torch.tensor([-0.5, 0.5, 2.0]).reshape(1, 3, 1, 1)).tolist() == [[[0, 128, 255]]]


def test_orientation_of_a_photograph_is_applied(tmp_path):
    image = Image.fromarray(np.zeros((20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_rgb(tmp_path / "turned.jpg").shape == (30, 20, 3)


def test_folders_are_found_below_the_data_folder(tmp_path, monkeypatch):
    (tmp_path / "train").mkdir()
    monkeypatch.setenv("NEURALCODEC_DATA", str(tmp_path))
    assert resolve_folder("train") == tmp_path / "train"
    monkeypatch.delenv("NEURALCODEC_DATA")
    with pytest.raises(FileNotFoundError, match="NEURALCODEC_DATA"):
        resolve_folder("no/such/folder")


def test_whole_images_come_with_their_names(folder):
    images = ImageFolder(folder, limit=2)
    assert len(images) == 2
    name, x = images[0]
    assert (name, x.shape) == ("0", (3, 40, 60))
    with pytest.raises(FileNotFoundError, match="no images"):
        ImageFolder(folder / "nothing")


def test_kodak_is_found_in_the_data_folder(data):
    images = ImageFolder(kodak_folder())
    assert len(images) == 24
    assert all(sorted(images[index][1].shape) == [3, 512, 768] for index in (0, 3, 23))
    assert data in kodak_folder().parents


def test_kodak_without_a_network_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("NEURALCODEC_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="NEURALCODEC_DATA"):
        kodak_folder(download=False)


def test_kodak_is_downloaded_whole_and_refused_where_its_address_has_other_pictures(tmp_path, monkeypatch, picture):
    monkeypatch.delenv("NEURALCODEC_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []

    def answer(address: str, timeout: float) -> io.BytesIO:
        asked.append(address)
        file = io.BytesIO()
        Image.fromarray(to_pixels(picture(8, 8, seed=len(asked) % 24))).save(file, "PNG")
        return io.BytesIO(file.getvalue())

    monkeypatch.setattr(folders.urllib.request, "urlopen", answer)
    with pytest.raises(FileNotFoundError, match="other pictures"):
        kodak_folder()
    assert len(asked) == 24 and not list(tmp_path.rglob("*.png"))
    hashes = [folders.sha256(to_pixels(picture(8, 8, seed=seed))) for seed in range(24)]
    monkeypatch.setattr(folders, "KODAK_SHA256", hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest())
    assert len(list_images(kodak_folder())) == 24 and len(asked) == 48
    assert kodak_folder(download=False) == tmp_path / "neuralcodec" / "kodak"


def test_a_file_that_cannot_be_finished_leaves_nothing_and_what_was_there(tmp_path):
    path = tmp_path / "below" / "a.txt"
    write_whole(path, "first")
    with pytest.raises(KeyError), whole_file(path) as file:
        file.write(b"second")
        raise KeyError
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]
    write_whole(path, b"third")
    assert path.read_text() == "third" and list(path.parent.iterdir()) == [path]
