/** The page: what is shown, and who hears of what. */

import { Away, belongsTo, get, imagePath, listen, request } from "./api.js";
import { View } from "./canvas.js";
import { ClassList } from "./classes.js";
import { element, icon, withStorage } from "./dom.js";
import { newestRound, nextStep, toCorrect } from "./hint.js";
import { ImageList } from "./images.js";
import { readLabels } from "./labels.js";
import { Panel } from "./panel.js";
import { ImageStrokes, Queue } from "./strokes.js";
import { said, setLanguage, t } from "./texts.js";

const $ = (id) => document.getElementById(id);
const NARROWEST = 0.001, WIDEST = 0.15; // widths of the brush, as shares of the photograph's longest side
const LABELS_SHOWN = 4e6, BASE_SHOWN = 16e6; // pixels of a prediction and of scribbles that are kept for showing
const LONGEST_NAME = 24; // letters of a class in the line on top
const SECONDS_DONE = 6; // for which a line says that something is done
const MODES = ["off", "fill", "outline"];

let state = null; // the server's account of everything but strokes and masks
let current = null; // id of the image that is shown
let object = 1; // the class that was last chosen beside the background
let strokes = null; // its ImageStrokes
let queue = null;
let mask = null; // address of the mask that is shown or on its way
let round = null; // an older one whose masks are shown; null: the newest of each image
let brush = 0.015; // width as a share of the longest side
let away = false;
let refusal = ""; // the server's line where it is there and will not talk
let sending = { unsent: 0, away: false, line: "", refused: 0 };
let added = null; // a photograph that is on its way to the list
const opened = new Map(); // id -> ImageStrokes
const helped = new Set(); // places that have got their stroke

const view = new View($("view"), finished, viewed);
const images = new ImageList({
  open,
  chosen: () => panel.renderChoice(),
  reordered: renderTools,
  notice,
  added: (id) => {
    added = id;
    refreshState();
  },
});
const classes = new ClassList({ choose, failed, notice });
const panel = new Panel({
  failed,
  notice,
  refresh: () => refreshState(),
  chosen: () => [...images.chosen],
  chooseNone: () => {
    images.chosen.clear();
    render();
  },
  show: showRound,
});

// What the server says.

/** Return a function that runs `work`, and once more where it is called meanwhile. */
function once(work) {
  let running = false, again = false;
  return async () => {
    again = true;
    if (running) return;
    running = true;
    while (again) {
      again = false;
      await work().catch(failed);
    }
    running = false;
  };
}

const refreshState = once(async () => {
  const asked = round, before = state?.rounds;
  state = await get(`api/state${asked === null ? "" : `?round=${asked}`}`, 300_000); // the first reads every image
  away = false;
  if (round === asked && state.shown !== asked) round = null; // it is gone
  if (before && newestRound(before) !== newestRound(state.rounds)) showRound(null); // its masks, as they come
  belongsTo(state.folder);
  if (!queue) start();
  view.setClasses(state.classes);
  if (imageOf(added)) {
    open(added);
    added = null;
  } else if (!imageOf(current)) open(firstImage());
  else if (strokes && imageOf(current).error) open(current); // it could not be read after all
  render();
  if (maskOf(current) !== mask) showPrediction();
});

const refreshStrokes = once(async () => {
  const wanted = strokes;
  if (!wanted) return;
  const asked = performance.now();
  const answer = await get(imagePath(wanted.image, "strokes"));
  const news = answer.base !== wanted.base;
  wanted.load(answer, asked);
  if (wanted !== strokes) return;
  showStrokes();
  if (news) {
    const map = wanted.base && (await readLabels(wanted.base, state.classes, BASE_SHOWN).catch((error) => {
      wanted.base = null; // it is asked for again after the next answer
      throw error;
    }));
    if (wanted === strokes) view.setBase(map);
  }
});

function imageOf(id) {
  return state.images.find((each) => each.id === id);
}

function firstImage() {
  return (state.images.find(({ error }) => !error) ?? state.images[0])?.id ?? null;
}

