"""`locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 --headless …`: users of every interface, each answer checked.

Requests are made from what the server says about its models (`served.py`), so that this runs against any Quartet. With
`--repository` rows and right answers are the published golden rows; without, and for texts and pictures, right is what the server
answers before the users come. Refusals (429, 503 or 504 with an error in JSON, 429 with Retry-After) are rows of their own in the
report, of the type REFUSED; who is refused stays away as long as Retry-After says.

Users wait for their answers. Latency under arrivals that do not wait is measured by `python -m loadtests.mlperf`.
"""

from __future__ import annotations

import logging
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import gevent
from locust import FastHttpUser, LoadTestShape, constant, events, poisson, stats, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtests import shapes, slo
from loadtests.calls import Call, Response, golden_calls, golden_predictions, taken_apart
from loadtests.served import Served, calm_calls, discover
from loadtests.weights import Weights
from modelrepo.errors import QuartetError
from modelrepo.repository import Repository

log = logging.getLogger("loadtests")

DURATION = 120.0  # seconds, where --run-time says nothing
LONGEST_PAUSE = 30.0  # seconds; a refused user comes back then, whatever Retry-After says
REFUSED = "REFUSED"


def _bucket(milliseconds: float) -> float:
    """Locust rounds to whole milliseconds, in which much of our answering takes place; this keeps two digits."""
    return float(f"{milliseconds:.2g}")


stats.bucket_response_time = _bucket  # type: ignore[assignment]  # its documented way to round otherwise


class Caller(FastHttpUser):
    """One who sends a request of one interface, waits for the answer and thinks a while."""

    abstract = True
    interface: ClassVar[str]
    calls: ClassVar[dict[str, list[tuple[Call, str, Mapping[str, str], bytes]]]]
    """By model: each call, and its request taken apart."""
    weights: ClassVar[list[float]]
    """Of these models, in their order."""
    pause: ClassVar[Callable[[Any], float]] = constant(0)

    def wait_time(self) -> float:
        """Seconds until the next request."""
        return type(self).pause(self)

    @task
    def call(self) -> None:
        """One request, and its verdict."""
        (model,) = random.choices(list(self.calls), self.weights)
        call, path, headers, body = random.choice(self.calls[model])
        name = f"{self.interface} {model}"
        with self.client.post(path, data=body, headers=headers, name=name, catch_response=True) as answer:  # type: ignore[arg-type]
            if not answer.status_code:
                answer.failure(f"no answer: {answer.error}")
                return
            response = Response(answer.status_code, {name.lower(): value for name, value in answer.headers.items()}, answer.content)
            kind, why = call.judge(response)
            if kind == "lost":
                answer.failure(why)
            else:
                answer.success()
            if kind == "refused":
                answer.request_meta["request_type"] = REFUSED
        if kind == "refused":
            gevent.sleep(min(LONGEST_PAUSE, float(response.headers.get("retry-after", 0))))


class V2Json(Caller):
    """The Open Inference Protocol in JSON."""

    interface = "v2-json"


class V2Binary(Caller):
    """The Open Inference Protocol with its binary extension."""

    interface = "v2-binary"


class Predict(Caller):
    """Instances in JSON."""

    interface = "predict"


class Text(Caller):
    """Texts, plain and in JSON."""

    interface = "text"


class Images(Caller):
    """PNG files, plain and in JSON."""

    interface = "images"


CALLERS: dict[str, type[Caller]] = {caller.interface: caller for caller in (V2Json, V2Binary, Predict, Text, Images)}


class Shape(LoadTestShape):
    """The users of `--shape`; ends after `--run-time`, steps as soon as one of them finds saturation."""

    use_common_options = True

    def __init__(self) -> None:
        super().__init__()
        self._rates: list[float] = []
        self._step = (0, 0.0, 0)

    def reset_time(self) -> None:
        """A new test, in the web interface."""
        super().reset_time()
        self._rates, self._step = [], (0, 0.0, 0)

    def tick(self) -> tuple[int, float] | None:
        """Users, and how many come or go in a second."""
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        users, duration = options.num_users or 1, float(options.run_time or DURATION)
        seconds = self.get_run_time()
        if seconds >= duration or (options.shape == "steps" and self._saturated(seconds, duration)):
            return None
        wanted = shapes.users_at(options.shape, seconds, users, duration)
        return wanted, max(1.0, abs(wanted - self.get_current_user_count()))

    def _saturated(self, seconds: float, duration: float) -> bool:
        """Take down each step that is over: its right answers a second."""
        assert self.runner is not None
        step, since, before = self._step
        now = shapes.step_at(seconds, duration)
        if now == step:
            return False
        right = sum(
            figures.requests - figures.errors - figures.refusals for figures in figures_of(self.runner.environment).values()
        )
        self._rates.append((right - before) / (seconds - since))
        self._step = (now, seconds, right)
        log.info("step %d: %d users, %.0f right answers/s", step + 1, self.get_current_user_count(), self._rates[-1])
        if shapes.saturated(self._rates):
            log.info("saturated at %.0f right answers/s, server and client together: more users only wait", max(self._rates))
            return True
        return False


