/** The list of images: thumbnails, their state, order, filter, the choice for export, and adding photographs. */

import { imagePath, request } from "./api.js";
import { element } from "./dom.js";
import { highest, uncertain } from "./hint.js";
import { said, t } from "./texts.js";

const $ = (id) => document.getElementById(id);

/** The files that are dropped, those in folders too, without hidden ones, as annotate.py takes them. */
async function dropped({ items, files }) {
  const entries = [...items].map((item) => item.webkitGetAsEntry()).filter(Boolean); // before the event is over
  return entries.some(({ isDirectory }) => isDirectory) ? (await Promise.all(entries.map(filesOf))).flat() : [...files];
}

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))];
  const reader = entry.createReader(), found = [];
  let some;
  do { // it gives a hundred at a time
    some = await new Promise((done, fail) => reader.readEntries(done, fail));
    found.push(...some.filter(({ name }) => !name.startsWith(".")));
  } while (some.length);
  found.sort((one, other) => (one.name < other.name ? -1 : 1));
  return (await Promise.all(found.map(filesOf))).flat();
}

/** Whether the mask of an image has nothing but background. */
function nothingFound({ found }) {
  return Boolean(found?.every((label) => !label));
}

export class ImageList {
  chosen = new Set();
  adding = 0; // photographs that are not on the disk yet
  #items = new Map();
  #images = [];

  /** @param act {open(id), chosen(), reordered(), added(id), notice(about, line, kind)} */
  constructor(act) {
    this.act = act;
    $("sort").onchange = $("filter").onchange = () => {
      this.render(this.state, this.current);
      if ($("sort").value === "name") this.reveal(this.current);
      else $("thumbnails").scrollTo(0, 0); // the first ones are what is asked for
      this.act.reordered();
    };
    $("files").onchange = async ({ target }) => {
      target.blur(); // keys belong to the image again
      await this.add([...target.files]);
      target.value = "";
    };
    let depth = 0; // dragenter comes before the dragleave of the element before
    const files = (event) => event.dataTransfer?.types.includes("Files");
    const over = (change) => (event) => {
      if (!files(event)) return;
      event.preventDefault();
      depth = Math.max(0, depth + change);
      $("drop").hidden = depth === 0;
    };
    addEventListener("dragenter", over(1));
    addEventListener("dragleave", over(-1));
    addEventListener("dragover", over(0));
    addEventListener("drop", async (event) => {
      over(-Infinity)(event);
      if (!files(event)) return;
      try {
        await this.add(await dropped(event.dataTransfer));
      } catch (error) { // a folder that cannot be read
        this.act.notice("add", error.message, "error");
      }
    });
  }

  /** Send photographs one by one, show the first, and say how many there are and why others were refused. */
  async add(files) {
    const added = [], refused = [];
    this.adding += files.length;
    for (const [index, file] of files.entries()) {
      this.act.notice("add", t("adding", { done: index + 1, total: files.length }), "busy");
      try {
        const answer = await request("POST", `api/images?name=${encodeURIComponent(file.name)}`, file, 0);
        added.push((await answer.json()).id);
        if (added.length === 1) {
          $("filter").value = "all"; // where it is listed
          this.act.added(added[0]);
        }
      } catch (error) {
        refused.push(`${file.name}: ${error.message ? said(error.message) : t("noAnswer")}`);
      }
      this.adding--;
    }
    if (!files.length) return this.act.notice("add", t("nothingDropped"), "error");
    const lines = added.length ? [t("added", { count: added.length, total: files.length, image: added[0] })] : [];
    if (refused.length) lines.push(t("notAdded"), ...refused);
    this.act.notice("add", lines.join("\n"), refused.length ? "error" : "done");
  }

  /** The images that are listed, in the order of the list. */
  get order() {
    return this.#images;
  }

