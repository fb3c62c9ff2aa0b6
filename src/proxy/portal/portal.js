// The customer's page. It asks /tollgate/v1/ and nothing else; the key lives in `key` and dies with the page.
// Money is counted in whole units of 1e-18 USD: nothing that is shown as exact was ever a float.
"use strict";

const UNIT = 10n ** 18n;
const MODELS_SHOWN = 5;
const PAGE = 60;
const QUIET = new Set(["hold", "release", "extension", "detachment"]);
const KINDS = {
  capture: "Charge", overage: "Charge beyond the hold", hold: "Hold", release: "Released", extension: "Hold raised",
  detachment: "Goes on in the background",
  deposit: "Deposit", refund: "Refund", adjustment: "Adjustment", write_off: "Written off",
};
const ENDS = {
  complete: "answered in full", cut: "the provider broke off", client_gone: "the client left", stopped: "stopped by a ban",
  refused: "refused by the provider", failed: "failed",
  lost: "the provider has lost it", untold: "the provider did not say what it used", expired: "it took too long",
};

const METERED = {
  reported: "charged by what the provider reported", counted: "charged by what was counted in it",
  estimated: "charged by an estimate of what was delivered, since the provider told nothing", none: "not charged",
};

let key = "";
let usage = { lines: [], from: "" };
let oldest = null;
const $ = (id) => document.getElementById(id);

// --- What is asked ---

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path) {
  let answer;
  try {
    answer = await fetch(`/tollgate/v1/${path}`, {
      headers: { authorization: `Bearer ${key}` }, cache: "no-store", credentials: "omit", redirect: "error",
    });
  } catch {
    throw new Refused(0, "The gateway cannot be reached. Check the connection, then try again.");
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) {
    const wait = answer.headers.get("retry-after");
    const message = body?.error?.message ?? `The gateway answered ${answer.status}.`;
    throw new Refused(answer.status, answer.status === 429 && wait ? `${message} (${wait} s)` : message);
  }
  return body;
}

// --- Numbers ---

function units(text) {
  const [, sign, whole, part = ""] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(text);
  const all = BigInt(whole) * UNIT + BigInt(part.padEnd(18, "0"));
  return sign ? -all : all;
}

