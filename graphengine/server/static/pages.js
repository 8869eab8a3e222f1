// The pages of `graphengine serve`: they render what /v1 says, as text only: nothing that it says is read as HTML.
// The script is long because it is the only one: fields of forms, results, and the two pages, in this order.

// --- small things -----------------------------------------------------------------------------------------------------

const $ = (id) => document.getElementById(id);

/** Make an element: attributes and listeners (onclick), then children, which are elements or texts. */
function h(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

/** Texts and numbers of JSON. */
const TOKENS = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const large = (text) => /^-?\d+$/.test(text) && !Number.isSafeInteger(Number(text));

/** Read JSON; whole numbers that a double cannot hold, such as seeds, become BigInt. */
const parse = (text) => JSON.parse(
  text.replace(TOKENS, (token) => (large(token) ? `"\\u0001${token}"` : token)),
  (_, value) => (typeof value === "string" && /^\u0001-?\d+$/.test(value) ? BigInt(value.slice(1)) : value),
);

/** Write JSON with BigInt as numbers. */
const write = (data) => JSON.stringify(data, (_, value) => (typeof value === "bigint" ? `\u0001${value}\u0001` : value))
  .replace(/"\\u0001(-?\d+)\\u0001"/g, "$1");

/** Why the server refused: `problem` is what it said (RFC 9457). */
class Refused extends Error {
  constructor(problem) {
    super(problem.detail);
    this.problem = problem;
  }
}

/** Ask the server; a token that is not valid any more leads to the login. */
async function ask(method, path, body, headers = {}) {
  let answer;
  const json = body !== undefined && !(body instanceof Blob);
  try {
    answer = await fetch(path, {
      method, headers: json ? { "Content-Type": "application/json", ...headers } : headers, body: json ? write(body) : body,
    });
  } catch {
    throw new Refused({ detail: "The server does not answer. Is it still running?" });
  }
  if (answer.status === 401) {
    location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
    return new Promise(() => {});
  }
  const text = await answer.text();
  const data = (answer.headers.get("Content-Type") ?? "").includes("json") ? parse(text) : text;
  if (!answer.ok) throw new Refused(data.detail ? data : { detail: `The server answered ${answer.status}.` });
  return data;
}

const job = (id, more = "") => `/v1/jobs/${encodeURIComponent(id)}${more}`;
const label = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
const ended = (state) => ["done", "failed", "cancelled"].includes(state);
const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function seconds(from, to) {
  const time = (new Date(to) - new Date(from)) / 1000;
  if (time >= 90) return `${Math.floor(time / 60)} min ${Math.round(time % 60)} s`;
  return time < 10 ? `${time.toFixed(1)} s` : `${Math.round(time)} s`;
}

function when(time) {
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

const size = (bytes) => (bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${Math.round(bytes / 2 ** 20)} MiB`);

/** All files that a job wrote. */
const files = (job) => Object.values(job.outputs).flatMap((output) => output.files ?? []);
const isPicture = (file) => /\.(png|jpe?g|webp)$/i.test(file.name);
const isVideo = (file) => /\.mp4$/i.test(file.name);

/** What a job is about, in a line: its first text. */
function about(job) {
  const texts = Object.entries(job.inputs).filter(([, value]) => typeof value === "string" && !value.startsWith("sha256:"));
  const [, text] = texts.find(([name]) => name.includes("prompt")) ?? texts[0] ?? [];
  return text ? shorten(text, 90) : Object.entries(job.inputs).map(([name, value]) => `${name} ${value}`).join(", ").slice(0, 90);
}

/** A job as a small picture, or its state where there is none. */
function thumbnail(job, width = 256) {
  const file = files(job).find(isPicture);
  if (file) return h("img", { src: `${file.url}?width=${width}`, alt: "", loading: "lazy", decoding: "async" });
  const video = files(job).find(isVideo);
  if (video) return h("video", { src: `${video.url}#t=0.1`, muted: true, preload: "metadata", "aria-hidden": "true", tabindex: -1 });
  const text = Object.values(job.outputs).map((output) => output.value).find((value) => typeof value === "string");
  if (text) return h("span", { class: "tile text" }, shorten(text, 120));
  return h("span", { class: `tile ${job.state}` }, { done: "✓", failed: "!", cancelled: "–", running: "▸" }[job.state] ?? "…");
}

// --- fields of a form -------------------------------------------------------------------------------------------------

/** The members of a union, of unions in it too. */
const membersOf = (schema) => (schema.anyOf ? schema.anyOf.flatMap(membersOf) : [schema]);

/** The sort of a schema: its type, a picture, a choice; whether it may be null. */
function sortOf(schema) {
  const members = membersOf(schema);
  const known = members.filter((member) => member.type !== "null");
  const nullable = known.length < members.length || (schema.enum ?? []).includes(null) || schema.default === null;
  const [one] = known;
  if (known.length !== 1) return { type: "any", nullable };
  if (one.enum) return { type: "choice", choices: one.enum.filter((choice) => choice !== null), nullable };
  if (one.type === "array" && one.items?.type) {
    return { type: schema["x-file"] === "image" ? "pictures" : "list", of: one.items.type, nullable };
  }
  if (schema["x-file"] === "image" && one.type === "string") return { type: "picture", nullable };
  if (["integer", "number", "string", "boolean"].includes(one.type)) return { ...one, nullable };
  return { type: "any", nullable };
}

const number = (text, type) => {
  if (/^[+-]?\d+$/.test(text)) return Number.isSafeInteger(Number(text)) ? Number(text) : BigInt(text);
  return type === "number" && text.trim() && Number.isFinite(Number(text)) ? Number(text) : text;
};

const from = {
  integer: (text) => number(text.trim(), "integer"),
  number: (text) => number(text.trim(), "number"),
  string: (text) => text,
  boolean: (text) => ({ true: true, false: false })[text.trim()] ?? text,
  any: (text) => {
    try { return parse(text); } catch { return text; }
  },
};

const shown = (value) => (value === null || value === undefined ? "" : typeof value === "object" ? write(value) : String(value));

/** A field: its element, `get` (undefined leaves the input to its default), `set`, and `complain`. */
class Field {
  constructor(name, schema, required) {
    this.name = name;
    this.schema = schema;
    this.required = required;
    this.sort = sortOf(schema);
    this.id = `in-${name}`;
    this.problem = h("p", { class: "error", id: `${this.id}-error` });
    const help = (schema.description ?? "").replace(/\s*\([^()]*\)$/, "").replaceAll("null:", "empty:");
    this.note = h("p", { class: "help dim", id: `${this.id}-help` }, help, this.limits());
    this.control = this.make();
    this.control.setAttribute("aria-describedby", `${this.id}-error ${this.id}-help`);
    if (required) this.control.setAttribute("aria-required", "true");
    const name_ = h("label", { for: this.id }, label(name), required ? h("span", { class: "needed", title: "needed" }, " *") : "");
    const inner = this.around ?? this.control;
    this.element = h("div", { class: `field ${this.sort.type}`, "data-input": name }, name_, inner, this.problem, this.note);
    this.element.addEventListener("input", () => this.complain(""));
  }

  /** Whether it stands behind "More settings": a text that may stay empty. */
  get minor() {
    return this.sort.type === "string" && this.schema.default === null && !this.schema["x-multiline"];
  }

  limits() {
    const { minimum, maximum, type } = this.sort;
    if (type === "list") return " One a line.";
    if (!["integer", "number"].includes(type) || (this.schema["x-drawn"] ?? false)) return "";
    const far = (bound) => bound === undefined || Math.abs(Number(bound)) > 1e9;
    if (far(minimum) && far(maximum)) return "";
    return ` ${far(maximum) ? `From ${minimum}.` : far(minimum) ? `To ${maximum}.` : `${minimum} to ${maximum}.`}`;
  }

  make() {
    const { type } = this.sort;
    const plain = { id: this.id, name: this.name, autocomplete: "off" };
    if (type === "choice") {
      const options = this.sort.choices.map((choice, at) => h("option", { value: at }, String(choice)));
      if (this.sort.nullable) options.unshift(h("option", { value: "" }, "automatic"));
      else if (this.schema.default === undefined) options.unshift(h("option", { value: "", disabled: true }, "choose"));
      return h("select", plain, options);
    }
    if (type === "boolean") return h("input", { ...plain, type: "checkbox", role: "switch" });
    if (type === "integer" || type === "number") return this.makeNumber(plain);
    if (type === "picture" || type === "pictures") return this.makePictures(plain);
    const several = type !== "string" || this.schema["x-multiline"];
    const hint = type === "any" ? "JSON, or a text" : this.sort.nullable ? "none" : undefined;
    if (!several) return h("input", { ...plain, type: "text", spellcheck: false, placeholder: this.sort.nullable ? "automatic" : undefined });
    return h("textarea", { ...plain, rows: this.name.startsWith("negative") ? 2 : 3, placeholder: hint });
  }

  makeNumber(plain) {
    const hint = this.sort.nullable && this.schema.default === null ? "automatic" : undefined;
    const { minimum: min, maximum: max } = this.sort;
    const step = this.schema["x-step"] ?? (this.sort.type === "integer" ? 1 : "any");
    const input = h("input", { ...plain, type: "number", min, max, step, placeholder: hint, inputmode: this.sort.type === "integer" ? "numeric" : "decimal" });
    if (!this.schema["x-drawn"]) return input;
    this.dice = h("button", {
      type: "button", class: "dice", "aria-pressed": "false", "aria-label": "Draw a new number at each run", title: "Draw a new number at each run",
      onclick: () => this.roll(this.dice.getAttribute("aria-pressed") !== "true"),
    }, "⚄");
    this.drawn = h("button", { type: "button", class: "chip", hidden: true, title: "Keep this number", onclick: () => this.set(this.drawn.dataset.number) });
    input.addEventListener("input", () => this.roll(false, true));
    this.around = h("div", { class: "with-dice" }, input, this.dice, this.drawn);
    return input;
  }

  /** Draw a number at each run, or not any more. */
  roll(on, keep = false) {
    if (on) this.before = this.control.value;
    this.dice.setAttribute("aria-pressed", String(on));
    this.control.placeholder = on ? "drawn at each run" : "";
    if (!keep) this.control.value = on ? "" : this.before || shown(this.schema.default);
    if (on) this.control.dispatchEvent(new Event("change", { bubbles: true }));
  }

  /** Show the number that was drawn for a job. */
  tell(value) {
    if (!this.drawn) return;
    this.drawn.hidden = value === undefined || value === null;
    this.drawn.dataset.number = shown(value);
    this.drawn.textContent = `drawn: ${shown(value)}`;
  }

  makePictures(plain) {
    const several = this.sort.type === "pictures";
    this.pictures = [];
    const input = h("input", { ...plain, type: "file", accept: "image/*", multiple: several, class: "hidden-input", onchange: () => this.take([...input.files]) });
    this.strip = h("ul", { class: "strip" });
    const words = h("span", {}, h("b", {}, several ? "Choose pictures" : "Choose a picture"), " or drop ", several ? "them" : "it", " here");
    this.zone = h("label", {
      class: "drop", for: this.id,
      ondragover: (event) => { event.preventDefault(); this.zone.classList.add("over"); },
      ondragleave: () => this.zone.classList.remove("over"),
      ondrop: (event) => { event.preventDefault(); this.zone.classList.remove("over"); this.take([...event.dataTransfer.files]); },
    }, words, this.schema.default ? h("span", { class: "dim" }, `Else ${[this.schema.default].flat().join(", ")}`) : "");
    this.around = h("div", { class: "pictures" }, this.strip, input, this.zone);
    return input;
  }

  /** Upload pictures, and show them. */
  async take(chosen) {
    this.complain("");
    const wrong = chosen.find((file) => !file.type.startsWith("image/"));
    if (wrong) return this.complain(`${wrong.name} is no picture.`);
    if (this.sort.type === "picture") this.pictures = [];
    for (const file of this.sort.type === "picture" ? chosen.slice(0, 1) : chosen) {
      const picture = { url: URL.createObjectURL(file), name: file.name, id: null };
      picture.done = ask("POST", "/v1/files", file, { "Content-Type": "application/octet-stream" }).then((stored) => {
        picture.id = stored.id;
      }, (error) => {
        this.pictures = this.pictures.filter((one) => one !== picture);
        this.complain(error.message);
      }).then(() => this.show());
      this.pictures.push(picture);
    }
    this.control.value = "";
    this.show();
    this.element.dispatchEvent(new Event("change", { bubbles: true }));
  }

  show() {
    const drop = (picture) => { this.pictures = this.pictures.filter((one) => one !== picture); this.show(); this.control.focus(); };
    this.strip.replaceChildren(...this.pictures.map((picture) => h("li", { class: picture.id ? "" : "uploading" },
      picture.url ? h("img", { src: picture.url, alt: picture.name }) : h("code", {}, shorten(picture.name, 40)),
      h("button", { type: "button", class: "remove", "aria-label": `Remove ${picture.name}`, onclick: () => drop(picture) }, "×"))));
    this.zone.classList.toggle("filled", this.pictures.length > 0);
  }

  /** Wait until all pictures are on the server. */
  async ready() {
    await Promise.all((this.pictures ?? []).map((picture) => picture.done));
  }

  get() {
    const { type } = this.sort;
    if (type === "picture") return this.pictures[0]?.id;
    if (type === "pictures") return this.pictures.length ? this.pictures.map((picture) => picture.id) : undefined;
    if (type === "boolean") return this.control.checked;
    const text = this.control.value;
    if (type === "choice") return text === "" ? (this.sort.nullable ? null : undefined) : this.sort.choices[Number(text)];
    if (this.dice?.getAttribute("aria-pressed") === "true") return -1;
    if (type === "list") return text.trim() ? text.split("\n").filter((line) => line.trim()).map(from[this.sort.of] ?? from.any) : undefined;
    if (text === "" && (this.required || type !== "string" || this.schema.default === null)) {
      return this.control.validity.badInput ? "no number" : this.sort.nullable && this.schema.default !== null ? null : undefined;
    }
    return from[type](text);
  }

  /** Whether the value is what the workflow has by itself. */
  get untouched() {
    return this.get() === undefined || (!this.required && write(this.get()) === write(this.schema.default ?? null));
  }

  set(value) {
    const { type } = this.sort;
    this.complain("");
    if (this.pictures) {
      const isDefault = write(value ?? null) === write(this.schema.default ?? null); // it stays the server's own file
      const ids = isDefault ? [] : [value].flat().filter((id) => typeof id === "string");
      this.pictures = ids.map((id) => ({ id, name: id, url: id.startsWith("sha256:") ? `/v1/files/${id}` : null }));
      this.show();
    } else if (type === "boolean") this.control.checked = value === true;
    else if (type === "choice") this.control.value = String(this.sort.choices.indexOf(value)).replace("-1", "");
    else if (type === "list") this.control.value = (Array.isArray(value) ? value : []).map(shown).join("\n");
    else {
      this.control.value = shown(value);
      if (this.dice) this.roll(value === -1 || (value === null && this.schema.default !== null), true);
      if (this.dice && value === -1) this.control.value = "";
    }
  }

  complain(text) {
    this.problem.textContent = text;
    if (text) this.control.setAttribute("aria-invalid", "true");
    else this.control.removeAttribute("aria-invalid");
  }
}

// --- what a job has made ----------------------------------------------------------------------------------------------

function output(name, one, several) {
  const made = (one.files ?? []).map((file) => {
    if (isPicture(file)) return h("a", { href: file.url, target: "_blank", rel: "noopener" }, h("img", { src: file.url, alt: `${label(name)} of this job` }));
    if (isVideo(file)) return h("video", { src: file.url, controls: true, loop: true, playsinline: true, "aria-label": label(name) });
    return h("a", { class: "button", href: file.url, download: file.name }, file.name);
  });
  if (!one.files) made.push(h("pre", {}, typeof one.value === "string" ? one.value : JSON.stringify(one.value, (_, value) => (typeof value === "bigint" ? String(value) : value), 2)));
  return h("figure", { class: made.length > 1 ? "grid" : "" }, made, several ? h("figcaption", {}, label(name)) : "");
}

/** How it was made: inputs, drawn numbers, times. */
function making(job) {
  const row = (name, value) => [h("dt", {}, name), h("dd", {}, value)];
  const rows = Object.entries(job.inputs).filter(([name]) => !(name in job.drawn)).map(([name, value]) => row(label(name), shown(value) || "none"));
  rows.push(...Object.entries(job.drawn).map(([name, value]) => row(label(name), h("span", {}, h("code", {}, shown(value)), h("span", { class: "dim" }, " drawn")))));
  if (job.started && job.ended) rows.push(row("Took", seconds(job.started, job.ended)));
  rows.push(row("Job", `${job.number}, ${when(job.created)}${job.user ? `, ${job.user}` : ""}`));
  return h("dl", { class: "making" }, rows);
}

function copied(text) {
  const button = h("button", {
    type: "button", class: "small", onclick: async () => {
      await navigator.clipboard?.writeText(text);
      button.textContent = "Copied";
    },
  }, "Copy");
  return h("p", { class: "hint dim" }, h("span", {}, "Again in a shell: ", h("code", {}, text)), button);
}

// --- the page of a workflow -------------------------------------------------------------------------------------------

class WorkflowPage {
  constructor(name) {
    this.name = name;
    this.fields = [];
    this.jobs = new Map();
    this.watched = null;
  }

  async open() {
    const known = await ask("GET", `/v1/workflows/${encodeURIComponent(this.name)}`);
    document.title = `${known.title || label(this.name)} – graphengine`;
    $("title").textContent = known.title || label(this.name);
    $("description").textContent = known.description;
    const needed = known.inputs.required ?? [];
    this.fields = Object.entries(known.inputs.properties).map(([name, schema]) => new Field(name, schema, needed.includes(name)));
    $("fields").append(...this.fields.filter((field) => !field.minor).map((field) => field.element));
    $("more-fields").append(...this.fields.filter((field) => field.minor).map((field) => field.element));
    $("more").hidden = !this.fields.some((field) => field.minor);
    this.defaults();
    $("form").removeAttribute("aria-busy");
    $("run").disabled = false;
    $("form").addEventListener("submit", (event) => { event.preventDefault(); this.run(); });
    $("reset").addEventListener("click", () => { this.defaults(); this.fields[0]?.control.focus(); });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); $("form").requestSubmit(); }
    });
    document.addEventListener("paste", (event) => this.paste(event));
    $("older").addEventListener("click", () => this.load(this.cursor));
    window.addEventListener("hashchange", () => this.follow());
    await this.load();
    await this.follow();
  }

  defaults() {
    for (const field of this.fields) field.set(field.schema.default);
    this.forgive();
  }

  paste(event) {
    const pictures = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
    const free = this.fields.find((field) => field.pictures && !field.pictures.length) ?? this.fields.find((field) => field.pictures);
    if (pictures.length && free) free.take(pictures);
  }

  /** Follow the address: `#job=ID` shows a job, `#again=ID` fills the form from one. */
  async follow() {
    const [, what, id] = /^#(job|again)=([0-9a-f-]{36})$/.exec(location.hash) ?? [];
    if (!what || (what === "job" && id === this.watched)) return;
    try {
      if (what === "again") await this.again(id);
      this.watch(await ask("GET", job(id)));
    } catch (error) {
      this.refuse([error.message]);
    }
  }

  async again(id) {
    const { inputs } = await ask("GET", job(id, "/inputs"));
    for (const field of this.fields) field.set(field.name in inputs ? inputs[field.name] : field.schema.default);
    $("more").open = this.fields.some((field) => field.minor && !field.untouched);
    this.forgive();
    $("form").scrollIntoView({ block: "start" });
    this.fields[0]?.control.focus({ preventScroll: true });
  }

  async run() {
    $("run").disabled = true;
    this.forgive();
    try {
      await Promise.all(this.fields.map((field) => field.ready()));
      const inputs = {};
      for (const field of this.fields) if (!field.untouched) inputs[field.name] = field.get();
      const made = await ask("POST", `/v1/workflows/${encodeURIComponent(this.name)}/jobs`, { inputs });
      this.watch(made);
      if ($("result").getBoundingClientRect().top > innerHeight - 120) $("result").scrollIntoView({ block: "start" });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.place(error.problem);
    } finally {
      $("run").disabled = false;
    }
  }

  /** Say what is wrong at the fields that it belongs to, and the rest above them. */
  place(problem) {
    const rest = [];
    for (const one of problem.problems ?? []) {
      const field = one.where?.node === "inputs" && this.fields.find((known) => known.name === one.where.socket);
      const text = [one.what, one.hint].filter(Boolean).join("; ");
      if (field) field.complain(text);
      else rest.push(text);
    }
    this.refuse(problem.problems?.length ? rest : [problem.detail]);
    const first = this.fields.find((field) => field.problem.textContent);
    if (first?.minor) $("more").open = true;
    (first?.control ?? $("problems")).focus();
    (first?.element ?? $("problems")).scrollIntoView({ block: "nearest" });
  }

  refuse(texts) {
    $("problems").replaceChildren(...texts.map((text) => h("p", { class: "error" }, text)));
  }

  /** Take back what was said to be wrong. */
  forgive() {
    this.refuse([]);
    for (const field of this.fields) field.complain("");
  }

  // What a job does, and what it has made.

  watch(job_) {
    this.stream?.close();
    this.watched = job_.id;
    history.replaceState(null, "", `#job=${job_.id}`);
    this.remember(job_);
    this.show(job_);
    if (ended(job_.state)) return;
    const stream = this.stream = new EventSource(job_.urls.events);
    const now = this.now = { ...job_ };
    const live = (kind, change) => stream.addEventListener(kind, (event) => {
      if (this.stream !== stream) return;
      change(JSON.parse(event.data));
      this.live(now);
    });
    live("running", () => { now.state = "running"; this.remember(now); });
    live("node_started", (data) => { now.progress ??= { node: data.node, step: null, total: null }; now.state = "running"; });
    live("progress", (data) => { now.progress = data; now.state = "running"; });
    live("preview", (data) => { now.preview = `data:${data.type};base64,${data.data}`; });
    const end = async () => {
      if (this.stream !== stream) return;
      stream.close();
      this.stream = null;
      const last = await ask("GET", job(job_.id)).catch(() => null);
      if (!last) return;
      this.remember(last);
      if (this.watched === last.id) this.show(last);
      if (!ended(last.state)) setTimeout(() => this.watched === last.id && this.watch(last), 1000);
    };
    for (const kind of ["done", "failed", "cancelled", "deleted"]) stream.addEventListener(kind, end);
    stream.addEventListener("error", () => { if (stream.readyState === EventSource.CLOSED) end(); });
  }

  show(job) {
    document.title = document.title.replace(/^[▸✓!] /, "");
    for (const field of this.fields) field.tell(job.drawn[field.name]);
    for (const item of $("history").children) item.firstChild.setAttribute("aria-current", String(item.dataset.job === job.id));
    if (!ended(job.state)) {
      this.words = h("span", { role: "status" });
      this.step = h("span", { "aria-hidden": "true" }); // the bar tells it; a voice would read each step
      this.bar = h("progress", { "aria-label": "Progress" });
      this.preview = h("div", { class: "preview" });
      const cancel = h("button", { type: "button", onclick: () => this.cancel(job.id, cancel) }, "Cancel");
      $("shown").replaceChildren(this.preview, h("div", { class: "doing" }, h("div", {}, h("p", { class: "words" }, this.words, this.step), this.bar), cancel), making(job));
      this.live(job);
      return;
    }
    const outputs = Object.entries(job.outputs);
    const parts = outputs.map(([name, one]) => output(name, one, outputs.length > 1));
    if (job.state === "failed") parts.push(h("p", { class: "failed error", role: "alert" }, job.error?.message ?? "It failed."));
    if (job.state === "cancelled") parts.push(h("p", { class: "empty dim", role: "status" }, "Cancelled."));
    const [first] = files(job);
    const shownFiles = files(job).filter((file) => isPicture(file) || isVideo(file));
    const download = (file, at) => h("a", { class: "button", href: file.url, download: file.name, title: file.name }, "Download", shownFiles.length > 1 ? ` ${at + 1}` : "");
    parts.push(h("div", { class: "actions" },
      shownFiles.map(download),
      h("button", { type: "button", onclick: () => this.again(job.id).catch((error) => this.refuse([error.message])) }, "Again"),
      h("a", { class: "button", href: `${job.urls.self}/report`, target: "_blank", rel: "noopener" }, "Report"),
      h("button", { type: "button", class: "plain", onclick: () => this.remove(job.id) }, "Remove")));
    parts.push(making(job));
    if (first && isPicture(first)) parts.push(copied(`graphengine rerun ${first.name}`));
    $("shown").replaceChildren(...parts);
  }

  /** Show what a job does now. */
  live(job) {
    const { progress } = job;
    const counted = progress?.step !== null && progress?.step !== undefined && progress?.total;
    if (job.preview) {
      if (!this.preview.firstChild) this.preview.append(h("img", { alt: "Preview" }));
      this.preview.firstChild.src = job.preview;
    }
    const waits = job.ahead ? `Waits; ${job.ahead} before it` : "Waits for its turn";
    const runs = progress?.node ? label(progress.node) : "Runs";
    const words = job.cancelling ? "Is being cancelled" : job.state === "queued" ? waits : runs;
    if (this.words.textContent !== words) this.words.textContent = words;
    this.step.textContent = words === runs && counted ? `, step ${progress.step} of ${progress.total}` : "";
    if (counted) {
      this.bar.max = progress.total;
      this.bar.value = progress.step;
    } else this.bar.removeAttribute("value");
  }

  async cancel(id, button) {
    const say = (is) => { button.disabled = this.now.cancelling = is; this.live(this.now); };
    say(true);
    try {
      await ask("POST", job(id, "/cancel"));
    } catch (error) {
      this.refuse([error.message]);
      say(false);
    }
  }

  async remove(id) {
    await ask("DELETE", job(id)).catch((error) => this.refuse([error.message]));
    this.jobs.get(id)?.remove();
    this.jobs.delete(id);
    $("no-history").hidden = this.jobs.size > 0;
    this.watched = null;
    history.replaceState(null, "", location.pathname);
    $("shown").replaceChildren(h("p", { class: "empty dim", role: "status" }, "Removed from the history; its files stay."));
    $("result").focus();
  }

  // The history.

  async load(cursor) {
    const choice = cursor ? `cursor=${cursor}` : `workflow=${encodeURIComponent(this.name)}`;
    const page = await ask("GET", `/v1/jobs?limit=24&${choice}`);
    for (const one of page.jobs) this.remember(one, false);
    this.cursor = page.next_cursor;
    $("older").hidden = !this.cursor;
    $("no-history").hidden = this.jobs.size > 0;
  }

  /** Put a job into the history, or renew it there. */
  remember(job, first = true) {
    const words = { done: "", failed: "failed", cancelled: "cancelled", queued: "waits", running: "runs" }[job.state] ?? job.state;
    const text = about(job);
    const button = h("button", {
      type: "button", class: "shot", title: text, "aria-current": String(job.id === this.watched),
      "aria-label": [text || `Job ${job.number}`, words, when(job.created)].filter(Boolean).join(", "),
      onclick: async () => {
        const now = await ask("GET", `/v1/jobs/${job.id}`).catch((error) => this.refuse([error.message]));
        if (now) this.watch(now);
        if (now && matchMedia("(max-width: 60rem)").matches) $("result").scrollIntoView({ block: "start" });
      },
    }, thumbnail(job), h("span", { class: "caption" }, h("span", {}, words || when(job.created))));
    const known = this.jobs.get(job.id);
    if (known) {
      const focused = known.contains(document.activeElement);
      known.replaceChildren(button);
      if (focused) button.focus();
    } else {
      const item = h("li", { "data-job": job.id }, button);
      this.jobs.set(job.id, item);
      if (first) $("history").prepend(item);
      else $("history").append(item);
    }
    $("no-history").hidden = true;
  }
}

