"""What the wheel carries besides the module, and what the source distribution holds."""

import importlib.metadata
import importlib.util
import os
import pathlib
import subprocess
import sys
import tarfile

import memvelope
import pytest
from conftest import clean_env

ROOT = pathlib.Path(__file__).resolve().parents[2]
BACKEND = ROOT / "python" / "build_backend" / "memvelope_build.py"


def path_or_skip(path):
    try:
        return path()
    except FileNotFoundError as error:
        pytest.skip(f"ignored: {str(error).splitlines()[0]}")


@pytest.mark.parametrize("path", [memvelope.inject_path, memvelope.sim_path])
def test_the_libraries_are_there(path):
    path = path_or_skip(path)
    assert os.path.isabs(path)
    assert pathlib.Path(path).read_bytes()[:4] == b"\x7fELF"


def run(*command):
    return subprocess.run(
        command, env=clean_env(), capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_runs():
    path_or_skip(memvelope.sim_path)
    by_module = run(sys.executable, "-m", "memvelope", "--version")
    assert by_module.returncode == 0, by_module.stderr
    assert memvelope.__version__ in by_module.stdout
    command = pathlib.Path(sys.executable).parent / "memvelope"
    if command.exists():
        assert run(str(command), "--version").stdout == by_module.stdout


def test_the_version_is_the_workspaces():
    try:
        version = importlib.metadata.version("memvelope")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("ignored: memvelope is not installed, only on the path")
    assert version == memvelope.__version__


@pytest.fixture
def backend(monkeypatch):
    pytest.importorskip("maturin", reason="ignored: maturin is not installed")
    if not BACKEND.exists():
        pytest.skip("ignored: the sources are not here")
    spec = importlib.util.spec_from_file_location("memvelope_build", BACKEND)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec.loader.exec_module(module)
    return module


def test_the_source_distribution_is_whole(backend, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT if (ROOT / "pyproject.toml").exists() else ROOT / "python")
    # maturin lies beside the interpreter, which need not be on PATH.
    monkeypatch.setenv("PATH", f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    first = backend.build_sdist(str(tmp_path))
    content = (tmp_path / first).read_bytes()
    with tarfile.open(tmp_path / first) as archive:
        names = archive.getnames()
        base = first[: -len(".tar.gz")]
        assert all(name.startswith(f"{base}/") for name in names)
        inside = {name[len(base) + 1 :] for name in names}
        pyproject = archive.extractfile(f"{base}/pyproject.toml").read().decode()
        info = archive.extractfile(f"{base}/PKG-INFO").read().decode()
    for needed in ("Cargo.toml", "Cargo.lock", "LICENSE-MIT", "python/src/lib.rs", "PKG-INFO"):
        assert needed in inside
    for member in ("memvelope", "memvelope-cli", "memvelope-inject", "memvelope-sim"):
        assert f"crates/{member}/Cargo.toml" in inside
    assert not [name for name in inside if name.endswith((".so", ".pyc")) or "target/" in name]
    assert 'manifest-path = "python/Cargo.toml"' in pyproject
    assert f"Version: {memvelope.__version__}" in info
    assert backend.build_sdist(str(tmp_path)) == first
    assert (tmp_path / first).read_bytes() == content, "the same sources give the same archive"
    assert len(content) < 8 << 20