/** The address of the mask to show over an image, or null. */
function maskOf(id) {
  const image = imageOf(id);
  if (!image || image.predicted === null) return null;
  return `${imagePath(id, "prediction.png")}?round=${image.predicted}`;
}

const showPrediction = once(async () => {
  const wanted = (mask = maskOf(current));
  const map = wanted && (await readLabels(wanted, state.classes, LABELS_SHOWN));
  if (wanted !== mask || wanted !== maskOf(current)) return; // another image is shown by now
  view.setPrediction(map);
  renderTools();
});

function changed(topics) {
  if (topics.includes(`strokes:${current}`)) refreshStrokes();
  if (topics.includes(`prediction:${current}`)) mask = undefined; // the same address, another mask
  refreshState();
}

/** The first answer: the queue of this data set, and the image, class, width and round that were shown last. */
function start() {
  const kept = withStorage(() => sessionStorage.getItem(`rloss-shown ${state.folder}`));
  const { label, object: lastObject, width, shown } = JSON.parse(kept ?? "{}");
  view.label = label ?? view.label;
  object = lastObject ?? object;
  brush = width ?? brush;
  if (shown) showRound(shown);
  queue = new Queue(state.folder, send, (status) => {
    sending = status;
    renderStatus();
    if (strokes) showStrokes();
  });
  const asked = state.images.find(({ id }) => `#${encodeURIComponent(id)}` === location.hash);
  open(asked?.id ?? firstImage());
  queue.flush();
}

/** Keep for a reload of this tab what the user has chosen. */
function remember() {
  if (!state) return;
  const chosen = JSON.stringify({ label: view.label, object, width: brush, shown: round });
  withStorage(() => sessionStorage.setItem(`rloss-shown ${state.folder}`, chosen));
}

async function send(image, operation) {
  await request("POST", imagePath(image, "strokes"), operation, 10_000);
  opened.get(image)?.confirm(operation);
}

// What the user does.

function open(id) {
  view.finish();
  const last = strokes?.list.at(-1)?.class; // after the background of one image comes the object of the next
  if (last === 0 && view.label === 0 && drawnOn(current).size > 1 && !drawnOn(id).size) view.label = object;
  current = id;
  const image = imageOf(id);
  if (id !== null && !opened.has(id)) opened.set(id, new ImageStrokes(state.folder, id, queue));
  strokes = image && !image.error ? opened.get(id) : null;
  if (id !== null) history.replaceState(null, "", `#${encodeURIComponent(id)}`);
  $("view").querySelector(".empty").hidden = !image?.error;
  $("view").querySelector(".empty").textContent = image?.error ? t("unreadable", { line: said(image.error) }) : "";
  if (id !== null) document.body.dataset.tab = "draw"; // without images, the tab on which they are added stays
  view.show(strokes && image, imagePath(id, "photo"), imagePath(id, "photo?size=256"));
  if (strokes) {
    strokes.base = null; // read again for the new view
    showStrokes();
    refreshStrokes();
    showPrediction();
  }
  render();
  images.reveal(id);
  const next = neighbour(1);
  if (next && !next.error) new Image().src = imagePath(next.id, "photo"); // it is there when it is asked for
}

/** The classes that are drawn on an image. */
function drawnOn(id) {
  const here = opened.get(id)?.list.map((stroke) => stroke.class) ?? [];
  return new Set([...(imageOf(id)?.drawn ?? []), ...here].filter((label) => label !== null));
}

function neighbour(step) {
  const { order } = images, at = order.findIndex(({ id }) => id === current);
  return order[at < 0 ? 0 : at + step];
}

function go(step) {
  const image = neighbour(step);
  if (image) open(image.id);
}

/** Show the next image without strokes, from the first one on after the last; where all have some, the next image. */
function goToUndrawn() {
  const { order } = images, at = order.findIndex(({ id }) => id === current);
  const others = [...order.slice(at + 1), ...order.slice(0, Math.max(at, 0))];
  const next = others.find(({ drawn, error }) => !drawn.length && !error);
  if (next) open(next.id);
  else go(1);
}

function goToUncertain() {
  const next = toCorrect(state.images, current);
  if (next !== undefined) open(next);
}

