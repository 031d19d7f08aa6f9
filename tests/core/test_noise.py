"""Noise is dropped from the terminal and the report. Every other line passes unchanged."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from tests.conftest import PATIENCE_SECONDS
from tests.evaluate.fixtures import SmallStages
from tests.faults import environment

from mlimages.core import noise
from mlimages.core.noise import has_nvidia_gpu, is_noise

ROOT = Path(__file__).parents[2]
WITHOUT_GPU = [
    "I0000 00:00:1796011940.350806   27086 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will "
    "not be used.",
    "E0000 00:00:1796011943.964035   27086 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: Failed "
    "call to cuInit: UNKNOWN ERROR (303)"]
NOISE = [
    *WITHOUT_GPU,
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1796011940.349770   27086 port.cc:153] oneDNN custom operations are on. You may see slightly "
    "different numerical results due to floating-point round-off errors from different computation orders. To turn "
    "them off, set the environment variable `TF_ENABLE_ONEDNN_OPTS=0`.",
    "W0000 00:00:1733228385.137412    2301 computation_placer.cc:177] computation placer already registered. Please "
    "check linkage and avoid linking the same target more than once.",
    "E0000 00:00:1733228385.119875    2301 cuda_dnn.cc:8579] Unable to register cuDNN factory: Attempting to register "
    "factory for plugin cuDNN when one has already been registered",
    "E0000 00:00:1796012338.957699   32621 jpeg_mem.cc:331] Premature end of JPEG data. Stopped at line 2/8",
    "Corrupt JPEG data: 6 extraneous bytes before marker 0xc4"]
# Near to the above, or what TensorFlow writes where something is wrong.
SAID = [
    "E0000 00:00:1796011943.964035   27086 cuda_blas.cc:52] failed to create cublas handle: out of memory",
    "E0000 00:00:1796011943.964035   27086 cuda_dnn.cc:522] Loaded runtime CuDNN library: 9.1.0 but source was "
    "compiled with: 9.3.0.",
    "F0000 00:00:1796011943.964035   27086 cuda_platform.cc:52] failed call to cuInit: it ends",
    "E0000 00:00:1796012338.957699   32621 jpeg_mem.cc:331] Premature end of memory",
    f"the worker ended after {WITHOUT_GPU[1]}", "Corrupt JPEG", "", "Traceback (most recent call last):"]
# TensorFlow on the devices that it finds, in a strategy that its Python part tells of, among lines of our own.
USES_TENSORFLOW = f"""
import os, sys
sys.path.insert(0, {str(ROOT / "src")!r})
import mlimages
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
replicas = tf.distribute.MirroredStrategy().num_replicas_in_sync
tf.get_logger().info("%s", "TensorFlow notes")
print("ours", flush=True)
"""
WARNS = """
tf.get_logger().warning("%s", "TensorFlow warns")
print("a cell complains", file=sys.stderr)
os.write(2, b"a library fails\\n")
"""
# Between cells the kernel then says so when it is interrupted, instead of ignoring it.
SAYS_INTERRUPTS = """
import os
get_ipython().kernel.saved_sigint_handler = lambda *_: os.write(2, b"interrupted\\n")
print("ours")
"""


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "has_nvidia_gpu", lambda: False)


@pytest.mark.parametrize("line", NOISE)
def test_noise_is_recognized(line: str) -> None:
    assert is_noise(line) and is_noise(f"{line}\n")


@pytest.mark.parametrize("line", SAID)
def test_any_other_line_is_not_noise(line: str) -> None:
    assert not is_noise(line)


@pytest.mark.parametrize("line", WITHOUT_GPU)
def test_missing_cuda_is_reported_on_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setattr(noise, "has_nvidia_gpu", lambda: True)
    assert not is_noise(line)


@pytest.mark.parametrize("level", ["0", "1"])
def test_a_lower_log_level_passes_every_line(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    assert not any(map(is_noise, NOISE))


@pytest.mark.parametrize(("files", "expected"), [
    ({}, False), ({"sys/bus/pci/devices/0/vendor": "0x10de\n", "sys/bus/pci/devices/0/class": "0x030200\n"}, True),
    ({"sys/bus/pci/devices/0/vendor": "0x10de\n", "sys/bus/pci/devices/0/class": "0x040300\n"}, False),
    ({"sys/bus/pci/devices/0/vendor": "0x1234\n", "sys/bus/pci/devices/0/class": "0x030000\n"}, False),
    ({"dev/nvidiactl": ""}, False), ({"dev/nvidia0": ""}, True), ({"dev/dxg": ""}, True)])
def test_a_gpu_is_found_by_its_device_or_on_the_bus(tmp_path: Path, files: dict[str, str], expected: bool) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert has_nvidia_gpu(tmp_path) == expected


def test_lines_of_a_process_pass_in_order_without_noise_also_when_it_crashes() -> None:
    lines = "".join(f"{line}\n" for pair in zip(NOISE, SAID, strict=True) for line in pair)
    last = "  caf\u00e9\r 10 %\r\nthe last words"
    crashes = ("import os, sys; from mlimages.core.noise import filter_stderr; filter_stderr(); "
               "os.write(2, sys.argv[1].encode()); os.abort()")
    ended = subprocess.run([sys.executable, "-c", crashes, lines + last], stderr=subprocess.PIPE,
                           env={**environment(), "TF_CPP_MIN_LOG_LEVEL": "2"})
    assert ended.stderr.decode() == "".join(f"{line}\n" for line in SAID) + last


@pytest.mark.skipif(has_nvidia_gpu(), reason="there is a GPU here, of which TensorFlow has something to say")
def test_a_command_shows_its_own_lines_alone(tmp_path: Path) -> None:
    kept = {name: value for name, value in environment().items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    ended = subprocess.run([sys.executable, "-m", "mlimages.network.classifier", tmp_path, "--model", tmp_path],
                           capture_output=True, text=True, env=kept)
    assert (ended.returncode, ended.stdout) == (2, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith("ERROR: ")


@pytest.mark.skipif(has_nvidia_gpu(), reason="there is a GPU here, of which TensorFlow has something to say")
def test_a_notebook_in_jupyterlab_shows_its_own_lines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    # Where pytest's variable is set, a kernel does not show what libraries write.
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    expected = ["WARNING:tensorflow:TensorFlow warns", "a cell complains", "a library fails", "ours"]
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        cell, text = client.execute(f"{USES_TENSORFLOW}{WARNS}"), ""
        # What a library writes, as the last line here, can come after the cell has ended.
        while len(text.splitlines()) < len(expected):
            message = client.get_iopub_msg(timeout=PATIENCE_SECONDS)
            if message["parent_header"].get("msg_id") == cell:
                text += message["content"].get("text", "")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert sorted(text.splitlines()) == expected


def execute(folder: Path, *cells: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run cells as the stage acquire: what the terminal shows, and what the report does."""
    (folder / "notebooks").mkdir()
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    notebook = nbformat.read(ROOT / "notebooks/1_acquire.ipynb", 4)
    notebook.cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    notebook.cells += map(nbformat.v4.new_code_cell, cells)
    nbformat.write(notebook, folder / "notebooks/1_acquire.ipynb")
    # A kernel that sees pytest's variable takes in less than it does for users.
    unset = {"TF_CPP_MIN_LOG_LEVEL", "PYTEST_CURRENT_TEST"}
    kept = {name: value for name, value in environment().items() if name not in unset}
    ended = subprocess.run([sys.executable, "-m", "mlimages.run_notebook", "acquire", "out.ipynb"], cwd=folder,
                           env=kept, capture_output=True, text=True)
    outputs = [output for cell in json.loads((folder / "out.ipynb").read_text())["cells"]
               for output in cell.get("outputs", [])]
    return ended, "".join("".join(output.get("text", "")) for output in outputs)


