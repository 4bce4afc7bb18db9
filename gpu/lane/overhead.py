"""What recording costs: the same work, recorded in different ways, in interleaved rounds.

Modes (README.md defines them): each sample is a process of its own; a round has one sample of each
mode, in an order that moves on by one each round; ratios are to `nothing` of the same round.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from place import Failed, Place, Skipped, run

#: Work of one sample: (real, quick).
SIZES: dict[str, tuple[list[Any], list[Any]]] = {
    "launch": (["--count", 1_000_000, "--batch", 1000], ["--count", 2000, "--batch", 100]),
    "memory": (["--count", 50, "--bytes", 256 << 20], ["--count", 5, "--bytes", 1 << 20]),
    "churn": (["--count", 20_000, "--batch", 100], ["--count", 200, "--batch", 20]),
    "graph": (["--count", 20_000, "--batch", 100], ["--count", 200, "--batch", 20]),
}

NATIVE_MODES = (
    "nothing",
    "polling",
    "idle",
    "recording-injected",
    "recording-in-process",
    "raw-collector",
    "recording-run",
)

TORCH_MODES = (*NATIVE_MODES[:-1], "torch-profiler-cuda", "torch-profiler")

#: One sample, at most. The slowest (PyTorch's profiler) takes a third of it.
SAMPLE_LIMIT_S = 120.0


def native(place: Place, workload: str) -> dict[str, Any]:
    """The slowdowns of one workload of `gpu-lane`."""
    modes = [mode for mode in NATIVE_MODES if mode != "recording-run" or has_run(place)]

    def sample(mode: str) -> dict[str, Any]:
        words = ["workload", workload, *SIZES[workload][place.quick]]
        before, env, report = prepared(place, mode)
        record = {"idle": "stopped", "recording-in-process": "session"}.get(mode, "none")
        words += ["--record", record]
        if before:
            command = [*before, place.binary("gpu-lane"), *words, "--ptx", place.bundle / "cuda"]
            found = place.json_of(command, SAMPLE_LIMIT_S, env)
        else:
            found = place.native(words, SAMPLE_LIMIT_S, env)
        return found | {"recorder": read_report(report)}

    return rounds(place, workload, modes, sample)


def decode(place: Place, graphs: bool) -> dict[str, Any]:
    """The slowdowns of the PyTorch loop."""
    if place.is_sim:
        probe = run([sys.executable, "-c", "import torch"], 60, place.environment())
        why = "PyTorch does not run on the simulated driver"
        raise Skipped(why if probe["code"] == 0 else "torch not importable")
    program = Path(__file__).with_name("decode_loop.py")
    command = [sys.executable, "-B", program, "--graphs", int(graphs)]
    command += ["--steps", 50 if place.quick else 1000]
    first = place.json_of([*command, "--record", "check"], SAMPLE_LIMIT_S)
    if "skipped" in first or "failed" in first:
        raise Skipped(first.get("skipped") or f"the loop does not run: {first['failed']}")

    def sample(mode: str) -> dict[str, Any]:
        _, env, report = prepared(place, mode)
        env["PYTHONPATH"] = str(place.site())
        found = place.json_of([*command, "--record", mode], SAMPLE_LIMIT_S, env)
        return found | {"recorder": read_report(report)}

    return rounds(place, f"decode-{'graphs' if graphs else 'eager'}", list(TORCH_MODES), sample)


def has_run(place: Place) -> bool:
    """Whether this bundle's command has the subcommand `run`."""
    try:
        command = [str(place.binary("memvelope")), "run", "--help"]
    except Skipped:
        return False
    return run(command, 10, place.environment())["code"] == 0