function grouped(whole) {
  return whole.replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

// All digits there are, at least two after the point.
function exact(amount) {
  const size = amount < 0n ? -amount : amount;
  const part = (size % UNIT).toString().padStart(18, "0").replace(/0{1,16}$/, "");
  return `${amount < 0n ? "\u2212" : ""}${grouped((size / UNIT).toString())}.${part}`;
}

// For the eye: cents, or the first digits of less than that. Cut, not rounded: credit is never shown that is not there.
function short(amount) {
  const size = amount < 0n ? -amount : amount;
  const places = size >= UNIT / 100n || size === 0n ? 2 : 20 - size.toString().length;
  const step = 10n ** BigInt(18 - Math.min(places, 18));
  return exact((amount / step) * step);
}

// Points below each other: zeros that are not there are held free.
function aligned(amount, places, sign = "") {
  const text = sign + exact(amount);
  const missing = places - (text.length - text.indexOf(".") - 1);
  return missing > 0 ? [text, el("span", { class: "pad", "aria-hidden": "true" }, "0".repeat(missing))] : text;
}

const placesOf = (amounts) => Math.max(2, ...amounts.map((amount) => exact(amount).split(".")[1].length));

const count = (number) => grouped(number.toString());
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const tokensOf = (line) => Object.entries(line.usage)
  .filter(([name]) => !["images", "seconds", "characters", "web_searches"].includes(name))
  .reduce((sum, [, tokens]) => sum + tokens, 0);
const inputOf = (line) => ["input", "cached_input", "cache_write", "cache_write_1h", "cache_write_12h", "audio_input", "image_input"]
  .reduce((sum, name) => sum + (line.usage[name] ?? 0), 0);

// --- Elements ---

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const draw = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
const head = (...names) => el("thead", {}, el("tr", {}, names.map(([text, kind]) => el("th", { scope: "col", class: kind }, text))));
// A cell is what it shows, or that and its class; numbers unless told otherwise.
const cell = (shown) => (shown?.class === undefined ? el("td", { class: "num" }, shown) : el("td", { class: shown.class }, shown.text));
const row = (title, ...cells) => el("tr", {}, el("th", { scope: "row" }, title), cells.map(cell));
const words = (text) => ({ class: "", text });
const wide = (text) => ({ class: "num wide", text });

function time(text) {
  return el("time", { datetime: text, title: text }, `${text.slice(0, 10)} ${text.slice(11, 19)}`);
}

// --- Balance ---

async function showBalance() {
  const told = await ask("balance");
  const usd = (id, amount) => $(id).replaceChildren(short(units(amount)), el("small", {}, "USD"));
  usd("available", told.available);
  usd("held", told.held);
  usd("spent-day", told.spent.day);
  usd("spent-month", told.spent.month);
  const owing = told.overdraft ? `, may go to -${short(units(told.overdraft))}` : "";
  $("available-exact").textContent = `${exact(units(told.available))} exactly${owing}`;
  $("spent-total").textContent = `${short(units(told.spent.total))} ever`;
  $("whose").textContent = told.status === "active" ? told.customer : `${told.customer}, ${told.status}`;
}

// --- Usage ---

const MEASURES = {
  charge: { of: (line) => units(line.charge), show: (sum) => `${short(sum)} USD`, axis: (tick) => tick, name: "USD" },
  requests: { of: (line) => BigInt(line.requests) * UNIT, show: (sum) => count(sum / UNIT), axis: (tick) => compact.format(tick), name: "Requests" },
  tokens: { of: (line) => BigInt(tokensOf(line)) * UNIT, show: (sum) => count(sum / UNIT), axis: (tick) => compact.format(tick), name: "Tokens" },
};

const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const isoDay = (ms) => new Date(ms).toISOString().slice(0, 10);

async function loadUsage() {
  const days = Number(chosen("days"));
  $("usage-status").textContent = "Reading…";
  try {
    const from = isoDay(Date.now() - (days - 1) * 86_400_000);
    const lines = await ask(`usage?by=day,model&from=${from}`);
    usage = { lines, days: Array.from({ length: days }, (_, day) => isoDay(Date.parse(from) + day * 86_400_000)) };
    $("usage-status").textContent = "";
    showUsage();
  } catch (why) {
    $("usage-status").textContent = why.message;
  }
}

function sumBy(lines, name, of) {
  const sums = new Map();
  for (const line of lines) sums.set(line[name], (sums.get(line[name]) ?? 0n) + of(line));
  return sums;
}

function showUsage() {
  const measure = MEASURES[chosen("measure")];
  const ranked = [...sumBy(usage.lines, "model", MEASURES.charge.of)].sort(([a, x], [b, y]) => (x < y ? 1 : x > y ? -1 : a.localeCompare(b)));
  const shown = ranked.map(([model]) => model).slice(0, MODELS_SHOWN);
  const colour = (model) => `s${1 + (shown.includes(model) ? shown.indexOf(model) : MODELS_SHOWN)}`;
  showModels(ranked.map(([model]) => model), colour);
  showDays();
  $("chart").replaceChildren(...(usage.lines.length ? [chart(measure, [...shown, null], colour)] : [el("p", { class: "note" }, "Nothing was charged in these days.")]));
}

function showModels(models, colour) {
  const charged = (lines) => lines.reduce((all, one) => all + units(one.charge), 0n);
  const ofModel = (model) => usage.lines.filter((one) => one.model === model);
  const places = placesOf(models.map((model) => charged(ofModel(model))));
  const line = (title, lines) => {
    const sum = (of) => lines.reduce((all, one) => all + of(one), 0);
    const [input, all] = [sum(inputOf), sum(tokensOf)];
    return row(title, count(sum((one) => one.requests)), wide(count(input)), wide(count(all - input)), aligned(charged(lines), places));
  };
  const bodies = models.map((model) => line([el("span", { class: `key ${colour(model)}` }), model || "(none)"], ofModel(model)));
  $("models").replaceChildren(
    head(["Model"], ["Requests", "num"], ["Input tokens", "num wide"], ["Output tokens", "num wide"], ["USD", "num"]),
    el("tbody", {}, bodies), el("tfoot", {}, line("All", usage.lines)));
}

function showDays() {
  const days = usage.days.filter((day) => usage.lines.some((line) => line.day === day)).reverse();
  const charges = sumBy(usage.lines, "day", MEASURES.charge.of);
  const places = placesOf([...charges.values()]);
  const bodies = days.map((day) => {
    const lines = usage.lines.filter((line) => line.day === day);
    const sum = (of) => lines.reduce((all, one) => all + of(one), 0);
    return row(day, count(sum((one) => one.requests)), count(sum(tokensOf)), aligned(charges.get(day), places));
  });
  $("daily").replaceChildren(head(["Day, in UTC"], ["Requests", "num"], ["Tokens", "num"], ["USD", "num"]), el("tbody", {}, bodies));
}

// Round numbers from nothing to above the highest.
function ticks(most) {
  const rough = most / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((by) => by * power >= rough) ?? 10);
  const places = Math.max(0, 2 - Math.floor(Math.log10(step)) - 1);
  return Array.from({ length: Math.ceil(most / step) + 1 }, (_, tick) => Number((tick * step).toFixed(Math.min(places, 18))));
}

