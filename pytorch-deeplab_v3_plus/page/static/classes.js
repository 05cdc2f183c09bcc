/** The list of classes: choosing, adding and renaming them. */

import { request } from "./api.js";
import { element, icon, renew } from "./dom.js";
import { visible } from "./labels.js";
import { t } from "./texts.js";

const $ = (id) => document.getElementById(id);

export class ClassList {
  #renaming = false;

  /** @param act {choose(label), failed(error)} */
  constructor(act) {
    this.act = act;
    $("add-class").onsubmit = async (event) => {
      event.preventDefault();
      const name = $("new-class").value.trim();
      if (name && (await this.#send("POST", "api/classes", name))) {
        $("new-class").value = "";
        $("new-class").blur();
        this.wanted = name;
      }
    };
  }

  async #send(method, path, name) {
    try {
      await request(method, path, { name });
      return true;
    } catch (error) {
      this.act.failed(error);
      return false;
    }
  }

  render(classes, current) {
    const added = classes.findIndex(({ name }) => name === this.wanted);
    if (added > 0) {
      this.wanted = undefined;
      return this.act.choose(added);
    }
    if (this.#renaming) return;
    renew($("class-list"), classes, () => classes.map(({ name, color }, label) => {
      const dot = element("i"), words = t("rename", { name });
      dot.style.background = visible(color);
      const choose = element("button", { className: "class", onclick: () => this.act.choose(label) }, dot,
        element("span", { className: "name", textContent: name }),
        element("kbd", { textContent: label < 10 ? label : "" }));
      const rename = element("button", { className: "rename quiet", title: words, ariaLabel: words }, icon("pencil"));
      const item = element("li", {}, choose, rename);
      rename.onclick = () => this.#rename(item, name, label);
      return item;
    }));
    const buttons = $("class-list").querySelectorAll(".class");
    buttons.forEach((button, label) => button.setAttribute("aria-pressed", label === current));
  }

  #rename(item, name, label) {
    const input = element("input", { value: name, maxLength: 60, ariaLabel: t("rename", { name }) });
    const end = async (keep) => {
      if (!this.#renaming) return;
      this.#renaming = false;
      const wanted = input.value.trim();
      if (keep && wanted && wanted !== name) await this.#send("PUT", `api/classes/${label}`, wanted);
      renew($("class-list"), null, () => []); // the field makes room for the class again
      this.act.choose(label);
    };
    input.onkeydown = (event) => {
      if (event.isComposing) return; // Enter also ends the choice of characters
      if (event.key === "Enter" || event.key === "Escape") end(event.key === "Enter");
    };
    input.onblur = () => end(true);
    item.replaceChildren(input);
    this.#renaming = true;
    input.select();
  }
}
