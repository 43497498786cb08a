// Elements of the page. Every text is set as text: nothing that a model, a name or an error says becomes markup.

/**
 * Make an element.
 * @param {string} tag
 * @param {Object<string, any>} [given] Attributes; `text`, `class` and functions as `onclick` besides.
 * @param {...(Node|string)} children
 */
export function el(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name === "text") made.textContent = value;
    else if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, String(value));
  }
  made.append(...children);
  return made;
}

/** Set a text, and leave the page alone where it says so already. */
export function say(node, text) {
  const told = String(text);
  if (node.textContent !== told) node.textContent = told;
}

/** Set or take away an attribute, and leave the page alone where it stands so already. */
export function mark(node, name, value) {
  if (value === false || value == null) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) {
    node.setAttribute(name, String(value));
  }
}

/** The element of an id. */
export const byId = (id) => document.getElementById(id);
