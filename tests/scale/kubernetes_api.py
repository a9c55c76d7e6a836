"""A small Kubernetes API server: what Snakemake's executor asks of one, with a cluster's refusals; each pod is a process here.

It keeps secrets, Jobs and their Pods, and answers as a cluster does (the API's reference, v1.32; the kubelet for logs). Nothing
is mounted: a claim's folder stands where pods expect it. There is no GPU either: pods that ask for one get `device=cpu`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
QUANTITY = re.compile(r"(\d+)(m|k|M|G|Ki|Mi|Gi)?")
UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


class Refused(Exception):
    """The server's answer where it does not do what it is asked: an HTTP status, a reason and words."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


def amount(quantity: str) -> float:
    """ "500m" -> 0.5, "16000M" -> 1.6e10. Refused for what is no quantity."""
    found = QUANTITY.fullmatch(quantity)
    if not found:
        raise Refused(422, "Invalid", f"{quantity!r} is no quantity, as 500m or 16000M")
    return int(found[1]) * UNITS.get(found[2], 1)


def check_resources(resources: dict) -> None:
    """Requests fit into limits; what has a vendor's name (nvidia.com/gpu) is never overcommitted: both, and equal."""
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for name in {*requests, *limits}:
        asked, most = requests.get(name, limits.get(name)), limits.get(name)
        if "/" in name and (most is None or amount(asked) != amount(most)):
            words = f"{asked} requested, limit {most}: limit must be set, and equal, for non overcommitable resources"
            raise Refused(422, "Invalid", f"{name}: {words}")
        if most is not None and amount(asked) > amount(most):
            raise Refused(422, "Invalid", f"{name}: {asked} requested, more than the limit {most}")


