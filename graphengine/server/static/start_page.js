// The first page, `/`: all workflows, the queue and the workers.

import { $, ask, ended, h, label, seconds, size } from "./basics.js";
import { about, files, isPicture, isVideo, thumbnail } from "./results.js";

export class StartPage {
  constructor() {
    this.rows = new Map();
  }

  async open(session) {
    this.session = session;
    this.acts = !session.read_only;
    $("pause").addEventListener("click", () => this.act("POST", `/v1/queue/${this.paused ? "resume" : "pause"}`));
    const [known, done] = await Promise.all([ask("GET", "/v1/workflows"), ask("GET", "/v1/jobs?state=done&limit=100")]);
    const latest = new Map();
    for (const job of done.jobs) if (!latest.has(job.workflow) && files(job).some((file) => isPicture(file) || isVideo(file))) latest.set(job.workflow, job);
    this.named = new Set(known.workflows.filter((one) => !one.error).map((one) => one.name));
    const runs = known.workflows.filter((one) => session.workflows?.includes(one.name) ?? true);
    $("workflows").replaceChildren(...runs.map((one) => this.workflow(one, latest.get(one.name))));
    $("workflows").removeAttribute("aria-busy");
    await this.renew();
    this.tick();
  }

  workflow(one, last) {
    if (one.error) return h("li", { class: "card broken" }, h("h2", { dir: "auto" }, one.title || label(one.name)), h("p", { class: "error" }, one.error));
    const image = last ? thumbnail(last, 512) : h("span", { class: "tile none" }, (one.title || label(one.name)).charAt(0));
    return h("li", {}, h("a", { class: "card", href: `/w/${encodeURIComponent(one.name)}` },
      h("span", { class: "cover" }, image), h("span", { class: "words" }, h("h2", { dir: "auto" }, one.title || label(one.name)), h("span", { class: "dim", dir: "auto" }, one.description))));
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
      $("pause").hidden = !this.acts;
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
    const focused = list.contains(document.activeElement) ? document.activeElement : null;
    const rows = jobs.map((job, at) => {
      const row = this.rows.get(job.id) ?? new JobRow(this, job);
      this.rows.set(job.id, row);
      row.show(job, job.state === "queued" && at > 0 && jobs[at - 1].state === "queued" ? jobs[at - 1].id : null, this.named.has(job.workflow), this.session);
      return row.element;
    });
    for (const row of [...list.children]) if (!rows.includes(row)) row.remove();
    for (const [at, row] of rows.entries()) if (list.children[at] !== row) list.insertBefore(row, list.children[at] ?? null);
    const known = new Set([...$("jobs").children, ...$("ended").children]);
    for (const [job, row] of this.rows) if (!known.has(row.element)) this.rows.delete(job);
    if (!focused) return;
    const kept = focused.checkVisibility() ? focused : focused.closest("li")?.querySelector("a[href], button:not([hidden])");
    if (document.activeElement !== kept) kept?.focus();
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
    this.text = h("span", { class: "dim line", dir: "auto" });
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
    this.up.hidden = !above || session.read_only;
    this.cancel.hidden = over || session.read_only;
    this.again.hidden = !named || !over;
    if (named) {
      this.link.href = `/w/${encodeURIComponent(job.workflow)}#job=${job.id}`;
      this.again.href = `/w/${encodeURIComponent(job.workflow)}#again=${job.id}`;
    } else if (over) this.link.href = `${job.urls.self}/report`;
  }
}
