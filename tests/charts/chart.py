"""The chart as Helm renders it."""
import functools
import os
import subprocess
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/mlms"
SCHEMAS = ROOT / "charts/schemas"
TOOLS = Path(os.environ.get("CHART_TOOLS", ROOT / "target/charts"))
HELMS = ("helm3", "helm4")
VALUES = tuple(sorted(CHART.glob("ci/*-values.yaml")))
RELEASE, NAMESPACE = "t", "games"

# PyYAML's own loader in C is ten times as fast.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Refused(Exception):
    """Helm refuses the chart or its values."""


def helm(version: str, *arguments: object) -> str:
    # Nothing of the user's own Helm takes part.
    with tempfile.TemporaryDirectory() as home:
        environment = {"HOME": home, "PATH": os.environ["PATH"]}
        done = subprocess.run([TOOLS / version, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise Refused(f"{done.stdout}{done.stderr}".strip())
    return done.stdout


def parse(text: str) -> list[dict]:
    return [document for document in yaml.load_all(text, LOADER) if document]


def template(version: str, *arguments: object, chart: Path = CHART) -> list[dict]:
    return parse(helm(version, "template", RELEASE, chart, "--namespace", NAMESPACE, *arguments))


@functools.cache
def rendered(values: Path, version: str = "helm4") -> tuple[dict, ...]:
    """The objects of a values file, hooks and tests included."""
    return tuple(template(version, "--values", values))


def title(document: dict) -> str:
    return f"{document.get('kind')} {document.get('metadata', {}).get('name')}"


def of_kind(documents, *kinds: str) -> list[dict]:
    return [document for document in documents if document["kind"] in kinds]


def pod_of(document: dict) -> dict | None:
    """The pod template of a workload, or a pod itself."""
    match document["kind"]:
        case "Pod":
            return document
        case "CronJob":
            return document["spec"]["jobTemplate"]["spec"]["template"]
        case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
            return document["spec"]["template"]
    return None


def pods(documents) -> list[tuple[dict, dict]]:
    """(workload, pod) of whatever runs."""
    return [(document, pod) for document in documents if (pod := pod_of(document))]
