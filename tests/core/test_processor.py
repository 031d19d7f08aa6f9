"""oneDNN is enabled on processors with AVX2, unless the user has set the variable."""

from pathlib import Path

import pytest
from tests.faults import python, run

from mlimages.core.tuning import ONEDNN, enable_onednn, instruction_sets, onednn_uses_avx512

ZEN_3 = "processor\t: 0\nmodel name\t: AMD EPYC 7B13\nflags\t\t: fpu sse4_2 avx f16c avx2 bmi2 fma\n"
ZEN_5 = "processor\t: 0\nmodel name\t: AMD EPYC 9755\nflags\t\t: fpu sse4_2 avx avx2 fma avx512f avx512_vnni\n"
SANDY_BRIDGE = "processor\t: 0\nmodel name\t: Intel Xeon E5-2670\nflags\t\t: fpu sse4_2 avx aes\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes\n"

# Imports this project and then TensorFlow, as every stage does, and prints whether oneDNN is enabled.
PROGRAM = """
import os
from mlimages.core.tuning import ONEDNN, onednn_enabled
print(os.environ.get(ONEDNN), onednn_enabled())
"""


@pytest.mark.parametrize(("cpuinfo", "expected"), [(ZEN_3, "1"), (SANDY_BRIDGE, None), (ARM, None), ("", None)])
def test_onednn_is_enabled_on_a_processor_with_avx2(tmp_path: Path, cpuinfo: str, expected: str | None) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    environment: dict[str, str] = {}
    enable_onednn(environment, tmp_path / "cpuinfo")
    assert environment.get(ONEDNN) == expected


@pytest.mark.parametrize(("cpuinfo", "most", "expected"), [
    (ZEN_5, None, True), (ZEN_5, "AVX512_CORE", True), (ZEN_5, "avx2", False), (ZEN_5, "AVX2_VNNI", False),
    (ZEN_5, "SSE41", False), (ZEN_3, None, False), (ZEN_3, "AVX512_CORE", False)])
def test_onednn_uses_avx512_unless_the_processor_lacks_it_or_the_user_forbids_it(
        tmp_path: Path, cpuinfo: str, most: str | None, expected: bool) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    environment = {} if most is None else {"ONEDNN_MAX_CPU_ISA": most}
    assert onednn_uses_avx512(environment, tmp_path / "cpuinfo") == expected


@pytest.mark.parametrize(("cpuinfo", "expected"), [
    (ZEN_3, ["avx", "avx2", "fma"]), (SANDY_BRIDGE, ["avx"]), (ARM, ["asimd"]), ("", [])])
def test_instruction_sets_are_read_from_cpuinfo(tmp_path: Path, cpuinfo: str, expected: list[str]) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert instruction_sets(tmp_path / "cpuinfo") == expected
    assert instruction_sets(tmp_path / "absent") == []


def test_without_a_cpuinfo_tensorflow_decides(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    enable_onednn(environment, tmp_path / "absent")
    assert not environment


@pytest.mark.parametrize("choice", ["0", "1", ""])
def test_the_users_setting_is_kept(tmp_path: Path, choice: str) -> None:
    (tmp_path / "cpuinfo").write_text(ZEN_3)
    environment = {ONEDNN: choice}
    enable_onednn(environment, tmp_path / "cpuinfo")
    assert environment == {ONEDNN: choice}


@pytest.mark.skipif("avx2" not in instruction_sets(), reason="this processor has no AVX2, so TensorFlow decides")
@pytest.mark.parametrize(("choice", "printed"), [(None, "1 True"), ("0", "0 False")])
def test_the_setting_is_made_before_tensorflow_is_imported(
        monkeypatch: pytest.MonkeyPatch, choice: str | None, printed: str) -> None:
    monkeypatch.delenv(ONEDNN, raising=False)
    if choice is not None:
        monkeypatch.setenv(ONEDNN, choice)
    assert run(python(PROGRAM), check=True).stdout.splitlines()[-1] == printed
