// The official `openai` package of Node against a gateway that runs already.
//
// openai_client.mjs MODULES BASE KEY    drives it and prints, for each request, one line of JSON: its id and the
// charge that its answer told, if it told one. Ends with 1 and says what differed if anything did.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import assert from "node:assert/strict";

const [modules, baseURL, apiKey] = process.argv.slice(2);
const found = createRequire(`${modules}/`).resolve("openai");
const { default: OpenAI, toFile } = (await import(pathToFileURL(found))).default;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

async function told(promise) {
  const { data, response } = await promise.withResponse();
  const id = response.headers.get("x-request-id");
  console.log(JSON.stringify([id, response.headers.get("x-tollgate-charge")]));
  return data;
}

async function all(promise) {
  const events = [];
  for await (const event of await told(promise)) events.push(event);
  return events;
}

const messages = [{ role: "user", content: "Say this is a test." }];
const chat = { model: "sim-chat", messages };
const answer = await told(client.chat.completions.create(chat));
assert.equal(answer.choices[0].message.content.split(" ").length, 16);
for (const options of [{}, { stream_options: { include_usage: true } }]) {
  const chunks = await all(client.chat.completions.create({ ...chat, stream: true, ...options }));
  assert.equal(chunks.filter((chunk) => chunk.usage).length, options.stream_options ? 1 : 0);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("");
  assert.equal(text.split(" ").length, 16);
}

const completion = await told(client.completions.create({ model: "sim-chat", prompt: ["a", "b"], n: 2 }));
assert.equal(completion.choices.length, 4);
const response = await told(client.responses.create({ model: "sim-chat", input: "Say it." }));
assert.equal(response.usage.output_tokens, 16);
const events = await all(client.responses.create({ model: "sim-chat", input: "Say it.", stream: true }));
assert.equal(events.at(-1).type, "response.completed");

const vectors = await told(client.embeddings.create({ model: "sim-embed", input: ["one text", "another"] }));
assert.deepEqual(vectors.data.map((item) => item.embedding), Array(2).fill([0.25, -0.5, 1]));
const judged = await told(client.moderations.create({ input: "a text" }));
assert.equal(judged.results[0].flagged, false);

for (const model of ["sim-paint", "dall-e-3"]) {
  const images = await told(client.images.generate({ model, prompt: "a red fox", n: 2 }));
  assert.equal(images.data.length, 2);
}
const drawn = await all(client.images.generate({ model: "sim-paint", prompt: "a fox", stream: true }));
assert.equal(drawn.at(-1).type, "image_generation.completed");
const pictures = await Promise.all(["fox", "hen"].map((name) => toFile(Buffer.alloc(5000), `${name}.png`)));
const edited = await told(client.images.edit({ model: "sim-paint", prompt: "both", image: pictures }));
assert.equal(edited.usage.input_tokens_details.image_tokens, 646);

const speech = { voice: "alloy", input: "Grüezi mitenand" };
const spoken = await told(client.audio.speech.create({ model: "tts-1", ...speech }));
assert.equal((await spoken.arrayBuffer()).byteLength, 8000);
const streamed = client.audio.speech.create({ model: "sim-speak", stream_format: "sse", ...speech });
assert.match(await (await told(streamed)).text(), /speech\.audio\.done/);

const file = await toFile(Buffer.alloc(320000, 1), "a wave.wav");
const heard = await told(client.audio.transcriptions.create({ model: "whisper-1", file }));
assert.equal(heard.text, "tok0 tok1");
const pieces = await all(client.audio.transcriptions.create({ model: "sim-hear", file, stream: true }));
assert.equal(pieces.at(-1).type, "transcript.text.done");
const verbose = { model: "whisper-1", file, response_format: "verbose_json" };
assert.equal((await told(client.audio.translations.create(verbose))).text, "tok0 tok1");

assert.ok((await client.models.list()).data.some((model) => model.id === "sim-chat"));
const stranger = new OpenAI({ baseURL, apiKey: "sk-wrong", maxRetries: 0 });
await assert.rejects(stranger.chat.completions.create(chat), { status: 401, code: "invalid_api_key" });
