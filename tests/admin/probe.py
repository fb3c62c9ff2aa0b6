"""Starts a gateway and lets schemathesis try its admin API: every request that the OpenAPI document
allows is taken, every other one is refused, and every answer is one that the document has.

    probe.py SCHEMATHESIS TOLLGATE [OPTION OF SCHEMATHESIS...]"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOKEN = "probe-admin-token-8d21f7"
EXAMPLES = "25"
SEED = "7"

CONFIG = f"""
gateway: {{ listen: ["127.0.0.1:0"] }}
# Whether a token is needed is tried as often as all the rest: no answer may be that it was too often.
admin: {{ listen: "127.0.0.1:0", token: {TOKEN}, requests_per_minute: 1000000, failed_tokens_per_minute: 1000000 }}
metrics: {{ listen: "127.0.0.1:0" }}
store: {{ directory: store }}
prices: prices.yaml
upstreams: [{{ name: nobody, base_url: "http://127.0.0.1:9/v1", api_key: sk-probe, check: connect }}]
"""
PRICES = """
version: probe
models: { gpt-4o-mini: { input: "0.15", output: "0.60", max_output_tokens: 16384 } }
"""


def serve(tollgate, folder):
    """A gateway, and where its admin API is."""
    (folder / "tollgate.yaml").write_text(CONFIG)
    (folder / "prices.yaml").write_text(PRICES)
    command = [tollgate, "serve", "--config", str(folder / "tollgate.yaml")]
    gateway = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in gateway.stdout:
        told = json.loads(line)
        if told.get("message") == "serving":
            # The rest of its log is read, so that it never waits for a reader.
            threading.Thread(target=gateway.stdout.read, daemon=True).start()
            return gateway, "http://" + told["admin"]
    sys.exit("the gateway does not serve")


def main():
    schemathesis, tollgate, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        document = folder / "openapi.json"
        document.write_text(subprocess.run([tollgate, "openapi"], check=True, capture_output=True, text=True).stdout)
        gateway, admin = serve(tollgate, folder)
        try:
            tried = subprocess.run(
                [schemathesis, "--config-file", str(HERE / "schemathesis.toml"), "run", str(document)]
                + ["--url", admin, "--header", f"Authorization: Bearer {TOKEN}"]
                + ["--max-examples", EXAMPLES, "--seed", SEED, *options],
                cwd=folder,
                env={**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis")},
            )
            if gateway.poll() is not None:
                sys.exit("the gateway has ended")
        finally:
            gateway.kill()
            gateway.wait()
    sys.exit(tried.returncode)


main()
