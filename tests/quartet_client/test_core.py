"""Attempts, pauses and deadlines, as conversations: nothing is sent, and no time passes but what the tests let pass."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest

from quartet_client import (
    DeadlineExceeded,
    Forbidden,
    InvalidAnswer,
    InvalidRequest,
    NotFound,
    Overloaded,
    ServerError,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unprocessable,
    Unreachable,
    calls,
    core,
)
from quartet_client.core import Lost, Pause, Reply, Send, Settings, TimedOut

ROW = {"x": np.array([[1, 2]], np.float32)}
RIGHT = Reply(200, {}, b'{"models": ["m"]}')


@pytest.fixture
def clock(monkeypatch):
    """Seconds that have passed; a pause lets its own pass."""
    passed = [0.0]
    monkeypatch.setattr(core.time, "monotonic", lambda: passed[0])
    return passed


def refused(status, headers=None, message="because"):
    return Reply(status, headers or {}, json.dumps({"error": message}).encode())


def drive(conversation, replies, clock):
    """What it returns, and what it sent and how long it paused, when these come back one after the other."""
    steps, replies = [], iter(replies)
    try:
        step = next(conversation)
        while True:
            steps.append(step)
            if isinstance(step, Pause):
                clock[0] += step.seconds
                step = conversation.send(None)
                continue
            reply = next(replies)
            step = conversation.throw(reply) if isinstance(reply, Exception) else conversation.send(reply)
    except StopIteration as end:
        return end.value, steps


def pauses(steps):
    return [step.seconds for step in steps if isinstance(step, Pause)]


@pytest.mark.parametrize("first", [Lost("broken"), refused(429), refused(502), refused(503)], ids=lambda each: str(each)[:20])
def test_what_is_safe_to_try_again_is_tried_again(clock, first):
    found, steps = drive(calls.models(Settings()), [first, first, RIGHT], clock)
    assert found == ["m"]
    first_pause, second_pause = pauses(steps)
    assert 0 < first_pause <= 0.05 < 2 * second_pause <= 0.2


def test_retry_after_is_waited_for_in_seconds_or_until_a_date(clock):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=7), usegmt=True)
    replies = [refused(429, {"retry-after": "3"}), refused(503, {"retry-after": soon}), refused(503, {"retry-after": "?"}), RIGHT]
    _, steps = drive(calls.models(Settings()), replies, clock)
    seconds, date, backoff = pauses(steps)
    assert 3 <= seconds <= 3.3
    assert 5 <= date <= 7.7
    assert backoff <= 0.2


def test_nobody_waits_beyond_the_deadline_of_the_call(clock):
    with pytest.raises(Overloaded) as raised:
        drive(calls.models(Settings(timeout=2)), [refused(429, {"retry-after": "3"}, "full")], clock)
    assert (str(raised.value), raised.value.status, raised.value.retry_after, clock[0]) == ("full", 429, 3, 0)


def test_the_last_failure_is_raised_after_so_many_retries(clock):
    sent = [Lost("one"), Lost("two"), Lost("three")]
    with pytest.raises(Unreachable, match="three"):
        drive(calls.models(Settings(retries=2)), sent, clock)
    with pytest.raises(Unreachable, match="one"):
        drive(calls.models(Settings(retries=0)), sent, clock)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (413, TooLarge),
        (415, InvalidRequest),
        (422, Unprocessable),
        (500, ServerError),
        (418, ServerError),
    ],
)
def test_what_would_fail_again_is_raised_at_once_as_what_it_is(clock, status, kind):
    with pytest.raises(kind, match="because") as raised:
        drive(calls.models(Settings()), [refused(status)], clock)
    assert raised.value.status == status


def test_a_deadline_is_one_error_whoever_noticed_it(clock):
    for answer in (TimedOut(), refused(504, message="no answer within the timeout of 20 ms")):
        with pytest.raises(TimeoutError, match=r"no answer within 5 s") as raised:
            drive(calls.models(Settings(timeout=5)), [answer], clock)
        assert isinstance(raised.value, DeadlineExceeded)
    with pytest.raises(ValueError, match="timeout is 0"):
        drive(calls.models(Settings(), timeout=0), [], clock)


def test_an_error_of_somebody_elses_is_shown_as_it_is(clock):
    with pytest.raises(Unavailable, match="<html>Bad gateway"):
        drive(calls.models(Settings(retries=0)), [Reply(502, {}, b"<html>Bad gateway")], clock)
    with pytest.raises(InvalidAnswer, match="none of Quartet's"):
        drive(calls.models(Settings()), [Reply(200, {}, b"<html>Welcome")], clock)
    with pytest.raises(InvalidAnswer, match="none of Quartet's"):
        drive(calls.infer(Settings(), "m", ROW), [Reply(200, {}, b"[]")], clock)


def test_the_server_is_told_how_much_time_is_left_at_each_attempt(clock):
    _, steps = drive(calls.predict(Settings(timeout=10), "m", [[1, 2]]), [refused(429, {"retry-after": "4"}), PREDICTED], clock)
    first, pause, second = steps
    assert first.headers["quartet-timeout-ms"] == "10000.000"
    assert float(second.headers["quartet-timeout-ms"]) == pytest.approx((10 - pause.seconds) * 1e3, abs=0.01)
    assert second.seconds == pytest.approx(10 - pause.seconds)
    _, (step,) = drive(calls.infer(Settings(timeout=2.5), "m", ROW, priority=1), [INFERRED], clock)
    header = int(step.headers["inference-header-content-length"])
    said = json.loads(step.content[:header])["parameters"]
    assert (said["timeout"], said["priority"], said["binary_data_output"]) == (2_500_000, 1, True)
    _, (step,) = drive(calls.infer(Settings(), "m", ROW, timeout=math.inf), [INFERRED], clock)
    assert b"timeout" not in step.content
    assert "quartet-timeout-ms" not in step.headers


PREDICTED = Reply(200, {}, b'{"model_name": "m", "model_version": "1", "predictions": []}')
INFERRED = Reply(200, {}, b'{"model_name": "m", "model_version": "1", "outputs": []}')


def test_paths_and_headers_say_what_was_asked_for(clock):
    settings = Settings({"authorization": "Bearer k", "x-a": "client"})
    options = {"version": 3, "priority": 2, "sticky_key": "me", "headers": {"TraceParent": "00-1", "X-A": "call"}}
    _, (step,) = drive(calls.predict(settings, "a model/é", [[1]], **options), [PREDICTED], clock)
    assert step.path == "/models/a%20model%2F%C3%A9/versions/3/predict"
    assert (
        step.headers.items()
        >= {
            "authorization": "Bearer k",
            "x-a": "call",
            "traceparent": "00-1",
            "quartet-priority": "2",
            "quartet-sticky-key": "me",
        }.items()
    )
    assert len({name.lower() for name in step.headers}) == len(step.headers)


def test_predict_takes_one_kind_of_instance(clock):
    for given in ({}, {"instances": [[1]], "texts": ["a"]}):
        with pytest.raises(ValueError, match=r"it takes one"):
            drive(calls.predict(Settings(), "m", **given), [], clock)


def test_waiting_for_a_server_asks_until_it_is_there_and_says_in_the_end_what_was_missing(clock):
    _, steps = drive(calls.wait_ready(Settings()), [Lost("refused"), refused(503), refused(503), Reply(200, {}, b"{}")], clock)
    assert pauses(steps) == [0.1, 0.2, 0.4]
    assert {step.path for step in steps if isinstance(step, Send)} == {"/v2/health/ready"}
    with pytest.raises(DeadlineExceeded, match=r"within 1 s: not ready: m:1: proving"):
        drive(calls.wait_ready(Settings(), 1), [refused(503, message="not ready: m:1: proving")] * 10, clock)
    with pytest.raises(ServerError):
        drive(calls.wait_ready(Settings()), [refused(500)], clock)


def test_ready_is_asked_once(clock):
    assert drive(calls.ready(Settings()), [refused(503)], clock) == (False, [Send("GET", "/v2/health/ready", {}, b"", 30.0)])
    assert drive(calls.ready(Settings(), "m", version=1), [refused(404)], clock)[0] is False
    assert drive(calls.ready(Settings(), "m"), [Reply(200, {}, b"")], clock)[0] is True
