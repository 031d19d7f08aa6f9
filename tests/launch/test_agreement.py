"""Before TensorFlow is loaded, workers check TF_CONFIG, wait for each other, and compare themselves."""

import dataclasses
import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import PATIENCE_SECONDS
from tests.training.outcomes import as_json, free_addresses

from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.core.tuning import ONEDNN
from mlimages.launch.agreement import Facts, agree, close, facts
from mlimages.launch.tf_config import ClusterTask, host_port, read_environment, reserve_port
from mlimages.launch.worker import describe_task
from mlimages.network.checkpoint_files import CHECKPOINTS, METADATA
from mlimages.training.jobs import TrainingJob

TWO = ["one.example:2222", "two.example:2222"]
WORKER = {"type": "worker", "index": 1}

# Trains as one of the workers of TF_CONFIG, and prints the error, which comes before TensorFlow is loaded.
WITH_TF_CONFIG = """
import json, os, sys
from mlimages.core.errors import UserError
from mlimages.core.params import Machine, Train
from mlimages.core.tuning import ONEDNN
from mlimages.train.run import train

os.environ["TF_CONFIG"] = sys.argv[1]
params, machine, tfrecords, out = json.loads(sys.argv[2])
try:
    train(Train(**params), Machine(**machine), tfrecords=tfrecords, out=out)
except UserError as error:
    print(f"UserError: {error}")
assert "tensorflow" not in sys.modules
"""


# Joins as worker 1 of these addresses, and prints the error.
ONE = """
import json, sys
from mlimages.core.errors import UserError
from mlimages.launch.agreement import agree
from mlimages.launch.tf_config import ClusterTask, reserve_port

addresses, facts = json.loads(sys.argv[1])
try:
    agree(ClusterTask(addresses, 1), facts, reserve_port(0, "a worker"), 240.0)
except UserError as error:
    print(error)
"""


def config(workers: Any, task: Any = WORKER) -> str:
    return json.dumps({"cluster": {"worker": workers}, "task": task})


@pytest.mark.parametrize("chief_type", [False, True])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_right_tf_config_is_read_and_written(monkeypatch: pytest.MonkeyPatch, index: int, chief_type: bool) -> None:
    cluster = ClusterTask([*TWO, "[::1]:4000"], index, chief_type)
    monkeypatch.setenv("TF_CONFIG", cluster.as_json())
    assert read_environment() == cluster


@pytest.mark.parametrize(("text", "problem"), [
    ("", "TF_CONFIG is not set"),
    ("{", "no JSON"),
    ("[]", "lacks cluster or task"),
    (json.dumps({"cluster": {"worker": TWO}}), "lacks cluster or task"),
    (config([]), "expected a list of workers"),
    (json.dumps({"cluster": {"worker": TWO, "ps": TWO}, "task": WORKER}),
     r"\['ps', 'worker'\], expected a list of workers, and at most one chief"),
    (config(["one.example"]), "worker 0 is 'one.example', expected host:port"),
    (config([TWO[0], "two.example:70000"]), "worker 1 is 'two.example:70000'"),
    (config([TWO[0], TWO[0]]), "one.example:2222 is the address of more than one worker"),
    (config(TWO, {"type": "worker", "index": 2}), "index of 0 to 1"),
    (config(TWO, {"type": "worker", "index": "1"}), "index of 0 to 1"),
    (config(TWO, {"type": "ps", "index": 0}), "expected type worker"),
    (config(TWO, {"type": "chief", "index": 0}), "expected type worker"),
    (json.dumps({"cluster": {"chief": TWO}, "task": {"type": "chief", "index": 0}}), "at most one chief"),
    (json.dumps({"cluster": {"chief": TWO[:1], "worker": TWO[1:]}, "task": WORKER}),
     "expected type chief and an index of 0 to 0 or type worker and an index of 0 to 0"),
])
def test_a_wrong_tf_config_is_refused_with_what_is_wrong(monkeypatch: pytest.MonkeyPatch, text: str,
                                                         problem: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=problem):
        read_environment()


def test_a_port_in_use_is_named_with_its_worker() -> None:
    with reserve_port(0, "worker 0") as held, pytest.raises(UserError, match="port .*, of worker 1, cannot be used"):
        reserve_port(held.getsockname()[1], "worker 1")