// Heights are for the eye and may be floats; what the tip says is exact.
function chart(measure, series, colour) {
  const [width, height, left, bottom] = [Math.max(320, Math.min(960, $("chart").clientWidth)), 240, 52, 24];
  const sums = usage.days.map((day) => {
    const lines = usage.lines.filter((line) => line.day === day);
    const known = series.filter((model) => model !== null);
    const of = (model) => lines.filter((line) => (model === null ? !known.includes(line.model) : line.model === model)).reduce((all, line) => all + measure.of(line), 0n);
    return series.map((model) => ({ model, sum: of(model) })).filter(({ sum }) => sum > 0n);
  });
  const total = (parts) => parts.reduce((all, { sum }) => all + sum, 0n);
  const float = (amount) => Number(amount) / 1e18;
  const marks = ticks(Math.max(...sums.map((parts) => float(total(parts))), 1e-9));
  const [top, most] = [10, marks.at(-1)];
  const y = (value) => top + (height - top - bottom) * (1 - value / most);
  const step = (width - left - 6) / usage.days.length;
  const bar = Math.min(34, step * 0.72);
  const every = Math.ceil(usage.days.length / Math.max(2, Math.floor((width - left) / 74)));
  const label = `${measure.name} by day, ${usage.days[0]} to ${usage.days.at(-1)}. The tables below have the numbers.`;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const mark of marks) {
    svg.append(draw("line", { class: mark ? "rule" : "rule base", x1: left, x2: width, y1: y(mark), y2: y(mark) }));
    svg.append(draw("text", { x: left - 8, y: y(mark) + 4, "text-anchor": "end" }, String(measure.axis(mark))));
  }
  usage.days.forEach((day, place) => {
    const middle = left + step * (place + 0.5);
    svg.append(draw("rect", { class: "hit", x: left + step * place, y: top, width: step, height: height - top - bottom, onpointermove: (event) => showTip(event, day, sums[place], measure, colour), onpointerleave: hideTip }));
    let from = 0;
    for (const { model, sum } of sums[place]) {
      const to = from + float(sum);
      svg.append(draw("rect", { class: colour(model), "pointer-events": "none", x: middle - bar / 2, width: bar, y: y(to), height: Math.max(0.75, y(from) - y(to) - (from ? 1 : 0)) }));
      from = to;
    }
    if ((usage.days.length - 1 - place) % every === 0) {
      svg.append(draw("text", { x: middle, y: height - 6, "text-anchor": "middle" }, new Date(day).toLocaleDateString("en", { day: "numeric", month: "short", timeZone: "UTC" })));
    }
  });
  return svg;
}

