"""Policies, against checkers that know nothing of how the gate decides."""

import random

import pytest
from memvelope import Gate, LeaseReleased, PastMaximum, Rejected

BLOCK = 16
REASONS = 12


def test_outcomes_and_silent_leases():
    gate = Gate.from_blocks(100, max_model_len=1600, silent_max_ns=100)
    silent, lively = gate.admit(16, 160), gate.admit(16, 160)
    for now in range(0, 201, 50):
        gate.tick(now)
        assert lively.grow(16) == 1
    assert gate.usage()["expired"] == 1
    assert gate.grow_many([silent, lively], 16) == b"\2\1"
    with pytest.raises(LeaseReleased, match="silent_max_ns"):
        silent.grow(16)
    assert silent.release() and lively.release()
    assert gate.usage()["held_blocks"] == 0
    outcomes = gate.outcomes()
    assert outcomes["released_tokens"] == [[1, 1], [128, 1]]
    assert outcomes["waits"] == [[1, 2]] and outcomes["queue_ns"] == []


def is_safe(capacity, leases):
    """Whether some order of completion lets every lease reach its claim: tried one by one."""
    free = capacity - sum(held for held, _ in leases)
    left = list(leases)
    while left:
        done = next((one for one in left if one[1] - one[0] <= free), None)
        if done is None:
            return False
        free += done[0]
        left.remove(done)
    return free >= 0


