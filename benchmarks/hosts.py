"""Hosts to download from: nginx, which is fast, and a server in Python with a latency and a limit of requests.

    python benchmarks/hosts.py PORT IMAGE DELAY_SECONDS REQUESTS_PER_SECOND    # 0: no limit; counts at /counts
"""

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000000; types {{ image/jpeg jpg; }}
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port} backlog=1024; root {root}; location /same/ {{ try_files /0.jpg =404; }} }}
}}
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def nginx(root: Path, folder: Path) -> Iterator[int]:
    """Run nginx for the files in `root`, with 0.jpg for every path below /same/. Yields its port."""
    port = free_port()
    folder.mkdir()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port, root=root))
    program = shutil.which("nginx") or sys.exit("nginx is missing; apt-get install nginx-light")
    with _running([program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")], port):
        yield port


@contextlib.contextmanager
def strict(image: Path, delay_seconds: float = 0.0, requests_per_second: float = 0.0) -> Iterator[int]:
    """Run the server in Python in a new process. Yields its port."""
    port = free_port()
    arguments = [str(one) for one in (port, image, delay_seconds, requests_per_second)]
    with _running([sys.executable, __file__, *arguments], port):
        yield port


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


async def serve(port: int, image: bytes, delay: float, limit: float) -> None:
    """Answer requests with the image after `delay` seconds. Above `limit` requests per second, answer 429 at once."""
    taken: list[float] = []
    refused: list[float] = []
    tokens, filled_at = limit, time.monotonic()

    def admits() -> bool:
        nonlocal tokens, filled_at
        now = time.monotonic()
        tokens, filled_at = min(limit, tokens + (now - filled_at) * limit), now
        if limit and tokens < 1:
            return False
        tokens -= 1
        return True

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while request := await reader.readuntil(b"\r\n\r\n"):
                body, status = image, b"200 OK"
                if request.startswith(b"GET /counts"):
                    body = json.dumps({"taken": taken, "refused": refused}).encode()
                elif admits():
                    taken.append(time.time())
                    await asyncio.sleep(delay)
                else:
                    refused.append(time.time())
                    body, status = b"", b"429 Too Many Requests"
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", port, backlog=1024) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2]).read_bytes(), float(sys.argv[3]), float(sys.argv[4])))