@events.init_command_line_parser.add_listener
def options(parser: LocustArgumentParser) -> None:
    """Ours, beside Locust's own."""
    group = parser.add_argument_group("Quartet")
    group.add_argument("--repository", default="", help="folder of the served models: answers are compared with its golden rows")
    group.add_argument(
        "--models", default="1", help="how often each model is called: '3' for all, '1 NAME=3', '0 NAME=1' for that one alone"
    )
    group.add_argument("--interfaces", default="1", help=f"the same for the interfaces: {', '.join(CALLERS)}")
    group.add_argument("--shape", choices=shapes.SHAPES, default="soak", help="of the load over time, see loadtests/shapes.py")
    group.add_argument(
        "--pace", type=float, default=5, help="requests a second that a user sends on average, given quick answers; 0: at once"
    )
    group.add_argument("--slo", default="", help="TOML file of limits, as loadtests/slo.toml; a broken one ends in exit status 1")


@events.init.add_listener
def prepare(environment: Environment, **_: object) -> None:
    """Make the requests and leave out the users who would have none. Exits with status 2 where nothing can be called."""
    options = environment.parsed_options
    assert options is not None
    logging.getLogger("locust.runners").setLevel(logging.WARNING)  # it has three lines for every change of a shape
    try:
        if options.slo:
            slo.read(Path(options.slo))  # a mistake in it is known now, not after the test
        if not environment.host:
            raise QuartetError("which server? give --host http://127.0.0.1:8000")
        if not (math.isfinite(options.pace) and options.pace >= 0):
            raise QuartetError(f"--pace is {options.pace}; it takes a number from 0")
        environment.host = environment.host.rstrip("/")
        served = discover(environment.host)
        models = Weights.parse(options.models).of([model.name for model in served])
        interfaces = Weights.parse(options.interfaces).of(list(CALLERS))
        repository = Repository(Path(options.repository)) if options.repository else None
        for interface, caller in CALLERS.items():
            found: dict[str, list[Call]] = {}
            if interfaces[interface]:
                for model in served:
                    if models[model.name] and (calls := calls_for(environment.host, model, interface, repository)):
                        found[model.name] = calls
            caller.calls = {name: [(call, *_plain(call.request)) for call in calls] for name, calls in found.items()}
            caller.weights = [models[name] for name in found]
            caller.weight = interfaces[interface]
            caller.pause = staticmethod(poisson(options.pace) if options.pace else constant(0))
            log.info("%s: %s", interface, ", ".join(found) or "left out, there is no model to call")
        chosen = {caller: caller.calls for caller in environment.user_classes if issubclass(caller, Caller)}
        environment.user_classes = [caller for caller, calls in chosen.items() if calls]
        if not environment.user_classes:
            raise QuartetError("there is nothing to call: every interface was left out")
    except QuartetError as error:
        log.error("%s", error)
        raise SystemExit(2) from None


def calls_for(host: str, model: Served, interface: str, repository: Repository | None) -> list[Call]:
    """Requests of an interface for one model; none where it does not take them."""
    if repository is not None and interface not in ("text", "images"):
        if model.name not in repository.models() or model.version not in repository.versions(model.name):
            raise QuartetError(f"{host} serves {model.name}:{model.version}, which is not in {repository.root}")
        if interface == "predict":
            golden = golden_predictions(repository, model.name, model.version)
        else:
            golden = golden_calls(repository, model.name, (model.version,), binary=interface == "v2-binary")
        if golden:
            return golden
        log.info("%s %s: every golden row lacks a value, which JSON cannot say; random rows instead", interface, model.name)
    requests = {
        "v2-json": lambda: model.infer_requests(binary=False),
        "v2-binary": lambda: model.infer_requests(binary=True),
        "predict": model.predict_requests,
        "text": model.text_requests,
        "images": model.image_requests,
    }
    return calm_calls(host, model, requests[interface]())


def figures_of(environment: Environment) -> dict[str, slo.Figures]:
    """What Locust counted, by endpoint: `predict digits-cnn`."""
    figures: defaultdict[str, slo.Figures] = defaultdict(slo.Figures)
    for (name, kind), entry in environment.stats.entries.items():
        figures[name].requests += entry.num_requests
        if kind == REFUSED:
            figures[name].refusals += entry.num_requests
        else:
            figures[name].errors += entry.num_failures
            figures[name].times.update(entry.response_times)
    return dict(figures)


@events.quitting.add_listener
def verdict(environment: Environment, **_: object) -> None:
    """Exit status 1, and a line for each limit that is broken."""
    options = environment.parsed_options
    if options is None or not options.slo or isinstance(environment.runner, WorkerRunner):
        return
    figures = figures_of(environment)
    lines = slo.broken(slo.read(Path(options.slo)), figures)
    for line in lines:
        log.error("limit broken: %s", line)
    if not lines:
        log.info("every limit of %s was kept, by %d requests", options.slo, sum(each.requests for each in figures.values()))
    environment.process_exit_code = 1 if lines else 0


def _plain(request: bytes) -> tuple[str, Mapping[str, str], bytes]:
    """Path, headers and body; answers are asked for as they are, for inflating is the client's work."""
    path, headers, body = taken_apart(request)
    return path, {**headers, "Accept-Encoding": "identity"}, body
