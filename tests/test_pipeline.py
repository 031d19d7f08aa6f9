"""The pipeline as a user runs it: real dvc, papermill and nbval in a copy of the repository, with a tiny network."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.pipeline import EXPERIMENTS_RATE, ONE_REPLICA, branch, change, environment, hashes, make_copy, run
from tests.waiting import wait_for

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 240.0


def test_dvc_repro_makes_everything_that_was_promised(finished: Path) -> None:
    metrics = json.loads((finished / "data/evaluation/metrics.json").read_text())
    assert {"mean_average_precision_macro", "mean_average_precision_micro", "base_rate", "images"} <= set(metrics)
    records = json.loads((finished / "data/tfrecords/manifest.json").read_text())["files"]
    assert metrics["images"] == records["val-00000-of-00001.tfrecord"]["records"]
    assert (finished / "data/images/train/00000.tar").exists()
    assert (finished / "data/images/train/00000.ledger.csv").exists()
    assert all((finished / folder / "manifest.json").exists() for folder in
               ("data/lists", "data/images", "data/tfrecords", "data/model", "data/evaluation", "data/transfer"))
    assert len(list((finished / "data/reports").glob("[1-6]_*.ipynb"))) == 6


def test_every_stage_notebook_shows_pictures(finished: Path) -> None:
    for report in sorted((finished / "data/reports").glob("*.ipynb")):
        cells = json.loads(report.read_text())["cells"]
        pictures = [output for cell in cells for output in cell.get("outputs", [])
                    if "image/png" in output.get("data", {})]
        assert len(pictures) >= 3, report.name


def test_every_stage_notebook_has_one_parameters_cell_one_line_per_bar_and_no_absolute_path(finished: Path) -> None:
    for report in sorted((finished / "data/reports").glob("*.ipynb")):
        cells = json.loads(report.read_text())["cells"]
        assert len([cell for cell in cells if "arameters" in "".join(cell["metadata"].get("tags", []))]) == 1
        text = "".join("".join(output["text"]) for cell in cells for output in cell.get("outputs", [])
                       if output["output_type"] == "stream")
        assert "\r" not in text and str(finished) not in text, report.name


def test_a_second_repro_runs_nothing(finished: Path) -> None:
    assert "Running stage" not in run(finished, "dvc", "repro").stdout


def test_dvc_shows_metrics_plots_and_the_graph(finished: Path) -> None:
    shown = run(finished, "dvc", "metrics", "show", "--json").stdout
    assert '"mAP_macro"' in shown and '"images_per_second"' in shown
    table = run(finished, "dvc", "exp", "show", "--csv").stdout
    assert ",base_rate,mAP_macro,mAP_micro,transfer_top_1,images_per_second," in table
    run(finished, "dvc", "plots", "show", "--out", "plots")
    page = (finished / "plots/index.html").read_text()
    assert all(title in page for title in ("Training loss", "Precision and recall", "Average precision of each class"))
    assert "evaluate" in run(finished, "dvc", "dag", "--dot").stdout


def test_the_local_remote_works_out_of_the_box(finished: Path) -> None:
    run(finished, "dvc", "push")
    shutil.rmtree(finished / ".dvc/cache")
    shutil.rmtree(finished / "data/images")
    run(finished, "dvc", "pull")
    assert (finished / "data/images/train/00000.tar").exists()


def test_a_colleague_gets_data_and_network_from_a_shared_remote_and_runs_nothing(finished: Path,
                                                                                  tmp_path: Path) -> None:
    mine, other = branch(finished, tmp_path), tmp_path / "colleague"
    run(tmp_path, "git", "clone", "-q", str(mine), str(other))
    assert run(other, "dvc", "pull", check=False).returncode, "each clone has an own default remote, which is empty"
    run(mine, "dvc", "remote", "add", "-d", "shared", str(tmp_path / "shared"))
    run(mine, "git", "add", ".dvc/config", "dvc.lock", "data")
    run(mine, "git", "commit", "-qm", "run the pipeline")
    run(mine, "dvc", "push")
    run(other, "git", "pull", "-q")
    run(other, "dvc", "pull")
    assert "Running stage" not in run(other, "dvc", "repro").stdout
    assert hashes(other) == hashes(mine) and (other / "data/model/model.keras").exists()
    assert run(other, "git", "status", "--porcelain").stdout == ""


def test_nbval_runs_every_notebook(finished: Path, tmp_path: Path) -> None:
    """The stages' notebooks resume from the work that `dvc repro` left in scratch."""
    copy = Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))
    run(copy, "env", "PYTHONPATH=src", sys.executable, "-m", "mlimages.notebook")
    ended = run(copy, "env", f"PYTHONPATH={copy / 'src'}", sys.executable, "-m", "pytest", "--nbval-lax", "-p",
                "no:cacheprovider", "-q", "notebooks", check=False)
    assert ended.returncode == 0, ended.stdout[-5000:]


def test_an_experiment_in_a_copy_runs_the_copys_code_and_parameters(committed: Path) -> None:
    """DVC has the network of these parameters in its cache, so only evaluate runs."""
    path = committed / "src/mlimages/evaluate/tables.py"
    before = path.read_text()
    path.write_text(before.replace("HEADLINE, {name:", 'HEADLINE, {"marked": 1} | {name:'))
    run(committed, "git", "commit", "-qam", "mark the metrics")
    run(committed, "dvc", "exp", "run", "--temp", "-n", "changed", "-S", f"train.learning_rate={EXPERIMENTS_RATE}",
        "evaluate")
    run(committed, "dvc", "exp", "run", "--queue", "-n", "queued", "-S", "train.epochs=2.0")
    shown = json.loads(run(committed, "dvc", "exp", "show", "--json").stdout)
    text = json.dumps(shown)
    assert f'"learning_rate": {EXPERIMENTS_RATE}' in text
    assert '"marked": 1' in text, "the code of another copy ran"
    assert "queued" in text


