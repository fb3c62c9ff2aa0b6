#!/usr/bin/env bash
# run.sh TOLLGATE    drives the official clients of OpenAI (Python and Node) and Anthropic against a gateway with the simulated provider.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tollgate-ci
# One for each list of requirements, so that a new one is installed.
venv=$cache/venv-$(sha256sum "$here/requirements.txt" | cut -c1-12)
if [ ! -e "$venv/ready" ]; then
  python3 -m venv "$venv" 2>/dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null && python3 -m venv "$venv"; }
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  touch "$venv/ready"
fi
modules=$cache/node-$(sha256sum "$here/package-lock.json" | cut -c1-12)
if [ ! -e "$modules/ready" ]; then
  command -v npm >/dev/null || { apt-get update -qq && apt-get install -y -qq nodejs npm >/dev/null; }
  mkdir -p "$modules"
  cp "$here/package.json" "$here/package-lock.json" "$modules"
  npm ci --prefix "$modules" --silent --no-audit --no-fund
  touch "$modules/ready"
fi
exec "$venv/bin/python" "$here/openai_client.py" "$1" "$modules"
