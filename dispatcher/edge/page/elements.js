// Making elements. Whatever text comes from elsewhere goes in as text: there is no other way here.

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) made.append(child);
  return made;
}

export function byId(id) {
  return document.getElementById(id);
}

// A region that can be scrolled has to be reached by keyboard.
export function sheet(text, label) {
  return element("pre", { class: "sheet", tabindex: "0", role: "region", "aria-label": label }, text);
}

export function button(text, onclick, properties = {}) {
  return element("button", { type: "button", onclick, ...properties }, text);
}
