"""Experiments of `dvc exp run` side by side: changed parameters, metrics, curves, and average precision by class."""

import io
import math
from collections.abc import Sequence
from typing import Any

import dvc.api
import matplotlib.pyplot as plt
import pandas as pd
from dvc.exceptions import DvcException
from dvc_data.index import DataIndexDirError
from matplotlib.ticker import MaxNLocator

from mlimages.core.errors import UserError
from mlimages.core.params import SECTIONS
from mlimages.plots.canvas import BAD, DECIMALS, GOOD, axes, both_ends, display_table, label, read_table

WORKSPACE = "workspace"
FACTS = ("Experiment", "rev", "typ", "parent", "State", "Executor", "Created")  # of exp_show, about the run itself
MISSING = "!"  # of exp_show, for a metric whose file is not in this repository
CURVES = {"training loss": ("data/model/training.csv", "loss"),
          "validation: mean average precision (macro)": ("data/model/validation.csv", "mean_average_precision")}
PER_CLASS = "data/evaluation/per_class.csv"


def experiments() -> dict[str, dict[str, Any]]:
    """DVC's rows of the workspace, the last commit and its experiments, by name. Metrics that are not here are NaN.

    Raises UserError if DVC cannot list them, as outside of a git repository.
    """
    try:
        rows = dvc.api.exp_show()
    except DvcException as error:
        raise UserError(f"DVC lists no experiments ({error}), expected a git repository; run `make repro` in a "
                        f"clone") from None
    return {row["Experiment"] or row["rev"]: {name: math.nan if value == MISSING else value
                                              for name, value in row.items()} for row in rows}


def experiments_with_results() -> list[str]:
    """The names of the experiments whose results are in this repository or in DVC's cache."""
    return [name for name in experiments() if _has_results(name)]


def _has_results(name: str) -> bool:
    try:
        read_table_of(name, PER_CLASS)
    except UserError:
        return False
    return True


def comparison_table() -> pd.DataFrame:
    """A row for each experiment: the parameters that differ between them, and the metrics of dvc.yaml."""
    runs = experiments()
    frame = pd.DataFrame.from_dict(runs, orient="index")
    params = [name for name in frame if name.partition(".")[0] in SECTIONS and frame[name].astype(str).nunique() > 1]
    metrics = [name for name in frame.select_dtypes("number")
               if name not in FACTS and name.partition(".")[0] not in SECTIONS]
    shown = frame[[*params, *metrics]].rename_axis("experiment")
    return display_table(shown, {**dict.fromkeys(params, "{}"), **dict.fromkeys(metrics, "{:,.4g}")})


def plot_curves(names: Sequence[str]) -> None:
    """Show the training loss and the validation metric of experiments over the steps."""
    figure, both = plt.subplots(1, len(CURVES), figsize=(12, 4), layout="constrained")
    for ax, (title, (path, column)) in zip(both, CURVES.items(), strict=True):
        label(ax, title, "step", column.replace("_", " "))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        for number, name in enumerate(names):
            frame = read_table_of(name, path)
            if column in frame:
                # The workspace often has the curve of an experiment: its wide line shows below the other one.
                width, alpha = (1.5, 1.0) if number else (6, 0.4)
                ax.plot(frame["step"], frame[column], color=f"C{number}", lw=width, alpha=alpha, label=name,
                        marker="." if len(frame) < 50 else "")
    handles = {text: handle for ax in both for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(list(handles.values()), list(handles), loc="outside right center")
    plt.show()


def class_differences(first: str, second: str) -> pd.DataFrame:
    """The average precision of each class in two experiments, with the largest gains of the second one first."""
    frames = [read_table_of(name, PER_CLASS).set_index("class") for name in (first, second)]
    both = pd.DataFrame({"name": frames[0]["name"], "first": frames[0]["average_precision"],
                         "second": frames[1]["average_precision"]}).dropna()
    both["gain"] = both["second"] - both["first"]
    return both.sort_values("gain", ascending=False, kind="stable")


def difference_table(first: str, second: str, count: int = 20) -> pd.DataFrame:
    """The classes with the largest gains and losses, half of `count` each."""
    frame = both_ends(class_differences(first, second), count)
    columns = {"first": f"A: {first}", "second": f"B: {second}", "gain": "gain"}
    return display_table(frame.set_index("name").rename(columns=columns), dict.fromkeys(columns.values(), DECIMALS))


def plot_differences(first: str, second: str, count: int = 30) -> None:
    """Show the largest gains and losses in average precision, half of `count` each."""
    frame = both_ends(class_differences(first, second), count)
    ax = axes(f"Average precision by class: {second} minus {first}", f"gain of {second}", "",
              height=1.4 + 0.26 * len(frame))
    ax.barh(range(len(frame)), frame["gain"], color=[GOOD if gain > 0 else BAD for gain in frame["gain"]])
    ax.set_yticks(range(len(frame)), frame["name"])
    ax.axvline(0, color="black", lw=0.8)
    ax.margins(y=0.01)
    ax.invert_yaxis()
    plt.show()


def read_table_of(name: str, path: str) -> pd.DataFrame:
    """A published table of an experiment. The name "workspace" means the files in this folder.

    Raises UserError if DVC has no copy of the table.
    """
    try:
        text = dvc.api.read(path, rev=None if name == WORKSPACE else name)
    except (DvcException, DataIndexDirError, FileNotFoundError) as error:
        raise UserError(f"{path} of the experiment {name} is missing ({error}); run `dvc exp list` for their names, "
                        f"and `dvc pull` for files that another machine made") from None
    return read_table(io.StringIO(text))
