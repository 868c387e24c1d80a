"""New connections go to the worker that has fewest, whichever the kernel gave them to."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from service.balance import Balance


class Worker:
    """Echoes in capitals what its connections send, with its own number before it."""

    def __init__(self, folder, number, workers=2) -> None:
        self.balance = Balance(folder, number, workers)
        self.adopted = 0

    async def listen(self):
        self.balance.listen(lambda: Connection(self, adopted=True))
        self.server = await asyncio.get_running_loop().create_server(lambda: Connection(self), "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.balance.close()
        self.server.close()


class Connection(asyncio.Protocol):
    def __init__(self, worker, adopted=False) -> None:
        self.worker, self.adopted, self.transport = worker, adopted, None

    def connection_made(self, transport):
        if not self.adopted and self.worker.balance.elsewhere(transport):
            transport.abort()
            return
        self.worker.adopted += self.adopted
        self.transport = transport
        self.worker.balance.opened(self.adopted)

    def data_received(self, data):
        self.transport.write(b"%d:%s" % (self.worker.balance.number, data.upper()))

    def connection_lost(self, error):
        if self.transport is not None:
            self.worker.balance.closed()


async def ask(address):
    """Who answered on a new connection, and the connection."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"hello")
    answer = await reader.readexactly(7)
    assert answer[1:] == b":HELLO"
    return int(answer[:1]), writer


async def close(asked):
    for _, writer in asked:
        writer.close()
        await writer.wait_closed()


def test_all_connections_come_to_one_worker_and_each_serves_half_of_them(tmp_path):
    async def scenario():
        with Worker(tmp_path, 0) as first, Worker(tmp_path, 1) as second:
            address = await first.listen()
            await second.listen()
            asked = [await ask(address) for _ in range(6)]
            assert sorted(number for number, _ in asked) == [0, 0, 0, 1, 1, 1]
            assert second.adopted == 3
            assert first.balance.loads() == [3, 3]
            await close([(number, writer) for number, writer in asked if number == 1])
            while first.balance.loads() != [3, 0]:
                await asyncio.sleep(0)
            asked.append(await ask(address))
            assert asked[-1][0] == 1, "who has fewest gets the next"
            asked += await asyncio.gather(*(ask(address) for _ in range(20)))
            assert first.balance.loads() == second.balance.loads() == [12, 12], "those on their way count, too"
            await close(asked)

    uvloop.run(scenario())


def test_a_worker_that_takes_none_leaves_them_where_they_are(tmp_path):
    async def scenario():
        with Worker(tmp_path, 0) as here:
            address = await here.listen()
            with Worker(tmp_path, 1) as gone:
                await gone.listen()
            asked = [await ask(address) for _ in range(4)]
            assert [number for number, _ in asked] == [0, 0, 0, 0]
            await close(asked)

    uvloop.run(scenario())


def test_what_is_on_its_way_to_a_worker_that_ends_is_taken_first(tmp_path):
    class Transport:
        def get_extra_info(self, _name):
            return theirs

    ours, theirs = socket.socketpair()

    async def scenario():
        with Worker(tmp_path, 0) as here:
            await here.listen()
            with Worker(tmp_path, 1) as ending:
                await ending.listen()
                here.balance.opened()
                assert here.balance.elsewhere(Transport())
                theirs.close()
            reader, writer = await asyncio.open_connection(sock=ours)
            writer.write(b"hello")
            assert await reader.readexactly(7) == b"1:HELLO"
            await close([(1, writer)])

    uvloop.run(scenario())


def test_a_worker_that_starts_again_has_no_connections_and_none_on_their_way(tmp_path):
    here, crashed = Balance(tmp_path, 0, 2), Balance(tmp_path, 1, 2)
    for _ in range(3):
        crashed.opened()
    here._given[0][1] += 2
    assert here.loads() == [0, 5]
    Balance(tmp_path, 1, 2)
    assert here.loads() == [0, 0]


@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_that_does_not_listen_yet_keeps_what_it_gets(tmp_path, number):
    balance = Balance(tmp_path, number, 2)
    balance.opened()
    assert not balance.elsewhere(None)


@given(data=st.data(), workers=st.integers(1, 5))
def test_every_worker_sees_the_same_loads(tmp_path_factory, data, workers):
    folder = tmp_path_factory.mktemp("workers")
    all_ = [Balance(folder, number, workers) for number in range(workers)]
    expected = [0] * workers
    for number in data.draw(st.lists(st.integers(0, workers - 1), max_size=30), label="opened"):
        all_[number].opened()
        expected[number] += 1
    assert [balance.loads() for balance in all_] == [expected] * workers