function finished(stroke) {
  strokes.draw(stroke);
  const place = placeOf(current), image = imageOf(current);
  if (!image) return; // it was removed meanwhile
  const near = Math.max(image.width, image.height) / 20;
  const reaches = ([x, y]) => Math.hypot(x - place[0], y - place[1]) < near;
  if (place && stroke.points.some(reaches)) helped.add(`${place} ${current}`);
  showStrokes();
}

/** Show the masks of a round, of an older one until a newer is asked for. */
function showRound(number) {
  round = number === newestRound(state.rounds) ? null : number;
  remember();
  return refreshState();
}

/** Where a stroke helps most, until there is one. */
function placeOf(id) {
  const place = imageOf(id)?.place;
  return place && !helped.has(`${place} ${id}`) ? place : null;
}

function showStrokes() {
  view.setStrokes(strokes.list);
  view.setPlace(placeOf(current));
  renderTools();
}

function choose(label) {
  if (!state || label >= state.classes.length) return;
  view.label = label;
  object = label || object;
  if (view.tool !== "brush") setTool("brush");
  view.update();
  remember();
  classes.render(state.classes, view.label);
  renderHint();
}

function setTool(tool) {
  view.tool = tool;
  view.update();
  renderTools();
}

function setBrush(share) {
  brush = Math.min(WIDEST, Math.max(NARROWEST, share));
  remember();
  renderTools();
}

/** Make the brush a quarter wider or narrower, by a pixel at least. */
function changeBrush(wider) {
  const image = imageOf(current), { width } = view;
  if (!image) return;
  const wanted = wider ? Math.max(width + 1, width * 1.25) : Math.max(1, Math.min(width - 1, width / 1.25));
  setBrush(wanted / Math.max(image.width, image.height));
}

function prefer(key, value) {
  withStorage(() => localStorage.setItem(key, value));
}

function setMode(mode) {
  view.mode = mode;
  prefer("rloss-mode", mode);
  view.update();
  renderTools();
}

function undo() {
  strokes?.undo();
  if (strokes) showStrokes();
}

function redo() {
  strokes?.redo();
  if (strokes) showStrokes();
}

const ACTIONS = {
  toNext: goToUndrawn,
  toTrain: () => panel.train(),
  toMost: goToUncertain,
  toMostNext: goToUncertain,
  toNewest: () => showRound(newestRound(state.rounds)),
};

// What is shown.

function render() {
  if (!state) return;
  if (view.label >= state.classes.length) view.label = state.classes.length - 1;
  const folder = state.folder.split("/").pop();
  document.title = `${folder} · rloss`;
  $("folder").textContent = folder;
  $("folder").title = state.folder;
  images.render(state, current);
  classes.render(state.classes, view.label);
  panel.render(state, round);
  renderHint();
  if (strokes) showStrokes();
  renderTools();
  renderStatus();
}

/** The line on top: what to do next. */
function renderHint() {
  const { text, name, key, count, action } = nextStep(state, imageOf(current), view.label);
  const hasKey = key <= 9 && matchMedia("(hover: hover)").matches; // where one points with a finger there are no keys
  const short = name?.length > LONGEST_NAME ? `${name.slice(0, LONGEST_NAME - 1)}…` : name;
  const rounds = { round: state.shown, newest: newestRound(state.rounds) };
  const words = t(text, { name: short, key: hasKey ? t("hintKey", { key }) : "", count, ...rounds });
  if ($("hint-text").textContent !== words) $("hint-text").textContent = words; // it is read out when it is set
  $("hint-action").hidden = !action;
  if (action) $("hint-action").textContent = action === "toTrain" ? $("train").textContent : t(action, rounds);
  $("hint-action").onclick = ACTIONS[action];
}