// --- the first page ---------------------------------------------------------------------------------------------------

class StartPage {
  constructor() {
    this.rows = new Map();
  }

  async open(session) {
    this.session = session;
    $("pause").addEventListener("click", () => this.act("POST", `/v1/queue/${this.paused ? "resume" : "pause"}`));
    const [known, done] = await Promise.all([ask("GET", "/v1/workflows"), ask("GET", "/v1/jobs?state=done&limit=100")]);
    const latest = new Map();
    for (const job of done.jobs) if (!latest.has(job.workflow) && files(job).some((file) => isPicture(file) || isVideo(file))) latest.set(job.workflow, job);
    this.named = new Set(known.workflows.filter((one) => !one.error).map((one) => one.name));
    $("workflows").replaceChildren(...known.workflows.map((one) => this.workflow(one, latest.get(one.name))));
    $("workflows").removeAttribute("aria-busy");
    await this.renew();
    this.tick();
  }

  workflow(one, last) {
    if (one.error) return h("li", { class: "card broken" }, h("h2", {}, label(one.name)), h("p", { class: "error" }, one.error));
    const image = last ? thumbnail(last, 512) : h("span", { class: "tile none" }, (one.title || label(one.name)).charAt(0));
    return h("li", {}, h("a", { class: "card", href: `/w/${encodeURIComponent(one.name)}` },
      h("span", { class: "cover" }, image), h("span", { class: "words" }, h("h2", {}, one.title || label(one.name)), h("span", { class: "dim" }, one.description))));
  }

