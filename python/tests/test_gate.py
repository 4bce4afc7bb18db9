"""The gate and its leases."""

import gc
import math
import pickle
import random
import threading

import memvelope
import pytest
from memvelope import ConfigureGateError, Gate, LeaseReleased, PastMaximum, Rejected


def guaranteed(blocks=100, **keywords):
    """A gate whose claims fit: what it admits is plain arithmetic."""
    keywords.setdefault("max_model_len", 16 * blocks)
    return Gate.from_blocks(blocks, policy="guaranteed", **keywords)


def check(gate, request, reason, short_by_tokens):
    """The request is refused for that reason by both doors, and counted twice."""
    before = gate.usage()
    assert gate.try_admit(*request) is None
    with pytest.raises(Rejected) as caught:
        gate.admit(*request)
    rejected = caught.value
    assert (rejected.reason, rejected.short_by_tokens) == (reason, short_by_tokens)
    # The reason and, for people who meet it for the first time, what it means.
    assert str(rejected).startswith(f"{rejected.reason}: ")
    comes_back = reason in ("no_capacity", "overcommitted")
    assert (rejected.retry_after_s is not None) == comes_back
    if comes_back:
        assert rejected.retry_after_s == pytest.approx(rejected.retry_after_ns / 1e9)
        assert rejected.retry_after_s > 0
    after = gate.usage()
    assert after["rejected"][reason] == before["rejected"][reason] + 2
    assert after["claimed_blocks"] == before["claimed_blocks"]
    return rejected


REFUSED = [
    # request, reason, short by
    ((0, 10), "bad_token_count", 0),
    ((10, 0), "bad_token_count", 0),
    ((-1, 10), "bad_token_count", 0),
    ((10, -1), "bad_token_count", 0),
    ((-(2**63), 10), "bad_token_count", 0),
    ((-(2**200), 10), "bad_token_count", 0),
    ((2**63, 10), "bad_token_count", 0),
    ((2**64, 10), "bad_token_count", 0),
    ((2**200, 10), "bad_token_count", 0),
    ((2**63 - 1, 2**63 - 1), "bad_token_count", 0),
    ((1.5, 10), "bad_token_count", 0),
    ((math.nan, 10), "bad_token_count", 0),
    (("12", 10), "bad_token_count", 0),
    ((None, 10), "bad_token_count", 0),
    ((b"12", 10), "bad_token_count", 0),
    ((10, "12"), "bad_token_count", 0),
    ((10, []), "bad_token_count", 0),
    ((10, 10, "other"), "unknown_pool", 0),
    ((1600, 1), "too_long", 1),
    ((10_000, 600), "too_long", 9_000),
    ((2**62, 1), "too_long", 2**62 - 1599),
]


@pytest.mark.parametrize(("request_", "reason", "short_by_tokens"), REFUSED)
def test_refused_with_a_reason(request_, reason, short_by_tokens):
    check(guaranteed(100), request_, reason, short_by_tokens)


def test_no_capacity_says_how_much_and_when():
    gate = guaranteed(100)
    held = gate.admit(1000, 400)
    assert check(gate, (300, 20), "no_capacity", 320 - 12 * 16).retry_after_ns == 10**9
    held.release()
    assert gate.try_admit(300, 20) is not None


def test_retry_after_follows_the_rate_of_release():
    gate = guaranteed(100)
    for second in range(20):
        gate.tick(second * 10**9)
        gate.admit(160, 160).release()
    with gate.admit(800, 800):
        # Releases 20 blocks a second, so 5 s for the 100 blocks that are missing, roughly.
        rejected = check(gate, (800, 800), "no_capacity", 1600)
        assert 1 < rejected.retry_after_s < 30


def test_a_shrunk_budget_is_overcommitted():
    gate = guaranteed(100)
    lease = gate.admit(160, 640)
    assert gate.set_capacity(40, epoch=1)
    check(gate, (16, 16), "overcommitted", 32)
    assert not lease.released and lease.grow(480) == 30, "no lease is revoked"
    assert lease.grow(160) is None and lease.tokens == 640, "there is no more"
    assert lease.explain(160)["short_blocks"] == 10
    assert not gate.set_capacity(1000, epoch=1), "a stale epoch changes nothing"
    assert gate.usage()["capacity_blocks"] == 40
    lease.release()
    assert gate.try_admit(16, 16) is not None


def test_a_lease_holds_its_prompt_and_grows_to_its_claim():
    gate = guaranteed(100)
    lease = gate.admit(33, 31)
    assert (lease.tokens, lease.held_blocks, lease.claim_blocks) == (33, 3, 4)
    grown = [lease.grow() for _ in range(31)]
    assert sum(grown) == 1 and grown[15] == 1
    assert (lease.tokens, lease.held_blocks) == (64, 4)
    with pytest.raises(PastMaximum) as caught:
        lease.grow(3)
    assert (caught.value.max_tokens, caught.value.past_by_tokens) == (64, 3)
    assert lease.tokens == 64, "a refused growth changes nothing"
    assert lease.grow(0) == 0


