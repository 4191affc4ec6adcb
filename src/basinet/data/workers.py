"""Map a function over tasks, in order, with processes of one thread each."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from multiprocessing import active_children, connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from basinet.errors import RunError

Task = TypeVar("Task")
Result = TypeVar("Result")

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Variables that the numerical libraries read when they are loaded."""

AHEAD = 8
"""Tasks per process that are started before the first of them is finished: hides a slow task, bounds the memory."""
IN_LANE = 2
"""Tasks queued at a process: the one it works on, and the next."""
DEATH = (
    "a worker process died: killed from outside, out of memory (use fewer processes), or never started "
    '(a script must make this call under `if __name__ == "__main__":`)'
)


def available_cores() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # absent on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    processes: int,
    *,
    ahead: int | None = None,
    lost: Callable[[Task], Result] | None = None,
) -> Generator[Result, None, None]:
    """Yield ``function(task)`` for every task, in the order of the tasks, from ``processes`` new processes.

    The processes run one thread each: the same numbers whatever the machine, and no two libraries fight for a core.
    They end with the iterator: at its end, when it is closed, on an error, on Ctrl-C, and when this process dies.

    Args:
        function: Function to call; it, the tasks and the results are pickled.
        tasks: Taken one by one, when a process has room.
        processes: Number of processes.
        ahead: Tasks started before the first of them is finished, at least one per process; ``None``: 8 per process.
        lost: Returns the result of a task that has ended two processes. With it, a process that dies is replaced and
            its task started once more; without it, the first death is an error.

    Raises:
        RunError: a process died, or one process after the other does.
    """
    window = max(processes, AHEAD * processes if ahead is None else ahead)
    supply = enumerate(tasks)
    done: dict[int, Future[Result]] = {}
    n_started = deaths = 0
    with _lanes(function, processes) as lanes:
        for place in count():
            while place not in done:
                n_started += _fill(lanes, supply, place + window - n_started)
                if n_started == place:
                    return
                wait([lane.queue[0].future for lane in lanes if lane.queue], return_when=FIRST_COMPLETED)
                for lane in lanes:
                    if finished := lane.take_finished():
                        done |= finished
                        deaths = 0
                    if lane.has_died:
                        deaths += 1
                        if lost is None or deaths > 2 * processes + 2:
                            raise RunError(DEATH)
                        done |= lane.restart(lost)
            yield done.pop(place).result()


@dataclass(kw_only=True)
class _Queued(Generic[Task, Result]):
    """A task that is queued at a process, or done by it."""

    place: int
    task: Task
    future: Future[Result]
    deaths: int = 0


class _Lane(Generic[Task, Result]):
    """One process and its queue; it works on the first task, so a death is due to that one."""

    def __init__(self, function: Callable[[Task], Result]) -> None:
        self.function = function
        self.queue: deque[_Queued[Task, Result]] = deque()
        self._workers: list[BaseProcess] = []
        self._executor = _one_process()

    def add(self, place: int, task: Task, deaths: int = 0) -> None:
        """Queue a task."""
        self.queue.append(_Queued(place=place, task=task, future=self._submit(task), deaths=deaths))

    def take_finished(self) -> dict[int, Future[Result]]:
        """Return the finished results by place, errors of the function included."""
        finished: dict[int, Future[Result]] = {}
        while self.queue and self.queue[0].future.done() and not self.has_died:
            first = self.queue.popleft()
            finished[first.place] = first.future
        return finished

    @property
    def has_died(self) -> bool:
        """True if the process has died with its task."""
        future = self.queue[0].future if self.queue else None
        return future is not None and future.done() and isinstance(future.exception(), BrokenProcessPool)

    def restart(self, lost: Callable[[Task], Result]) -> dict[int, Future[Result]]:
        """Start a new process; a first task that has ended two processes gets the result ``lost(task)``."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = _one_process()
        waiting, self.queue = self.queue, deque()
        waiting[0].deaths += 1
        given_up: dict[int, Future[Result]] = {}
        if waiting[0].deaths == 2:
            first = waiting.popleft()
            given_up[first.place] = _settled(result=lost(first.task))
        for item in waiting:
            self.add(item.place, item.task, item.deaths)
        return given_up

    def end(self, at_once: bool) -> None:
        """End the process; ``at_once``: in the middle of its task."""
        if at_once:
            for worker in self._workers:
                worker.terminate()  # what it was doing is lost anyway, and may take long
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _submit(self, task: Task) -> Future[Result]:
        others = set(active_children())
        try:
            with one_thread():  # a submission may start a process, which inherits the environment
                return self._executor.submit(self.function, task)
        except BrokenProcessPool as error:
            return _settled(error=error)
        finally:
            self._workers += set(active_children()) - others


def _fill(lanes: Sequence[_Lane[Task, Any]], supply: Iterator[tuple[int, Task]], most: int) -> int:
    """Queue at most ``most`` tasks where there is room, and return their number."""
    for n_started in range(most):
        lane = min(lanes, key=lambda lane: len(lane.queue))
        item = next(supply, None) if len(lane.queue) < IN_LANE else None
        if item is None:
            return n_started
        lane.add(*item)
    return most


@contextmanager
def _lanes(function: Callable[[Task], Result], processes: int) -> Iterator[list[_Lane[Task, Result]]]:
    lanes = [_Lane(function) for _ in range(processes)]
    at_once = True
    try:
        yield lanes
        at_once = False
    finally:
        for lane in lanes:
            lane.end(at_once)


def _one_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_initialize_worker)


def _settled(*, result: Any = None, error: BaseException | None = None) -> Future[Any]:
    future: Future[Any] = Future()
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
    return future


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit processes that start and libraries that are loaded inside this context to one thread.

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


def _initialize_worker() -> None:
    """Ignore Ctrl-C, and end when the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
