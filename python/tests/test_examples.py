"""The examples in Python, as a newcomer runs them: without torch, without a GPU, and with both (a
stand-in for torch on the simulated driver)."""

import json
import os
import subprocess
import sys

import pytest
from conftest import clean_env

TESTS = os.path.dirname(os.path.abspath(__file__))
EXAMPLES = os.path.join(TESTS, "..", "..", "examples")

#: Lines at most: they are read, and pasted.
LINES_MAX = 50

MISSING = "raise ImportError('no torch here')\n"
WITHOUT_GPU = """
import types
cuda = types.SimpleNamespace(is_available=lambda: False, is_initialized=lambda: False)
"""
ON_DRIVER = f"""
import sys
sys.path.insert(0, {TESTS!r})
import torch_on_driver
torch_on_driver.install()
"""


def examples():
    return sorted(name for name in os.listdir(EXAMPLES) if name.endswith(".py"))


@pytest.fixture
def run(tmp_path):
    """Runs an example with what `import torch` shall find; what it printed."""

    def run(name, torch, **extra):
        (tmp_path / "torch.py").write_text(torch)
        env = clean_env(**extra)
        env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
        done = subprocess.run(
            [sys.executable, "-W", "error", os.path.join(EXAMPLES, name)],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.stderr == ""
        return done.stdout

    return run


@pytest.mark.parametrize("name", examples())
@pytest.mark.parametrize("torch", [MISSING, WITHOUT_GPU])
def test_they_end_with_one_sentence_where_something_is_missing(run, name, torch):
    said = run(name, torch, MEMVELOPE_CUDA_PATH="/nonexistent/libcuda.so.1")
    assert len(said.splitlines()) == 1 and "torch" in said
    with open(os.path.join(EXAMPLES, name), encoding="utf-8") as file:
        assert len(file.readlines()) <= LINES_MAX


def test_torch_shows_tags_fits_and_the_picture_before_memory_ran_out(run, sim_libs, tmp_path):
    said = run("06_torch.py", ON_DRIVER, LD_LIBRARY_PATH=sim_libs)
    words = " ".join(said.split())
    assert "SIMULATED" in said
    assert "weights 160.0 MiB" in words
    # A segment of 20 MiB with 6 MiB in use, and a wholly free one of 64 MiB.
    assert "empty_cache() gives back 64.0 MiB" in words
    assert "stranded beside blocks in use 14.0 MiB" in words
    assert "would 60 MiB fit? yes\n" in said
    answers = [line for line in said.splitlines() if line.startswith("would ")]
    assert [answer.split("fit? ")[1][:3] for answer in answers] == ["yes", "yes", "no,"]
    assert "what would help: " in said
    assert "PyTorch needed 1,048,576.0 MiB more" in said
    [report] = json.loads((tmp_path / "oom.json").read_text())
    assert report["text"] in said
    assert "weights 160.0 MiB" in report["text"]
