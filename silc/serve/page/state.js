// What the page knows, and what its controls say.

export const $ = (id) => document.getElementById(id);
export const state = { info: null, picture: null, second: null, names: [], hidden: new Set(), at: [0.5, 0.5], shown: [] };

export const view = () => document.querySelector('input[name="view"]:checked').value;
export const model = (side) => state.info.models.find((one) => one.id === $(`model-${side}`).value);
export const sides = () => ["a", "b"].filter(model);
export const able = (what) => sides().filter((side) => model(side)[what]);
export const pictures = () => [state.picture, state.second].filter(Boolean);
export const named = (side) => `${model(side).id}, ${$(`decoder-${side}`).value}`;
export const words = () => [...new Set($("names").value.split(/[,\n]/).map((word) => word.trim()).filter(Boolean))];
export const inside = (share) => Math.min(Math.max(share, 0), 1);
export const percent = (share) => `${(100 * share).toFixed(1)} %`;

export function choose(name) {
  const input = document.querySelector(`input[name="view"][value="${name}"]`);
  if (input) input.checked = true;
}

// An element with text; what people typed reaches the document so, never as HTML.
export const made = (tag, text = "", more = {}) => Object.assign(document.createElement(tag), { textContent: text }, more);
