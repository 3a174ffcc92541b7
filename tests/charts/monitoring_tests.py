"""Dashboards and alerts: well-formed, with runbooks, and asked of promtool."""
import json
import re
import subprocess
import tempfile
from pathlib import Path

import yaml

from chart import CHART, ROOT, of_kind, rendered
from suite import case, nothing

ALERTS = CHART / "alerts/mlms.yaml"
DASHBOARDS = sorted(CHART.glob("dashboards/*.json"))
RUNBOOKS = ROOT / "docs/runbooks"


def alerts() -> list[dict]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels(dashboard: Path) -> list[dict]:
    return [panel for panel in json.loads(dashboard.read_text())["panels"] if panel["type"] != "row"]


def queries() -> list[tuple[str, str]]:
    """(where, expression) of every query of dashboards, alerts and KEDA."""
    found = [(f"{path.name}, {panel['title']}", target["expr"]) for path in DASHBOARDS for panel in panels(path) for target in panel["targets"]]
    found += [(rule["alert"], rule["expr"]) for rule in alerts()]
    for document in of_kind(rendered(CHART / "ci/keda-values.yaml"), "ScaledObject"):
        found += [(document["metadata"]["name"], trigger["metadata"]["query"]) for trigger in document["spec"]["triggers"] if trigger["type"] == "prometheus"]
    return found


def metrics_of_expression(expression: str) -> set[str]:
    return set(re.findall(r"\b((?:mlms|process)_\w+)", expression))


def promtool(*arguments: object) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@case("promtool accepts the alerts, and they fire when they should and not else")
def rules() -> None:
    promtool("check", "rules", ALERTS)
    promtool("test", "rules", CHART / "alerts/mlms_test.yaml")
    tested = (CHART / "alerts/mlms_test.yaml").read_text()
    nothing([f"{rule['alert']} has no test" for rule in alerts() if rule["alert"] not in tested])


@case("the PrometheusRule holds exactly the alerts of the file")
def rendered_rules() -> None:
    (document,) = of_kind(rendered(CHART / "ci/autoscaled-values.yaml"), "PrometheusRule")
    given = [rule for group in document["spec"]["groups"] for rule in group["rules"]]
    for rule in given:
        rule["annotations"]["runbook_url"] = rule["annotations"]["runbook_url"].removeprefix("https://example.com/mlms/")
    assert given == alerts()


@case("every alert says how bad it is, what it is, and where its runbook lies")
def runbooks() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert rule["annotations"]["summary"] and rule["annotations"]["description"], rule["alert"]
        page = ROOT / rule["annotations"]["runbook_url"]
        assert page.is_file(), f"{rule['alert']}: {page} does not exist"
        assert rule["alert"] in page.read_text(), f"{page.name} does not name {rule['alert']}"
    index = (RUNBOOKS / "README.md").read_text()
    nothing([f"{page.name} is not in the index" for page in RUNBOOKS.glob("*.md") if page.name != "README.md" and page.name not in index])


@case("the runbooks that dashboards name exist")
def linked() -> None:
    for path in DASHBOARDS:
        for name in re.findall(r"docs/runbooks/[\w.-]+\.md", path.read_text()):
            assert (ROOT / name).is_file(), f"{path.name} names {name}"


@case("promtool can read every query of the dashboards")
def expressions() -> None:
    rules = []
    for number, (_, expression) in enumerate(queries()):
        plain = expression.replace("$__rate_interval", "5m").replace("$namespace", "games").replace("$pod", ".*")
        rules.append({"record": f"query:{number}", "expr": plain})
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}, file)
        file.flush()
        promtool("check", "rules", file.name)


@case("dashboards are whole: titles, descriptions, units, the chosen namespace and pods, no panel upon another")
def dashboards() -> None:
    assert len(DASHBOARDS) >= 2
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        assert dashboard["uid"] == path.stem
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken and place["x"] + place["w"] <= 24, f"{path.name}: {panel['title']}"
            taken |= cells
        for panel in panels(path):
            assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            for target in panel["targets"]:
                for selector in re.findall(r"\{([^}]*)\}", target["expr"]):
                    assert '$namespace' in selector and "$pod" in selector, f"{panel['title']}: {target['expr']}"
