"""On a real SLURM cluster of two nodes: batch scripts run on both, and leave nothing behind."""

import os
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest
from tests.faults import environment

SCRIPT = Path(__file__).with_name("slurm.sh")
MISSING = [name for name in ("munged", "sbatch", "slurmctld", "slurmd", "unshare")
           if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
pytestmark = [
    pytest.mark.slow,
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
