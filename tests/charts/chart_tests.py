"""What the chart renders: accepted by both Helms, valid for the oldest and the newest Kubernetes, whole in itself."""
import base64
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

import references
import schemas
from chart import CHART, HELMS, ROOT, VALUES, helm, of_kind, parse, pods, rendered, template, title
from suite import case, nothing


@case("there are at least six values files, and both Helms find nothing to say about the chart with any of them")
def lint() -> None:
    assert len(VALUES) >= 6, VALUES
    for version in HELMS:
        for values in VALUES:
            said = helm(version, "lint", "--strict", CHART, "--values", values)
            # The one remark left is that a chart may have a picture.
            remarks = [line for line in said.splitlines() if line.startswith("[") and "icon is recommended" not in line]
            nothing(remarks)


def without_secrets(documents) -> list:
    """In a fixed order, and without what is made at random at every rendering."""
    plain = [{**document, "data": sorted(document["data"])} if document["kind"] == "Secret" else document for document in documents]
    return sorted(plain, key=lambda document: (title(document), document["kind"]))


@case("Helm 3 and Helm 4 render the same objects")
def same() -> None:
    for values in VALUES:
        old, new = (without_secrets(rendered(values, version)) for version in HELMS)
        assert old == new, f"{values.name}: {[title(a) for a, b in zip(old, new, strict=False) if a != b]}"


@case("every object is valid for the oldest and the newest Kubernetes")
def valid() -> None:
    nothing([
        f"{values.name}: {problem}"
        for values in VALUES
        for version in (schemas.OLDEST, schemas.NEWEST)
        for document in rendered(values)
        for problem in schemas.problems(document, version)
    ])
    assert f'kubeVersion: ">={schemas.OLDEST}.0-0"' in (CHART / "Chart.yaml").read_text()


@case("whatever an object names exists, and says the same")
def whole() -> None:
    nothing([f"{values.name}: {problem}" for values in VALUES for problem in references.problems(rendered(values))])


@case("a long name is cut short enough for every object, and all its objects still fit together")
def long_name() -> None:
    for name in ("a-name-that-is-longer-than-most-people-would-ever-want", "x"):
        nothing(references.problems(template("helm4", "--values", CHART / "ci/trial-values.yaml", "--set", f"fullnameOverride={name}")))


@case("the chart may be a part of another one, which turns it on and off")
def part() -> None:
    with tempfile.TemporaryDirectory() as folder:
        around = Path(folder, "around")
        shutil.copytree(CHART, around / "charts/mlms")
        version = re.search(r"^version: (\S+)", (CHART / "Chart.yaml").read_text(), re.MULTILINE)[1]
        (around / "Chart.yaml").write_text(f"apiVersion: v2\nname: around\nversion: 0.1.0\ndependencies: [{{name: mlms, version: {version}, condition: mlms.enabled}}]\n")
        own = yaml.safe_load((CHART / "ci/trial-values.yaml").read_text())
        for helm_version in HELMS:
            for enabled in (True, False):
                (around / "values.yaml").write_text(yaml.safe_dump({"global": {"team": "games"}, "mlms": {**own, "enabled": enabled}}))
                assert bool(template(helm_version, chart=around)) == enabled


@case("the values files together make every kind of object and turn every switch")
def everything() -> None:
    kinds = {document["kind"] for values in VALUES for document in rendered(values)}
    wanted = {
        "Deployment", "StatefulSet", "Job", "CronJob", "Service", "Ingress", "HTTPRoute", "HorizontalPodAutoscaler", "ScaledObject",
        "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor", "PrometheusRule", "ConfigMap", "Secret", "ServiceAccount", "Pod",
    }
    assert kinds == wanted, kinds ^ wanted


