"""`profile`, `snapshot` and `Session` in this process, which has no GPU or is not asked to use it:
`MEMVELOPE_RECORD=off` where the recording itself is not the point. The simulator's part is in
test_sim.py."""

import asyncio
import functools
import json
import threading

import memvelope
import pytest
from memvelope import Profile, Session, profile, snapshot


@pytest.fixture(autouse=True)
def blind(monkeypatch):
    monkeypatch.setenv("MEMVELOPE_RECORD", "off")
    yield
    assert Session.current() is None, "a test left a session running"


def check_report(profiled):
    report = profiled.report
    assert report is not None
    json.dumps(report)  # plain objects only
    assert report["simulated"] is False
    assert isinstance(report["mode"], dict)
    assert report["self"]["host_bytes"] >= 0
    assert profiled.unseen, "a recording that is off says so"
    assert all(isinstance(why, str) and why for why in profiled.unseen)


def test_a_with_block():
    with profile("step") as profiled:
        assert profiled.report is None
        assert snapshot() is not None
    check_report(profiled)
    assert snapshot() is None


def test_before_it_is_entered_there_is_nothing():
    assert profile().report is None
    assert profile().unseen


def test_nested_profiles_share_a_recording():
    with profile("outer") as outer:
        with profile("inner") as inner:
            assert Session.current() is not None
        assert inner.report is None, "until the outermost is left"
        with profile():
            pass
    check_report(outer)
    assert inner.report is outer.report


def test_one_profile_may_be_entered_again():
    profiled = profile("again")
    with profiled, profiled:
        pass
    first = profiled.report
    with profiled:
        pass
    assert profiled.report is not first
    check_report(profiled)


def test_the_blocks_exception_passes():
    with pytest.raises(ZeroDivisionError), profile("step") as profiled:
        raise ZeroDivisionError
    check_report(profiled)


def test_decorated_functions():
    @profile("add")
    def add(a, b=2):
        """Adds."""
        assert Session.current() is not None
        return a + b

    assert (add.__name__, add.__doc__) == ("add", "Adds.")
    assert isinstance(add.profile, Profile) and add.profile.report is None
    assert add(1, b=4) == 5
    check_report(add.profile)
    assert add.profile.name == "add"


def test_bare_decorators():
    @profile
    def twice(n):
        return twice(n - 1) + 2 if n else 0

    assert twice(3) == 6
    check_report(twice.profile)
    assert twice.profile.name.endswith("twice")


def test_coroutine_functions():
    @profile("fetch")
    async def fetch(n):
        await asyncio.sleep(0)
        assert Session.current() is not None
        return n

    async def main():
        return await asyncio.gather(*(fetch(n) for n in range(5)))

    assert asyncio.iscoroutinefunction(fetch)
    assert asyncio.run(main()) == list(range(5))
    check_report(fetch.profile)


def test_coroutine_functions_in_disguise():
    class Model:
        async def step(self):
            return Session.current() is not None

        async def __call__(self):
            return Session.current() is not None

    model = Model()
    for function in (model.step, model, functools.partial(model.step)):
        assert asyncio.run(profile("step")(function)())


def test_generators_are_refused():
    def numbers():
        yield 1

    async def numbers_later():
        yield 1

    for function in (numbers, numbers_later):
        with pytest.raises(TypeError, match="generator"):
            profile()(function)


def test_threads_share_a_recording():
    barrier = threading.Barrier(4)
    reports = []

    def work():
        barrier.wait()
        for _ in range(5):
            with profile("thread") as profiled:
                assert Session.current() is not None
            reports.append(profiled)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 20
    for profiled in reports:
        check_report(profiled)


def test_a_running_session_is_used_and_left_running():
    session = Session.start()
    try:
        with pytest.raises(memvelope.SessionExistsError):
            Session.start()
        with profile("step") as profiled:
            pass
        check_report(profiled)
        assert Session.current() is not None
    finally:
        last = session.stop()
    assert session.snapshot()["epoch"] >= last["epoch"], "a handle keeps the last snapshot"


def test_a_typo_in_the_environment_is_warned_of(monkeypatch):
    # In two parts, because every key that stands in the sources must be in the table.
    typo = "MEMVELOPE_" + "BUFER_BYTES"
    monkeypatch.setenv(typo, "1")
    with pytest.warns(RuntimeWarning, match=typo):
        Session.start().stop()


def test_warnings_as_errors_do_not_stop_the_profiled_code(monkeypatch):
    monkeypatch.setenv("MEMVELOPE_BUFFER_BYTES", "-1")
    with profile("step") as profiled:
        ran = True
    assert ran and profiled.report is None
    assert "MEMVELOPE_BUFFER_BYTES" in profiled.unseen[0]


def test_traces_are_written_whole_or_not_at_all(tmp_path):
    with profile("step") as profiled:
        pass
    written = profiled.write_trace(tmp_path / "trace.json")
    assert written["bytes"] == (tmp_path / "trace.json").stat().st_size
    json.loads((tmp_path / "trace.json").read_text())
    with pytest.raises(memvelope.WriteFileError) as caught:
        profiled.write_trace(tmp_path / "no" / "trace.json")
    assert caught.value.path.endswith("trace.json")
    with pytest.raises(memvelope.MemvelopeError, match="no recording"):
        profile().write_trace(tmp_path / "other.json")
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


@pytest.mark.parametrize("timeout_s", [-1.0, float("nan"), float("inf")])
def test_bad_timeouts_are_refused(timeout_s):
    session = Session.start()
    try:
        with pytest.raises(ValueError, match="timeout_s"):
            session.flush(timeout_s)
    finally:
        session.stop()


def test_what_cannot_be_profiled_is_told_and_leaves_no_recording():
    for bad in (5, b"step", ["step"]):
        with pytest.raises(TypeError, match="a str"):
            profile(bad)
    with pytest.raises(TypeError, match="not property"):
        profile("step")(property(lambda self: 1))
    with pytest.raises(RuntimeError, match="not entered"):
        profile().__exit__(None, None, None)
    # A name that only the session refuses: entering fails, and what was started is ended.
    profiled = Profile("step")
    profiled.name = 5
    with pytest.raises(TypeError), profiled:
        pass
    assert Session.current() is None
