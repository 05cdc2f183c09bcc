/** The list of classes: choosing, adding and renaming them. */

import { request } from "./api.js";
import { renew } from "./dom.js";
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
      const item = document.createElement("li");
      item.innerHTML = `<button class="class"><i></i><span class="name"></span><kbd></kbd></button>
        <button class="rename quiet"><svg class="icon"><use href="#i-pencil"/></svg></button>`;
      const [choose, rename] = item.querySelectorAll("button");
      item.querySelector("i").style.background = visible(color);
      item.querySelector(".name").textContent = name;
      item.querySelector("kbd").textContent = label < 10 ? label : "";
      choose.onclick = () => this.act.choose(label);
      rename.onclick = () => this.#rename(item, name, label);
      rename.title = t("rename", { name });
      rename.setAttribute("aria-label", rename.title);
      return item;
    }));
    $("class-list").querySelectorAll(".class").forEach((button, label) => button.setAttribute("aria-pressed", label === current));
  }

  #rename(item, name, label) {
    const input = document.createElement("input");
    input.value = name;
    input.maxLength = 60;
    input.setAttribute("aria-label", t("rename", { name }));
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
