"""Evaluations that are killed, interrupted, run out of disk or are shared: nothing is measured twice, nothing comes out differently."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from neuralcodec.codecs.errors import CodecError
from neuralcodec.eval import command, results, show, sweep, workers

RUN = (  # jobs that a shell starts in the background ignore SIGINT, and so would what they start
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from neuralcodec.cli import main; raise SystemExit(main())"
)
CODECS = ("--codec", "jpeg", "--codec", "webp")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three pictures of 64×96."""
    path = tmp_path_factory.mktemp("images")
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((96, 64), Image.Resampling.BICUBIC).save(path / f"picture{seed}.png")
    return path


def start(*arguments, **options) -> subprocess.Popen:
    """A process of its own, in a process group of its own."""
    words = [sys.executable, "-c", RUN, "eval", *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, **options)


def lines(folder) -> list[dict]:
    """The measurements that a store holds, but for one that is cut short."""
    path = folder / "files.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def stopped_midway(how: int, out, *arguments) -> subprocess.Popen:
    """An evaluation that got a signal after some files and before its last."""
    process = start(*arguments, "-o", out)
    deadline = time.monotonic() + 120
    while len(lines(out)) < 5:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.005)
    os.killpg(process.pid, how)
    process.wait(60)
    return process


def numbers(out) -> list:
    """All that does not depend on the clock."""
    read = results.load(out / "results.json")
    return [
        (curve.name, point.setting, file.item, file.file_bytes, file.quality, file.errors)
        for curve in read.curves
        for point in curve.points
        for file in point.files
    ]


def evaluate(*arguments) -> int:
    return command.main([str(argument) for argument in arguments])


@pytest.fixture
def counted(monkeypatch) -> list:
    """The items measured in this process."""
    calls = []
    real = sweep.measure_file
    monkeypatch.setattr(sweep, "measure_file", lambda *given: calls.append(given[2].name) or real(*given))
    return calls


def test_a_killed_evaluation_goes_on_where_it_stopped(folder, tmp_path, counted, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = (folder, *CODECS, "--samples", 0)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    stopped_midway(signal.SIGKILL, broken, *options)
    kept = len(lines(broken))
    assert not (broken / "results.json").exists()
    again = start(*options, "-o", broken)
    assert again.wait(120) == 0, again.stderr.read()
    assert evaluate(*options, "-o", whole) == 0
    total = len(counted)
    assert total == 3 * (12 + 13)
    assert 5 <= kept < total and len(lines(broken)) == total, "each file was measured once, before or after"
    assert len({line["key"] for line in lines(broken)}) == total
    assert numbers(broken) == numbers(whole)


def test_an_interrupted_evaluation_says_where_its_measurements_are(folder, tmp_path):
    process = stopped_midway(signal.SIGINT, tmp_path / "out", folder, *CODECS, "--samples", 0)
    said = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted" in said and "files.jsonl keeps what was measured" in said and "Traceback" not in said
    assert len(lines(tmp_path / "out")) >= 5


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
def test_a_full_disk_ends_with_one_line_and_keeps_the_measurements(folder, tmp_path):
    import resource

    limit = 3000  # bytes of a file, enough for a few measurements
    process = start(
        folder, *CODECS, "--samples", 0, "-o", tmp_path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 1 and "Traceback" not in said
    assert "File too large" in said and "files.jsonl keeps what was measured" in " ".join(said.split())
    assert 1 <= len(lines(tmp_path)) < 20
    assert not (tmp_path / "results.json").exists() and not list(tmp_path.glob("*.part"))


def test_a_ray_cluster_measures_what_one_process_does(folder, tmp_path, weights, monkeypatch):
    pytest.importorskip("ray", reason="needs the package ray")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ("--codec", weights("mean-scale"), "--codec", "jpeg", "--points", 2, "--samples", 0)
    assert evaluate(folder, *options, "--ray", "-o", tmp_path / "ray") == 0
    process = start(folder, *options, "-o", tmp_path / "one")
    assert process.wait(120) == 0, process.stderr.read()
    assert results.load(tmp_path / "ray" / "results.json").environment["jobs"] == "ray"
    assert numbers(tmp_path / "ray") == numbers(tmp_path / "one")


def test_without_ray_one_line_says_what_is_missing(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert evaluate(folder, "--codec", "jpeg", "--points", 1, "--ray") == 1
    assert "neuralcodec[cluster]" in capsys.readouterr().err.splitlines()[-1]


def test_errors_of_a_worker_come_back_as_one_line(tmp_path, capsys, weights):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "picture.png")
    path = tmp_path / "soon-gone.safetensors"
    path.write_bytes(weights("mean-scale").read_bytes())
    from neuralcodec.eval.candidates import candidate

    codec = candidate(str(path))
    path.unlink()
    from neuralcodec.eval.modalities import Images, sources

    with pytest.raises(CodecError, match="soon-gone"), workers.workers(2) as pool:
        sweep.measure(codec, Images(), "one", sources(Images(), str(tmp_path)), 1, pool=pool)


def test_an_error_stops_what_other_processes_do_at_once():
    deadline = time.monotonic() + 60
    with pytest.raises(ZeroDivisionError), workers.workers(2) as pool:
        busy = pool.submit(time.sleep, 600)
        while not busy.running():
            time.sleep(0.05)
        pool.submit(os.getpid).result()
        pool.submit(divmod, 1, 0).result()
    while multiprocessing.active_children():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_failing_cluster_is_one_line(monkeypatch):
    ray = pytest.importorskip("ray", reason="needs the package ray")

    class Cluster(workers.RayExecutor):
        def __init__(self, address):
            self.ray = ray

        def shutdown(self, wait=True, *, cancel_futures=False):
            pass

    monkeypatch.setattr(workers, "RayExecutor", Cluster)
    with pytest.raises(CodecError) as error, workers.workers(ray="somewhere"):
        raise ray.exceptions.WorkerCrashedError
    assert "the Ray cluster failed" in str(error.value) and "\n" not in str(error.value)


def test_the_time_left_counts_every_codec_and_leaves_out_what_was_known(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(show.time, "monotonic", lambda: clock[0])
    progress = show.Progress({"quick": 4, "slow": 4})
    quick, slow = progress.advance_of("quick"), progress.advance_of("slow")
    quick(True)
    assert progress.seconds_left() is None
    clock[0] += 1
    quick(False)
    assert progress.seconds_left() == pytest.approx(2 + 4)
    clock[0] += 10
    slow(False)
    assert progress.seconds_left() == pytest.approx(2 * 1 + 3 * 10)
