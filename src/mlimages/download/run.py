"""Downloads every URL of the two lists of URLs into tar shards, with a ledger row for every list line."""

import contextlib
import dataclasses
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import getproxies

from mlimages.acquire.formats import LOCAL, PARTS, list_file, read_list
from mlimages.core import scratch
from mlimages.core.errors import UserError, check_space, report_space
from mlimages.core.params import Download, Machine
from mlimages.core.publish import publish, verify, write_csv, write_json
from mlimages.core.ray_backend import node_address
from mlimages.demo import server, world
from mlimages.download.build import account_path, read_account
from mlimages.download.check_image import Limits
from mlimages.download.fetching import fetch, reuse
from mlimages.download.http.local_files import check_folder
from mlimages.download.http.transport import Network
from mlimages.download.kept import DECISIVE, KeptImages, fetched_with, record_fetched_with
from mlimages.download.ledger import LedgerRow, Reason
from mlimages.download.mirrors import readable_tables
from mlimages.download.outcome.results_table import write_results
from mlimages.download.plan import Plan
from mlimages.download.shards import ledger_path, shard_path

BYTES_PER_IMAGE = 300_000  # about the size of a photograph of 1,024 pixels, as on Open Images' mirrors
BYTES_PER_PIXEL = 0.35  # of a resized photograph

# Raise it if the same responses would become other images, or if an older work folder could not be continued: then
# everything is fetched again. A new column of the ledger does not raise it: ledgers are read without it, and get it
# when their shard is built again. tests/download/test_key.py holds the bytes of the current format.
FORMAT = 3

UNVERIFIED = "unverified"  # marks folders of older versions that were filled without a check of certificates
REASONS = "reasons.csv"
SUMMARY = "summary.json"


def download(params: Download, machine: Machine, *, lists: str | Path = "data/lists",
             out: str | Path = "data/images") -> Path:
    """Publish `out/PART/NNNNN.tar` and `NNNNN.ledger.csv` for every `images_per_shard` lines of each list.

    `out/results.parquet` has the rows of all ledgers.
    Nothing that an earlier run fetched with these parameters, for whatever list, is fetched again. A URL that fails is
    a ledger row, not an error. Raises UserError if lists are missing or damaged, if another process makes the same
    result, if the disk is full, and if the network stays down.
    """
    manifest = verify(lists, "acquire")
    _check_retry(params)
    check_folder(params.files, _names_local_pictures(Path(lists), manifest))
    key = _key(params, lists, manifest["source"])
    settings = scratch.settings(_decisive(params, manifest["source"]), inputs=[lists])
    with (scratch.workspace("download", machine, key, out, settings) as work,
          _demo_hosts(manifest["source"], machine) as demo_hosts):
        plan = Plan(work, Path(lists), manifest, params)
        kept = None if manifest["source"] == "demo" else _kept_images(params, machine, work, lists)
        if plan.todo and kept:
            reuse(plan, kept)
        if plan.todo:
            left = _preflight(plan, params)
            proxies = getproxies() if machine.proxies_from_environment else {}
            fetch(plan, left, params, machine, Network({**demo_hosts, **machine.connect_to}, proxies), work)
        records, known = _summarise(plan, verified=params.verify)
        with ThreadPoolExecutor(1) as beside:  # each needs one core, and for millions of lines minutes
            results = beside.submit(write_results, work, known, Path(lists), params.images_per_shard)
            if kept:
                kept.update()
            rows, digests = results.result()
        publish(plan.finished, out, stage="download", records=records | rows, digests=known | digests,
                classes=manifest["classes"])
        plan.end_round()
    return Path(out)


def _preflight(plan: Plan, params: Download) -> int:
    """Report how much space is needed. Returns the number of lines to fetch.

    Raises UserError if the size is known from finished shards and is missing.
    """
    left, copies, copied_bytes = plan.remaining()
    what = f"the images of {left:,} list lines" + (f" and copies of {copies:,} kept images" if copies else "")
    paths = [account_path(plan.accounts, shard) for shard in plan.shards]
    finished = [read_account(path) for path in paths if path.exists()]
    if lines := copies + sum(one["lines"] for one in finished):
        mean = (copied_bytes + sum(one["bytes"] for one in finished)) / lines
        check_space(plan.finished, left * mean + copied_bytes, what)
    else:
        pixels = (params.shorter_side or 0) ** 2 * 4 / 3
        report_space(plan.finished, left * min(pixels * BYTES_PER_PIXEL or BYTES_PER_IMAGE, BYTES_PER_IMAGE), what)
    return left


def _kept_images(params: Download, machine: Machine, work: Path, lists: str | Path) -> KeptImages:
    """What other downloads fetched; records the parameters of this one."""
    record_fetched_with(work, fetched_with(params, FORMAT, verified=params.verify))
    values = {name: value for name, value in _decisive(params, "").items() if name not in ("verify", *Limits._fields)}
    before = work.with_name(scratch.key({"format": FORMAT, **values}, inputs=[lists]))  # as older versions called it
    if before.is_dir():
        record_fetched_with(before, fetched_with(params, FORMAT, verified=not (before / UNVERIFIED).exists()))
    return KeptImages(machine, work, params, FORMAT)


def _key(params: Download, lists: str | Path, source: str) -> str:
    """The name of the work folder: a hash of FORMAT, the lists, and the parameters that change images or shards.

    Other people's servers sent the images, so they stay if other parameters or the code change. The demo's images cost
    nobody anything: a change of any parameter, or of what the demo's hosts serve, fetches them again.
    """
    tables, values = readable_tables(params.mirrors), _decisive(params, source)
    if source == "demo":
        return scratch.key({"format": FORMAT, "columns": LedgerRow._fields, "retry": [], **values}, inputs=[lists],
                           files=tables, code=[server, world])
    return scratch.key({"format": FORMAT, **values}, inputs=[lists])


def _decisive(params: Download, source: str) -> dict[str, Any]:
    """The parameters in the key."""
    if source == "demo":
        return {name: value for name, value in dataclasses.asdict(params).items() if name != "retry"}
    values = {name: getattr(params, name) for name in ("images_per_shard", "verify", *Limits._fields, *DECISIVE)}
    return values | ({"files": os.path.abspath(params.files)} if params.files else {})


def _names_local_pictures(lists: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the first line of a list of URLs is a local picture."""
    firsts = [next(read_list(lists / list_file(part, "openimages"), "openimages", manifest["classes"]), None)
              for part in PARTS]
    return any(first and first.source.startswith(LOCAL) for first in firsts)


def _check_retry(params: Download) -> None:
    failures = [reason for reason in Reason if reason is not Reason.OK]
    if unknown := sorted(set(params.retry) - set(failures)):
        raise UserError(f"download.retry names {', '.join(unknown)}; expected some of {', '.join(failures)}")


def _demo_hosts(source: str, machine: Machine) -> contextlib.AbstractContextManager[Mapping[str, str]]:
    """Serve the hosts of the demo's lists from this process, where all workers can reach it."""
    if source != "demo":
        return contextlib.nullcontext({})
    return server.serving(node_address()) if machine.engine == "ray" else server.serving()


def _summarise(plan: Plan, *, verified: bool) -> tuple[dict[str, int], dict[str, str]]:
    """Write the table of reasons and the totals. Returns the numbers of records and the sha256s of all files."""
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
    write_json(plan.finished / SUMMARY, {**totals, "share_ok": share, "certificates_verified": verified})
    return records, known
