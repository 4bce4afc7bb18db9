"""What the tests share: child processes with an environment of their own."""

import os
import subprocess
import sys

import memvelope
import pytest


def clean_env(**extra):
    """This process's environment without memvelope's keys, so that a developer's do not count."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MEMVELOPE_")}
    # Children must find the package that this process tests, from wherever it was imported.
    package = os.path.dirname(os.path.dirname(os.path.abspath(memvelope.__file__)))
    env["PYTHONPATH"] = package
    env.update(extra)
    return env


@pytest.fixture
def child():
    """Runs Python code in a process of its own and returns what it printed."""

    def run(code, *, timeout_s=60, **extra):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=clean_env(**extra),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def sim_libs(tmp_path):
    """A folder in which the simulated driver lies under the names of the real libraries."""
    try:
        sim = memvelope.sim_path()
    except FileNotFoundError as error:
        pytest.skip(f"ignored: {str(error).splitlines()[0]}")
    folder = tmp_path / "sim"
    folder.mkdir()
    for name in ("libcuda.so", "libcuda.so.1", "libcupti.so.13", "libnvidia-ml.so.1"):
        (folder / name).symlink_to(sim)
    return str(folder)
