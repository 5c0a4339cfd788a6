import asyncio
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def connection(socket):
    try:
        async for message in socket:
            if message == "close with 4001":
                await socket.close(4001, "as you wish")
            elif message == "ping me":
                await (await socket.ping(b"from the server"))
                await socket.send("you answered")
            else:
                await socket.send(message)
    except ConnectionClosed:
        pass
    if socket.close_code is not None:
        print(f"closed by the client: {socket.close_code} {socket.close_reason}")


def not_found(connection, request):
    if request.path == "/missing":
        return connection.respond(404, "no socket here\n")


def subprotocol(connection, offered):
    # The library's own choice answers 400 to a client that offers none.
    return "isthmus-test" if "isthmus-test" in offered else None


async def main():
    async with serve(
        connection,
        None,
        int(sys.argv[1]),
        max_size=16 << 20,
        select_subprotocol=subprotocol,
        process_request=not_found,
    ):
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
