/** Training with its settings and progress, the table of rounds, and what is exported. */

import { get, request } from "./api.js";
import { nameOf } from "./classes.js";
import { element, renew } from "./dom.js";
import { describe, said, t } from "./texts.js";

const $ = (id) => document.getElementById(id);
const PHASES = {
  starting: "phaseStarting",
  "partial CE": "phaseCe",
  "+ DenseCRF loss": "phaseCrf",
  predicting: "phasePredicting",
  finished: "phasePredicting", // its process has not ended yet
};
const COMMANDS = {
  check: "commandCheck", partial_ce: "phaseCe", densecrf: "phaseCrf", masks: "commandMasks", onnx: "onnx",
};
const NETWORKS = ["checkpoint", "onnx"];
const FEW = 5; // images that a class is drawn on, below which the page asks for more
const SHARES = { changed: "roundChanged", miou: "roundMiou", miou_others: "roundMiouOthers" };

/** A length of time in the page's language. */
function duration(seconds) {
  if (seconds < 90) return t("lastedSeconds", { count: Math.round(seconds) });
  return t("lastedMinutes", { count: Math.round(seconds / 60) });
}

/** A length of time that nobody knows to the second. */
function roughly(seconds) {
  return duration(Math.ceil(seconds / 10) * 10);
}

export class Panel {
  #changed = {}; // settings that the user has changed: name -> value
  #resets = 0;
  #posting = false;
  #stopping = false;

  /** @param act {failed(error, text), notice(about, line, kind), refresh(), chosen(), chooseNone(), show(round)} */
  constructor(act) {
    this.act = act;
    $("train").onclick = () => this.train();
    $("resume").onclick = () => this.#post("api/train/resume");
    $("train-afresh").onclick = () => this.train(null);
    $("stop").onclick = async () => {
      this.#stopping = await this.#post("api/train/stop");
      this.render(this.state, this.older);
    };
    $("choose-none").onclick = () => act.chooseNone();
    $("commands").onclick = () => this.#commands();
    for (const button of document.querySelectorAll("[data-export]")) button.onclick = () => this.#export(button);
  }

  /** Start a round: from the network of the one that is shown, where there is one, or from the bundled weights. */
  train(start = this.state.shown) {
    return this.#post("api/train", { settings: this.#changed, start });
  }

  /** Ask for something, once for a double click; return whether it was granted. */
  async #post(path, body = {}) {
    if (this.#posting) return false;
    this.#posting = true;
    this.act.notice("notTrained", "");
    try {
      await request("POST", path, body, 0); // copying many large photographs takes its time
      await this.act.refresh();
      return true;
    } catch (error) {
      this.act.failed(error, "notTrained");
      return false;
    } finally {
      this.#posting = false;
    }
  }

  /** @param older the round whose masks are shown, null where those are the newest. */
  render(state, older) {
    Object.assign(this, { state, older });
    const { training, shown } = state;
    const running = Boolean(training?.running);
    if (!running) this.#stopping = false;
    $("progress").hidden = !running;
    $("start").hidden = running;
    $("train").textContent = shown === null ? t("train") : t("trainOn", { round: shown });
    $("resume").hidden = !training?.error;
    $("train-afresh").hidden = shown === null;
    $("duration").hidden = state.rounds.length > 0; // the table says how long they took
    const counts = state.classes.map((_, label) => state.images.filter(({ drawn }) => drawn.includes(label)).length);
    const tooFew = counts.filter(Boolean).length < 2, most = Math.min(FEW, state.images.length / 2);
    $("train").disabled = $("train-afresh").disabled = tooFew;
    const missing = state.classes.map(nameOf).filter((_, label) => !counts[label]);
    $("missing").hidden = !tooFew && !missing.length;
    $("missing").textContent = tooFew ? t("tooFew") : t("missing", { names: missing.join(", ") });
    const few = state.classes.map(({ name }, label) => `${name} (${counts[label]})`)
      .filter((_, label) => label && counts[label] && counts[label] < most);
    $("few").hidden = tooFew || !few.length;
    $("few").textContent = t("few", { names: few.join(", ") });
    $("training-error").hidden = !training?.error;
    $("training-error").textContent = training?.error ? t("trainingEnded", { line: said(training.error) }) : "";
    if (running) this.#progress(training);
    this.#settings(state.settings);
    this.#table(state.rounds);
    $("where").textContent = t("exportWhere", state);
    this.renderChoice();
  }

