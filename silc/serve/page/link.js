// The state in the address: whoever opens it sees the same, while the server has the picture.

import { $, choose, inside, model, state, view, words } from "./state.js";

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
    $(id).value = kept.get(id);
    if (id === "model-b") arrange();
  }
  if (!model("a")) $("model-a").value = state.info.models[0].id; // the link is of another server
  arrange();
  if (kept.has("names")) $("names").value = kept.get("names");
  if (kept.has("view")) choose(CSS.escape(kept.get("view")));
  if (kept.has("at")) state.at = kept.get("at").split(" ").map(Number).map(inside);
  state.names = words();
  return { picture: kept.get("picture"), second: kept.get("second") };
}
