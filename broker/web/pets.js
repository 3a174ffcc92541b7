/** Faces of the pets, drawn: no picture is loaded. */

const SVG = 'http://www.w3.org/2000/svg';

/** Shapes of a face of 64 by 64: element, attributes. Classes carry the colours. */
const FACES = {
  cat: [
    ['path', { d: 'M12 30 L13 8 L28 18 Z M52 30 L51 8 L36 18 Z', class: 'fur' }],
    ['path', { d: 'M16 22 L16 14 L23 19 Z M48 22 L48 14 L41 19 Z', class: 'pink' }],
    ['circle', { cx: 32, cy: 36, r: 22, class: 'fur' }],
    ['path', { d: 'M8 38 h10 M8 44 l10 -2 M56 38 h-10 M56 44 l-10 -2', class: 'line' }],
    ['path', { d: 'M29 41 h6 l-3 4 Z', class: 'nose' }],
    ['path', { d: 'M32 45 q-4 6 -8 2 M32 45 q4 6 8 2', class: 'line' }],
  ],
  dog: [
    ['circle', { cx: 32, cy: 34, r: 22, class: 'fur' }],
    ['path', { d: 'M13 18 q-10 4 -8 24 q9 2 13 -12 Z M51 18 q10 4 8 24 q-9 2 -13 -12 Z', class: 'dark' }],
    ['ellipse', { cx: 32, cy: 45, rx: 12, ry: 9, class: 'light' }],
    ['ellipse', { cx: 32, cy: 40, rx: 4.5, ry: 3.2, class: 'nose' }],
    ['path', { d: 'M32 43 v4 M26 48 q6 4 12 0', class: 'line' }],
  ],
  fox: [
    ['path', { d: 'M8 8 L28 20 L12 34 Z M56 8 L36 20 L52 34 Z', class: 'dark' }],
    ['path', { d: 'M10 28 Q12 16 32 16 Q52 16 54 28 Q52 44 32 58 Q12 44 10 28 Z', class: 'fur' }],
    ['path', { d: 'M11 32 Q22 34 32 58 Q12 46 11 32 Z M53 32 Q42 34 32 58 Q52 46 53 32 Z', class: 'light' }],
    ['circle', { cx: 32, cy: 53, r: 4, class: 'nose' }],
  ],
  bear: [
    ['circle', { cx: 14, cy: 16, r: 9, class: 'fur' }],
    ['circle', { cx: 50, cy: 16, r: 9, class: 'fur' }],
    ['circle', { cx: 14, cy: 16, r: 4.5, class: 'pink' }],
    ['circle', { cx: 50, cy: 16, r: 4.5, class: 'pink' }],
    ['circle', { cx: 32, cy: 35, r: 23, class: 'fur' }],
    ['ellipse', { cx: 32, cy: 44, rx: 11, ry: 8.5, class: 'light' }],
    ['ellipse', { cx: 32, cy: 40, rx: 4, ry: 3, class: 'nose' }],
    ['path', { d: 'M27 47 q5 4 10 0', class: 'line' }],
  ],
  owl: [
    ['path', { d: 'M10 8 L26 16 H38 L54 8 Q58 30 52 46 Q44 58 32 58 Q20 58 12 46 Q6 30 10 8 Z', class: 'fur' }],
    ['circle', { cx: 22, cy: 30, r: 11, class: 'light' }],
    ['circle', { cx: 42, cy: 30, r: 11, class: 'light' }],
    ['path', { d: 'M28 38 h8 l-4 8 Z', class: 'beak' }],
  ],
  frog: [
    ['circle', { cx: 17, cy: 18, r: 11, class: 'fur' }],
    ['circle', { cx: 47, cy: 18, r: 11, class: 'fur' }],
    ['ellipse', { cx: 32, cy: 38, rx: 26, ry: 19, class: 'fur' }],
    ['path', { d: 'M14 41 q18 15 36 0', class: 'line' }],
    ['path', { d: 'M28 33 h.1 M36 33 h.1', class: 'line' }],
  ],
};
const EYES = { cat: [24, 34, 40], dog: [24, 31, 40], fox: [23, 33, 41], bear: [24, 32, 40], owl: [22, 30, 42], frog: [17, 18, 47] };

/** @param {string} pet @returns {SVGElement} a picture that says nothing by itself */
export function petFace(pet) {
  const face = shape('svg', { viewBox: '0 0 64 64', class: `pet pet-${pet}`, 'aria-hidden': 'true', focusable: 'false' });
  for (const [name, attributes] of FACES[pet]) face.append(shape(name, attributes));
  const [left, y, right] = EYES[pet];
  for (const x of [left, right]) face.append(shape('circle', { cx: x, cy: y, r: 3.4, class: 'eye' }), shape('circle', { cx: x + 1.1, cy: y - 1.2, r: 1.1, class: 'glint' }));
  return face;
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}
