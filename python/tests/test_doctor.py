"""`doctor` with no driver, with a broken one, and without stopping other threads."""

import json

#: Not a key: in two parts, because every key that stands in the sources must be in the table.
TYPO = "MEMVELOPE_" + "BUFER_BYTES"
DRIVER_KEYS = ("MEMVELOPE_CUDA_PATH", "MEMVELOPE_CUPTI_PATH", "MEMVELOPE_NVML_PATH")


def doctor(child, tmp_path, library=None, **extra):
    """What doctor finds where `library` is all there is of a driver."""
    absent = str(library or tmp_path / "absent.so")
    env = {key: absent for key in DRIVER_KEYS}
    code = "import json, memvelope; print(json.dumps(memvelope.doctor()))"
    return json.loads(child(code, **env, **extra))


def test_no_driver_is_a_report(child, tmp_path):
    found = doctor(child, tmp_path)
    assert found["health"] == "unusable"
    assert found["simulated"] is False
    assert found["devices"] == []
    assert found["problems"]
    libraries = {report["library"]: report for report in found["libraries"]}
    assert "libcuda" in libraries
    for report in libraries.values():
        assert report["chosen"] is None
    tried = [candidate["path"] for candidate in libraries["libcuda"]["candidates"]]
    assert tried == [str(tmp_path / "absent.so")], "an explicit path is tried alone"
    assert libraries["libcuda"]["hint"]


def test_every_key_is_listed(child, tmp_path):
    found = doctor(child, tmp_path)
    keys = {key["name"]: key for key in found["keys"]}
    assert keys["MEMVELOPE_CUDA_PATH"]["value"] == str(tmp_path / "absent.so")
    assert keys["MEMVELOPE_BUFFER_BYTES"]["value"] is None
    assert all(key["doc"].endswith(".") for key in keys.values())


def test_a_broken_library_is_a_report(child, tmp_path):
    broken = tmp_path / "libcuda.so.1"
    broken.write_bytes(b"\x7fELF and nothing behind it")
    found = doctor(child, tmp_path, broken)
    assert found["health"] == "unusable"
    [candidate] = found["libraries"][0]["candidates"]
    assert candidate["outcome"]["failed"]


def test_a_typo_in_the_environment_is_named(child, tmp_path):
    found = doctor(child, tmp_path, **{TYPO: "1"})
    assert any(TYPO in problem for problem in found["problems"])


def test_other_threads_run_while_doctor_blocks(child, tmp_path):
    # Opening a FIFO for reading blocks until somebody writes. The dynamic loader does just that, in
    # doctor's thread; only if that one released the interpreter lock can this one come and write.
    code = f"""
import os, threading, memvelope
fifo = {str(tmp_path / "libcuda.so")!r}
os.mkfifo(fifo)
os.environ['MEMVELOPE_CUDA_PATH'] = fifo
found = []
blocked = threading.Thread(target=lambda: found.append(memvelope.doctor()), daemon=True)
blocked.start()
while blocked.is_alive():
    try:
        # Without a reader this fails at once, so that a loader which opens it again is served too.
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        blocked.join(0.01)
print(found[0]['health'])
"""
    absent = str(tmp_path / "absent.so")
    env = {"MEMVELOPE_CUPTI_PATH": absent, "MEMVELOPE_NVML_PATH": absent}
    assert child(code, timeout_s=30, **env) == "unusable\n"
