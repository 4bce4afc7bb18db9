"""Which library asked for an allocation, where Python calls the driver: `ctypes` and what it is made
of stand for the program."""

import json
import platform

import pytest
from test_sim import CUDA

CODE = """
context()
with memvelope.Session.start() as session:
    kept = allocated(3 << 20)
    print(json.dumps(session.snapshot()))
"""


@pytest.mark.parametrize("key", ["auto", "off"])
def test_what_python_asks_for_is_the_programs(child, sim_libs, key):
    printed = child(CUDA + CODE, LD_LIBRARY_PATH=sim_libs, MEMVELOPE_ATTRIBUTION=key)
    snapshot = json.loads(printed)
    said = [why for why in snapshot["unseen"] if why.startswith("which library asked")]
    if key == "auto" and said:
        pytest.skip(f"ignored: {platform.machine()}: {said[0]}")
    [row] = snapshot["devices"][0]["totals"]["libraries"]
    name = snapshot["libraries"][row["library"]]
    assert (name, row["live_bytes"]) == ("(program)" if key == "auto" else "(unknown)", 3 << 20)
    assert len(said) == (key == "off")