@pytest.mark.skipif(has_nvidia_gpu(), reason="there is a GPU here, of which TensorFlow has something to say")
def test_the_terminal_and_the_report_show_the_stages_output_without_tensorflows_notices(tmp_path: Path) -> None:
    ended, report = execute(tmp_path, USES_TENSORFLOW)
    assert (ended.stdout, ended.stderr, report) == ("ours\n", "", "ours\n")


def test_warnings_and_errors_pass(tmp_path: Path) -> None:
    ended, report = execute(tmp_path, USES_TENSORFLOW, WARNS)
    assert ended.returncode == 0
    assert ended.stdout == "ours\nWARNING:tensorflow:TensorFlow warns\n"
    assert sorted(ended.stderr.splitlines()) == ["a cell complains", "a library fails"]
    assert report == f"{ended.stdout}a cell complains\n"


def test_the_last_lines_of_a_kernel_that_dies_pass(tmp_path: Path) -> None:
    ended, _ = execute(tmp_path, "import os\nos.write(2, b'F0000 Check failed\\n')\nos.abort()")
    assert ended.returncode == 1
    assert ended.stderr.startswith("F0000 Check failed") and "ERROR: the notebook's kernel died" in ended.stderr


def test_a_kernel_is_not_interrupted_at_the_end_of_its_notebook(tmp_path: Path) -> None:
    ended, _ = execute(tmp_path, SAYS_INTERRUPTS)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ours\n", "")


def test_the_explorer_of_the_dataset_does_not_need_tensorflow(small_stages: SmallStages, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for folder in (small_stages.lists, small_stages.tfrecords):
        (tmp_path / "data" / folder.name).symlink_to(folder)
    (tmp_path / "params.yaml").touch()
    cells = json.loads((ROOT / "notebooks/explore_dataset.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    code.append("import mlimages.plots.records, sys")  # of the notebook of convert
    loaded = "print([name for name in sys.modules if name.startswith(('tensorflow', 'keras'))])"
    ended = subprocess.run([sys.executable, "-c", "\n".join([*code, loaded])], cwd=tmp_path, capture_output=True,
                           env={**environment(), "MPLBACKEND": "agg"}, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "[]"
