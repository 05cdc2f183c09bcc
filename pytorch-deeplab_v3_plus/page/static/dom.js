/** Making elements, and keeping those that need not change: a new one would take the keyboard's focus away. */

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Return one of the icons that index.html holds. */
export function icon(name) {
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS(picture.namespaceURI, "use");
  picture.setAttribute("class", "icon");
  use.setAttribute("href", `#i-${name}`);
  picture.append(use);
  return picture;
}

const shown = new WeakMap();

/** Fill a parent with what `build` returns where what is to be shown, or the language, has changed. */
export function renew(parent, content, build) {
  const key = JSON.stringify([content, document.documentElement.lang]);
  if (shown.get(parent) === key) return;
  shown.set(parent, key);
  parent.replaceChildren(...build());
}
