"""Where a real model's memory is, step by step: what is unaccounted, what an out-of-memory error was
preceded by, and whether `would_fit` is right at random sizes.

Prints nothing; `--out` gets one JSON object. `--part torch` needs PyTorch with a GPU and transformers
(random weights, nothing is fetched); `--part driver` needs a driver alone, and also runs on the
simulated one.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
from collections.abc import Callable
from typing import Any

MIB = 1 << 20
#: Sizes at which a prediction is held against the real thing.
TRIES = 200


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=["torch", "driver"], required=True)
    parser.add_argument("--expandable", type=int, default=0)
    parser.add_argument("--tries", type=int, default=TRIES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    found = on_driver(args) if args.part == "driver" else on_torch(args)
    with open(args.out, "w") as out:
        json.dump(found, out)


def sizes(draw: random.Random, largest: int) -> int:
    """Half of them anywhere, half within a tenth of what is said to fit at most, where it is
    decided."""
    largest = max(largest, 2 * MIB)
    if draw.random() < 0.5:
        return int(512 * (largest / 256) ** draw.random())
    return int(largest * draw.uniform(0.9, 1.1))


def compared(
    session: Any,
    via: str,
    tries: int,
    draw: random.Random,
    attempt: Callable[[int], bool],
    look: Callable[[], object],
) -> dict[str, Any]:
    """Predictions against attempts, each from what is there at that moment."""
    wrong, unknown, fits = [], 0, 0
    for _ in range(tries):
        look()
        largest = session.would_fit(1 << 60, 0, via).get("largest_fit_bytes", 0)
        nbytes = sizes(draw, largest)
        told = session.would_fit(nbytes, 0, via)
        did = attempt(nbytes)
        fits += did
        if told["fits"] == "unknown":
            unknown += 1
        elif (told["fits"] == "yes") != did:
            wrong.append({"bytes": nbytes, "fitted": did, "told": told})
    return {
        "tries": tries,
        "fitted": fits,
        "unknown": unknown,
        "wrong": wrong,
        "right_share": (tries - unknown - len(wrong)) / tries,
    }


# ---------------------------------------------------------------- the driver


def driver() -> Any:
    """libcuda, with a context of device 0."""
    cuda = ctypes.CDLL("libcuda.so.1")
    device, context = ctypes.c_int(), ctypes.c_void_p()
    for code in (
        cuda.cuInit(0),
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device),
        cuda.cuCtxSetCurrent(context),
    ):
        if code != 0:
            raise RuntimeError(f"the driver answered {code}")
    return cuda


def allocates(cuda: Any) -> Callable[[int], bool]:
    def attempt(nbytes: int) -> bool:
        address = ctypes.c_uint64()
        if cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(nbytes)) != 0:
            return False
        cuda.cuMemFree_v2(address)
        return True

    return attempt


def on_driver(args: argparse.Namespace) -> dict[str, Any]:
    import memvelope

    with memvelope.Session.start() as session:
        try:
            cuda = driver()
        except (OSError, RuntimeError) as error:
            return {"skipped": f"no usable driver: {error}"}
        draw = random.Random(args.seed)
        found = compared(session, "driver", args.tries, draw, allocates(cuda), lambda: None)
    return {"would_fit_driver": found}


# ---------------------------------------------------------------- a model


def on_torch(args: argparse.Namespace) -> dict[str, Any]:
    if args.expandable:
        # Both names of the variable: which one counts depends on the version.
        for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
            os.environ[name] = "expandable_segments:True"
    try:
        import torch
        import transformers
    except ImportError as error:
        return {"skipped": f"not importable: {error.name}"}
    if not torch.cuda.is_available():
        return {"skipped": "torch sees no GPU"}
    import memvelope
    import memvelope.torch

    # Before CUDA is initialised: what is there then is no opening balance but seen.
    with memvelope.Session.start() as session, torch.inference_mode():
        watch = memvelope.torch.watch_oom()
        books = Books(torch, memvelope, session)
        books.enter("before CUDA")
        torch.zeros(1, device="cuda")
        books.enter("context")
        for turn in ("first", "again"):
            served(torch, transformers, memvelope, books, turn)
        books.enter("captured", lambda: graph(torch, memvelope))
        found = {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "gpu": torch.cuda.get_device_name(),
            "expandable": bool(args.expandable),
            "steps": books.steps,
            "out_of_memory": out_of_memory(torch, watch),
            **fits(torch, memvelope, session, args),
        }
    return found


class Books:
    """The balance after each step."""

    def __init__(self, torch: Any, memvelope: Any, session: Any) -> None:
        self.torch, self.memvelope, self.session = torch, memvelope, session
        self.steps: list[dict[str, Any]] = []
        self.kept: list[Any] = []

    def enter(self, name: str, work: Callable[[], object] | None = None) -> None:
        if work is not None:
            self.kept.append(work())
        if self.torch.cuda.is_initialized():
            self.torch.cuda.synchronize()
            self.memvelope.torch.snapshot(0)
        snapshot = self.session.snapshot_now()
        device = next((it for it in snapshot["devices"] if it["totals"]["device"] == 0), None)
        balance = device and device["balance"]
        step: dict[str, Any] = {"step": name, "balance": balance, "share": None}
        if balance:
            lines = {line["term"]: line["bytes"] for line in balance["lines"]}
            step["unaccounted_bytes"] = lines.get("unaccounted")
            step["used_bytes"] = balance["used_bytes"]
            if step["unaccounted_bytes"] is not None and balance["used_bytes"]:
                step["share"] = abs(step["unaccounted_bytes"]) / balance["used_bytes"]
        self.steps.append(step)


def served(torch: Any, transformers: Any, memvelope: Any, books: Books, turn: str) -> None:
    """A model is loaded, serves a few steps, and goes."""
    config = transformers.LlamaConfig(
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=4,
        vocab_size=32_000,
    )
    with memvelope.torch.tag("weights"), torch.device("cuda"):
        model = transformers.LlamaForCausalLM._from_config(config, torch_dtype=torch.bfloat16)
    books.enter(f"{turn}: loaded")
    with memvelope.torch.tag("kv"):
        cache = transformers.DynamicCache()
        tokens = torch.randint(0, config.vocab_size, (8, 512), device="cuda")
        model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    books.enter(f"{turn}: prefilled")
    with memvelope.torch.tag("kv"):
        token = tokens[:, -1:]
        for _ in range(32):
            model(token, past_key_values=cache, use_cache=True, logits_to_keep=1)
    books.enter(f"{turn}: decoded")
    del cache, tokens, token
    gc.collect()
    books.enter(f"{turn}: KV cache freed")
    torch.cuda.empty_cache()
    books.enter(f"{turn}: cache emptied")
    del model
    gc.collect()
    torch.cuda.empty_cache()
    books.enter(f"{turn}: model freed")


def graph(torch: Any, memvelope: Any) -> Any:
    """A captured step, with a pool of its own."""
    weights = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)
    x = torch.randn(64, 4096, device="cuda", dtype=torch.float16)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            torch.nn.functional.silu(x @ weights)
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        out = torch.nn.functional.silu(x @ weights) @ weights
    captured.replay()
    return captured, out, weights, x


def out_of_memory(torch: Any, watch: Any) -> dict[str, Any]:
    """A request for twice the device: the report is there when the exception is."""
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.empty(2 * total, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError as error:
        return {
            "report": watch.last,
            "problems": watch.problems,
            "torch_said": str(error).splitlines()[0],
        }
    return {"report": None, "problems": ["twice the device was handed out"], "torch_said": None}


def fits(torch: Any, memvelope: Any, session: Any, args: argparse.Namespace) -> dict[str, Any]:
    """`would_fit` through torch and through the driver, with a cache that is cut into pieces."""
    draw = random.Random(args.seed)
    pieces = [torch.empty(int(64 * MIB * draw.random()) + 1, dtype=torch.uint8, device="cuda")
              for _ in range(64)]
    del pieces[::2]

    def attempt(nbytes: int) -> bool:
        try:
            torch.empty(nbytes, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError:
            return False
        return True

    def look() -> object:
        return memvelope.torch.snapshot(0)

    through_torch = compared(session, "framework", args.tries, draw, attempt, look)
    cuda = ctypes.CDLL("libcuda.so.1")
    through_driver = compared(session, "driver", args.tries, draw, allocates(cuda), look)
    return {"would_fit_torch": through_torch, "would_fit_driver": through_driver}


if __name__ == "__main__":
    main()
