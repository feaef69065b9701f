"""What a process sets for itself as a whole."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

THREADS = """
import ctypes, sys, threading
from orchestrator.base.process import share_heap

share_heap()
all_there = threading.Barrier(8)
def hold():
    held = bytes(100_000)
    all_there.wait()
    ctypes.CDLL(None).malloc_stats()
    all_there.wait()
threads = [threading.Thread(target=hold) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_all_threads_share_one_heap() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert "Arena 0:" in done.stderr and "Arena 1:" not in done.stderr