@dataclass
class Cluster:
    """Its contents, and what its pods find: `claims` by name, `environment` as the image's, `root` for their folders."""

    root: Path
    claims: dict[str, Path] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    namespaces: tuple[str, ...] = ("default",)
    secrets: dict[str, dict] = field(default_factory=dict)
    jobs: dict[str, dict] = field(default_factory=dict)
    ran: list[dict] = field(default_factory=list)  # every Job there ever was
    refusals: list[str] = field(default_factory=list)

    # --- what a Job may be ---

    def check(self, job: dict) -> None:
        if not NAME.fullmatch(job["metadata"]["name"]):
            raise Refused(422, "Invalid", f"metadata.name: {job['metadata']['name']!r}")
        spec = job["spec"]["template"]["spec"]
        if spec.get("restartPolicy") not in ("Never", "OnFailure"):
            raise Refused(
                422, "Invalid", f"restartPolicy: {spec.get('restartPolicy')!r}; a Job has Never or OnFailure"
            )
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        for container in spec["containers"]:
            if not container.get("image"):
                raise Refused(422, "Invalid", "spec.containers[0].image: required value")
            check_resources(container.get("resources") or {})
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    raise Refused(
                        422, "Invalid", f"volumeMounts: {mount['name']!r} is none of {sorted(volumes)}"
                    )
                claim = volumes[mount["name"]].get("persistentVolumeClaim")
                if claim and str(self.claims.get(claim["claimName"])) != mount["mountPath"]:
                    words = (
                        f"the claim {claim['claimName']!r} at {mount['mountPath']}: there is {self.claims}"
                    )
                    raise Refused(422, "Invalid", words)  # a cluster would leave the pod pending for ever

    # --- pods ---

    def start(self, job: dict) -> dict:
        self.check(job)
        name = job["metadata"]["name"]
        if name in self.jobs:
            raise Refused(409, "AlreadyExists", f'jobs.batch "{name}" already exists')
        (container,) = job["spec"]["template"]["spec"]["containers"]
        environment = dict(self.environment)
        for entry in container.get("env", []):
            key = entry["valueFrom"]["secretKeyRef"]
            environment[entry["name"]] = base64.b64decode(
                self.secrets[key["name"]]["data"][key["key"]]
            ).decode()
        folder = self.root / name
        folder.mkdir()
        arguments = [text.replace(" --config ", " --config device=cpu ") for text in container["args"]]
        with open(self.root / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [*container["command"], *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.jobs[name] = job | {"process": process}
        self.ran.append(self.jobs[name])
        return job

    def code(self, name: str) -> int | None:
        """A pod's exit code as a container's: 137 for one that was killed."""
        code = self.find(name)["process"].poll()
        return 128 - code if code is not None and code < 0 else code

    def find(self, name: str) -> dict:
        if name not in self.jobs:
            raise Refused(404, "NotFound", f'jobs.batch "{name}" not found')
        return self.jobs[name]

    def kill(self, name: str) -> None:
        """As the kernel does where a pod's memory is over its limit."""
        process = self.find(name)["process"]
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def remove(self, name: str) -> None:
        self.kill(name)
        del self.jobs[name]
        shutil.rmtree(self.root / name)  # a pod's own disk goes with it

    def status(self, name: str) -> dict:
        code = self.code(name)
        return {"active": 1} if code is None else {"succeeded": 1} if code == 0 else {"failed": 1}

    def pod(self, name: str) -> dict:
        code = self.code(name)
        state = {"running": {}} if code is None else {"terminated": {"exitCode": code}}
        container = {
            "name": "snakemake",
            "image": "image",
            "imageID": "",
            "ready": code is None,
            "restartCount": 0,
        }
        phase = {None: "Running", 0: "Succeeded"}.get(code, "Failed")
        return {
            "metadata": {"name": f"{name}-x7k2p", "labels": {"job-name": name}},
            "status": {"phase": phase, "containerStatuses": [container | {"state": state}]},
        }

    def log(self, name: str, previous: bool) -> str:
        if previous:  # as the kubelet, of a container that was never started again
            words = f'previous terminated container "snakemake" in pod "{name}-x7k2p" not found'
            raise Refused(400, "BadRequest", words)
        return (self.root / f"{name}.log").read_text(errors="replace")

    # --- the API ---

    def answer(self, method: str, path: str, query: dict[str, str], body: dict) -> dict | str:
        group, _, rest = path.partition("/namespaces/")
        namespace, kind, name, part = (rest.split("/") + [""] * 3)[:4]
        if namespace not in self.namespaces:
            raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
        match method, group, kind, bool(name), part:
            case "POST", "/api/v1", "secrets", False, "":
                self.secrets[body["metadata"]["name"]] = body
                return body
            case "DELETE", "/api/v1", "secrets", True, "":
                del self.secrets[name]
                return {"status": "Success"}
            case "POST", "/apis/batch/v1", "jobs", False, "":
                return self.start(body)
            case "GET", "/apis/batch/v1", "jobs", True, "status":
                return {key: self.find(name)[key] for key in ("metadata", "spec")} | {
                    "status": self.status(name)
                }
            case "DELETE", "/apis/batch/v1", "jobs", True, "":
                self.find(name)
                self.remove(name)
                return {"status": "Success"}
            case "GET", "/api/v1", "pods", False, "":
                of = query["labelSelector"].removeprefix("job-name=")
                return {"items": [self.pod(of)] if of in self.jobs else []}
            case "GET", "/api/v1", "pods", True, "log":
                return self.log(
                    name.rpartition("-")[0], query.get("previous", "false").lower() not in ("false", "0")
                )
            case "DELETE", "/api/v1", "pods", True, "":
                self.kill(name.rpartition("-")[0])
                return {"metadata": {"name": name}}
        raise Refused(405, "MethodNotAllowed", f"{method} {path}")


@contextmanager
def serve(cluster: Cluster):
    """The server's address, for as long as the context lasts; pods that still run then are killed."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            url = urlsplit(self.path)
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            try:
                with lock:
                    status, answer = (
                        200,
                        cluster.answer(self.command, url.path, query, json.loads(text or "{}")),
                    )
            except Refused as no:
                cluster.refusals.append(str(no))
                status = no.status
                answer = {
                    "kind": "Status",
                    "status": "Failure",
                    "reason": no.reason,
                    "message": str(no),
                    "code": status,
                }
            plain = isinstance(answer, str)
            content = (answer if plain else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if plain else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = respond

        def log_message(self, *arguments) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        for name in list(cluster.jobs):
            cluster.kill(name)
