/** Making elements, and keeping those that need not change: a new one would take the keyboard's focus away. */

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const shown = new WeakMap();

/** Fill a parent with what `build` returns where what is to be shown, or the language, has changed; return whether it has. */
export function renew(parent, content, build) {
  const key = JSON.stringify([content, document.documentElement.lang]);
  if (shown.get(parent) === key) return false;
  shown.set(parent, key);
  parent.replaceChildren(...build());
  return true;
}
