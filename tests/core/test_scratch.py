"""A stage resumes only from the same parameters, inputs and code, and never while another process works there."""

import dataclasses
import importlib.util
import os
import threading
from pathlib import Path
from types import ModuleType

import pytest

from mlimages.core import scratch
from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Params
from mlimages.core.publish import publish


def _inputs(folder: Path, content: bytes) -> Path:
    work = folder / "work"
    work.mkdir(parents=True)
    (work / "data").write_bytes(content)
    publish(work, folder / "out", stage="bake", records={})
    return folder / "out"


def _module(path: Path, code: str) -> ModuleType:
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    return importlib.util.module_from_spec(spec)


def test_the_key_is_the_same_for_the_same_parameters_inputs_and_code(params: Params, tmp_path: Path) -> None:
    code = [_module(tmp_path / "code.py", "x = 1\n")]
    keys = {scratch.key(params.download, inputs=[_inputs(tmp_path / name, b"data")], code=code) for name in "ab"}
    assert len(keys) == 1


def test_the_key_changes_with_any_parameter(params: Params) -> None:
    changed = [dataclasses.replace(params.acquire.demo, **{field.name: getattr(params.acquire.demo, field.name) + 1})
               for field in dataclasses.fields(params.acquire.demo)]
    assert len({scratch.key(one) for one in [params.acquire.demo, *changed]}) == len(changed) + 1


def test_the_key_changes_with_one_byte_of_the_inputs(params: Params, tmp_path: Path) -> None:
    folders = [_inputs(tmp_path / "a", b"data"), _inputs(tmp_path / "b", b"dath")]
    assert len({scratch.key(params.download, inputs=[folder]) for folder in folders}) == 2


def test_the_key_changes_with_the_code(params: Params, tmp_path: Path) -> None:
    module = _module(tmp_path / "code.py", "x = 1\n")
    before = scratch.key(params.download, code=[module])
    (tmp_path / "code.py").write_text("x = 2\n")
    assert scratch.key(params.download, code=[module]) != before
    (tmp_path / "code.py").write_text("x = 2  # two\n")
    assert len({before, *(scratch.key(params.download, **code) for code in (
        {"code": [module]}, {"stage": "train"}, {"stage": "evaluate"}, {}))}) == 5


def test_a_stage_finds_its_files_when_it_runs_again(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch.workspace("bake", machine, "key", tmp_path / "out") as folder:
        (folder / "kept").write_text("half")
        raise ZeroDivisionError
    with scratch.workspace("bake", machine, "key", tmp_path / "out") as folder:
        assert (folder / "kept").read_text() == "half"
    with scratch.workspace("bake", machine, "other", tmp_path / "out") as folder:
        assert not (folder / "kept").exists()


@pytest.mark.parametrize(("key", "out"), [("key", "elsewhere"), ("other", "out")])
def test_two_processes_cannot_make_the_same_result_or_output_at_once(
        machine: Machine, tmp_path: Path, key: str, out: str) -> None:
    with scratch.workspace("bake", machine, "key", tmp_path / "out"):
        with (pytest.raises(UserError, match=f"is being made by process {os.getpid()}; wait until it ends"),
              scratch.workspace("bake", machine, key, tmp_path / out)):
            pytest.fail("it was made twice")
    with scratch.workspace("bake", machine, key, tmp_path / out):
        pass


def test_a_process_waits_for_another_one_where_asked(machine: Machine) -> None:
    order = []

    def second() -> None:
        with scratch.persistent_folder("bake", machine, "key", wait=True):
            order.append("second")

    with scratch.persistent_folder("bake", machine, "key"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_different_results_are_made_at_the_same_time(machine: Machine, tmp_path: Path) -> None:
    with (scratch.workspace("bake", machine, "key", tmp_path / "out"),
          scratch.workspace("bake", machine, "other", tmp_path / "elsewhere"),
          scratch.workspace("fry", machine, "key", tmp_path / "out")):
        pass


def test_a_copy_of_the_repository_uses_the_scratch_of_the_original(
        machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "original"))
    relative = dataclasses.replace(machine, scratch="scratch")
    with scratch.workspace("bake", relative, "key", tmp_path / "out") as folder:
        assert folder == tmp_path / "original" / "scratch" / "bake" / "key"


def test_half_written_files_of_a_killed_process_are_removed_at_the_next_start(machine: Machine, tmp_path: Path) -> None:
    with scratch.workspace("bake", machine, "key", tmp_path / "out") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / ".bread.json.0123abcd.partial").touch()
        (folder / "whole.json").touch()
    with scratch.workspace("bake", machine, "key", tmp_path / "out") as folder:
        assert sorted(path.name for path in folder.rglob("*")) == ["deep", "whole.json"]
