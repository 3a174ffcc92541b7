/** Questions in a window of their own. The browser keeps the focus inside and gives it back. */
import { byId, element } from '/element.js';

/**
 * Opens a dialog of index.html and waits for its end.
 * @param {string} id
 * @param {(form: HTMLFormElement) => Promise<void> | void} submit throws a sentence to stay open with it
 */
export function openDialog(id, submit) {
  const dialog = byId(id);
  const form = dialog.querySelector('form');
  const error = form.querySelector('.error');
  error.textContent = '';
  form.onsubmit = async (event) => {
    event.preventDefault();
    const button = form.querySelector('[type=submit]');
    button.disabled = true;
    error.textContent = '';
    try {
      await submit(form);
      dialog.close();
    } catch (problem) {
      error.textContent = problem.message;
    } finally {
      button.disabled = false;
    }
  };
  for (const cancel of form.querySelectorAll('[data-cancel]')) cancel.onclick = () => dialog.close();
  dialog.onclick = (event) => {
    if (event.target === dialog) dialog.close(); // beside the form
  };
  if (!dialog.open) dialog.showModal();
}

/**
 * Asks for a few values, with a form made for it.
 * @param {{title: string, text?: string, action: string, danger?: boolean,
 *   fields?: {name: string, label: string, type?: string, options?: [string, string][], required?: boolean, max?: number}[]}} question
 * @param {(values: Record<string, string>) => Promise<void> | void} answer throws a sentence to stay open
 */
export function ask({ title, text, action, danger, fields = [] }, answer) {
  const form = byId('ask-form');
  byId('ask-title').textContent = title;
  byId('ask-text').textContent = text ?? '';
  byId('ask-text').hidden = !text;
  byId('ask-fields').replaceChildren(...fields.map(makeField));
  const button = form.querySelector('[type=submit]');
  button.textContent = action;
  button.className = danger ? 'danger' : 'primary';
  openDialog('ask', () => answer(Object.fromEntries(fields.map(({ name }) => [name, form.elements.namedItem(name).value.trim()]))));
}

function makeField({ name, label, type = 'text', options, required = false, max = 200 }) {
  const id = `ask-${name}`;
  const control = options
    ? element('select', { id, name }, ...options.map(([value, shown]) => element('option', { value }, shown)))
    : element('input', { id, name, type, required, maxlength: String(max), autocomplete: 'off' });
  return element('p', { class: 'field' }, element('label', { for: id }, label), control);
}
