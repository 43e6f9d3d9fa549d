// Pictures of other sizes, by the filters of silc's preprocessing (Pillow's, and those without antialias).

// Of RGBA or RGB pixels: RGB {width, height, data}, of the whole or of a region of what it is scaled to.
export function resized(image, width, height, filter, seen = { left: 0, top: 0, width, height }) {
  const antialiased = filter === "bilinear" || filter === "bicubic";
  const across = weights(image.width, width, seen.left, seen.width, filter, antialiased);
  const down = weights(image.height, height, seen.top, seen.height, filter, antialiased);
  // Pillow rounds and cuts between its passes, in an order of its own: that moves a value by one, of noise by some more.
  const found = vertically(along(rgb(image), across), down);
  return { ...found, data: Uint8ClampedArray.from(found.data, filter === "tf_bilinear" ? Math.floor : eight) };
}

function rgb({ width, height, data }) {
  const channels = data.length / (width * height);
  return { width, height, data: Float64Array.from({ length: 3 * width * height }, (_, i) => data[channels * Math.floor(i / 3) + (i % 3)]) };
}

function along({ width, height, data }, places) {
  const found = new Float64Array(3 * places.length * height);
  places.forEach(({ first, shares }, x) => {
    for (let y = 0; y < height; y++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let at = 0; at < shares.length; at++) sum += shares[at] * data[3 * (y * width + first + at) + c];
        found[3 * (y * places.length + x) + c] = sum;
      }
    }
  });
  return { width: places.length, height, data: found };
}

function vertically({ width, data }, places) {
  const line = 3 * width;
  const found = new Float64Array(line * places.length);
  places.forEach(({ first, shares }, y) => {
    for (let i = 0; i < line; i++) {
      let sum = 0;
      for (let at = 0; at < shares.length; at++) sum += shares[at] * data[line * (first + at) + i];
      found[line * y + i] = sum;
    }
  });
  return { width, height: places.length, data: found };
}

const eight = (value) => Math.min(Math.max(Math.floor(value + 0.5), 0), 255);
const CUBIC = -0.5;
const KERNELS = {
  linear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  cubic: [2, (x) => cubic(Math.abs(x))],
};

function cubic(x) {
  if (x < 1) return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * CUBIC : 0;
}

// For each place of the axis, where to begin and how much of each pixel.
function weights(length, scaled, from, count, filter, antialiased) {
  const [support, kernel] = KERNELS[filter === "bicubic" ? "cubic" : "linear"];
  const scale = length / scaled;
  const stretch = antialiased ? Math.max(1, scale) : 1;
  return Array.from({ length: count }, (_, at) => {
    const centre = (from + at + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - support * stretch + 0.5));
    const last = Math.min(length, Math.floor(centre + support * stretch + 0.5));
    const shares = Array.from({ length: last - first }, (_, i) => kernel((first + i - centre + 0.5) / stretch));
    const total = shares.reduce((a, b) => a + b, 0);
    return { first, shares: shares.map((share) => share / total) };
  });
}

// Halves to the even number, as Python's round.
export function even(value) {
  const low = Math.floor(value);
  return value - low === 0.5 ? low + (low % 2) : Math.round(value);
}

// Width and height with the shorter side at `size`, each to whole patches.
export function fit(width, height, size, patch) {
  const factor = size / Math.min(width, height) / patch;
  return [width, height].map((side) => patch * Math.max(1, even(side * factor)));
}

// What a picture is scaled to before its centre of `size` is cut out, and where that lies.
export function region({ width, height }, { size, resize }) {
  const shorter = Math.min(width, height);
  const scaled = {
    squash: [size, size],
    squash_crop: [Math.floor(size / 0.875), Math.floor(size / 0.875)],
    crop: [Math.floor((size * width) / shorter), Math.floor((size * height) / shorter)],
  };
  const [across, down] = scaled[resize === "crop_floor" ? "crop" : resize];
  const margin = (rest) => (resize === "crop" ? even(rest / 2) : Math.floor(rest / 2));
  return { width: across, height: down, left: margin(across - size), top: margin(down - size), size };
}