function renderTools() {
  if (!state) return;
  const image = imageOf(current);
  const longest = image ? Math.max(image.width, image.height) : 0;
  view.width = Math.max(1, Math.round(brush * longest));
  $("width").value = (100 * Math.log(brush / NARROWEST)) / Math.log(WIDEST / NARROWEST);
  $("width-value").textContent = `${view.width} px`;
  for (const tool of ["brush", "eraser", "pan"]) $(`tool-${tool}`).setAttribute("aria-pressed", view.tool === tool);
  document.body.classList.toggle("no-masks", view.mode === "off");
  for (const mode of MODES) {
    $(`mode-${mode}`).setAttribute("aria-pressed", view.mode === mode);
    $(`mode-${mode}`).disabled = !view.hasPrediction;
  }
  $("opacity").disabled = !view.hasPrediction || view.mode !== "fill";
  $("opacity").value = 100 * view.opacity;
  $("show-strokes").setAttribute("aria-pressed", view.strokesShown);
  $("undo").disabled = !strokes?.done.length;
  $("redo").disabled = !strokes?.undone.length;
  const at = images.order.findIndex(({ id }) => id === current);
  $("position").title = current ?? "";
  $("position").textContent = image ? `${at < 0 ? "–" : at + 1} / ${images.order.length}` : "";
  $("previous").disabled = at <= 0;
  $("next").disabled = at >= 0 && at === images.order.length - 1;
  view.update();
}

function viewed() {
  $("zoom").textContent = current === null ? "" : `${Math.round(view.scale * 100)} %`;
}

function renderStatus() {
  const gone = away || sending.away;
  let line = "";
  if (queue?.fragile) line = t("unstored");
  else if (gone) line = t(sending.unsent ? "awayUnsent" : "away", sending);
  else if (sending.refused) line = t("refused", { ...sending, line: said(sending.line) });
  else if (refusal) line = t("refusedPage", { line: said(refusal) });
  else if (sending.line) line = t("notSaved", { line: said(sending.line) });
  else if (state?.trouble) line = t("trouble", { line: said(state.trouble) });
  $("banner").hidden = !line;
  $("banner-text").textContent = line;
  $("banner-discard").hidden = !sending.refused || gone;
  const waits = gone || sending.line;
  $("saved").textContent = sending.unsent ? t(waits ? "unsent" : "saving", sending) : gone ? "" : t("saved");
  $("saved").className = sending.unsent && waits ? "bad" : "";
}

/**
 * Show a line in the place of the last one about the same thing. It is "busy", "done", which leaves by itself, or an
 * "error", which stays until it is closed or the thing is tried again: nobody may be looking when it comes.
 */
function notice(about, line, kind) {
  $("notices").querySelector(`[data-about="${about}"]`)?.remove();
  if (!line) return;
  const close = element("button", { className: "quiet", ariaLabel: t("close") }, icon("close"));
  close.onclick = () => item.remove();
  const item = element("p", { className: kind }, element("span", { textContent: line }), close);
  item.dataset.about = about;
  $("notices").append(item);
  if (kind === "done") setTimeout(close.onclick, SECONDS_DONE * 1000);
}

/** Say that something did not work: a text of texts.js, with the server's line in it. */
function failed(error, text = "notShown") {
  if (error instanceof Away) {
    away = true;
    return renderStatus();
  }
  notice(text, t(text, { line: said(error.message) }), "error");
  if (!("status" in error)) console.error(error);
}

// Controls and keys.

