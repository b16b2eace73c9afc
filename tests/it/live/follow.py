"""Two WebSocket clients that are not ours: by a device's token, and by a ticket. Prints what they are told, a line each."""

import asyncio
import json
import struct
import sys

import websocket
import websockets

address, token, ticket = sys.argv[1:]
path = f"ws://{address}/api/v1/sync/ws"


def say(what, told):
    print(json.dumps([what, told]), flush=True)


def by_token():
    socket = websocket.create_connection(path, header=[f"Authorization: Bearer {token}"], timeout=60)
    say("hello", json.loads(socket.recv())["payload"])
    socket.send(json.dumps({"type": "ping", "id": "p"}))
    say("pong", json.loads(socket.recv()))
    push = {"changes": {"visits": [{"id": "python", "note": "schön"}]}}
    socket.send(json.dumps({"type": "push_change", "id": 2, "payload": push}))
    say("pushed", json.loads(socket.recv())["payload"]["applied"]["visits"][0]["version"])
    say("ready", None)
    say("hint", json.loads(socket.recv())["payload"]["tables"])
    while True:
        opcode, data = socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            say("closed", struct.unpack("!H", data[:2])[0])
            return


async def by_ticket():
    async with websockets.connect(f"{path}?ticket={ticket}") as socket:
        say("hello", json.loads(await socket.recv())["payload"])
        await (await socket.ping())
        say("ready", None)
        say("hint", json.loads(await socket.recv())["payload"]["tables"])
        try:
            while True:
                await socket.recv()
        except websockets.ConnectionClosed as closed:
            code = closed.rcvd.code if getattr(closed, "rcvd", None) else closed.code
            say("closed", code)


by_token()
asyncio.run(by_ticket())
