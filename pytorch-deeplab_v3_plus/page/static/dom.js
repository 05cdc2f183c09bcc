/**
 * Making elements, and keeping those that need not change: a new one would take the keyboard's focus away. And the
 * browser's storage, which it may refuse.
 */

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

/** Return what `use` returns, undefined where the browser keeps nothing for this page, or has no room left. */
export function withStorage(use) {
  try {
    return use(); // where site data are blocked, even naming localStorage throws
  } catch {
    return undefined;
  }
}

const shown = new WeakMap();

/** Fill a parent with what `build` returns where what is to be shown, or the language, has changed. */
export function renew(parent, content, build) {
  const key = JSON.stringify([content, document.documentElement.lang]);
  if (shown.get(parent) === key) return;
  shown.set(parent, key);
  parent.replaceChildren(...build());
}
