// Class maps of patches to labels of pixels; labels as run lengths of COCO and as PNG.

// The likeliest class of each pixel: maps [classes][rows x columns] are interpolated between the patches' centres.
export function labels(maps, rows, columns, width, height) {
  const [across, down] = [between(columns, width), between(rows, height)];
  const found = new Uint8Array(width * height);
  const best = new Float32Array(width * height).fill(-Infinity);
  maps.forEach((map, index) => {
    const lines = Array.from({ length: rows }, (_, row) =>
      Float32Array.from(across, ([low, high, share]) => map[row * columns + low] * (1 - share) + map[row * columns + high] * share));
    down.forEach(([low, high, share], y) => {
      for (let x = 0; x < width; x++) {
        const score = Math.fround(lines[low][x] * (1 - share) + lines[high][x] * share);
        if (score > best[y * width + x]) {
          best[y * width + x] = score;
          found[y * width + x] = index;
        }
      }
    });
  });
  return found;
}

function between(length, scaled) {
  return Array.from({ length: scaled }, (_, at) => {
    const place = Math.max(0, ((at + 0.5) * length) / scaled - 0.5);
    const low = Math.min(Math.floor(place), length - 1);
    return [low, Math.min(low + 1, length - 1), place - low];
  });
}

// All classes on one scale, in 8 bits.
export function shades(maps) {
  const all = maps.flat();
  const low = all.reduce((a, b) => Math.min(a, b), Infinity);
  const high = all.reduce((a, b) => Math.max(a, b), -Infinity);
  const grey = maps.map((map) => Uint8Array.from(map, (value) => Math.round(((value - low) * 255) / Math.max(high - low, 1e-12))));
  return { low, high, grey };
}

// COCO's counts (cocoapi, common/maskApi.c: rleToString) of the pixels of a class, column by column.
export function runLengths(classes, width, height, index) {
  const lengths = [];
  let inside = false;
  let length = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      if ((classes[y * width + x] === index) !== inside) {
        lengths.push(length);
        [inside, length] = [!inside, 0];
      }
      length++;
    }
  }
  lengths.push(length);
  return lengths.map((one, at) => letters(one - (at > 2 ? lengths[at - 2] : 0))).join("");
}

function letters(number) {
  let text = "";
  for (let more = true; more; ) {
    const low = number & 0x1f;
    number >>= 5;
    more = number !== (low & 0x10 ? -1 : 0);
    text += String.fromCharCode(48 + low + (more ? 0x20 : 0));
  }
  return text;
}

// A PNG file in base64: grey, of a palette, or of 3 channels.
export async function png(width, height, values, palette = null, channels = 1) {
  const lines = new Uint8Array(height * (channels * width + 1)); // each begins with its filter: none
  for (let y = 0; y < height; y++) lines.set(values.subarray(y * channels * width, (y + 1) * channels * width), y * (channels * width + 1) + 1);
  const stream = new Blob([lines]).stream().pipeThrough(new CompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  const head = new Uint8Array(13);
  const view = new DataView(head.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([8, palette ? 3 : channels === 3 ? 2 : 0, 0, 0, 0], 8);
  const colours = palette ? [chunk("PLTE", Uint8Array.from(palette.flat()))] : [];
  const file = new Blob([Uint8Array.from([137, 80, 78, 71, 13, 10, 26, 10]), chunk("IHDR", head), ...colours, chunk("IDAT", packed), chunk("IEND", new Uint8Array())]);
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

function chunk(name, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(Array.from(name, (letter) => letter.charCodeAt(0)), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});
const crc = (bytes) => (bytes.reduce((value, byte) => CRC[(value ^ byte) & 255] ^ (value >>> 8), 0xffffffff) ^ 0xffffffff) >>> 0;
