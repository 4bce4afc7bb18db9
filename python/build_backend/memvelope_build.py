"""PEP 517 backend of the `memvelope` package.

A wheel of memvelope carries more than a Python module: the `memvelope` command, the injection
library and the simulated driver, which lie in `memvelope/_libs/`. This backend builds those three
with cargo and leaves the module, the metadata and the wheel itself to maturin. Its source
distribution holds the whole Cargo workspace, so that it builds alone.

Works on both layouts: the repository, where `pyproject.toml` lies in `python/`, and the source
distribution, where it lies at the root.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import maturin

PYTHON = Path(__file__).resolve().parents[1]
WORKSPACE = PYTHON.parent
LIBS = PYTHON / "memvelope" / "_libs"

#: Cargo package, its kind of artifact, and the file's name in `_libs/`.
ARTIFACTS = [
    ("memvelope-cli", "bin", "memvelope"),
    ("memvelope-inject", "cdylib", "libmemvelope_inject.so"),
    ("memvelope-sim", "cdylib", "libmemvelope_sim.so"),
]

#: What a source distribution takes from the workspace: every member (cargo reads all manifests),
#: and the files that their builds name.
SHIPPED = [
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "CHANGELOG.md",
    "benches",
    "crates",
    "cuda",
    "examples",
    "python",
    "tests",
    "xtask",
]

#: Built or cached, at any depth; plus whatever starts with a dot.
LEFT_OUT = {"__pycache__", "_libs", "build", "dist", "results", "target"}

#: Lines of pyproject.toml that name paths, in the repository and in the source distribution.
MOVED_LINES = [
    ('backend-path = ["build_backend"]', 'backend-path = ["python/build_backend"]'),
    ('readme = "README.md"', 'readme = "python/README.md"'),
    ('manifest-path = "Cargo.toml"', 'manifest-path = "python/Cargo.toml"'),
    ('python-source = "."', 'python-source = "python"'),
    (
        'include = [{ path = "memvelope/_libs/*", format = "wheel" }]',
        'include = [{ path = "python/memvelope/_libs/*", format = "wheel" }]',
    ),
    ('testpaths = ["tests"]', 'testpaths = ["python/tests"]'),
]


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    return []


get_requires_for_build_editable = get_requires_for_build_wheel
get_requires_for_build_sdist = get_requires_for_build_wheel

prepare_metadata_for_build_wheel = maturin.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = maturin.prepare_metadata_for_build_wheel


def build_wheel(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    build_libs()
    return maturin.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str,
    config_settings: dict[str, Any] | None = None,
    metadata_directory: str | None = None,
) -> str:
    # The module and `_libs/` are put beside the sources, where git ignores them; they stay as they
    # are until the next `pip install -e`.
    build_libs()
    return maturin.build_editable(wheel_directory, config_settings, metadata_directory)


def build_libs() -> None:
    """Builds the command and the libraries and puts them into `memvelope/_libs/`."""
    cargo = shutil.which("cargo")
    if cargo is None:
        sys.exit(
            "error: building memvelope needs cargo, which is not on PATH\n"
            "hint: install Rust 1.88 or later (https://rustup.rs), or use a wheel"
        )
    command = [cargo, "build", "--release", "--message-format=json-render-diagnostics"]
    if (WORKSPACE / "Cargo.lock").exists():
        command.append("--locked")
    for package, _, _ in ARTIFACTS:
        command += ["--package", package]
    print(f"Running `{' '.join(command)}`", flush=True)
    # In the workspace's folder, so that its .cargo/config.toml counts. Where artifacts land is
    # cargo's to say: CARGO_TARGET_DIR, a configured target and so on are respected by reading it.
    done = subprocess.run(command, cwd=WORKSPACE, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"error: building the libraries failed: cargo ended with {done.returncode}")
    built = artifacts(done.stdout.decode())
    LIBS.mkdir(exist_ok=True)
    for package, kind, name in ARTIFACTS:
        if (package, kind) not in built:
            sys.exit(f"error: cargo built no {kind} of {package}")
        install(built[package, kind], LIBS / name)


def artifacts(messages: str) -> dict[tuple[str, str], Path]:
    """The files that cargo says it made, by package and kind."""
    wanted = {(package, kind) for package, kind, _ in ARTIFACTS}
    found = {}
    for line in messages.splitlines():
        message = json.loads(line)
        if message.get("reason") != "compiler-artifact":
            continue
        # The manifest's folder is named like the package.
        package = Path(message["manifest_path"]).parent.name
        for kind in message["target"]["kind"]:
            if (package, kind) in wanted:
                files = [Path(file) for file in message["filenames"]]
                shared = [file for file in files if file.suffix == ".so"]
                executable = message.get("executable")
                file = Path(executable) if executable else next(iter(shared), None)
                if file is not None:
                    found[package, kind] = file
    return found


def install(source: Path, target: Path) -> None:
    """Copies `source` stripped of its symbol table, whole or not at all: a process may have the
    old file mapped."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        copy = Path(folder) / target.name
        shutil.copy2(source, copy)
        strip = shutil.which("strip")
        if strip is not None:
            # Dynamic symbols stay; what goes is a quarter of the size.
            subprocess.run([strip, "--strip-unneeded", str(copy)], check=False)
        copy.chmod(0o755)
        os.replace(copy, target)


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    with tempfile.TemporaryDirectory() as folder:
        info = maturin.prepare_metadata_for_build_wheel(folder, config_settings)
        metadata = (Path(folder) / info / "METADATA").read_bytes()
    base = info[: -len(".dist-info")]
    name = f"{base}.tar.gz"
    files = {
        "PKG-INFO": (metadata, False),
        "pyproject.toml": (moved_pyproject().encode(), False),
    }
    for path in shipped_files():
        files[path.relative_to(WORKSPACE).as_posix()] = (
            path.read_bytes(),
            os.access(path, os.X_OK),
        )
    # No times and no owners: the same sources give the same archive.
    with (
        open(Path(sdist_directory) / name, "wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path, (content, executable) in sorted(files.items()):
            entry = tarfile.TarInfo(f"{base}/{path}")
            entry.size = len(content)
            entry.mode = 0o755 if executable else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return name


def moved_pyproject() -> str:
    """`pyproject.toml` as it must be at the root of the workspace."""
    at_root = WORKSPACE / "pyproject.toml"
    if at_root.exists():  # this is a source distribution already
        return at_root.read_text()
    text = (PYTHON / "pyproject.toml").read_text()
    for here, there in MOVED_LINES:
        if text.count(f"{here}\n") != 1:
            sys.exit(f"error: pyproject.toml should have this line exactly once: {here}")
        text = text.replace(f"{here}\n", f"{there}\n")
    return text


def shipped_files() -> list[Path]:
    """Files of a source distribution."""
    found = []
    for name in SHIPPED:
        top = WORKSPACE / name
        if top.is_file():
            found.append(top)
        for folder, subfolders, names in os.walk(top):
            subfolders[:] = [
                name
                for name in subfolders
                if name not in LEFT_OUT and not name.startswith((".", "target-"))
            ]
            found += [
                Path(folder) / file
                for file in names
                if not file.endswith((".so", ".pyc")) and not file.startswith(".")
            ]
    return found
