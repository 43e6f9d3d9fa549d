"""Many clients of one `silc serve` for a while, decent and indecent ones: what they were answered, how long it took,
and what became of the server's memory.

python -m scripts.serve_load out/demo/silc_c --clients 50 --seconds 60

Decent clients send a picture and ask one question after the other. Beside them: a client that sends its headers byte
by byte, one that cuts its connection in the middle of a body, one that sends huge and broken JSON and bytes that are no
picture; and the process that decodes is killed every 5 seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import numpy as np
from PIL import Image

ALLOWED = {200, 503}


async def decent(address: str, number: int, until: float, seen: list[tuple[int, float]]) -> None:
    """One question after the other; who is told to come back waits as long as it is told."""
    async with httpx2.AsyncClient(base_url=address, timeout=120) as client:
        models = (await client.get("/api/server")).json()["models"]
        picture = ""
        while time.monotonic() < until:
            began = time.monotonic()
            if picture:
                asked = {"model": models[number % len(models)]["id"], "pictures": [picture]}
                response = await client.post("/api/segment", json={**asked, "names": ["red", "green", "blue"]})
            else:
                response = await client.post("/api/pictures", content=_picture(number))
                picture = response.json().get("id", "")
            seen.append((response.status_code, time.monotonic() - began))
            await asyncio.sleep(float(response.headers.get("retry-after", 0)))


async def byte_by_byte(address: str) -> None:
    """Headers that never end."""
    reader, writer = await _connected(address)
    for letter in b"POST /api/segment HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 1000:
        writer.write(bytes([letter]))
        await writer.drain()
        await asyncio.sleep(0.1)
    await reader.read()


async def cut_off(address: str) -> None:
    """A body that ends in the middle."""
    _, writer = await _connected(address)
    writer.write(b"POST /api/pictures HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000))
    await writer.drain()
    writer.close()
    await asyncio.sleep(0.05)


async def nonsense(address: str) -> None:
    """Questions that are none."""
    async with httpx2.AsyncClient(base_url=address, timeout=60) as client:
        for body in (b"[" * 200_000, b"{" * 1000, b"\xff" * 1000, json.dumps({"names": ["x"] * 40_000}).encode()):
            response = await client.post("/api/segment", content=body, headers={"content-type": "application/json"})
            assert response.status_code in (400, 413, 422, 503), response.status_code
        for data in (b"", b"<html>", _picture(0)[:60]):
            response = await client.post("/api/pictures", content=data)
            assert response.status_code in (415, 422, 503), response.status_code
    await asyncio.sleep(0.2)


async def repeated(client: Callable[[str], Awaitable[None]], address: str, until: float) -> None:
    """A client that comes back, whatever it meets."""
    while time.monotonic() < until:
        with suppress(ConnectionError, httpx2.TransportError):
            await client(address)


async def killer(server: int, until: float) -> int:
    """Kill the process that decodes, as often as there is one; how often it was."""
    killed = 0
    while time.monotonic() < until:
        await asyncio.sleep(5)
        for child in Path(f"/proc/{server}/task/{server}/children").read_text().split():
            if "silc.serve.worker" in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(int(child), signal.SIGKILL)
                killed += 1
    return killed


async def loaded(address: str, server: int, clients: int, seconds: float) -> None:
    """Let everybody come, and say what came out."""
    until, seen = time.monotonic() + seconds, list[tuple[int, float]]()
    memory = [_memory(server)]

    async def watch() -> None:
        while time.monotonic() < until:
            await asyncio.sleep(max(1.0, seconds / 20))
            memory.append(_memory(server))

    strange = [repeated(one, address, until) for one in (byte_by_byte, cut_off, nonsense)]
    everybody = [decent(address, number, until, seen) for number in range(clients)]
    others = asyncio.gather(*(asyncio.create_task(one) for one in strange))
    killed, *_ = await asyncio.gather(killer(server, until), watch(), *everybody)
    others.cancel()
    with suppress(asyncio.CancelledError):
        await others
    answers, took = Counter(status for status, _ in seen), np.array([took for status, took in seen if status == 200])
    print(f"{clients} clients, {seconds:g} s: answers {dict(answers)}, worker killed {killed} times")
    print("seconds of an answer: " + ", ".join(f"{q} % {np.percentile(took, q):.2f}" for q in (50, 95, 99, 100)))
    print("MB of the server: " + " ".join(f"{one / 2**20:.0f}" for one in memory))
    if set(answers) - ALLOWED:
        raise SystemExit(f"answers other than {sorted(ALLOWED)}")


def main() -> None:
    """Serve a model and load it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    command = [sys.executable, "-m", "silc", "serve", given.model, "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            found = (re.search(r"open (http://\S+)", line) for line in server.stdout)
            address = next(match[1] for match in found if match)
            asyncio.run(loaded(address, server.pid, given.clients, given.seconds))
            assert server.poll() is None, "the server ended"
        finally:
            server.terminate()


async def _connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    place = urlsplit(address)
    return await asyncio.open_connection(place.hostname, place.port)


def _picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _memory(process: int) -> int:
    """Bytes that are in memory."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
