"""What a process holds open."""

import sys
from pathlib import Path
from threading import Event, Thread

import pytest

from llm2clip_search.base.processes import descriptor_count, thread_count


@pytest.mark.skipif(sys.platform != "linux", reason="Linux reports them")
def test_descriptors_and_threads_are_counted(tmp_path: Path) -> None:
    descriptors, threads = descriptor_count(), thread_count()
    done = Event()
    thread = Thread(target=done.wait)
    thread.start()
    with (tmp_path / "file").open("w"):
        assert descriptor_count() == descriptors + 1
    assert thread_count() == threads + 1
    done.set()
    thread.join()
    assert descriptor_count() == descriptors


def test_a_process_that_is_not_there_holds_nothing() -> None:
    assert descriptor_count(2**30) == thread_count(2**30) == 0