@case("a budget lets one pod go at a time, and never keeps a sick one")
def budgets() -> None:
    for values in VALUES:
        for document in of_kind(rendered(values), "PodDisruptionBudget"):
            assert document["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow", title(document)
            assert document["spec"]["maxUnavailable"] == 1, title(document)


@case("autoscalers grow at once and shrink one pod at a time after ten minutes")
def behaviour() -> None:
    for values in VALUES:
        for document in of_kind(rendered(values), "HorizontalPodAutoscaler", "ScaledObject"):
            spec = document["spec"]
            how = spec.get("behavior") or spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
            assert how["scaleUp"]["stabilizationWindowSeconds"] == 0
            assert how["scaleDown"]["stabilizationWindowSeconds"] == 600
            assert [policy["value"] for policy in how["scaleDown"]["policies"]] == [1]


@case("a changed setting is another pod, an unchanged one is not")
def checksums() -> None:
    def pod(*more: str) -> dict:
        documents = template("helm4", "--values", CHART / "ci/urls-values.yaml", *more)
        return next(pod for document, pod in pods(documents) if document["metadata"]["name"] == "play-broker")

    assert pod() == pod()
    live = ("config.limits.chats_per_s=21", "config.log.filter=debug", "config.maintenance.enabled=true", "config.lobby.word_filter={spam}", "config.trace.sample_ratio=1")
    for change in live:
        assert pod()["metadata"]["annotations"] == pod("--set", change)["metadata"]["annotations"], f"{change} is taken up without a new pod"
    for change in ("config.heartbeat_ms=9000", "config.limits.connections_per_address_max=9", "config.log.format=json", "config.lobby.grace_seconds=8", "config.trace.otlp_url=http://collector:4318", "redis.url=redis://elsewhere:6379"):
        assert pod()["metadata"]["annotations"] != pod("--set", change)["metadata"]["annotations"], change


@case("a secret of somebody else's appears nowhere, and one of the values only in Secrets")
def secrets() -> None:
    for values in VALUES:
        documents = rendered(values)
        hidden = [base64.b64decode(text).decode() for document in of_kind(documents, "Secret") for text in document["data"].values()]
        for document in documents:
            if document["kind"] != "Secret":
                nothing([f"{values.name}: {title(document)} shows a secret" for secret in hidden if secret in str(document)])
        if "existingSecret" in values.read_text() and "url:" not in values.read_text():
            assert not of_kind(documents, "Secret"), values.name


@case("what minikube's scripts install and start is valid, and whole in itself")
def minikube() -> None:
    documents = template("helm4", "--values", ROOT / "minikube/values.yaml", "--set", "image.tag=abc1234")
    (job,) = parse((ROOT / "minikube/loadtest.yaml").read_text().replace("@IMAGE@", "mlms:abc1234").replace("@RELEASE@", "t"))
    for version in (schemas.OLDEST, schemas.NEWEST):
        nothing([problem for document in [*documents, job] for problem in schemas.problems(document, version)])
    nothing(references.problems(documents))
    # The load test asks a Service and a Secret of the release.
    container = job["spec"]["template"]["spec"]["containers"][0]
    service = next(document for document in of_kind(documents, "Service") if document["metadata"]["name"] == "t-mlms-broker")
    assert container["args"][-1] == f"ws://t-mlms-broker:{service['spec']['ports'][0]['port']}", container["args"]
    secret = next(document for document in of_kind(documents, "Secret") if document["metadata"]["name"] == "t-mlms")
    named = container["env"][0]["valueFrom"]["secretKeyRef"]
    assert named["name"] == secret["metadata"]["name"] and named["key"] in secret["data"]


@case("the schema of the settings and the table of values in the README are up to date")
def generated() -> None:
    done = subprocess.run([sys.executable, ROOT / "tests/charts/generate.py", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@case("notes name the next command")
def notes() -> None:
    # Without a cluster Helm shows no notes: they are rendered as the field of an object.
    with tempfile.TemporaryDirectory() as folder:
        chart = Path(shutil.copytree(CHART, Path(folder) / "mlms"))
        page = chart / "templates/NOTES.txt"
        text = '{{ define "notes" }}' + page.read_text() + '{{ end }}kind: Notes\nmetadata: {name: notes}\ntext: {{ include "notes" . | quote }}\n'
        (chart / "templates/notes.yaml").write_text(text)
        for version in HELMS:
            for values in VALUES:
                (said,) = of_kind(template(version, "--values", values, "--show-only", "templates/notes.yaml", chart=chart), "Notes")
                for words in ("rollout status", "helm test t -n games"):
                    assert words in said["text"], f"{version} {values.name}: {words}"


@case("the Dockerfile builds packages that exist, with a compiler that is new enough, into an image without a shell or root")
def dockerfile() -> None:
    text = (ROOT / "Dockerfile").read_text()
    metadata = subprocess.run(["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"], cwd=ROOT, capture_output=True, text=True, check=True)
    packages = {package["name"]: package for package in json.loads(metadata.stdout)["packages"]}
    for name in re.findall(r"--package (\S+)", text):
        assert name in packages, f"there is no package {name}"
        binaries = {target["name"] for target in packages[name]["targets"] if "bin" in target["kind"]}
        assert any(f'/dist/{binary}"' in text for binary in binaries), f"nothing of {name} is copied"
    wanted, given = (tuple(map(int, version.split(".")[:2])) for version in (packages["mlms"]["rust_version"], re.search(r"RUST_VERSION=(\S+)", text)[1]))
    assert given >= wanted, f"the compiler is {given}, the packages want {wanted}"
    assert "[profile.dist]" in (ROOT / "Cargo.toml").read_text()
    final = text[text.rindex("\nFROM "):]
    assert final.startswith("\nFROM scratch"), final
    assert "\nUSER 65532:65532" in final and '\nENTRYPOINT ["/mlms"]' in final and "RUN" not in final
    # What the build needs is not left out of its context.
    ignored = (ROOT / ".dockerignore").read_text()
    for package in packages.values():
        folder = Path(package["manifest_path"]).parent.relative_to(ROOT)
        assert f"!{folder}\n" in ignored, f"{folder} is not in the context"


@case("the image's user is the pods' user, and whatever the pods start is in it")
def image() -> None:
    text = (ROOT / "Dockerfile").read_text()
    for values in VALUES:
        for document, pod in pods(rendered(values)):
            for container in pod["spec"]["containers"]:
                if "mlms" in container["image"]:
                    assert pod["spec"]["securityContext"]["runAsUser"] == 65532, title(document)
                    for program in container.get("command", []):
                        assert f'/dist{program}"' in text, f"{title(document)} starts {program}"