for (const place of document.querySelectorAll("[data-icon]")) place.prepend(icon(place.dataset.icon));
for (const tool of ["brush", "eraser", "pan"]) $(`tool-${tool}`).onclick = () => setTool(tool);
for (const mode of MODES) $(`mode-${mode}`).onclick = () => setMode(mode);
$("width").oninput = ({ target }) => setBrush(NARROWEST * (WIDEST / NARROWEST) ** (target.value / 100));
$("opacity").oninput = ({ target }) => {
  view.opacity = target.value / 100;
  view.update();
};
const toggleStrokes = () => {
  view.strokesShown = !view.strokesShown;
  renderTools();
};
const help = () => {
  const names = [
    ["0–9", "keyNumbers"], ["B", "brush"], ["E", "eraser"], ["V", "pan"], ["[  ]", "width"],
    ["Ctrl Z", "undo"], ["Ctrl Y", "redo"], ["← →", "keyNext"], ["N", "keyUncertain"], ["P", "keyMode"],
    ["H", "showStrokes"], ["F", "fit"], ["+ −", "keyZoom"], [t("keySpace"), "keyPan"], [t("keyWheel"), "keyZoom"],
  ];
  $("help-box").querySelector("dl").replaceChildren(...names.flatMap(([keys, text]) => [
    element("dt", { textContent: keys }), element("dd", { textContent: t(text) }),
  ]));
  $("help-box").showModal();
};
const discard = () => {
  const refused = queue.discard();
  for (const one of opened.values()) one.forget(refused);
};
const clicks = {
  undo, redo, previous: () => go(-1), next: () => go(1),
  "zoom-in": () => view.zoom(1.5), "zoom-out": () => view.zoom(1 / 1.5), fit: () => view.fit(),
  "show-strokes": toggleStrokes, help, "banner-discard": discard,
};
for (const [id, click] of Object.entries(clicks)) $(id).onclick = click;
for (const button of $("tabs").children) {
  button.onclick = () => {
    document.body.dataset.tab = button.dataset.tab;
    images.reveal(current);
  };
}
for (const button of document.querySelectorAll("dialog .close")) {
  button.onclick = () => button.closest("dialog").close();
}

const KEYS = {
  b: () => setTool("brush"), e: () => setTool("eraser"), v: () => setTool("pan"),
  "[": () => changeBrush(false), "]": () => changeBrush(true),
  arrowleft: () => go(-1), arrowright: () => go(1), pageup: () => go(-1), pagedown: () => go(1), n: goToUncertain,
  p: () => view.hasPrediction && setMode(MODES[(MODES.indexOf(view.mode) + 1) % 3]), h: toggleStrokes,
  f: () => view.fit(), "+": () => view.zoom(1.25), "=": () => view.zoom(1.25), "-": () => view.zoom(0.8), "?": help,
};

addEventListener("keydown", (event) => {
  if (!state || document.querySelector("dialog[open]")) return;
  if (event.target.closest("select, input:not([type=range], [type=checkbox])")) return;
  // While a Japanese keyboard composes, and on keyboards of other scripts, only the code says which key it was.
  const latin = event.key !== "Process" && /^[ -~]+$/.test(event.key);
  const key = (latin ? event.key : event.code.replace("Key", "")).toLowerCase();
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(event.code)?.[1];
  let action;
  if (event.ctrlKey || event.metaKey) action = { z: event.shiftKey ? redo : undo, y: redo }[key];
  else if (event.altKey) return;
  else if (event.code === "Space" && !event.target.closest("button, summary, a, [type=checkbox]")) {
    action = () => (view.panning = true);
  }
  else if (digit && !event.shiftKey) action = () => choose(Number(digit));
  else if (!(event.target.closest("input") && key.startsWith("arrow"))) action = KEYS[key];
  if (!action) return;
  event.preventDefault();
  action();
});
addEventListener("keyup", ({ code }) => code === "Space" && (view.panning = false));
addEventListener("blur", () => (view.panning = false));
// A button that was clicked must not take the space key that moves the image.
addEventListener("click", ({ target, detail }) => detail && target.closest("button, label")?.blur());
addEventListener("pagehide", () => view.finish());
addEventListener("beforeunload", (event) => (queue?.fragile || images.adding) && event.preventDefault());

$("language").onchange = ({ target }) => {
  prefer("rloss-language", setLanguage(target.value));
  render();
};
const language = withStorage(() => localStorage.getItem("rloss-language"));
$("language").value = setLanguage(language ?? navigator.language.slice(0, 2));
view.mode = withStorage(() => localStorage.getItem("rloss-mode")) ?? view.mode;

listen({
  opened: () => {
    away = false;
    refusal = "";
    renderStatus();
    refreshState();
    mask = undefined;
    refreshStrokes();
    view.reload();
    images.reload();
    queue?.flush();
  },
  changed,
  away: async () => {
    const answer = await get("api/state").catch((error) => error);
    away = answer instanceof Away;
    refusal = answer instanceof Error && !away ? answer.message : "";
    renderStatus();
  },
});
refreshState();
