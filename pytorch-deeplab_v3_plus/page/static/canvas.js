/**
 * The image that is drawn on: view, layers and pointers.
 *
 * The photograph and the predicted areas are elements that the browser scales and moves. Strokes and outlines are drawn
 * at the screen's resolution whenever the view changes, on layers of their own; while a stroke is being drawn, each
 * event adds only its own piece to the layer on top, so that the size of the photograph does not matter.
 */

import { outlines, paintAreas } from "./labels.js";

const HALO = 1.5; // width in CSS pixels of the light edge that lets strokes stand out on any photograph
const LONGEST = 20_000; // points of a stroke, after which the next one begins
const NEAR_WORDS = 110; // CSS pixels from the middle of the ring's words at which they make room
const MOST = 40; // highest zoom, in CSS pixels for a pixel of the photograph

export class View {
  tool = "brush"; // or "eraser", "pan"
  label = 1;
  width = 12;
  mode = "fill"; // how the prediction is shown: "off", "fill" or "outline"
  opacity = 0.5;
  strokesShown = true;

  #image = null; // {width, height}
  #strokes = [];
  #base = null;
  #classes = [];
  #map = null;
  #paths = new Map();
  #place = null;
  #words = [0, 0]; // where those of the ring are
  #stroke = null; // the one that is being drawn
  #pointers = new Map();
  #panning = false;
  #pen = false; // once a pen has touched, fingers move the image and do not draw
  #scheduled = false;
  #moved = false; // whether the user has chosen a view
  #ratio = 0; // of the layers' pixels to CSS pixels

