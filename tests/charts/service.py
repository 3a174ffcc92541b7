"""The real binary, its roles started as the chart's pods start them, with addresses of this machine."""
import base64
import contextlib
import functools
import os
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from chart import CHART, of_kind, pods, rendered

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("MLMS_BIN", str(ROOT / "target/release/mlms"))
LOADTEST = str(Path(BINARY).with_name("loadtest"))
SECRET = secrets.token_hex(24)


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, env={"PATH": os.environ["PATH"], **(environment or {})}, check=False)


@functools.cache
def variables() -> frozenset[str]:
    """Names of all environment variables that the binary knows."""
    return frozenset(re.findall(r"^# Environment: (\w+)$", run("default-config").stdout, re.MULTILINE)) | {"MLMS_CONFIG"}


def environment(documents, component: str) -> dict[str, str]:
    """A pod's variables as a kubelet would make them; Secrets of somebody else's get plausible values."""
    known = {
        "redis-url": "redis://127.0.0.1:6379", "database-url": "mysql://mlms:x@127.0.0.1:3306/mlms", "amqp-url": "amqp://127.0.0.1:5672/%2f",
        "cluster-key": base64.b64encode(bytes(32)).decode(), "jwt-hs256-secret": SECRET,
        "consul-token": "a-token", "trace-headers": "authorization=Bearer a-token",
    }
    owned = {document["metadata"]["name"]: document["data"] for document in of_kind(documents, "Secret")}
    pod = next(pod for _, pod in pods(documents) if pod["metadata"]["labels"]["app.kubernetes.io/component"] == component)
    found: dict[str, str] = {}
    for variable in pod["spec"]["containers"][0]["env"]:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            name, key = source["secretKeyRef"]["name"], source["secretKeyRef"]["key"]
            value = base64.b64decode(owned[name][key]).decode() if name in owned else known[key]
        elif "fieldRef" in source:
            address = "fd00::7" if found.get("MLMS_ADMIN_LISTEN", "").startswith("[") else "10.0.0.7"
            value = {"metadata.name": "t-mlms-lobby-node-0", "status.podIP": address}[source["fieldRef"]["fieldPath"]]
        else:
            value = variable["value"]
        found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], value)
    return found


def settings_file(documents, folder: str) -> str:
    """The mounted settings, as a file here."""
    path = Path(folder, "mlms.toml")
    config = next(document for document in of_kind(documents, "ConfigMap") if "mlms.toml" in document["data"])
    path.write_text(config["data"]["mlms.toml"])
    return str(path)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def wait(what: str, holds, seconds: int = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if holds():
                return
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come to be in {seconds} s")


class Fleet:
    """One Redis, one broker and one lobby node."""

    def __init__(self, documents) -> None:
        self.stack = contextlib.ExitStack()
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory())
        self.redis, self.node, self.listen = free_port(), free_port(), free_port()
        self.admin = {"broker": free_port(), "lobby-node": free_port()}
        self.processes: dict[str, subprocess.Popen] = {}
        # As the chart starts its own for trying out, so that this too has run once.
        trial = next(d for d in of_kind(rendered(CHART / "ci/trial-values.yaml"), "StatefulSet") if d["metadata"]["name"].endswith("-redis"))
        arguments = [text.replace("/data", self.folder) for text in trial["spec"]["template"]["spec"]["containers"][0]["args"]]
        self._spawn("redis", [*arguments, "--port", str(self.redis), "--bind", "127.0.0.1"], {})
        wait("Redis", lambda: socket.create_connection(("127.0.0.1", self.redis), timeout=1).close() is None)
        config = settings_file(documents, self.folder)
        for role in ("lobby-node", "broker"):
            own = {
                **environment(documents, role),
                "MLMS_CONFIG": config,
                "MLMS_REDIS_URL": f"redis://127.0.0.1:{self.redis}",
                "MLMS_ADMIN_LISTEN": f"127.0.0.1:{self.admin[role]}",
            }
            if role == "broker":
                own["MLMS_LISTEN"] = f"127.0.0.1:{self.listen}"
            else:
                own |= {
                    "MLMS_NODE_LISTEN": f"127.0.0.1:{self.node}", "MLMS_NODE_ADDRESS": f"127.0.0.1:{self.node}",
                    "MLMS_DATABASE_URL": f"sqlite://{self.folder}/mlms.db",
                }
                # No RabbitMQ here.
                own.pop("MLMS_AMQP_URL", None)
            self._spawn(role, [BINARY, role], {key: value for key, value in own.items() if key.startswith("MLMS_")})

    def _spawn(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        log = self.stack.enter_context(open(Path(self.folder, f"{name}.log"), "w"))
        self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env={"PATH": os.environ["PATH"], **environment})

    def __enter__(self) -> "Fleet":
        return self

    def ask(self, role: str, path: str) -> tuple[int, str]:
        return get(f"http://127.0.0.1:{self.admin[role]}{path}")

    def ready(self) -> None:
        for role in self.admin:
            try:
                wait(f"{role} ready", lambda role=role: self.ask(role, "/ready")[0] == 200)
            except AssertionError as error:
                raise AssertionError(f"{error}: {Path(self.folder, f'{role}.log').read_text()[-2000:]}") from None

    def token(self, user: str) -> str:
        return run("token", "--user", user, environment={"MLMS_JWT_HS256_SECRET": SECRET}).stdout.strip()

    def stop(self, role: str) -> int:
        """SIGTERM, as the kubelet sends it, and the exit code."""
        self.processes[role].send_signal(signal.SIGTERM)
        return self.processes[role].wait(timeout=90)

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        self.stack.close()
