"""Fine-tuning starts from the trained network, is compared with random weights, and resumes."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.training.outcomes import Trained, assert_same_weights

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train, Transfer
from mlimages.core.publish import verify
from mlimages.network.classifier import Classifier
from mlimages.transfer.run import train_params, transfer
from mlimages.transfer.scores import ScoredPicture, accuracy, confident_mistakes

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(trained: Trained, small_transfer: Transfer, small_train: Train, small_machine: Callable[..., Machine],
        tmp_path_factory: pytest.TempPathFactory) -> Run:
    scratch = tmp_path_factory.mktemp("transfer")

    def once(name: str, **changes: Any) -> Path:
        return transfer(dataclasses.replace(small_transfer, **changes), small_machine(scratch), base=small_train,
                        model=trained.out, out=scratch / name)

    return once


@pytest.fixture(scope="module")
def tuned(run: Run) -> Path:
    return run("tuned")


def scores(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return content


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_is_published_and_the_scores_follow_from_the_predictions(tuned: Path) -> None:
    verify(tuned, "transfer")
    predictions = rows(tuned / "predictions.csv")
    right = [row["class"] == row["predicted"] for row in predictions]
    assert scores(tuned)["images"] == len(predictions) == 20
    assert scores(tuned)["top_1"] == pytest.approx(np.mean(right))
    assert scores(tuned)["top_5"] == pytest.approx(np.mean([row["top_5"] == "1" for row in predictions]))
    assert all(0 <= scores(tuned)[f"top_1_{name}"] <= 1 for name in ("from_nothing", "linear"))
    wrong = [row for row in predictions if row["file"]]
    assert len(wrong) == min(12, right.count(False)) and all((tuned / row["file"]).exists() for row in wrong)
    assert sum(int(row["images"]) for row in rows(tuned / "confusion.csv")) == 20
    assert len(list((tuned / "examples").iterdir())) == 10
    assert [row["step"] for row in rows(tuned / "model/validation.csv")] == ["1", "2"]
    assert [row["step"] for row in rows(tuned / "from_nothing.csv")] == ["1", "2"]


def test_the_last_accuracy_of_the_training_is_that_of_the_published_network(tuned: Path) -> None:
    for log, name in (("model/validation.csv", "top_1"), ("from_nothing.csv", "top_1_from_nothing")):
        assert float(rows(tuned / log)[-1]["top_1"]) == pytest.approx(scores(tuned)[name], abs=1e-6)


def test_the_network_names_its_classes(tuned: Path) -> None:
    found = Classifier(tuned / "model").predict([tuned / "examples/000.jpg"], top=10)
    assert sorted(found["name"]) == sorted(row["name"] for row in rows(tuned / "model/classes.csv"))
    assert found["probability"].sum() == pytest.approx(1, abs=1e-4)
    assert (tuned / "model/run.json").exists()


def test_the_training_begins_from_the_network_and_trains_with_softmax(tuned: Path, trained: Trained) -> None:
    record = json.loads((tuned / "model/run.json").read_text())
    assert record["params"]["initialize_from"] == str(trained.out)
    assert record["params"]["loss"] == "softmax" and record["params"]["earlier_pixels"] == [16]
    assert len(record["initialized"]["kept"]) == 2, "all but the logits is loaded"


def test_the_same_again_gives_the_same_weights_and_a_finished_stage_runs_no_step(
        run: Run, tuned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("mlimages.training.loop.Trainer", None)
        again = run("again")
    assert_same_weights(again / "model", tuned / "model")
    assert scores(again) == scores(tuned)


def test_a_linear_classifier_changes_only_the_last_layer(run: Run, trained: Trained, tuned: Path) -> None:
    out = run("linear", method="linear")
    assert scores(out)["top_1"] == scores(out)["top_1_linear"] == scores(tuned)["top_1_linear"]
    assert not (out / "model/validation.csv").exists()
    import keras

    start, end = ({variable.path: variable.numpy() for variable in
                   keras.models.load_model(folder / "model.keras", compile=False).variables}
                  for folder in (trained.out, out / "model"))
    assert all((start[path] == end[path]).all() for path in start if not path.startswith("logits/"))


def test_freezing_networks_and_warnings_are_for_the_fine_tuning_alone(
        run: Run, small_transfer: Transfer, trained: Trained, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("mlimages.training.result.divergence", lambda rows: "it learnt nothing")
    out = run("frozen", training={**small_transfer.training, "freeze_through": "stages_0"})
    tuning, comparison = capsys.readouterr().out.split("the same training from random weights:")
    assert "WARNING: it learnt nothing" in tuning and "WARNING" not in comparison
    finished = [path.parent for path in out.parent.glob("transfer/*/*/out/metrics.json")]
    assert {path.parent.name: (path / "model.keras").exists() for path in finished} == {
        "finetune": True, "from_nothing": False}
    kept = [path.name for path in out.parent.glob("transfer/*/*/checkpoints/*")]
    assert set(kept) == {"step-00000002"} and len(kept) == len(finished) // 2, "of the comparison, to be scored again"
    import keras

    start, end = (keras.models.load_model(folder / "model.keras", compile=False).get_layer("init_conv").get_weights()
                  for folder in (trained.out, out / "model"))
    assert (start[0] == end[0]).all()
    assert scores(out)["top_1_from_nothing"] is not None


@pytest.mark.parametrize(("training", "expected"), [
    ({"loss": "sigmoid"}, "`transfer.training.loss` is set by the stage transfer itself"),
    ({"learning_rat": 0.1}, "unknown key `transfer.training.learning_rat`.*learning_rate"),
    ({"learning_rate": "fast"}, "`transfer.training.learning_rate` is 'fast'")])
def test_wrong_parameters_of_the_training_are_named(small_transfer: Transfer, small_train: Train,
                                                    training: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        train_params(dataclasses.replace(small_transfer, training=training), small_train, "data/model")


def test_a_missing_or_foreign_network_is_named(run: Run, trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no weights to start from"):
        run("missing", initialize_from=str(tmp_path / "nothing.keras"))
    damaged = Path(shutil.copyfile(trained.out / "model.keras", tmp_path / "damaged.keras"))
    damaged.write_bytes(damaged.read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged.keras is no network that can be loaded"):
        run("damaged", initialize_from=str(damaged))


def test_accuracy_and_mistakes_of_known_probabilities() -> None:
    probabilities = np.eye(7, dtype=np.float32)[[0, 1, 2, 3]] * 0.5 + np.linspace(0.06, 0, 7, dtype=np.float32)
    scored = [ScoredPicture(f"{number}", label, row)
              for number, (label, row) in enumerate(zip([0, 1, 0, 6], probabilities, strict=True))]
    assert accuracy(scored) == {"top_1": 0.5, "top_5": 0.75}
    assert [one.key for one in confident_mistakes(scored)] == ["2", "3"]