def blocks(tokens):
    return -(-tokens // BLOCK)


@pytest.mark.parametrize("seed", range(8))
def test_banker_is_a_naive_safety_check(seed):
    rng = random.Random(seed)
    capacity = rng.randint(5, 60)
    gate = Gate.from_blocks(capacity, max_model_len=capacity * BLOCK, estimate=False)
    leases, waits, refused = [], 0, 0
    for _ in range(1_500):
        state = [(lease.held_blocks, lease.claim_blocks) for lease in leases]
        choice = rng.random()
        if choice < 0.35:
            prompt, new = rng.randint(1, capacity * 4), rng.randint(1, capacity * 6)
            lease = gate.try_admit(prompt, new)
            expected = is_safe(capacity, [*state, (blocks(prompt), blocks(prompt + new))])
            assert (lease is not None) == (expected and prompt + new <= capacity * BLOCK)
            if lease is None:
                refused += 1
            else:
                leases.append(lease)
        elif choice < 0.9 and leases:
            index = rng.randrange(len(leases))
            lease, tokens = leases[index], rng.randint(1, 40)
            held, claim = state[index]
            after = max(held, blocks(lease.tokens + tokens))
            why = lease.explain(tokens)
            try:
                grown = lease.grow(tokens)
            except PastMaximum:
                assert after > claim or why["past_maximum_tokens"] > 0
                leases.pop(index).release()
                continue
            state[index] = (after, claim)
            assert (grown is not None) == (after == held or is_safe(capacity, state))
            assert why["is_granted"] == (grown is not None)
            waits += grown is None
        elif leases:
            leases.pop(rng.randrange(len(leases))).release()
        usage = gate.usage()
        assert usage["held_blocks"] == sum(lease.held_blocks for lease in leases) <= capacity
    usage = gate.usage()
    assert usage["waits"] == waits > 0 and refused > 0
    assert len(usage["rejected"]) == REASONS and sum(usage["rejected"].values()) == refused


@pytest.mark.parametrize("policy", ["guaranteed", "banker", "optimistic"])
@pytest.mark.parametrize("seed", range(3))
def test_growing_many_is_growing_each(policy, seed):
    rng = random.Random(seed)
    gates = [Gate.from_blocks(120, policy=policy, max_model_len=800) for _ in range(2)]
    requests = [(rng.randint(1, 200), rng.randint(1, 200)) for _ in range(30)]
    one, many = ([gate.try_admit(*request) for request in requests] for gate in gates)
    assert [lease is None for lease in one] == [lease is None for lease in many]
    one, many = ([lease for lease in leases if lease is not None] for leases in (one, many))
    for step in range(60):
        tokens = rng.randint(1, 9)
        gates[0].step()
        answers = []
        for lease in one:
            try:
                answers.append(0 if lease.grow(tokens) is None else 1)
            except (PastMaximum, LeaseReleased):
                answers.append(2)
        given = [list, tuple, iter, lambda leases: dict.fromkeys(leases)][step % 4](many)
        assert gates[1].grow_many(given, tokens) == bytes(answers)
        assert gates[0].usage() == gates[1].usage()
        index = rng.randrange(len(one))
        assert one[index].release() == many[index].release()


def test_growing_many_of_what_is_no_lease_changes_nothing():
    gate, other = (Gate.from_blocks(10, max_model_len=160) for _ in range(2))
    leases = [gate.admit(16, 100), other.admit(16, 100)]
    for wrong in ([*leases, None], (*leases, gate), iter([*leases, 1])):
        with pytest.raises(TypeError, match=r"leases\[2\]: expected a Lease"):
            gate.grow_many(wrong)
    with pytest.raises(TypeError):
        gate.grow_many(leases[0])
    with pytest.raises(Rejected):
        gate.grow_many(leases, -1)
    assert [lease.tokens for lease in leases] == [16, 16]
    assert gate.grow_many([]) == b""
    assert gate.grow_many([leases[0], leases[0], leases[1]], 2) == b"\1\1\1"
    assert [lease.tokens for lease in leases] == [20, 18], "twice in the list grows twice"
    assert (gate.usage()["held_blocks"], other.usage()["held_blocks"]) == (2, 2)
    leases[0].release()
    assert gate.grow_many(leases) == b"\2\1" and gate.grow_many(leases, 200) == b"\2\2"


def test_a_shrunk_budget_names_victims_and_recovers():
    gate = Gate.from_blocks(100, max_model_len=1600, estimate=False)
    leases = {lease.serial: lease for lease in (gate.admit(16 * 10, 160) for _ in range(5))}
    assert gate.victims() == [] and not gate.usage()["is_overcommitted"]
    for lease in leases.values():
        lease.grow(80)
    assert gate.set_capacity(60, epoch=1)
    assert gate.usage()["is_overcommitted"] and gate.explain(16, 16)["reason"] == "overcommitted"
    victims = gate.victims()
    assert {victim["serial"] for victim in victims} == leases.keys()
    assert victims[0].keys() == {"serial", "pool", "held_blocks", "lost_tokens", "is_enough"}
    for victim in victims:
        lease = leases.pop(victim["serial"])
        assert lease.preempt() == victim["lost_tokens"] == 240 and lease.released
        with pytest.raises(LeaseReleased):
            lease.preempt()
        assert gate.usage()["is_overcommitted"] != victim["is_enough"]
        if victim["is_enough"]:
            break
    assert gate.victims() == [] and gate.usage()["preempted"] == 5 - len(leases)
    for lease in leases.values():
        while lease.tokens < 320:
            assert any(one.grow() is not None for one in leases.values() if one.tokens < 320)
    assert all(lease.need_blocks == 0 for lease in leases.values())


def test_pools_lend_what_they_do_not_need():
    pools = {"chat": {"share": 3, "floor_percent": 50}, "batch": {"share": 1, "floor_percent": 0}}
    gate = Gate.from_blocks(80, policy="guaranteed", max_model_len=1280, pools=pools)
    assert gate.pool_usage("chat")["capacity_blocks"] == 60
    batch = gate.admit(16 * 40, 16 * 10, pool="batch")
    assert gate.pool_usage("batch")["capacity_blocks"] == 50, "30 of them are chat's"
    assert gate.explain(1, 1, "batch")["reason"] == "no_capacity", "chat keeps its floor"
    with gate.admit(16 * 29, 16) as chat:
        assert gate.try_admit(1, 1) is None, "what it lent comes back when it is released"
        batch.release()
        with gate.admit(16 * 29, 16):
            assert chat.claim_blocks == 30 and gate.pool_usage("chat")["leases"] == 2
    with pytest.raises(ValueError, match="chat, batch"):
        gate.pool_usage("other")
    whole = gate.usage()
    assert whole["released"] == 3 and whole["capacity_blocks"] == 80


@pytest.mark.parametrize("id_", [7, -7, 2**70 + 1, b"\xff\0", "héllo"])
def test_a_shared_prefix_is_held_once(id_):
    gate = Gate.from_blocks(20, max_model_len=320, estimate=False)
    leases = [gate.admit(16 * 9, 16, prefix=(id_, 16 * 8)) for _ in range(5)]
    usage = gate.usage()
    assert (usage["held_blocks"], usage["shared_blocks"]) == (8 + 5, 8)
    assert gate.try_admit(16 * 9, 16, prefix=("another", 16 * 8)) is None
    assert gate.explain(16 * 9, 16, prefix=(id_, 16 * 8))["is_admitted"]
    assert not gate.explain(16 * 9, 16)["is_admitted"]
    for lease in leases:
        lease.release()
    assert gate.usage()["held_blocks"] == gate.usage()["shared_blocks"] == 0


@pytest.mark.parametrize("prefix", [7, (7,), (7, 16, 1), [7, 16], (1.5, 16), (7, "16"), (None, 1)])
def test_what_is_no_prefix_is_a_type_error(prefix):
    gate = Gate.from_blocks(20, max_model_len=320)
    with pytest.raises(TypeError, match="prefix"):
        gate.admit(100, 16, prefix=prefix)


def test_optimistic_preempts():
    gate = Gate.from_blocks(10, policy="optimistic", watermark=0.2)
    leases = [gate.admit(16 * 2 - 1) for _ in range(4)]
    assert gate.try_admit(16) is None, "the watermark"
    lease = leases[0]
    assert gate.grow_many(leases, 1) == b"\1\1\1\1"
    assert gate.grow_many(leases, 16) == b"\1\1\0\0" and gate.usage()["waits"] == 2
    victims = gate.victims()
    assert victims and victims[0]["is_enough"]
    by_serial = {lease.serial: lease for lease in leases}
    assert by_serial[victims[0]["serial"]].preempt() > 0
    waiting = [lease for lease in leases if not lease.released and lease.held_blocks == 2]
    assert gate.grow_many(waiting, 16) == b"\1" * len(waiting)
    assert lease.serial == (None if lease.released else 1)


def test_the_estimate_stops_what_would_make_leases_wait():
    def admitted(**keywords):
        gate = Gate.from_blocks(200, max_model_len=3200, **keywords)
        for second in range(40):
            gate.tick(second * 10**9)
            lease = gate.admit(16, 1000, klass="long")
            lease.grow(990)
            lease.release()
        leases = []
        while (lease := gate.try_admit(160, 1000, klass="long")) is not None:
            leases.append(lease)
        return len(leases), gate.explain(160, 1000, klass="long")

    kept, why = admitted()
    trusting, _ = admitted(margin=0)
    alone, _ = admitted(estimate=False)
    assert kept <= trusting < alone
    assert why["reason"] == "predicted" and why["kept_peak_blocks"] > 0
    assert why["retry_after_s"] == why["retry_after_ns"] / 1e9


def test_prefill_is_told_apart_from_what_is_reserved():
    gate = Gate.from_blocks(100, max_model_len=1600)
    lease = gate.admit(160, 160)
    assert gate.usage()["reserved_blocks"] == 10
    lease.prefill(80)
    assert gate.usage()["reserved_blocks"] == 5
    assert lease.need_blocks == 10
    lease.prefill(10**6)
    assert gate.usage()["reserved_blocks"] == 0
    with pytest.raises(Rejected):
        lease.prefill(-1)
    assert lease.preempt() == 160
    with pytest.raises(LeaseReleased):
        lease.prefill(1)


@pytest.mark.parametrize(
    ("policy", "request_"), [("guaranteed", (16 * 10, 16 * 60)), ("banker", (16 * 30, 16 * 60))]
)
def test_an_explanation_says_what_would_be_admitted(policy, request_):
    gate = Gate.from_blocks(100, policy=policy, max_model_len=1600, estimate=False)
    lease = gate.admit(16 * 50, 16 * 30)
    before = gate.usage()
    why = gate.explain(*request_)
    assert gate.usage() == before, "asking changes nothing"
    assert not why["is_admitted"] and why["reason"] == "no_capacity"
    assert why["text"].startswith("rejected: no capacity now\n")
    changes = {name: value for change in why["admitted_if"] for name, value in change.items()}
    most = changes["max_new_tokens"]
    assert gate.explain(request_[0], most)["is_admitted"]
    assert not gate.explain(request_[0], most + 1)["is_admitted"]
    assert gate.set_capacity(100 + changes["more_capacity_blocks"], 1)
    assert gate.try_admit(*request_) is not None
    assert lease.explain()["need_blocks"] == lease.need_blocks == 30
    lease.release()
    with pytest.raises(LeaseReleased):
        lease.explain()


def test_leases_max_is_a_reason():
    gate = Gate.from_blocks(100, max_model_len=1600, leases_max=2)
    leases = [gate.admit(1, 1), gate.admit(1, 1)]
    with pytest.raises(Rejected) as caught:
        gate.admit(1, 1)
    assert caught.value.reason == "too_many_leases" and "leases_max" in str(caught.value)
    assert [lease.serial for lease in leases] == [1, 2]
