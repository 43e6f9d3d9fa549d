// Principal components of patches, as colours: silc/dense.py in JavaScript.

const TURNS = 300;
const OUTLIERS = 1; // percent at either end

// A small RGB picture, a pixel for each patch, of each of {rows, columns, patches}.
export function components(seen) {
  const patches = seen.flatMap((one) => one.patches);
  const size = patches[0].length;
  const mean = Array.from({ length: size }, (_, c) => patches.reduce((total, one) => total + one[c], 0) / patches.length);
  const centred = patches.map((one) => Float64Array.from(one, (value, c) => value - mean[c]));
  const axes = principal(covariance(centred, size), size);
  const places = axes.map((axis) => centred.map((one) => inner(one, axis)));
  const bounds = places.map((values) => [percentile(values, OUTLIERS), percentile(values, 100 - OUTLIERS)]);
  let from = 0;
  return seen.map(({ rows, columns }) => {
    const data = new Uint8ClampedArray(3 * rows * columns);
    for (let at = 0; at < rows * columns; at++) {
      for (let c = 0; c < 3; c++) data[3 * at + c] = axes[c] ? shade(places[c][from + at], bounds[c]) : 128;
    }
    from += rows * columns;
    return { width: columns, height: rows, data };
  });
}

const shade = (value, [low, high]) => (high - low > 1e-9 ? Math.round((255 * (value - low)) / (high - low)) : 128);
const inner = (a, b) => a.reduce((total, value, at) => total + value * b[at], 0);

function covariance(rows, size) {
  const sums = new Float64Array(size * size);
  for (const row of rows) {
    for (let i = 0; i < size; i++) for (let j = i; j < size; j++) sums[i * size + j] += row[i] * row[j];
  }
  for (let i = 0; i < size; i++) for (let j = 0; j < i; j++) sums[i * size + j] = sums[j * size + i];
  return sums;
}

// The first three axes, by orthogonal iteration; the largest weight of each is positive.
function principal(sums, size) {
  const axes = Array.from({ length: Math.min(3, size) }, (_, k) => Float64Array.from({ length: size }, (_, i) => Math.cos((k + 1) * (i + 1))));
  for (let turn = 0; turn < TURNS; turn++) {
    axes.forEach((axis, k) => axis.set(Float64Array.from(axis, (_, i) => inner(sums.subarray(i * size, (i + 1) * size), axes[k]))));
    axes.forEach((axis, k) => {
      for (const other of axes.slice(0, k)) {
        const share = inner(axis, other);
        axis.forEach((_, i) => (axis[i] -= share * other[i]));
      }
      const length = Math.sqrt(inner(axis, axis)) || 1;
      axis.forEach((_, i) => (axis[i] /= length));
    });
  }
  return axes.map((axis) => {
    const largest = axis.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0);
    return largest < 0 ? axis.map((value) => -value) : axis;
  });
}

function percentile(values, percent) {
  const sorted = Float64Array.from(values).sort();
  const place = ((sorted.length - 1) * percent) / 100;
  const low = Math.floor(place);
  return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}
