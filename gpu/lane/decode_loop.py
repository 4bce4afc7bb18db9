"""A loop like a decoder's: a few dozen small kernels a step, random weights, batch 1.

Prints nothing; `--out` gets one JSON object. An item is a step. `--record` is a mode of
overhead.py; those that are injected look like `nothing` from here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from statistics import median
from typing import Any

LAYERS = 4
HIDDEN = 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--graphs", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--record", default="nothing")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        found: dict[str, Any] = {"skipped": "torch not importable"}
    else:
        if torch.cuda.is_available():
            found = measured(torch, args)
        else:
            found = {"skipped": "torch sees no GPU"}
    with open(args.out, "w") as out:
        json.dump(found, out)


def measured(torch: Any, args: argparse.Namespace) -> dict[str, Any]:
    stopped = None
    if args.record == "idle":
        # A recording that was and is no more: CUPTI stays in the process, everything off.
        import memvelope

        with memvelope.profile("before") as before:
            torch.zeros(1 << 10, device="cuda").sum().item()
        stopped = before.report and before.report["self"]
    steps = 5 if args.record == "check" else args.steps
    with torch.inference_mode(), recorder(torch, args.record) as recorded:
        step = decoder(torch)
        if args.graphs:
            step = captured(torch, step)
        for _ in range(20):
            step()
        torch.cuda.synchronize()
        ns = []
        begin = time.perf_counter_ns()
        for _ in range(steps):
            at = time.perf_counter_ns()
            step()
            torch.cuda.synchronize()
            ns.append(time.perf_counter_ns() - at)
        total = time.perf_counter_ns() - begin
    found = {
        "items": steps,
        "ns_per_item": median(ns),
        "ns_per_item_mean": total / steps,
        "total_ns": total,
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name(),
    }
    if stopped:
        found["stopped_session"] = stopped
    report = getattr(recorded, "report", None)
    if report is not None:
        found["self"] = report["self"]
    return found


def recorder(torch: Any, mode: str) -> Any:
    """What records inside this process."""
    activity = torch.profiler.ProfilerActivity
    if mode == "recording-in-process":
        import memvelope

        return memvelope.profile("decode")
    if mode == "torch-profiler":
        return torch.profiler.profile(activities=[activity.CPU, activity.CUDA])
    if mode == "torch-profiler-cuda":
        return torch.profiler.profile(activities=[activity.CUDA])
    return contextlib.nullcontext()


def decoder(torch: Any) -> Any:
    """One step: per layer a norm, three products, a softmax over a small cache, a gated sum."""
    torch.manual_seed(0)
    half = {"device": "cuda", "dtype": torch.float16}
    weights = [torch.randn(4, HIDDEN, HIDDEN, **half) * 0.02 for _ in range(LAYERS)]
    cache = [torch.randn(128, HIDDEN, **half) for _ in range(LAYERS)]
    token = torch.randn(1, HIDDEN, **half)

    def step() -> Any:
        x = token
        for (query, out, up, down), keys in zip(weights, cache, strict=True):
            norm = x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6).half()
            scores = torch.softmax((norm @ query) @ keys.T / HIDDEN**0.5, dim=-1)
            x = x + (scores @ keys) @ out
            x = x + torch.nn.functional.silu(x @ up) @ down
        return x

    return step


def captured(torch: Any, step: Any) -> Any:
    """The step as one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


if __name__ == "__main__":
    main()
