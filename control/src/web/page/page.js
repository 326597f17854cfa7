// The status page: asks for the box's state every two seconds and shows it. Keeps the last few
// minutes of rates to draw them; text is set as text, so nothing from the box is taken for markup.

const PERIOD_MS = 2000;
const SEEN_MAX = 90;
const OPEN_MAX = 8;

const seen = new Map();
const cards = new Map();
let before = null;

const at = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// 1234567 -> "1.23 M"
function short(number) {
  for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (number >= size) return (number / size).toPrecision(3) + unit;
  }
  return Math.abs(number - Math.round(number)) < 0.05 ? String(Math.round(number)) : number.toFixed(1);
}

function span(seconds) {
  const [days, hours, minutes] = [86400, 3600, 60].map((size) => Math.floor(seconds / size));
  if (days) return `${days} d ${hours % 24} h`;
  if (hours) return `${hours} h ${minutes % 60} min`;
  return minutes ? `${minutes} min` : `${seconds} s`;
}

const duration = (us) => (us < 1000 ? `${us} µs` : us < 1e6 ? `${(us / 1000).toFixed(1)} ms` : `${(us / 1e6).toFixed(1)} s`);

// Remembers a rate under a name; all that were seen.
function remember(name, value) {
  const values = seen.get(name) ?? [];
  values.push(value);
  if (values.length > SEEN_MAX) values.shift();
  seen.set(name, values);
  return values;
}

function spark(values, what) {
  const most = Math.max(1, ...values);
  const x = (place) => (100 * place) / (SEEN_MAX - 1);
  const first = SEEN_MAX - values.length;
  const points = values.map((value, place) => `${x(first + place).toFixed(1)} ${(23 - (20 * value) / most).toFixed(1)}`);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of [["class", "spark"], ["viewBox", "0 0 100 24"], ["preserveAspectRatio", "none"], ["role", "img"]]) {
    svg.setAttribute(key, value);
  }
  svg.setAttribute("aria-label", `${what}: now ${short(values.at(-1))}, at most ${short(most)}`);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", `M${points.join("L")}`);
  svg.append(path);
  return svg;
}

function tile(name, value, values) {
  const box = element("div", { class: "tile" }, element("b", {}, value), element("span", {}, name));
  if (values) box.append(spark(values, name));
  return box;
}

function totals(state) {
  const { rates, table } = state;
  const share = (100 * table.used) / Math.max(1, table.capacity);
  const rate = (name, key) => tile(name, short(rates[key]), remember(key, rates[key]));
  at("totals").replaceChildren(
    rate("new flows/s", "flows"),
    rate("packets/s in", "in_packets"),
    rate("packets/s out", "out_packets"),
    tile("bit/s in", short(8 * rates.in_bytes), remember("in_bytes", 8 * rates.in_bytes)),
    tile("bit/s out", short(8 * rates.out_bytes), remember("out_bytes", 8 * rates.out_bytes)),
    tile(`flows, ${share.toFixed(share < 10 ? 1 : 0)} % of the table`, short(table.used), remember("used", table.used)),
  );
}

function condition(real) {
  if (real.drain) {
    const until = real.drain.deadline_in_seconds === null ? "" : `, ${span(real.drain.deadline_in_seconds)} left`;
    return element("span", { class: "tag warn" }, `draining: ${real.drain.left} flows${until}`);
  }
  if (real.held) {
    return element("span", { class: "tag warn" }, real.active + real.inactive === 0 ? "drained" : "held");
  }
  if (real.sorry) return element("span", { class: "tag warn" }, "sorry server");
  const { health } = real;
  if (health && !health.up) {
    const since = `down for ${span(health.since_seconds)}`;
    const used = real.seen_weight > 0;
    return element("span", { class: "tag bad", title: since }, used ? "used, though down" : since);
  }
  if (real.weight === 0) return element("span", { class: "tag warn" }, "weight 0");
  if (real.seen_weight === 0) return element("span", { class: "tag warn" }, "in reserve");
  if (health && health.share_percent < 100) {
    return element("span", { class: "tag warn" }, `at ${health.share_percent} %`);
  }
  return element("span", { class: "tag good" }, health ? `up for ${span(health.since_seconds)}` : "in service");
}

