"""params-imagenet.txt makes params.yaml the released fine-tuning."""

import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from mlimages.core.params import load
from mlimages.training.schedule import build_schedule
from mlimages.transfer.run import train_params

ROOT = Path(__file__).parents[2]


def test_params_imagenet_txt_makes_params_yaml_the_released_fine_tuning(tmp_path: Path) -> None:
    """By DVC's own reading of its options. The values are those of the released finetune.py."""
    path = Path(shutil.copy(ROOT / "params.yaml", tmp_path))
    options = (ROOT / "params-imagenet.txt").read_text().split()
    assert set(options[::2]) == {"-S"}
    apply_overrides(path, options[1::2])
    params = load(path)
    assert (params.transfer.source, params.transfer.method, params.transfer.compare) == ("folder", "finetune", False)
    train = train_params(params.transfer, params.train, "resnet.ckpt")
    expected = {"architecture": "resnet101", "strategy": "mirrored", "pixels": 224, "earlier_pixels": [],
                "batch": 4 * 64, "steps": 600_000, "optimizer": "momentum", "momentum": 0.9, "weight_decay": 1e-4,
                "batch_norm_weight_decay": 1e-5, "batch_norm_momentum": 0.997, "loss": "softmax",
                "freeze_through": "stages_1", "crop_area": [0.05, 1.0], "initialize_from": "resnet.ckpt",
                "initialize_logits": False}
    assert {name: getattr(train, name) for name in expected} == expected
    schedule = build_schedule(train, records=1_281_167)
    for step, rate in ((0, 0.1), (149_999, 0.1), (150_000, 0.01), (300_000, 0.001), (450_000, 1e-4), (599_999, 1e-4)):
        assert float(schedule(step)) == pytest.approx(rate)
