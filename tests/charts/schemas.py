"""Objects against the schemas of Kubernetes, strictly; custom ones against those in charts/schemas."""
import functools
import json

import jsonschema
import kubernetes_validate

from chart import SCHEMAS, title

# The chart's kubeVersion says the oldest; the newest is the newest that kubernetes-validate knows.
OLDEST, NEWEST = "1.30", "1.37"


@functools.cache
def custom() -> dict[str, jsonschema.Draft7Validator]:
    schemas = [json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")]
    return {schema["title"]: jsonschema.Draft7Validator(schema) for schema in schemas}


def problems(document: dict, version: str) -> list[str]:
    return _problems(json.dumps(document, sort_keys=True), version)


# Most objects are the same in several renderings, and validating one takes a while.
@functools.cache
def _problems(text: str, version: str) -> list[str]:
    document = json.loads(text)
    if (validator := custom().get(document.get("kind"))) is not None:
        found = sorted(validator.iter_errors(document), key=lambda error: list(map(str, error.path)))
        return [f"{title(document)}: {'.'.join(map(str, error.path))}: {error.message[:200]}" for error in found]
    try:
        # An unknown kind is an error too: SchemaNotFoundError.
        kubernetes_validate.validate(document, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [f"{title(document)} on {version}: {str(error)[:300]}"]
    return []