def prepared(place: Place, mode: str) -> tuple[list[Any], dict[str, str], Path]:
    """What goes before the program, its environment, and where its recorder reports."""
    report = place.results / "reports" / f"{mode}.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    inject = {"CUDA_INJECTION64_PATH": str(place.library("libmemvelope_inject.so"))}
    match mode:
        case "polling":
            env = inject | {"MEMVELOPE_RECORD": "poll", "MEMVELOPE_REPORT": str(report)}
            return [], env, report
        case "recording-injected":
            return [], inject | {"MEMVELOPE_REPORT": str(report)}, report
        case "raw-collector":
            collector = str(place.library("libgpu_lane_collector.so"))
            env = {"CUDA_INJECTION64_PATH": collector, "GPU_LANE_COUNTS": str(report)}
            return [], env, report
        case "recording-run":
            command = [place.binary("memvelope"), "run", "--out", report.parent / "run", "--json"]
            device = ["--device", "sim"] if place.is_sim else []
            return [*command, *device, "--"], {}, report
    return [], {}, report


def read_report(path: Path) -> dict[str, Any]:
    """What the recorder counted: the sign that it did record."""
    if not path.exists():
        return {}
    report = json.loads(path.read_text())
    if "self" in report:
        return {"mode": report["mode"], **report["self"]}
    return {key: report[key] for key in report if key != "records_by_kind"}


def rounds(place: Place, name: str, modes: list[str], sample: Any) -> dict[str, Any]:
    """Interleaved rounds. Those of an earlier, interrupted run count; each is whole by itself."""
    kept = place.results / f"rounds-{name}.jsonl"
    done: list[dict[str, Any]] = []
    if kept.exists():
        done = [json.loads(line) for line in kept.read_text().splitlines()]
    while len(done) < place.rounds:
        shift = len(done) % len(modes)
        this: dict[str, Any] = {"begun": time.time()}
        for mode in modes[shift:] + modes[:shift]:
            found = sample(mode)
            if "skipped" in found:
                raise Skipped(found["skipped"])
            this[mode] = found
        done.append(this)
        with kept.open("a") as out:
            out.write(json.dumps(this) + "\n")
    table = rows(name, modes, done)
    document = {"workload": name, "rounds": len(done), "rows": table, "raw": done}
    if not any(row["rounds"] for row in table):
        raise Failed(f"no sample of {name} counts: {table[0]['failures'][0]}", document)
    return document


def rows(name: str, modes: list[str], done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a mode: the median, its ratio to `nothing` and to the raw collector, round by
    round, and what was recorded in the last of them."""
    table = []
    for mode in modes:
        wrong = [what_is_wrong(name, mode, r[mode]) for r in done]
        price = {i: r[mode]["ns_per_item"] for i, r in enumerate(done) if not wrong[i]}
        row: dict[str, Any] = {"workload": name, "mode": mode, "rounds": len(price)}
        row["failures"] = [failure for failure in wrong if failure]
        row["ns_per_item"] = median(price.values()) if price else None
        for key, peer in (("to_nothing", "nothing"), ("to_raw_collector", "raw-collector"),
                          ("to_torch_profiler", "torch-profiler-cuda")):
            ratios = [
                ns / done[i][peer]["ns_per_item"]
                for i, ns in price.items()
                if peer in done[i] and not what_is_wrong(name, peer, done[i][peer])
            ]
            row[key] = median(ratios) if ratios else None
            row[f"{key}_range"] = [min(ratios), max(ratios)] if ratios else None
        row["recorder"] = recorder_of(done[-1][mode])
        table.append(row)
    return table


def recorder_of(found: dict[str, Any]) -> dict[str, Any]:
    """What the recorder of a sample counted, whichever it was."""
    return found.get("self") or found.get("stopped_session") or found.get("recorder") or {}


def what_is_wrong(workload: str, mode: str, found: dict[str, Any]) -> str | None:
    """Why a sample does not count: it failed, or its recorder recorded nothing."""
    if "failed" in found:
        return found["failed"]
    if not found.get("ns_per_item", 0) > 0:
        return "no time was measured"
    recorder = recorder_of(found)
    counted = recorder.get("records", recorder.get("recorder", {}).get("records", 0))
    # Allocations are no activity of the collector's kinds; memvelope run reports in its own way.
    is_told = mode in ("idle", "recording-injected", "recording-in-process", "raw-collector")
    if is_told and not counted and not (workload == "churn" and mode == "raw-collector"):
        return "nothing was recorded"
    return None