@pytest.fixture
def own(small_train: Train, machine: Machine, small_tfrecords: Path, tmp_path: Path) -> Facts:
    return facts([TrainingJob(small_train, small_tfrecords, tmp_path)], machine)


def ask_all(all_facts: list[Facts | None], seconds: float = PATIENCE_SECONDS) -> list[str]:
    """The error of each worker after `agree`, or "". None in place of facts means an absent worker."""
    addresses = free_addresses(len(all_facts))
    ports = [host_port(address)[1] for address in addresses]
    held = [reserve_port(port, "a worker") if known else None for port, known in zip(ports, all_facts, strict=True)]

    def ask(index: int) -> str:
        known, own = all_facts[index], held[index]
        if known is None or own is None:
            return "away"
        try:
            task = ClusterTask(addresses, index)
            close(agree(task, known, own, seconds), task)
        except UserError as error:
            return str(error)
        reserve_port(ports[index], "TensorFlow").close()
        return ""

    with ThreadPoolExecutor(len(all_facts)) as pool:
        return list(pool.map(ask, range(len(all_facts))))


def test_equal_workers_go_on_and_their_ports_are_free_for_tensorflow(own: Facts) -> None:
    assert ask_all([own, own, own]) == ["", "", ""]


def test_a_worker_that_does_not_come_is_named_to_all_others(own: Facts) -> None:
    said = ask_all([own, None, own], seconds=5.0)
    assert said[0] == said[2] and said[1] == "away"
    assert "worker 1 (127.0.0.1:" in said[0] and "machine.start_timeout, 5 s" in said[0]


def test_a_chief_that_does_not_come_is_named(own: Facts) -> None:
    assert "worker 0, the chief (127.0.0.1:" in ask_all([None, own], seconds=1.0)[1]


def test_two_processes_that_say_they_are_the_same_worker_are_named_to_all(
        own: Facts, small_python: Callable[..., list[str]]) -> None:
    """With three workers one is missing: the chief continues once all are connected."""
    addresses = free_addresses(3)
    doubles = [subprocess.Popen(small_python(ONE, json.dumps([addresses, own])), stdout=subprocess.PIPE, text=True)
             for _ in range(2)]
    with pytest.raises(UserError, match=r"two processes say that they are worker 1: .*TF_CONFIG") as refused:
        agree(ClusterTask(addresses, 0), own, reserve_port(host_port(addresses[0])[1], "worker 0"), PATIENCE_SECONDS)
    assert [double.communicate()[0].strip() for double in doubles] == [str(refused.value)] * 2
    for double in doubles:
        assert f"process {double.pid} of {socket.gethostname()} at 127.0.0.1" in str(refused.value)


def test_what_else_connects_to_the_chief_disturbs_nothing(own: Facts) -> None:
    addresses = free_addresses(2)
    held = [reserve_port(host_port(address)[1], "a worker") for address in addresses]
    with ThreadPoolExecutor(1) as pool:
        tasks = [ClusterTask(addresses, index) for index in range(2)]
        chief = pool.submit(agree, tasks[0], own, held[0], PATIENCE_SECONDS)
        for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b'{"worker": 7}\n', b"\xff\n"):
            with socket.create_connection(host_port(addresses[0])) as stranger:
                stranger.sendall(nonsense)
        close(agree(tasks[1], own, held[1], PATIENCE_SECONDS), tasks[1])
        close(chief.result(), tasks[0])


