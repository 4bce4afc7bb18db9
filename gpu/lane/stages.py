"""The stages, in the order of what is worth most when time runs out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import ledger
import overhead
import questions
from place import Failed, Place, Skipped, run


@dataclass(frozen=True)
class Stage:
    """What runs, and how long it may."""

    name: str
    limit_s: int
    body: Callable[[Place], dict[str, Any]]


def program(
    place: Place, words: list[Any], limit_s: float, good: tuple[int, ...] = (0,)
) -> dict[str, Any]:
    """A program of the bundle whose output is the result: JSON, or text."""
    name, *rest = words
    command = [str(place.binary(name)), *map(str, rest)]
    ran = run(command, limit_s, place.environment({"MEMVELOPE_GPU": "require"}))
    text = ran["stdout"].strip()
    if ran["code"] not in good:
        raise Failed(f"{name}: {ran['how']}\n{text[-4000:]}")
    found: dict[str, Any] = json.loads(text) if text.startswith("{") else {"text": text[-60_000:]}
    return found | {"exit_code": ran["code"]}


def doctor(place: Place) -> dict[str, Any]:
    # 1 says that something is not recorded, which is what the report is for.
    return program(place, ["memvelope", "doctor", "--json"], 60, good=(0, 1))


def conformance(place: Place) -> dict[str, Any]:
    which = "sim::" if place.is_sim else "gpu::"
    if place.is_sim:
        # The twins start the simulated driver themselves.
        command = [str(place.binary("conformance")), which, "--test-threads=1"]
        ran = run(command, 300, place.environment({"LD_LIBRARY_PATH": ""}))
        if ran["code"] != 0:
            raise Failed(f"conformance: {ran['how']}\n{ran['stdout'][-4000:]}")
        return {"text": ran["stdout"][-60_000:]}
    return program(place, ["conformance", which, "--test-threads=1"], 300)


def demo(place: Place, name: str, extra: list[str]) -> dict[str, Any]:
    device = "sim" if place.is_sim else "0"
    words = ["memvelope", "demo", "--device", device, "--json", *extra]
    if place.quick:
        words += ["--count", "60", "--rate", "1000", "--max-new-tokens", "64"]
    return program(place, [*words, "--out", place.results / name], 300)


def bench(place: Place, name: str) -> dict[str, Any]:
    return program(place, [name, *(["--quick"] if place.quick else [])], 300)


def wheel(place: Place) -> dict[str, Any]:
    script = "import json, memvelope; print(json.dumps(memvelope.doctor(), default=str))"
    env = place.environment({"PYTHONPATH": str(place.site())})
    ran = run([sys.executable, "-c", script], 60, env)
    if ran["code"] != 0:
        raise Failed(f"the wheel: {ran['how']}")
    return json.loads(ran["stdout"])


def all_stages(place: Place) -> list[Stage]:
    stages = [
        Stage("machine", 200, questions.machine),
        Stage("doctor", 90, doctor),
        Stage("conformance", 330, conformance),
        Stage("overhead-launch", 560, partial(overhead.native, workload="launch")),
        Stage("records", 120, questions.records),
        Stage("injection", 300, questions.injection),
        *(
            Stage(name, 560, partial(questions.ask, name=name))
            for name in questions.QUESTIONS
        ),
        Stage("overhead-decode-graphs", 560, partial(overhead.decode, graphs=True)),
        Stage("overhead-decode-eager", 560, partial(overhead.decode, graphs=False)),
        Stage("overhead-memory", 560, partial(overhead.native, workload="memory")),
        Stage("overhead-graph", 560, partial(overhead.native, workload="graph")),
        Stage("overhead-churn", 560, partial(overhead.native, workload="churn")),
        Stage("cupti-versions", 560, questions.versions),
        Stage("wheel", 90, wheel),
        Stage("ledger-driver", 560, partial(ledger.model, part="driver")),
        Stage("ledger-model", 560, partial(ledger.model, part="torch")),
        Stage(
            "ledger-model-expandable",
            560,
            partial(ledger.model, part="torch", expandable=True),
        ),
        Stage("demo", 330, partial(demo, name="demo", extra=[])),
    ]
    tight = ["--vram", "24GiB", "--speed", "4"]
    stages.append(Stage("demo-tight", 330, partial(demo, name="demo-tight", extra=tight)))
    no_gate = [*tight, "--no-gate"]
    stages.append(Stage("demo-no-gate", 330, partial(demo, name="demo-no-gate", extra=no_gate)))
    for path in sorted((place.bundle / "bin").glob("bench-*")):
        stages.append(Stage(path.name, 330, partial(bench, name=path.name)))
    return stages


def run_stage(place: Place, name: str) -> dict[str, Any]:
    """One stage in this process: how it ended, and what it found."""
    stage = next((stage for stage in all_stages(place) if stage.name == name), None)
    if stage is None:
        raise SystemExit(f"no such stage: {name}")
    try:
        return {"status": "ok", "reason": None, "found": stage.body(place)}
    except Skipped as why:
        return {"status": "skipped", "reason": str(why), "found": None}
    except Failed as why:
        return {"status": "failed", "reason": str(why), "found": why.found}
