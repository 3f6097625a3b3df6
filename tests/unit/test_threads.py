"""A thread beside the main one does not fail unnoticed."""

from __future__ import annotations

from threading import Event

from stream_worker.threads import Beside


def test_what_a_thread_failed_with_is_kept_and_told_of() -> None:
    def fail() -> None:
        raise KeyError("stay-1")

    told = Event()
    failing, working = Beside("failing", fail, on_fault=told.set), Beside("working", lambda: None)
    for thread in (failing, working):
        thread.start()
        thread.join(30)
    assert isinstance(failing.fault, KeyError)
    assert told.is_set()
    assert working.fault is None
