// What each view asks the server, and the answers, ready to draw. What was asked before is not asked again.

import { ask, pngOf, send } from "./api.js";
import { labelsOf, pixelsOf, shadesOf } from "./draw.js";
import { $, model, pictures, state } from "./state.js";

const REMEMBERED = 16;
let answers = new Map(); // by the question in JSON

const ids = () => pictures().map((one) => one.id);
const worded = (side) => ({ model: model(side).id, pictures: [state.picture.id], names: state.names });
const segment = (side) => [
  "segment",
  { ...worded(side), decoder: $(`decoder-${side}`).value, windows: $("windows").value, heat: true },
];

export const QUESTIONS = {
  classes: segment,
  heat: segment,
  components: (side) => ["components", { model: model(side).id, pictures: ids() }],
  similar: (side) => ["similar", { model: model(side).id, pictures: ids(), x: state.at[0], y: state.at[1] }],
  boxes: (side) => ["detect", { ...worded(side), templates: $("templates").value }],
  caption: (side) => ["caption", { model: model(side).id, pictures: [state.picture.id] }],
  answer: (side) => ["answer", { model: model(side).id, pictures: [state.picture.id], question: $("question").value }],
  probabilities: (side) => ["classify", { ...worded(side), templates: $("templates").value }],
};

const size = (at) => [pictures()[at].width, pictures()[at].height];
const READY = {
  segment: async ({ results: [one] }) => ({
    ...one,
    file: one.labels,
    labels: labelsOf(pixelsOf(await pngOf(one.labels)), state.info.colours),
    heat: await Promise.all(one.heat.maps.map(pngOf)), // small: only the word that is looked at becomes pixels
  }),
  components: async ({ results }) => (await Promise.all(results.map(pngOf))).map((one, at) => pixelsOf(one, ...size(at))),
  similar: async (answer) => ({ ...answer, shades: answer.results.map((one, at) => shadesOf(one, ...size(at))) }),
  detect: async ({ results: [boxes] }) => boxes,
  classify: async ({ results: [row] }) => row,
  caption: async ({ results: [text] }) => text,
  answer: async ({ results: [text] }) => text,
};

export async function answered([what, question], signal) {
  const key = JSON.stringify([what, question]);
  if (!answers.has(key)) answers.set(key, await READY[what](await asked(what, question, signal)));
  const found = answers.get(key);
  if (answers.size > REMEMBERED) answers.delete(answers.keys().next().value);
  return found;
}

export function forget() {
  answers = new Map();
}

// The server forgets pictures that nobody uses; then they are sent again.
async function asked(what, question, signal) {
  try {
    return await ask(what, question, signal);
  } catch (fault) {
    const files = pictures().map((one) => one.file).filter(Boolean);
    if (fault.status !== 404 || !files.length) throw fault;
    await Promise.all(files.map((file) => send(file, signal)));
    return ask(what, question, signal);
  }
}
