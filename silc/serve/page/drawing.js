// The answers on the page: two sides of one picture, the second picture, the legend, tables.

import { heat, mixed, overlay, pixelsOf } from "./draw.js";
import { remember } from "./link.js";
import { $, made, model, named, percent, state, view } from "./state.js";

export function draw() {
  remember();
  redraw();
}

// Without the address, which some browsers let a page change no more than 100 times in 30 s.
export function redraw() {
  if (!state.picture) return;
  const { width, height, image } = state.picture;
  Object.assign($("picture"), { width, height });
  const context = $("picture").getContext("2d", { willReadFrequently: true });
  const shown = state.shown.filter((one) => one.view === view());
  const [left, right] = shown.map((one) => painted(one, image, 0));
  const split = right ? Math.round((width * $("split").value) / 100) : width;
  context.putImageData(left ?? image, 0, 0);
  if (right) context.putImageData(right, 0, 0, split, 0, width - split, height);
  if (view() === "boxes") shown.forEach((one, at) => boxes(context, one.data, at ? [split, width] : [0, split]));
  $("line").hidden = !right;
  $("line").style.left = `${$("split").value}%`;
  $("sides").textContent = right ? `Left: ${named("a")}. Right: ${named("b")}.` : named("a");
  drawSecond(shown[0]);
  mark(shown[0]);
  legend(shown);
}

// What was painted is kept while nothing but the border between the sides moves.
function painted(one, image, at) {
  const key = JSON.stringify([$("alpha").value, $("word").value, [...state.hidden]]);
  one.painted ??= {};
  if (one.painted[at]?.key !== key) one.painted[at] = { key, pixels: paint(one, image, at) };
  return one.painted[at].pixels;
}

function paint({ view: shown, data }, image, at) {
  const alpha = $("alpha").value / 100;
  if (shown === "classes") return overlay(image, data.labels, state.info.colours, alpha, state.hidden);
  if (shown === "components") return mixed(image, data[at], alpha);
  if (shown === "similar") return heat(image, data.shades[at], alpha);
  if (shown !== "heat") return image;
  const map = data.heat[Math.min($("word").value, data.heat.length - 1)];
  return heat(image, pixelsOf(map, image.width, image.height), alpha);
}

function drawSecond(first) {
  if (!state.second) return;
  const { width, height, image } = state.second;
  Object.assign($("second-picture"), { width, height });
  const has = first && (first.view === "components" || first.view === "similar");
  $("second-picture").getContext("2d").putImageData(has ? painted(first, image, 1) : image, 0, 0);
}

function boxes(context, found, [from, to]) {
  context.save();
  context.beginPath();
  context.rect(from, 0, to - from, state.picture.height);
  context.clip();
  context.lineWidth = Math.max(1, state.picture.width / 300);
  const letters = Math.max(10, state.picture.width / 50);
  context.font = `${letters}px sans-serif`;
  for (const { name, score, x, y, width, height } of found) {
    context.strokeStyle = context.fillStyle = css(state.info.colours[Math.max(0, state.names.indexOf(name))]);
    context.strokeRect(x, y, width, height);
    context.fillText(`${name} ${percent(score)}`, x, Math.max(y - context.lineWidth, letters)); // within the picture
  }
  context.restore();
}

// The chosen patch.
export function mark(first) {
  $("mark").hidden = view() !== "similar";
  if ($("mark").hidden) return;
  const { rows, columns } = first?.data.results?.[0] ?? grid();
  const place = (share, count) => Math.min(Math.floor(share * count), count - 1);
  const [row, column] = [place(state.at[1], rows), place(state.at[0], columns)];
  const box = { left: column / columns, top: row / rows, width: 1 / columns, height: 1 / rows };
  for (const [side, share] of Object.entries(box)) $("mark").style[side] = `${100 * share}%`;
}

// Patches of the picture, its shorter side as long as the model's images.
export function grid() {
  const { size, patch } = model("a");
  const { width, height } = state.picture;
  const many = (side) => Math.max(1, Math.round((side * size) / Math.min(width, height) / patch));
  return { rows: many(height), columns: many(width) };
}

function legend(shown) {
  const masks = shown[0]?.data.masks ?? [];
  $("legend-title").hidden = !masks.length;
  $("legend").replaceChildren(...masks.map(({ name }, at) => entry(name, at, shown)));
}

function entry(name, at, shown) {
  const button = made("button", "", { type: "button" });
  const swatch = made("span", "", { className: "swatch" });
  swatch.style.background = css(state.info.colours[at]);
  const shares = shown.map(({ data }) => percent(data.masks[at].share)).join(" | ");
  button.append(swatch, made("span", name), made("span", shares, { className: "soft" }));
  button.setAttribute("aria-pressed", String(!state.hidden.has(at)));
  button.addEventListener("click", () => {
    if (!state.hidden.delete(at)) state.hidden.add(at);
    draw();
    $("legend").children[at].firstChild.focus();
  });
  const item = made("li");
  item.append(button);
  return item;
}

export function table(side, row) {
  const drawn = made("table");
  drawn.append(made("caption", model(side).id));
  for (const { name, probability } of row) {
    drawn.insertRow().append(made("th", name, { scope: "row" }), made("td", percent(probability)));
  }
  return drawn;
}

// A caption, or an answer, under the model's name.
export function written(side, text) {
  const drawn = made("p");
  drawn.append(made("strong", `${model(side).id}: `), text);
  return drawn;
}

const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;
