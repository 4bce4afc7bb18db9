"""A gate that follows the measured envelope, on the simulated driver."""

import json

import memvelope
import pytest
from test_envelope import CONFIG
from test_sim import CUDA

MIB = 1 << 20
#: Blocks of the model: sixteen tokens.
BLOCK_BYTES = 2 * MIB
#: Another process takes 8 GiB after five seconds.
CO_TENANT = """
[[devices]]
[[devices.co_tenants]]
pid = 77
bytes = 1073741824
steps = [{ after_ns = 5000000000, bytes = 9663676416 }]
"""

#: Prints what a gate is told before and after the other process comes.
FOLLOWED = (
    CUDA
    + """
def advance(seconds):
    cuda().memvelope_sim_advance(ctypes.c_uint64(int(seconds * 1e9)))

CONFIG = json.loads(CONFIG)
with memvelope.Session.start() as session:
    context()
    with memvelope.tag('weights'):
        weights = allocated(16_060_522_496)
    with memvelope.tag('kv_cache'):
        cache = allocated(4 << 30)
    session.sample()
    plan = memvelope.Envelope.plan(CONFIG, 80 << 30)
    gate = memvelope.Gate(plan, max_model_len=8192)
    told = []
    with session.follow(gate, PLAN, rise_readings=2, rise_after_s=1e6) as follow:
        told.append(follow.status())
        advance(5)
        session.sample()
        told.append(follow.update())
        told.append(gate.usage()['capacity_blocks'])
        told.append(follow.update())
    capacity = gate.usage()['capacity_blocks']
    follow.stop()
    assert follow.update()['capacity_blocks'] == capacity
print(json.dumps(told))
"""
)


@pytest.mark.parametrize("plan", ["plan", "CONFIG", "memvelope.plan(CONFIG, gpu='h100')"])
def test_a_gate_follows_what_a_plan_becomes(child, sim_libs, tmp_path, plan):
    scenario = tmp_path / "scenario.toml"
    scenario.write_text(CO_TENANT)
    code = f"CONFIG = {json.dumps(CONFIG)!r}\n" + FOLLOWED.replace("PLAN", plan)
    env = {"LD_LIBRARY_PATH": sim_libs, "MEMVELOPE_SIM_SCENARIO": str(scenario)}
    first, second, capacity, third = json.loads(child(code, **env))
    assert first["why"] in ("fell", "steady"), first
    assert first["kv_bytes"] == 4 << 30
    assert first["capacity_blocks"] <= first["budget_blocks"]
    assert second["why"] == "fell", second
    fell = first["measured_blocks"] - second["measured_blocks"]
    if "gpu" not in plan:
        assert fell == (8 << 30) // BLOCK_BYTES
    else:
        # What the engine was not given holds most of what others take.
        assert 0 < fell < (8 << 30) // BLOCK_BYTES
    assert capacity == second["capacity_blocks"] == second["measured_blocks"]
    assert third["readings"] == second["readings"], "an epoch is taken once"


def test_what_cannot_be_followed_is_said(child):
    code = """
import json, memvelope
with memvelope.Session.start() as session:
    gate = memvelope.Gate.from_blocks(100, max_model_len=160)
    plan = memvelope.Envelope.plan(json.loads(CONFIG), 80 << 30)

    def refused(kind, *arguments, **keywords):
        try:
            session.follow(*arguments, **keywords)
        except kind as error:
            return str(error)
        raise AssertionError((arguments, keywords))

    assert 'memvelope.Gate' in refused(TypeError, plan, plan)
    assert 'colour' in refused(TypeError, gate, plan, colour=1)
    assert 'floor_blocks=-1' in refused(ValueError, gate, plan, floor_blocks=-1)
    assert 'rise_after_s' in refused(ValueError, gate, plan, rise_after_s=-1.0)
    assert 'not known yet' in refused(ValueError, gate, json.loads(CONFIG), device=7)
    by_bytes = memvelope.plan(json.loads(CONFIG), gpu='h100', kv_bytes=4 << 30)
    assert 'no equation' in refused(memvelope.ConfigureGateError, gate, by_bytes)
    # Nothing is measured without a driver: what was declared stays.
    follow = session.follow(gate, plan, budget_blocks=None, by_hand=True)
    status = follow.update()
    assert (status['why'], status['capacity_blocks']) == ('absent', 100), status
    assert status['problem'] and status['measured_blocks'] is None
    small = session.follow(gate, plan, budget_blocks=60)
    assert small.status()['capacity_blocks'] == gate.usage()['capacity_blocks'] == 60
    print(sorted(status))
"""
    code = f"CONFIG = {json.dumps(CONFIG)!r}\n" + code
    printed = child(code, MEMVELOPE_CUDA_PATH="/nonexistent/libcuda.so.1")
    assert "budget_blocks" in printed


def test_follow_is_made_by_a_session_alone():
    with pytest.raises(TypeError):
        memvelope.Follow()
