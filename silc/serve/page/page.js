// The page's controls: what a person does, what is asked for it, and what is said of it.

import { Fault, pixels, send, server, takeToken } from "./api.js";
import { QUESTIONS, answered, forget } from "./answers.js";
import { pixelsOf } from "./draw.js";
import { draw, grid, mark, redraw, table, written } from "./drawing.js";
import { saveCoco, saveLabels, savePicture } from "./files.js";
import { recalled, remember } from "./link.js";
import { $, able, choose, inside, made, model, percent, sides, state, view, words } from "./state.js";

const HINTS = {
  classes: "Each pixel has the colour of its most likely word. Click a word of the legend to hide or show it.",
  heat: "How similar each part of the picture is to a word: dark is low, yellow is high, on one scale for all words.",
  components: "The first three principal components of the patches, as red, green and blue.",
  similar: "Click a patch, or move the mark with the arrow keys and press Enter: similar patches turn yellow.",
  boxes: "The boxes that a model with a detection head finds for the words.",
};
const WORDLESS = ["components", "similar"];
let running = null; // the AbortController of what is being asked

// Work that may be cancelled; a new one takes the place of what runs. Says how long it took, or what went wrong; gives
// whether it was done.
async function during(what, work) {
  running?.abort();
  const mine = (running = new AbortController());
  const began = performance.now();
  $("fault").textContent = "";
  $("status").textContent = `${what} …`;
  $("cancel").hidden = false;
  try {
    const said = await work(mine.signal);
    if (running !== mine) return false;
    $("status").textContent = `${said} (${((performance.now() - began) / 1000).toFixed(2)} s)`;
    return true;
  } catch (fault) {
    if (running !== mine) return false;
    const cancelled = mine.signal.aborted;
    $("status").textContent = cancelled ? "Cancelled." : "";
    if (!cancelled) complain(fault instanceof Fault ? fault.message : `This browser cannot do it: ${fault.message}`);
    return false;
  } finally {
    if (running === mine) {
      running = null;
      $("cancel").hidden = true;
    }
  }
}

function complain(text) {
  $("fault").textContent = text;
}

// Ask both sides for what the view shows, and draw it.
async function show() {
  read();
  arrange();
  const shown = view();
  if (!state.picture || (!state.names.length && !WORDLESS.includes(shown))) return draw();
  await during("Computing", async (signal) => {
    const found = await Promise.all(sides().map((side) => answered(QUESTIONS[shown](side), signal)));
    state.shown = found.map((data) => ({ view: shown, data }));
    draw();
    return summary(shown, found[0]);
  });
}

function summary(shown, found) {
  if (found.masks) {
    const masks = [...found.masks].sort((a, b) => b.share - a.share);
    return masks.slice(0, 5).map(({ name, share }) => `${name} ${percent(share)}`).join(", ");
  }
  if (shown === "similar") return `Like the patch in row ${found.row + 1}, column ${found.column + 1}`;
  return shown === "boxes" ? `${found.length} boxes` : "Components";
}

async function classify() {
  if (!ready()) return;
  await during("Classifying", async (signal) => {
    const rows = await Promise.all(sides().map((side) => answered(QUESTIONS.probabilities(side), signal)));
    $("tables").replaceChildren(...rows.map((row, at) => table(sides()[at], row)));
    remember();
    return `${rows[0][0].name} ${percent(rows[0][0].probability)}`;
  });
}

// Texts of the models that write: "caption", or "answer" to the question.
async function write(what) {
  if (!pictured()) return;
  if (what === "answer" && !$("question").value.trim()) return complain("A question is needed: what would you like to know?");
  const writers = able(`${what}s`);
  await during("Writing", async (signal) => {
    const texts = await Promise.all(writers.map((side) => answered(QUESTIONS[what](side), signal)));
    $("tables").replaceChildren(...texts.map((text, at) => written(writers[at], text)));
    return "Written";
  });
}

function look(name) {
  if (!ready()) return;
  state.hidden.clear();
  choose(name);
  show();
}

// Whether there is a picture; that it is missing is told.
function pictured() {
  if (!state.picture) complain("A picture is needed: drop one, or take an example.");
  return Boolean(state.picture);
}

// The words as they stand there now; which of the others were hidden is nothing to them.
function read() {
  const typed = words();
  if (typed.join("\n") !== state.names.join("\n")) state.hidden.clear();
  state.names = typed;
}

// Whether there is a picture and there are words; what is missing is told.
function ready() {
  read();
  if (!pictured()) return false;
  if (!state.names.length) complain("Words are needed: what is in the picture?");
  return Boolean(state.names.length);
}

// A file, or the name of a picture that the server has, in the place `picture` or `second`.
async function open(given, place) {
  const done = await during("Sending the picture", async (signal) => {
    const file = given instanceof Blob ? given : null;
    const { id } = file ? await send(small(file), signal) : { id: given };
    const bitmap = await pixels(id, signal);
    state[place] = { id, file, width: bitmap.width, height: bitmap.height, image: pixelsOf(bitmap) };
    state.shown = [];
    if (place === "picture") $("tables").replaceChildren(); // they were of the one before
    forget();
    arrange();
    draw();
    return `${bitmap.width} × ${bitmap.height} pixels`;
  });
  if (done && state.picture && (state.names.length || WORDLESS.includes(view()))) await show();
}

function small(file) {
  const mega = (bytes) => (bytes / 2 ** 20).toFixed(1);
  const most = state.info.picture_bytes;
  if (file.size > most) throw new Fault(413, `The file has ${mega(file.size)} MB, the limit is ${mega(most)} MB`);
  return file;
}

