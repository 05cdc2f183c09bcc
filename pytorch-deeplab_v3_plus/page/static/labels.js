/** Label maps in the browser: from a PNG in the palette's colours to classes, and from these to areas and outlines. */

import { Away } from "./api.js";

const UNLABELLED = 255;

/** A colour, "#rrggbb", as canvases keep an opaque pixel of it. */
function pixel(colour) {
  const value = parseInt(colour.slice(1), 16);
  return ((255 << 24) | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
}

/** Read a label map, made smaller where it has more than `limit` pixels: {width, height, labels: Uint8Array}. */
export async function readLabels(url, classes, limit) {
  const response = await fetch(url, { cache: "no-cache" }).catch(() => {
    throw new Away();
  });
  if (!response.ok) return null;
  const bitmap = await createImageBitmap(await response.blob(), { colorSpaceConversion: "none" });
  const scale = Math.min(1, Math.sqrt(limit / (bitmap.width * bitmap.height)));
  const width = Math.round(bitmap.width * scale), height = Math.round(bitmap.height * scale);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  const pixels = new Uint32Array(context.getImageData(0, 0, width, height).data.buffer);
  const classOf = new Map(classes.map(({ color }, label) => [pixel(color), label]));
  const labels = new Uint8Array(pixels.length);
  let last = -1, label = UNLABELLED; // neighbours mostly have the same colour
  for (let index = 0; index < pixels.length; index++) {
    if (pixels[index] !== last) label = classOf.get((last = pixels[index])) ?? UNLABELLED;
    labels[index] = label;
  }
  return { width, height, labels };
}

/** Draw the labelled areas on a canvas, which gets the map's size; the background only where `background` says so. */
export function paintAreas(canvas, map, classes, background) {
  canvas.width = map?.width ?? 1;
  canvas.height = map?.height ?? 1;
  if (!map) return;
  const colours = new Uint32Array(256);
  classes.forEach(({ shown }, label) => {
    if (label || background) colours[label] = pixel(shown);
  });
  const picture = new ImageData(map.width, map.height);
  const pixels = new Uint32Array(picture.data.buffer);
  for (let index = 0; index < pixels.length; index++) pixels[index] = colours[map.labels[index]];
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

/** The borders between areas as paths in the map's pixels, one for each class: a border belongs to the higher class. */
export function outlines({ width, height, labels }) {
  const paths = new Map();
  const owner = (one, other) => {
    return one === other || one === UNLABELLED || other === UNLABELLED ? 0 : Math.max(one, other);
  };
  /** Trace the borders between neighbouring lines, whose pixels are `across` apart, and along the lines `along`. */
  const trace = (lines, length, across, along, segment) => {
    for (let line = 1; line < lines; line++) {
      let start = 0, current = 0;
      for (let position = 0, index = line * across; position <= length; position++, index += along) {
        const next = position < length ? owner(labels[index - across], labels[index]) : 0;
        if (next === current) continue;
        if (current) {
          if (!paths.has(current)) paths.set(current, new Path2D());
          segment(paths.get(current), line, start, position);
        }
        current = next;
        start = position;
      }
    }
  };
  trace(height, width, width, 1, (path, y, from, to) => {
    path.moveTo(from, y);
    path.lineTo(to, y);
  });
  trace(width, height, 1, width, (path, x, from, to) => {
    path.moveTo(x, from);
    path.lineTo(x, to);
  });
  return paths;
}