  tick() {
    setTimeout(async () => {
      if (!document.hidden) await this.renew();
      this.tick();
    }, 1500);
  }

  async renew() {
    try {
      const [queue, open, over, workers] = await Promise.all([
        ask("GET", "/v1/queue"), ask("GET", "/v1/jobs?state=queued,running&limit=100"),
        ask("GET", "/v1/jobs?state=done,failed,cancelled&limit=6"), ask("GET", "/v1/workers")]);
      $("trouble").textContent = "";
      this.paused = queue.paused;
      // Jobs that are paused are not next, so the queue does not have them.
      const waiting = queue.waiting.length ? queue.waiting : open.jobs.filter((job) => job.state === "queued").reverse();
      const running = queue.running.map((job) => job.id);
      this.list("jobs", [...queue.running, ...waiting.filter((job) => !running.includes(job.id))]);
      this.list("ended", over.jobs);
      $("ended-title").hidden = !over.jobs.length;
      $("pause").hidden = false;
      $("pause").textContent = queue.paused ? "Resume" : "Pause";
      const count = (number, word) => (number ? `${number} ${word}` : "");
      const all = queue.running.length + waiting.length;
      $("queue-link").textContent = all ? `Queue (${all})` : "Queue";
      const words = [count(queue.running.length, "running"), count(waiting.length, "waiting")].filter(Boolean).join(", ") || "Nothing waits.";
      const now = queue.paused ? `Paused: no more jobs are begun. ${words}` : words;
      if ($("queue-words").textContent !== now) $("queue-words").textContent = now;
      this.workers(workers.workers);
    } catch (error) {
      $("trouble").textContent = error.message;
    }
  }

