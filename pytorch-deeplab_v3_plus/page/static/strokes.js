/** Strokes on their way to the disk: the queue of unsent ones, and what is drawn on one image, with undo and redo. */

import { Away } from "./api.js";
import { withStorage } from "./dom.js";

/** Return a random identifier; crypto.randomUUID is missing where the page comes from another machine without TLS. */
export function identifier() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Operations that the server has not confirmed yet. Each is an entry of its own in localStorage, so that tabs cannot
 * overwrite each other's, and stays there until the server has it on disk: a reload or a closed tab loses nothing.
 * Every tab sends all of them; the server knows an operation that arrives twice by its id.
 */
export class Queue {
  #entries = new Map(); // key -> {image, operation, refused}
  #prefix;
  #count = 0;
  #running = false;
  #trouble = {};
  #again = false;
  #timer;

  /**
   * @param folder the data set: another one may be served at the same address tomorrow.
   * @param send (image, operation) => Promise, which throws Away or Refusal.
   * @param report ({unsent, away, line, refused}) is called after each change.
   */
  constructor(folder, send, report) {
    this.#prefix = `rloss-unsent ${encodeURIComponent(folder)} `; // without a space, and so no other folder's beginning
    this.send = send;
    this.report = report;
    addEventListener("storage", ({ key }) => key?.startsWith(this.#prefix) && this.#tell());
  }

  /** The unsent operations on an image, oldest first. */
  of(image) {
    return this.#keys().map((key) => this.#entries.get(key)).filter((entry) => entry.image === image)
      .map((entry) => entry.operation);
  }

  add(image, operation) {
    const order = `${String(Date.now()).padStart(15, "0")} ${String(this.#count++).padStart(6, "0")}`;
    const key = `${this.#prefix}${order} ${operation.id}`;
    const entry = { image, operation, unstored: true }; // where it is not stored, it is sent from memory
    withStorage(() => {
      localStorage.setItem(key, JSON.stringify({ image, operation }));
      entry.unstored = false;
    });
    this.#entries.set(key, entry);
    this.flush();
  }

  /** Whether closing the page would lose an operation. */
  get fragile() {
    return [...this.#entries.values()].some((entry) => entry.unstored);
  }

  /** Send what is there, oldest first, and try again later what does not arrive. */
  async flush() {
    this.#again = true;
    if (this.#running) return;
    this.#running = true;
    clearTimeout(this.#timer);
    this.#tell();
    while (this.#again) {
      this.#again = false;
      this.#trouble = await this.#sendAll();
      if (this.#trouble.stop) break;
    }
    this.#running = false;
    this.#tell();
    const { line, stop } = this.#trouble;
    if (line !== undefined) this.#timer = setTimeout(() => this.flush(), stop ? 1000 : 10_000);
  }

  /** Send each operation once, and return what the last trouble was: {away, line, stop}. */
  async #sendAll() {
    let trouble = {};
    for (const key of this.#keys()) {
      const entry = this.#entries.get(key);
      if (!entry) continue;
      try {
        await this.send(entry.image, entry.operation);
        this.#forget(key);
      } catch (error) {
        const away = error instanceof Away;
        entry.refused = !away && [400, 404, 409, 413].includes(error.status); // others may be taken all the same
        trouble = { away, line: error.message, stop: !entry.refused };
        if (trouble.stop) break;
      }
    }
    return trouble;
  }

  /** Forget the operations that the server will not take, and return their ids. */
  discard() {
    const refused = [...this.#entries].filter(([, entry]) => entry.refused);
    for (const [key] of refused) this.#forget(key);
    this.flush();
    return new Set(refused.map(([, entry]) => entry.operation.id));
  }

  #forget(key) {
    withStorage(() => localStorage.removeItem(key));
    this.#entries.delete(key);
  }

  #keys() {
    withStorage(() => {
      const stored = Object.keys(localStorage).filter((key) => key.startsWith(this.#prefix));
      for (const key of stored) {
        if (!this.#entries.has(key)) this.#entries.set(key, JSON.parse(localStorage.getItem(key)));
      }
      for (const [key, entry] of this.#entries) {
        if (!entry.unstored && localStorage.getItem(key) === null) this.#entries.delete(key); // another tab has sent it
      }
    });
    return [...this.#entries.keys()].sort();
  }

  #tell() {
    const { away = false, line = "" } = this.#trouble;
    const keys = this.#keys();
    const refused = keys.filter((key) => this.#entries.get(key).refused).length;
    this.report({ unsent: keys.length, away, line, refused });
  }
}

/** The strokes of one image, as the server has them and with what is on its way; this tab's own can be undone. */
export class ImageStrokes {
  #known = new Map(); // every stroke seen here, for redo: the server does not send those that were removed
  #fromServer = [];
  #confirmed = []; // operations that are on disk, but not yet in #fromServer

  constructor(folder, image, queue) {
    this.image = image;
    this.base = null;
    this.queue = queue;
    this.key = `rloss-undo ${folder} ${image}`;
    // sessionStorage belongs to the tab and outlives a reload: what other tabs drew is theirs to undo.
    const history = JSON.parse(withStorage(() => sessionStorage.getItem(this.key)) ?? '{"done": [], "undone": []}');
    this.done = history.done;
    this.undone = history.undone;
  }

  /** Take what the server sent on a request of the time `asked`. */
  load({ strokes, base }, asked) {
    this.#fromServer = strokes;
    this.#confirmed = this.#confirmed.filter(({ time }) => time >= asked);
    this.base = base;
    for (const stroke of strokes) this.#known.set(stroke.id, stroke);
  }

  /** An operation has arrived on disk. */
  confirm(operation) {
    this.#confirmed.push({ operation, time: performance.now() });
  }

  /** What is drawn, in drawing order. */
  get list() {
    const strokes = new Map(this.#fromServer.map((stroke) => [stroke.id, stroke]));
    for (const operation of [...this.#confirmed.map((entry) => entry.operation), ...this.queue.of(this.image)]) {
      const { id, op, stroke } = operation;
      if (op === "stroke") {
        if (!this.#known.has(id)) this.#known.set(id, operation);
        strokes.set(id, this.#known.get(id));
      } else if (op === "remove") strokes.delete(stroke);
      else if (this.#known.has(stroke)) strokes.set(stroke, this.#known.get(stroke));
    }
    return [...strokes.values()];
  }

  draw({ class: label, width, points }) {
    const id = identifier();
    this.done.push(id);
    this.undone = [];
    this.#send({ id, op: "stroke", class: label, width, points });
  }

  undo() {
    this.#move(this.done, this.undone, "remove");
  }

  redo() {
    this.#move(this.undone, this.done, "restore");
  }

  /** Forget strokes that the server will never have. */
  forget(ids) {
    this.done = this.done.filter((id) => !ids.has(id));
    this.undone = this.undone.filter((id) => !ids.has(id));
    this.#keep();
  }

  #move(from, to, op) {
    const stroke = from.pop();
    if (stroke === undefined) return;
    to.push(stroke);
    this.#send({ id: identifier(), op, stroke });
  }

  #send(operation) {
    this.#keep();
    this.queue.add(this.image, operation);
  }

  #keep() {
    withStorage(() => sessionStorage.setItem(this.key, JSON.stringify({ done: this.done, undone: this.undone })));
  }
}
