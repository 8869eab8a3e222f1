// Elements, JSON, requests and words for all pages. What the server says is shown as text only, never read as HTML.

export const $ = (id) => document.getElementById(id);

/** Make an element: attributes and listeners (onclick), then children, which are elements or texts. */
export function h(tag, given = {}, ...children) {
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
export const parse = (text) => JSON.parse(
  text.replace(TOKENS, (token) => (large(token) ? `"\\u0001${token}"` : token)),
  (_, value) => (typeof value === "string" && /^\u0001-?\d+$/.test(value) ? BigInt(value.slice(1)) : value),
);

/** Write JSON with BigInt as numbers. */
export const write = (data) => JSON.stringify(data, (_, value) => (typeof value === "bigint" ? `\u0001${value}\u0001` : value))
  .replace(/"\\u0001(-?\d+)\\u0001"/g, "$1");

/** Why the server refused: `problem` is what it said (RFC 9457). */
export class Refused extends Error {
  constructor(problem) {
    super(problem.detail);
    this.problem = problem;
  }
}

/** Ask the server; a token that is not valid any more leads to the login. */
export async function ask(method, path, body, headers = {}) {
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
    location.assign(`/login?next=${encodeURIComponent(location.pathname)}${location.hash}`);
    return new Promise(() => {});
  }
  const text = await answer.text();
  const data = (answer.headers.get("Content-Type") ?? "").includes("json") ? parse(text) : text;
  if (!answer.ok) throw new Refused(data.detail ? data : { detail: `The server answered ${answer.status}.` });
  return data;
}

export const job = (id, more = "") => `/v1/jobs/${encodeURIComponent(id)}${more}`;
export const label = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
export const ended = (state) => ["done", "failed", "cancelled"].includes(state);
export const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

export function seconds(from, to) {
  const time = (new Date(to) - new Date(from)) / 1000;
  if (time >= 90) return `${Math.floor(time / 60)} min ${Math.round(time % 60)} s`;
  return time < 10 ? `${time.toFixed(1)} s` : `${Math.round(time)} s`;
}

export function when(time) {
  const date = new Date(time);
  const today = date.toDateString() === new Date().toDateString();
  return date.toLocaleString([], today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

export const size = (bytes) => (bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${Math.round(bytes / 2 ** 20)} MiB`);
export const shown = (value) => (value === null || value === undefined ? "" : typeof value === "object" ? write(value) : String(value));