  render(state, current) {
    Object.assign(this, { state, current });
    const most = new Set(uncertain(state.images));
    const shown = {
      all: () => true,
      none: (image) => !image.drawn.length,
      strokes: (image) => image.drawn.length,
      predicted: (image) => image.predicted !== null,
      uncertain: (image) => most.has(image.id),
      empty: nothingFound,
    }[$("filter").value];
    const sort = $("sort").value, first = sort === "name" ? [] : highest(state.images, sort);
    this.#images = [...new Set([...first, ...state.images])].filter(shown);
    $("image-count").textContent = state.images.length || "";
    $("nothing").hidden = this.#images.length > 0;
    $("nothing").textContent = t(state.images.length ? "nothing" : "nothingToSee");
    const list = $("thumbnails"), items = this.#images.map((image) => this.#item(image, state.classes, most));
    if (items.length !== list.children.length || items.some((item, index) => list.children[index] !== item)) {
      const focused = document.activeElement;
      list.replaceChildren(...items);
      if (list.contains(focused)) focused.focus({ preventScroll: true });
    }
  }

  /** Bring an image's thumbnail into sight. */
  reveal(id) {
    const near = { block: "nearest", inline: "nearest" };
    const show = () => id === this.current && this.#items.get(id)?.scrollIntoView(near);
    show();
    setTimeout(show, 100); // when the thumbnails that came into sight have got their height
  }

  /** Ask for the pictures again that did not come. */
  reload() {
    for (const picture of $("thumbnails").querySelectorAll("img[src]")) {
      if (picture.complete && !picture.naturalWidth) picture.src = picture.src;
    }
  }

  #item({ id, error, strokes, drawn, learned, predicted, uncertainty, changed, found }, classes, most) {
    if (!this.#items.has(id)) this.#items.set(id, this.#make(id));
    const item = this.#items.get(id);
    const words = [t(drawn.length ? "stateScribbles" : "stateNone")];
    if (strokes) words[0] = t(strokes === 1 ? "stateStroke" : "stateStrokes", { count: strokes });
    if (predicted !== null) words.push(t(nothingFound({ found }) ? "stateEmpty" : "stateMask"));
    if (drawn.length && learned) words.push(t("stateLearned"));
    if (predicted !== null && most.has(id)) words.push(t("stateUncertain"));
    if (drawn.length && learned === false) words.push(t("stateNew"));
    if (changed !== null && $("sort").value === "changed") {
      words.push(t("stateChanged", { percent: Math.round(100 * changed) }));
    }
    if (error) words.splice(0, words.length, t("stateUnreadable"));
    const [open, choose] = item.querySelectorAll("button, input"), mask = item.querySelector(".mask");
    mask.hidden = predicted === null;
    // A round makes its masks twice, at one address: their uncertainty tells them apart.
    const address = imagePath(id, `prediction.png?round=${predicted}&size=256&of=${uncertainty}`);
    if (!mask.hidden && mask.getAttribute("src") !== address) mask.src = address;
    item.classList.toggle("unreadable", Boolean(error));
    item.classList.toggle("uncertain", words.at(-1) === t("stateUncertain"));
    open.setAttribute("aria-current", id === this.current);
    item.querySelector(".state").textContent = words.at(-1);
    open.title = `${id}: ${words.join(", ")}`;
    item.querySelector(".dots").replaceChildren(...drawn.map((label) => {
      const dot = element("i");
      dot.style.background = classes[label]?.shown ?? "#000000";
      return dot;
    }));
    choose.checked = this.chosen.has(id);
    choose.setAttribute("aria-label", t("choose", { image: id }));
    return item;
  }

  #make(id) {
    const open = element("button", { onclick: () => this.act.open(id) },
      element("img", { loading: "lazy", alt: "", draggable: false, src: imagePath(id, "photo?size=256") }),
      element("img", { className: "mask", loading: "lazy", alt: "", draggable: false, hidden: true }),
      element("span", { className: "dots" }), element("span", { className: "name", textContent: id }),
      element("span", { className: "state" }));
    const choose = element("input", { type: "checkbox" });
    choose.onchange = () => {
      this.chosen[choose.checked ? "add" : "delete"](id);
      this.act.chosen();
    };
    return element("li", {}, open, choose);
  }
}