function clicked(event) {
  if (!state.picture) return;
  const box = $("picture").getBoundingClientRect();
  state.at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map(inside);
  choose("similar");
  show();
}

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function pressed(event) {
  const asks = event.key === "Enter" || event.key === " ";
  if (view() !== "similar" || !state.picture || !(asks || STEPS[event.key])) return;
  event.preventDefault();
  if (asks) return show();
  const { rows, columns } = grid();
  const moved = (share, count, step) => (Math.min(Math.max(Math.floor(share * count) + step, 0), count - 1) + 0.5) / count;
  const [across, down] = STEPS[event.key];
  state.at = [moved(state.at[0], columns, across), moved(state.at[1], rows, down)];
  mark(state.shown[0]);
}

async function copyLink() {
  remember();
  const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
  $("status").textContent = copied ? "The link is copied." : "The link is in the address bar.";
}

// ---- controls

function arrange() {
  $("hint").textContent = HINTS[view()];
  $("word-choice").hidden = view() !== "heat";
  $("second-choice").hidden = !WORDLESS.includes(view());
  $("other").hidden = !state.second || $("second-choice").hidden;
  $("split").disabled = $("decoder-b").disabled = sides().length < 2;
  $("detect").hidden = !sides().every((side) => model(side).detects);
  $("caption").hidden = !able("captions").length;
  $("asking").hidden = !able("answers").length;
  $("known").textContent = [...new Set(sides().map((side) => model(side).description))].join(" | ");
  options($("word"), state.names.map((name, at) => [at, name]));
}

function options(select, pairs) {
  const before = select.value;
  select.replaceChildren(...pairs.map(([value, text = value]) => new Option(text, value)));
  if (pairs.some(([value]) => String(value) === before)) select.value = before;
}

function listDecoders() {
  for (const side of ["a", "b"]) options($(`decoder-${side}`), (model(side)?.decoders ?? []).map((name) => [name]));
}

function list({ models, windows, templates, examples }) {
  const names = models.map(({ id }) => [id]);
  options($("model-a"), names);
  options($("model-b"), [["", "nothing"], ...names]);
  options($("windows"), windows.map((name) => [name]));
  options($("templates"), templates.map((name) => [name]));
  $("templates").value = "clip7";
  if (models.length > 1) {
    const run = ({ id }) => id.replace(/, (student|teacher)/, "");
    $("model-b").value = (models.find((one) => run(one) !== run(models[0])) ?? models[1]).id; // another run if there is one
    $("split").value = 50;
  }
  listDecoders();
  if (models.some(({ detects }) => detects)) {
    const label = made("label", " boxes");
    label.prepend(made("input", "", { type: "radio", name: "view", value: "boxes" }));
    $("views").append(label);
  }
  $("examples").replaceChildren(...examples.map(exampleButton));
}

function exampleButton({ id, title, names, width, height }) {
  const button = made("button", "", { type: "button", title });
  button.setAttribute("aria-label", `Example: ${title}`);
  const canvas = made("canvas", "", { width, height });
  pixels(id).then((bitmap) => canvas.getContext("2d").drawImage(bitmap, 0, 0));
  button.append(canvas);
  button.addEventListener("click", () => {
    $("names").value = names.join(", ");
    state.names = words();
    open(id, "picture");
  });
  return button;
}

function listen() {
  const on = (id, type, act) => $(id).addEventListener(type, act);
  on("form", "submit", (event) => (event.preventDefault(), look(view() === "heat" ? "heat" : "classes")));
  on("classify", "click", classify);
  on("detect", "click", () => look("boxes"));
  on("caption", "click", () => write("caption"));
  on("answer", "click", () => write("answer"));
  on("question", "keydown", (event) => event.key === "Enter" && (event.preventDefault(), write("answer")));
  on("cancel", "click", () => running?.abort());
  on("file", "change", ({ target }) => target.files[0] && open(target.files[0], "picture"));
  on("second", "change", ({ target }) => target.files[0] && open(target.files[0], "second"));
  on("views", "change", show);
  for (const id of ["model-a", "model-b"]) on(id, "change", () => (listDecoders(), show()));
  for (const id of ["decoder-a", "decoder-b", "windows"]) on(id, "change", show);
  for (const id of ["split", "alpha", "word"]) on(id, "input", redraw);
  for (const id of ["split", "alpha"]) on(id, "change", remember); // not while it moves: browsers count
  on("picture", "click", clicked);
  on("picture", "keydown", pressed);
  on("save-overlay", "click", savePicture);
  on("save-labels", "click", () => saveLabels() || ready());
  on("save-coco", "click", () => saveCoco() || ready());
  on("link", "click", copyLink);
  for (const type of ["dragover", "dragleave", "drop"]) document.addEventListener(type, dragged);
  addEventListener("hashchange", () => location.reload()); // somebody's link, put into this tab
}

function dragged(event) {
  event.preventDefault();
  $("drop").classList.toggle("over", event.type === "dragover");
  const file = event.type === "drop" && event.dataTransfer.files[0];
  if (file) open(file, "picture");
}

async function begin() {
  takeToken();
  await during("Asking the server", async (signal) => {
    state.info = await server(signal);
    list(state.info);
    listen();
    return "Ready";
  });
  if (state.info) {
    const { picture, second } = recalled(listDecoders);
    arrange();
    if (second) await open(second, "second");
    if (picture) await open(picture, "picture");
  }
  document.body.dataset.ready = "yes"; // for whoever drives the page
}

begin();
