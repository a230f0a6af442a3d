"""Who measures: this process, several processes of this machine, or the machines of a Ray cluster. All run the same tasks.

A task is one file: a codec by what it is made from, and an item by its path. On a cluster, every machine needs the same version of this
package and sees items and weights under the same paths.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from neuralcodec.codecs.errors import CodecError, first_line

OWN_CLUSTER = "local"  # the address of a cluster that is started for this run, on this machine


@contextlib.contextmanager
def workers(jobs: int = 1, ray: str | None = None) -> Iterator[Executor | None]:
    """What runs tasks, or none for this process alone. Leaving by an exception gives up all tasks, those that run as well.

    Args:
        jobs: processes that share this machine's cores.
        ray: the address of a Ray cluster, or :data:`OWN_CLUSTER`.

    Raises:
        CodecError: there is no such cluster, or a process ended unexpectedly.
    """
    pool: Executor | None = None
    others = set(multiprocessing.active_children())
    if ray:
        pool = RayExecutor(ray)
    elif jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (threads,))
    try:
        yield pool
    except BrokenProcessPool:
        raise CodecError("a process that measured ended unexpectedly, perhaps for want of memory: try fewer --jobs") from None
    except BaseException as error:
        if pool:
            pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:  # or the interpreter would wait for what they do
            process.kill()
        if isinstance(pool, RayExecutor) and isinstance(error, pool.ray.exceptions.RayError):
            raise CodecError(f"the Ray cluster failed ({first_line(error)})") from None
        raise
    else:
        if pool:
            pool.shutdown()


class RayExecutor(Executor):
    """Tasks on a Ray cluster, one core each.

    Args:
        address: ``HOST:PORT``, ``auto``, ``ray://…``, or :data:`OWN_CLUSTER`.

    Raises:
        CodecError: Ray is not installed, or the cluster does not answer.
    """

    def __init__(self, address: str):
        try:
            import ray
        except ImportError:
            raise CodecError("--ray needs the package ray (pip install 'neuralcodec[cluster]')") from None
        options: dict[str, Any] = {}
        if address == OWN_CLUSTER:
            options["include_dashboard"] = False
            os.environ.setdefault("RAY_worker_niceness", "0")  # else 15, and times would be those of an idle priority
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except Exception as error:  # Ray raises that itself, when a cluster does not start in time
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CodecError(f"the Ray cluster at {address} does not answer ({reason})") from None
        self.ray = ray
        self.call = ray.remote(num_cpus=1, max_retries=3)(_call)

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        answer: Future = Future()

        def pass_on(done: Future) -> None:
            if error := done.exception():
                answer.set_exception(getattr(error, "cause", None) or error)  # the task's own exception, without Ray's account of it
            else:
                answer.set_result(done.result())

        self.call.remote(function, args, kwargs).future().add_done_callback(pass_on)
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.ray.shutdown()


def _call(function: Callable, args: tuple, kwargs: dict) -> Any:
    torch.set_num_threads(1)
    return function(*args, **kwargs)


def _begin(threads: int) -> None:
    """A process ends at once on Ctrl-C, without a traceback of its own, and with the process that started it, however that ended."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
