"""Processes that work through a list, in order, one thread each."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from basinet.errors import RunError

Task = TypeVar("Task")
Result = TypeVar("Result")

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What the numerical libraries read, once, when they are loaded."""

AHEAD = 8
"""Tasks per process that are begun before the first of them is finished: hides a slow one, bounds the memory."""


def available_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # absent on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[[Task], Result], tasks: Iterable[Task], processes: int
) -> Generator[Result, None, None]:
    """Yield ``function(task)`` for every task, in the order of the tasks, from ``processes`` new processes.

    The processes run one thread each: the same numbers whatever the machine, and no two libraries fight for a core.
    They end with the iterator: at its end, when it is closed, on an error, on Ctrl-C, and when this process dies.

    Raises:
        RunError: a process died.
    """
    with _pool(processes) as submit:
        pending: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                pending.append(submit(function, task))
                if len(pending) >= AHEAD * processes:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise RunError(
                "a worker process died: killed from outside, out of memory (use fewer processes), or never started "
                '(a script must make this call under `if __name__ == "__main__":`)'
            ) from error


@contextmanager
def _pool(processes: int) -> Iterator[Callable[..., Future[Any]]]:
    executor = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_begin_worker)
    workers: set[BaseProcess] = set()

    def submit(function: Callable[[Any], Any], task: object) -> Future[Any]:
        others = set(active_children())
        with one_thread():  # a submission may start a process, which inherits the environment
            future = executor.submit(function, task)
        workers.update(set(active_children()) - others)
        return future

    try:
        yield submit
    except BaseException:
        for worker in workers:
            worker.terminate()  # what they were doing is lost anyway, and may take long
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let processes that start, and libraries that are loaded, inside this context run one thread.

    Environment variables, because a library reads them before any code of ours runs in a new process.
    """
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
