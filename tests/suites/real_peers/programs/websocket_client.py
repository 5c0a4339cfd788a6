import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

url, scene = sys.argv[1:3]


def dial(path="", **options):
    return connect(url + path, open_timeout=30, max_size=16 << 20, proxy=None, **options)


async def echo():
    async with dial() as socket:
        for message in ("a text, naïve", b"\x00\x01\xff bytes", "", "x" * 70000):
            await socket.send(message)
            got = await socket.recv()
            assert got == message, (len(got), len(message))


async def ping():
    async with dial() as socket:
        await asyncio.wait_for(await socket.ping(b"from the client"), 30)
        await socket.send("ping me")
        got = await asyncio.wait_for(socket.recv(), 30)
        assert got == "you answered", got


async def large():
    message = bytes(range(256)) * (4 << 12)
    async with dial(compression=None) as socket:
        for _ in range(2):
            await socket.send(message)
            assert await socket.recv() == message


async def server_closes():
    async with dial() as socket:
        await socket.send("close with 4001")
        try:
            await socket.recv()
            raise SystemExit("not closed")
        except ConnectionClosedError as end:
            assert (end.rcvd.code, end.rcvd.reason) == (4001, "as you wish"), end


async def client_closes():
    async with dial() as socket:
        await socket.send("before the end")
        assert await socket.recv() == "before the end"
        await socket.close(4002, "enough")
        assert socket.close_code == 4002, socket.close_code


async def negotiated():
    async with dial(subprotocols=["other", "isthmus-test"]) as socket:
        assert socket.subprotocol == "isthmus-test", socket.subprotocol
        assert socket.protocol.extensions, "compression was lost"
        await socket.send("z" * 100000)
        assert await socket.recv() == "z" * 100000


async def expect(status, path, body):
    try:
        async with dial(path):
            raise SystemExit("connected")
    except InvalidStatus as refusal:
        assert refusal.response.status_code == status, refusal
        assert body in refusal.response.body, refusal.response.body


async def not_found():
    await expect(404, "missing", b"no socket here")


async def forbidden():
    await expect(403, "", b"not-allowed")


asyncio.run(globals()[scene]())
