"""The same service as `service.py` with aiohttp: one thread, a task for each connection. Argument: the port."""

import os
import sys

from aiohttp import web

PAYLOAD = 8192
sessions = {}


async def remember(key):
    sessions[key] = bytes(PAYLOAD)  # the leak


async def work(request):
    await remember(len(sessions))
    return web.json_response(sorted(str(request.url).split("/")) * 20)


async def told(_request):
    return web.Response(text=f"{os.getpid()} {sum(map(len, sessions.values()))}")


app = web.Application()
app.add_routes([web.get("/work", work), web.get("/told", told)])
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
