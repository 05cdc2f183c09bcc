/** The list of classes: choosing, adding and renaming them. */

import { request } from "./api.js";
import { element, icon, renew } from "./dom.js";
import { t } from "./texts.js";

const $ = (id) => document.getElementById(id);

/** Return the name of a class as the page shows it: the background's, where it has its usual one, is a word. */
export function nameOf({ name }, label) {
  return label === 0 && name === "background" ? t("background") : name;
}

export class ClassList {
  #renaming = false;

  /** @param act {choose(label), failed(error, text), notice(about, line, kind)} */
  constructor(act) {
    this.act = act;
    $("add-class").onsubmit = async (event) => {
      event.preventDefault();
      const name = $("new-class").value.trim();
      if (!name) return $("new-class").focus();
      if (await this.#send("POST", "api/classes", name)) {
        $("new-class").value = "";
        $("new-class").blur();
        this.wanted = name;
      }
    };
  }

  async #send(method, path, name) {
    this.act.notice("notNamed", "");
    try {
      await request(method, path, { name });
      return true;
    } catch (error) {
      this.act.failed(error, "notNamed");
      return false;
    }
  }

  render(classes, current) {
    const added = classes.findIndex(({ name }) => name === this.wanted);
    if (added > 0) {
      this.wanted = undefined;
      return this.act.choose(added);
    }
    const items = () => classes.map(({ name, shown }, label) => {
      const dot = element("i"), title = nameOf({ name }, label), words = t("rename", { name: title });
      dot.style.background = shown;
      const choose = element("button", { className: "class", title, onclick: () => this.act.choose(label) }, dot,
        element("span", { className: "name", textContent: title }),
        element("kbd", { textContent: label < 10 ? label : "" }));
      const rename = element("button", { className: "rename quiet", title: words, ariaLabel: words }, icon("pencil"));
      const item = element("li", {}, choose, rename);
      rename.onclick = () => this.#rename(item, name, label);
      return item;
    });
    if (!this.#renaming) renew($("class-list"), classes, items);
    for (const [label, item] of [...$("class-list").children].entries()) {
      item.querySelector(".class")?.setAttribute("aria-pressed", label === current);
    }
  }

  #rename(item, name, label) {
    const ariaLabel = t("rename", { name: nameOf({ name }, label) });
    const input = element("input", { value: name, maxLength: 60, ariaLabel });
    let tried;
    /** Give the class another name; where that is refused, the field stays with what was typed. */
    const end = async (wanted) => {
      tried = wanted;
      if (!this.#renaming || (wanted !== name && !(await this.#send("PUT", `api/classes/${label}`, wanted)))) return;
      this.#renaming = false;
      this.act.notice("notNamed", "");
      renew($("class-list"), null, () => []); // the field makes room for the class again
      this.act.choose(label);
    };
    input.onkeydown = (event) => {
      if (event.isComposing) return; // Enter also ends the choice of characters
      if (event.key === "Enter") end(input.value.trim() || name);
      if (event.key === "Escape") end(name);
    };
    input.onblur = () => input.value.trim() !== tried && end(input.value.trim() || name);
    item.replaceChildren(input);
    this.#renaming = true;
    input.select();
  }
}
