"""Tasks of one search shared out between the calling thread and threads that have nothing else to do."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class SearchPool:
    """At most `threads` threads per search, the caller's among them; safe to share between threads.

    The caller takes tasks itself and never waits for a thread to start: with all threads busy it does the whole
    search alone, and where there is one task there is no second thread.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._executor: ThreadPoolExecutor | None = None
        self._process = 0

    def run(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Return what the tasks return, in their order; they are begun in this order, too.

        An error of one is raised when those that had begun have ended.
        """
        waiting = deque(enumerate(tasks))
        done: dict[int, T] = {}

        def work() -> None:
            while True:
                try:
                    number, task = waiting.popleft()
                except IndexError:
                    return
                done[number] = task()

        helpers = [self._open().submit(work) for _ in range(min(self.threads, len(tasks)) - 1)]
        try:
            work()
        finally:
            waiting.clear()
            begun = [helper for helper in helpers if not helper.cancel()]
            errors = [error for helper in begun if (error := helper.exception()) is not None]
        if errors:
            raise errors[0]
        return [done[number] for number in range(len(tasks))]

    def _open(self) -> ThreadPoolExecutor:
        # A process that was forked off has none of its parent's threads.
        if self._executor is None or self._process != os.getpid():
            self._executor = ThreadPoolExecutor(max_workers=self.threads - 1, thread_name_prefix="search")
            self._process = os.getpid()
        return self._executor
