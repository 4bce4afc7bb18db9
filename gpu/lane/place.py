"""Where things are: the bundle, the results, the driver to run on, and how a program is started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Names under which the simulator serves; cudarc tries the first.
SIM_NAMES = ("libcuda.so", "libcuda.so.1", "libcupti.so.13", "libnvidia-ml.so.1")


class Skipped(Exception):
    """What a stage needs is not here; the text says what."""


class Failed(Exception):
    """A program of the stage ended badly; the text says how, and `found` is what there is."""

    def __init__(self, why: str, found: dict[str, Any] | None = None) -> None:
        super().__init__(why)
        self.found = found


@dataclass
class Place:
    """One run: the unpacked bundle, the folder of results, and what it runs on."""

    bundle: Path
    results: Path
    device: str
    quick: bool
    rounds: int

    @property
    def is_sim(self) -> bool:
        return self.device == "sim"

    def binary(self, name: str) -> Path:
        return self._file(f"bin/{name}")

    def library(self, name: str) -> Path:
        return self._file(f"lib/{name}")

    def _file(self, name: str) -> Path:
        path = self.bundle / name
        if not path.exists():
            raise Skipped(f"{name} is not in the bundle")
        return path

    def commit(self) -> str:
        path = self.bundle / "commit.txt"
        return path.read_text().strip() if path.exists() else "unknown"

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """The environment of a program of this run: nothing of ours that was set outside."""
        outside = ("MEMVELOPE_", "GPU_LANE_", "CUDA_INJECTION64_PATH")
        env = {k: v for k, v in os.environ.items() if not k.startswith(outside)}
        if self.is_sim:
            path = [str(self._sim_folder()), env.get("LD_LIBRARY_PATH", "")]
            env["LD_LIBRARY_PATH"] = ":".join(part for part in path if part)
        elif (cupti := chosen_cupti()) is not None:
            # One libcupti for everybody that is compared.
            env["GPU_LANE_CUPTI"] = str(cupti)
            env["MEMVELOPE_CUPTI_PATH"] = str(cupti)
        if self.device.isdigit():
            # The one device is the program's device 0, and NVML counts as CUDA then does.
            visible = env.get("CUDA_VISIBLE_DEVICES")
            there = visible.split(",") if visible else []
            index = int(self.device)
            env["CUDA_VISIBLE_DEVICES"] = there[index] if index < len(there) else self.device
            env.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        return env | (extra or {})

    def _sim_folder(self) -> Path:
        folder = self.results / "sim"
        folder.mkdir(parents=True, exist_ok=True)
        simulator = self.library("libmemvelope_sim.so").resolve()
        for name in SIM_NAMES:
            link = folder / name
            if not link.is_symlink():
                link.symlink_to(simulator)
        return folder

    def site(self) -> Path:
        """The wheel, unpacked, for `PYTHONPATH`."""
        wheels = sorted((self.bundle / "wheel").glob("*.whl"))
        if not wheels:
            raise Skipped("no wheel in the bundle")
        folder = self.results / "site"
        if not (folder / "memvelope").exists():
            with zipfile.ZipFile(wheels[0]) as wheel:
                wheel.extractall(folder)
            for program in (folder / "memvelope" / "_libs").glob("*"):
                program.chmod(0o755)
        return folder

    def json_of(
        self, command: list[Any], limit_s: float, extra: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Runs a program that writes JSON to `--out`. What went wrong is an answer as well: the
        exit code, or the signal of a crash."""
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            words = [str(word) for word in command] + ["--out", out.name]
            ran = run(words, limit_s, self.environment(extra))
            text = Path(out.name).read_text()
        found: dict[str, Any] = json.loads(text) if text.strip() else {}
        if ran["code"] != 0:
            found |= {"failed": ran["how"], "stderr": ran["stderr"][-2000:]}
        return found

    def native(
        self, words: list[Any], limit_s: float, extra: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """A workload or probe of `gpu-lane`."""
        command = [self.binary("gpu-lane"), *words, "--ptx", self.bundle / "cuda"]
        return self.json_of(command, limit_s, extra)


def run(words: list[str], limit_s: float, env: dict[str, str]) -> dict[str, Any]:
    """Runs a program in a process group of its own, which ends with its time."""
    child = subprocess.Popen(
        words,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    is_late = False
    try:
        stdout, stderr = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        is_late = True
        stdout, stderr = end(child)
    except BaseException:
        end(child)
        raise
    code = child.returncode
    if is_late:
        how = f"took more than {limit_s:.0f} s"
    elif code < 0:
        how = f"ended by {signal.Signals(-code).name}"
    else:
        how = f"exit code {code}"
    if code != 0:
        print(f"{words[0]} {' '.join(words[1:4])}: {how}\n{stderr[-4000:]}", file=sys.stderr)
    return {"code": code, "how": how, "stdout": stdout, "stderr": stderr}


def end(child: subprocess.Popen[str]) -> tuple[str, str]:
    """Ends a process group. First politely: a stage then ends the group of its own program, which
    would otherwise go on and disturb the next stage."""
    os.killpg(child.pid, signal.SIGTERM)
    try:
        output = child.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        return child.communicate()
    return output


def cupti_libraries() -> list[tuple[str, Path]]:
    """Every libcupti of this machine, with the version its package states, the preferred first:
    that of the installed PyTorch's packages, then the toolkit's."""
    found: list[tuple[str, Path]] = []
    for folder in map(Path, sys.path):
        if not folder.is_dir():
            continue
        for pattern in ("nvidia/cu1?/lib/libcupti.so.1?", "nvidia/cuda_cupti/lib/libcupti.so.1?"):
            for path in sorted(folder.glob(pattern), reverse=True):
                suffix = "_cu12" if path.name.endswith("12") else ""
                stated = folder.glob(f"nvidia_cuda_cupti{suffix}-*.dist-info")
                versions = [info.name.split("-")[1].removesuffix(".dist") for info in stated]
                found.append((versions[0] if versions else "unknown", path))
        for path in sorted(folder.glob("triton/backends/nvidia/lib/cupti/libcupti.so*")):
            found.append(("triton's", path))
    for root in sorted(Path("/usr/local").glob("cuda*"), reverse=True):
        for path in sorted(root.glob("extras/CUPTI/lib64/libcupti.so.1?"), reverse=True):
            found.append((root.name, path))
    unique: dict[Path, tuple[str, Path]] = {}
    for version, path in found:
        unique.setdefault(path.resolve(), (version, path))
    return list(unique.values())


def chosen_cupti() -> Path | None:
    """The libcupti that every comparison of this run uses."""
    libraries = cupti_libraries()
    return libraries[0][1] if libraries else None


def cudart() -> Path | None:
    """A libcudart, for the questions about the runtime."""
    patterns = ("nvidia/cu1?/lib/libcudart.so.1?", "nvidia/cuda_runtime/lib/libcudart.so.1?")
    for folder in [*map(Path, sys.path), Path("/usr/local/cuda")]:
        for pattern in (*patterns, "lib64/libcudart.so.1?"):
            if folder.is_dir() and (found := sorted(folder.glob(pattern), reverse=True)):
                return found[0]
    return None