def test_a_wrong_parameter_stops_before_anything_is_touched(tmp_path: Path) -> None:
    copy = make_copy(tmp_path)
    change(copy, {"acquire": {"source": "nowhere"}})
    ended = run(copy, "dvc", "repro", check=False)
    assert ended.returncode != 0
    assert "`acquire.source` is 'nowhere'" in ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert not (copy / "data/lists").exists()


def test_a_killed_repro_continues_to_the_same_bytes(tmp_path: Path, finished: Path) -> None:
    copy = make_copy(tmp_path)
    change(copy, {"machine": {"threads": 1}})
    first = "scratch/download/*/out/train/00001.ledger.csv"
    process = start_when(copy, lambda: any(copy.glob(first)))
    # The kernel leads a process group of its own; what is in the session dies together.
    for line in subprocess.run(["ps", "-eo", "pid=,sess=,args="], capture_output=True, text=True).stdout.splitlines():
        pid, session, arguments = line.split(None, 2)
        if int(session) == process.pid or str(copy) in working_folder(int(pid)):
            os.kill(int(pid), signal.SIGKILL)
    process.wait()
    assert not (copy / "data/images").exists()
    written = min(copy.glob(first)).stat().st_mtime_ns
    run(copy, "dvc", "repro", "convert")
    assert min(copy.glob(first)).stat().st_mtime_ns == written, "a finished shard was fetched again"
    data = ("data/lists", "data/images", "data/tfrecords")
    assert {name: hashes(copy)[name] for name in data} == {name: hashes(finished)[name] for name in data}


def test_ctrl_c_in_a_repro_saves_the_training_which_then_continues(tmp_path: Path, finished: Path) -> None:
    copy = branch(finished, tmp_path)
    change(copy, {"train": {"epochs": 12.0, "checkpoint_steps": 1000}, **ONE_REPLICA})
    process = start_when(copy, lambda: any("loss" in path.read_text() and path.read_text().count("\n") > 1
                                           for path in copy.glob("scratch/train/*/training.csv")))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) != 0
    said = (copy / "said").read_text()
    stopped = re.search(r"SIGINT stopped the training after step (\d+) of \d+; its checkpoint is kept", said)
    assert stopped, said
    assert "Traceback" not in said and not (copy / "data/model").exists()
    run(copy, "dvc", "repro", "train")
    assert f"resumed after step {stopped[1]}" in (copy / "data/reports/4_train.ipynb").read_text()


def test_a_stage_whose_dvc_was_killed_is_named_and_ends_with_its_papermill(tmp_path: Path, finished: Path) -> None:
    copy = branch(finished, tmp_path)
    change(copy, {"download": {"rate_per_host": 0.2}})
    process = subprocess.Popen(["dvc", "repro", "download"], cwd=copy, env=environment(), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: any(copy.glob("scratch/download/*/spools/*.journal")), PATIENCE_SECONDS)
    process.kill()
    process.wait()
    second = run(copy, "dvc", "repro", "download", check=False)
    assert second.returncode != 0
    named = re.search(r"data/images is being made by process (\d+)", second.stdout + second.stderr)
    assert named and int(named[1]) in processes_in(copy)
    [papermill] = [pid for pid, arguments in processes_in(copy).items() if "-m mlimages.run_notebook" in arguments
                   and "PYTHONPATH" not in arguments]
    os.kill(papermill, signal.SIGKILL)
    wait_for(lambda: not processes_in(copy), PATIENCE_SECONDS)


def test_a_notebook_that_exits_early_is_no_finished_stage(tmp_path: Path) -> None:
    copy = make_copy(tmp_path)
    path = copy / "notebooks/1_acquire.ipynb"
    notebook = json.loads(path.read_text())
    cell = next(cell for cell in notebook["cells"] if "acquire(params, machine)" in "".join(cell["source"]))
    cell["source"] = ["import sys\n", "sys.exit(0)"]
    path.write_text(json.dumps(notebook))
    ended = run(copy, "dvc", "repro", "download", check=False)
    assert ended.returncode != 0
    assert "data/lists" in ended.stderr and "does not exist" in ended.stderr
    assert "Running stage 'download'" not in ended.stdout
    assert not (copy / "dvc.lock").exists()


def processes_in(copy: Path) -> dict[int, str]:
    """The processes that work in a folder, with their command lines."""
    listed = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    all_of_them = [line.split(None, 1) for line in listed.splitlines()]
    return {int(pid): arguments for pid, arguments in all_of_them if working_folder(int(pid)).startswith(str(copy))}


def start_when(copy: Path, ready: Callable[[], bool]) -> subprocess.Popen[str]:
    """Start dvc repro, whose output goes to the file `said`; returns as soon as `ready`."""
    with (copy / "said").open("w") as said:
        process = subprocess.Popen(["dvc", "repro"], cwd=copy, env=environment(), stdout=said, text=True,
                                   stderr=subprocess.STDOUT, start_new_session=True)
    wait_for(lambda: process.poll() is not None or ready(), PATIENCE_SECONDS)
    assert process.poll() is None, "dvc repro ended before it could be stopped"
    return process


def working_folder(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""