// What the checks of a real server found last, in short; whole on hovering.
function found(real) {
  if (!real.health) return element("span", { class: "hint" }, "not checked");
  const { checks, complaints } = real.health;
  const say = (check) => {
    const took = check.passed ? ` in ${duration(check.took_microseconds)}` : "";
    const against = check.against ? `, ${check.up ? "failed" : "passed"} ${check.against}×` : "";
    return `${check.kind}${check.through ? " through" : ""}: ${check.note}${took}${against}`;
  };
  const worst = checks.find((check) => !check.up) ?? checks.find((check) => check.against) ?? checks[0];
  const text = worst ? say(worst) : complaints[0] ?? "by its flows: well";
  const rest = checks.length > 1 ? ` (+${checks.length - 1})` : "";
  return element("span", { title: checks.map(say).concat(checks.length ? [] : complaints).join("\n") }, text + rest);
}

const COLUMNS = ["Real server", "Method", "State", "Checks", "Weight", "Active", "Inactive", "New/s", "Packets/s", "Bit/s", "Load"];
const NUMBERS = new Set(["Weight", "Active", "Inactive", "New/s", "Packets/s", "Bit/s"]);

function row(service, real) {
  const { rates } = real;
  const packets = rates.in_packets + rates.out_packets;
  const bits = 8 * (rates.in_bytes + rates.out_bytes);
  const load = spark(remember(`${service.name} ${real.name}`, packets), `packets/s of ${real.name}`);
  const cells = [real.name, real.method, condition(real), found(real),
    real.seen_weight === real.weight ? real.weight : `${real.seen_weight} (${real.weight})`,
    short(real.active), short(real.inactive), short(rates.flows), short(packets), short(bits), load];
  return element("tr", {}, ...cells.map((cell, place) => {
    const name = COLUMNS[place];
    return element("td", NUMBERS.has(name) ? { class: "number", "data-name": name } : { "data-name": name }, cell);
  }));
}

function about(service) {
  const parts = [service.scheduler];
  if (service.persistence_seconds) parts.push(`persistent ${span(service.persistence_seconds)}`);
  if (service.one_packet) parts.push("one packet");
  const own = service.reals.filter((real) => !real.sorry);
  const taking = own.filter((real) => real.seen_weight > 0).length;
  const { health } = service;
  parts.push(`${taking} of ${own.length} in service`);
  if (health?.panic) parts.push("too few are up: all are used");
  if (health?.sorry) parts.push("the sorry server answers");
  else if (health && !health.quorum) parts.push("quorum lost");
  parts.push( `${short(service.rates.flows)} new/s`,
    `${short(service.rates.in_packets + service.rates.out_packets)} packets/s`);
  return { parts, short: taking < own.length || health?.panic, none: taking === 0 };
}

function card(service, open) {
  let known = cards.get(service.name);
  if (!known) {
    const head = element("tr", {}, ...COLUMNS.map((name) => element("th", NUMBERS.has(name) ? { class: "number" } : {}, name)));
    const body = element("tbody");
    const summary = element("summary");
    const table = element("table", {}, element("thead", {}, head), body);
    const details = element("details", { class: "service" }, summary, element("div", { class: "scroll" }, table));
    details.open = open;
    known = { details, summary, body };
    cards.set(service.name, known);
  }
  const told = about(service);
  const name = element("strong", told.none ? { class: "bad" } : told.short ? { class: "warn" } : {}, service.name);
  known.summary.replaceChildren(name, ...told.parts.map((part) => element("span", {}, part)));
  // What is closed costs nothing but its rates.
  if (known.details.open) {
    const none = element("tr", {}, element("td", { colspan: COLUMNS.length, class: "hint" }, "No real servers."));
    const rows = service.reals.map((real) => row(service, real));
    known.body.replaceChildren(...(rows.length ? rows : [none]));
  }
  return known.details;
}

function services(state) {
  const wanted = at("filter").value.trim().toLowerCase();
  const fits = (service) => !wanted || [service.name, service.scheduler, ...service.reals.map((real) => real.name)]
    .some((text) => text.toLowerCase().includes(wanted));
  const shown = state.services.filter(fits);
  const few = state.services.length <= OPEN_MAX;
  const nodes = shown.map((service) => card(service, few));
  const list = at("services");
  if (nodes.length !== list.children.length || nodes.some((node, place) => list.children[place] !== node)) {
    list.replaceChildren(...nodes);
  }
  at("no-services").hidden = state.services.length > 0;
  const names = new Set(state.services.map((service) => service.name));
  for (const name of cards.keys()) if (!names.has(name)) cards.delete(name);
}

