"""Tasks shared out between a caller and idle threads."""

import os
import threading

import pytest

from indexer.search_pool import SearchPool


def test_results_come_in_the_order_of_the_tasks():
    for threads in (1, 2, 4):
        assert SearchPool(threads).run([lambda at=at: at * at for at in range(20)]) == [at * at for at in range(20)]
    assert SearchPool(3).run([]) == []


def test_two_tasks_run_at_the_same_time():
    meet = threading.Barrier(2)
    assert sorted(SearchPool(2).run([lambda: meet.wait(timeout=60)] * 2)) == [0, 1]


def test_one_task_or_one_thread_stay_with_the_caller():
    own = threading.get_ident()
    assert SearchPool(4).run([threading.get_ident]) == [own]
    assert SearchPool(1).run([threading.get_ident] * 5) == [own] * 5


def test_a_caller_does_not_wait_for_busy_threads():
    pool, begun, free = SearchPool(2), threading.Barrier(3), threading.Event()

    def block() -> bool:
        begun.wait(timeout=60)
        return free.wait(timeout=60)

    other = threading.Thread(target=pool.run, args=[[block, block]])
    other.start()
    begun.wait(timeout=60)
    assert pool.run([threading.get_ident] * 4) == [threading.get_ident()] * 4
    free.set()
    other.join()


def test_an_error_is_raised_whoever_met_it():
    meet = threading.Barrier(2)

    def fail(place: int) -> None:
        if meet.wait(timeout=60) == place:
            raise ValueError(place)

    for place in (0, 1):
        with pytest.raises(ValueError, match=str(place)):
            SearchPool(2).run([lambda place=place: fail(place)] * 2)


def test_a_process_that_is_forked_off_has_threads_of_its_own():
    pool = SearchPool(2)
    pool.run([int, int])
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        meet = threading.Barrier(2)
        os.write(writer, bytes(sorted(pool.run([lambda: meet.wait(timeout=60)] * 2))))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 2) == b"\x00\x01"
