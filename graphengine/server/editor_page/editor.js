// Our extension of ComfyUI's frontend: a first graph that runs here, and what our workflows have beyond ComfyUI's.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const MARKS = "graphengine"; // the property of a node that holds, as JSON, what our workflows say of it
const starter = await (await fetch(new URL("starter.json", import.meta.url))).json();

const marksOf = (node) => {
  try {
    return JSON.parse(node.properties?.[MARKS] ?? "{}");
  } catch {
    return {};
  }
};

// --- where the frontend would open a graph of its own, it opens one that runs here

const load = app.loadGraphData.bind(app);
app.loadGraphData = (graph, ...more) => load(graph ?? structuredClone(starter), ...more);

// --- what our workflows say of nodes goes with the prompt

const toPrompt = app.graphToPrompt.bind(app);
app.graphToPrompt = async (...given) => {
  const made = await toPrompt(...given);
  for (const [id, entry] of Object.entries(made.output)) {
    const marks = app.rootGraph.getNodeById(id)?.properties?.[MARKS];
    if (marks) entry._meta = { ...entry._meta, [MARKS]: marks };
  }
  return made;
};

// --- files that cannot be opened or saved say why

const say = (summary, detail) =>
  app.extensionManager.toast.add({ severity: "error", summary, detail, life: 20000 });

const told = (summary, ask) => async (file, ...more) => {
  const answer = await ask(file, ...more);
  if (!answer.ok && file.startsWith("workflows/") && answer.status !== 404 && answer.status !== 409) {
    const problem = await answer.clone().json().catch(() => null);
    if (problem?.error?.message) say(summary, problem.error.message);
  }
  return answer;
};
api.getUserData = told("This workflow cannot be opened", api.getUserData.bind(api));
const store = api.storeUserData.bind(api);
api.storeUserData = async (file, data, options) => {
  const answer = await told("This workflow cannot be saved", store)(file, data, { ...options, throwOnError: false });
  if (!answer.ok && options?.throwOnError !== false) throw new Error(`${file} was not saved`);
  return answer;
};

// --- files of ours that are dropped on the page: workflows, and pictures that hold nothing of ComfyUI's

const texts = async (file) => {
  const bytes = new DataView(await file.arrayBuffer()), found = [];
  const letters = (start, length) => String.fromCharCode(...new Uint8Array(bytes.buffer, start, length));
  if (bytes.byteLength < 8 || letters(1, 3) !== "PNG") return found;
  for (let at = 8; at + 8 <= bytes.byteLength; at += 12 + bytes.getUint32(at)) {
    const length = Math.min(80, bytes.getUint32(at), bytes.byteLength - at - 8);
    if (["tEXt", "iTXt", "zTXt"].includes(letters(at + 4, 4))) found.push(letters(at + 8, length).split("\0")[0]);
  }
  return found;
};

const isOurs = async (file) => {
  if (/\.ya?ml$/i.test(file.name)) return true;
  if (/\.json$/i.test(file.name)) {
    const data = await file.text().then(JSON.parse).catch(() => null);
    return data?.version != null && data.nodes instanceof Object && !Array.isArray(data.nodes);
  }
  if (file.type !== "image/png") return false;
  const names = await texts(file);
  return names.includes("graphengine") && !names.includes("workflow") && !names.includes("prompt");
};

const handleFile = app.handleFile.bind(app);
app.handleFile = async (file, ...more) => {
  if (!(await isOurs(file))) return handleFile(file, ...more);
  const answer = await api.fetchApi(`/graphengine/open/${encodeURIComponent(file.name)}`, { method: "POST", body: file });
  const made = await answer.json();
  if (!answer.ok) return say("This file cannot be opened", made.error.message);
  return app.loadGraphData(made, true, true, file.name.replace(/\.\w+$/, ""));
};

// --- a job that was cancelled is none that failed: without an end it is not counted among these

const history = api.getHistory.bind(api);
api.getHistory = async (...given) =>
  (await history(...given)).map((job) => (job.status === "cancelled" ? { ...job, execution_end_time: null } : job));

// --- badges: conditions, nodes that are mapped over a list, values that were known already

const known = new Set(); // the ids of nodes whose values were known in the last run
let job = null;

const begin = ({ detail }) => {
  if (detail?.prompt_id !== job) known.clear();
  job = detail?.prompt_id;
};
api.addEventListener("execution_start", begin);
api.addEventListener("execution_cached", (event) => {
  begin(event);
  for (const id of event.detail.nodes) known.add(String(id));
  app.canvas?.setDirty(true, true);
});

const isLazy = (node) => {
  const given = node.constructor.nodeData?.input ?? {};
  return [given.required, given.optional].some((part) => Object.values(part ?? {}).some((one) => one[1]?.lazy));
};

const badge = (text, bgColor) => new window.LGraphBadge({ text, bgColor, fgColor: "white" });

const addBadges = (node) => {
  const lazy = isLazy(node) ? badge("only what is chosen", "#5b3d8a") : null;
  const each = badge("", "#8a5a1d");
  const cached = badge("", "#1d5a3a");
  if (lazy) node.badges.push(lazy);
  node.badges.push(() => {
    const marks = marksOf(node);
    each.text = marks.each?.length ? `each ${marks.each.join(", ")}` : "";
    return each;
  });
  node.badges.push(() => {
    cached.text = known.has(String(node.id)) ? "cached" : "";
    return cached;
  });
};

// --- declared inputs have the limits that the workflow gives them

const limit = (node) => {
  const declared = marksOf(node).declared;
  const widget = node.widgets?.find((one) => one.name === "value");
  if (!declared || !widget) return;
  const { min, max, step } = declared;
  const tooltip = [declared.help, declared.choices && `One of ${declared.choices.join(", ")}.`];
  widget.tooltip = tooltip.filter(Boolean).join(" ") || widget.tooltip;
  if (widget.type === "number") {
    Object.assign(widget.options, min == null ? {} : { min }, max == null ? {} : { max });
    if (step != null) Object.assign(widget.options, { step: step * 10, step2: step });
  }
};

app.registerExtension({
  name: "graphengine.editor",
  nodeCreated: addBadges,
  loadedGraphNode: limit,
});
