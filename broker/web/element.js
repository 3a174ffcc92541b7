/** Building the page. Text is only ever set as text; there is no way from here to markup. */

/** The element of this id, which index.html is known to have. */
export const byId = (id) => document.getElementById(id);

/**
 * Makes an element.
 * @param {string} tag
 * @param {Record<string, string | boolean | ((event: Event) => void)>} properties `class`, attributes, and `on…` listeners
 * @param {...(Node | string | null | undefined)} children strings become text
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === 'function') made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, '');
    else if (value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** The round picture of a user: the first letter on a colour that follows from the id. */
export function avatar(user, name) {
  let hash = 0;
  for (const letter of user) hash = (hash * 31 + letter.codePointAt(0)) % 997;
  const initial = [...new Intl.Segmenter().segment(name.trim())][0]?.segment.slice(0, 8) ?? '?';
  return element('span', { class: `avatar hue-${hash % 8}`, 'aria-hidden': 'true' }, initial.toUpperCase());
}

/** Sets the text only when it differs, so that a screen reader hears of changes alone. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