const cells = (...values) => element("tr", {}, ...values.map((value) =>
  element("td", typeof value === "string" || value instanceof Node ? {} : { class: "number" },
    value instanceof Node ? value : typeof value === "number" ? short(value) : Array.isArray(value) ? value[0] : value)));

function workers(state) {
  at("workers").replaceChildren(...state.workers.map((worker, place) => {
    const last = before?.state.workers[place];
    const seconds = before ? (state.at - before.state.at) / 1000 : 1;
    const turns = last ? worker.turns - last.turns : 0;
    const busy = turns > 0 ? 100 * (1 - (worker.idle_turns - last.idle_turns) / turns) : 0;
    const up = element("span", { class: `tag ${worker.running ? "good" : "bad"}` }, worker.running ? "forwards" : "down");
    if (worker.failure) up.title = worker.failure;
    return cells(String(worker.worker), worker.cpu === null ? "any" : String(worker.cpu), up, [`${busy.toFixed(0)} %`],
      last ? (worker.received - last.received) / seconds : 0, [duration(worker.longest_turn_microseconds)], worker.restarts);
  }));
}

function interfaces(state) {
  at("interfaces").replaceChildren(...state.interfaces.map((each, place) => {
    const last = before?.state.interfaces[place];
    const seconds = before ? (state.at - before.state.at) / 1000 : 1;
    const rate = (key) => (last ? Math.max(0, each[key] - last[key]) / seconds : 0);
    return cells(each.name, [...new Set(each.queues)].join(", "), rate("received"), rate("transmitted"), rate("host"), rate("dropped"), rate("missed"));
  }));
}

function drops(state) {
  at("no-drops").hidden = state.drops.length > 0;
  const sorted = [...state.drops].sort((a, b) => b.packets - a.packets);
  at("drops").replaceChildren(...sorted.map((drop) => element("li", {},
    element("code", {}, drop.reason), element("b", {}, short(drop.packets)), element("span", {}, drop.meaning))));
}

function show(state) {
  const down = state.workers.filter((worker) => !worker.running).length;
  const line = at("state");
  line.className = down ? "bad" : "";
  const late = state.in_force < state.generation ? `, ${state.in_force} in force` : "";
  line.textContent = `version ${state.version}, up ${span(state.uptime_seconds)}, generation ${state.generation}${late}` +
    `${state.journaled ? ", journaled" : ""}${down ? `; ${down} workers are down` : ""}`;
  totals(state);
  services(state);
  workers(state);
  interfaces(state);
  drops(state);
  before = { state };
}

async function ask() {
  try {
    const answer = await fetch("/status.json", { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const state = await answer.json();
    state.at = performance.now();
    show(state);
  } catch (error) {
    at("state").className = "bad";
    at("state").textContent = `The box does not answer: ${error.message}`;
  }
  setTimeout(ask, PERIOD_MS);
}

at("explain").addEventListener("submit", async (event) => {
  event.preventDefault();
  const query = new URLSearchParams(new FormData(event.target));
  const told = at("explained");
  told.hidden = false;
  try {
    const answer = await fetch(`/explain?${query}`, { signal: AbortSignal.timeout(5000) });
    told.className = answer.ok ? "" : "bad";
    told.textContent = await answer.text();
  } catch (error) {
    told.className = "bad";
    told.textContent = `The box does not answer: ${error.message}`;
  }
});

const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const theme = () => localStorage.getItem("theme") ?? (dark.matches ? "dark" : "light");
const paint = () => { root.dataset.theme = theme(); };
dark.addEventListener("change", paint);
at("theme").addEventListener("click", () => {
  localStorage.setItem("theme", theme() === "dark" ? "light" : "dark");
  paint();
});
at("filter").addEventListener("input", () => { if (before) services(before.state); });
at("services").addEventListener("toggle", () => { if (before) services(before.state); }, true);
paint();
ask();
