"""Questions that only a real driver answers. Each has variants, one process each; what was found
stands beside what memvelope presumes, and a reader decides."""

from __future__ import annotations

import json
import sys
from typing import Any

from place import Failed, Place, Skipped, cudart, cupti_libraries, run

PROBE_LIMIT_S = 90.0

#: Bytes of records by the first CUPTI version (major, minor) that has them so.
SIZES: dict[str, list[tuple[tuple[int, int], int]]] = {
    "DRIVER": [((12, 0), 40)],
    "RUNTIME": [((12, 0), 40)],
    "CONCURRENT_KERNEL": [
        ((12, 0), 208), ((13, 0), 216), ((13, 1), 224), ((13, 3), 232), ((13, 4), 248)],
    "MEMCPY": [((12, 0), 88), ((12, 8), 96), ((13, 4), 112)],
    "MEMSET": [((12, 0), 88), ((13, 4), 104)],
    "MEMCPY2": [((12, 0), 96)],
    "EXTERNAL_CORRELATION": [((12, 0), 24)],
    "STREAM": [((12, 0), 24)],
    "MEMORY2": [((12, 0), 120), ((12, 6), 128)],
    "MEMORY_POOL": [((12, 0), 72), ((13, 0), 80)],
    "SYNCHRONIZATION": [((12, 0), 40), ((12, 8), 56)],
    "OVERHEAD": [((12, 0), 40), ((12, 3), 48), ((12, 4), 56)],
    "GRAPH_TRACE": [((12, 0), 48), ((12, 3), 56)],
    "CUDA_EVENT": [((12, 0), 24), ((12, 8), 56), ((13, 5), 80)],
    "DEVICE": [((12, 0), 176), ((12, 2), 184), ((13, 2), 192)],
    "CONTEXT": [((12, 0), 16), ((12, 4), 24), ((12, 5), 32), ((13, 1), 40)],
}

#: Per question: what memvelope presumes, the probe, and its variants.
Variants = dict[str, list[Any]]
QUESTIONS: dict[str, tuple[str, str, Variants]] = {
    "footprint": (
        "CUPTI takes device memory per context: 3.2 MB a buffer, 3 at once, up to its limit; "
        "pinned host memory instead where that attribute is set",
        "footprint",
        {
            "not attached": ["--attach", "none"],
            "default limit": ["--attach", "before"],
            "limit 1": ["--attach", "before", "--limit", 1],
            "limit 16": ["--attach", "before", "--limit", 16],
            "limit 250": ["--attach", "before", "--limit", 250],
            "attached late, limit 16": ["--attach", "after", "--limit", 16],
            "pinned": ["--attach", "before", "--pinned", 1],
        },
    ),
    "attributes": ("PER_THREAD_ACTIVITY_BUFFER is on from 13.0", "attributes", {"defaults": []}),
    "correlation": (
        "a runtime call yields RUNTIME records and no DRIVER record; EXTERNAL_CORRELATION needs "
        "API records, and what covers runtime calls is unknown",
        "correlation",
        {
            f"{api}, records of {record}": ["--api", api, "--record", record]
            for api in ("driver", "runtime")
            for record in ("driver", "runtime", "both", "driver-launches", "neither")
        },
    ),
    "graphs": (
        "with GRAPH_TRACE one record a launch and none of the nodes, only of graphs instantiated "
        "later; switching it off does not bring the nodes back",
        "graphs",
        {
            **{trace: ["--trace", trace] for trace in ("never", "before", "after", "off-again")},
            "never, attached late": ["--trace", "never", "--late", 1],
        },
    ),
    "pressure": (
        "when device buffers run out, records come with start = end = 0",
        "pressure",
        {
            "limit 1": ["--limit", 1],
            "limit 1, smallest buffer": ["--limit", 1, "--bytes", 1 << 16],
            "limit 16": ["--limit", 16],
        },
    ),
    "clock": (
        "cuptiGetTimestamp takes tens of nanoseconds; a clock of ours is asked while records are "
        "processed, not at launches, and spoils no record",
        "clock",
        {"CUPTI's": [], "ours": ["--own", 1]},
    ),
    "name-reads": ("under a microsecond a name", "name-reads", {"self": []}),
    "fragments": (
        "gaps between addresses are no fragmentation: with every second page free, one allocation "
        "gets all that is free, to a page",
        "fragments",
        {
            **{f"{by}, a page each": ["--by", by] for by in ("alloc", "create", "map")},
            "alloc, 32 pages each": ["--by", "alloc", "--pages", 32],
        },
    ),
    "rounding": (
        "up to half a page, allocations share pages without gaps; above, each takes whole pages; "
        "all of it comes back with the last one",
        "rounding",
        {"64 of each": []},
    ),
    "block-ids": (
        "MEMORY_BLOCK_ID is one for all views of a handle, and is told for plain and for shared "
        "memory; memory that was opened takes nothing here, and opened again has the same address",
        "block-ids",
        {"all families": []},
    ),
    "context-size": (
        "a context grows when modules are loaded, lazily at their first launch, and when the stack "
        "is set; no published size holds for every GPU",
        "context-size",
        {"as it is": []},
    ),
    "attach": (
        "attaching late takes seconds at most; after disabling, launches cost what they did",
        "attach",
        {f"{n} contexts": ["--contexts", n] for n in (1, 4)},
    ),
}

