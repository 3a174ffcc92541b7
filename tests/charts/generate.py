#!/usr/bin/env python3
"""Writes what follows from something else, or checks it with --check: the schema of the chart's `config` (from
`mlms default-config`) and the table of values in the chart's README (from values.yaml)."""
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/mlms"
SCHEMA = CHART / "values.schema.json"
README = CHART / "README.md"

# The chart sets these itself, from values of its own: in the file they would be overruled or leak a secret.
OWN = {
    "listen", "admin_listen", "data_dir", "ephemeral", "drain_seconds", "connections_max",
    "node.listen", "node.name", "node.address", "node.public_url", "node.workers",
    "redis.url", "database.url", "amqp.url", "cluster.key", "jwt.hs256_secret", "jwt.public_key_file",
    "achievements.rules", "consul.token", "trace.headers", "broker.peers",
}


def binary() -> str:
    return os.environ.get("MLMS_BIN", str(ROOT / "target/release/mlms"))


def settings() -> dict[str, object]:
    """Every setting by its key, with its default or example."""
    text = subprocess.run([binary(), "default-config"], check=True, capture_output=True, text=True).stdout
    # A setting without a default stands in a comment: `# name = example`.
    text = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    found: dict[str, object] = {}
    for name, value in tomllib.loads(text).items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": example for inner, example in value.items()}
        else:
            found[name] = value
    return found


def type_of(key: str, example: object) -> dict:
    if key == "lobby.create":
        return {"type": ["string", "array"], "items": {"type": "string"}}
    if isinstance(example, bool):
        return {"type": "boolean"}
    if isinstance(example, int):
        return {"type": "integer"}
    if isinstance(example, float):
        return {"type": "number"}
    if isinstance(example, list):
        return {"type": ["array", "string"], "items": {"type": "string"}}
    return {"type": "string"}


def config_schema() -> dict:
    root: dict = {"type": "object", "additionalProperties": False, "properties": {}}
    for key, example in settings().items():
        if key in OWN:
            continue
        place, section = root["properties"], key.rpartition(".")[0]
        if section:
            place = place.setdefault(section, {"type": "object", "additionalProperties": False, "properties": {}})["properties"]
        place[key.rpartition(".")[2]] = type_of(key, example)
    return root


def rows() -> list[tuple[str, str, str]]:
    """(path, default, meaning) of each value that has a comment in values.yaml."""
    found, path, words = [], [], []
    for number, line in enumerate((CHART / "values.yaml").read_text().splitlines()):
        match = re.match(r"^( *)(?:# (.*)|([\w]+):(?: (.*))?)$", line)
        if not match:
            words = []
            if line.strip() and not line.strip().startswith("#") and not line.startswith("  "):
                raise SystemExit(f"values.yaml, line {number + 1}: is not of the form that this table is made from")
            continue
        indent, comment, key, default = match.groups()
        depth = len(indent) // 2
        if comment is not None:
            words.append(comment)
        elif key and depth <= len(path):
            path = path[:depth] + [key]
            if words:
                found.append((".".join(path), default or "", " ".join(words)))
            elif default:
                # A part of an object that was described as a whole is no row of its own.
                if not any(".".join(path).startswith(row[0] + ".") for row in found):
                    raise SystemExit(f"values.yaml, line {number + 1}: {'.'.join(path)} has no comment")
            words = []
    return found


def table() -> str:
    def cell(text: str) -> str:
        return text.replace("|", "\\|")
    lines = ["| value | default | meaning |", "|---|---|---|"]
    lines += [f"| `{path}` | {f'`{cell(default)}`' if default else ''} | {cell(meaning)} |" for path, default, meaning in rows()]
    return "\n".join(lines) + "\n"


def main() -> int:
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["config"] = config_schema()
    readme = re.sub(r"(<!-- values: .*-->\n)[\s\S]*?(<!-- /values -->)", lambda m: m[1] + table() + m[2], README.read_text())
    wrong = []
    for path, text in ((SCHEMA, json.dumps(schema, indent=2) + "\n"), (README, readme)):
        if path.read_text() == text:
            continue
        wrong.append(str(path.relative_to(ROOT)))
        if "--check" not in sys.argv:
            path.write_text(text)
    if "--check" in sys.argv and wrong:
        print(f"not up to date: {', '.join(wrong)}; run tests/charts/generate.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