def test_other_parameters_code_data_or_checkpoints_are_named_to_all(
        own: Facts, small_train: Train, machine: Machine, small_tfrecords: Path, tmp_path: Path) -> None:
    other_records = tmp_path / "tfrecords"
    shutil.copytree(small_tfrecords, other_records)
    (other_records / "manifest.json").write_text("{}")
    assert "training/step.py" in own["code"], "all of the code counts"
    exchange: dict[str, Any] = {"all_reduce": "ring", "all_reduce_pack_mib": 5, "steps_per_call": 7}
    whole = tmp_path / "local" / CHECKPOINTS / "step-000000012"
    whole.mkdir(parents=True)
    (whole / METADATA).write_text(json.dumps({"files": {}, "step": 12, "losses": [], "score": None, "seconds": 1.0,
                                           "network": {}, "machine": {}}))
    others = [
        (facts([TrainingJob(small_train, small_tfrecords, tmp_path / "local")], machine),
         "other checkpoint, which lies in machine.scratch on a disk that all must share than the chief (newest: "
         "step-000000012 against None)"),
        (facts([TrainingJob(dataclasses.replace(small_train, seed=4), small_tfrecords, tmp_path)], machine),
         "other parameters than the chief (train.seed: 4 against 3)"),
        *((facts([TrainingJob(small_train, small_tfrecords, tmp_path)], dataclasses.replace(machine, **{name: value})),
           f"other parameters than the chief (machine.{name}: {value} against {getattr(machine, name)})")
          for name, value in exchange.items()),
        ({**own, "weights to start from": {"released.index": "0"}},
         "other weights to start from than the chief (released.index: 0 against None)"),
        (facts([TrainingJob(small_train, other_records, tmp_path)], machine),
         "other data than the chief (manifest.json: "),
        (facts([TrainingJob(small_train, small_tfrecords, tmp_path)] * 2, machine),
         "other trainings than the chief (number: 2 against 1)"),
        ({**own, "code": {**own["code"], "training/step.py": "0"}},
         "other code than the chief (training/step.py: 0 against"),
        ({**own, "packages": {**own["packages"], "keras": "2.0"}}, "other packages than the chief (keras: 2.0 against"),
        ({**own, "arithmetic": {ONEDNN: "0"}}, f"other arithmetic than the chief ({ONEDNN}: 0 against"),
    ]
    for other, expected in others:
        said = ask_all([own, other])
        assert said[0] == said[1] and f"worker 1 has {expected}" in said[0]


def test_the_weights_to_start_from_are_compared_by_their_bytes(small_train: Train, machine: Machine,
                                                               small_tfrecords: Path, tmp_path: Path) -> None:
    found = []
    for content in (b"one", b"two"):
        for name in ("released.index", "released.data-00000-of-00001"):
            (tmp_path / name).write_bytes(content)
        params = dataclasses.replace(small_train, initialize_from=str(tmp_path / "released"))
        found.append(facts([TrainingJob(params, small_tfrecords, tmp_path)], machine)["weights to start from"])
    assert set(found[0]) == {"released.index", "released.data-00000-of-00001"}
    assert all(found[0][name] != found[1][name] for name in found[0])


def test_a_worker_refuses_what_is_wrong_before_tensorflow_is_loaded(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        small_python: Callable[..., list[str]], tmp_path: Path) -> None:
    params = dataclasses.replace(small_train, strategy="multi_worker")
    machine = dataclasses.replace(small_machine(tmp_path / "scratch"), launcher="environment", start_timeout=8.0)
    arguments = as_json(params, machine, small_tfrecords, tmp_path / "model")

    def said(tf_config: str) -> str:
        done = subprocess.run(small_python(WITH_TF_CONFIG, tf_config, arguments), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "model").exists()
        return done.stdout

    chief = {"type": "worker", "index": 0}
    taken, free = free_addresses(2)
    assert "TF_CONFIG is wrong" in said(config([free, free], chief))
    port = host_port(taken)[1]
    with reserve_port(port, "another program"):
        assert f"UserError: port {port}, of worker 0, cannot be used" in said(config([taken, free], chief))
    assert "UserError: worker 1 (127.0.0.1:1) did not connect" in said(config([free, "127.0.0.1:1"], chief))


def test_a_worker_ends_when_its_supervisor_does_though_it_waits_for_others(
        small_tfrecords: Path, small_train: Train, small_machine: Callable[..., Machine],
        small_python: Callable[..., list[str]], tmp_path: Path) -> None:
    task = {**describe_task([TrainingJob(small_train, small_tfrecords, tmp_path)], small_machine(tmp_path)),
            "index": 1, "host": "127.0.0.1"}
    for addresses in ([], [*free_addresses(1), "127.0.0.1:1"]):
        worker = subprocess.Popen(small_python("from mlimages.launch import worker; worker.main()"), text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert worker.stdin and worker.stdout
        print(json.dumps(task), file=worker.stdin, flush=True)
        while not worker.stdout.readline().startswith("process "):
            pass
        if addresses:
            print(json.dumps(addresses), file=worker.stdin, flush=True)
        worker.communicate(timeout=PATIENCE_SECONDS)
        assert worker.returncode == 1
