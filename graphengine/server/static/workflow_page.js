// The page of a workflow, `/w/NAME`: its form, what a job does and has made, the history.

import { $, ask, ended, h, job, label, Refused, when } from "./basics.js";
import { Field } from "./fields.js";
import { about, copied, downloads, files, isPicture, isVideo, making, output, thumbnail } from "./results.js";

export class WorkflowPage {
  constructor(name) {
    this.name = name;
    this.fields = [];
    this.jobs = new Map();
    this.watched = null;
  }

  async open(session) {
    const known = await ask("GET", `/v1/workflows/${encodeURIComponent(this.name)}`);
    this.title = document.title = `${known.title || label(this.name)} – graphengine`;
    $("title").textContent = known.title || label(this.name);
    $("description").textContent = known.description;
    const needed = known.inputs.required ?? [];
    this.fields = Object.entries(known.inputs.properties).map(([name, schema]) => new Field(name, schema, needed.includes(name)));
    $("fields").append(...this.fields.filter((field) => !field.minor).map((field) => field.element));
    $("more-fields").append(...this.fields.filter((field) => field.minor).map((field) => field.element));
    $("more").hidden = !this.fields.some((field) => field.minor);
    this.defaults();
    $("form").removeAttribute("aria-busy");
    this.forbidden = known.error ?? (session.workflows?.includes(this.name) === false || session.read_only ? "Your token may not run this workflow." : "");
    this.forgive();
    $("run").disabled = Boolean(this.forbidden);
    $("form").addEventListener("submit", (event) => { event.preventDefault(); this.run(); });
    $("reset").addEventListener("click", () => { this.defaults(); this.fields[0]?.control.focus(); });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); if (!event.repeat) $("form").requestSubmit(); }
    });
    document.addEventListener("paste", (event) => this.paste(event));
    $("older").addEventListener("click", () => this.load(this.cursor).catch((error) => this.refuse([error.message])));
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
    if ($("run").disabled) return; // a form can be submitted without its button
    $("run").disabled = true;
    $("run").textContent = "Sending …";
    this.forgive();
    try {
      await Promise.all(this.fields.map((field) => field.ready()));
      const inputs = {};
      for (const field of this.fields) if (!field.untouched) inputs[field.name] = field.get();
      const made = await ask("POST", `/v1/workflows/${encodeURIComponent(this.name)}/jobs`, { inputs });
      this.watch(made);
      const { top } = $("result").getBoundingClientRect();
      if (top < 0 || top > innerHeight - 120) $("result").scrollIntoView({ block: "start" });
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      this.place(error.problem);
    } finally {
      $("run").disabled = false;
      $("run").textContent = "Run";
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
    this.refuse(this.forbidden ? [this.forbidden] : []);
    for (const field of this.fields) field.complain("");
  }

  // What a job does, and what it has made.

  watch(job_) {
    this.stream?.close();
    this.stream = null;
    this.watched = job_.id;
    history.replaceState(null, "", `#job=${job_.id}`);
    this.remember(job_);
    this.show(job_);
    if (ended(job_.state)) return;
    const stream = this.stream = new EventSource(job_.urls.events);
    const now = this.now = { ...job_ };
    const live = (kind, change) => stream.addEventListener(kind, (event) => {
      if (this.stream !== stream) return;
      now.lost = false;
      change(JSON.parse(event.data));
      this.live(now);
    });
    live("running", () => { now.state = "running"; this.remember(now); });
    live("node_started", (data) => { now.progress ??= { node: data.node, step: null, total: null }; now.state = "running"; });
    live("progress", (data) => { now.progress = data; now.state = "running"; });
    live("preview", (data) => { now.preview = `data:${data.type};base64,${data.data}`; });
    const end = () => {
      if (this.stream !== stream) return;
      stream.close();
      this.stream = null;
      this.renew(now);
    };
    for (const kind of ["done", "failed", "cancelled", "deleted"]) stream.addEventListener(kind, end);
    stream.addEventListener("open", () => { if (this.stream === stream && now.lost) { now.lost = false; this.live(now); } });
    stream.addEventListener("error", () => { // the browser connects again by itself, unless it was refused
      if (this.stream !== stream) return;
      now.lost = true;
      this.live(now);
      if (stream.readyState === EventSource.CLOSED) end();
    });
  }

  /** Show what has become of a job whose events have ended, once the server says so. */
  async renew(job_) {
    try {
      const last = await ask("GET", job(job_.id));
      if (this.watched !== last.id) return;
      if (ended(last.state)) {
        this.remember(last);
        this.show(last);
      } else setTimeout(() => this.watched === last.id && !this.stream && this.watch(last), 1000);
    } catch (error) {
      if (this.watched !== job_.id) return;
      if (error.problem?.code === "not_found") this.gone(job_.id, "It was removed from the history.");
      else {
        job_.lost = true;
        this.live(job_);
        setTimeout(() => this.watched === job_.id && !this.stream && this.renew(job_), 2000);
      }
    }
  }

  show(job) {
    document.title = `${ended(job.state) ? "" : "▸ "}${this.title}`;
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
    parts.push(h("div", { class: "actions" },
      downloads(shownFiles),
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
    const words = job.lost ? "The server does not answer; this page tries again" : job.cancelling ? "Is being cancelled" : job.state === "queued" ? waits : runs;
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
    try {
      await ask("DELETE", job(id));
    } catch (error) {
      this.refuse([error.message]);
      return;
    }
    this.gone(id, "Removed from the history; its files stay.");
    $("result").focus();
  }

  gone(id, words) {
    this.jobs.get(id)?.remove();
    this.jobs.delete(id);
    $("no-history").hidden = this.jobs.size > 0;
    this.watched = null;
    document.title = this.title;
    history.replaceState(null, "", location.pathname);
    $("shown").replaceChildren(h("p", { class: "empty dim", role: "status" }, words));
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
    if (job.workflow !== this.name) return; // a job of another page, by its address
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
