"""A service that forgets nothing: each request to `/work` leaves 8 KiB behind. `/told` says how much that is by now.

Run by `python service.py PORT` (a thread for each request), or by gunicorn as `service:app`.
"""

import os
import sys

from flask import Flask, jsonify, request

PAYLOAD = 8192
app = Flask(__name__)
sessions = {}


def remember(key):
    sessions[key] = bytes(PAYLOAD)  # the leak


@app.get("/work")
def work():
    remember(len(sessions))
    words = request.args.get("words", "some words to be sorted")
    return jsonify(sorted(words.split()) * 20)


@app.get("/told")
def told():
    return f"{os.getpid()} {sum(map(len, sessions.values()))}"


if __name__ == "__main__":
    app.run(port=int(sys.argv[1]), threaded=True)