@pytest.mark.parametrize("tokens", [-1, 2**63, 2**80, 1.0, "1", [1]])
def test_growing_by_what_is_no_count_is_refused(tokens):
    lease = guaranteed(100).admit(16, 16)
    with pytest.raises(Rejected) as caught:
        lease.grow(tokens)
    assert caught.value.reason == "bad_token_count"
    assert lease.tokens == 16


def test_a_lease_is_released_once():
    gate = guaranteed(100)
    with gate.admit(16, 16) as lease:
        lease.grow(2)
        assert not lease.released
        assert gate.usage()["held_blocks"] == 2
        assert lease.release() is True
        assert lease.release() is False
    assert lease.released
    assert (lease.held_blocks, lease.claim_blocks, lease.tokens) == (0, 0, 18)
    assert gate.usage()["claimed_blocks"] == 0
    with pytest.raises(LeaseReleased):
        lease.grow()


def test_a_with_block_releases_and_lets_the_exception_through():
    gate = guaranteed(100)
    with pytest.raises(KeyError), gate.admit(16, 16):
        raise KeyError("the block's own")
    assert gate.usage()["leases"] == 0


def test_a_dropped_lease_is_released():
    gate = guaranteed(100)
    lease = gate.admit(16, 16)
    cycle = [lease]
    cycle.append(cycle)
    del lease
    assert gate.usage()["leases"] == 1
    del cycle
    gc.collect()
    assert gate.usage()["leases"] == 0


def test_a_lease_outlives_its_gate():
    gate = guaranteed(100)
    lease = gate.admit(16, 160)
    del gate
    gc.collect()
    assert lease.grow(160) == 10
    assert lease.release()


def test_numbers_that_stand_for_ints_are_counts():
    numpy = pytest.importorskip("numpy")
    gate = guaranteed(100)
    lease = gate.admit(numpy.int64(33), numpy.uint8(31))
    assert lease.grow(numpy.int32(31)) == 1
    check(gate, (numpy.int16(-3), 10), "bad_token_count", 0)
    check(gate, (numpy.float64(3), 10), "bad_token_count", 0)


def test_an_exception_inside_a_number_is_not_swallowed():
    class Interrupted:
        def __index__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        guaranteed(100).try_admit(Interrupted(), 10)


def test_pools_share_the_capacity():
    gate = guaranteed(100, pools={"short": 3, "long": 1})
    assert gate.admit(75 * 16 - 1, 1).claim_blocks == 75, "the first pool is the default"
    check(gate, (26 * 16, 1, "long"), "too_long", 16 + 1)
    with gate.admit(25 * 16 - 1, 1, pool="long"):
        check(gate, (1, 1, "long"), "no_capacity", 2)
        assert gate.try_admit(1, 1, "short") is not None


def test_defaults_and_limits():
    gate = guaranteed(100, max_new_tokens_default=100, max_model_len=200)
    assert gate.admit(60).claim_blocks == 10
    # Near the longest length, what stands in for a maximum is what is left.
    assert gate.admit(150, None).claim_blocks == 13
    check(gate, (200,), "too_long", 1)
    assert guaranteed(100, max_model_len=200).admit(60).claim_blocks == 13


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"capacity_blocks": -1}, ValueError, "capacity_blocks"),
        ({"capacity_blocks": 2**70}, ValueError, "capacity_blocks"),
        ({"capacity_blocks": 2**40}, ConfigureGateError, "capacity"),
        ({"capacity_blocks": "many"}, TypeError, "capacity_blocks"),
        ({"capacity_blocks": 1, "block_tokens": 0}, ValueError, "block_tokens"),
        ({"capacity_blocks": 1, "block_tokens": 2**33}, ValueError, "block_tokens"),
        ({"capacity_blocks": 1, "block_tokens": 1.0}, TypeError, "block_tokens"),
        ({"capacity_blocks": 1, "max_model_len": 0}, ConfigureGateError, "max_model_len"),
        ({"capacity_blocks": 1, "max_new_tokens_default": -3}, ValueError, "max_new_tokens"),
        ({"capacity_blocks": 1, "pools": {"a": 0}}, ConfigureGateError, "share 0"),
        ({"capacity_blocks": 1, "pools": {"a": -1}}, ValueError, "pools"),
        ({"capacity_blocks": 1, "pools": {3: 1}}, TypeError, "pools"),
        ({"capacity_blocks": 1, "pools": {"": 1}}, ConfigureGateError, "empty name"),
        ({"capacity_blocks": 1, "pools": [("a", 1)]}, TypeError, "pools"),
        ({"capacity_blocks": 1, "pools": {"a": {}}}, ValueError, "share"),
        ({"capacity_blocks": 1, "pools": {"a": {"shares": 1}}}, ValueError, "floor_percent"),
        (
            {"capacity_blocks": 1, "pools": {"a": {"share": 1, "floor_percent": 101}}},
            ConfigureGateError,
            "at most 100",
        ),
        ({"capacity_blocks": 1, "policy": "best"}, ValueError, "guaranteed, banker, optimistic"),
        ({"capacity_blocks": 1, "max_tokens": 1}, TypeError, "max_model_len"),
        ({"capacity_blocks": 1, "watermark": 0.1}, ValueError, "optimistic"),
        ({"capacity_blocks": 1, "policy": "optimistic", "watermark": 2}, ConfigureGateError, "wat"),
        ({"capacity_blocks": 1, "margin": -1}, ConfigureGateError, "margin"),
        ({"capacity_blocks": 1, "margin": "2"}, TypeError, "margin"),
        ({"capacity_blocks": 1, "margin": 2, "estimate": False}, ValueError, "estimate"),
        ({"capacity_blocks": 1, "estimate": 1}, TypeError, "estimate"),
        ({"capacity_blocks": 1, "leases_max": 0}, ConfigureGateError, "leases_max"),
        ({"capacity_blocks": 1, "queue_max": -1}, ValueError, "queue_max"),
    ],
)
def test_bad_configuration_names_the_argument(arguments, error, word):
    with pytest.raises(error, match=word):
        Gate.from_blocks(**{"max_model_len": 16, **arguments})