#: What a quick run, which proves the scripts and not the GPU, does of everything.
QUICK: dict[str, list[Any]] = {
    **{
        probe: ["--launches", launches]
        for probe, launches in
        {"footprint": 3000, "pressure": 3000, "clock": 500, "attach": 100}.items()
    },
    "fragments": ["--blocks", 512],
}


def ask(place: Place, name: str) -> dict[str, Any]:
    """One question in all its variants."""
    presumed, probe, variants = QUESTIONS[name]
    answers: dict[str, Any] = {}
    for variant, words in variants.items():
        words = ["probe", probe, *words]
        if place.quick and probe in QUICK:
            words += QUICK[probe]
        if "runtime" in words and words[words.index("--api") + 1] == "runtime":
            library = None if place.is_sim else cudart()
            if library is None:
                answers[variant] = {"skipped": "no libcudart"}
                continue
            words += ["--cudart", library]
        answers[variant] = place.native(words, PROBE_LIMIT_S)
    document = {"presumed": presumed, "answers": answers, "in_short": in_short(name, answers)}
    if all("failed" in found for found in answers.values()):
        raise Failed(f"no variant of {name} could be asked", document)
    return document


def in_short(name: str, answers: dict[str, Any]) -> dict[str, Any]:
    """The figures that decide, out of many."""
    short: dict[str, Any] = {}
    for variant, found in answers.items():
        if "skipped" in found or "failed" in found:
            short[variant] = found.get("skipped") or found.get("failed")
        elif name == "footprint":
            begin = found["steps"][0]["free_bytes"]
            short[variant] = {s["step"]: begin - s["free_bytes"] for s in found["steps"]}
        elif name == "correlation":
            short[variant] = {key: found[key] for key in found if "_id" in key or "device" in key}
        elif name == "graphs":
            short[variant] = found["steps"]
        elif name == "attach":
            short[variant] = {step["step"]: step["ns"] for step in found["steps"]}
        elif name == "context-size":
            short[variant] = {s["step"]: s["nvml_used_bytes"] for s in found["steps"]}
        elif name == "rounding":
            short[variant] = {s["bytes"]: s["all_take_bytes"] for s in found["sizes"]}
        elif name == "block-ids":
            short[variant] = {key: ids for key, ids in found.items() if isinstance(ids, dict)}
        elif name in ("attributes", "name-reads"):
            short[variant] = found.get("attributes") or found.get("process_vm_readv")
        else:
            short[variant] = {k: v for k, v in found.items() if isinstance(v, int | float)}
    return short


