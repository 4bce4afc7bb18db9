"""Does the balance close on a real model, and is `would_fit` right: what `model_loop.py` found, and
what it is held to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from place import Failed, Place, Skipped

LIMIT_S = 500.0
#: Of what is used, at every step.
UNACCOUNTED_MAX = 0.01
#: Of the predictions.
RIGHT_MIN = 0.99


def model(place: Place, part: str, expandable: bool = False) -> dict[str, Any]:
    """One run of it, with its verdicts."""
    words: list[Any] = [sys.executable, Path(__file__).with_name("model_loop.py"), "--part", part]
    words += ["--expandable", int(expandable)]
    if place.quick:
        words += ["--tries", 40]
    found = place.json_of(words, LIMIT_S, {"PYTHONPATH": str(place.site())})
    if "skipped" in found:
        raise Skipped(found["skipped"])
    if "failed" in found:
        raise Failed(f"the model: {found['failed']}", found)
    return found | {"verdicts": verdicts(found, place.is_sim)}


def verdicts(found: dict[str, Any], simulated: bool) -> list[dict[str, Any]]:
    """Each aim with its value. A simulated driver's books are the simulator's."""
    rows: list[dict[str, Any]] = []

    def judge(aim: str, value: float | None, good: bool) -> None:
        verdict = "no data" if value is None else "pass" if good else "fail"
        rows.append({
            "aim": aim,
            "value": value,
            "verdict": "not judged: simulated" if simulated else verdict,
        })

    for step in found.get("steps", []):
        share = step["share"]
        aim = f"{step['step']}: unaccounted is at most {UNACCOUNTED_MAX:.0%} of what is used"
        judge(aim, share, share is not None and share <= UNACCOUNTED_MAX)
    for via in ("torch", "driver"):
        if (fit := found.get(f"would_fit_{via}")) is not None:
            share = fit["right_share"]
            aim = f"would_fit through {via} is right in {RIGHT_MIN:.0%} of {fit['tries']} sizes"
            judge(aim, share, share >= RIGHT_MIN)
    if (oom := found.get("out_of_memory")) is not None:
        report = oom["report"]
        has = report is not None and report["framework"] is not None and not oom["problems"]
        judge("the picture is there when the exception is", float(has), has)
    return rows