  /** @param finished ({class, width, points}) is called with each stroke; viewed() after each change of the view. */
  constructor(root, finished, viewed) {
    this.root = root;
    this.finished = finished;
    this.viewed = viewed;
    const find = (name) => root.querySelector(`.${name}`);
    [this.world, this.preview, this.photo, this.prediction] = ["world", "preview", "photo", "prediction"].map(find);
    [this.marker, this.cursor] = ["place", "cursor"].map(find);
    const names = ["outlines", "strokes", "live"];
    this.layers = Object.fromEntries(names.map((name) => [name, find(name).getContext("2d")]));
    this.baseLayer = document.createElement("canvas");
    this.photo.onload = () => this.photo.classList.add("loaded");
    new ResizeObserver(() => this.#resize()).observe(root);
    root.addEventListener("pointerdown", (event) => this.#down(event));
    root.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      root.addEventListener(end, (event) => this.#up(event));
    }
    root.addEventListener("pointerleave", () => {
      this.cursor.hidden = true;
      this.at = undefined;
      this.#placeCursor();
    });
    root.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    root.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  /** Show another image; null: none. `small` is a picture of it that is there at once. */
  show(image, photo, small) {
    this.finish();
    this.#image = image;
    this.#strokes = [];
    this.#moved = false;
    this.setBase(null);
    this.setPrediction(null);
    this.setPlace(null);
    this.photo.classList.remove("loaded");
    for (const [element, source] of [[this.preview, small], [this.photo, photo]]) {
      element.hidden = !image;
      if (!image) continue;
      element.src = source;
      element.width = image.width;
      element.height = image.height;
    }
    this.fit();
  }

  /** Ask for the photograph again where it did not come. */
  reload() {
    if (this.photo.complete && !this.photo.naturalWidth) this.photo.src = this.photo.src;
  }

  setClasses(classes) {
    this.#classes = classes;
    this.#redraw();
  }

  setStrokes(strokes) {
    this.#strokes = strokes;
    this.#redraw();
  }

  /** The scribbles that the data set came with, as a label map. */
  setBase(map) {
    this.#base = map;
    paintAreas(this.baseLayer, map, this.#classes, true);
    this.#redraw();
  }

  setPrediction(map) {
    this.#map = map;
    this.#paths = new Map();
    paintAreas(this.prediction, map, this.#classes, false);
    this.update();
  }

  setPlace(place) {
    this.#place = place;
    this.#redraw();
  }

  get hasPrediction() {
    return this.#map !== null;
  }

  /** Take over changed settings: tool, class, width, mode, opacity, whether strokes are shown. */
  update() {
    if (this.mode === "outline" && this.#map && !this.#paths.size) this.#paths = outlines(this.#map);
    this.prediction.hidden = this.mode !== "fill" || !this.#map;
    this.prediction.style.opacity = this.opacity;
    for (const name of ["strokes", "live"]) this.layers[name].canvas.hidden = !this.strokesShown;
    this.root.dataset.tool = this.#panning ? "pan" : this.tool;
    this.#placeCursor();
    this.#redraw();
  }

  /** Hold to move the image, whatever the tool. */
  set panning(value) {
    this.#panning = value;
    this.update();
  }

  // View: a point p of the photograph is at p * scale + offset in CSS pixels.

  fit() {
    if (!this.#image) return this.#redraw();
    const { clientWidth, clientHeight } = this.root;
    const { width, height } = this.#image;
    this.scale = Math.min((clientWidth - 16) / width, (clientHeight - 16) / height, MOST);
    this.smallest = this.scale / 2;
    this.x = (clientWidth - width * this.scale) / 2;
    this.y = (clientHeight - height * this.scale) / 2;
    this.#moved = false;
    this.#redraw();
  }

  /** Zoom by a factor and keep the point (x, y) of the view where it is; without one, its centre. */
  zoom(factor, x = this.root.clientWidth / 2, y = this.root.clientHeight / 2) {
    if (!this.#image) return;
    const scale = Math.min(MOST, Math.max(this.smallest, this.scale * factor));
    const grown = scale / this.scale - 1;
    this.#pan((this.x - x) * grown, (this.y - y) * grown, scale);
  }

  #pan(dx, dy, scale = this.scale) {
    const keep = (value, size, length) => Math.min(length - 48, Math.max(48 - size * scale, value));
    this.scale = scale;
    this.x = keep(this.x + dx, this.#image.width, this.root.clientWidth);
    this.y = keep(this.y + dy, this.#image.height, this.root.clientHeight);
    this.#moved = true;
    this.#redraw();
  }

  #resize() {
    if (!this.root.clientWidth) return; // hidden
    const ratio = (this.#ratio = devicePixelRatio);
    for (const { canvas } of Object.values(this.layers)) {
      canvas.width = Math.round(this.root.clientWidth * ratio);
      canvas.height = Math.round(this.root.clientHeight * ratio);
    }
    if (this.#moved || this.#stroke) this.#redraw(); // under the hand nothing moves
    else this.fit();
    this.#draw(); // now: a canvas of a new size is empty
  }

  // Drawing.

  #redraw() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#scheduled = false;
    if (this.#ratio !== devicePixelRatio && this.root.clientWidth) return this.#resize(); // the window is elsewhere
    for (const context of Object.values(this.layers)) {
      context.restore(); // what was clipped
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, context.canvas.width, context.canvas.height);
      context.save();
    }
    this.marker.hidden = !this.#image || !this.#place || this.mode === "off";
    if (!this.#image) return;
    const { scale, x, y } = this, ratio = devicePixelRatio;
    this.world.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    this.world.style.width = `${this.#image.width}px`;
    this.world.style.height = `${this.#image.height}px`;
    this.photo.classList.toggle("pixels", scale > 8);
    for (const context of Object.values(this.layers)) {
      context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * x, ratio * y);
      context.lineCap = context.lineJoin = "round";
      context.beginPath();
      context.rect(0, 0, this.#image.width, this.#image.height);
      context.clip(); // nothing is drawn beside the photograph
    }
    this.#placeMarker();
    this.#drawOutlines(this.layers.outlines);
    if (this.#base) {
      this.layers.strokes.imageSmoothingEnabled = false;
      this.layers.strokes.drawImage(this.baseLayer, 0, 0, this.#image.width, this.#image.height);
    }
    for (const stroke of this.#strokes) this.#drawStroke(this.layers.strokes, stroke);
    if (this.#stroke) this.#drawStroke(this.#layer, this.#stroke);
    this.#placeCursor();
    this.viewed();
  }

  /** Put the ring at the place, and its words where they are seen whole. */
  #placeMarker() {
    if (this.marker.hidden) return;
    const [x, y] = this.#place.map((value, axis) => (value + 0.5) * this.scale + [this.x, this.y][axis]);
    const words = this.marker.firstElementChild, half = words.offsetWidth / 2 + 6;
    const shift = Math.min(Math.max(x, half), this.root.clientWidth - half) - x;
    const above = y + 28 + words.offsetHeight + 6 > this.root.clientHeight;
    this.marker.style.transform = `translate(${x}px, ${y}px)`;
    words.style.transform = `translate(calc(-50% + ${shift}px), ${above ? "calc(-100% - 56px)" : "0"})`;
    this.#words = [x + shift, y + (above ? -40 : 40)];
  }

  #drawStroke(context, stroke) {
    stroke.path ??= trace(stroke.points);
    this.#ink(context, stroke, (width, colour) => {
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.stroke(stroke.path);
    });
    if (stroke === this.#stroke) delete stroke.path; // it grows
  }

  /** Draw something in a stroke's colour over its light edge, or rub it out. */
  #ink(context, { class: label, width }, stroke) {
    const seen = Math.max(width, 1.5 / this.scale);
    if (label === null) {
      context.globalCompositeOperation = "destination-out";
      stroke(seen + (2 * HALO) / this.scale, "#000"); // and the light edge of what it rubs out
    } else {
      if (context !== this.layers.live) stroke(seen + (2 * HALO) / this.scale, "rgb(255 255 255)");
      stroke(seen, this.#colour(label));
      if (context === this.layers.live) { // the edge of a new piece must not cover the pieces before
        context.globalCompositeOperation = "destination-over";
        stroke(seen + (2 * HALO) / this.scale, "rgb(255 255 255)");
      }
    }
    context.globalCompositeOperation = "source-over";
  }

  #colour(label) {
    return this.#classes[label]?.shown ?? "#000000";
  }

  #drawOutlines(context) {
    if (this.mode !== "outline" || !this.#map) return;
    context.save();
    context.scale(this.#image.width / this.#map.width, this.#image.height / this.#map.height);
    const pixel = this.#map.width / this.#image.width / this.scale;
    for (const [label, path] of this.#paths) {
      for (const [width, colour] of [[4, "rgb(255 255 255)"], [2, this.#colour(label)]]) {
        context.lineWidth = width * pixel;
        context.strokeStyle = colour;
        context.stroke(path);
      }
    }
    context.restore();
  }

  // Pointers: one draws, two fingers (or the middle or right button) move the image.

  #point(event) {
    const { left, top } = this.root.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  }

  /** A point of the view in pixels of the photograph, to a tenth; the centre of the first pixel is (0, 0). */
  #onPhoto({ x, y }) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale].map((value) => Math.round((value - 0.5) * 10) / 10);
  }

  #down(event) {
    if (!this.#image || (event.pointerType === "mouse" && this.#pointers.size)) return;
    if (event.pointerType === "touch" && this.#pen && this.#stroke) return; // the hand that draws with the pen
    document.activeElement?.blur(); // keys belong to the image again
    event.preventDefault();
    this.root.setPointerCapture(event.pointerId);
    if (event.pointerType === "pen") {
      this.#pen = true;
      this.#pointers.clear(); // the hand is on the screen already
      if (this.#stroke) this.#cancel();
    }
    this.#pointers.set(event.pointerId, this.#point(event));
    const eraser = Boolean(event.buttons & 32); // the other end of the pen
    const moves = this.#panning || this.tool === "pan" || (event.button !== 0 && !eraser) ||
      (event.pointerType === "touch" && this.#pen);
    if (this.#pointers.size > 1) this.#cancel(); // the first finger was one of several
    else if (!moves) this.#begin(event, eraser);
  }

  #begin(event, eraser) {
    const label = eraser || this.tool === "eraser" ? null : this.label;
    const point = this.#onPhoto(this.#point(event));
    this.#stroke = { class: label, width: this.width, points: [point], pointer: event.pointerId };
    this.#extend(point, point);
  }

  #move(event) {
    this.cursor.hidden = event.pointerType === "touch";
    this.#placeCursor(this.#point(event));
    if (!this.#pointers.has(event.pointerId)) return;
    if (this.#stroke) {
      if (this.#stroke.pointer !== event.pointerId) return;
      const events = event.getCoalescedEvents?.() ?? [];
      for (const sample of events.length ? events : [event]) {
        const { points } = this.#stroke, last = points.at(-1);
        const point = this.#onPhoto(this.#point(sample));
        if (Math.hypot(point[0] - last[0], point[1] - last[1]) < Math.max(0.5, 1 / this.scale)) continue;
        points.push(point);
        this.#extend(last, point);
        if (points.length < LONGEST) continue;
        const rubs = this.#stroke.class === null;
        this.finish();
        this.#begin(event, rubs);
        break;
      }
      return;
    }
    const before = [...this.#pointers.values()];
    this.#pointers.set(event.pointerId, this.#point(event));
    const after = [...this.#pointers.values()];
    const centre = (points) => ({
      x: points.reduce((sum, { x }) => sum + x, 0) / points.length,
      y: points.reduce((sum, { y }) => sum + y, 0) / points.length,
    });
    const from = centre(before), to = centre(after);
    this.#pan(to.x - from.x, to.y - from.y);
    if (after.length === 2) {
      const span = ([one, other]) => Math.hypot(one.x - other.x, one.y - other.y);
      this.zoom(span(after) / Math.max(1, span(before)), to.x, to.y);
    }
  }

  #up(event) {
    this.#pointers.delete(event.pointerId);
    if (this.#stroke?.pointer !== event.pointerId) return;
    // A touch that the system takes back was the hand beside a pen, or a gesture of its own.
    if (event.type === "pointercancel" && event.pointerType === "touch") this.#cancel();
    else this.finish();
  }

  /** End the stroke that is being drawn, if there is one, where it is; one beside the photograph is none. */
  finish() {
    if (!this.#stroke) return;
    const { class: label, width, points } = this.#stroke;
    this.#stroke = null;
    const beside = [this.#image.width, this.#image.height].some((size, axis) => {
      const along = points.map((point) => point[axis]);
      return Math.max(...along) < -width / 2 || Math.min(...along) > size - 1 + width / 2;
    });
    if (beside) this.#redraw(); // what its light edge has left on the photograph
    else this.finished({ class: label, width, points });
  }

  #cancel() {
    this.#stroke = null;
    this.#draw();
  }

  /** Where a stroke goes while it is drawn: rubbing out must reach the strokes themselves. */
  get #layer() {
    return this.#stroke.class === null ? this.layers.strokes : this.layers.live;
  }

  #extend(from, to) {
    const context = this.#layer, piece = trace([from, to]);
    this.#ink(context, this.#stroke, (width, colour) => {
      context.lineWidth = width;
      context.strokeStyle = colour;
      context.stroke(piece);
    });
  }

  #wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
    const { x, y } = this.#point(event);
    if (event.shiftKey) this.#image && this.#pan(-(event.deltaX || event.deltaY) * lines, 0);
    else this.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015)), x, y);
  }

  #placeCursor(point) {
    this.at = point ?? this.at;
    if (!this.#image) return;
    const near = this.at && Math.hypot(this.at.x - this.#words[0], this.at.y - this.#words[1]) < NEAR_WORDS;
    this.marker.classList.toggle("near", Boolean(near)); // one sees the photograph below them then
    if (!this.at || this.cursor.hidden) return;
    const size = Math.max(4, this.width * this.scale);
    this.cursor.style.width = this.cursor.style.height = `${size}px`;
    this.cursor.style.transform = `translate(${this.at.x - size / 2}px, ${this.at.y - size / 2}px)`;
    this.cursor.style.setProperty("--colour", this.tool === "eraser" ? "transparent" : this.#colour(this.label));
  }
}

/** Return the path along points whose whole numbers are centres of pixels. */
function trace(points) {
  const path = new Path2D();
  path.moveTo(points[0][0] + 0.5, points[0][1] + 0.5);
  for (const [x, y] of points) path.lineTo(x + 0.51, y + 0.5); // 0.01: a line without any length is not drawn
  return path;
}
