"""The official `openai` and `anthropic` packages against `tollgate serve` and the simulated provider.

openai_client.py TOLLGATE MODULES    starts both on free ports, drives them, has openai_client.mjs do the same with
the `openai` package of Node in MODULES, and holds every charge against the provider's own log. Ends
with 1 and says what differed if anything did.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from decimal import Decimal
from pathlib import Path

import anthropic
import httpx2 as httpx
import openai

TOKEN = "clients-admin-token-0123456789"
PRICES = """\
version: clients
models:
  sim-chat: { input: "0.15", cached_input: "0.075", output: "0.60", web_search: "0.01", max_output_tokens: 16384, batch: { input: "0.075", cached_input: "0.0375", output: "0.30" } }
  sim-embed: { input: "0.02" }
  sim-paint: { input: "5", image_input: "8", output: "30", max_output_tokens: 6000 }
  dall-e-3: { image: "0.04" }
  tts-1: { characters: "15" }
  sim-speak: { input: "0.6", output: "0.6", audio_output: "12", max_output_tokens: 2000 }
  whisper-1: { minute: "0.006" }
  sim-hear: { input: "2.5", audio_input: "6", output: "10", max_output_tokens: 2000, max_input_tokens: 16000 }
  omni-moderation-latest: { input: "0" }
"""
MILLION = Decimal(1_000_000)
# US dollars for a million of what is no text.
UNITS = {
    "sim-paint": {"input": 5, "image_input": 8, "image_output": 30},
    "dall-e-3": {"images": 40_000},
    "tts-1": {"characters": 15},
    "sim-speak": {"input": Decimal("0.6"), "audio_output": 12},
    "whisper-1": {"seconds": 100},
    "sim-hear": {"input": Decimal("2.5"), "audio_input": 6, "output": 10},
}


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"openai_client.py: {what}: got {got!r}, wanted {wanted!r}")


class Stack:
    """A simulated provider and a gateway before it."""

    def __init__(self, tollgate, folder):
        self.tollgate = tollgate
        self.env = {**os.environ, "TOLLGATE_ADMIN_TOKEN": TOKEN}
        self.provider = subprocess.Popen([tollgate, "simulate", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
        line = self.provider.stdout.readline()
        self.provider_url = line.split("serves ")[1].split("/v1")[0]
        config = folder / "tollgate.yaml"
        (folder / "prices.yaml").write_text(PRICES)
        config.write_text(
            f"""\
gateway: {{ listen: ["127.0.0.1:0"] }}
admin: {{ listen: "127.0.0.1:0", token: "${{TOLLGATE_ADMIN_TOKEN}}" }}
metrics: {{ listen: "127.0.0.1:0" }}
store: {{ directory: store }}
prices: prices.yaml
upstreams:
  - {{ name: sim, base_url: "{self.provider_url}/v1", api_key: sk-sim }}
  - {{ name: sim-messages, dialect: anthropic, base_url: "{self.provider_url}/v1", api_key: sk-ant-sim, models: [sim-chat] }}
