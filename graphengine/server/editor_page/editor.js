// Our extension of ComfyUI's frontend: where it would open a graph of its own, it opens one that runs here.
import { app } from "../../scripts/app.js";

const starter = await (await fetch(new URL("starter.json", import.meta.url))).json();

const load = app.loadGraphData.bind(app);
app.loadGraphData = (graph, ...more) => load(graph ?? structuredClone(starter), ...more);
