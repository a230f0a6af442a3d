"""Clips without a fit: pictures from a memory, files that any machine parses, and their training."""

from __future__ import annotations

import copy
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from neuralcodec.cli import main
from neuralcodec.codecs import CONFIGS
from neuralcodec.codecs.base import CodecError, build, load_weights, save_weights
from neuralcodec.codecs.image.targets import Target
from neuralcodec.codecs.video import files, outputs
from neuralcodec.codecs.video.recurrent import CHROMA, LinearPlanes, RecurrentVideo
from neuralcodec.codecs.video.targets import encode_to_target
from neuralcodec.datasets.clips import PackedClips, RandomClips, moved, packed
from neuralcodec.datasets.images import PackedImages
from neuralcodec.datasets.video import Clip, read_clip
from neuralcodec.entropy import container
from neuralcodec.train import main as train
from neuralcodec.training.export import export

SMALL = {"latent": 48, "width": 12, "blocks": [1, 1, 1, 1], "hyper_channels": 6, "patterns": 8, "hyper_width": 16, "context_width": 8}
SPEC = {"class_path": "neuralcodec.codecs.video.recurrent.RecurrentVideo", "init_args": {**SMALL, "refresh": 12}}


def film(frames: int = 14, width: int = 90, height: int = 66) -> Clip:
    """Panning over a texture, with a piece of it in front."""
    random = np.random.default_rng(3)
    coarse = random.integers(0, 255, (9, 11, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC))
    planes = torch.from_numpy(moved(picture, frames, 96, random))
    header = files.Header(frames, height, width, Fraction(25), 8, "bt601", False)
    return files.unpack(planes[:, :, : height // 2, : width // 2].float() / 255, header)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return film()


@pytest.fixture(scope="module")
def codec(clip) -> RecurrentVideo:
    """With noise in all that starts at zero, so that every path counts."""
    torch.manual_seed(0)
    model = build(SPEC)
    assert isinstance(model, RecurrentVideo)
    x = files.pack(film(12, 64, 64))
    model.initialise(x.reshape(4, 3, 6, 32, 32))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("memory.", "trunks.", "heads.", "recall.", "context.")) and parameter.ndim > 1:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    model.eval().freeze()
    return model


@pytest.fixture(scope="module")
def coded(codec, clip) -> bytes:
    return files.encode_clip(codec, clip, 30)


def same(one: Clip, other: Clip) -> bool:
    return all(np.array_equal(a, b) for a, b in zip((one.y, one.u, one.v), (other.y, other.u, other.v), strict=True))


def test_a_file_gives_back_what_its_encoder_saw(codec, clip, coded):
    with torch.inference_mode():
        whole = codec(files.pack(clip)[:, :7], torch.tensor([30.0])).reconstruction[0]  # clips of 14 are two groups of 7
    decoded = files.decode_clip(coded, candidates=[codec])
    header = files.Header(7, clip.height, clip.width, clip.rate, 8, clip.matrix, clip.full_range)
    assert same(decoded.first(7), files.unpack(whole, header))
    assert (decoded.rate, decoded.matrix, len(decoded)) == (clip.rate, clip.matrix, len(clip))


def test_bits_of_a_forward_pass_are_those_of_the_file(codec, clip):
    x, level = files.pack(clip), torch.tensor([50.0])
    with torch.inference_mode():
        estimate = sum(float(bits) for part in x.split(7, 1) for bits in codec(part, level).bits.values())
    streams = codec.compress(x, 50.0).streams
    assert 8 * sum(map(len, streams)) == pytest.approx(estimate, rel=0.01, abs=64 * len(streams))


@pytest.mark.parametrize("frames", [(0, 1), (3, 5), (6, 8), (7, None), (13, 14)])
def test_a_part_is_that_part_of_the_whole(codec, coded, frames):
    whole, part = (files.decode_clip(coded, where, [codec]) for where in ((0, None), frames))
    assert np.array_equal(part.y, whole.y[frames[0] : frames[1]]) and np.array_equal(part.v, whole.v[frames[0] : frames[1]])


def test_symbols_do_not_depend_on_floating_point(codec, clip, coded):
    """A machine that rounds differently is one with slightly other weights in all that is not integer arithmetic."""
    content = container.read(coded)
    size = (len(clip), clip.height, clip.width)
    other = copy.deepcopy(codec)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if ".h_s." not in name or ".mean." in name:
                parameter.mul_(1 + 1e-4)
    for model in (codec, other):
        model.to(memory_format=torch.channels_last)
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            symbols = model.decompress(content.streams, size, content.level).symbols
        finally:
            torch.set_num_threads(threads)
        want = codec.compress(files.pack(clip), content.level).symbols
        assert symbols.keys() == want.keys() and all(torch.equal(symbols[name], want[name]) for name in want)


def test_the_linear_transform_of_planes_is_orthonormal_in_the_objective():
    torch.manual_seed(0)
    analysis, synthesis = LinearPlanes(384, 3), LinearPlanes(384, 3, inverse=True)
    x = torch.randn(2, 6, 32, 64)
    analysis.initialise(x)
    synthesis.invert(analysis)
    with torch.no_grad():
        y = analysis(x)
        assert torch.allclose(synthesis(y), x, atol=1e-4)
    energy = x[:, :4].square().sum() + (CHROMA * x[:, 4:]).square().sum()
    assert y.square().sum() == pytest.approx(float(energy), rel=1e-4)


@pytest.mark.parametrize(("width", "height", "frames", "bits"), [(1, 1, 1, 8), (33, 17, 2, 8), (64, 64, 13, 10)])
def test_any_size_and_number_of_pictures(codec, width, height, frames, bits):
    dtype = np.uint8 if bits == 8 else np.uint16
    shapes = [(frames, height, width), *[(frames, -(-height // 2), -(-width // 2))] * 2]
    ramps = (np.broadcast_to(np.linspace(0, 2**bits - 1, shape[-1]), shape).astype(dtype) for shape in shapes)
    original = Clip(*ramps, Fraction(30), bits)
    decoded = files.decode_clip(files.encode_clip(codec, original, 63), candidates=[codec])
    assert decoded.y.shape == original.y.shape and decoded.u.dtype == dtype
    assert np.abs(decoded.y.astype(float) - original.y).mean() < 0.1 * 2**bits


def test_damaged_streams_are_refused_or_decoded_to_something(codec, coded):
    content = container.read(coded)
    random = np.random.default_rng(0)
    for number in range(8):
        streams = list(content.streams)
        victim = number % len(streams)
        streams[victim] = random.bytes(int(random.integers(1, 60)) * 4)
        try:
            decoded = files.decode_clip(content._replace(streams=streams), candidates=[codec])
        except CodecError:
            continue
        assert decoded.y.shape == (14, 66, 90)
    with pytest.raises(CodecError, match="streams"):
        files.decode_clip(content._replace(streams=content.streams[:-1]), candidates=[codec])


@pytest.mark.parametrize(("kind", "value"), [("bpp", 0.6), ("max_bytes", 5000), ("psnr", 24.0)])
def test_sizes_and_qualities_that_are_asked_for_are_met(codec, clip, kind, value):
    hit = encode_to_target(codec, clip, Target(kind, value))
    assert hit.miss is None
    if kind == "psnr":
        assert hit.found.value == pytest.approx(value, abs=0.3)
    elif kind == "bpp":
        assert 8 * len(hit.data) / clip.y.size == pytest.approx(value, rel=0.03)
    else:
        assert value * 0.93 < len(hit.data) <= value


def test_weights_code_clips_from_the_command_line(codec, clip, tmp_path: Path, capsys):
    weights, source, file = tmp_path / "mine.safetensors", tmp_path / "in.y4m", tmp_path / "clip.ncv"
    save_weights(codec, weights)
    with source.open("wb") as out:
        outputs.write_clip(clip, out, ".y4m")
    assert main(["encode", str(source), "-o", str(file), "--model", str(weights), "-q", "50"]) == 0
    assert main(["decode", str(file), "-o", str(tmp_path / "out.y4m"), "--model", str(weights), "--frames", "2:9"]) == 0
    assert len(read_clip(tmp_path / "out.y4m")) == 7
    capsys.readouterr()
    assert main(["decode", str(file), "-o", str(tmp_path / "none.y4m")]) == 1
    assert "--model" in capsys.readouterr().err
    assert main(["encode", str(source), "-o", str(tmp_path / "b.ncv"), "--model", str(weights), "--max-time", "5"]) == 1
    assert "fits" in capsys.readouterr().err and not (tmp_path / "b.ncv").exists()
    assert main(["encode", str(source), "-o", str(tmp_path / "b.ncv"), "--model", "video/recurrent"]) == 1
    assert "needs weights" in capsys.readouterr().err


def test_a_config_trains_exports_and_codes(tmp_path: Path, monkeypatch, clip):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "film.y4m").open("wb") as out:
        outputs.write_clip(film(8, 96, 80), out, ".y4m")
    (tmp_path / "stills").mkdir()
    texture = np.random.default_rng(0).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(texture).resize((120, 100), Image.Resampling.BICUBIC).save(tmp_path / "stills" / "one.png")
    content = yaml.safe_load(CONFIGS["video/recurrent-nano"].read_text())
    content["model"]["codec"]["init_args"] = dict(SMALL)
    content["data"] = {
        "train": ["film.y4m"],
        "stills": ["stills"],
        "frames": 3,
        "size": 64,
        "batch_size": 2,
        "workers": 0,
        "validation_limit": 1,
    }
    content["model"]["closed_form_examples"] = 8
    content["trainer"] |= {
        "max_steps": 3,
        "val_check_interval": 3,
        "enable_progress_bar": False,
        "accelerator": "cpu",
        "log_every_n_steps": 1,
    }
    Path("mine.yaml").write_text(yaml.safe_dump(content))
    assert train(["fit", "--config", "mine.yaml"]) == 0
    (log,) = Path("runs").rglob("metrics.csv")
    assert {"bpp_first_y", "bpp_z", "psnr_gain", "val_loss"} <= set(log.read_text().splitlines()[0].split(","))
    plain = export("runs/checkpoints/last.ckpt", "out.safetensors")
    assert export("runs/checkpoints/last.ckpt", "out.safetensors", calibrate="film.y4m") != plain
    model = load_weights("out.safetensors")
    assert isinstance(model, RecurrentVideo)
    assert files.decode_clip(files.encode_clip(model, clip.first(2), 40), candidates=[model]).y.shape == (2, 66, 90)
    content["data"] |= {"train": None, "stills": None}
    Path("mine.yaml").write_text(yaml.safe_dump(content))
    assert train(["fit", "--config", "mine.yaml"]) == 1


def test_planes_are_packed_as_codecs_take_them(clip):
    x = packed(clip.y, clip.u, clip.v)
    assert np.array_equal(np.round(files.pack(clip)[0].numpy() * 255).astype(np.uint8), x)


def test_pieces_of_clips_are_pieces_of_clips(tmp_path: Path, clip, monkeypatch):
    with (tmp_path / "film.y4m").open("wb") as out:
        outputs.write_clip(clip, out, ".y4m")
    clips = PackedClips([tmp_path / "film.y4m"], tmp_path / "cache")
    batch = next(iter(RandomClips(clips, None, 3, 4, 32)))
    assert batch.shape == (3, 4, 6, 16, 16) and batch.dtype == torch.uint8
    histogram = np.bincount(clips[0].reshape(-1), minlength=256) > 0
    assert histogram[batch.numpy().reshape(-1)].all()
    assert torch.equal(batch, next(iter(RandomClips(clips, None, 3, 4, 32))))  # the seed says which
    with pytest.raises(ValueError, match="no clip has"):
        RandomClips(clips, None, 1, 40, 32)


def test_pictures_that_are_made_to_move_do(tmp_path: Path):
    random = np.random.default_rng(0)
    texture = np.asarray(Image.fromarray(random.integers(0, 255, (24, 24, 3), dtype=np.uint8)).resize((128, 128), Image.Resampling.BICUBIC))
    changes = []
    for _ in range(12):
        x = moved(texture, 3, 48, random)
        assert x.shape == (3, 6, 24, 24)
        changes.append(np.abs(x[1].astype(float) - x[0]).mean())
    assert np.median(changes) > 1 and max(changes) < 60
    Image.fromarray(texture).save(tmp_path / "still.png")
    batch = next(iter(RandomClips(None, PackedImages([tmp_path], tmp_path / "cache"), 2, 3, 48)))
    assert batch.shape == (2, 3, 6, 24, 24)
