"""On a real SLURM cluster of two nodes: batch scripts run on both; the shipped one trains there, preempted or not."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.test_pipeline import change, environment, make_copy
from tests.train.outcomes import log

from mlimages.params import load
from mlimages.train import train

SCRIPT = Path(__file__).with_name("slurm.sh")
MISSING = [name for name in ("munged", "sbatch", "slurmctld", "slurmd", "unshare")
           if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as which SLURM's daemons run")]


PATIENCE_SECONDS = 480.0
STEPS = 300
REVOKED_SECONDS = 3.0  # after which a node lets in again a job that was taken from it


def variables(folder: Path) -> dict[str, str]:
    known = environment()
    return {**known, "PATH": f"{known['PATH']}:/usr/sbin", "SLURM_CONF": str(folder / "slurm.conf")}


def test_a_batch_script_runs_on_two_nodes_and_no_daemon_outlives_it(tmp_path: Path) -> None:
    script, slurm = tmp_path / "job", tmp_path / "slurm"
    script.write_text("#!/bin/sh\nsrun sh -c 'echo $SLURM_PROCID $SLURMD_NODENAME'\nexit 3\n")
    ended = subprocess.run([SCRIPT, slurm, "sbatch", "--wait", "--nodes=2", "--output=out", script], cwd=tmp_path,
                           capture_output=True, text=True, env=variables(slurm))
    assert ended.returncode == 3, ended.stderr
    assert sorted((tmp_path / "out").read_text().split("\n")) == ["", "0 node1", "1 node2"]
    configuration = str(slurm / "slurm.conf")
    assert not any(configuration in process.environ().values() for process in psutil.process_iter()
                   if process.name() in ("munged", "slurmctld", "slurmd"))


@dataclasses.dataclass
class Job:
    """The shipped batch script in a copy of the repository, as the first job of a cluster in the folder `slurm`."""

    copy: Path
    slurm: Path

    def run(self, *command: str) -> str:
        return subprocess.run(command, env=variables(self.slurm), cwd=self.copy, capture_output=True, text=True).stdout

    def log(self) -> str:
        return (self.copy / "log").read_text() if (self.copy / "log").exists() else ""

    def shows(self, *facts: str) -> bool:
        shown = self.run("scontrol", "show", "job", "1").split()
        return all(fact in shown for fact in facts)

    def wait(self, condition: Callable[[], bool]) -> None:
        ends = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < ends and not self.shows("JobState=FAILED"), self.log()[-8000:]
            time.sleep(0.2)

    def step(self) -> int:
        rows = [list(csv.DictReader(path.open())) for path in self.copy.glob("scratch/train/*/training.csv")]
        return int(rows[0][-1]["step"] or 0) if rows and rows[0] else 0

    def resumed(self) -> list[int]:
        return [int(step) for step in re.findall(r"resumed after step (\d+)", self.log())]

    def strike(self, *command: str, after: int) -> int:
        """Run it once so many steps are done; the step after which the job resumes when it has begun again."""
        times = len(self.resumed()) + 1
        self.wait(lambda: self.step() >= after)
        self.run(*command)
        self.wait(lambda: self.shows("JobState=PENDING", f"Restarts={times}"))
        time.sleep(REVOKED_SECONDS)
        self.run("scontrol", "update", "jobid=1", "starttime=now")  # else it would wait for two minutes
        self.wait(lambda: len(self.resumed()) == times)
        return self.resumed()[-1]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """Submitted, and run by two nodes."""
    copy = tmp_path / "copy"
    copy.mkdir()
    make_copy(copy)
    (copy / ".venv").symlink_to(sys.prefix)
    # What SIGTERM does not save is not saved before the end.
    change(copy, {"train": {"strategy": "multi_worker", "epochs": None, "steps": STEPS, "learning_rate": 0.002,
                            "warmup": 5.0, "batch_norm": "synchronized", "checkpoint_steps": STEPS},
                  "machine": {"launcher": "slurm", "logical_devices": 1}})
    job = Job(copy, tmp_path / "slurm")
    cluster = subprocess.Popen([SCRIPT, job.slurm, "sh", "-c", "echo up; cat"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, env=variables(job.slurm))
    assert cluster.stdout and cluster.stdout.readline() == b"up\n"
    job.run("sbatch", "--nodes=2", "--output=log", "cluster/train.slurm")
    yield job
    cluster.communicate()


def test_the_shipped_batch_script_trains_on_two_nodes_makes_room_twice_and_publishes_what_a_straight_training_does(
        job: Job, tmp_path: Path) -> None:
    # With a time of grace, in which its workers alone are told to end; and without, in which all its processes are.
    first = job.strike("sbatch", "--partition=urgent", "--nodes=2", "--output=urgent", "--wrap=echo done", after=10)
    second = job.strike("scontrol", "requeue", "1", after=first + 10)
    job.wait(lambda: job.shows("JobState=COMPLETED"))
    assert "done" in (job.copy / "urgent").read_text()
    assert 10 <= first <= second - 10 < STEPS - 10

    metrics = json.loads((job.copy / "data/model/metrics.json").read_text())
    assert metrics["replicas"] == 2 and metrics["steps"] == STEPS
    for node in ("node1", "node2"):
        assert "launch task StepId=1." in (job.slurm / f"{node}.log").read_text()
    params = load(job.copy / "params.yaml")
    straight = train(dataclasses.replace(params.train, strategy="one_device"),
                     dataclasses.replace(params.machine, scratch=str(tmp_path / "scratch")),
                     tfrecords=job.copy / "data/tfrecords", out=tmp_path / "straight")
    losses, expected = ([float(row["loss"]) for row in log(folder)] for folder in (job.copy / "data/model", straight))
    np.testing.assert_allclose(losses, expected, rtol=1e-2)
