// What answers instead of a server: one question after the other, in the words of silc's JSON API.

import { components } from "./components.js";
import { labels, png, runLengths, shades } from "./masks.js";
import { fit, region, resized } from "./resize.js";
import { Towers } from "./towers.js";

const REMEMBERED = 8;
const pictures = new Map(); // ImageData by name
const looks = new Map(); // what the tower made of a picture, by name
const cancelled = new Set();
let model, towers;

class Fault extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

const ANSWERS = {
  async server() {
    const began = performance.now();
    model = await (await fetch("model.json")).json();
    towers = await Towers.open(model);
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    const description = `${(towers.bytes / 2 ** 20).toFixed(1)} MB, ready after ${seconds} s`;
    const known = { id: model.name, size: model.preprocess.size, patch: model.patch, description };
    return {
      version: model.version,
      models: [{ ...known, decoders: ["cosine"], detects: false, captions: false, answers: false }],
      templates: Object.keys(model.templates),
      windows: ["whole"],
      examples: [],
      colours: model.colours,
      picture_bytes: model.picture_bytes,
      pixels: model.pixels,
      most_names: model.most_names,
    };
  },

  pictures(bitmap) {
    const { width, height } = bitmap;
    if (width * height > model.pixels) throw new Fault(413, `the picture has ${width * height} pixels, the limit is ${model.pixels}`);
    const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const id = `${Date.now().toString(36)}-${pictures.size}`;
    pictures.set(id, context.getImageData(0, 0, width, height));
    if (pictures.size > REMEMBERED) pictures.delete(pictures.keys().next().value);
    return { id, width, height };
  },

  pixels: (id) => picture(id),

  async segment({ pictures: ids, names, heat }) {
    const texts = await named(names, "tcl9");
    const results = [];
    for (const id of ids) {
      const image = picture(id);
      const { rows, columns, patches } = await look(id);
      const maps = texts.map((text) => patches.map((patch) => dot(patch, text)));
      const classes = labels(maps, rows, columns, image.width, image.height);
      results.push({
        labels: await png(image.width, image.height, classes, model.colours.slice(0, names.length)),
        masks: names.map((name, at) => mask(name, at, classes, image)),
        heat: heat ? await shaded(maps, rows, columns) : null,
      });
    }
    return { results };
  },

  async classify({ pictures: ids, names, templates }) {
    const texts = await named(names, templates);
    const results = [];
    for (const id of ids) {
      const { pooled } = await towers.look(whole(picture(id)));
      const logits = texts.map((text) => dot(pooled, text) * model.scale + model.bias);
      const shares = model.contrastive === "sigmoid" ? logits.map((x) => 1 / (1 + Math.exp(-x))) : softmax(logits);
      const row = names.map((name, at) => ({ name, probability: shares[at] }));
      results.push(row.sort((a, b) => b.probability - a.probability));
    }
    return { results };
  },

  async components({ pictures: ids }) {
    const seen = [];
    for (const id of ids) seen.push(await look(id));
    const results = components(seen).map(async (small, at) => {
      const { width, height } = picture(ids[at]);
      const large = resized(small, width, height, "bicubic");
      return png(width, height, large.data, null, 3);
    });
    return { results: await Promise.all(results) };
  },

  async similar({ pictures: ids, x, y }) {
    const seen = [];
    for (const id of ids) seen.push(await look(id));
    const [{ rows, columns, patches }] = seen;
    const row = Math.min(Math.floor(y * rows), rows - 1);
    const column = Math.min(Math.floor(x * columns), columns - 1);
    const chosen = patches[row * columns + column];
    const likeness = (one) => ({ rows: one.rows, columns: one.columns, values: one.patches.map((patch) => dot(patch, chosen)) });
    return { row, column, results: seen.map(likeness) };
  },
};

function picture(id) {
  if (!pictures.has(id)) throw new Fault(404, "the picture of this link is not here; choose it again");
  return pictures.get(id);
}

// Patches of the picture, its shorter side as long as the model's images.
async function look(id) {
  if (!looks.has(id)) {
    const image = picture(id);
    const [width, height] = fit(image.width, image.height, model.preprocess.size, model.patch);
    looks.set(id, await towers.look(resized(image, width, height, model.preprocess.interpolation)));
    if (looks.size > REMEMBERED) looks.delete(looks.keys().next().value);
  }
  return looks.get(id);
}

// The picture as the model was trained on pictures.
function whole(image) {
  const { width, height, left, top, size } = region(image, model.preprocess);
  return resized(image, width, height, model.preprocess.interpolation, { left, top, width: size, height: size });
}

// A feature of unit length for each name, the mean of its prompts'.
async function named(names, set) {
  const prompts = model.templates[set];
  const found = await towers.read(names.flatMap((name) => prompts.map((prompt) => prompt.replaceAll("{}", () => name))));
  return names.map((_, at) => mean(found.slice(at * prompts.length, (at + 1) * prompts.length)));
}

function mean(features) {
  const sum = features[0].map((_, at) => features.reduce((total, one) => total + one[at], 0));
  const length = Math.hypot(...sum);
  return sum.map((value) => value / length);
}

function mask(name, index, classes, { width, height }) {
  const counts = runLengths(classes, width, height, index);
  const pixels = classes.reduce((total, one) => total + (one === index), 0);
  return { name, share: pixels / classes.length, rle: { size: [height, width], counts } };
}

async function shaded(maps, rows, columns) {
  const { low, high, grey } = shades(maps);
  return { low, high, maps: await Promise.all(grey.map((one) => png(columns, rows, one))) };
}

const dot = (a, b) => a.reduce((total, value, at) => total + value * b[at], 0);

function softmax(logits) {
  const most = Math.max(...logits);
  const shares = logits.map((x) => Math.exp(x - most));
  const total = shares.reduce((a, b) => a + b, 0);
  return shares.map((x) => x / total);
}

let turn = Promise.resolve();

onmessage = ({ data }) => {
  if (data.cancelled) cancelled.add(data.cancelled);
  else turn = turn.then(() => answer(data));
};

async function answer({ number, what, given }) {
  if (cancelled.delete(number)) return;
  try {
    postMessage({ number, answer: await ANSWERS[what](given) });
  } catch (fault) {
    const detail = fault instanceof Fault ? fault.message : `the page failed: ${fault.message}`;
    postMessage({ number, fault: { status: fault.status ?? 500, detail } });
  }
}
