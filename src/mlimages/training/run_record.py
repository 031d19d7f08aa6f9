"""The record of a run: what the model was made from, as JSON and as a model card."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from mlimages.core.tuning import instruction_sets, intra_op_threads, onednn_enabled, package_versions


def environment() -> dict[str, Any]:
    """The packages, devices and git revision of this process. The revision is None outside of a repository."""
    return {"python": platform.python_version(), "machine": platform.machine(), "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)), **arithmetic(), "gpus": gpu_names(),
            "packages": package_versions(), "devices": [device.name for device in tf.config.list_logical_devices()],
            "git": _revision()}


def arithmetic() -> dict[str, Any]:
    """What decides the last bits of the results of this process, beside its packages and the number of replicas.

    It includes the threads of an operation on a CPU, since each one sums a part. With GPUs they have no effect, and
    are None.
    """
    gpus = gpu_names()
    return {"onednn": onednn_enabled(), "instructions": " ".join(instruction_sets()), "gpus": sorted({*gpus}),
            "intra_op_threads": None if gpus else intra_op_threads()}


def gpu_names() -> list[str]:
    """The model of each GPU that this process sees."""
    return [tf.config.experimental.get_device_details(gpu).get("device_name", "unknown")
            for gpu in tf.config.list_physical_devices("GPU")]


def _processor() -> str:
    """The processor's name as Linux gives it, else as Python does."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _revision() -> dict[str, Any] | None:
    """The checked-out commit, and whether tracked files other than dvc.lock differ from it. None without git."""
    git = shutil.which("git")
    if git is None:
        return None
    commands = (("rev-parse", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)dvc.lock"))
    commit, changes = (subprocess.run([git, *command], capture_output=True, text=True, check=False)  # noqa: S603
                       for command in commands)
    if commit.returncode or changes.returncode:
        return None
    return {"revision": commit.stdout.strip(), "dirty": bool(changes.stdout.strip())}


def model_card(run: Mapping[str, Any]) -> str:
    """The model card of a run's record, in Markdown."""
    params, metrics, where, git = run["params"], run["metrics"], run["environment"], run["environment"]["git"]
    code = "outside a git repository" if git is None else git["revision"] + (", with changes" if git["dirty"] else "")
    started = params["initialize_from"] or "nothing"
    warning = f"**Warning:** {run['warning']}.\n\n" if run["warning"] else ""
    stopped = f"\n**Early stopping:** {run['stopped_early']}.\n" if run["stopped_early"] else ""
    return f"""# {params["architecture"]}, {run["data"]["classes"]} classes

{warning}A pre-activation ResNet for multi-label classification, trained with the loss `{params["loss"]}` on
{run["data"]["images"]:,} images of {params["pixels"]} x {params["pixels"]} pixels, from {started}.
{stopped}
**Input:** RGB, float32 [batch, height, width, 3] in [-1, 1]. **Output:** logits, float32 [batch, classes]; their
{run["activation"]} gives probabilities. The layer `features` gives the features before them.

The names of the classes are in `classes.csv`, the preprocessing is in `preprocessing.json`. With this project:

```python
from mlimages.network import Classifier
print(Classifier("data/model").predict(["cat.jpg"], top=5))
```

Without it, with Keras 3.15 or newer, or with TensorFlow alone:

```python
import keras
logits = keras.models.load_model("model.keras")(images)
```

```python
import tensorflow as tf
classify = tf.saved_model.load("saved_model").signatures["classify"]
print(classify(tf.constant([open("cat.jpg", "rb").read()])))
```

| | |
| --- | --- |
{_rows(metrics)}
| seed | {params["seed"]} |
| code | {code} |
| data | `{run["data"]["manifest_sha256"]}` |
| made with | Python {where["python"]}, {_list(where["packages"])} |
| devices | {", ".join(where["devices"])} |
| hardware | {", ".join([f"{where['processor']}, {where['cores']} cores", *where["gpus"]])} |
| workers | {run["machine"]["workers"]}, each with {run["machine"]["readers"]} readers |

## Parameters

| parameter | value |
| --- | --- |
{_rows({f"train.{name}": value for name, value in params.items()})}

## Limits

The classes are those of the lists that it was trained on. These were collected from the web and labelled partly by
machine, and the network repeats their gaps and biases. `data/evaluation/` has the scores of each class on the
validation images. The images keep the licences of their authors.
"""


def write_card(path: Path, run: Mapping[str, Any]) -> None:
    path.write_text(model_card(run), encoding="utf-8")


def _rows(values: Mapping[str, Any]) -> str:
    return "\n".join(f"| {name} | {value:,} |" if isinstance(value, int) and not isinstance(value, bool)
                     else f"| {name} | {value} |" for name, value in values.items())


def _list(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
