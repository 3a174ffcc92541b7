#!/usr/bin/env python3
"""Schemathesis (PyPI) against the whole REST API of the real binary, as /openapi.json describes it: no server error, no
answer that the document does not know, nothing accepted that it forbids. Ends with a line `N passed, N failed`.

The document is tightened first: an answer with a field that it does not name is a failure here, though clients are told
to ignore such fields. At the end the document is made to lie, and the same run must notice.
"""
import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = os.environ.get("MLMS_BIN", str(TARGET / "release/mlms"))
SCHEMATHESIS = os.environ.get("SCHEMATHESIS", str(TARGET / "python/bin/schemathesis"))
SEED = os.environ.get("MLMS_SEED", "20261122")
SECRET = secrets.token_hex(24)

# Not among them: `positive_data_acceptance`, for what a deployment or a lobby's state forbids no schema can say.
CHECKS = ",".join([
    "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "negative_data_rejection", "unsupported_method", "allow_header_conformance",
    "ignored_auth",
])


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def call(base: str, method: str, path: str, token: str | None = None, body=None) -> tuple[int, bytes]:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@contextlib.contextmanager
def service():
    """A standalone service without rates, in memory only. Gives its address and a minter of tokens."""
    with tempfile.TemporaryDirectory() as folder:
        port, admin = free_port(), free_port()
        environment = {
            "PATH": os.environ["PATH"], "MLMS_LISTEN": f"127.0.0.1:{port}", "MLMS_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "MLMS_JWT_HS256_SECRET": SECRET, "MLMS_DATA_DIR": folder, "MLMS_LIMIT_COMMANDS_PER_S": "0",
            "MLMS_LIMIT_CREATES_PER_MINUTE": "0", "MLMS_DRAIN_SECONDS": "2", "MLMS_LOG_FORMAT": "json",
        }
        log = Path(folder, "log")

        def token(user: str, *roles: str) -> str:
            arguments = [BINARY, "token", "--user", user, *(part for role in roles for part in ("--role", role))]
            return subprocess.run(arguments, env=environment, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

        with log.open("wb") as out, subprocess.Popen([BINARY, "standalone"], env=environment, cwd=folder, stdout=out, stderr=out) as process:
            try:
                base = f"http://127.0.0.1:{port}"
                wait_ready(process, f"http://127.0.0.1:{admin}", log)
                yield base, token
            finally:
                process.terminate()
                process.wait(60)
        complaints = [line for line in log.read_text().splitlines() if '"level":"ERROR"' in line or "panicked" in line]
        if complaints:
            print("\n".join(complaints[:20]))
            raise SystemExit("the service logged errors")


def wait_ready(process: subprocess.Popen, admin: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            if call(admin, "GET", "/ready")[0] == 200:
                return
        time.sleep(0.05)
    raise SystemExit(f"the service does not start:\n{log.read_text()}")


def join(base: str, lobby: str, token: str) -> socket.socket:
    """A player in a lobby, who says nothing: the socket stays open, and its frames are left in it."""
    host, port = base.removeprefix("http://").split(":")
    one = socket.create_connection((host, int(port)), timeout=20)
    key = b64encode(secrets.token_bytes(16)).decode()
    lines = [
        f"GET /ws?lobby={lobby} HTTP/1.1", f"Host: {host}:{port}", "Connection: Upgrade", "Upgrade: websocket",
        "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", f"Authorization: Bearer {token}", "", "",
    ]
    one.sendall("\r\n".join(lines).encode())
    read = b""
    while b'"snapshot"' not in read:
        part = one.recv(65536)
        if not part:
            raise SystemExit(f"the player cannot come in: {read!r}")
        read += part
    return one


def tightened(document: dict) -> dict:
    """Answers may hold only the fields that are named. Nobody sends an `Idempotency-Key`: with one that was used, a wrong
    body gets the first answer, as it should."""
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    asked = {operation["requestBody"]["content"]["application/json"]["schema"]["$ref"] for operation in operations if "requestBody" in operation}
    for name, schema in document["components"]["schemas"].items():
        if f"#/components/schemas/{name}" not in asked:
            tighten(schema)
    for operation in operations:
        operation["parameters"] = [one for one in operation["parameters"] if not one["$ref"].endswith("/idempotency_key")]
    return document


def tighten(schema) -> None:
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            tighten(part)
    elif isinstance(schema, list):
        for part in schema:
            tighten(part)


def schemathesis(base: str, document: dict, token: str, folder: str, *arguments: str, pinned: dict[str, object] | None = None) -> tuple[int, str]:
    """Runs it, and gives its status and what it said."""
    file = Path(folder, "openapi.json")
    file.write_text(json.dumps(document))
    # A closed or changed lobby says so, and a large body is one, before anybody looks closer.
    rejected = [400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 415, 422, 429]
    lines = ["[checks.negative_data_rejection]", f"expected-statuses = {rejected}"]
    lines += ["[parameters]"] if pinned else []
    lines += [f'"{name}" = {json.dumps(value)}' for name, value in (pinned or {}).items()]
    config = Path(folder, "schemathesis.toml")
    config.write_text("\n".join(lines) + "\n")
    # One worker: Python 3.11 loses count of its recursion when two threads parse at once (gh-106905).
    command = [
        SCHEMATHESIS, "--config-file", str(config), "run", str(file), "--url", base, "-H", f"Authorization: Bearer {token}",
        "--checks", CHECKS, "--seed", SEED, "--workers", "1", "--no-color", "--warnings", "off",
        "--suppress-health-check", "all", "--request-timeout", "30", *arguments,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def lying(document: dict) -> dict:
    """The same with one false word: a lobby's page has to name something that no answer has."""
    lie = json.loads(json.dumps(document))
    lie["components"]["schemas"]["LobbyPage"]["required"].append("colour")
    return lie


def cases(output: str) -> int:
    """How many test cases were generated."""
    found = re.search(r"([\d,]+) generated", output)
    return int(found[1].replace(",", "")) if found else 0


def main() -> int:
    outcomes: list[tuple[str, bool]] = []

    def verdict(name: str, good: bool, output: str = "") -> None:
        outcomes.append((name, good))
        print(f"{'ok  ' if good else 'FAIL'} {name}")
        if not good:
            print(output)

    with service() as (base, token), tempfile.TemporaryDirectory() as folder:
        server, player = token("backend", "server", "admin"), token("ann")
        for lobby in ("arena", "den"):
            call(base, "POST", "/v1/lobbies", server, {"lobby": lobby})
        held = [join(base, "arena", token(user)) for user in ("ann", "bob", "cleo")]
        call(base, "POST", "/v1/lobbies/arena/messages", server, {"body": "hello"})
        document = tightened(json.loads(call(base, "GET", "/openapi.json")[1]))
        status, output = schemathesis(base, document, server, folder, "--max-examples", "25", "--phases", "examples,coverage,fuzzing")
        verdict(f"the whole API, as a back end ({cases(output)} cases)", status == 0 and cases(output) > 1000, output)
        # The same where it hits something: a lobby with members, whom the closing of it would end.
        deep = {"path.lobby": "arena", "path.user": "bob", "path.seq": 4}
        keep = ["--exclude-operation-id", "lobbyClose"]
        status, output = schemathesis(base, document, server, folder, "--max-examples", "15", "--phases", "fuzzing", *keep, pinned=deep)
        verdict(f"a lobby with players, as a back end ({cases(output)} cases)", status == 0 and cases(output) > 300, output)
        status, output = schemathesis(base, document, player, folder, "--max-examples", "10", "--phases", "fuzzing", *keep, pinned=deep)
        verdict(f"a lobby with players, as one of them ({cases(output)} cases)", status == 0 and cases(output) > 200, output)
        status, output = schemathesis(base, lying(document), server, folder, "--max-examples", "5", "--phases", "fuzzing", "--include-operation-id", "lobbyList")
        verdict("a document that lies is found out", status == 1 and "colour" in output, output)
        for one in held:
            one.close()
    failed = sum(not good for _, good in outcomes)
    print(f"{len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
