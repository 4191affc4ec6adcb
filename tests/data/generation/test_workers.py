import os
import signal
import time
from contextlib import closing
from multiprocessing import active_children

import pytest

from basinet.data.workers import map_in_order
from basinet.errors import RunError


def square(number):
    return number * number


def square_or_die(number):
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def slow_square(number):
    time.sleep(0.05)
    return number * number


def refuse(number):
    raise ValueError(f"not {number}")


def given_up(number):
    return f"lost {number}"


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_the_order_of_the_tasks(processes):
    assert list(map_in_order(square, range(40), processes)) == [n * n for n in range(40)]
    assert list(map_in_order(square, [], processes)) == []
    assert not active_children()


def test_no_more_tasks_are_taken_ahead_than_allowed():
    taken = []

    def tasks():
        for number in range(20):
            taken.append(number)
            yield number

    with closing(map_in_order(square, tasks(), 1, ahead=3)) as results:
        for n_yielded, _ in enumerate(results, start=1):
            assert len(taken) <= n_yielded - 1 + 3


@pytest.mark.parametrize("processes", [1, 2])
def test_a_task_that_kills_its_process_twice_is_given_up_and_no_other(processes):
    numbers = [1, 2, -3, 4, 5, 6, -7, 8]
    results = list(map_in_order(square_or_die, numbers, processes, lost=given_up))
    assert results == [1, 4, "lost -3", 16, 25, 36, "lost -7", 64]
    assert not active_children()


def test_a_process_killed_from_outside_is_replaced_and_nothing_is_lost():
    results = []
    with closing(map_in_order(slow_square, range(30), 2, lost=given_up)) as squares:
        for result in squares:
            results.append(result)
            if result == 25:
                os.kill(active_children()[0].pid, signal.SIGKILL)
    assert results == [n * n for n in range(30)]
    assert not active_children()


def test_processes_that_all_die_are_an_error_and_not_a_wait():
    with pytest.raises(RunError, match="a worker process died: killed from outside, out of memory"):
        list(map_in_order(square_or_die, [-1] * 20, 1, lost=given_up))
    with pytest.raises(RunError, match="a worker process died"):
        list(map_in_order(square_or_die, [1, -1], 1))
    assert not active_children()


def test_an_error_of_the_function_comes_where_its_result_would():
    results = map_in_order(refuse, [3, 4], 1)
    with pytest.raises(ValueError, match="not 3"):
        next(results)
    assert not active_children()
