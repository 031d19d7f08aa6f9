"""The record of a run: what made the model, as JSON, and as a model card to read."""

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
    """What the run ran on: packages, devices, and the code's git revision, null outside a repository."""
    return {"python": platform.python_version(), "machine": platform.machine(), "processor": _processor(),
            "cores": len(os.sched_getaffinity(0)), **arithmetic(), "gpus": gpu_names(),
            "packages": package_versions(), "devices": [device.name for device in tf.config.list_logical_devices()],
            "git": _revision()}


def arithmetic() -> dict[str, Any]:
    """What decides the last bits of what this process computes, beside the packages and the number of replicas.

    A CPU's threads are among it, as each adds up a part of a sum; with GPUs they decide nothing, and are null.
    """
    gpus = gpu_names()
    return {"onednn": onednn_enabled(), "instructions": " ".join(instruction_sets()), "gpus": sorted({*gpus}),
            "intra_op_threads": None if gpus else intra_op_threads()}


def gpu_names() -> list[str]:
    """The kind of each GPU that this process sees."""
    return [tf.config.experimental.get_device_details(gpu).get("device_name", "unknown")
            for gpu in tf.config.list_physical_devices("GPU")]


def _processor() -> str:
    """Its name as Linux tells it, else what Python knows."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _revision() -> dict[str, Any] | None:
    """The commit that is checked out here, and whether tracked files differ from it, but for what DVC writes itself."""
    git = shutil.which("git")
    if git is None:
        return None
    asked = (("rev-parse", "HEAD"),
             ("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)dvc.lock"))
    commit, changes = (subprocess.run([git, *command], capture_output=True, text=True, check=False)  # noqa: S603
                       for command in asked)
    if commit.returncode or changes.returncode:
        return None
    return {"revision": commit.stdout.strip(), "dirty": bool(changes.stdout.strip())}


def model_card(run: Mapping[str, Any]) -> str:
    """The Markdown of a run's record."""
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

The classes and what they mean are those of the lists that it was trained on, gathered from the web and labelled in
part by machine; it repeats their gaps and prejudices. How well it does on the validation images, class by class, is in
`data/evaluation/`. Images keep the licences of their authors.
"""


def write_card(path: Path, run: Mapping[str, Any]) -> None:
    path.write_text(model_card(run), encoding="utf-8")


def _rows(values: Mapping[str, Any]) -> str:
    return "\n".join(f"| {name} | {value:,} |" if isinstance(value, int) and not isinstance(value, bool)
                     else f"| {name} | {value} |" for name, value in values.items())


def _list(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
