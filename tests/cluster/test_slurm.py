"""Batch scripts on a real SLURM cluster of two nodes. The shipped one trains there, also after a preemption."""

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
from tests.cluster.conftest import ROOT
from tests.test_pipeline import change, environment, make_copy
from tests.training.outcomes import log

from mlimages.core.params import load
from mlimages.launch.base import WORKER_COMMAND
from mlimages.train.run import train

SCRIPT = Path(__file__).with_name("slurm.sh")
MISSING = [name for name in ("munged", "sbatch", "slurmctld", "slurmd", "unshare")
           if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as which SLURM's daemons run")]


PATIENCE_SECONDS = 480.0
STEPS = 200
REVOKED_SECONDS = 3.0  # after which a node lets in again a job that was taken from it

# Prints with what steps of the job end that are killed, kill themselves, and end; a signal to them then does nothing.
ENDS = r"""
import os, queue, signal
from mlimages.launch.messages import WorkerReport
from mlimages.launch.slurm import SrunProcess

def end(command, kill=False):
    output = queue.SimpleQueue()
    before, after = WorkerReport(slurm_step="ID").as_line().removeprefix("\n").split("ID")
    script = f"echo '{before}'$SLURM_STEP_ID'{after}'; {command}"
    step = SrunProcess(["srun", "--nodes=1", "--ntasks=1", "--overlap", "sh", "-c", script], dict(os.environ),
                       lambda *event: output.put(event))

    def wait_for(kind):
        while (event := output.get(timeout=480))[0] != kind:
            pass
        return event[1]

    wait_for("out")
    assert step._step.startswith(os.environ["SLURM_JOB_ID"] + "."), "signals would end srun, not the step"
    if kill:
        step.signal(signal.SIGKILL)
    code = wait_for("exit")
    step._step = "9.0"  # of a job that SLURM does not know: scancel fails
    step.signal(signal.SIGKILL)
    return code

print(end("exec sleep 60", kill=True), end("kill -ABRT $$"), end("exit 7"), end("exit 255"))
"""


def variables(folder: Path) -> dict[str, str]:
    known = environment()
    return {**known, "PATH": f"{known['PATH']}:/usr/sbin", "SLURM_CONF": str(folder / "slurm.conf")}


def batch(folder: Path, program: str) -> tuple[int, str]:
    """The exit code and the output of a program that runs as a job on a new cluster in folder/slurm."""
    (folder / "job").write_text(program)
    ended = subprocess.run([SCRIPT, folder / "slurm", "sbatch", "--wait", "--nodes=2", "--output=out", "job"],
                           cwd=folder, env={**variables(folder / "slurm"), "PYTHONPATH": str(ROOT / "src")})
    return ended.returncode, (folder / "out").read_text()


def test_a_batch_script_runs_on_two_nodes_and_no_daemon_outlives_it(tmp_path: Path) -> None:
    code, said = batch(tmp_path, "#!/bin/sh\nsrun sh -c 'echo $SLURM_PROCID $SLURMD_NODENAME'\nexit 3\n")
    assert code == 3
    assert sorted(said.split("\n")) == ["", "0 node1", "1 node2"]
    configuration = str(tmp_path / "slurm/slurm.conf")
    assert not any(configuration in (process.info["environ"] or {}).values()
                   for process in psutil.process_iter(["name", "environ"])
                   if process.info["name"] in ("munged", "slurmctld", "slurmd"))


def test_steps_end_with_codes_like_processes_of_this_machine_and_are_then_beyond_signals(tmp_path: Path) -> None:
    assert batch(tmp_path, f"#!{sys.executable}\n{ENDS}") == (0, "-9 -6 7 255\n")


@dataclasses.dataclass
class Job:
    """The shipped batch script in a copy of the repository, as the last job of a cluster in the folder `slurm`."""

    copy: Path
    slurm: Path
    number: int = 0
    earlier: set[Path] = dataclasses.field(default_factory=set)  # logs of other trainings

    def run(self, *command: str) -> str:
        return subprocess.run(command, env=variables(self.slurm), cwd=self.copy, capture_output=True, text=True).stdout

    def submit(self, *arguments: str) -> None:
        self.earlier = self._logs()
        said = self.run("sbatch", "--nodes=2", "--output=log-%j", "cluster/train.slurm", *arguments)
        self.number = int(said.split()[-1])

    def log(self) -> str:
        path = self.copy / f"log-{self.number}"
        return path.read_text() if path.exists() else ""

    def shows(self, *facts: str) -> bool:
        shown = self.run("scontrol", "show", "job", str(self.number)).split()
        return all(fact in shown for fact in facts)

    def wait(self, condition: Callable[[], bool]) -> None:
        ends = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < ends and not self.shows("JobState=FAILED"), self.log()[-8000:]
            time.sleep(0.2)

    def step(self) -> int:
        rows = [list(csv.DictReader(path.open())) for path in self._logs() - self.earlier]
        return int(rows[0][-1]["step"] or 0) if rows and rows[0] else 0

    def _logs(self) -> set[Path]:
        return set(self.copy.glob("scratch/train/*/training.csv"))

    def resumed(self) -> list[int]:
        return [int(step) for step in re.findall(r"resumed after step (\d+)", self.log())]

    def kill(self, node: str) -> None:
        """The worker on a node, which looks from here like one on this machine."""
        here = {"SLURM_CONF": variables(self.slurm)["SLURM_CONF"], "SLURMD_NODENAME": node}
        [worker] = [process for process in psutil.process_iter(["cmdline", "environ"])
                    if (process.info["cmdline"] or [])[1:] == WORKER_COMMAND[1:]
                    and here.items() <= (process.info["environ"] or {}).items()]
        worker.kill()

    def strike(self, *command: str, after: int) -> int:
        """Run a command after `after` steps. Returns the step from which the job then resumes."""
        times = len(self.resumed()) + 1
        self.wait(lambda: self.step() >= after)
        self.run(*command)
        self.wait(lambda: self.shows("JobState=PENDING", f"Restarts={times}"))
        time.sleep(REVOKED_SECONDS)
        self.run("scontrol", "update", f"jobid={self.number}", "starttime=now")  # else it would wait for two minutes
        self.wait(lambda: len(self.resumed()) == times)
        return self.resumed()[-1]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """To be submitted, for two nodes; a second one finds the stages before the training done."""
    root = tmp_path_factory.mktemp("slurm")
    copy = root / "copy"
    copy.mkdir()
    make_copy(copy)
    (copy / ".venv").symlink_to(sys.prefix)
    # What SIGTERM does not save is not saved before the end.
    change(copy, {"train": {"strategy": "multi_worker", "epochs": None, "steps": STEPS, "learning_rate": 0.002,
                            "warmup": 5.0, "batch_norm": "synchronized", "checkpoint_steps": STEPS},
                  "machine": {"launcher": "slurm", "logical_devices": 1}})
    job = Job(copy, root / "slurm")
    cluster = subprocess.Popen([SCRIPT, job.slurm, "sh", "-c", "echo up; cat"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, env=variables(job.slurm))
    assert cluster.stdout and cluster.stdout.readline() == b"up\n"
    yield job
    cluster.communicate()


def test_the_shipped_batch_script_trains_on_two_nodes_makes_room_twice_and_publishes_what_a_straight_training_does(
        job: Job, tmp_path: Path) -> None:
    job.submit()
    # With a time of grace, in which only its workers get a signal; and without, in which all its processes get it.
    first = job.strike("sbatch", "--partition=urgent", "--nodes=2", "--output=urgent", "--wrap=echo done", after=10)
    second = job.strike("scontrol", "requeue", str(job.number), after=first + 10)
    job.wait(lambda: job.shows("JobState=COMPLETED"))
    assert "done" in (job.copy / "urgent").read_text()
    assert 10 <= first <= second - 10 < STEPS - 10

    metrics = json.loads((job.copy / "data/model/metrics.json").read_text())
    assert metrics["replicas"] == 2 and metrics["steps"] == STEPS
    for node in ("node1", "node2"):
        assert f"launch task StepId={job.number}." in (job.slurm / f"{node}.log").read_text()
    params = load(job.copy / "params.yaml")
    straight = train(dataclasses.replace(params.train, strategy="one_device"),
                     dataclasses.replace(params.machine, scratch=str(tmp_path / "scratch")),
                     tfrecords=job.copy / "data/tfrecords", out=tmp_path / "straight")
    losses, expected = ([float(row["loss"]) for row in log(folder)] for folder in (job.copy / "data/model", straight))
    np.testing.assert_allclose(losses, expected, rtol=1e-2)


def test_the_worker_that_is_killed_under_slurm_is_named_and_training_goes_on_from_the_checkpoint(job: Job) -> None:
    job.submit("-S", "train.steps=100", "-S", "train.checkpoint_steps=20")
    job.wait(lambda: job.step() >= 30)
    job.kill("node2")
    job.wait(lambda: job.shows("JobState=COMPLETED"))
    assert re.search(r"worker 1 \(\S+\) was killed by SIGKILL (in|after) step \d+; training resumes .*restart 1 of",
                     job.log()), job.log()[-8000:]
    [step] = job.resumed()
    assert step >= 20
    assert json.loads((job.copy / "data/model/metrics.json").read_text())["steps"] == 100
