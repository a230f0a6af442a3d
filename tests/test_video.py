"""Reading video: planes come in as they are, names say what raw files do not, and what is no clip is refused in one line."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from neuralcodec.datasets import audio, colour, video


def write_y4m(clip: video.Clip, path, colour_space: str) -> None:
    header = f"YUV4MPEG2 W{clip.width} H{clip.height} F{clip.rate.numerator}:{clip.rate.denominator} Ip C{colour_space}\n"
    frames = (b"FRAME\n" + b"".join(plane.tobytes() for plane in clip.frame(t)) for t in range(len(clip)))
    path.write_bytes(header.encode() + b"".join(frames))


def assert_same(clip: video.Clip, other: video.Clip) -> None:
    for name in "yuv":
        assert np.array_equal(getattr(clip, name), getattr(other, name))
    assert (clip.bits, clip.matrix, clip.full_range) == (other.bits, other.matrix, other.full_range)


@pytest.mark.parametrize("height, width", [(48, 64), (47, 63), (11, 10)])
@pytest.mark.parametrize("bits, name", [(8, "wave_{}x{}_25fps_420_8bit_YUV.yuv"), (10, "wave_{}x{}_25fps_420_10bit_YUV.yuv")])
def test_raw_files_are_read_as_their_names_say(height, width, bits, name, tmp_path, moving):
    clip = moving(height=height, width=width, bits=bits)
    path = tmp_path / name.format(width, height)
    video.write_raw(clip, path)
    read = video.read_clip(path)
    assert_same(read, clip)
    assert read.rate == 25 and read.sha256() == clip.sha256()
    assert_same(video.read_clip(path, frames=2), clip.first(2))


def test_raw_files_are_mapped_not_read(tmp_path):
    path = tmp_path / "empty_1920x1080_120fps.yuv"
    with path.open("wb") as file:
        file.truncate(1920 * 1080 * 3 // 2 * 600)  # 1.9 GB that occupy no disk
    clip = video.read_clip(path)
    assert clip.y.shape == (600, 1080, 1920) and clip.u.shape == (600, 540, 960)
    assert not clip.y.flags.owndata and clip.y[599].max() == 0


@pytest.mark.parametrize(
    "name, expected",
    [
        ("Beauty_1920x1080_120fps_420_8bit_YUV.yuv", ((1920, 1080), 8, "420", 120)),
        ("Beauty_3840x2160_120fps_420_10bit_YUV.yuv", ((3840, 2160), 10, "420", 120)),
        ("CiscoVT2people_320x192_12fps.yuv", ((320, 192), None, None, 12)),
        ("BasketballDrill_832x480_50.yuv", ((832, 480), None, None, 50)),
        ("C-RaceHorses_832x480_30p_yuv420_8b.yuv", ((832, 480), 8, "420", 30)),
        ("sparks_ref_480x270.yuv42010le.yuv", ((480, 270), 10, "420", None)),
        ("a_1280x720_59.94fps_yuv420p10le.yuv", ((1280, 720), 10, "420", Fraction("59.94"))),
        ("b_1920x1080_420_8bit.yuv", ((1920, 1080), 8, "420", None)),
        ("foreman.yuv", (None, None, None, None)),
    ],
)
def test_names_of_raw_files_are_understood(name, expected):
    assert video.name_says(name) == expected


@pytest.mark.parametrize("name", ["a_64x48_25fps_yuv444p.yuv", "a_64x48_25fps_422_10bit.yuv", "a_64x48_25fps_420_12bit.yuv"])
def test_other_formats_are_refused_by_name(name, tmp_path):
    (tmp_path / name).write_bytes(bytes(4608))
    with pytest.raises(ValueError, match="4:2:0 at 8 or 10 bits"):
        video.read_clip(tmp_path / name)
    assert len(video.read_clip(tmp_path / name, pixel_format="yuv420p")) == 1  # whoever says so knows better


def test_what_a_name_does_not_say_can_be_given(tmp_path, moving):
    clip = moving(2, 48, 64, bits=10)
    path = tmp_path / "wave.yuv"
    video.write_raw(clip, path)
    read = video.read_clip(path, size=(64, 48), pixel_format="yuv420p10le", rate=Fraction(25))
    assert_same(read, clip)
    assert video.read_clip(path, size=(64, 48), pixel_format="yuv420p10le", rate=Fraction(25), matrix="bt709").matrix == "bt709"


@pytest.mark.parametrize(
    "name, content, options, words",
    [
        ("a_64x48_25fps.yuv", bytes(4609), {}, "4609 bytes are not a whole number of frames of 64×48 at 8 bits, 4608 bytes each"),
        ("a_64x48_25fps.yuv", b"", {}, "is empty"),
        ("a_9999x9999_25fps.yuv", bytes(100), {}, "not a whole number"),
        ("a_25fps.yuv", bytes(4608), {}, "--video-size"),
        ("a_64x48.yuv", bytes(4608), {}, "--fps"),
        ("a_64x48_25fps.yuv", bytes(4608), {"pixel_format": "rgb24"}, "pixel format"),
        ("a_64x48_25fps.yuv", bytes(4608), {"matrix": "xyz"}, "matrix"),
        ("a_64x48_25fps.yuv", bytes(4608), {"crop": (66, 48)}, "66×48 cannot be cut out of 64×48"),
        ("a_64x48_25fps.yuv", bytes(4608), {"frames": 0}, "at least one frame"),
        ("a.mp4", b"no video at all", {}, "cannot be decoded"),
        ("a.mp4", b"", {}, "cannot be decoded"),
        ("a.y4m", b"YUV4MPEG2 W64 H48 F25:1 Ip C420jpeg\n", {}, "no frames"),
        ("a.y4m", b"YUV4MPEG2 W64 H48 F25:1 Ip C444\nFRAME\n" + bytes(64 * 48 * 3), {}, "yuv444p"),
        ("a.y4m", b"YUV4MPEG2 W100000 H100000 F25:1 Ip C420jpeg\nFRAME\n" + bytes(100), {}, "a.y4m"),
    ],
)
def test_what_is_no_clip_is_refused_in_one_line(name, content, options, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        video.read_clip(tmp_path / name, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind, encoder", [("mkv", "ffv1"), ("mp4", "libx264"), ("ivf", "libvpx-vp9"), ("hevc", "libx265")])
def test_damaged_files_are_read_or_refused_in_one_line(kind, encoder, moving, tmp_path):
    clip, path = moving(3), tmp_path / f"wave.{kind}"
    with av.open(str(path), "w") as file:
        stream = file.add_stream(encoder, rate=25, options={"x265-params": "log-level=none"} if encoder == "libx265" else {})
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        for frame in video.to_frames(clip):
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    whole, random, refused = path.read_bytes(), np.random.default_rng(0), 0
    for attempt in range(40):
        damaged = bytearray(whole[: random.integers(len(whole))] if attempt % 2 else whole)
        for place in random.integers(0, max(1, len(damaged)), 8):
            damaged[place : place + 1] = bytes([random.integers(256)])
        path.write_bytes(damaged)
        try:
            assert len(video.read_clip(path, frames=10)) <= 10
        except ValueError as error:
            assert path.name in str(error) and "\n" not in str(error)
            refused += 1
    assert 0 < refused <= 40


@pytest.mark.parametrize("name", ["list.mp4", "list.mkv", "list.wav", "list.m4a"])
def test_a_playlist_under_a_media_name_opens_no_other_file(name, tmp_path, moving):
    other = tmp_path / ("other.wav" if name.endswith(("wav", "m4a")) else "other.y4m")
    if other.suffix == ".wav":
        soundfile.write(other, np.random.default_rng(0).normal(0, 0.1, 4000), 16000)
    else:
        write_y4m(moving(2), other, "420mpeg2")
    text = f"ffconcat version 1.0\nfile {other.name}\n"
    (tmp_path / name).write_text(text)
    with av.open(str(tmp_path / name)) as file:
        assert file.format.name == "concat" and next(file.decode()), "FFmpeg by itself does follow it"
    read = audio.read_sound if other.suffix == ".wav" else video.read_clip
    for content in (text, f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/{other.name}\n#EXT-X-ENDLIST\n"):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError) as error:
            read(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("tag, known", [(2, True), (5, True), (8, False), (7, False)], ids=["none", "BT.470", "YCgCo", "SMPTE 240M"])
def test_clips_of_an_unknown_matrix_are_refused_unless_one_is_named(tag, known, moving):
    def tagged():
        for frame in video.to_frames(moving(2)):
            frame.colorspace = tag
            yield frame

    if known:
        assert video.from_frames(tagged(), Fraction(25)).matrix == "bt601"
    else:
        with pytest.raises(ValueError, match=f"{tag} in H.273's table"):
            video.from_frames(tagged(), Fraction(25))
        assert video.from_frames(tagged(), Fraction(25), "bt709").matrix == "bt709"


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        video.read_clip(tmp_path / "none.mp4")
    with pytest.raises(FileNotFoundError, match="none"):
        video.find_clips(tmp_path / "none")


@pytest.mark.parametrize("bits, colour_space", [(8, "420mpeg2"), (10, "420p10")])
@pytest.mark.parametrize("height, width", [(48, 64), (47, 63)])
def test_y4m_is_read(bits, colour_space, height, width, tmp_path, moving):
    clip = moving(height=height, width=width, bits=bits)
    write_y4m(clip, tmp_path / "wave.y4m", colour_space)
    read = video.read_clip(tmp_path / "wave.y4m")
    assert_same(read, clip)
    assert read.rate == 25
    assert len(video.read_clip(tmp_path / "wave.y4m", frames=3)) == 3


@pytest.mark.parametrize("matrix, full_range", [("bt709", False), ("bt601", True)])
def test_video_files_are_read_with_their_tags(matrix, full_range, tmp_path, moving):
    clip = replace(moving(), matrix=matrix, full_range=full_range)
    with av.open(str(tmp_path / "wave.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        stream.codec_context.colorspace = colour.H273[matrix]
        stream.codec_context.color_range = 2 if full_range else 1
        for frame in video.to_frames(clip):
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert_same(video.read_clip(tmp_path / "wave.mkv"), clip)


def test_large_clips_go_to_a_file_and_read_the_same(tmp_path, monkeypatch, moving):
    clip = moving(20, 48, 64)
    write_y4m(clip, tmp_path / "wave.y4m", "420mpeg2")
    monkeypatch.setattr(video, "IN_MEMORY", 1000)
    assert_same(video.read_clip(tmp_path / "wave.y4m"), clip)
    monkeypatch.setattr(video, "MAX_BYTES", 10000)
    with pytest.raises(ValueError, match="read fewer frames"):
        video.read_clip(tmp_path / "wave.y4m")
    assert len(video.read_clip(tmp_path / "wave.y4m", frames=2)) == 2


def test_very_large_frames_are_refused(moving, tmp_path, monkeypatch):
    write_y4m(moving(1, 48, 64), tmp_path / "wave.y4m", "420mpeg2")
    monkeypatch.setattr(video, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(ValueError, match="64×48 are too large"):
        video.read_clip(tmp_path / "wave.y4m")


def test_untagged_clips_follow_their_height(tmp_path):
    for height, matrix in ((718, "bt601"), (720, "bt709")):
        path = tmp_path / f"flat_16x{height}_25fps.yuv"
        path.write_bytes(bytes(16 * height * 3 // 2))
        assert video.read_clip(path).matrix == matrix


def test_crops_keep_chroma_where_it_belongs(moving):
    clip = moving(5, 50, 70)
    cut = clip.cropped(40, 20)
    assert np.array_equal(cut.y, clip.y[:, 14:34, 14:54])
    assert np.array_equal(cut.u, clip.u[:, 7:17, 7:27])
    odd = clip.cropped(37, 21)
    assert odd.y.shape == (5, 21, 37) and odd.u.shape == (5, 11, 19)
    left, top = (70 - 37) // 4 * 2, (50 - 21) // 4 * 2
    assert np.array_equal(odd.y, clip.y[:, top : top + 21, left : left + 37])
    assert np.array_equal(odd.v, clip.v[:, top // 2 : top // 2 + 11, left // 2 : left // 2 + 19])


def test_pictures_in_a_folder_are_a_clip(tmp_path):
    random = np.random.default_rng(0)
    smooth = np.repeat(np.repeat(random.integers(40, 200, (5, 7, 3), dtype=np.uint8), 8, 0), 8, 1)[:37, :51]
    for t in range(3):
        Image.fromarray(np.roll(smooth, t, 1)).save(tmp_path / f"frame{t}.png")
    clip = video.read_clip(tmp_path, rate=Fraction(30))
    assert clip.y.shape == (3, 37, 51) and clip.u.shape == (3, 19, 26) and clip.matrix == "bt709"
    inside = np.abs(clip.rgb(0).astype(int) - smooth)[2:6, 2:6]
    assert inside.max() <= 2
    with pytest.raises(ValueError, match="--fps"):
        video.read_clip(tmp_path)
    Image.fromarray(smooth[:20]).save(tmp_path / "frame3.png")
    with pytest.raises(ValueError, match=r"frame3\.png is 51×20"):
        video.read_clip(tmp_path, rate=Fraction(30))


def test_clips_of_a_folder_are_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "pictures").mkdir()
    for name in ("b_64x48_25fps.yuv", "a/c.mp4", "a/notes.txt", "pictures/1.png", "pictures/2.png"):
        (tmp_path / name).touch()
    folder, found = video.find_clips(tmp_path)
    assert folder == tmp_path and [path.relative_to(tmp_path).as_posix() for path in found] == ["a/c.mp4", "b_64x48_25fps.yuv", "pictures"]
    assert video.find_clips(tmp_path / "pictures") == (tmp_path, [tmp_path / "pictures"])
    assert video.find_clips(tmp_path / "a" / "c.mp4") == (tmp_path / "a", [tmp_path / "a" / "c.mp4"])


def test_uvg_is_found_by_name_and_missing_clips_are_named(tmp_path):
    published = [f"{name}_1920x1080_120fps_420_8bit_YUV.yuv" for name in video.UVG]
    for name in published[:-2]:
        (tmp_path / name.replace("ReadySteadyGo", "ReadySetGo")).touch()
    with pytest.raises(FileNotFoundError, match="lacks ShakeNDry, YachtRide"):
        video.uvg_files(tmp_path)
    for name in published[-2:]:
        (tmp_path / name).touch()
    assert [path.name.split("_")[0] for path in video.uvg_files(tmp_path)] == [name.replace("Steady", "Set") for name in video.UVG]
    with pytest.raises(FileNotFoundError, match="--root"):
        video.uvg_files(tmp_path / "none")


def test_samples_beyond_the_depth_are_refused(moving):
    clip = moving(bits=10)
    broken = replace(clip, y=np.where(clip.y == clip.y.max(), 4000, clip.y).astype(np.uint16))
    with pytest.raises(ValueError, match="more than 10 bits"):
        list(video.to_frames(broken))


def test_a_clip_has_planes_that_fit(moving):
    clip = moving()
    with pytest.raises(ValueError, match="goes with chroma of"):
        replace(clip, u=clip.u[:, :-1])


def test_fingerprints_depend_on_samples_and_on_what_they_mean(moving):
    clip = moving()
    others = [
        moving(seed=1),
        replace(clip, matrix="bt709"),
        replace(clip, rate=Fraction(30)),
        replace(clip, full_range=True),
        clip.first(4),
    ]
    assert len({clip.sha256(), *(each.sha256() for each in others)}) == 6
    assert clip.sha256() == replace(clip, y=clip.y.copy()).sha256()


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full_range, black, white", [(True, 0, 255), (False, 16, 235)])
def test_colours_are_where_the_standards_put_them(matrix, full_range, black, white):
    corners = np.array([[[0, 0, 0], [255, 255, 255], [0, 0, 255], [255, 0, 0]]], np.uint8)
    eight = colour.to_ycbcr(corners, 8, matrix, full_range).astype(int)
    assert eight[0, 0].tolist() == [black, 128, 128] and eight[0, 1].tolist() == [white, 128, 128]
    top = 255 if full_range else 240
    assert eight[0, 2, 1] == top and eight[0, 3, 2] == top
    weights = colour.WEIGHTS[matrix]
    assert eight[0, 3, 0] == round(black + weights[0] * (white - black)) and eight[0, 2, 0] == round(black + weights[1] * (white - black))
    ten = colour.to_ycbcr(corners, 10, matrix, full_range)
    assert np.array_equal(colour.to_rgb(ten, 10, matrix, full_range), corners)


def test_half_resolution_chroma_is_made_and_interpolated_as_stated():
    plane = np.arange(24, dtype=np.float64).reshape(4, 6) ** 2
    rows = (plane[::2] + plane[1::2]) / 2
    halved = colour.halved(plane)
    assert halved.shape == (2, 3)
    assert halved[0, 1] == (rows[0, 1] + 2 * rows[0, 2] + rows[0, 3]) / 4
    assert halved[1, 0] == (3 * rows[1, 0] + rows[1, 1]) / 4
    small = np.array([[0.0, 8.0], [16.0, 24.0]])
    doubled = colour.doubled(small, 4, 4)
    assert doubled[:, 0].tolist() == [0, 4, 12, 16] and doubled[0].tolist() == [0, 4, 8, 8]
    assert colour.doubled(small, 3, 3).shape == (3, 3)
    assert np.array_equal(colour.doubled(colour.halved(np.full((5, 7), 3.0)), 5, 7), np.full((5, 7), 3.0))


def test_planes_give_the_rgb_that_full_resolution_would():
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (6, 9, 1), dtype=np.uint8), 3, 2)
    for matrix, full_range, bits in (("bt709", False, 10), ("bt601", True, 8)):
        planes = colour.to_420(grey, bits, matrix, full_range)
        assert planes[0].shape == (6, 9) and planes[1].shape == (3, 5)
        assert np.array_equal(colour.from_420(*planes, bits, matrix, full_range), grey)


def test_real_clips_are_read(data):
    folder = data / "eval" / "video"
    bunny = video.read_clip(folder / "bunny" / "bigbuckbunny.mp4", frames=3, crop=(1280, 640))
    assert bunny.y.shape == (3, 640, 1280) and bunny.rate == 25 and bunny.matrix == "bt709"
    cisco = video.read_clip(folder / "raw_yuv" / "CiscoVT2people_320x192_12fps.yuv")
    assert cisco.y.shape == (9, 192, 320) and cisco.rate == 12
    sparks = video.read_clip(folder / "raw_yuv" / "sparks_ref_480x270.yuv42010le.yuv", rate=Fraction(24))
    assert sparks.y.shape == (5, 270, 480) and sparks.bits == 10 and 255 < sparks.y.max() < 1024
    joy = video.read_clip(folder / "raw_yuv" / "park_joy_420_720p50_frm0to9_480x270.y4m")
    assert joy.y.shape == (10, 270, 480) and joy.rate == 50
    walk = video.read_clip(folder / "basketballpass_416x240", frames=2, rate=Fraction(50))
    with Image.open(folder / "basketballpass_416x240" / "f001.webp") as first:
        expected = np.asarray(first.convert("RGB")).astype(int)
    error = np.square(walk.rgb(0).astype(int) - expected).mean()
    assert 10 * np.log10(255**2 / error) > 35


def test_frames_survive_the_way_through_ffmpeg(moving):
    for clip in (moving(), moving(bits=10), moving(height=47, width=63)):
        assert_same(video.from_frames(video.to_frames(clip), clip.rate), clip)
