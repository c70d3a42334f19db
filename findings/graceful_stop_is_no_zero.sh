#!/usr/bin/env bash
# uvicorn 0.54.0: a server that SIGTERM stops, as docker, systemd and Kubernetes stop one.
# Expected: the graceful stop, then what follows uvicorn.run and exit status 0, as after SIGINT.
# Seen: the application's shutdown runs; then the signal is raised once more and ends the process with -15: what
# follows uvicorn.run, finally and atexit never run. After SIGINT all of them run. Exits with 0 as long as that is
# so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q uvicorn==0.54.0 || exit 2
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

Path("app.py").write_text('''
import atexit
import sys

import uvicorn


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for _ in range(2):
            kind = (await receive())["type"]
            await send({"type": kind + ".complete"})
            print(kind, flush=True)
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})


atexit.register(print, "atexit", flush=True)
try:
    uvicorn.run(app, port=int(sys.argv[1]), log_level="error")
    print("after run", flush=True)
finally:
    print("finally", flush=True)
''')
seen = {}
for stop in (signal.SIGINT, signal.SIGTERM):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "app.py", str(port)], stdout=subprocess.PIPE, text=True)
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}").read()
            break
        except OSError:
            time.sleep(0.1)
    server.send_signal(stop)
    lines = server.communicate()[0].splitlines()
    seen[stop] = server.returncode, lines
    print(f"{stop.name}: exit status {server.returncode}; printed: {', '.join(lines)}")
started = ["lifespan.startup", "lifespan.shutdown"]
assert seen[signal.SIGINT] == (0, [*started, "after run", "finally", "atexit"])
assert seen[signal.SIGTERM] == (-signal.SIGTERM, started), "SIGTERM ends it otherwise now"
PY