@pytest.mark.parametrize("policy", ["guaranteed", "banker"])
def test_a_policy_that_needs_a_cap_says_so(policy):
    with pytest.raises(ConfigureGateError) as caught:
        Gate.from_blocks(100, policy=policy)
    for word in (policy, "max_model_len", "max_new_tokens_default"):
        assert word in str(caught.value)
    assert caught.value.argument == "max_model_len"
    assert Gate.from_blocks(100, policy=policy, max_new_tokens_default=16).admit(1)
    assert Gate.from_blocks(100, policy="optimistic").admit(1)


@pytest.mark.parametrize(("blocks", "epoch"), [(-1, 1), (2**64, 1), (1, -1), (1, 2**64)])
def test_bad_capacity_changes_nothing(blocks, epoch):
    gate = guaranteed(100)
    with pytest.raises(ValueError, match="is not a number of"):
        gate.set_capacity(blocks, epoch)
    assert gate.usage()["capacity_blocks"] == 100


def test_threads_never_hold_more_than_there_is():
    gate = guaranteed(200)
    failures = []
    over = threading.Event()

    def worker(seed):
        rng = random.Random(seed)
        leases = []
        try:
            for _ in range(2_000):
                lease = gate.try_admit(rng.randint(1, 400), rng.randint(1, 400))
                if lease is not None:
                    leases.append(lease)
                for held in leases:
                    if held.tokens % 7 == seed % 7:
                        held.grow(0)
                usage = gate.usage()
                if max(usage["held_blocks"], usage["claimed_peak_blocks"]) > 200:
                    over.set()
                while leases and (lease is None or len(leases) > 5):
                    leases.pop(rng.randrange(len(leases))).release()
                    lease = leases
        except Exception as error:  # noqa: BLE001 - the thread's own way out
            failures.append(error)

    threads = [threading.Thread(target=worker, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and not over.is_set()
    gc.collect()
    usage = gate.usage()
    assert usage["leases"] == usage["held_blocks"] == usage["claimed_blocks"] == 0
    assert usage["admitted"] > 0 and usage["rejected"]["no_capacity"] > 0


def test_rejections_survive_pickling():
    with pytest.raises(Rejected) as caught:
        guaranteed(10).admit(1000, 5)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is Rejected
    assert (copy.reason, copy.short_by_tokens) == ("too_long", 845)


def test_every_error_is_a_memvelope_error():
    kinds = [
        kind
        for kind in vars(memvelope).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert len(kinds) == 22
    for kind in kinds:
        assert issubclass(kind, memvelope.MemvelopeError)
        assert kind.__module__ == "memvelope" and kind.__doc__


def test_one_lease_may_be_grown_and_released_by_many_threads():
    import sys
    import threading

    class Slow:
        """A count whose reading lets other threads in."""

        def __index__(self):
            return sum(1 for _ in range(50)) // 50

    gate = guaranteed(100)
    lease = gate.admit(16, 200)
    problems = []

    def grow():
        try:
            for _ in range(200):
                try:
                    lease.grow(Slow())
                    lease.grow(1)
                except PastMaximum:
                    pass
        except BaseException as problem:
            problems.append(problem)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=grow) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not problems, problems
    assert lease.tokens == 216
    assert lease.release() and gate.usage()["held_blocks"] == 0


def test_a_number_for_an_envelope_is_told_where_to_go():
    with pytest.raises(TypeError, match="from_blocks"):
        memvelope.Gate(5)
