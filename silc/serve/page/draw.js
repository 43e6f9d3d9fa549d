// Pixels of what models answered. Every function takes ImageData and gives ImageData; nothing here knows the page.

const f = Math.fround;

export function pixelsOf(bitmap, width = bitmap.width, height = bitmap.height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

// The class of each pixel, from the colours of a label map whose palette is the classes'. Browsers that hide what they
// are from a page change colours by a little: then it is the nearest.
export function labelsOf(image, colours) {
  const index = new Map(colours.map(([r, g, b], at) => [(r << 16) | (g << 8) | b, at]));
  const labels = new Uint8Array(image.width * image.height);
  for (let at = 0, i = 0; at < labels.length; at++, i += 4) {
    const seen = image.data.subarray(i, i + 3);
    labels[at] = index.get((seen[0] << 16) | (seen[1] << 8) | seen[2]) ?? nearest(seen, colours);
  }
  return labels;
}

function nearest(seen, colours) {
  const far = colours.map((colour) => colour.reduce((sum, value, c) => sum + (value - seen[c]) ** 2, 0));
  return far.indexOf(Math.min(...far));
}

// The picture, grey, under its classes' colours: to the bit what silc's `Segmentation.overlay` draws (Pillow's grey, in
// 32-bit floats). Classes that are hidden stay grey and light.
export function overlay(image, labels, colours, alpha, hidden = new Set()) {
  const drawn = new ImageData(image.width, image.height);
  const [own, rest] = [f(alpha), f(1 - alpha)];
  for (let at = 0; at < labels.length; at++) {
    const i = 4 * at;
    const grey = greyOf(image.data, i);
    for (let c = 0; c < 3; c++) {
      const mixed = hidden.has(labels[at])
        ? f(f(0.5 * grey) + 127)
        : f(f(rest * grey) + f(own * colours[labels[at]][c]));
      drawn.data[i + c] = Math.trunc(mixed);
    }
    drawn.data[i + 3] = 255;
  }
  return drawn;
}

// The picture, grey, under shades of 0 (dark blue) to 255 (yellow).
export function heat(image, shades, alpha) {
  const drawn = new ImageData(image.width, image.height);
  for (let i = 0; i < drawn.data.length; i += 4) {
    const grey = greyOf(image.data, i);
    const colour = warm(shades.data[i] / 255);
    for (let c = 0; c < 3; c++) drawn.data[i + c] = (1 - alpha) * grey + alpha * colour[c];
    drawn.data[i + 3] = 255;
  }
  return drawn;
}

export function mixed(image, other, alpha) {
  const drawn = new ImageData(image.width, image.height);
  for (let i = 0; i < drawn.data.length; i++) drawn.data[i] = (1 - alpha) * image.data[i] + alpha * other.data[i];
  return drawn;
}

// Grey shades of cosines, row by row: 0 and less is black, 1 is white.
export function shadesOf({ rows, columns, values }, width, height) {
  const small = new ImageData(columns, rows);
  values.forEach((value, at) => small.data.set([255 * value, 255 * value, 255 * value, 255], 4 * at));
  const canvas = new OffscreenCanvas(columns, rows);
  canvas.getContext("2d").putImageData(small, 0, 0);
  return pixelsOf(canvas, width, height);
}

const greyOf = (data, i) => (data[i] * 19595 + data[i + 1] * 38470 + data[i + 2] * 7471 + 0x8000) >> 16;

// Of equal steps in lightness, so that it reads without colours too.
const WARM = [[13, 8, 60], [84, 15, 109], [187, 55, 84], [249, 142, 8], [252, 255, 164]];
function warm(share) {
  const place = Math.min(Math.max(share, 0), 1) * (WARM.length - 1);
  const low = Math.min(Math.floor(place), WARM.length - 2);
  return WARM[low].map((from, c) => from + (place - low) * (WARM[low + 1][c] - from));
}
