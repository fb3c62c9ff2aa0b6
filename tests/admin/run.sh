#!/usr/bin/env bash
# run.sh TOLLGATE    lets schemathesis try what the OpenAPI document of the admin API promises on a gateway.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# One for each list of requirements, so that a new one is installed.
venv=${XDG_CACHE_HOME:-$HOME/.cache}/tollgate-ci/venv-$(sha256sum "$here/requirements.txt" | cut -c1-12)
if [ ! -e "$venv/ready" ]; then
  python3 -m venv "$venv" 2>/dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null && python3 -m venv "$venv"; }
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  touch "$venv/ready"
fi
exec "$venv/bin/python" "$here/probe.py" "$venv/bin/schemathesis" "$1"