function showTip(event, day, parts, measure, colour) {
  const tip = $("tip");
  const line = ({ model, sum }) => el("div", {}, el("span", {}, el("span", { class: `key ${colour(model)}` }), model ?? "others"), measure.show(sum));
  tip.replaceChildren(el("b", {}, day), ...(parts.length ? [...parts].reverse().map(line) : ["Nothing"]));
  tip.hidden = false;
  tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 12)}px`;
}

function hideTip() {
  $("tip").hidden = true;
}

// --- A request ---

function price(line) {
  const million = units(line.unit_price);
  switch (line.class) {
    case "images":
    case "web_searches": return `${exact(million / 1_000_000n)} each`;
    case "seconds": return `${exact((million * 60n) / 1_000_000n)} / min`;
    default: return `${exact(million)} / 1M`;
  }
}

function arithmetic(receipt) {
  const places = placesOf([...receipt.lines.map((line) => line.amount), receipt.charge].map(units));
  const sum = (title, amount, kind) => el("tr", {}, el("th", { scope: "row", colspan: 3 }, title), el("td", { class: `num ${kind ?? ""}` }, amount));
  const lines = receipt.lines.map((line) => row(line.class.replaceAll("_", " "), count(line.quantity), `\u00d7 ${price(line)}`, ["= ", aligned(units(line.amount), places)].flat()));
  const refund = ({ at, amount, reason }) => sum(`Given back ${at.slice(0, 10)}${reason ? `: ${reason}` : ""}`, aligned(units(amount), places, "+"), "plus");
  return el("table", {}, el("caption", {}, "What it cost"),
    head(["Used"], ["Quantity", "num"], ["Price in USD", "num"], ["USD", "num"]), el("tbody", {}, lines),
    el("tfoot", {}, sum("Charge", aligned(units(receipt.charge), places)), (receipt.refunds ?? []).map(refund),
      sum("Balance after it", exact(units(receipt.balance_after)), "soft")));
}

function attempts(receipt) {
  const lines = receipt.attempts.map((attempt, place) => row(`${place + 1}`, words(attempt.upstream.replace("upstream-", "provider ")), words(attempt.outcome), String(attempt.status ?? "\u2013"), `${count(attempt.ms)} ms`));
  return el("table", {}, el("caption", {}, "How it was served"), head(["Attempt"], ["By"], ["Outcome"], ["Status", "num"], ["Time", "num"]), el("tbody", {}, lines));
}

function story(receipt) {
  const model = receipt.model ? ` by ${receipt.model}` : "";
  switch (receipt.status) {
    case "open": return "It is under way: its charge is not known yet.";
    case "running": return "It goes on in the background: it is charged when it has ended.";
    case "expired": return "The gateway was stopped while it ran. It was not charged.";
    case "released": return `It was not charged: ${ENDS[receipt.end] ?? "it ended before anything was delivered"}.`;
    default: return `${ENDS[receipt.end] ?? receipt.end}${model}; ${METERED[receipt.metered] ?? ""}.`;
  }
}

function showReceipt(receipt) {
  const fact = (name, value) => (value === null || value === "" ? null : el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  const told = story(receipt);
  const facts = el("dl", { class: "facts" },
    fact("When, in UTC", time(receipt.at)), fact("Endpoint", receipt.endpoint), fact("Key", el("code", {}, receipt.key)),
    fact("Status", receipt.http_status ? String(receipt.http_status) : null),
    fact("First byte", receipt.first_byte_ms === null ? null : `${count(receipt.first_byte_ms)} ms`),
    fact("Whole", receipt.duration_ms ? `${count(receipt.duration_ms)} ms` : null),
    fact("Held for it", `${exact(units(receipt.held))} USD`), fact("Prices of", receipt.price_version),
    fact("Answers cut to", receipt.output_cap ? `${count(receipt.output_cap)} tokens, as the credit reached` : null),
    fact("Service tier", receipt.service_tier ?? null), fact("Kept as", receipt.object ?? null));
  const scroll = (label, table) => el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
  $("receipt").replaceChildren(el("div", { class: "receipt" },
    el("h3", {}, `${exact(units(receipt.charge))} USD`), el("p", {}, told.charAt(0).toUpperCase() + told.slice(1)), facts,
    receipt.lines.length ? scroll("What it cost", arithmetic(receipt)) : null,
    receipt.attempts.length ? scroll("How it was served", attempts(receipt)) : null,
    el("details", {}, el("summary", {}, "The receipt as the gateway keeps it"), el("pre", { tabindex: "0" }, JSON.stringify(receipt, null, 2)))));
}

async function lookUp(id) {
  $("request-error").textContent = "";
  try {
    showReceipt(await ask(`receipts/${encodeURIComponent(id)}`));
  } catch (why) {
    $("receipt").replaceChildren();
    $("request-error").textContent = why.status === 404
      ? "There is no receipt of such a request: it was refused before it was admitted and cost nothing, or it was made with another account's key."
      : why.message;
  }
}

// --- Statement ---

function entry(line, places) {
  const amount = units(line.amount);
  const of = line.reference.startsWith("req_")
    ? el("button", { type: "button", class: "link mono", title: line.reference, onclick: () => follow(line.reference) }, `${line.reference.slice(0, 8)}…${line.reference.slice(-6)}`)
    : line.reference;
  const kind = KINDS[line.kind] ?? line.kind.charAt(0).toUpperCase() + line.kind.slice(1).replaceAll("_", " ");
  const more = [line.model, line.reason].filter(Boolean).map((text) => ` ${text}`);
  return el("tr", { class: amount === 0n ? "dim" : undefined },
    el("td", { class: "when" }, time(line.at)), el("td", { class: "kind" }, kind), el("td", { class: "wrap of" }, of, more),
    el("td", { class: amount > 0n ? "num plus" : "num" }, amount === 0n ? "\u2013" : aligned(amount, places, amount > 0n ? "+" : "")),
    el("td", { class: "num after" }, aligned(units(line.balance_after), places)));
}

async function loadStatement() {
  const [table, older] = [$("statement"), $("older")];
  older.disabled = true;
  $("statement-status").textContent = "Reading…";
  try {
    const wanted = (line) => $("holds").checked || !QUIET.has(line.kind);
    const more = oldest === null ? "" : `&before=${oldest}`;
    const page = await ask(`statement?order=desc&limit=${PAGE}${more}`);
    if (oldest === null) {
      table.replaceChildren(head(["When, in UTC"], ["Entry"], ["Of"], ["USD", "num"], ["Balance after", "num"]), el("tbody"));
    }
    const places = placesOf(page.lines.flatMap((line) => [units(line.amount), units(line.balance_after)]));
    table.tBodies[0].append(...page.lines.filter(wanted).map((line) => entry(line, places)));
    oldest = page.next;
    older.hidden = oldest === null;
    $("statement-status").textContent = oldest === null ? "These are all entries." : "";
  } catch (why) {
    $("statement-status").textContent = why.message;
    older.hidden = oldest === null;
  }
  older.disabled = false;
}

function restartStatement() {
  oldest = null;
  return loadStatement();
}

async function follow(id) {
  $("request").value = id;
  await lookUp(id);
  $("request-title").scrollIntoView({ block: "start" });
  $("request-title").focus({ preventScroll: true });
}

// --- Entering and leaving ---

async function enter(event) {
  event.preventDefault();
  const button = event.submitter ?? event.target.querySelector("button");
  key = $("key").value.trim();
  $("key-error").textContent = "";
  button.disabled = true;
  try {
    await showBalance();
    $("key").value = "";
    for (const [id, hidden] of [["enter", true], ["account", false], ["leave", false], ["whose", false]]) $(id).hidden = hidden;
    $("account-title").focus();
    await Promise.all([loadUsage(), restartStatement()]);
  } catch (why) {
    key = "";
    $("key-error").textContent = why.message;
    $("key").focus();
  }
  button.disabled = false;
}

// A reload is the surest way to forget everything.
function leave() {
  key = "";
  location.reload();
}

function start() {
  $("key-form").addEventListener("submit", enter);
  $("request-form").addEventListener("submit", (event) => {
    event.preventDefault();
    lookUp($("request").value.trim());
  });
  $("leave").addEventListener("click", leave);
  $("older").addEventListener("click", loadStatement);
  $("holds").addEventListener("change", restartStatement);
  for (const input of document.querySelectorAll("input[name=days]")) input.addEventListener("change", loadUsage);
  for (const input of document.querySelectorAll("input[name=measure]")) input.addEventListener("change", showUsage);
  // A page that is kept for the way back keeps no key.
  addEventListener("pageshow", (event) => event.persisted && leave());
  addEventListener("pagehide", () => { key = ""; });
  let drawn = innerWidth;
  addEventListener("resize", () => {
    if (drawn !== innerWidth && usage.lines.length) showUsage();
    drawn = innerWidth;
  });
}

start();