  #progress({ phase, step, steps, progress, seconds_to_masks: first, seconds_left: seconds, losses }) {
    $("phase").textContent = t(PHASES[phase] ?? "training");
    const parts = steps ? [t("step", { step, steps })] : [];
    if (seconds && !this.#stopping) parts.push(t("timeLeft", { time: roughly(seconds) }));
    $("time-left").textContent = parts.join(" · ");
    $("first-masks").hidden = !first || this.#stopping;
    $("first-masks").textContent = t("firstMasks", { time: roughly(first) });
    $("bar").value = progress;
    $("stop").disabled = this.#stopping;
    $("stop").textContent = t(this.#stopping ? "stopping" : "stop");
    $("curve").replaceChildren(...[["ce", 1], ["crf", 2]].flatMap(([name, column]) => {
      const points = losses.map((row) => [row[0], row[column]]).filter(([, value]) => value !== null);
      return points.length > 1 ? [this.#curve(name, points, losses)] : [];
    }));
  }

  /** One loss over the steps, between its own lowest and highest value, with its last value. */
  #curve(name, points, losses) {
    const width = 240, height = 48;
    const first = losses[0][0], last = Math.max(losses.at(-1)[0], first + 1);
    const values = points.map(([, value]) => value), lowest = Math.min(...values);
    const range = Math.max(...values) - lowest || 1;
    const across = (step) => ((step - first) / (last - first)) * width;
    const down = (value) => height - 4 - (height - 8) * ((value - lowest) / range);
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    picture.setAttribute("preserveAspectRatio", "none");
    picture.setAttribute("class", name);
    const line = document.createElementNS(picture.namespaceURI, "polyline");
    line.setAttribute("points", points.map(([step, value]) => [across(step), down(value)]).join(" "));
    picture.append(line);
    const value = points.at(-1)[1].toPrecision(3);
    return element("div", { className: "curve" }, element("div", { className: "line small" },
      element("span", { className: "muted", textContent: t(name) }), element("span", { textContent: value })), picture);
  }

  #settings(settings) {
    renew($("settings"), [settings, this.#resets], () => {
      const reset = element("button", { type: "button", className: "link", textContent: t("reset") });
      reset.onclick = () => {
        this.#changed = {};
        this.#resets++;
        this.#settings(settings);
      };
      return [...settings.map((setting) => this.#field(setting)), reset];
    });
    $("settings").onsubmit = (event) => event.preventDefault();
  }

  #field(setting) {
    const { name, value, kind, choices } = setting, current = this.#changed[name] ?? value;
    let field;
    if (kind === "choice") {
      field = element("select", {}, ...choices.map((choice) => element("option", { textContent: choice })));
    } else {
      const type = { bool: "checkbox", text: "text" }[kind] ?? "number";
      field = element("input", { type, step: kind === "int" ? 1 : "any" });
    }
    if (kind === "bool") field.checked = current;
    else field.value = current;
    const label = element("label", { className: `field ${kind}` },
      element("span", { textContent: describe(setting) }), field,
      element("small", { className: "muted", textContent: name.replaceAll("_", " ") }));
    const mark = () => label.classList.toggle("changed", (this.#changed[name] ?? value) !== value);
    field.onchange = () => {
      if (kind === "bool") this.#changed[name] = field.checked;
      else if (kind === "choice" || kind === "text") this.#changed[name] = field.value;
      else this.#changed[name] = Number((field.value ||= value)); // what is no number gives the default again
      mark();
    };
    mark();
    return label;
  }

  #table(rounds) {
    $("rounds").hidden = !rounds.length;
    const { shown } = this.state;
    const known = Object.keys(SHARES).filter((name) => rounds.some((round) => typeof round[name] === "number"));
    const heads = ["round", "roundImages", "roundStrokes", "roundTime", ...known.map((name) => SHARES[name])];
    const [head] = $("rounds").querySelectorAll("thead tr"), [body] = $("rounds").querySelectorAll("tbody");
    const rows = rounds.map((round) => [
      round.round, round.network, round.images, round.strokes, round.finished ? duration(round.seconds) : "…",
      ...known.map((name) => (typeof round[name] === "number" ? (100 * round[name]).toFixed(1) : "–")),
    ]);
    renew(head, heads, () => heads.map((key) => element("th", { textContent: t(key), scope: "col" })));
    renew(body, rows, () => rows.map(([round, network, ...cells]) => {
      const show = element("button", { className: "quiet", textContent: round, title: t("roundShow", { round }) });
      show.disabled = !network;
      const onclick = network ? () => this.act.show(round) : null;
      const others = cells.map((cell) => element("td", { textContent: cell }));
      return element("tr", { onclick }, element("td", {}, show), ...others);
    }));
    for (const [index, row] of [...body.children].entries()) {
      row.classList.toggle("shown", rounds[index].round === shown);
      row.querySelector("button").setAttribute("aria-pressed", rounds[index].round === shown);
    }
    const several = rounds.filter(({ network }) => network).length > 1;
    const words = [...(several ? ["roundsLong"] : []), ...known.map((name) => `${SHARES[name]}Long`)];
    const stopped = rounds.filter((round) => round.stopped).map(({ round }) => round).join(", ");
    const lines = [...words.map((key) => t(key)), ...(stopped ? [t("roundsStopped", { rounds: stopped })] : [])];
    $("rounds-long").textContent = lines.join(" ");
    const one = rounds.find(({ round }) => round === shown);
    $("round-settings").hidden = !one;
    if (!one) return;
    const [summary, text] = $("round-settings").children;
    summary.textContent = t("roundSettings", one);
    const settings = Object.entries(one.settings).filter(([, value]) => value !== "").map((pair) => pair.join(" "));
    text.textContent = [t(one.start === null ? "roundAfresh" : "roundStart", one), ...settings].join(", ");
  }

  renderChoice() {
    const chosen = new Set(this.act.chosen()), { shown } = this.state;
    const images = this.state.images.filter(({ id }) => !chosen.size || chosen.has(id));
    const masks = images.map(({ predicted }) => predicted).filter((round) => round !== null);
    const rounds = [...new Set(masks.length ? masks : [shown])].sort((one, other) => one - other);
    const count = { count: images.length, masks: masks.length, round: rounds.join(", ") };
    const none = this.state.training?.running ? "exportSoon" : "exportNone", some = masks.length || shown !== null;
    $("export-what").textContent = t(some ? (chosen.size ? "exportChosen" : "exportAll") : none, count);
    $("choose-none").hidden = !chosen.size;
    const isNewest = masks.length && this.older === null && !this.state.training?.running;
    const unknown = isNewest ? images.filter(({ drawn, learned }) => drawn.length && learned === false).length : 0;
    $("export-older").hidden = !unknown;
    $("export-older").textContent = t("exportOlder", { count: unknown });
    for (const button of document.querySelectorAll("[data-export]")) {
      const kind = button.dataset.export;
      button.disabled = button.ariaBusy || (NETWORKS.includes(kind) ? shown === null : !masks.length);
      button.title = shown === null ? "" : t(`${kind}Long`, { round: NETWORKS.includes(kind) ? shown : count.round });
    }
  }

  /** Fetch a file first, so that an error is a line in the page, and hand it to the browser then. */
  async #export(button) {
    const kind = button.dataset.export, chosen = this.act.chosen();
    const round = NETWORKS.includes(kind) ? this.state.shown : this.older; // newer masks may be there of some images
    const query = new URLSearchParams(chosen.map((id) => ["images", id]));
    if (round !== null) query.append("round", round);
    button.disabled = button.ariaBusy = true;
    button.textContent = t("exporting");
    this.act.notice("notExported", "");
    try {
      const response = await request("GET", `api/export/${kind}?${query}`, undefined, 0);
      const disposition = response.headers.get("content-disposition");
      const name = decodeURIComponent(/filename\*?="?(?:utf-8'')?([^"]+)/.exec(disposition)[1]);
      const link = element("a", { href: URL.createObjectURL(await response.blob()), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      this.act.notice("exported", t("exported", { name }), "done");
    } catch (error) {
      this.act.failed(error, "notExported");
    }
    button.disabled = false;
    button.ariaBusy = null;
    button.textContent = t(kind);
  }

  async #commands() {
    let commands;
    try {
      commands = await get(`api/commands${this.state.shown === null ? "" : `?round=${this.state.shown}`}`);
    } catch (error) {
      return this.act.failed(error, "notExported");
    }
    $("commands-box").querySelector(".list").replaceChildren(...commands.map(({ what, command }) => {
      const code = element("code", { textContent: command });
      const copy = element("button", { className: "quiet", textContent: t("copy") });
      copy.onclick = async () => {
        getSelection().selectAllChildren(code); // where the page may not write to the clipboard, Ctrl-C does
        await navigator.clipboard?.writeText(command).then(() => (copy.textContent = t("copied")), () => {});
      };
      const head = element("div", { className: "line" }, element("span", { textContent: t(COMMANDS[what]) }), copy);
      return element("div", { className: "command" }, head, element("pre", {}, code));
    }));
    $("commands-box").showModal();
  }
}
