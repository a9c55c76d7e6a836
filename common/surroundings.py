"""What packages take for granted, and a container or a cluster need not have: a user's name, a home to write in, a pod's past."""

from __future__ import annotations

import getpass
import os
import sys
from pathlib import Path


def name_the_user() -> None:
    """Snakemake, PyTorch and wandb ask for the user's name; a number without one (`docker run -u 1000`) serves as its own."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = str(os.getuid())


def make_a_home(folder: Path) -> None:
    """wandb keeps caches and logs of its own at home; where there is none to write in, `folder` is it."""
    home = os.path.expanduser("~")
    if os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK):
        return
    if os.path.isfile(os.path.join(home, ".netrc")):  # a home that can only be read may hold the key
        os.environ.setdefault("NETRC", os.path.join(home, ".netrc"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["HOME"] = str(folder.absolute())


def let_failed_pods_be_tried_again() -> None:
    """Snakemake's Kubernetes executor (0.5.1) asks for the log of a failed pod's previous container.

    A pod that is never started again has none: the cluster refuses, and Snakemake would end instead of trying the job again.
    Where the executor is loaded, it gets the log that there is.
    """
    if "snakemake_executor_plugin_kubernetes" not in sys.modules:
        return
    client = sys.modules["kubernetes.client"]
    read = client.CoreV1Api.read_namespaced_pod_log

    def read_what_there_is(self, *arguments, **options) -> str:
        try:
            return read(self, *arguments, **options | {"previous": False})
        except client.ApiException as problem:
            return f"The log could not be read: {problem.reason}"

    client.CoreV1Api.read_namespaced_pod_log = read_what_there_is
