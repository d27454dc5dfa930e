// @ts-check
/** Why one photograph stands above another: where on the query, and what each has with it. */

import {
  decodeFloats,
  find,
  inline,
  largest,
  makeColours,
  roundUp,
  signed,
  svg,
  write,
} from "./viewer.js";
import { drawAsked, fillScale, overlayMap } from "./results.js";

/** @typedef {import("./viewer.js").XY} XY */
/** @typedef {import("./viewer.js").XYXY} XYXY */
/** @typedef {{ grid_hw: XY, values: string }} MapData */
/** @typedef {import("./mark.js").Parts} Parts */
/** @typedef {{ name: string, path?: string, src: string, missing: boolean, size_wh: XY, view_xyxy: XYXY, map: MapData }} Mapped */
/** @typedef {{ difference: number, bias: number, region: number | null, query: Mapped & { parts: Parts }, photos: [Mapped & { similarity: number }, Mapped & { similarity: number }] }} ContrastData `region`: the difference of the scores by what is marked */

const FIGURE = `
  <figure class="cs-figure">
    <figcaption><b></b> <span></span></figcaption>
    <div class="wa-frame wa-under-map"><img alt="" draggable="false"></div>
    <p></p>
    <span class="wa-scale"><span></span><canvas height="1" aria-hidden="true"></canvas><span></span><span class="wa-unit">per cell</span></span>
  </figure>`;

const MARKUP = `
  <section class="wa-root wr-root cs-root">
    <header class="wr-header">
      <h1></h1>
      <p class="wa-lead"></p>
    </header>
    <div class="cs-figures">${FIGURE}${FIGURE}${FIGURE}</div>
    <p class="cs-readout" aria-live="polite"></p>
    <p class="wr-note">
      On the query, warm cells speak for A and blue ones for B: what each has with A less what it has
      with B. On A and B, warm cells are alike to the query; these two share one scale. All are in
      units of cosine.
    </p>
  </section>`;

/** @param {HTMLElement} element @param {ContrastData} data */
export function mountContrast(element, data) {
  element.innerHTML = MARKUP;
  const [a, b] = data.photos;
  const shown = [data.query, a, b];
  const values = shown.map(({ map }) => decodeFloats(map.values));
  const [beats, ...alike] = values.map(largest);
  const fulls = [roundUp(beats) || 1, ...alike.map(() => roundUp(Math.max(...alike)) || 1)];
  const colours = makeColours("both", 0.8);
  write(find(element, "h1", HTMLElement), "Why is A more alike to the query than B?");
  find(element, ".wa-lead", HTMLElement).append(...sayDifference(data));
  const readout = find(element, ".cs-readout", HTMLElement);
  write(readout, "Point at a cell to see what it carries.");
  const figures = element.querySelectorAll("figure");
  const aspects = shown.reduce((sum, { size_wh: [width, height] }) => sum + width / height, 0);
  find(element, ".cs-figures", HTMLElement).style.setProperty("--cs-sum", String(aspects));
  const names = ["Query", "A", "B"];
  shown.forEach((photo, index) => {
    const figure = /** @type {HTMLElement} */ (figures[index]);
    const [width, height] = photo.size_wh;
    figure.style.setProperty("--wa-aspect", String(width / height));
    write(find(figure, "b", HTMLElement), names[index]);
    const name = find(figure, "figcaption span", HTMLElement);
    name.textContent = photo.name;
    name.title = photo.path ?? photo.name;
    const image = find(figure, "img", HTMLImageElement);
    image.alt = `${names[index]}, ${photo.name}`;
    if (!photo.missing) image.src = photo.src;
    const words = photo.missing ? "gone or changed since it was indexed" : "";
    const similarity = index
      ? `similarity ${plain(data.photos[index - 1].similarity)}`
      : "where A beats B";
    write(find(figure, "p", HTMLElement), [similarity, words].filter(Boolean).join("; "));
    fillScale(figure, true, fulls[index], colours);
    const frame = find(figure, ".wa-frame", HTMLElement);
    overlayMap(frame, /** @type {any} */ (photo), fulls[index], colours);
    frame.addEventListener("pointermove", (event) => {
      const value = valueAt(frame, photo, values[index], event);
      readout.replaceChildren(...(value === null ? [] : sayCell(index, value)));
    });
    frame.addEventListener("pointerleave", () =>
      readout.replaceChildren("Point at a cell to see what it carries."),
    );
  });
  const marks = svg("svg", { class: "wa-overlay wr-marks", preserveAspectRatio: "none" });
  drawAsked(/** @type {SVGElement} */ (marks), {
    ...data.query, ...data.query.parts, masks: 0, weights: [], without_masks: 0, shade: null,
  }); // prettier-ignore
  for (const outside of marks.querySelectorAll(".wr-outside")) outside.remove(); // the map is there
  find(figures[0], ".wa-frame", HTMLElement).append(marks);
}

/** @param {number} value */
const plain = (value) => signed(value).replace("+", "");

/** @param {ContrastData} data @returns {(Node | string)[]} */
function sayDifference({ difference, bias, region, photos: [a, b] }) {
  const carried = difference - bias;
  const found = [
    `A has ${plain(a.similarity)}, B ${plain(b.similarity)}: a difference of `,
    inline("b", "", signed(difference)),
    `, of which the cells of the query carry ${signed(carried)}, and ${signed(bias)} is of no place.`,
  ];
  if (region !== null)
    found.push(" What is marked carries ", inline("b", "", signed(region)), " of it.");
  return found;
}

/** @param {number} index @param {number} value @returns {(Node | string)[]} */
function sayCell(index, value) {
  const number = inline("b", value < 0 ? "cs-against" : "cs-for", signed(value));
  if (index) return [`This cell of ${index === 1 ? "A" : "B"} has `, number, " with the query."];
  return ["This cell of the query speaks ", number, value < 0 ? ", for B." : ", for A."];
}

/** @param {HTMLElement} frame @param {Mapped} photo @param {Float32Array} values @param {PointerEvent} event */
function valueAt(frame, { size_wh, view_xyxy: [x0, y0, x1, y1], map }, values, event) {
  const box = frame.getBoundingClientRect();
  const x = ((event.clientX - box.x) / box.width) * size_wh[0];
  const y = ((event.clientY - box.y) / box.height) * size_wh[1];
  const [h, w] = map.grid_hw;
  const column = Math.floor(((x - x0) / (x1 - x0)) * w);
  const row = Math.floor(((y - y0) / (y1 - y0)) * h);
  return column >= 0 && row >= 0 && column < w && row < h ? values[row * w + column] : null;
}
