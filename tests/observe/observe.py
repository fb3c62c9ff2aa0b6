"""Runs a gateway under load with a real Prometheus beside it, and looks at what an operator would see:
every panel of the dashboard and every alert has data, and a scrape is quick.

    observe.py TOLLGATE [--draw FILE.svg]

Nothing but the standard library; `--draw` needs matplotlib."""

import json
import math
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "observe-admin-token-5b1c0d"
SCRAPE_SECONDS_MAX = 0.050
LOADED_SECONDS = 30
PATIENCE_SECONDS = 30

PRICES = """
version: observe
models:
  gpt-4o-mini: { input: "0.15", cached_input: "0.075", output: "0.60", max_output_tokens: 16384 }
  gpt-4o: { input: "2.5", cached_input: "1.25", output: "10", max_output_tokens: 16384 }
"""
CONFIG = """
gateway: {{ listen: ["127.0.0.1:0"] }}
admin: {{ listen: "127.0.0.1:0", token: {token} }}
metrics: {{ listen: "127.0.0.1:0" }}
store: {{ directory: store }}
prices: prices.yaml
meter: {{ compare_one_in: 1 }}
upstreams:
  - {{ name: openai-1, base_url: "http://{good}/v1", api_key: sk-1, weight: 3 }}
  - {{ name: openai-2, base_url: "http://{bad}/v1", api_key: sk-2 }}
"""


def say(text):
    print(text, flush=True)


def fetch(url, body=None, key=None):
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


def eventually(what, look):
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        seen = look()
        if seen:
            return seen
        time.sleep(0.1)
    sys.exit(f"not in time: {what}")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Processes:
    """What was started here, and nothing else, is ended here."""

    def __init__(self, folder):
        self.folder = folder
        self.all = []

    def start(self, name, *arguments):
        log = open(self.folder / f"{name}.log", "wb")
        self.all.append(subprocess.Popen(arguments, stdout=log, stderr=log, cwd=self.folder))

    def says(self, name, pattern):
        log = self.folder / f"{name}.log"
        return eventually(f"{name} says {pattern}", lambda: re.search(pattern, log.read_text()))

    def end(self):
        for process in self.all:
            process.terminate()
        for process in self.all:
            process.wait(timeout=PATIENCE_SECONDS)


class Gateway:
    def __init__(self, processes, tollgate):
        folder = processes.folder
        for name, more in (("good", ["--latency-ms", "20"]), ("bad", ["--error-ppm", "100000"])):
            processes.start(name, tollgate, "simulate", "--listen", "127.0.0.1:0", "--pace-ms", "10", *more)
        good, bad = (processes.says(name, r"http://([\d.:]+)/v1")[1] for name in ("good", "bad"))
        (folder / "prices.yaml").write_text(PRICES)
        (folder / "tollgate.yaml").write_text(CONFIG.format(token=TOKEN, good=good, bad=bad))
        processes.start("gateway", tollgate, "serve", "--config", "tollgate.yaml")
        serving = json.loads(processes.says("gateway", r'\{.*"message":"serving".*\}')[0])
        self.url = "http://" + serving["gateway"].strip("[]")
        self.metrics = serving["metrics"]
        self.admin = f"http://{serving['admin']}/admin/v1"

    def customer(self, credit):
        def post(path, body):
            status, answer = fetch(self.admin + path, body, TOKEN)
            assert status in (200, 201), (path, status, answer)
            return json.loads(answer)

        customer = post("/customers", {"name": "Ada"})["id"]
        if credit:
            post("/deposits", {"customer": customer, "amount": credit, "reference": "observe"})
        return post("/keys", {"customer": customer, "name": "observe"})["key"]


class Load:
    """Plain and streamed requests for two models; some are refused, some fail at first."""

    def __init__(self, gateway, rich, poor):
        self.gateway, self.rich, self.poor = gateway, rich, poor
        self.stopped = threading.Event()
        self.statuses = {}
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.run, args=(number,)) for number in range(8)]

    def run(self, number):
        turn = number
        while not self.stopped.is_set():
            turn += 1
            body = {
                "model": "gpt-4o" if turn % 5 == 0 else "gpt-4o-mini",
                "messages": [{"role": "user", "content": "Say this is a test."}],
                "stream": turn % 2 == 0,
                "metadata": {"simulate_cached_tokens": "4", "simulate_reasoning_tokens": "2"},
            }
            if turn % 11 == 0:
                body["metadata"]["simulate_usage"] = "missing"
            if turn % 13 == 0:
                body["model"] = "nobody-sells-this"
            key = self.poor if turn % 17 == 0 else self.rich
            status, _ = fetch(self.gateway.url + "/v1/chat/completions", body, key)
            with self.lock:
                self.statuses[status] = self.statuses.get(status, 0) + 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


