"""Runs the stages of the GPU lane, each in a process of its own and for a limited time, and writes
results.json: what was measured, on what, by which commit."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import aims
import schema
from place import Place, run
from stages import Stage, all_stages, run_stage

BUNDLE = Path(__file__).resolve().parent.parent


def main() -> int:
    args = arguments()
    is_sim = args.device == "sim"
    quick = args.quick or is_sim
    folder = Path(args.results or BUNDLE / ("results-sim" if is_sim else "results")).resolve()
    place = Place(BUNDLE, folder, args.device, quick, args.rounds or (2 if quick else 5))
    if args.stage:
        # As an exception, so that the stage ends what it started before it ends itself.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        print(json.dumps(run_stage(place, args.stage)))
        return 0
    begin(place, args.afresh)
    end = time.monotonic() + (args.budget or float("inf"))
    wanted = set(args.only.split(",")) if args.only else None
    stages = all_stages(place)
    if wanted and (unknown := wanted - {stage.name for stage in stages}):
        print(f"error: no such stages: {sorted(unknown)}", file=sys.stderr)
        return 2
    for stage in stages:
        if wanted is None or stage.name in wanted:
            settle(place, stage, end - time.monotonic())
    return finish(place, stages)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.sh", description=__doc__)
    parser.add_argument("--device", default="0", help="a CUDA ordinal, or sim (a dry run)")
    parser.add_argument("--results", help="folder of the results (results/ in the bundle)")
    parser.add_argument("--rounds", type=int, help="rounds of each comparison (5)")
    parser.add_argument("--quick", action="store_true", help="small sizes: proves the scripts")
    parser.add_argument("--budget", type=float, help="seconds; starts nothing that may take longer")
    parser.add_argument("--only", help="stages, by name, with commas")
    parser.add_argument("--afresh", action="store_true", help="forgets earlier stages")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    return parser.parse_args()


def begin(place: Place, afresh: bool) -> None:
    """Stages of another commit, device or size are not this run's."""
    identity = json.dumps([place.commit(), place.device, place.quick])
    stamp = place.results / "run.json"
    # Only a folder that a run has stamped is ever cleared.
    if stamp.exists() and (afresh or stamp.read_text() != identity):
        shutil.rmtree(place.results)
    (place.results / "stages").mkdir(parents=True, exist_ok=True)
    stamp.write_text(identity)


def kept(place: Place, stage: Stage) -> Path:
    return place.results / "stages" / f"{stage.name}.json"


def read(place: Place, stage: Stage) -> dict[str, Any] | None:
    path = kept(place, stage)
    return json.loads(path.read_text()) if path.exists() else None


def settle(place: Place, stage: Stage, left_s: float) -> None:
    """Runs a stage unless it is done. Whatever it does, the next one gets its turn."""
    before = read(place, stage)
    if before is not None and before["status"] == "ok":
        print(f"== {stage.name}: already done", flush=True)
        return
    # A comparison keeps its finished rounds, so a part of its time is better than none.
    limit_s = min(stage.limit_s, left_s - 5)
    if limit_s < min(stage.limit_s, 60):
        print(f"== {stage.name}: not run, the budget is spent", flush=True)
        return
    print(f"== {stage.name}", flush=True)
    begun = time.time()
    words = [sys.executable, "-B", str(Path(__file__).parent), "--stage", stage.name]
    words += ["--device", place.device, "--results", str(place.results)]
    words += ["--rounds", str(place.rounds), *(["--quick"] if place.quick else [])]
    ran = run(words, limit_s, dict(os.environ))
    try:
        outcome = json.loads(ran["stdout"])
    except json.JSONDecodeError:
        status = "timeout" if ran["how"].startswith("took") else "failed"
        outcome = {"status": status, "reason": ran["how"], "found": None}
    outcome |= {
        "seconds": round(time.time() - begun, 1),
        "begun": datetime.fromtimestamp(begun, timezone.utc).isoformat(timespec="seconds"),
        "commit": place.commit(),
        "stderr_tail": ran["stderr"][-8000:],
    }
    write(kept(place, stage), outcome)
    reason = f": {outcome['reason'].splitlines()[0]}" if outcome["reason"] else ""
    print(f"   {outcome['status']}{reason} ({outcome['seconds']} s)", flush=True)


def write(path: Path, document: dict[str, Any]) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    part.replace(path)


def finish(place: Place, stages: list[Stage]) -> int:
    """results.json, the table, and 1 where a stage failed."""
    done: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for stage in stages:
        outcome = read(place, stage)
        if outcome is None:
            outcome = {"status": "not run", "reason": None, "found": None, "seconds": 0,
                       "begun": None, "commit": place.commit(), "stderr_tail": ""}
        done[stage.name] = outcome
        rows += (outcome["found"] or {}).get("rows", [])
    machine = done["machine"]["found"]
    # Simulated unless the driver was asked and is none of ours: the safe side.
    simulated = place.is_sim or machine is None or machine["simulated"]
    verdicts = aims.judged(rows, simulated)
    results = {
        "schema": 1,
        "commit": place.commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": place.device,
        "simulated": simulated,
        "quick": place.quick,
        "machine": machine,
        "stages": done,
        "slowdowns": rows,
        "aims": verdicts,
    }
    path = place.results / "results.json"
    write(path, results)
    print("\n" + aims.text(rows, verdicts, simulated))
    print(f"\n{path}")
    wrong = schema.check(path)
    for line in wrong:
        print(f"error: results.json: {line}", file=sys.stderr)
    bad = [name for name, outcome in done.items() if outcome["status"] in ("failed", "timeout")]
    if bad:
        print(f"failed: {', '.join(bad)}", file=sys.stderr)
    return int(bool(wrong or bad))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.SubprocessError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
