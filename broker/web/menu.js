/** A small menu beside a button: one at a time, closed by Escape, a click elsewhere, or a choice. */
import { byId, element } from '/element.js';

/** @typedef {{label: string, name?: string, act: () => void, kind?: 'danger' | 'emoji'}} Item `name` says what a bare `label` does not */

let owner = null;
let listening = false;

/** @param {HTMLElement} button @param {string} title @param {Item[]} items */
export function openMenu(button, title, items) {
  const again = owner === button;
  closeMenu();
  if (again || items.length === 0) return;
  if (!listening) listen();
  const menu = byId('menu');
  menu.setAttribute('aria-label', title);
  menu.replaceChildren(...items.map(makeItem));
  menu.hidden = false;
  owner = button;
  button.setAttribute('aria-expanded', 'true');
  place(menu, button);
  menu.firstChild.focus();
}

export function closeMenu(giveBack = false) {
  if (!owner) return;
  const button = owner;
  owner = null;
  byId('menu').hidden = true;
  button.setAttribute('aria-expanded', 'false');
  if (giveBack) button.focus();
}

function makeItem({ label, name, act, kind }) {
  const choose = () => {
    closeMenu(true);
    act();
  };
  return element('button', { type: 'button', role: 'menuitem', tabindex: '-1', class: kind ?? '', ...(name ? { 'aria-label': name } : {}), onclick: choose }, label);
}

/** Beside the button, and inside the window. */
function place(menu, button) {
  const at = button.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = menu;
  const below = at.bottom + height + 8 < innerHeight;
  menu.style.left = `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`;
  menu.style.top = `${Math.max(8, below ? at.bottom + 4 : at.top - height - 4)}px`;
}

function listen() {
  listening = true;
  const menu = byId('menu');
  menu.addEventListener('keydown', (event) => {
    const items = [...menu.children];
    const at = items.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    if (to !== undefined) items.at(to % items.length).focus();
    else if (event.key === 'Escape' || event.key === 'Tab') closeMenu(true);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  document.addEventListener('pointerdown', (event) => {
    if (owner && !menu.contains(event.target) && !owner.contains(event.target)) closeMenu();
  });
  addEventListener('resize', () => closeMenu());
  byId('scroll').addEventListener('scroll', () => closeMenu(), { passive: true });
}
