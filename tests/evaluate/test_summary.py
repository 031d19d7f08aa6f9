"""The summary that `make repro` prints."""

import json
from pathlib import Path

import pytest
from tests.evaluate.fixtures import SmallStages

from mlimages.commands.summary import summary
from mlimages.core.errors import UserError
from mlimages.evaluate.run import evaluate


def test_four_lines_say_what_was_made_how_good_it_is_where_to_look_and_what_to_try_next(
        small_stages: SmallStages) -> None:
    data = small_stages.model.parent
    with pytest.raises(UserError, match="evaluation.*missing.*dvc repro evaluate"):
        summary(data)
    evaluate(small_stages.params, small_stages.machine, model=small_stages.model, tfrecords=small_stages.tfrecords,
             lists=small_stages.lists, out=data / "evaluation")
    made, quality, look, following = summary(data).splitlines()
    fetched = json.loads((data / "images" / "summary.json").read_text())
    records = json.loads((small_stages.tfrecords / "manifest.json").read_text())["files"]
    count = {part: sum(fact["records"] for name, fact in records.items()
                       if Path(name).suffix == ".tfrecord" and name.startswith(part)) for part in ("train", "val")}
    assert made == (f"Made: {fetched['images']} images of {fetched['lines']} URLs, {count['train']} training and "
                    f"{count['val']} validation records, tiny for 58 classes after 2 steps.")
    metrics = json.loads((data / "evaluation" / "metrics.json").read_text())
    assert f"{metrics['mean_average_precision_macro']:.3f} (macro)" in quality
    assert f"{metrics['mean_average_precision_micro']:.3f} (micro) on {metrics['images']} validation" in quality
    assert f"reaches {metrics['base_rate']:.3f} and {metrics['base_rate_micro']:.3f}" in quality
    assert f"{data}/reports/5_evaluate.ipynb" in look
    assert "-S train.epochs=2.0" in following
    (data / "evaluation" / "metrics.json").write_text("{")
    with pytest.raises(UserError, match="damaged.*dvc repro --single-item --force evaluate"):
        summary(data)
