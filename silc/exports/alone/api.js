// The questions of the page where there is no server: a worker of this page answers them. What it exports is what api.js
// of `silc serve` exports.

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const waiting = new Map(); // by number: who waits for an answer
let numbers = 0;

worker.onmessage = ({ data: { number, answer, fault } }) => {
  const { resolve, reject } = waiting.get(number) ?? {};
  waiting.delete(number);
  if (fault) reject?.(new Fault(fault.status, fault.detail));
  else resolve?.(answer);
};
worker.onerror = ({ message }) => {
  for (const { reject } of waiting.values()) reject(new Fault(500, message || "this browser cannot run the page"));
  waiting.clear();
};

export class Fault extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export const takeToken = () => {};
export const server = (signal) => ask("server", null, signal);
export const pixels = async (id, signal) => createImageBitmap(await ask("pixels", id, signal));
export const pngOf = async (text) =>
  createImageBitmap(new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type: "image/png" }));

export async function send(file, signal) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Fault(415, "the browser cannot read this file as a picture");
  }
  return ask("pictures", bitmap, signal);
}

// An answer; one that nobody waits for any more is not begun.
export function ask(what, given, signal) {
  const number = ++numbers;
  return new Promise((resolve, reject) => {
    waiting.set(number, { resolve, reject });
    signal?.addEventListener("abort", () => {
      waiting.delete(number);
      worker.postMessage({ cancelled: number });
      reject(signal.reason);
    });
    worker.postMessage({ number, what, given });
  });
}
