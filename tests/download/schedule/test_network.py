"""Downloads in a network namespace with public addresses that can be disconnected."""

import dataclasses
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.download.conftest import Lists, rows_of
from tests.faults import can_unshare, environment

from mlimages.core.params import Download, Machine
from mlimages.download.ledger import Reason

needs_network = pytest.mark.skipif(not can_unshare or shutil.which("ip") is None,
                                   reason="needs unshare and ip, for a network of its own")

GUARDED = """
import io, subprocess, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from mlimages.download.http.transport import Network
from mlimages.download.http.exchange import Exchange, FetchRequest
from mlimages.core.params import load
subprocess.run("ip link set lo up && ip addr add 93.184.216.34/32 dev lo && ip addr add 10.1.2.3/32 dev lo && "
               f"mount --bind {sys.argv[2]}/hosts /etc/hosts", shell=True, check=True)
body = bytes.fromhex(sys.argv[3])
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        print("asked", self.path, "of", self.server.server_address[0])
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://10.1.2.3/inside")
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path != "/away":
            self.wfile.write(body)
    def log_message(self, *args): pass
for address in ("93.184.216.34", "10.1.2.3"):
    threading.Thread(target=ThreadingHTTPServer((address, 80), Handler).serve_forever, daemon=True).start()
exchange = Exchange(load(sys.argv[1]).download, Network({}, {}), Path(sys.argv[2]))
answer = exchange.get(FetchRequest(0, "http://93.184.216.34/a.jpg", ("a", 0), 5.0, "s"))
print(answer.reason)
answer = exchange.get(FetchRequest(1, "http://93.184.216.34/away", ("a", 0), 5.0, "s"))
print(answer.redirect)
print(exchange.get(FetchRequest(2, answer.redirect, ("b", 0), 5.0, "s")).reason)
print(exchange.get(FetchRequest(3, "http://both.example/b.jpg", ("c", 0), 5.0, "s")).reason)
print(exchange.get(FetchRequest(4, "http://turns.example/c.jpg", ("d", 0), 5.0, "s")).reason)
Path(sys.argv[2], "hosts").write_text("10.1.2.3 turns.example\\n")
print(exchange.get(FetchRequest(5, "http://turns.example/d.jpg", ("d", 1), 5.0, "s")).reason)
print(exchange.get(FetchRequest(6, "http://turns.example/e.jpg", ("d", 0), 5.0, "s")).reason)
"""


@needs_network
def test_a_name_with_public_and_private_addresses_connects_only_to_the_public_one(jpeg: bytes, tmp_path: Path) -> None:
    params = Path(__file__).parents[3] / "params.yaml"
    (tmp_path / "hosts").write_text("10.1.2.3 both.example\n93.184.216.34 both.example turns.example\n")
    ended = subprocess.run(["unshare", "-rnm", sys.executable, "-c", GUARDED, str(params), str(tmp_path), jpeg.hex()],
                           env=environment(), capture_output=True, text=True, timeout=60)
    assert ended.stdout.splitlines() == [
        "asked /a.jpg of 93.184.216.34", "ok", "asked /away of 93.184.216.34", "http://10.1.2.3/inside",
        "forbidden_address", "asked /b.jpg of 93.184.216.34", "ok", "asked /c.jpg of 93.184.216.34", "ok",
        "forbidden_address", "asked /e.jpg of 93.184.216.34", "ok"], ended.stderr


AWAY = """
import pickle, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mlimages.download.run import download
from mlimages.download.schedule import hosts, outage
def ip(*words): subprocess.run(["ip", *words], check=True)
ip("link", "set", "lo", "up")
ip("addr", "add", "93.184.216.1/24", "dev", "lo")  # all 256 addresses are on this machine
outage.PROBE_EVERY_SECONDS, hosts.LAST_PAUSE_SECONDS = 0.3, 1.0
params, machine, lists, out, jpeg, back = pickle.loads(bytes.fromhex(sys.argv[1]))
asked = threading.Semaphore(0)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked.release()
        self.send_response(200)
        self.send_header("Content-Length", str(len(jpeg)))
        self.end_headers()
        self.wfile.write(jpeg)
    def log_message(self, *args): pass
class Server(ThreadingHTTPServer):
    request_queue_size = 128
    def handle_error(self, *args): pass
threading.Thread(target=Server(("", 80), Handler).serve_forever, daemon=True).start()
def unplug():
    for _ in range(12):
        asked.acquire()
    ip("link", "set", "lo", "down")
    if back:
        time.sleep(3)
        ip("link", "set", "lo", "up")
threading.Thread(target=unplug, daemon=True).start()
try:
    download(params, machine, lists=lists, out=out)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@needs_network
def test_a_network_outage_fails_no_line(quick: Download, machine: Machine, lists_of: Lists, jpeg: bytes,
                                        tmp_path: Path) -> None:
    urls = [f"http://93.184.216.{1 + number // 2}/{number}.jpg" for number in range(60)]
    lists = lists_of(urls, urls[:1])
    slow = dataclasses.replace(quick, timeout_seconds=1.0, rate_per_host=5.0, outage_seconds=3.0, attempts=3)

    def run(params: Download, out: str, *, back: bool) -> subprocess.CompletedProcess[str]:
        one = dataclasses.replace(machine, scratch=str(tmp_path / out / "scratch"))
        what = pickle.dumps([params, one, lists, tmp_path / out / "images", jpeg, back]).hex()
        return subprocess.run(["unshare", "-rn", sys.executable, "-c", AWAY, what], env=environment(),
                              capture_output=True, text=True, timeout=120)

    failed = run(slow, "away", back=False)
    assert "UserError: no host has answered for" in failed.stderr and "No line was recorded as failed" in failed.stderr
    journals = "".join(path.read_text() for path in tmp_path.glob("away/scratch/download/*/spools/*.journal"))
    assert journals.count('"ok"') + 5 * len([*tmp_path.glob("away/scratch/download/*/accounts/*")]) >= 10
    assert journals.count('"ok"') == journals.count("\n")
    ended = run(dataclasses.replace(slow, outage_seconds=60.0), "away", back=True)
    assert ended.returncode == 0, ended.stderr
    assert {row.reason for row in rows_of(tmp_path / "away" / "images", "train")} == {Reason.OK}
