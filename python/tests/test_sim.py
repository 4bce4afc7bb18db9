"""`profile` and `doctor` on the simulated driver, in processes of their own."""

import json

import memvelope

#: Drives CUDA as any program would, knowing nothing of memvelope.
CUDA = """
import ctypes, json, memvelope

def cuda():
    return ctypes.CDLL('libcuda.so.1')

def call(name, *arguments):
    code = getattr(cuda(), name)(*arguments)
    assert code == 0, (name, code)

def context():
    call('cuInit', 0)
    device, made = ctypes.c_int(), ctypes.c_void_p()
    call('cuDeviceGet', ctypes.byref(device), 0)
    call('cuDevicePrimaryCtxRetain', ctypes.byref(made), device)
    call('cuCtxSetCurrent', made)

def allocated(size):
    address = ctypes.c_uint64()
    call('cuMemAlloc_v2', ctypes.byref(address), ctypes.c_size_t(size))
    return address
"""

PROFILED = (
    CUDA
    + """
with memvelope.profile('work') as profiled:
    context()
    kept = allocated(48 << 20)
    gone = allocated(16 << 20)
    host = ctypes.create_string_buffer(1 << 20)
    for _ in range(3):
        call('cuMemcpyHtoD_v2', kept, host, ctypes.c_size_t(1 << 20))
    call('cuMemFree_v2', gone)
print(json.dumps([profiled.report, profiled.unseen, profiled.write_trace(TRACE)]))
"""
)


def test_profile_sees_allocations_and_copies(child, sim_libs, tmp_path):
    trace = tmp_path / "trace.json"
    printed = child(f"TRACE = {str(trace)!r}\n{PROFILED}", LD_LIBRARY_PATH=sim_libs)
    report, unseen, written = json.loads(printed)
    assert report["simulated"] is True
    assert "cupti" in report["mode"], (report["mode"], unseen)
    [device] = report["devices"]
    vram = device["totals"]["vram"]
    assert vram["live_bytes"] == 48 << 20
    assert vram["peak_bytes"] == 64 << 20
    assert (vram["allocated_count"], vram["live_count"]) == (2, 1)
    copies = {copy["direction"]: copy for copy in report["timeline"]["copies"]}
    [up] = copies.values()
    assert (up["count"], up["bytes"]) == (3, 3 << 20)
    assert written["events"] > 0 and trace.stat().st_size == written["bytes"]
    assert "SIMULATED" in trace.read_text()
    assert "work" in trace.read_text()


def test_a_failed_allocation_is_counted(child, sim_libs):
    code = (
        CUDA
        + """
with memvelope.profile() as profiled:
    context()
    address = ctypes.c_uint64()
    assert cuda().cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(1 << 50)) == 2
print(json.dumps(profiled.report))
"""
    )
    report = json.loads(child(code, LD_LIBRARY_PATH=sim_libs))
    assert report["devices"][0]["totals"]["vram"]["oom_count"] == 1


def test_doctor_says_simulated(child, sim_libs):
    code = "import json, memvelope; print(json.dumps(memvelope.doctor()))"
    found = json.loads(child(code, LD_LIBRARY_PATH=sim_libs))
    assert found["simulated"] is True
    assert found["health"] == "usable", found["problems"]
    assert len(found["devices"]) == 1
    assert found["devices"][0]["total_bytes"] > 0


INJECTED = (
    CUDA
    + """
context()  # the driver loads the injection library here
with memvelope.profile('work') as profiled:
    kept = allocated(48 << 20)
print(json.dumps([profiled.report['mode'], profiled.report['devices']]))
"""
)


def test_an_injected_program_that_profiles_itself_is_counted_once(child, sim_libs, tmp_path):
    report = tmp_path / "report.json"
    printed = child(
        INJECTED,
        LD_LIBRARY_PATH=sim_libs,
        CUDA_INJECTION64_PATH=memvelope.inject_path(),
        MEMVELOPE_REPORT=str(report),
    )
    # The module asks the injection library, and both tell of one recording.
    mode, [own] = json.loads(printed)
    assert mode["cupti"]["callbacks"] is True, mode
    assert own["totals"]["vram"]["live_bytes"] == 48 << 20
    recorded = json.loads(report.read_text())
    [device] = recorded["snapshot"]["devices"]
    vram = device["totals"]["vram"]
    assert (vram["allocated_count"], vram["live_bytes"]) == (1, 48 << 20)
    assert recorded["mode"]["cupti"]["callbacks"] is True
