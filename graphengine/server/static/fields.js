// The fields of a form, made from the JSON Schema of a workflow's inputs.

import { ask, h, label, parse, shorten, shown, write } from "./basics.js";

/** The members of a union, of unions in it too. */
const membersOf = (schema) => (schema.anyOf ? schema.anyOf.flatMap(membersOf) : [schema]);

/** The sort of a schema: its type, a picture, a choice; and whether a node decides where nothing is given. */
function sortOf(schema) {
  const members = membersOf(schema);
  const known = members.filter((member) => member.type !== "null");
  const nullable = schema.default === null;
  const [one] = known;
  if (known.length !== 1) return { type: "any", nullable };
  if (one.enum) return { type: "choice", choices: one.enum.filter((choice) => choice !== null), nullable };
  if (one.type === "array" && one.items?.type) {
    return { type: schema["x-file"] === "image" ? "pictures" : "list", of: one.items.type, nullable };
  }
  if (schema["x-file"] === "image" && one.type === "string") return { type: "picture", nullable };
  if (one.type === "boolean" && nullable) return { type: "choice", choices: [true, false], nullable: true };
  if (["integer", "number", "string", "boolean"].includes(one.type)) return { ...one, nullable };
  return { type: "any", nullable };
}

const number = (text, type) => {
  if (/^[+-]?\d+$/.test(text)) return Number.isSafeInteger(Number(text)) ? Number(text) : BigInt(text);
  return type === "number" && text.trim() && Number.isFinite(Number(text)) ? Number(text) : text;
};

const WORDS = new Map([[true, "yes"], [false, "no"]]);

const from = {
  integer: (text) => number(text.trim(), "integer"),
  number: (text) => number(text.trim(), "number"),
  string: (text) => text,
  boolean: (text) => ({ true: true, false: false })[text.trim()] ?? text,
  any: (text) => {
    try { return parse(text); } catch { return text; }
  },
};

/** A field: its element, `get` (undefined leaves the input to its default), `set`, and `complain`. */
export class Field {
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
      const options = this.sort.choices.map((choice, at) => h("option", { value: at }, WORDS.get(choice) ?? String(choice)));
      if (this.sort.nullable) options.unshift(h("option", { value: "" }, "automatic"));
      else if (this.schema.default === undefined) options.unshift(h("option", { value: "", disabled: true }, "choose"));
      return h("select", plain, options);
    }
    if (type === "boolean") return h("input", { ...plain, type: "checkbox", role: "switch" });
    if (type === "integer" || type === "number") return this.makeNumber(plain);
    if (type === "picture" || type === "pictures") return this.makePictures(plain);
    const several = type !== "string" || this.schema["x-multiline"];
    const hint = type === "any" ? "JSON, or a text" : this.sort.nullable ? "none" : undefined;
    if (!several) return h("input", { ...plain, type: "text", dir: "auto", spellcheck: false, placeholder: this.sort.nullable ? "automatic" : undefined });
    return h("textarea", { ...plain, dir: "auto", rows: this.name.startsWith("negative") ? 2 : 3, placeholder: hint });
  }

  makeNumber(plain) {
    const hint = this.sort.nullable ? "automatic" : undefined;
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
      return this.control.validity.badInput ? "no number" : undefined;
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
