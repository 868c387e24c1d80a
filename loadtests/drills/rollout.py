"""Two servers behind HAProxy are replaced, one after the other, while callers go on."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

from loadtests.calls import golden_calls
from loadtests.client import Load
from loadtests.drills.drill import Outcome, Setting, soon
from loadtests.server import NotStarted, Server, free_port
from modelrepo.repository import Repository

RATE = 200.0
DELAY = 2  # seconds of --drain-delay; the balancer notices within 0.2 s
# Keep-alive on both sides, so that requests do travel on connections to the server that goes. `retries 0` and no redispatch:
# a request that a server drops is not sent again by the balancer, it is lost here.
CONFIGURATION = """
global
    maxconn 2000
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    timeout check 2s
    retries 0
    no option redispatch
    option http-keep-alive
frontend front
    bind 127.0.0.1:{front}
    default_backend servers
backend servers
    balance roundrobin
    option httpchk GET /v2/health/ready
    default-server check inter 200ms fall 1 rise 1
    server first 127.0.0.1:{first}
    server second 127.0.0.1:{second}
"""


async def rollout(setting: Setting) -> Outcome:
    """SIGTERM to one of two servers behind HAProxy, its replacement, then the other one: nothing is lost."""
    outcome = Outcome()
    outcome.notes.append(
        f"HAProxy: GET /v2/health/ready every 200 ms (fall 1, rise 1), keep-alive, retries 0, no redispatch; --drain-delay {DELAY}"
    )
    repository = Repository(setting.repository)
    calls = [call for name in repository.models() for call in golden_calls(repository, name)]
    options = ("--drain-delay", str(DELAY), "--drain-seconds", "10")
    servers = [Server(setting.repository, setting.log, *options, port=free_port()) for _ in range(2)]
    front = free_port()
    file = setting.folder / "haproxy.cfg"
    file.write_text(CONFIGURATION.format(front=front, first=servers[0].port, second=servers[1].port))
    async with servers[0], servers[1]:
        balancer = subprocess.Popen([_haproxy(), "-f", str(file), "-db", "-q"])
        try:
            await asyncio.sleep(1)
            async with Load(("127.0.0.1", front), calls, RATE) as load:
                await asyncio.sleep(2)
                outcome.row("before", load.phase())
                statuses = []
                for server in servers:
                    statuses.append(await server.terminate())
                    await server.__aenter__()  # its replacement, at the same address
                    await asyncio.sleep(1)
                outcome.row("both replaced", load.phase())
                counts = [await server.metric("quartet_requests_total") for server in servers]
                await asyncio.sleep(2)

                async def both_serve() -> bool:
                    return all(
                        [await server.metric("quartet_requests_total") > n for server, n in zip(servers, counts, strict=True)]
                    )

                serving = await soon(both_serve, 5)
            outcome.row("after", load.report)
        finally:
            balancer.terminate()
            balancer.wait()
    outcome.promise(f"both servers ended with status 0 after SIGTERM: {statuses}", statuses == [0, 0])
    outcome.promise("both replacements take traffic", serving)
    return outcome


def _haproxy() -> str:
    found = shutil.which("haproxy") or next((path for path in ("/usr/sbin/haproxy",) if Path(path).exists()), None)
    if found is None:
        raise NotStarted("HAProxy is not installed: apt-get install -y haproxy")
    return found
