"""Rolling out over a whole application in one process: requests, orders, limits, starting again."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from contextlib import asynccontextmanager

import httpx2
import pytest

from service.app import create_app
from service.keys.__main__ import main as keys
from service.settings import Settings
from tests import micro
from tests.service.connections import Bench, request

ROLLOUT = "/v2/repository/models/double/rollout"
LIMITS = "requests=20 seconds=0 mean=none"  # how long requests take here says nothing


class Client(httpx2.AsyncClient):
    """A caller that may also give orders."""

    async def ask(self, version=None, key=None):
        path = "/models/double" + (f"/versions/{version}" if version else "") + "/predict"
        headers = {"Quartet-Sticky-Key": key} if key else {}
        return await self.post(path, json={"instances": [[1, 2]]}, headers=headers)

    async def versions(self, requests=20, **how):
        """Who answered, how often; by status where it was no answer."""
        answers = [await self.ask(**how) for _ in range(requests)]
        return Counter(answer.json().get("model_version", answer.status_code) for answer in answers)

    async def order(self, verb, status=200, **body):
        answer = await self.post(f"{ROLLOUT}/{verb}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def phase(self):
        return (await self.get(ROLLOUT)).json()["phase"]

    async def asked_until(self, *phases):
        """Requests go on until the rollout stands there; who answered."""
        seen = Counter()
        while (phase := await self.phase()) not in phases:
            seen += await self.versions(5)
        while phase in ("promoted", "rolled back") and self.app.registry.splits:
            await asyncio.sleep(0)  # written down, and done the next moment
        return seen

    async def states(self):
        return {entry["version"]: entry["state"] for entry in (await self.post("/v2/repository/index")).json()}

    async def until(self, condition):
        while not await condition():
            await asyncio.sleep(0.005)

    async def gone(self, version):
        await self.until(lambda: self._is(version, "UNAVAILABLE"))

    async def _is(self, version, state):
        return (await self.states())[version] == state


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr("service.rollout.rollouts.TICK", 0.01)
    micro.publish_double(tmp_path / "models")
    return tmp_path


@asynccontextmanager
async def running(root, **settings):
    given = {"rollout_state": root / "state", "rollout_limits": LIMITS, **settings}
    app = create_app(Settings(repository=root / "models", device="cpu", **given))
    async with app.lifespan(), Client(transport=httpx2.ASGITransport(app), base_url="http://q") as client:
        client.app = app
        yield client


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario(), 30))


def better(root):
    """The next version: other numbers, the same decisions."""
    return micro.publish_times(root / "models", 3.0)


def worse(root):
    return micro.publish_times(root / "models", -2.0)


def audit(root):
    return [json.loads(line) for line in (root / "state/audit.jsonl").read_text().splitlines()]


def test_a_canary_gets_its_share_by_order_and_is_promoted(root):
    async def scenario():
        async with running(root) as client:
            better(root)
            begun = await client.order("start", stages="canary:50", by="ann", reason="retrained")
            assert (begun["phase"], begun["serves"], begun["rollout"]["version"]) == ("canary:50", "1", "2")
            mixed = await client.versions(60)
            assert set(mixed) == {"1", "2"}
            assert await client.versions(5, version="1") == {"1": 5}
            assert await client.versions(5, version="2") == {"2": 5}
            assert (await client.get("/v2/models/double")).json()["parameters"] == (
                await client.get("/v2/models/double/versions/1")
            ).json()["parameters"], "metadata are those of the version that serves"
            await client.order("change", stage="canary:0")
            assert await client.versions() == {"1": 20}
            await client.order("change", stage="canary:100")
            assert await client.versions() == {"2": 20}
            promoted = await client.order("promote", by="bob")
            assert (promoted["phase"], promoted["serves"], promoted["last"]["by"]) == ("promoted", "2", "bob")
            assert await client.versions() == {"2": 20}
            await client.gone("1")
        steps = [(line["step"], line["by"], line["to"]) for line in audit(root)]
        assert steps == [
            ("proposed", "ann", "proposed"),
            ("begun", "all workers", "canary:50"),
            ("changed", "a caller", "canary:0"),
            ("changed", "a caller", "canary:100"),
            ("promoted", "bob", "promoted"),
        ]
        assert audit(root)[-1]["numbers"]["candidate"]["requests"] == 20

    run(scenario)


def test_a_key_stays_with_its_version_also_on_the_quick_way(root):
    async def scenario():
        async with running(root) as client:
            better(root)
            await client.order("start", stages="canary:50")
            bench = Bench(client.app)
            seen = {}
            for key in map(str, range(20)):
                (version,) = await client.versions(3, key=key)
                data = request("/models/double/predict", b'{"instances": [[1, 2]]}', f"Quartet-Sticky-Key: {key}")
                quick = await bench.answers([data] * 3, ours=True)
                assert quick.count(f'"model_version":"{version}"'.encode()) == 3
                seen[key] = version
            assert set(seen.values()) == {"1", "2"}
            await client.order("change", stage="canary:80")
            for key in (key for key, version in seen.items() if version == "2"):
                assert await client.versions(1, key=key) == {"2": 1}

    run(scenario)


def test_a_worse_version_is_caught_by_its_shadow_and_answers_nobody(root):
    async def scenario():
        async with running(root, rollout="shadow:100,canary:50", watch=0.01) as client:
            worse(root)
            assert set(await client.asked_until("rolled back")) == {"1"}
            last = (await client.get(ROLLOUT)).json()["last"]
            assert (last["version"], last["cause"]) == ("2", "disagreement")
            assert re.match(r"100\.00% of \d+ rows disagree, by up to 8; 5\.00% may", last["reason"])
            await client.gone("2")
            for _ in range(3):
                assert (await client.post("/v2/repository/models/double/load")).status_code == 200
            assert await client.versions() == {"1": 20}, "it is not taken again"
            text = (await client.get("/metrics")).text
            assert 'quartet_rollouts_total{cause="disagreement",model="double",result="rolled_back"} 1.0' in text
            assert re.search(r'quartet_shadow_unlike_rows_total\{kind="disagreeing",model="double",version="2"\} [2-9]\d', text)
            assert "quartet_rollout_share{" not in text
            better(root)
            await client.until(lambda: is_proposed(client, "3"))
            await client.order("rollback")
            await client.order("start", version=2, stages="canary:100")
            assert await client.versions() == {"2": 20}, "named, it is taken"

    async def is_proposed(client, version):
        rollout = (await client.get(ROLLOUT)).json()["rollout"]
        return rollout is not None and rollout["version"] == version and rollout["stage"] is not None

    run(scenario)


def test_a_version_goes_through_its_stages_and_is_promoted_by_its_limits(root):
    async def scenario():
        async with running(root, rollout="shadow:100,canary:50", rollout_limits=f"{LIMITS} promote=40") as client:
            better(root)
            assert (await client.post("/v2/repository/models/double/load")).status_code == 200
            await client.asked_until("canary:50")
            assert set(await client.asked_until("promoted")) == {"1", "2"}
            assert await client.versions() == {"2": 20}
            await client.gone("1")
        assert [(line["step"], line["by"]) for line in audit(root)] == [
            ("adopted", "--rollout"),
            ("proposed", "--rollout"),
            ("begun", "all workers"),
            ("went on", "limits"),
            ("went on", "limits"),
        ]

    run(scenario)


def test_a_slow_version_is_rolled_back_by_its_canary(root):
    async def scenario():
        async with running(root) as client:
            micro.publish_times(root / "models", 3.0, work=12)
            await client.order("start", stages="canary:50", limits={"requests": 10, "mean": 2})
            await client.asked_until("rolled back")
            last = (await client.get(ROLLOUT)).json()["last"]
            assert last["cause"] == "latency"
            assert "times the stable version's" in last["reason"]
            assert await client.versions() == {"1": 20}

    run(scenario)


def test_a_version_that_fails_is_rolled_back_and_one_without_a_session_gets_no_requests(root, monkeypatch):
    async def scenario():
        async with running(root) as client:
            better(root)
            await client.order("start", stages="canary:50")
            (worker,) = client.app.registry.find("double", "2").batcher.workers
            monkeypatch.setattr(worker.session, "run", lambda inputs: 1 / 0)
            monkeypatch.setattr("service.worker.Worker.check", lambda worker: None)
            seen = await client.asked_until("rolled back")
            assert set(seen) == {"1", 422}
            assert (await client.get(ROLLOUT)).json()["last"]["cause"] == "errors"
            monkeypatch.undo()

            monkeypatch.setattr("service.rollout.rollouts.TICK", 0.01)
            await client.order("start", version=2, stages="canary:100")
            monkeypatch.setattr("service.model.ServedModel.ready", property(lambda model: model.version == "1"))
            assert await client.versions() == {"1": 20}
            assert (await client.get("/v2/health/ready")).status_code == 200, "that is no fault of the server's"
            await client.asked_until("rolled back")
            assert (await client.get(ROLLOUT)).json()["last"]["cause"] == "session"

    run(scenario)


@pytest.mark.parametrize("rollout", ["", "canary:10"])
def test_started_again_in_the_middle_it_goes_on_and_never_serves_the_new_version_alone(root, rollout):
    async def scenario():
        async with running(root) as client:
            better(root)
            await client.order("start", stages="canary:50,canary:80", limits={"requests": 1000})
        better(root)  # published while nobody served
        async with running(root, rollout=rollout) as client:
            assert client.app.registry.find("double").version == "1", "from the first moment on"
            await client.until(lambda: begun(client))
            assert set(await client.versions(60)) == {"1", "2"}
            assert (await client.get(ROLLOUT)).json()["rollout"]["limits"]["requests"] == 1000
            await client.order("rollback")
        async with running(root, rollout=rollout) as client:
            assert await client.versions(version="2") == {404: 20}
            expected = "1" if rollout else "3"
            assert client.app.registry.find("double").version == expected, (
                "2 is rejected, and 3 has to be proven where a rule says so"
            )

    async def begun(client):
        return client.app.registry.splits

    run(scenario)


def test_what_was_promoted_over_a_newer_version_still_serves_after_a_start(root):
    async def scenario():
        better(root)
        async with running(root) as client:
            await client.order("start", version=1, stages="canary:100")
            await client.order("promote")
            await client.gone("2")
            assert await client.versions() == {"1": 20}
        async with running(root) as client:
            assert await client.versions() == {"1": 20}

    run(scenario)


def test_a_version_that_cannot_be_loaded_changes_nothing_and_one_that_breaks_later_is_rolled_back(root):
    async def scenario():
        async with running(root) as client:
            micro.publish_double(root / "models", factor=2.5)  # its golden rows come out wrong
            refused = await client.order("start", 422, stages="canary:50")
            assert "no artifact of double:2 can serve here" in refused["error"]
            assert "nothing has changed" in refused["error"]
            assert await client.phase() == "none"
            better(root)
            await client.order("start", stages="canary:50")
        (root / "models/double/3/model.onnx").write_bytes(b"torn")
        async with running(root) as client:
            await client.until(lambda: is_back(client))
            last = (await client.get(ROLLOUT)).json()["last"]
            assert (last["cause"], "model.onnx has size 4" in last["reason"]) == ("load", True)
            assert await client.versions() == {"1": 20}

    async def is_back(client):
        return await client.phase() == "rolled back"

    run(scenario)


def test_a_worker_that_had_looked_before_a_rollout_began_brings_the_proven_version_back(root):
    async def scenario():
        better(root)
        async with running(root) as other:
            await other.order("start", version=1, stages="canary:100")
            await other.order("promote")
            (root / "state/double.json").rename(root / "aside")
            async with running(root) as client:  # which looked before
                assert await client.versions() == {"2": 20}
                (root / "aside").rename(root / "state/double.json")
                await client.until(lambda: serves(client, "1"))
                assert await client.versions() == {"1": 20}
                await other.order("start", version=2, stages="canary:0")
                await client.until(lambda: follows(client))
                assert await client.versions() == {"1": 20}

    async def serves(client, version):
        return await client.versions(1) == {version: 1}

    async def follows(client):
        return client.app.registry.splits

    run(scenario)


def test_unloading_and_loading_in_the_middle_takes_the_rollout_along(root):
    async def scenario():
        async with running(root) as client:
            better(root)
            await client.order("start", stages="canary:50")
            assert (await client.post("/v2/repository/models/double/unload")).status_code == 200
            assert await client.versions() == {404: 20}
            assert (await client.get(ROLLOUT)).status_code == 404
            assert (await client.post("/v2/repository/models/double/load")).status_code == 200
            assert set(await client.versions(60)) == {"1", "2"}

    run(scenario)


def test_what_was_published_meanwhile_does_not_come_along_and_what_cannot_be_remembered_does_not_serve(root, monkeypatch):
    async def scenario():
        async with running(root) as client:
            better(root)
            better(root)
            with monkeypatch.context() as patch:
                patch.setattr("service.rollout.memory.Memory._write", full)
                error = (await client.order("start", 500, stages="canary:50"))["error"]
                assert "No space left on device" in error
            await client.gone("3")
            assert await client.versions() == {"1": 20}
            for version in (2, 3):
                await client.order("start", version=version, stages="canary:100")
                await client.order("rollback")
                assert await client.versions() == {"1": 20}
            better(root)
            better(root)
            await client.order("start", version=4, stages="canary:100")
            await client.order("promote")
            assert await client.versions() == {"4": 20}, "5 was not asked for"

    def full(*_):
        raise OSError(28, "No space left on device")

    run(scenario)


def test_requests_under_way_are_answered_by_the_version_that_leaves(root):
    async def scenario():
        async with running(root) as client:
            better(root)
            await client.order("start", stages="canary:100")
            leaving = client.app.registry.find("double", "2")
            with leaving.called():
                await client.order("rollback")
                assert await client.versions() == {"1": 20}
                assert (await client.states())["2"] == "UNLOADING"
            await client.gone("2")

    run(scenario)


WRONG = [
    ("start", {"stages": "canary:10"}, 409, "version 1 is the one that serves"),
    ("start", {"stages": "canary:10", "version": 7}, 404, "has no version 7; published are 1"),
    ("start", {}, 400, "say how to begin"),
    ("start", {"stages": "canary:500"}, 400, "is not a stage"),
    ("start", {"stages": "canary:10", "version": 1, "limits": {"errors": 7}}, 400, "errors"),
    ("start", {"stages": "canary:10", "limits": {"error": 0.1}}, 400, "error"),
    ("start", {"stage": "canary:10"}, 400, "stage"),
    ("change", {"stage": "canary:10,canary:20"}, 400, "one stage"),
    ("change", {"stage": "canary:10"}, 409, "no rollout is under way"),
    ("promote", {}, 409, "no rollout is under way"),
    ("rollback", {"by": ""}, 400, "by"),
]


def test_an_order_that_cannot_be_followed_says_why_and_changes_nothing(root):
    async def scenario():
        async with running(root) as client:
            for verb, body, status, message in WRONG:
                assert message in (await client.order(verb, status, **body))["error"], (verb, body)
            assert (await client.get("/v2/repository/rollouts")).json() == []

    run(scenario)


def test_one_rollout_of_a_model_at_a_time_and_none_of_a_model_that_is_not_there(root):
    async def scenario():
        async with running(root) as client:
            better(root)
            await client.order("start", stages="canary:10")
            better(root)
            assert "version 2 is being rolled out" in (await client.order("start", 409, stages="canary:10"))["error"]
            other = await client.post("/v2/repository/models/other/rollout/start", json={"stages": "canary:10"})
            assert (other.status_code, "no model 'other'" in other.json()["error"]) == (404, True)
            assert [each["phase"] for each in (await client.get("/v2/repository/rollouts")).json()] == ["canary:10"]

    run(scenario)


def test_nothing_is_rolled_out_that_a_start_would_forget(root):
    async def scenario():
        async with running(root, rollout_state=None) as client:
            better(root)
            error = (await client.order("start", 409, stages="canary:10"))["error"]
            assert "give it --rollout-state FOLDER, or name what is proven, --versions 'double=1'" in error
            assert await client.versions() == {"1": 20}
        async with running(root, rollout_state=None, versions="double=1") as client:
            await client.order("start", stages="canary:100")
            assert await client.versions() == {"2": 20}
        async with running(root, rollout_state=None, versions="double=1") as client:
            assert await client.versions() == {"1": 20}

    run(scenario)


def test_orders_are_taken_where_loading_is_and_what_there_is_may_be_seen(root):
    async def scenario():
        async with running(root, host="0.0.0.0") as client:
            for verb, body in (("start", {}), ("change", {"stage": "canary:1"}), ("promote", {}), ("rollback", {})):
                assert "--control on" in (await client.order(verb, 403, **body))["error"]
            assert await client.phase() == "none"

    run(scenario)


def test_where_there_are_keys_the_audit_log_says_whose_gave_the_order(root, capsys):
    async def scenario():
        path = str(root / "keys.json")
        assert keys(["--keys", path, "add", "ops", "--scope", "admin"]) == 0
        secret = re.search(r"\S{30,}", capsys.readouterr().out)[0]
        async with running(root, keys=path) as client:
            better(root)
            assert (await client.post(f"{ROLLOUT}/start", json={"stages": "canary:10"})).status_code == 401
            client.headers["X-API-Key"] = secret
            await client.order("start", stages="canary:10", by="ann")
        assert audit(root)[0]["by"] == "ann, with key 'ops'"

    run(scenario)


def test_a_shadow_takes_what_there_is_room_for_and_a_request_of_any_size(root):
    async def scenario():
        async with running(root) as client:
            better(root)
            await client.order("start", stages="shadow:50", limits={"requests": 10_000})
            rows = {"instances": [[1, 2]] * 30}  # four batches
            for _ in range(10):
                assert (await client.post("/models/double/predict", json=rows)).status_code == 200
            shadow = client.app.registry.find("double").taps[0]
            while shadow.figures.copies < 5:
                await asyncio.sleep(0)  # the last copy runs after its request was answered
            compared = (await client.get(ROLLOUT)).json()["figures"]["compared"]
            assert (compared["copies"], compared["rows"], compared["dropped"]) == (5, 40, 0)
            assert (compared["disagreeing"], compared["differing"], compared["largest"]) == (0, 40, 2.0)

            batcher = client.app.registry.find("double", "2").batcher
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(type(batcher), "waiting_rows", property(lambda self: 16 if self is batcher else 0))
                await client.versions(4)
            assert shadow.figures.dropped == 2
            await client.order("rollback")
            assert client.app.registry.find("double").taps == ()

    run(scenario)
