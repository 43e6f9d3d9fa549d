// What is taken away: the picture as it is seen, label values as PNG, masks as COCO writes them.

import { $, state } from "./state.js";

const segmented = () => state.shown.find((one) => one.view === "classes" || one.view === "heat")?.data;

export function savePicture() {
  $("picture").toBlob((blob) => save("picture.png", blob));
}

// Both say whether there is something to save.
export function saveLabels() {
  const found = segmented();
  if (found) save("labels.png", new Blob([Uint8Array.from(atob(found.file), (letter) => letter.charCodeAt(0))], { type: "image/png" }));
  return Boolean(found);
}

export function saveCoco() {
  const found = segmented();
  if (found) save("masks.json", new Blob([JSON.stringify(coco(found.masks))], { type: "application/json" }));
  return Boolean(found);
}

function coco(masks) {
  const { width, height, file } = state.picture;
  const annotation = ({ share, rle }, at) => ({
    id: at + 1, image_id: 1, category_id: at + 1, iscrowd: 1, area: Math.round(share * width * height), segmentation: rle,
  });
  return {
    images: [{ id: 1, width, height, file_name: file?.name ?? "example.png" }],
    annotations: masks.map(annotation).filter(({ area }) => area > 0),
    categories: masks.map(({ name }, at) => ({ id: at + 1, name })),
  };
}

function save(name, blob) {
  const link = document.createElement("a");
  Object.assign(link, { href: URL.createObjectURL(blob), download: name }).click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // some browsers read it only after the click
}
