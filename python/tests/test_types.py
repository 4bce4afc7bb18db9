"""The package's own types, for those who check theirs against it."""

import importlib.util
import os
import subprocess
import sys

import memvelope
import pytest


def test_the_package_passes_mypy_strict(tmp_path):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("ignored: mypy is not installed")
    # As it is installed, and from elsewhere: a program has it so.
    package = os.path.dirname(os.path.abspath(memvelope.__file__))
    options = ["--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, package],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)