def version_of(api: int) -> tuple[int, int] | None:
    """Major and minor of an API version; those before 13 do not tell."""
    return (api // 10_000, api // 100 % 100) if api >= 100_000 else None


def records(place: Place) -> dict[str, Any]:
    """Records of every kind against the table, of the libcupti that everything else uses."""
    found = place.native(["probe", "records"], PROBE_LIMIT_S)
    document = {"found": found, "against_the_table": against_table(found)}
    if "failed" in found:
        raise Failed(f"the records could not be read: {found['failed']}", document)
    return document


def against_table(found: dict[str, Any], stated: str = "") -> dict[str, Any]:
    """Sizes that differ, and kinds whose fields are not plausible."""
    version = version_of(found.get("cupti_version") or 0)
    if version is None and stated[:2].isdigit():
        major, minor = stated.split(".")[:2]
        version = (int(major), int(minor))
    sizes: dict[str, Any] = {}
    implausible: dict[str, Any] = {}
    for key, seen in found.get("kinds", {}).get("by_kind", {}).items():
        name = key.split()[1]
        if version is not None and name in SIZES:
            known = [size for since, size in SIZES[name] if since <= version]
            if known and known[-1] != seen["size"]:
                sizes[name] = {"table": known[-1], "found": seen["size"]}
        bad = {k: seen[k] for k in ("end_before_begin", "zero_timestamps", "begin_before_the_work")}
        if any(bad.values()) or seen["is_as_long_as_its_prefix"] is False:
            implausible[name] = bad | {"size": seen["size"]}
    return {"version": version, "sizes_that_differ": sizes, "implausible": implausible}


def versions(place: Place) -> dict[str, Any]:
    """The same of every other libcupti of this machine, on this driver: a crash is an answer."""
    if place.is_sim:
        raise Skipped("the simulated driver has its own libcupti alone")
    answers: dict[str, Any] = {}
    for version, path in cupti_libraries():
        env = {"GPU_LANE_CUPTI": str(path)}
        found = place.native(["probe", "records"], PROBE_LIMIT_S, env)
        short = against_table(found, version)
        short["failed"] = found.get("failed")
        short["enabled"] = found.get("enabled")
        answers[str(path)] = {"package": version, **short}
    if not answers:
        raise Skipped("no libcupti found")
    return {"presumed": "13.2.86 and 13.5 work on this driver once cuInit returned 0",
            "answers": answers}


def injection(place: Place) -> dict[str, Any]:
    """When `InitializeInjection` is called, what is loaded then, what may be called in it, and
    what becomes of `cuInit` by its answer."""
    answers: dict[str, Any] = {}
    out = place.results / "order.json"
    for returned in (1, 0, 2):
        out.unlink(missing_ok=True)
        env = {
            "CUDA_INJECTION64_PATH": str(place.library("libgpu_lane_collector.so")),
            "GPU_LANE_ORDER": str(out),
            "GPU_LANE_RETURN": str(returned),
        }
        words = ["workload", "launch", "--count", 200, "--batch", 100]
        host = place.native(words, PROBE_LIMIT_S, env)
        inside = json.loads(out.read_text()) if out.exists() else None
        answers[f"returns {returned}"] = {"inside": inside, "host": host}
    return {
        "presumed": "libcuda is loaded, libcupti is not; CUPTI may be called; 1 is success; the "
        "program goes on whatever is returned",
        "answers": answers,
    }


def machine(place: Place) -> dict[str, Any]:
    """What all of this was measured on."""
    query = "name,uuid,driver_version,memory.total,compute_cap,mig.mode.current,power.limit"
    gpus = []
    smi = {"code": 1, "stdout": ""}
    if not place.is_sim:
        try:
            words = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
            smi = run(words, 30, place.environment())
        except OSError as error:
            print(f"nvidia-smi: {error}", file=sys.stderr)
    for line in smi["stdout"].splitlines() if smi["code"] == 0 else []:
        gpus.append(dict(zip(query.split(","), map(str.strip, line.split(",")), strict=False)))
    asked = place.native(["probe", "attributes"], PROBE_LIMIT_S)
    script = "import torch; print(torch.__version__, torch.version.cuda)"
    torch = run([sys.executable, "-c", script], 60, place.environment())
    return {
        "gpus": gpus,
        "driver": gpus[0]["driver_version"] if gpus else None,
        "cuda_driver_api": asked.get("driver_api"),
        "cupti": {"path": asked.get("cupti_path"), "api_version": asked.get("cupti_version")},
        "cupti_libraries": [[version, str(path)] for version, path in cupti_libraries()],
        "simulated": bool(asked.get("simulated")),
        "torch": torch["stdout"].strip() if torch["code"] == 0 else None,
        "python": sys.version.split()[0],
    }
