// Both towers, by onnxruntime-web on WebAssembly: pictures and words in, features of unit length out.

import * as ort from "./runtime/ort.wasm.min.mjs";
import { Tokenizer } from "./runtime/tokenizers.min.mjs";

const AT_ONCE = 16; // texts
const REMEMBERED = 2000;

ort.env.wasm.numThreads = 1; // more need headers that servers of files do not send
ort.env.wasm.wasmPaths = new URL("runtime/", import.meta.url).href;

export class Towers {
  static async open(model) {
    const bytes = async (file) => new Uint8Array(await (await fetch(file)).arrayBuffer());
    const json = async (file) => (await fetch(file)).json();
    const [image, text] = await Promise.all(["image.onnx", "text.onnx"].map(bytes));
    const words = new Tokenizer(await json("tokenizer.json"), await json("tokenizer_config.json"));
    const session = (file) => ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
    return new Towers(model, words, await session(image), await session(text), image.length + text.length);
  }

  constructor(model, words, image, text, bytes) {
    Object.assign(this, { model, words, image, text, bytes, known: new Map() });
  }

  // The pooled feature, and one for each patch, row by row, of pixels {width, height, data: RGB}.
  async look({ width, height, data }) {
    const { mean, std } = this.model.preprocess;
    const area = width * height;
    const pixels = new Float32Array(3 * area);
    for (let c = 0; c < 3; c++) for (let at = 0; at < area; at++) pixels[c * area + at] = (data[3 * at + c] / 255 - mean[c]) / std[c];
    const found = await this.image.run({ pixel_values: new ort.Tensor("float32", pixels, [1, 3, height, width]) });
    const [, rows, columns, size] = found.patch_embeds.dims;
    return { rows, columns, pooled: [...found.image_embeds.data], patches: rowsOf(found.patch_embeds.data, size) };
  }

  // A feature for each text.
  async read(texts) {
    const fresh = [...new Set(texts)].filter((text) => !this.known.has(text));
    if (this.known.size + fresh.length > REMEMBERED) this.known.clear();
    const asked = this.known.size ? fresh : [...new Set(texts)];
    for (let from = 0; from < asked.length; from += AT_ONCE) {
      const some = asked.slice(from, from + AT_ONCE);
      const ids = BigInt64Array.from(some.flatMap((text) => this.ids(text)), BigInt);
      const found = await this.text.run({ input_ids: new ort.Tensor("int64", ids, [some.length, this.model.length]) });
      rowsOf(found.text_embeds.data, found.text_embeds.dims[1]).forEach((row, at) => this.known.set(some[at], row));
    }
    return texts.map((text) => this.known.get(text));
  }

  // Cut and padded; a cut text still ends with the end token.
  ids(text) {
    const { length, end, padding } = this.model;
    const ids = Array.from(this.words.encode(text).ids, Number);
    const cut = ids.length > length ? [...ids.slice(0, length - 1), end] : ids;
    return [...cut, ...Array(length - cut.length).fill(padding)];
  }
}

function rowsOf(values, size) {
  return Array.from({ length: values.length / size }, (_, at) => [...values.subarray(at * size, (at + 1) * size)]);
}
