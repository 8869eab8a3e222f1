// A job as people see it: what it is about, a small picture of it, what it has made and how.

import { h, label, seconds, shorten, shown, when } from "./basics.js";

/** All files that a job wrote. */
export const files = (job) => Object.values(job.outputs).flatMap((output) => output.files ?? []);
export const isPicture = (file) => /\.(png|jpe?g|webp)$/i.test(file.name);
export const isVideo = (file) => /\.mp4$/i.test(file.name);

/** Whether an input names uploaded files, of which people know no ids. */
const isUpload = (value) => typeof value === "string" && /^(\['|)sha256:/.test(value);

/** What a job is about, in a line: its first text. */
export function about(job) {
  const given = Object.entries(job.inputs).filter(([, value]) => !isUpload(value));
  const texts = given.filter(([, value]) => typeof value === "string");
  const [, text] = texts.find(([name]) => name.includes("prompt")) ?? texts[0] ?? [];
  return text ? shorten(text, 90) : shorten(given.map(([name, value]) => `${label(name)} ${value}`).join(", "), 90);
}

/** A job as a small picture, or its state where there is none. */
export function thumbnail(job, width = 256) {
  const file = files(job).find(isPicture);
  if (file) return h("img", { src: `${file.url}?width=${width}`, alt: "", loading: "lazy", decoding: "async" });
  const video = files(job).find(isVideo);
  if (video) return h("video", { src: `${video.url}#t=0.1`, muted: true, preload: "metadata", "aria-hidden": "true", tabindex: -1 });
  const text = Object.values(job.outputs).map((output) => output.value).find((value) => typeof value === "string");
  if (text) return h("span", { class: "tile text" }, shorten(text, 120));
  return h("span", { class: `tile ${job.state}` }, { done: "✓", failed: "!", cancelled: "–", running: "▸" }[job.state] ?? "…");
}

/** So many files of an output are shown; the others once they are asked for. */
const MANY = 48;

/** An output: pictures and videos, links to other files, or its value as a text.
 *
 * @param several Whether the job has more outputs, so that each needs its name.
 */
export function output(name, one, several) {
  const given = one.files ?? [];
  const alone = given.length === 1;
  const show = (file) => {
    const src = alone ? file.url : `${file.url}?width=512`;
    if (isPicture(file)) return h("a", { href: file.url, target: "_blank", rel: "noopener" }, h("img", { src, alt: `${label(name)} of this job`, loading: alone ? null : "lazy" }));
    if (isVideo(file)) return h("video", { src: file.url, controls: true, loop: true, playsinline: true, preload: "metadata", "aria-label": label(name) });
    return h("a", { class: "button", href: file.url, download: file.name }, file.name);
  };
  const made = given.slice(0, MANY).map(show);
  if (!one.files) made.push(h("pre", { dir: "auto" }, typeof one.value === "string" ? one.value : JSON.stringify(one.value, (_, value) => (typeof value === "bigint" ? String(value) : value), 2)));
  if (given.length > MANY) {
    const rest = h("button", { type: "button", class: "rest", onclick: () => rest.replaceWith(...given.slice(MANY).map(show)) }, `Show all ${given.length}`);
    made.push(rest);
  }
  return h("figure", { class: made.length > 1 ? "grid" : "" }, made, several ? h("figcaption", {}, label(name)) : "");
}

/** The way to save what was made: a button, or where there is more of it a list of links. */
export function downloads(given) {
  const link = (file, text, type) => h("a", { class: type, href: file.url, download: file.name, title: file.name }, text);
  if (given.length < 2) return given.map((file) => link(file, "Download", "button"));
  const list = h("ul");
  const details = h("details", { class: "files", ontoggle: () => { if (!list.firstChild) list.append(...given.map((file) => h("li", {}, link(file, file.name)))); } },
    h("summary", { class: "button" }, `Download ${given.length} files`), list);
  return [details];
}

/** How it was made: inputs, drawn numbers, times. */
export function making(job) {
  const row = (name, value) => [h("dt", {}, name), h("dd", { dir: "auto" }, value)];
  const upload = (value) => (value.startsWith("[") ? "uploaded files" : h("img", { class: "given", src: `/v1/files/${value}`, alt: value, title: value }));
  const words = (value) => (isUpload(value) ? upload(value) : value === "" ? "empty" : shown(value) || "none");
  const rows = Object.entries(job.inputs).filter(([name]) => !(name in job.drawn)).map(([name, value]) => row(label(name), words(value)));
  rows.push(...Object.entries(job.drawn).map(([name, value]) => row(label(name), h("span", {}, h("code", {}, shown(value)), h("span", { class: "dim" }, " drawn")))));
  if (job.started && job.ended) rows.push(row("Took", seconds(job.started, job.ended)));
  rows.push(row("Job", `${job.number}, ${when(job.created)}${job.user ? `, ${job.user}` : ""}`));
  return h("dl", { class: "making" }, rows);
}

/** A command, and a button that copies it where the browser lets pages do so: by TLS, and on the server's own machine. */
export function copied(text) {
  const button = h("button", {
    type: "button", class: "small", onclick: async () => {
      await navigator.clipboard.writeText(text).then(() => { button.textContent = "Copied"; }, () => button.remove());
    },
  }, "Copy");
  return h("p", { class: "hint dim" }, h("span", {}, "Again in a shell: ", h("code", {}, text)), navigator.clipboard ? button : "");
}
