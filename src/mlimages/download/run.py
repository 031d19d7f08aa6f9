"""Download every URL of the two Open Images lists into tar shards, with a ledger row for every list line."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from urllib.request import getproxies

from mlimages.acquire.formats import PARTS
from mlimages.core import scratch
from mlimages.core.errors import UserError, check_space, report_space
from mlimages.core.params import Download, Machine
from mlimages.core.publish import publish, verify, write_csv, write_json
from mlimages.core.ray_backend import node_address
from mlimages.demo import server, world
from mlimages.download.build import account_path, read_account
from mlimages.download.fetching import fetch
from mlimages.download.http.transport import Network
from mlimages.download.ledger import LedgerRow, Reason
from mlimages.download.mirrors import readable_tables
from mlimages.download.plan import Plan
from mlimages.download.shards import ledger_path, shard_path

BYTES_PER_IMAGE = 300_000  # about what a photograph of 1,024 pixels takes, such as Open Images mirrors hold
BYTES_PER_PIXEL = 0.35  # of a photograph made smaller

# Raise it where the same answers would become other images, or where an older work folder could not be continued:
# everything is fetched again then. A column that older ledgers lack does not raise it: they are read without, and get
# it when their shard is built again. tests/download/test_key.py holds the bytes of the current format.
FORMAT = 3
# A change of these fetches everything again. The other parameters only say how to ask from now on.
DECISIVE = ("images_per_shard", "shorter_side", "quality", "ports", "respect_opt_out")

REASONS = "reasons.csv"
SUMMARY = "summary.json"


def download(params: Download, machine: Machine, *, lists: str | Path = "data/lists",
             out: str | Path = "data/images") -> Path:
    """Publish `out/PART/NNNNN.tar` and `NNNNN.ledger.csv` for every `images_per_shard` lines of each list.

    Nothing that an earlier run fetched is fetched again. Raises UserError for missing or damaged lists, where another
    process is downloading the same, for a full disk, and where the network stays away; a URL that fails is a ledger
    row, never an error.
    """
    manifest = verify(lists, "acquire")
    _check_retry(params)
    key = _key(params, lists, manifest["source"])
    with (scratch.workspace("download", machine, key, out) as work,
          _demo_hosts(manifest["source"], machine) as demo_hosts):
        plan = Plan(work, Path(lists), manifest, params)
        if plan.todo:
            _preflight(plan, params)
            plan.begin_fetching()
            proxies = getproxies() if machine.proxies_from_environment else {}
            fetch(plan, params, machine, Network({**demo_hosts, **machine.connect_to}, proxies), work)
        records, known = _summarise(plan)
        publish(plan.finished, out, stage="download", records=records, digests=known, classes=manifest["classes"])
        plan.end_round()
    return Path(out)


def _preflight(plan: Plan, params: Download) -> None:
    """Say what the disk must hold; where finished shards tell how large images are, stop if it cannot."""
    left = sum(plan.left(shard) for shard in plan.todo)
    what = f"the images of {left:,} list lines"
    paths = [account_path(plan.accounts, shard) for shard in plan.shards]
    finished = [read_account(path) for path in paths if path.exists()]
    if finished:
        mean = sum(one["bytes"] for one in finished) / sum(one["lines"] for one in finished)
        check_space(plan.finished, left * mean, what)
    else:
        pixels = (params.shorter_side or 0) ** 2 * 4 / 3
        report_space(plan.finished, left * min(pixels * BYTES_PER_PIXEL or BYTES_PER_IMAGE, BYTES_PER_IMAGE), what)


def _key(params: Download, lists: str | Path, source: str) -> str:
    """What names the folder to resume from: FORMAT, the lists, and the parameters that decide what an image is.

    What was fetched costs other people's servers, so it stays when patience, pace, mirrors or code change. The demo's
    images cost nobody anything: there each change of a parameter, or of what its hosts serve, fetches them again.
    """
    tables = readable_tables(params.mirrors)
    if source == "demo":
        values = dataclasses.asdict(dataclasses.replace(params, retry=[]))
        return scratch.key({"format": FORMAT, "columns": LedgerRow._fields, **values}, inputs=[lists], files=tables,
                           code=[server, world])
    return scratch.key({"format": FORMAT, **{name: getattr(params, name) for name in DECISIVE}}, inputs=[lists])


def _check_retry(params: Download) -> None:
    failures = [reason for reason in Reason if reason is not Reason.OK]
    if unknown := sorted(set(params.retry) - set(failures)):
        raise UserError(f"download.retry names {', '.join(unknown)}; expected some of {', '.join(failures)}")


def _demo_hosts(source: str, machine: Machine) -> contextlib.AbstractContextManager[Mapping[str, str]]:
    """The demo's lists name hosts that this process must play itself, where all workers reach it."""
    if source != "demo":
        return contextlib.nullcontext({})
    return server.serving(node_address()) if machine.engine == "ray" else server.serving()


def _summarise(plan: Plan) -> tuple[dict[str, int], dict[str, str]]:
    """Write the reasons of each part as a table and the totals as JSON; returns the shards' records and sha256s."""
    reasons: Counter[tuple[str, Reason]] = Counter()
    records, known, totals = {}, {}, Counter(lines=0, images=0, bytes=0)
    for shard in plan.shards:
        account = read_account(account_path(plan.accounts, shard))
        path = shard_path(Path(), shard.part, shard.number)
        tar, rows = str(path), str(ledger_path(path))
        records[tar], records[rows] = account["images"], account["lines"]
        known[tar], known[rows] = account["sha256"]["tar"], account["sha256"]["ledger"]
        totals.update({name: account[name] for name in totals})
        reasons.update({(shard.part, Reason(name)): lines  # type: ignore[call-arg]
                        for name, lines in account["reasons"].items()})
    write_csv(plan.finished / REASONS, ("part", "reason", "lines", "meaning"),
              [(part, reason, reasons[part, reason], reason.meaning)
               for part in PARTS for reason in Reason if reasons[part, reason]])
    share = round(totals["images"] / max(totals["lines"], 1), 4)
    write_json(plan.finished / SUMMARY, {**totals, "share_ok": share, "certificates_verified": plan.verified})
    return records, known
