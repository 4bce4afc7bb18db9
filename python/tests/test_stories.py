"""The table of PyTorch in docs/where-did-my-vram-go.md is what is printed. `UPDATE_DOCS=1` rewrites
it. The other tables of that page are the command's tests'."""

import json
import os

TESTS = os.path.dirname(os.path.abspath(__file__))
PAGE = os.path.join(TESTS, "..", "..", "docs", "where-did-my-vram-go.md")
PROMPT = ">>> print(memvelope.snapshot_text())"

#: A model of 16 GiB; 12 large batches, all of which are gone; two blocks in each of 100 segments, of
#: which one is.
STORY = f"""
import json, sys
sys.path.insert(0, {TESTS!r})
import memvelope.torch, torch_on_driver
session = memvelope.Session.start()
allocator = torch_on_driver.install()
MIB = 1 << 20
with memvelope.torch.tag("weights"):
    for _ in range(16):
        allocator.allocate(1024 * MIB)
large = [allocator.allocate(512 * MIB) for _ in range(12)]
small = [allocator.allocate(7 * MIB) for _ in range(200)]
for gone in large + small[::2]:
    allocator.free(gone)
text = memvelope.snapshot_text()
def cached():
    lines = memvelope.snapshot()["devices"][0]["balance"]["lines"]
    return next(line["bytes"] for line in lines if line["term"] == "cached")
before = cached()
allocator.empty_cache()
print(json.dumps([text, before, cached()]))
"""


def excerpt(text):
    """The table, and what is said of the allocator."""
    lines = text.rstrip("\n").split("\n")
    end = next(at for at, line in enumerate(lines) if line.startswith("  used "))
    start = next(at for at, line in enumerate(lines) if line.startswith("  PyTorch's allocator"))
    said = lines[start : lines.index("", start)]
    return "\n".join([PROMPT, *lines[: end + 1], "", *said]) + "\n"


def test_the_pages_story_of_pytorch_is_what_is_printed(child, sim_libs):
    text, before, after = json.loads(child(STORY, LD_LIBRARY_PATH=sim_libs))
    block = excerpt(text)
    with open(PAGE, encoding="utf-8") as file:
        page = file.read()
    head, rest = page.split(f"```text\n{PROMPT}\n")
    tail = rest[rest.index("```") :]
    expected = f"{head}```text\n{block}{tail}"
    if "UPDATE_DOCS" in os.environ:
        with open(PAGE, "w", encoding="utf-8") as file:
            file.write(expected)
    else:
        assert page == expected, f"{PAGE} is stale; run with UPDATE_DOCS=1"
    # As the page goes on.
    assert (before - after, after) == (6 << 30, 1300 << 20)
    assert f"gave {6:.2f} GiB back, and `cached` was {1300 / 1024:.2f} GiB afterwards" in page
