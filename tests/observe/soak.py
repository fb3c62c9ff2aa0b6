"""Loads a gateway for long, and holds its memory, its file handles and its ledger against time.

    soak.py TOLLGATE [--minutes 30] [--rate 300] [--json]

One line a minute; exits with 1 when something grows that should not, a request failed, or the
ledger does not hold one charge for each answer. Nothing but the standard library."""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from observe import TOKEN, Gateway, Processes

CONNECTIONS = 48
# Of what a gateway has after the first fifth of the run: caches are warm then, and pools are full.
GROWTH_MAX = 1.10
# Memory that may come on top: of an answer's record the ledger keeps a few bytes.
SLACK_KIB = 16 * 1024
HANDLES_SLACK = CONNECTIONS
# A client that hangs up does so while its stream is under way.
HANG_UP_SECONDS = 0.05


class Turn:
    """What the next request is: each kind comes round at its own pace."""

    def __init__(self, number):
        self.stream = number % 2 == 0
        self.hangs_up = number % 19 == 0 and self.stream
        self.unknown = number % 23 == 0 and not self.stream
        self.missing = number % 11 == 0

    def expected(self):
        return 404 if self.unknown else 200

    def body(self):
        metadata = {"simulate_usage": "missing"} if self.missing else {}
        return {
            "model": "nobody-sells-this" if self.unknown else "gpt-4o-mini",
            "messages": [{"role": "user", "content": "Say this is a test. " * (1 + 7 * self.missing)}],
            "stream": self.stream,
            "metadata": metadata,
        }


class Load:
    def __init__(self, address, key, rate):
        self.host, port = address.rsplit(":", 1)
        self.port, self.key, self.pause = int(port), key, CONNECTIONS / rate
        self.answered = self.left = self.refused = 0
        self.failed = []

    async def connection(self, number, until):
        turn, wire = number, None
        while time.monotonic() < until:
            begun = time.monotonic()
            turn += CONNECTIONS + 1
            wire = wire or await asyncio.open_connection(self.host, self.port)
            try:
                kept = await self.exchange(Turn(turn), *wire)
            except (OSError, asyncio.IncompleteReadError, ValueError, IndexError) as why:
                self.failed.append(repr(why))
                kept = False
            if not kept:
                wire[1].close()
                wire = None
            await asyncio.sleep(max(0.0, self.pause - (time.monotonic() - begun)))
        if wire:
            wire[1].close()

    async def exchange(self, turn, reader, writer):
        body = json.dumps(turn.body()).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json\r\n"
            + f"authorization: Bearer {self.key}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        header = await reader.readuntil(b"\r\n\r\n")
        status = int(header.split(b" ", 2)[1])
        if status != turn.expected():
            raise ValueError(f"status {status}")
        if turn.hangs_up:
            await asyncio.sleep(HANG_UP_SECONDS)
            self.left += 1
            return False
        lines = header.lower().split(b"\r\n")
        length = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
        if length:
            await reader.readexactly(length[0])
        else:
            await self.chunks(reader)
        self.answered += status == 200
        self.refused += status != 200
        return b"connection: close" not in lines

    @staticmethod
    async def chunks(reader):
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)

    async def run(self, seconds, look):
        until = time.monotonic() + seconds
        watching = asyncio.create_task(look(until))
        await asyncio.gather(*(self.connection(number, until) for number in range(CONNECTIONS)))
        await watching


class Watch:
    """Samples of a process, as the kernel has them."""

    def __init__(self, pid, load, tell):
        self.proc, self.load, self.tell = Path(f"/proc/{pid}"), load, tell
        self.samples = []

    def sample(self):
        status = dict(
            line.split(":", 1) for line in (self.proc / "status").read_text().splitlines() if ":" in line
        )
        handles = sum(1 for _ in (self.proc / "fd").iterdir())
        return {"rss_kib": int(status["VmRSS"].split()[0]), "handles": handles}

    async def look(self, until):
        begun = told = time.monotonic()
        while time.monotonic() < until:
            await asyncio.sleep(1)
            self.samples.append(self.sample())
            if time.monotonic() - told >= 60:
                told += 60
                now = self.samples[-1]
                self.tell(
                    f"{round((told - begun) / 60):>4} min {now['rss_kib'] // 1024:>5} MiB {now['handles']:>5} "
                    f"handles {self.load.answered:>9} answers {len(self.load.failed):>3} failed"
                )

    def growth(self, what):
        """Of the last fifth over the second, each by its median."""
        fifth = max(1, len(self.samples) // 5)
        early, late = self.samples[fifth : 2 * fifth], self.samples[-fifth:]
        return tuple(statistics.median(sample[what] for sample in part) for part in (early, late))


def verified(tollgate, gateway):
    command = [tollgate, "ledger", "verify", "--json", "--admin", gateway.admin.removesuffix("/admin/v1")]
    done = subprocess.run(command, env={"TOLLGATE_ADMIN_TOKEN": TOKEN}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"ledger verify: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("tollgate", type=Path)
    options.add_argument("--minutes", type=float, default=30)
    options.add_argument("--rate", type=float, default=300)
    options.add_argument("--json", action="store_true")
    options = options.parse_args()
    tollgate = str(options.tollgate.resolve())
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(Path(folder))
        try:
            gateway = Gateway(processes, tollgate)
            load = Load(gateway.url.removeprefix("http://"), gateway.customer("1000000"), options.rate)
            watch = Watch(processes.all[-1].pid, load, (lambda _: None) if options.json else print)
            asyncio.run(load.run(options.minutes * 60, watch.look))
            time.sleep(2)  # what clients left is settled
            ledger = verified(tollgate, gateway)
        finally:
            processes.end()
    (rss, rss_late), (handles, handles_late) = watch.growth("rss_kib"), watch.growth("handles")
    charged = load.answered <= ledger["captures"] <= load.answered + load.left
    told = {
        "minutes": options.minutes,
        "answers": load.answered,
        "hung_up": load.left,
        "refused": load.refused,
        "failed": load.failed[:5],
        "captures": ledger["captures"],
        "open_holds": ledger["open_holds"],
        "rss_kib": [rss, rss_late],
        "handles": [handles, handles_late],
    }
    flat = rss_late <= rss * GROWTH_MAX + SLACK_KIB and handles_late <= handles + HANDLES_SLACK
    good = flat and charged and not load.failed and ledger["open_holds"] == 0
    if options.json:
        print(json.dumps(told))
    else:
        print(
            f"{load.answered} answers, {load.left} hung up, {load.refused} refused, {len(load.failed)} failed; "
            f"{ledger['captures']} captures, {ledger['open_holds']} open holds\n"
            f"memory {rss / 1024:.1f} -> {rss_late / 1024:.1f} MiB, handles {handles:.0f} -> {handles_late:.0f}: "
            + ("flat" if good else f"not good {told['failed']}")
        )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