"""
        )
        self.store = folder / "store"
        self.gateway = subprocess.Popen(
            [tollgate, "serve", "--config", str(config)], stdout=subprocess.PIPE, text=True, env=self.env
        )
        for line in self.gateway.stdout:
            event = json.loads(line)
            if event.get("message") == "serving":
                break
        self.url = "http://" + event["gateway"].strip("[]").split(",")[0]
        self.env["TOLLGATE_ADMIN_URL"] = "http://" + event["admin"]

    def command(self, *words):
        done = subprocess.run([self.tollgate, *words, "--json"], env=self.env, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def served(self):
        with urllib.request.urlopen(self.provider_url + "/simulate/log") as answer:
            return [json.loads(line) for line in answer.read().decode().splitlines()]

    def stop(self):
        for process in (self.gateway, self.provider):
            process.send_signal(signal.SIGTERM)
        expect("the gateway's exit code", self.gateway.wait(30), 0)
        self.provider.wait(30)


def due_in_batch(served):
    uncached = served["prompt_tokens"] - served["cached_tokens"]
    amount = uncached * Decimal("0.075") + served["cached_tokens"] * Decimal("0.0375")
    return (amount + served["completion_tokens"] * Decimal("0.30")) / MILLION


def due(served):
    other = {unit: quantity for unit, quantity in served["other"].items() if quantity}
    if other:
        return sum(quantity * UNITS[served["model"]][unit] for unit, quantity in other.items()) / MILLION
    if served["path"] == "/v1/moderations":
        return Decimal(0)
    if served["path"] == "/v1/embeddings":
        return served["prompt_tokens"] * Decimal("0.02") / MILLION
    uncached = served["prompt_tokens"] - served["cached_tokens"]
    amount = uncached * Decimal("0.15") + served["cached_tokens"] * Decimal("0.075")
    return (amount + served["completion_tokens"] * Decimal("0.60")) / MILLION + served["searches"] * Decimal("0.01")


def drive_searches(client, claude, requests):
    """Web searches that the provider runs: two, and a page that is opened."""
    wanted = {"simulate_searches": "2"}
    tools = [{"type": "web_search"}]
    kinds = ["web_search_call"] * 3 + ["message"]
    ask = {"model": "sim-chat", "input": "Look it up.", "tools": tools, "metadata": wanted}
    raw = client.responses.with_raw_response.create(**ask)
    requests.append((raw.headers["x-request-id"], raw.headers["x-tollgate-charge"]))
    expect("the items of a response", [item.type for item in raw.parse().output], kinds)
    raw = client.responses.with_raw_response.create(stream=True, **ask)
    requests.append((raw.headers["x-request-id"], None))
    done = [event.item.type for event in raw.parse() if event.type == "response.output_item.done"]
    expect("the items of a stream", done, kinds)

    tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 1}]
    ask = {"model": "sim-chat", "max_tokens": 100, "tools": tools, "messages": [{"role": "user", "content": "Look it up."}]}
    raw = claude.messages.with_raw_response.create(extra_body={"metadata": wanted}, **ask)
    requests.append((raw.headers["x-request-id"], raw.headers["x-tollgate-charge"]))
    message = raw.parse()
    expect("the blocks of a message", [block.type for block in message.content], ["server_tool_use", "web_search_tool_result", "text"])
    expect("its searches", message.usage.server_tool_use.web_search_requests, 1)
    with claude.messages.stream(extra_body={"metadata": wanted}, **ask) as stream:
        expect("the searches of a stream", stream.get_final_message().usage.server_tool_use.web_search_requests, 1)


def drive_media(client, requests):
    def told(raw):
        requests.append((raw.headers["x-request-id"], raw.headers.get("x-tollgate-charge")))
        return raw.parse()

    pictures = client.images.with_raw_response
    for model in ("sim-paint", "dall-e-3"):
        expect("images", len(told(pictures.generate(model=model, prompt="a red fox", n=2)).data), 2)
    events = [event.type for event in told(pictures.generate(model="sim-paint", prompt="a fox", stream=True, partial_images=1))]
    expect("events of an image", events, ["image_generation.partial_image", "image_generation.completed"])
    drawn = [("fox.png", b"x" * 5_000, "image/png"), ("hen.png", b"y" * 70_000, "image/png")]
    edited = told(pictures.edit(model="sim-paint", prompt="a fox and a hen", image=drawn))
    expect("tokens of an edited image", edited.usage.input_tokens_details.image_tokens, 646)

    spoken = client.audio.speech.with_raw_response.create(model="tts-1", voice="alloy", input="Grüezi mitenand")
    expect("audio", len(told(spoken).content), 8_000)
    raw = client.audio.speech.with_raw_response.create(model="sim-speak", voice="alloy", input="Hello.", stream_format="sse")
    expect("the usage of speech", b"speech.audio.done" in told(raw).content, True)

    wave = ("a wave.wav", b"z" * 320_000, "audio/wav")
    heard = client.audio.transcriptions.with_raw_response
    expect("what was heard", told(heard.create(model="whisper-1", file=wave)).text, "tok0 tok1")
    expect("its length", told(heard.create(model="whisper-1", file=wave, response_format="verbose_json")).text, "tok0 tok1")
    events = [event.type for event in told(heard.create(model="sim-hear", file=wave, prompt="Ada", stream=True))]
    expect("events of what was heard", events, ["transcript.text.delta"] * 2 + ["transcript.text.done"])
    translated = client.audio.translations.with_raw_response.create(model="whisper-1", file=wave, response_format="verbose_json")
    expect("a translation", told(translated).text, "tok0 tok1")
    try:
        client.audio.translations.create(model="whisper-1", file=wave)
        sys.exit("openai_client.py: an answer that tells nothing was served")
    except openai.BadRequestError as refusal:
        expect("what is wrong", refusal.body["param"], "response_format")


def drive_batch(client):
    """Answers two requests in a batch; its file is put there and deleted. Tells the request that made it."""
    body = {"model": "sim-chat", "messages": [{"role": "user", "content": "Say it."}], "max_tokens": 50}
    lines = [{"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body} for name in ("one", "two")]
    text = "\n".join(json.dumps(line) for line in lines)
    file = client.files.create(file=("two.jsonl", text.encode()), purpose="batch")
    expect("a file", client.files.retrieve(file.id).filename, "two.jsonl")
    expect("what is in it", client.files.content(file.id).text, text)
    expect("all files", [one.id for one in client.files.list()], [file.id])
    later = {"simulate_ms": "200"}
    raw = client.batches.with_raw_response.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata=later
    )
    batch = raw.parse()
    while batch.status == "in_progress":
        batch = client.batches.retrieve(batch.id)
    expect("a batch", (batch.status, batch.request_counts.completed), ("completed", 2))
    output = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    expect("its answers", [answer["custom_id"] for answer in output], ["one", "two"])
    expect("all batches", [one.id for one in client.batches.list()], [batch.id])
    expect("a deleted file", client.files.delete(file.id).deleted, True)
    expect("a batch that has ended", client.batches.cancel(batch.id).status, "completed")
    return raw.headers["x-request-id"]


def drive(stack):
    customer = stack.command("customer", "create", "clients")["id"]
    stack.command("credit", "deposit", "--customer", customer, "--amount", "20.00", "--reference", "clients-1")
    key = stack.command("key", "create", "--customer", customer)["key"]
    poor = stack.command("customer", "create", "poor")["id"]
    poor_key = stack.command("key", "create", "--customer", poor)["key"]
    base = stack.url + "/v1"
    client = openai.OpenAI(base_url=base, api_key=key, max_retries=0)
    requests = []

    def chat(size=0, client=client, **more):
        text = "Say this is a test." + "x" * size
        return client.chat.completions.with_raw_response.create(
            model="sim-chat", messages=[{"role": "user", "content": text}], **more
        )

    for size in (0, 100 * 1024, 5 * 1024 * 1024):
        raw = chat(size)
        requests.append((raw.headers["x-request-id"], raw.headers["x-tollgate-charge"]))
        answer = raw.parse()
        expect("finish_reason", answer.choices[0].finish_reason, "stop")
        expect("total", answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)

    for options in ({}, {"stream_options": {"include_usage": True}}):
        raw = chat(stream=True, **options)
        requests.append((raw.headers["x-request-id"], None))
        chunks = list(raw.parse())
        usage = [chunk for chunk in chunks if chunk.usage is not None]
        expect("usage chunks", len(usage), 1 if options else 0)
        content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        expect("streamed tokens", len(content.split()), 16)

    for options in ({}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}):
        raw = client.completions.with_raw_response.create(model="sim-chat", prompt=["Say this", "is a test"], n=2, **options)
        requests.append((raw.headers["x-request-id"], raw.headers.get("x-tollgate-charge")))
        chunks = list(raw.parse()) if options else [raw.parse()]
        texts = "".join(choice.text for chunk in chunks for choice in chunk.choices)
        expect("continuations", texts.count("tok15"), 4)
        reports = sum(chunk.usage is not None for chunk in chunks)
        expect("usage of completions", reports, 0 if options == {"stream": True} else 1)

    for options in ({}, {"instructions": "Be brief."}):
        raw = client.responses.with_raw_response.create(model="sim-chat", input="Say this is a test.", **options)
        requests.append((raw.headers["x-request-id"], raw.headers["x-tollgate-charge"]))
        answer = raw.parse()
        expect("the text of a response", len(answer.output_text.split()), 16)
        expect("the tokens of a response", answer.usage.output_tokens, 16)
        raw = client.responses.with_raw_response.create(model="sim-chat", input="Say it.", stream=True, max_output_tokens=7, **options)
        requests.append((raw.headers["x-request-id"], None))
        events = list(raw.parse())
        expect("the last event", (events[-1].type, events[-1].response.usage.output_tokens), ("response.incomplete", 7))
        expect("its pieces", sum(event.type == "response.output_text.delta" for event in events), 7)
    previous = client.responses.create(model="sim-chat", input="Say it.")
    raw = client.responses.with_raw_response.create(model="sim-chat", input="And again.", previous_response_id=previous.id)
    requests.append((raw.headers["x-request-id"], raw.headers["x-tollgate-charge"]))
    expect("what is gone on from is read again", raw.parse().usage.input_tokens > previous.usage.total_tokens, True)
    expect("a stored response", client.responses.retrieve(previous.id).output_text, previous.output_text)
    expect("its input", len(client.responses.input_items.list(previous.id).data), 1)
    client.responses.delete(previous.id)
    try:
        client.responses.retrieve(previous.id)
        expect("a deleted response", "there", "gone")
    except openai.NotFoundError as gone:
        expect("a deleted response", gone.status_code, 404)
    with client.responses.stream(model="sim-chat", input=[{"role": "user", "content": "Say it."}]) as stream:
        expect("the text of a stream", len(stream.get_final_response().output_text.split()), 16)

    claude = anthropic.Anthropic(base_url=stack.url, api_key=key, max_retries=0)
    ask = {"model": "sim-chat", "messages": [{"role": "user", "content": "Say it."}]}
    raw = claude.messages.with_raw_response.create(max_tokens=100, system="Be brief.", **ask)
    requests.append((raw.headers["x-request-id"], raw.headers["x-tollgate-charge"]))
    message = raw.parse()
    expect("the text of a message", len(message.content[0].text.split()), 16)
    expect("the tokens of a message", message.usage.output_tokens, 16)
    with claude.messages.stream(max_tokens=7, **ask) as stream:
        message = stream.get_final_message()
    expect("the end of a stream of messages", (message.stop_reason, message.usage.output_tokens), ("max_tokens", 7))
    try:
        anthropic.Anthropic(base_url=stack.url, api_key="sk-wrong", max_retries=0).messages.create(max_tokens=7, **ask)
        sys.exit("openai_client.py: a wrong key was served messages")
    except anthropic.AuthenticationError as refusal:
        expect("the error of a message", refusal.body["error"]["type"], "authentication_error")

    drive_searches(client, claude, requests)
    for options in ({}, {"encoding_format": "float"}):
        raw = client.embeddings.with_raw_response.create(model="sim-embed", input=["one text", "another"], **options)
        requests.append((raw.headers["x-request-id"], raw.headers["x-tollgate-charge"]))
        expect("vectors", [item.embedding for item in raw.parse().data], [[0.25, -0.5, 1.0]] * 2)
    raw = client.moderations.with_raw_response.create(input="a text")
    free = [(raw.headers["x-request-id"], raw.headers["x-tollgate-charge"])]
    expect("judgements", [result.flagged for result in raw.parse().results], [False])

    drive_media(client, requests)
    batch = drive_batch(client)
    script = Path(__file__).with_name("openai_client.mjs")
    node = subprocess.run(["node", script, sys.argv[2], base, key], stdout=subprocess.PIPE, text=True)
    expect("the exit code of node", node.returncode, 0)
    lines = [json.loads(line) for line in node.stdout.splitlines()]
    expect("requests of node", len(lines), 17)
    requests += [line for line in lines if line[1] != "0.00"]
    free += [line for line in lines if line[1] == "0.00"]

    body = json.dumps({"model": "sim-chat", "messages": [{"role": "user", "content": "y" * 300_000}]}).encode()
    pieces = (body[start : start + 10_000] for start in range(0, len(body), 10_000))
    chunked = httpx.post(
        base + "/chat/completions",
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
        content=pieces,
        timeout=60,
    )
    expect("a chunked upload", chunked.status_code, 200)
    requests.append((chunked.headers["x-request-id"], chunked.headers["x-tollgate-charge"]))

    known_models = ["dall-e-3", "omni-moderation-latest", "sim-chat", "sim-embed", "sim-hear", "sim-paint", "sim-speak", "tts-1", "whisper-1"]
    expect("models", [model.id for model in client.models.list()], known_models)
    refused = (("sk-wrong", openai.AuthenticationError, "invalid_api_key"), (poor_key, openai.APIStatusError, "insufficient_quota"))
    for wrong, error, code in refused:
        try:
            chat(client=openai.OpenAI(base_url=base, api_key=wrong, max_retries=0))
            sys.exit(f"openai_client.py: {code} was served")
        except error as refusal:
            expect("the code", refusal.code, code)
            expect("the status", refusal.status_code, {"invalid_api_key": 401, "insufficient_quota": 402}[code])
            expect("request_id", bool(refusal.request_id), True)

    # What is kept is read and deleted free of charge, and has no receipt.
    log = [entry for entry in stack.served() if entry["complete"] and not entry["method"]]
    served = {entry["request"]: entry for entry in log if entry["service_tier"] != "batch"}
    known = {request for request, _ in requests + free}
    requests += [(request, None) for request in served if request not in known]
    answers = [entry for entry in log if entry["request"] == batch]
    expect("answers of the batch", (len(answers), {entry["service_tier"] for entry in answers}), (2, {"batch"}))
    total = sum(due_in_batch(entry) for entry in answers)
    expect("the charge of the batch", Decimal(stack.command("receipt", batch)["charge"]), total)
    for request, told in requests + free:
        receipt = stack.command("receipt", request)
        charge = Decimal(receipt["charge"])
        expect(f"the charge of {request}", charge, due(served[request]))
        if told is not None:
            expect(f"x-tollgate-charge of {request}", Decimal(told), charge)
        total += charge
    balance = Decimal(stack.command("customer", "show", customer)["balance"])
    expect("the balance", balance, Decimal("20.00") - total)
    verified = stack.command("ledger", "verify")
    # The batch, and that its file was put there and deleted.
    captures = len(requests) + 3
    expect("captures", verified["captures"], captures)
    expect("open holds", verified["open_holds"], 0)
    return captures, total


def main():
    with tempfile.TemporaryDirectory(prefix="tollgate-clients-") as folder:
        stack = Stack(sys.argv[1], Path(folder))
        count, total = drive(stack)
        stack.stop()
        done = subprocess.run([sys.argv[1], "ledger", "verify", "--store", str(stack.store), "--json"], check=True, capture_output=True)
        expect("the stopped ledger", json.loads(done.stdout)["captures"], count)
    print(f"openai {openai.__version__} and its package for Node, anthropic {anthropic.__version__}: {count} requests charged {total} USD, as the provider served them; 401 and 402 refused")


if __name__ == "__main__":
    main()
