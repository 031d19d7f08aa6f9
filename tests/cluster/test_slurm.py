"""On a real SLURM cluster of two nodes: batch scripts run on both, and the shipped one trains there."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.test_pipeline import change, environment, make_copy

SCRIPT = Path(__file__).with_name("slurm.sh")
MISSING = [name for name in ("munged", "sbatch", "slurmctld", "slurmd", "unshare")
           if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, as which SLURM's daemons run")]


def submit(folder: Path, script: Path, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Start a cluster, run a batch script on it by sbatch, wait for its end, and end the cluster."""
    variables = environment()
    return subprocess.run([SCRIPT, folder, "sbatch", "--wait", *options, script], cwd=cwd, capture_output=True,
                          text=True, env={**variables, "PATH": f"{variables['PATH']}:/usr/sbin"})


def test_a_batch_script_runs_on_two_nodes_and_no_daemon_outlives_it(tmp_path: Path) -> None:
    script = tmp_path / "job"
    script.write_text("#!/bin/sh\nsrun sh -c 'echo $SLURM_PROCID $SLURMD_NODENAME'\nexit 3\n")
    ended = submit(tmp_path / "slurm", script, "--nodes=2", "--output=out", cwd=tmp_path)
    assert ended.returncode == 3, ended.stderr
    assert sorted((tmp_path / "out").read_text().split("\n")) == ["", "0 node1", "1 node2"]
    configuration = str(tmp_path / "slurm" / "slurm.conf")
    assert not any(configuration in process.environ().values() for process in psutil.process_iter()
                   if process.name() in ("munged", "slurmctld", "slurmd"))


def test_the_shipped_batch_script_trains_on_two_nodes_and_publishes_a_model(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    make_copy(copy)
    change(copy, {"train": {"strategy": "multi_worker", "epochs": 1.0},
                  "machine": {"launcher": "slurm", "logical_devices": 1}})
    (copy / ".venv").symlink_to(sys.prefix)
    ended = submit(tmp_path / "slurm", Path("cluster/train.slurm"), "--nodes=2", "--output=log", cwd=copy)
    assert ended.returncode == 0, ended.stderr + (copy / "log").read_text()[-5000:]
    assert json.loads((copy / "data/model/metrics.json").read_text())["replicas"] == 2
    assert (copy / "data/model/model.keras").exists()
    for node in ("node1", "node2"):
        assert "launch task StepId=1." in (tmp_path / "slurm" / f"{node}.log").read_text()
