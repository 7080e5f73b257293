#!/bin/sh
# Make .venv hold exactly what locks/dev.txt pins, and the two distributions in editable form. Quick when nothing changed.
set -eu
cd "$(dirname "$0")/.."
stamp=.venv/.milepost-lock
want=$(cat locks/dev.txt operator/pyproject.toml runner-image/pyproject.toml tools/bootstrap.sh | sha256sum | cut -d' ' -f1)
[ "$(cat $stamp 2>/dev/null || true)" = "$want" ] && exit 0
if command -v uv >/dev/null 2>&1; then uv=uv; else
  echo "installing uv into .tools"
  [ -x .tools/bin/python ] || python3 -m venv .tools
  .tools/bin/python -m pip install --quiet "uv==0.13.8"
  uv=.tools/bin/uv
fi
echo "installing the pinned packages into .venv"
"$uv" venv --quiet --allow-existing --no-python-downloads --python ">=3.11,<3.12" .venv
"$uv" pip sync --quiet --require-hashes --python .venv/bin/python locks/dev.txt
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e runner-image -e operator
echo "$want" > $stamp
