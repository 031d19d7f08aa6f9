"""The shipped TFJob fits the schema of Kubeflow's training operator, and its TF_CONFIG is understood.

SCHEMA states the fields that the file uses, as the operator's CustomResourceDefinition tfjobs.kubeflow.org, version v1
(manifests/base/crds/kubeflow.org_tfjobs.yaml of kubeflow/training-operator 1.8), and Kubernetes' PodSpec define them.
Other fields are refused: a misspelt one would be ignored by a cluster.
"""

import json
from typing import Any

import jsonschema
import pytest
import yaml
from tests.cluster.conftest import ROOT

from mlimages.launch.tf_config import read_environment
from mlimages.run_notebook import STAGES

NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
PATH = {"type": "string", "pattern": "^/"}
COUNT = {"type": "integer", "minimum": 1}
QUANTITIES = {"type": "object",
              "additionalProperties": {"type": "string", "pattern": "^[0-9]+([.][0-9]+)?([KMGTPE]i?)?$"}}


def fields(*required: str, **properties: Any) -> dict[str, Any]:
    """The schema of an object with these fields and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def items(kind: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": kind, "minItems": 1}


CONTAINER = fields(
    "name", "image", "command", name={"const": "tensorflow"}, image={"type": "string"}, workingDir=PATH,
    command=items({"type": "string"}), env=items(fields("name", "value", name={"type": "string"},
                                                        value={"type": "string"})),
    ports=items(fields("name", "containerPort", name={"const": "tfjob-port"}, containerPort=COUNT)),
    resources=fields(requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=items(fields("name", "mountPath", name=NAME, mountPath=PATH)))
VOLUME = {"oneOf": [
    fields("name", "persistentVolumeClaim", name=NAME, persistentVolumeClaim=fields("claimName", claimName=NAME)),
    fields("name", "emptyDir", name=NAME, emptyDir=fields(medium={"enum": ["", "Memory"]}))]}
REPLICA = fields(
    "replicas", "restartPolicy", "template", replicas=COUNT,
    restartPolicy={"enum": ["Always", "OnFailure", "Never", "ExitCode"]},
    template=fields("spec", spec=fields("containers", "volumes", terminationGracePeriodSeconds=COUNT,
                                        containers=items(CONTAINER), volumes=items(VOLUME))))
SCHEMA = fields(
    "apiVersion", "kind", "metadata", "spec", apiVersion={"const": "kubeflow.org/v1"}, kind={"const": "TFJob"},
    metadata=fields("name", name=NAME),
    spec=fields("tfReplicaSpecs",
                runPolicy=fields(cleanPodPolicy={"enum": ["All", "Running", "None"]}, backoffLimit=COUNT),
                tfReplicaSpecs=fields("Chief", "Worker", Chief=REPLICA, Worker=REPLICA)))


@pytest.fixture
def job() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster/kubernetes.yaml").read_text())


def test_the_shipped_tfjob_fits_the_operators_schema(job: dict[str, Any]) -> None:
    jsonschema.validate(job, SCHEMA)


def test_all_pods_share_the_volume_of_the_repository_and_run_the_notebook_of_train(job: dict[str, Any]) -> None:
    for replica in job["spec"]["tfReplicaSpecs"].values():
        spec = replica["template"]["spec"]
        [container] = spec["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in spec["volumes"]}
        [volume] = [volume["name"] for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
        assert container["workingDir"] == mounts[volume]
        assert replica["restartPolicy"] == "OnFailure"
        python, option, module, stage, _ = container["command"]
        assert (python, option, module, stage in STAGES) == ("python", "-m", "mlimages.run_notebook", True)


def test_the_tf_config_that_the_operator_sets_in_each_pod_is_understood(job: dict[str, Any],
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, tasks = {}, []
    for kind, replica in job["spec"]["tfReplicaSpecs"].items():
        [port] = replica["template"]["spec"]["containers"][0]["ports"]
        name, count = kind.lower(), replica["replicas"]
        cluster[name] = [f"{job['metadata']['name']}-{name}-{index}.default.svc:{port['containerPort']}"
                         for index in range(count)]
        tasks += [{"type": name, "index": index} for index in range(count)]
    for index, task in enumerate(tasks):
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task, "environment": "cloud"}))
        found = read_environment()
        assert found.index == index
        assert found.addresses == [address for kind in ("chief", "worker") for address in cluster[kind]]
