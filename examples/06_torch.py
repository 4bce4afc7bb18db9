"""Where PyTorch's VRAM is, whether the next tensor fits, and why one did not.

    pip install memvelope torch
    python examples/06_torch.py

Without torch or a GPU it says what is missing, and ends.
"""

import memvelope

MIB = 1 << 20


def main(torch):
    def tensor(mib):
        return torch.empty(mib * MIB, dtype=torch.uint8, device="cuda")

    # From here on, what was there when memory ran out is kept, and written to oom.json.
    watch = memvelope.torch.watch_oom("oom.json")
    with memvelope.torch.tag("weights"):
        _weights = [tensor(40) for _ in range(4)]
    batches = [tensor(mib) for mib in (3, 3, 3, 3, 64)]
    del batches[::2]  # cached now: a part of it stranded beside the blocks that stay

    # Every byte in use, line by line.
    print(memvelope.snapshot_text())
    # Asks before a large allocation instead of after it has failed.
    free = memvelope.snapshot()["devices"][0]["free_bytes"]
    for nbytes in (60 * MIB, free + 40 * MIB, free + 4096 * MIB):
        fit = memvelope.would_fit(nbytes)
        print(f"\nwould {nbytes // MIB} MiB fit? {fit.get('because', fit['fits'])}")
        for remedy in fit.get("remedies", []):
            print("  what would help:", remedy["text"])
    try:
        tensor(1 << 20)
    except torch.OutOfMemoryError:
        print(f"\n{watch.last['text']}")


if __name__ == "__main__":
    with memvelope.Session.start():  # before the first CUDA call: all that comes is seen
        try:
            import torch
        except ImportError:
            print("torch is not installed, so there is nothing to look at: pip install torch")
        else:
            if torch.cuda.is_available():
                main(torch)
            else:
                print("torch finds no GPU, so its allocator holds nothing to look at")
