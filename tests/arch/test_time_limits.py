"""What a test may wait for when its time is over."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = """
[pytest]
pythonpath = {folder}
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
timeout = 0.5
timeout_method = signal
hang_grace_s = 0.5
addopts = -p no:cacheprovider --import-mode=importlib
"""
TESTS = """
import asyncio, contextlib, ctypes, threading

mutex = ctypes.create_string_buffer(64)

def test_waits_for_a_lock_that_another_thread_has():
    held, lock = threading.Event(), threading.Lock()
    def hold():
        with lock:
            held.set()
            threading.Event().wait()
    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    lock.acquire()

def test_joins_a_thread_that_does_not_end():
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    thread.join()

def test_computes_for_ever():
    while True:
        pass

async def test_awaits_what_does_not_come():
    await asyncio.Event().wait()

async def test_the_signal_comes_in_a_task_that_swallows_it():
    async def swallow():
        while True:
            with contextlib.suppress(BaseException):
                while True:
                    pass
    await asyncio.create_task(swallow())

def test_hangs_in_c():
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

def test_hangs_in_c_with_the_lock_of_the_interpreter():
    for _ in range(2):
        ctypes.PyDLL(None).pthread_mutex_lock(mutex)

def test_is_right():
    pass
"""
PLUGINS = ("xdist.plugin", "pytest_asyncio", "pytest_timeout")  # others take each of its processes a second
OTHERS = ("ahead", "then", "thereafter")  # files beside and behind that


@pytest.mark.timeout(300)
def test_a_slow_test_fails_alone(tmp_path: Path) -> None:
    """Late tests fail one by one, those that hang in C with their process, and what comes behind them runs."""
    pytest.importorskip("xdist")
    (tmp_path / "pytest.ini").write_text(SETTINGS.format(folder=Path(__file__).parent))
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["time_limits", "by_file"]\n')
    (tmp_path / "test_slow.py").write_text(TESTS)
    for name in OTHERS:
        (tmp_path / f"test_{name}.py").write_text(f"def test_{name}():\n    pass\n")
    shared = re.search(r"tests/whole\.py (-n .*) \$\(ARGS\)", (Path(__file__).parents[2] / "Makefile").read_text())
    assert shared
    plugins = [word for name in PLUGINS for word in ("-p", name)]
    options = [*plugins, *shared[1].split(), "-rfEp", "-c", tmp_path / "pytest.ini", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options],
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    failed = set(re.findall(r"^FAILED .*::(\w+)", done.stdout, re.MULTILINE))
    assert failed == set(re.findall(r"def (test_\w+)", TESTS)) - {"test_is_right"}, done.stdout + done.stderr
    passed = re.findall(r"^PASSED .*::(\w+)", done.stdout, re.MULTILINE)
    assert sorted(passed) == sorted(["test_is_right", *(f"test_{name}" for name in OTHERS)]), done.stdout + done.stderr
    assert "test_hangs_in_c" in done.stderr  # where it was
