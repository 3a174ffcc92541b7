/** A plot as SVG text: lines over a logarithmic axis, nothing to fetch, readable on a light and on a dark page. */

const [width, height, left, bottom, top, right] = [640, 320, 56, 44, 16, 96];
const colours = ['#8a8a8a', '#2f7ed8', '#d9534f', '#2a9d4a'];

export function plot({ x, y, series }) {
  const all = Object.values(series).flat();
  const [low, high] = [Math.min(...all.map(([at]) => at)), Math.max(...all.map(([at]) => at))];
  const most = Math.max(...all.map(([, value]) => value)) * 1.1;
  const across = (at) => left + (Math.log(at / low) / Math.log(high / low)) * (width - left - right);
  const up = (value) => height - bottom - (value / most) * (height - bottom - top);
  const text = (at, line, words, anchor = 'middle', colour = '#777') =>
    `<text x="${at.toFixed(1)}" y="${line.toFixed(1)}" text-anchor="${anchor}" fill="${colour}">${words}</text>`;
  const step = [0.5, 1, 2, 5, 10, 20, 50].find((step) => most / step <= 6) ?? 100;
  const parts = [];
  for (let value = 0; value <= most; value += step) {
    parts.push(`<path d="M${left} ${up(value).toFixed(1)}H${width - right}" stroke="#999" stroke-opacity=".3"/>`);
    parts.push(text(left - 6, up(value) + 4, String(value), 'end'));
  }
  for (const at of new Set(all.map(([at]) => at))) parts.push(text(across(at), height - bottom + 18, at.toLocaleString('en')));
  parts.push(text((left + width - right) / 2, height - 8, x), text(left, top - 3, y, 'start'));
  for (const [index, [name, points]] of Object.entries(series).entries()) {
    const colour = colours[index % colours.length];
    const line = points.map(([at, value]) => `${across(at).toFixed(1)},${up(value).toFixed(1)}`);
    parts.push(`<polyline points="${line.join(' ')}" fill="none" stroke="${colour}" stroke-width="2"/>`);
    for (const point of line) {
      const [cx, cy] = point.split(',');
      parts.push(`<circle cx="${cx}" cy="${cy}" r="3" fill="${colour}"/>`);
    }
    const [at, value] = points.at(-1);
    parts.push(text(across(at) + 8, up(value) + 4, name, 'start', colour));
  }
  const style = 'font-family="system-ui, sans-serif" font-size="12"';
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" ${style}>\n${parts.join('\n')}\n</svg>\n`;
}
