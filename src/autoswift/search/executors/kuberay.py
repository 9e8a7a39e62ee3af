"""A Ray cluster on Kubernetes as manifests for KubeRay's operator (1.5.1 or newer, for token authentication)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from autoswift.errors import InputError
from autoswift.tables import explain

RAY_VERSION = "2.60.0"
HOME = "/autoswift"
"""$AUTOSWIFT_HOME on every pod: runs and models lie on the shared volume."""

USER = 1000
"""The user `ray` of Ray's own images; an image of yours needs one with this number, or any that may write to HOME."""

SHARED_MEMORY_GIB = 4
"""Of /dev/shm: the container's 64 MiB are too few for Ray's object store and for data loaders."""

NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
"""KubeRay appends to it, and a service's name ends at 63 characters."""

IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterShape:
    """What the cluster is made of.

    Attributes:
        image: with autoswift[ray], the training environment and Ray of the same version on all pods.
        workers: pods. gpus, cpus, memory_gib: of each.
        storage_gib: of the volume that all pods share.
    """

    image: str
    workers: int = 2
    gpus: int = 1
    cpus: int = 8
    memory_gib: int = 64
    storage_gib: int = 200
    name: str = "autoswift"


def manifests(shape: ClusterShape) -> list[Manifest]:
    """Volume, network policy and cluster, in the order in which they are applied.

    Raises:
        InputError: when the name or the image cannot be one.
    """
    if not NAME.fullmatch(shape.name):
        raise InputError(*explain("ray.manifest_name", name=shape.name))
    if not IMAGE.fullmatch(shape.image):
        raise InputError(*explain("ray.manifest_image", image=shape.image))
    return [_volume(shape), _network(shape), _cluster(shape)]


def _volume(shape: ClusterShape) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": shape.name},
        "spec": {
            "accessModes": ["ReadWriteMany"],  # each node reads the data and writes its trials' checkpoints
            "resources": {"requests": {"storage": f"{shape.storage_gib}Gi"}},
        },
    }


def _network(shape: ClusterShape) -> Manifest:
    """Only the cluster's own pods reach each other; the token is asked for besides."""

    def mine() -> Manifest:
        return {"matchLabels": {"ray.io/cluster": shape.name}}

    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": shape.name},
        "spec": {
            "podSelector": mine(),
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": mine()}]}],
        },
    }


def _cluster(shape: ClusterShape) -> Manifest:
    workers = {
        "groupName": "trials",
        "replicas": shape.workers,
        "minReplicas": shape.workers,
        "maxReplicas": shape.workers,
        "rayStartParams": {},
        "template": _pod(shape, "ray-worker", shape.cpus, shape.memory_gib, shape.gpus),
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": shape.name},
        "spec": {
            "rayVersion": RAY_VERSION,
            # The operator makes a secret of the cluster's name with a random token, and hands it to the pods.
            "authOptions": {"mode": "token"},
            "headGroupSpec": {
                "rayStartParams": {
                    "num-cpus": "0",  # no trial beside the run itself, which is started in this pod
                    "dashboard-host": "127.0.0.1",  # the operator's probes ask from within the pod
                },
                "template": _pod(shape, "ray-head", 2, 8, 0),
            },
            "workerGroupSpecs": [workers],
        },
    }


def _pod(shape: ClusterShape, name: str, cpus: int, memory_gib: int, gpus: int) -> Manifest:
    """A pod that needs no rights: not root, no capabilities, no token of the Kubernetes API."""
    limits: dict[str, Any] = {"cpu": str(cpus), "memory": f"{memory_gib}Gi"}
    if gpus:
        limits["nvidia.com/gpu"] = gpus
    container: Manifest = {
        "name": name,
        "image": shape.image,
        "env": [
            {"name": "AUTOSWIFT_HOME", "value": HOME},
            {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
        ],
        "resources": {"requests": dict(limits), "limits": limits},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "home", "mountPath": HOME}, {"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108
    }
    return {
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "fsGroup": USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "home", "persistentVolumeClaim": {"claimName": shape.name}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{SHARED_MEMORY_GIB}Gi"}},
            ],
        }
    }