  /** Show jobs in a list; rows that are there stay, so that the keyboard's focus does. */
  list(id, jobs) {
    const list = $(id);
    const rows = jobs.map((job, at) => {
      const row = this.rows.get(job.id) ?? new JobRow(this, job);
      this.rows.set(job.id, row);
      row.show(job, job.state === "queued" && at > 0 && jobs[at - 1].state === "queued" ? jobs[at - 1].id : null, this.named.has(job.workflow), this.session);
      return row.element;
    });
    for (const [at, row] of rows.entries()) if (list.children[at] !== row) list.insertBefore(row, list.children[at] ?? null);
    while (list.children.length > rows.length) list.lastChild.remove();
    const known = new Set([...$("jobs").children, ...$("ended").children]);
    for (const [job, row] of this.rows) if (!known.has(row.element)) this.rows.delete(job);
  }

  workers(workers) {
    const rows = workers.map((one) => h("li", {},
      h("span", { class: `dot ${one.state}`, "aria-hidden": "true" }),
      h("span", {}, h("b", {}, one.device), h("span", { class: "dim" }, ` ${one.name}`)),
      h("span", { class: "dim" }, [one.state, `${one.parts} part${one.parts === 1 ? "" : "s"} of models held`,
        one.free === null ? "" : `${size(one.free)} free`, one.deaths ? `lost ${one.deaths} times` : ""].filter(Boolean).join(" · "))));
    if (!rows.length) rows.push(h("li", { class: "dim" }, "This server's own process computes."));
    $("workers").replaceChildren(...rows);
  }

