// The state in the address: whoever opens it sees the same, while the server has the picture.

import { $, choose, inside, state, view, words } from "./state.js";

const SETTINGS = ["model-a", "model-b", "decoder-a", "decoder-b", "windows", "templates", "split", "alpha"];

export function remember() {
  const kept = new URLSearchParams();
  for (const place of ["picture", "second"]) if (state[place]) kept.set(place, state[place].id);
  if (state.names.length) kept.set("names", state.names.join("\n"));
  for (const id of SETTINGS) kept.set(id, $(id).value);
  kept.set("view", view());
  if (view() === "similar") kept.set("at", state.at.map((share) => share.toFixed(4)).join(" "));
  history.replaceState(null, "", `#${kept}`);
}

// Set the controls as the address says, and give the names of the pictures. `arrange` lists a side's decoders.
export function recalled(arrange) {
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const id of SETTINGS) {
    if (!kept.has(id)) continue;
    const before = $(id).value;
    $(id).value = kept.get(id);
    if (kept.get(id) && !$(id).value) $(id).value = before; // the link is of another server
    if (id === "model-b") arrange();
  }
  arrange();
  if (kept.has("names")) $("names").value = kept.get("names");
  if (kept.has("view")) choose(CSS.escape(kept.get("view")));
  const at = (kept.get("at") ?? "").split(" ").map(Number);
  if (at.length === 2 && at.every(Number.isFinite)) state.at = at.map(inside);
  state.names = words();
  return { picture: kept.get("picture"), second: kept.get("second") };
}
