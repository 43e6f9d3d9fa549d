// The server's API, and nothing else: what is asked, in JSON, with the token where there is one.

const TOKEN = "silc-token";
const TRIES = 3;

// The token came behind the # of the address; it is kept for this tab and taken out of what may be copied.
export function takeToken() {
  const token = /[#&]token=([^&]+)/.exec(location.hash)?.[1]; // as it stands there: a + is no blank
  if (token) {
    const state = new URLSearchParams(location.hash.slice(1));
    sessionStorage.setItem(TOKEN, decodeURIComponent(token));
    state.delete("token");
    history.replaceState(null, "", `#${state}`);
  }
}

export class Fault extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export const server = (signal) => json("server", { signal });
export const ask = (what, question, signal) =>
  json(what, { method: "POST", body: JSON.stringify(question), headers: { "Content-Type": "application/json" }, signal });
export const send = (file, signal) =>
  json("pictures", { method: "POST", body: file, headers: { "Content-Type": file.type || "application/octet-stream" }, signal });
export const pixels = async (id, signal) => createImageBitmap(await call(`pictures/${id}`, { signal }, (response) => response.blob()));
export const pngOf = async (text) =>
  createImageBitmap(new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type: "image/png" }));

const json = (path, options) => call(path, options, (response) => response.json());

// A server that is busy is asked again when it says, a few times.
async function call(path, options, read) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  for (let tried = 1; ; tried++) {
    const response = await reached(fetch(`api/${path}`, { ...options, headers, cache: "no-store" }), options.signal);
    if (response.ok) return reached(read(response), options.signal);
    if (response.status !== 503 || tried === TRIES) throw new Fault(response.status, await detail(response));
    await pause(Number(response.headers.get("Retry-After") || 1), options.signal);
  }
}

async function reached(answer, signal) {
  try {
    return await answer;
  } catch (error) {
    throw signal?.aborted ? error : new Fault(0, `The server does not answer: ${error.message}`);
  }
}

async function detail(response) {
  try {
    return String((await response.json()).detail);
  } catch {
    return `the server answered ${response.status}`;
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