  async act(method, path, body) {
    try {
      await ask(method, path, body);
      await this.renew();
    } catch (error) {
      $("trouble").textContent = error.message;
    }
  }
}

class JobRow {
  constructor(page, job) {
    const button = (text, title, act) => h("button", { type: "button", class: "small", title, onclick: act }, text);
    this.cover = h("span", { class: "cover" });
    this.name = h("b");
    this.text = h("span", { class: "dim line" });
    this.state = h("span", { class: "state" });
    this.bar = h("progress", { "aria-label": "Progress", hidden: true });
    this.up = button("↑", "Move before the one above", () => page.act("POST", `/v1/jobs/${job.id}/move`, { before: this.above }));
    this.up.setAttribute("aria-label", "Move up");
    this.cancel = button("Cancel", undefined, () => page.act("POST", `/v1/jobs/${job.id}/cancel`));
    this.again = h("a", { class: "button small" }, "Again");
    this.link = h("a", { class: "words" }, h("span", {}, this.name, " ", this.state), this.text);
    this.element = h("li", {}, this.cover, h("div", { class: "middle" }, this.link, this.bar), h("div", { class: "buttons" }, this.up, this.cancel, this.again));
  }

  show(job, above, named, session) {
    const over = ended(job.state);
    this.above = above;
    if (this.last !== job.state) this.cover.replaceChildren(thumbnail(job, 128));
    this.last = job.state;
    this.name.textContent = label(job.workflow ?? "job");
    this.text.textContent = [session.login && session.admin ? job.user : "", about(job)].filter(Boolean).join(": ");
    const { progress } = job;
    const counted = progress?.total && progress.step !== null;
    const running = counted ? `step ${progress.step} of ${progress.total}` : "runs";
    const words = { done: job.started ? seconds(job.started, job.ended) : "", queued: "waits", running }[job.state] ?? job.state;
    this.state.textContent = job.cancelling && !over ? "is being cancelled" : words;
    this.state.className = `state ${job.state}`;
    this.bar.hidden = job.state !== "running";
    if (counted) Object.assign(this.bar, { max: progress.total, value: progress.step });
    else this.bar.removeAttribute("value");
    this.up.hidden = !above;
    this.cancel.hidden = over;
    this.again.hidden = !named || !over;
    if (named) {
      this.link.href = `/w/${encodeURIComponent(job.workflow)}#job=${job.id}`;
      this.again.href = `/w/${encodeURIComponent(job.workflow)}#again=${job.id}`;
    } else if (over) this.link.href = `${job.urls.self}/report`;
  }
}

// --- all pages --------------------------------------------------------------------------------------------------------

async function open() {
  const session = await ask("GET", "/session");
  $("editor-link").hidden = !session.editor;
  $("logout").hidden = !session.login;
  if (session.login) $("logout").firstChild.title = `Log ${session.user} out`;
  if (document.body.dataset.page === "index") await new StartPage().open(session);
  else await new WorkflowPage(decodeURIComponent(location.pathname.slice("/w/".length))).open();
}

open().catch((error) => {
  if (!(error instanceof Refused)) throw error;
  $("content").prepend(h("p", { class: "card error", role: "alert" }, error.message));
});