class Prometheus:
    def __init__(self, processes, target):
        folder = processes.folder
        scrape = (ROOT / "conf/prometheus/scrape.yml").read_text()
        assert '"127.0.0.1:9190"' in scrape and "15s" in scrape
        scrape = scrape.replace('"127.0.0.1:9190"', f'"{target}"').replace("15s", "1s")
        (folder / "scrape.yml").write_text(scrape)
        (folder / "alerts.yml").write_text((ROOT / "conf/prometheus/alerts.yml").read_text())
        address = f"127.0.0.1:{free_port()}"
        processes.start(
            "prometheus",
            "prometheus",
            "--config.file=scrape.yml",
            "--storage.tsdb.path=tsdb",
            f"--web.listen-address={address}",
        )
        self.url = f"http://{address}/api/v1"
        eventually("Prometheus is ready", lambda: self.is_ready(address))

    @staticmethod
    def is_ready(address):
        try:
            return fetch(f"http://{address}/-/ready")[0] == 200
        except OSError:
            return False

    def get(self, path, **parameters):
        status, answer = fetch(f"{self.url}/{path}?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(answer)
        assert status == 200 and answer["status"] == "success", (path, parameters, answer)
        return answer["data"]

    def range(self, expression, begun):
        data = self.get("query_range", query=expression, start=begun, end=time.time(), step=1)
        return [(series["metric"], points(series["values"])) for series in data["result"]]


def points(values):
    numbers = ((float(at), float(value)) for at, value in values)
    return [(at, value) for at, value in numbers if math.isfinite(value)]


def expression_of(panel_expression):
    """What Grafana would send: all instances, models and accounts, over a short interval."""
    filled = panel_expression.replace("$__rate_interval", "5s").replace("$__interval", "5s")
    filled = re.sub(r"\$(instance|model|upstream)\b", ".*", filled)
    assert "$" not in filled, filled
    return filled


def look_at_panels(prometheus, begun):
    """Each panel with the series of each of its queries; all have data."""
    dashboard = json.loads((ROOT / "conf/grafana/tollgate.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(panels) >= 15 and len(set(ids)) == len(ids), ids
    shown, empty = [], []
    for panel in panels:
        series = []
        for target in panel["targets"]:
            found = prometheus.range(expression_of(target["expr"]), begun)
            if not any(values for _, values in found):
                empty.append(f"{panel['title']}: {target['expr']}")
            series += [(target["legendFormat"], labels, values) for labels, values in found if values]
        shown.append((panel, series))
    assert not empty, "panels without data:\n" + "\n".join(empty)
    say(f"{len(panels)} panels, {sum(len(panel['targets']) for panel in panels)} queries: all have data")
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"]).groups()
            values = prometheus.get(f"label/{label}/values", **{"match[]": metric})
            assert values, variable["name"]
    return shown


def look_at_alerts(prometheus):
    """Each alert is evaluated, and what it looks at is there: its names are not misspelt."""
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) >= 10 and all(rule["health"] == "ok" for rule in rules), rules
    names = {name for rule in rules for name in re.findall(r"tollgate_\w+|up(?=\{)", rule["query"])}
    for name in names:
        assert prometheus.get("query", query=f"count({name})")["result"], f"there is no {name}"
    say(f"{len(rules)} alerts over {len(names)} metrics: all there")


def look_at_scrapes(prometheus, begun):
    [(_, values)] = prometheus.range('scrape_duration_seconds{job="tollgate"}', begun)
    seconds = sorted(value for _, value in values)
    middle, most = seconds[len(seconds) // 2], seconds[-1]
    say(f"{len(seconds)} scrapes: {middle * 1000:.1f} ms in the middle, {most * 1000:.1f} ms at most")
    assert len(seconds) >= 10 and middle < SCRAPE_SECONDS_MAX, seconds


def main():
    tollgate = os.path.abspath(sys.argv[1])
    draw = sys.argv[3] if sys.argv[2:3] == ["--draw"] else None
    with tempfile.TemporaryDirectory(prefix="tollgate-observe-") as folder:
        processes = Processes(Path(folder))
        try:
            gateway = Gateway(processes, tollgate)
            prometheus = Prometheus(processes, gateway.metrics)
            begun = time.time()
            with Load(gateway, gateway.customer("25.00"), gateway.customer("")) as load:
                time.sleep(LOADED_SECONDS)
                shown = look_at_panels(prometheus, begun)
                look_at_alerts(prometheus)
                look_at_scrapes(prometheus, begun)
            say(f"answers by status: {dict(sorted(load.statuses.items()))}")
            assert {200, 402, 404} <= load.statuses.keys(), load.statuses
            if draw:
                from draw import draw_panels

                draw_panels(shown, draw)
        except BaseException:
            for log in Path(folder).glob("*.log"):
                say(f"== {log.name}\n{log.read_text()[-2000:]}")
            raise
        finally:
            processes.end()


if __name__ == "__main__":
    main()
